//! The four real networks on the CPU: they need the store that `cargo xtask test` or `persona models fetch` fills.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use engines::models::{Network, Store, default_dir};
use engines::{
    Engine, Error, Golden, Port, Result, Shared, Signature, cpu, detector, embedding, generator, golden,
    landmarks,
};
use kernels::Kernels;
use kernels::cpu::{Cpu, Tensor};

/// The default store, if it is complete.
fn store() -> Store {
    let store = Store::open(default_dir()).unwrap();
    if let Some(missing) = store.verify().into_iter().find_map(|status| status.state.err()) {
        panic!("networks are not fetched: run `cargo xtask test` or `persona models fetch` ({missing})");
    }
    store
}

fn runtime(store: &Store) -> cpu::Runtime {
    cpu::Runtime::load(&store.runtime_library().unwrap(), 1).unwrap()
}

fn networks() -> [(Network, Signature, Golden); 4] {
    [
        (Network::Detector, detector::signature(), Golden::detector()),
        (Network::Landmarks, landmarks::signature(), Golden::landmarks()),
        (Network::Embedding, embedding::signature(), Golden::embedding()),
        (
            Network::Generator,
            generator::signature(128),
            Golden::generator().unwrap(),
        ),
    ]
}

/// The conversions are right: each network gives the numbers that the originals gave.
#[test]
fn golden_values() {
    let store = store();
    let runtime = runtime(&store);
    for (network, signature, golden) in networks() {
        let mut engine = runtime.engine(&store.load(network).unwrap(), &signature).unwrap();
        golden::admit(&mut Cpu::default(), engine.as_mut(), &golden).unwrap();
    }
}

/// A network in the place of another one is refused when it is loaded.
#[test]
fn signatures() {
    let store = store();
    let runtime = runtime(&store);
    let onnx = store.load(Network::Landmarks).unwrap();
    let refused = |signature: &Signature| match runtime.engine(&onnx, signature) {
        Err(error @ Error::Signature { .. }) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{signature:?} was accepted"),
    };
    let words = refused(&embedding::signature());
    assert!(
        words.contains("input 0") && words.contains("`rgb255` [any, 3, 150, 150]"),
        "{words}"
    );

    let mut renamed = landmarks::signature();
    renamed.outputs[0].name = "points".into();
    assert!(refused(&renamed).contains("output 0"));
    let mut more = landmarks::signature();
    more.inputs.push(Port {
        name: "target".into(),
        dims: vec![None, Some(128)],
    });
    assert!(refused(&more).contains("1 inputs, wanted 2 inputs"));
    let mut free = landmarks::signature();
    free.inputs[0].dims[2] = None;
    assert!(refused(&free).contains("[any, 3, any, 112]"));
}

#[test]
fn bytes_that_are_no_network() {
    let store = store();
    let runtime = runtime(&store);
    let onnx = store.load(Network::Landmarks).unwrap();
    for bytes in [&[][..], b"not a network", &onnx[..onnx.len() / 2]] {
        let error = runtime
            .engine(bytes, &landmarks::signature())
            .err()
            .expect("refused");
        assert!(matches!(error, Error::Runtime { .. }), "{error}");
    }
    let error = cpu::Runtime::load(std::path::Path::new("/nonexistent/libonnxruntime.so"), 1)
        .err()
        .expect("refused");
    assert!(
        error
            .to_string()
            .contains("/nonexistent/libonnxruntime.so: not a usable ONNX Runtime"),
        "{error}"
    );
}

/// Several faces in one run give what each gives alone, in every order of batch sizes.
#[test]
fn dynamic_batch() {
    const FACES: usize = 5;
    let store = store();
    let runtime = runtime(&store);
    let mut kernels = Cpu::default();
    let mut engine = runtime
        .engine(&store.load(Network::Embedding).unwrap(), &embedding::signature())
        .unwrap();
    let mut chips = kernels.tensor([FACES, 3, 150, 150]).unwrap();
    let mut output = [kernels.tensor([FACES, 128, 1, 1]).unwrap()];
    let chip = |face: usize| -> Vec<f32> {
        (0..3 * 150 * 150)
            .map(|i| ((i * (face + 3)) % 251) as f32)
            .collect()
    };
    let mut alone = Vec::new();
    for batch in [1, FACES, 2, FACES] {
        kernels.resize_batch(&mut chips, batch).unwrap();
        kernels.resize_batch(&mut output[0], batch).unwrap();
        if batch == 1 {
            for face in 0..FACES {
                kernels.write(&mut chips, 0, &chip(face)).unwrap();
                engine.run(&[&chips], &mut output).unwrap();
                alone.push(output[0].data().to_vec());
            }
            continue;
        }
        for face in 0..batch {
            kernels.write(&mut chips, face, &chip(face)).unwrap();
        }
        engine.run(&[&chips], &mut output).unwrap();
        for (together, alone) in output[0].data().chunks_exact(128).zip(&alone) {
            let difference = together
                .iter()
                .zip(alone)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(difference < 1e-5, "{difference}");
        }
    }
    assert!(alone[0] != alone[1]);
}

