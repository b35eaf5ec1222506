//! One benchmark per kernel, format and frame size: `cargo bench -p kernels`.
//!
//! `face/...` is the whole way of one face of 256 x 256 frame pixels: warp, hull and blend.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use kernels::cpu::{Cpu, Tensor};
use kernels::{Hull, Kernels, MEAN_FACE, Placement, Point, Rect, Region, Similarity, Values};

// Not all of the tests' pictures are needed here.
#[allow(dead_code)]
#[path = "../tests/conformance/picture.rs"]
mod picture;
use picture::{Format, HD, Picture};

const SIZES: [(&str, (usize, usize)); 2] = [("720p", (1280, 720)), ("1080p", (1920, 1080))];
const FORMATS: [Format; 2] = [Format::Nv12, Format::I420];

/// The landmarks of a face whose crop is `pixels` wide and turned by 0.1 radians.
fn face(pixels: f32) -> (Similarity, [Point; kernels::LANDMARKS]) {
    let (sin, cos) = 0.1_f32.sin_cos();
    let align = Similarity {
        a: cos / pixels,
        b: sin / pixels,
        tx: -1.5,
        ty: -1.0,
    };
    let back = align.inverse();
    (align, MEAN_FACE.map(|point| back.apply(point)))
}

fn tensor(cpu: &mut Cpu, shape: [usize; 4], value: f32) -> Tensor {
    let mut tensor = cpu.tensor(shape).expect("a small tensor");
    tensor.data_mut().fill(value);
    tensor
}

fn kernels(criterion: &mut Criterion) {
    let mut cpu = Cpu::new();
    for ((name, size), format) in SIZES
        .into_iter()
        .flat_map(|size| FORMATS.map(|format| (size, format)))
    {
        let mut picture = Picture::noise(size, HD, format, 0, 1);
        let mut frame = picture.frame();
        let (align, landmarks) = face(256.0);
        let hull = Hull::of(&landmarks);
        let label = |kernel: &str| format!("{kernel}/{name}/{format:?}");

        let mut input = tensor(&mut cpu, [1, 3, 256, 416], 0.0);
        let whole = Rect::new(0.0, 0.0, size.0 as f32, size.1 as f32);
        criterion.bench_function(&label("resize to 416x256"), |bench| {
            bench.iter(|| cpu.resize(&frame, black_box(whole), Values::Byte, &mut input, 0))
        });
        for side in [128, 256] {
            let mut crops = tensor(&mut cpu, [1, 3, side, side], 0.0);
            let faces = tensor(&mut cpu, [1, 3, side, side], 0.1);
            let masks = tensor(&mut cpu, [1, 1, side, side], 0.9);
            criterion.bench_function(&label(&format!("warp to {side}")), |bench| {
                bench.iter(|| cpu.warp(&frame, black_box(&[align]), Values::Signed, &mut crops))
            });
            let placement = Placement {
                align,
                hull: hull.clone(),
            };
            criterion.bench_function(&label(&format!("blend from {side}")), |bench| {
                bench.iter(|| {
                    cpu.blend(
                        &mut frame,
                        black_box(std::slice::from_ref(&placement)),
                        &faces,
                        &masks,
                    )
                })
            });
            criterion.bench_function(&label(&format!("face through {side}")), |bench| {
                bench.iter(|| {
                    cpu.warp(&frame, black_box(&[align]), Values::Signed, &mut crops)?;
                    let hull = Hull::of(black_box(&landmarks));
                    cpu.blend(&mut frame, &[Placement { align, hull }], &faces, &masks)
                })
            });
        }
        criterion.bench_function(&label("hull"), |bench| {
            bench.iter(|| Hull::of(black_box(&landmarks)))
        });
        criterion.bench_function(&label("cover a hull"), |bench| {
            let regions = [Region::Hull(hull.clone())];
            bench.iter(|| cpu.cover(&mut frame, black_box(&regions)))
        });
        criterion.bench_function(&label("cover the frame"), |bench| {
            bench.iter(|| cpu.cover(&mut frame, black_box(&[Region::Frame])))
        });
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
