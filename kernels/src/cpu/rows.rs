//! Parts of a frame's rows as numbers, and back.

use crate::Planes;

/// Changes the luma of `count` pixels from column `first` on in place.
pub(super) fn luma<'p>(planes: &'p mut Planes<'_>, row: usize, first: usize, count: usize) -> &'p mut [u8] {
    let (Planes::I420 { y, .. } | Planes::Nv12 { y, .. }) = planes;
    &mut y.data[row * y.stride + first..][..count]
}

/// Replaces each chroma sample from column `first` on: `change` gets its number and its U and V.
#[inline(always)]
pub(super) fn change_chroma(
    planes: &mut Planes<'_>,
    row: usize,
    first: usize,
    count: usize,
    change: impl Fn(usize, [u8; 2]) -> [u8; 2],
) {
    match planes {
        Planes::I420 { u, v, .. } => {
            let u = &mut u.data[row * u.stride + first..][..count];
            let v = &mut v.data[row * v.stride + first..][..count];
            for (i, (u, v)) in u.iter_mut().zip(v).enumerate() {
                [*u, *v] = change(i, [*u, *v]);
            }
        }
        Planes::Nv12 { uv, .. } => {
            let pairs = &mut uv.data[row * uv.stride + 2 * first..][..2 * count];
            for (i, pair) in pairs.chunks_exact_mut(2).enumerate() {
                pair.copy_from_slice(&change(i, [pair[0], pair[1]]));
            }
        }
    }
}
