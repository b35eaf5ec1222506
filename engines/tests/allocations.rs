//! A warm network takes no memory from Rust's allocator, whatever number of faces and input size it has seen before.
//!
//! What remains is inside of ONNX Runtime, which has its own arena: it keeps what its largest run needed.

use allocation_counter::measure;
use engines::models::{Store, default_dir};
use engines::{Embedding, InputSize, Options, networks_on_cpu};
use kernels::cpu::Cpu;
use kernels::{Color, Frame, Matrix, Plane, Planes, Range, Rect, Similarity};

#[test]
fn none_once_warm() {
    let (width, height) = (640, 360);
    let mut luma: Vec<u8> = (0..width * height).map(|i| (i * 7 % 251) as u8).collect();
    let mut chroma = vec![128; width * height / 2];
    let planes = Planes::Nv12 {
        y: Plane {
            data: &mut luma,
            stride: width,
        },
        uv: Plane {
            data: &mut chroma,
            stride: width,
        },
    };
    let color = Color {
        matrix: Matrix::Bt709,
        range: Range::Limited,
    };
    let frame = Frame::new(width, height, color, planes).unwrap();

    let mut kernels = Cpu::default();
    let options = Options {
        threads: 1,
        max_faces: 3,
        largest: InputSize::covering(width, height),
    };
    let store = Store::open(default_dir()).unwrap();
    let mut networks = match networks_on_cpu(&store, &mut kernels, &options) {
        Ok(networks) => networks,
        Err(error) => panic!("{error}"),
    };
    let (mut found, mut landmarks, mut embeddings) = (Vec::new(), Vec::new(), Vec::new());
    let mut pass = |sizes: &[InputSize], faces: usize| {
        let whole = Rect::new(0.0, 0.0, width as f32, height as f32);
        found.clear();
        for size in sizes {
            networks
                .detector
                .detect(&mut kernels, &frame, whole, *size, 0.2, &mut found)
                .unwrap();
        }
        let boxes = [Rect::new(100.0, 80.0, 90.0, 120.0); 5];
        networks
            .landmarker
            .locate(&mut kernels, &frame, &boxes[..faces], &mut landmarks)
            .unwrap();
        let aligns = [Similarity::of_square(&boxes[0]).unwrap(); 5];
        networks
            .embedder
            .embed(&mut kernels, &frame, &aligns[..faces], &mut embeddings)
            .unwrap();
        let targets = [Embedding([0.1; 128]); 3];
        let faces = faces.min(targets.len());
        networks
            .generator
            .generate(&mut kernels, &frame, &aligns[..faces], &targets[..faces])
            .unwrap();
    };
    let sizes = [InputSize::covering(width, height), InputSize::covering(320, 180)];
    // Five faces take two runs of at most three.
    (0..=5).for_each(|faces| pass(&sizes, faces));
    let counted = measure(|| (0..=5).rev().for_each(|faces| pass(&sizes, faces)));
    assert_eq!(counted.count_total, 0, "{counted:?}");
}
