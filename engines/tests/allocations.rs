//! A warm network takes no memory from Rust's allocator, whatever number of faces and input size it has seen before.
//!
//! What remains is inside of ONNX Runtime, which has its own arena: it keeps what its largest run needed.

use allocation_counter::measure;
use engines::models::{Store, default_dir};
use engines::{Embedding, Engine, InputSize, Options, Result, Shared, Signature, networks_on_cpu};
use kernels::cpu::{Cpu, Tensor};
use kernels::{Color, Frame, Kernels, Matrix, Plane, Planes, Range, Rect, Similarity};

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

/// Nor do pipelines that go together.
#[test]
fn none_together() {
    struct Slow;
    impl Engine<Cpu> for Slow {
        fn run(&mut self, _: &[&Tensor], _: &mut [Tensor]) -> Result<()> {
            std::thread::sleep(std::time::Duration::from_millis(2));
            Ok(())
        }
    }
    let signature = Signature::new("slow")
        .input("x", &[None, Some(8)])
        .output("y", &[None, Some(8)]);
    let shared = Shared::merging(Box::new(Slow), &signature, 4).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let mut shared = shared.clone();
            scope.spawn(move || {
                let mut cpu = Cpu::default();
                let mut tensor = || cpu.tensor([1, 8, 1, 1]).unwrap();
                let (input, mut outputs) = (tensor(), [tensor()]);
                let counted = measure(|| {
                    for _ in 0..20 {
                        shared.run(&[&input], &mut outputs).unwrap();
                    }
                });
                assert_eq!(counted.count_total, 0, "{counted:?}");
            });
        }
    });
}
