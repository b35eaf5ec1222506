//! A number that says which picture a frame shows.

use crate::{Frame, Planes};

/// Sums over samples, so that another place may add them in any order.
pub(super) fn checksum(frame: &Frame<'_>) -> u64 {
    let (width, height) = (frame.width(), frame.height());
    let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
    let plane = |number: u32, columns: usize, rows: usize, data: &[u8], stride: usize, step: usize| {
        (0..rows).fold(0_u64, |sum, row| {
            let samples = data[row * stride..].iter().step_by(step).take(columns);
            samples.zip(0..).fold(sum, |sum, (value, column)| {
                sum.wrapping_add(count_sample(number, column, row as u32, *value))
            })
        })
    };
    match frame.planes() {
        Planes::I420 { y, u, v } => plane(0, width, height, y.data, y.stride, 1)
            .wrapping_add(plane(1, half_width, half_height, u.data, u.stride, 1))
            .wrapping_add(plane(2, half_width, half_height, v.data, v.stride, 1)),
        Planes::Nv12 { y, uv } => plane(0, width, height, y.data, y.stride, 1)
            .wrapping_add(plane(1, half_width, half_height, uv.data, uv.stride, 2))
            .wrapping_add(plane(2, half_width, half_height, &uv.data[1..], uv.stride, 2)),
    }
}

/// What a sample counts for: its value times a hash of its place.
fn count_sample(plane: u32, column: u32, row: u32, value: u8) -> u64 {
    let mut hash = ((row << 16) | column) ^ (plane << 30);
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x7FEB_352D);
    hash = (hash ^ (hash >> 15)).wrapping_mul(0x846C_A68B);
    // Never 0: no place may be without weight.
    hash = (hash ^ (hash >> 16)) | 1;
    u64::from(hash) * (u64::from(value) + 1)
}