#[test]
fn tensors_of_other_shapes() {
    let store = store();
    let runtime = runtime(&store);
    let mut kernels = Cpu::default();
    let mut engine = runtime
        .engine(&store.load(Network::Landmarks).unwrap(), &landmarks::signature())
        .unwrap();
    let mut tensor = |shape| kernels.tensor(shape).unwrap();
    let (small, right) = (tensor([1, 3, 96, 96]), tensor([1, 3, 112, 112]));
    let (points, two, square) = (
        tensor([1, 136, 1, 1]),
        tensor([2, 136, 1, 1]),
        tensor([1, 136, 1, 2]),
    );
    let mut run = |inputs: &[&_], output: &kernels::cpu::Tensor| engine.run(inputs, &mut [output.clone()]);
    let words = run(&[&small], &points).unwrap_err().to_string();
    assert_eq!(
        words,
        "landmarks: rgb255 has shape [1, 3, 96, 96], wanted `rgb255` [any, 3, 112, 112]"
    );
    assert!(matches!(run(&[&right], &square), Err(Error::Shape { .. })));
    assert!(matches!(
        run(&[&right, &right], &points),
        Err(Error::Shape { .. })
    ));
    // As many entries out as in.
    assert!(matches!(run(&[&right], &two), Err(Error::Runtime { .. })));
    run(&[&right], &points).unwrap();
}

/// Notes the most faces that any run had.
struct Widest(Box<dyn Engine<Cpu>>, Arc<AtomicUsize>);

impl Engine<Cpu> for Widest {
    fn run(&mut self, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<()> {
        self.1.fetch_max(inputs[0].shape()[0], Ordering::Relaxed);
        self.0.run(inputs, outputs)
    }
}

/// Pipelines whose faces go through the generator in one run get what each gets alone.
#[test]
fn faces_of_several_pipelines_in_one_run() {
    const PIPELINES: usize = 4;
    /// ONNX Runtime adds up in another order for another number of faces.
    const TOLERANCE: f32 = 1e-4;
    let store = store();
    let (signature, onnx) = (generator::signature(128), store.load(Network::Generator).unwrap());
    let runtime = runtime(&store);
    let tensors = |pipeline: usize| {
        let mut cpu = Cpu::default();
        // One face or two, of noise that is this pipeline's own.
        let faces = 1 + pipeline % 2;
        let mut noise = |shape| {
            let mut tensor = cpu.tensor(shape).unwrap();
            for (i, value) in tensor.data_mut().iter_mut().enumerate() {
                *value = ((i * (7 + pipeline)) % 251) as f32 / 125.0 - 1.0;
            }
            tensor
        };
        let inputs = [noise([faces, 3, 128, 128]), noise([faces, 128, 1, 1])];
        let outputs = [noise([faces, 3, 128, 128]), noise([faces, 1, 128, 128])];
        (inputs, outputs)
    };
    let mut alone = runtime.engine(&onnx, &signature).unwrap();
    let widest = Arc::<AtomicUsize>::default();
    let engine = Widest(runtime.engine(&onnx, &signature).unwrap(), widest.clone());
    let shared = Shared::merging(Box::new(engine), &signature, PIPELINES).unwrap();
    let wanted: Vec<_> = (0..PIPELINES)
        .map(|pipeline| {
            let ([face, target], mut outputs) = tensors(pipeline);
            alone.run(&[&face, &target], &mut outputs).unwrap();
            outputs
        })
        .collect();
    let start = Barrier::new(PIPELINES);
    std::thread::scope(|scope| {
        for (pipeline, wanted) in wanted.iter().enumerate() {
            let (mut shared, start) = (shared.clone(), &start);
            scope.spawn(move || {
                let ([face, target], mut outputs) = tensors(pipeline);
                start.wait();
                for _ in 0..10 {
                    shared.run(&[&face, &target], &mut outputs).unwrap();
                    for (got, wanted) in outputs.iter().zip(wanted) {
                        let differences = got.data().iter().zip(wanted.data()).map(|(a, b)| (a - b).abs());
                        let largest = differences.fold(0.0, f32::max);
                        assert!(largest < TOLERANCE, "{largest}");
                    }
                }
            });
        }
    });
    assert!(widest.load(Ordering::Relaxed) > 2, "nobody ever went together");
}
