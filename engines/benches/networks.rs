//! Milliseconds per run of the four networks on the CPU, with one thread and with two.
//!
//! `cargo bench -p engines`; needs the fetched networks. Input and output copies are included, pixels are not.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use engines::cpu::Runtime;
use engines::models::{Network, Store, default_dir};
use engines::{Engine, InputSize, Signature, detector, embedding, generator, landmarks};
use kernels::Kernels;
use kernels::cpu::{Cpu, Tensor};

fn networks(criterion: &mut Criterion) {
    let store = Store::open(default_dir()).expect("the built-in manifest is well formed");
    let library = match store.runtime_library() {
        Ok(library) => library,
        Err(error) => {
            println!("nothing measured: {error}");
            return;
        }
    };
    for threads in [1, 2] {
        let runtime = Runtime::load(&library, threads).expect("the pinned library loads");
        let engine = |network, signature: &Signature| {
            let onnx = store.load(network).unwrap_or_else(|error| panic!("{error}"));
            runtime
                .engine(&onnx, signature)
                .unwrap_or_else(|error| panic!("{error}"))
        };
        let mut measure = |name: &str, case: String, engine: &mut dyn Engine<Cpu>, shapes: Shapes| {
            let inputs: Vec<_> = shapes.inputs.iter().map(|shape| filled(*shape)).collect();
            let inputs: Vec<_> = inputs.iter().collect();
            let mut outputs: Vec<_> = shapes.outputs.iter().map(|shape| filled(*shape)).collect();
            let id = BenchmarkId::new(format!("{threads} thread"), case);
            let mut group = criterion.benchmark_group(name);
            group.sample_size(20);
            group.bench_function(id, |bencher| {
                bencher.iter(|| {
                    engine
                        .run(&inputs, &mut outputs)
                        .unwrap_or_else(|error| panic!("{error}"))
                });
            });
        };

        let mut detector = engine(Network::Detector, &detector::signature());
        for (width, height) in [(320, 180), (416, 234), (640, 360), (1280, 720)] {
            let InputSize { width, height } = InputSize::covering(width, height);
            let map = |channels| [1, channels, height / 4, width / 4];
            let shapes = Shapes {
                inputs: vec![[1, 3, height, width]],
                outputs: vec![map(1), map(2), map(2), map(10)],
            };
            measure("detector", format!("{width}x{height}"), detector.as_mut(), shapes);
        }
        let mut landmarks = engine(Network::Landmarks, &landmarks::signature());
        let mut embedding = engine(Network::Embedding, &embedding::signature());
        let mut generator = engine(Network::Generator, &generator::signature(128));
        for faces in [1, 4] {
            let case = || format!("{faces} faces");
            let shapes = Shapes {
                inputs: vec![[faces, 3, 112, 112]],
                outputs: vec![[faces, 136, 1, 1]],
            };
            measure("landmarks", case(), landmarks.as_mut(), shapes);
            let shapes = Shapes {
                inputs: vec![[faces, 3, 150, 150]],
                outputs: vec![[faces, 128, 1, 1]],
            };
            measure("embedding", case(), embedding.as_mut(), shapes);
            let shapes = Shapes {
                inputs: vec![[faces, 3, 128, 128], [faces, 128, 1, 1]],
                outputs: vec![[faces, 3, 128, 128], [faces, 1, 128, 128]],
            };
            measure("generator", case(), generator.as_mut(), shapes);
        }
    }
}

struct Shapes {
    inputs: Vec<[usize; 4]>,
    outputs: Vec<[usize; 4]>,
}

fn filled(shape: [usize; 4]) -> Tensor {
    let mut tensor = Cpu::default().tensor(shape).expect("memory for one tensor");
    let values = tensor.data_mut().iter_mut().enumerate();
    values.for_each(|(i, value)| *value = (i % 251) as f32 / 251.0);
    tensor
}

/// What the program waits for when it starts: verifying, converting and loading all four, golden values included.
fn start(criterion: &mut Criterion) {
    let store = Store::open(default_dir()).expect("the built-in manifest is well formed");
    if store.verify().iter().any(|status| status.state.is_err()) {
        println!("nothing measured: networks are not fetched: run `persona models fetch`");
        return;
    }
    let options = engines::Options {
        threads: 1,
        max_faces: 8,
        largest: InputSize::covering(1280, 720),
    };
    let mut group = criterion.benchmark_group("start");
    group.sample_size(10);
    group.bench_function("all four networks", |bencher| {
        bencher.iter(|| {
            let networks = engines::networks_on_cpu(&store, &mut Cpu::default(), &options);
            networks.unwrap_or_else(|error| panic!("{error}"))
        });
    });
    group.finish();
}

criterion_group!(benches, networks, start);
criterion_main!(benches);
