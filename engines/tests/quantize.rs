//! The quantizer's files in ONNX Runtime: they need the store that `cargo xtask test` or `persona models fetch` fills.

use engines::cpu::Runtime;
use engines::models::{Network, Store, default_dir};
use engines::onnx::{Builder, Dim, Setting};
use engines::quantize::{Calibrator, Recipe, Sample, Statistics, correct_biases, fp16, int8};
use engines::{Error, Signature, detector, embedding, generator, landmarks};
use indicatif::ProgressBar;

fn runtime() -> Runtime {
    let store = Store::open(default_dir()).unwrap();
    let library = store.runtime_library().unwrap_or_else(|missing| {
        panic!("networks are not fetched: run `cargo xtask test` or `persona models fetch` ({missing})")
    });
    Runtime::load(&library, 1).unwrap()
}

/// The first output for one sample.
fn run(runtime: &Runtime, onnx: &[u8], sample: &Sample) -> Vec<f32> {
    let mut output = Vec::new();
    runtime
        .probe(onnx, "net")
        .unwrap()
        .run(sample, |index, _, numbers| {
            if index == 0 {
                output = numbers.to_vec();
            }
        })
        .unwrap();
    output
}

const MAP: [Dim; 4] = [Dim::Free("n"), Dim::Fixed(2), Dim::Fixed(4), Dim::Fixed(4)];

fn sample(values: impl Fn(usize) -> f32) -> Sample {
    vec![(vec![1, 2, 4, 4], (0..32).map(values).collect())]
}

/// Repeatable numbers from -1 to 1.
fn noise(seed: usize) -> impl Fn(usize) -> f32 {
    move |index| (((index + 1) * (seed + 7) * 2_654_435_761) % 2001) as f32 / 1000.0 - 1.0
}

/// Convolution, batch normalization, ReLU, convolution with a residual sum, transposed convolution.
fn network() -> Vec<u8> {
    let mut net = Builder::new("net");
    let x = net.input("x", &MAP);
    let random = |net: &mut Builder, dims: &[usize], seed: usize| {
        let values: Vec<f32> = (0..dims.iter().product()).map(noise(seed)).collect();
        net.constant(dims, &values)
    };
    let kernel = [Setting::Ints("pads", &[1; 4])];
    let first = random(&mut net, &[2, 2, 3, 3], 1);
    let first = net.node("Conv", &[&x, &first], &kernel);
    let (scale, shift, mean) = (
        random(&mut net, &[2], 2),
        random(&mut net, &[2], 3),
        random(&mut net, &[2], 4),
    );
    let variance = net.constant(&[2], &[0.5, 2.0]);
    let first = net.node(
        "BatchNormalization",
        &[&first, &scale, &shift, &mean, &variance],
        &[],
    );
    let first = net.node("Relu", &[&first], &[]);
    let second = random(&mut net, &[2, 2, 3, 3], 5);
    let second = net.node("Conv", &[&first, &second], &kernel);
    let sum = net.node("Add", &[&x, &second], &[]);
    let large = random(&mut net, &[2, 2, 2, 2], 6);
    let large = net.node(
        "ConvTranspose",
        &[&sum, &large],
        &[Setting::Ints("strides", &[2, 2])],
    );
    net.output(
        &large,
        "y",
        &[Dim::Free("n"), Dim::Fixed(2), Dim::Fixed(8), Dim::Fixed(8)],
    );
    net.finish()
}

fn calibrated(runtime: &Runtime, onnx: &[u8], samples: &[Sample]) -> Recipe {
    Statistics::collect(runtime, onnx, samples, &ProgressBar::hidden())
        .unwrap()
        .recipe(Calibrator::Max)
}

/// The energy of the difference in parts of the output's own.
fn error(wanted: &[f32], got: &[f32]) -> f32 {
    assert_eq!(wanted.len(), got.len());
    let difference: f32 = wanted.iter().zip(got).map(|(a, b)| (a - b).powi(2)).sum();
    difference / wanted.iter().map(|a| a * a).sum::<f32>()
}

/// Whole numbers up to 127 are steps of size 1: nothing is rounded, so nothing may change.
#[test]
fn numbers_that_are_steps_come_out_exactly() {
    let runtime = runtime();
    let mut net = Builder::new("net");
    let x = net.input("x", &MAP);
    let weights = net.constant(&[1, 2, 1, 1], &[127.0, -3.0]);
    let bias = net.constant(&[1], &[0.25]);
    let y = net.node("Conv", &[&x, &weights, &bias], &[]);
    net.output(
        &y,
        "y",
        &[Dim::Free("n"), Dim::Fixed(1), Dim::Fixed(4), Dim::Fixed(4)],
    );
    let onnx = net.finish();
    let integers = sample(|index| index as f32 * 8.0 - 121.0);
    let recipe = calibrated(&runtime, &onnx, std::slice::from_ref(&integers));
    assert_eq!(recipe.scales["x"], 1.0);
    let quantized = int8(&onnx, &recipe).unwrap();
    assert_eq!(
        run(&runtime, &quantized, &integers),
        run(&runtime, &onnx, &integers)
    );
    // What lies beyond is clipped, and 0.4 steps are none.
    let outside = sample(|index| if index < 16 { 1000.0 } else { 0.4 });
    let clipped = 127.0 * 127.0 + 0.25;
    assert_eq!(run(&runtime, &quantized, &outside), [clipped; 16]);
}

#[test]
fn every_precision_computes_the_same_network() {
    let runtime = runtime();
    let onnx = network();
    let samples: Vec<Sample> = (0..8).map(|seed| sample(noise(seed))).collect();
    let exact = run(&runtime, &onnx, &samples[0]);
    let recipe = calibrated(&runtime, &onnx, &samples);

    // With every layer in FP16, what remains is the folding and the casts.
    let half = run(&runtime, &fp16(&onnx).unwrap(), &samples[0]);
    let (in_half, in_int8) = (
        error(&exact, &half),
        error(
            &exact,
            &run(&runtime, &int8(&onnx, &recipe).unwrap(), &samples[0]),
        ),
    );
    assert!(in_half < 1e-5, "{in_half}");
    assert!(in_int8 > in_half && in_int8 < 1e-3, "{in_int8}");
}

/// Over what it was measured on, a corrected layer has no shift on average.
#[test]
fn corrected_biases() {
    let runtime = runtime();
    let mut net = Builder::new("net");
    let x = net.input("x", &MAP);
    let weights: Vec<f32> = (0..36).map(noise(9)).collect();
    let weights = net.constant(&[2, 2, 3, 3], &weights);
    let y = net.node("Conv", &[&x, &weights], &[Setting::Ints("pads", &[1; 4])]);
    net.output(&y, "y", &MAP);
    let onnx = net.finish();
    let samples: Vec<Sample> = (0..8)
        .map(|seed| sample(|index| noise(seed)(index) + 0.7))
        .collect();
    let mut recipe = calibrated(&runtime, &onnx, &samples);
    // Coarse enough to clip: that shifts.
    recipe.scales.insert("x".into(), 0.01);
    let shift = |recipe: &Recipe| {
        let quantized = int8(&onnx, recipe).unwrap();
        let mut total = [0f32; 2];
        for sample in &samples {
            let (exact, got) = (run(&runtime, &onnx, sample), run(&runtime, &quantized, sample));
            for (index, (a, b)) in exact.iter().zip(&got).enumerate() {
                total[index / 16] += (a - b) / 128.0;
            }
        }
        total.map(f32::abs)
    };
    let before = shift(&recipe);
    correct_biases(&runtime, &onnx, &mut recipe, &samples, &ProgressBar::hidden()).unwrap();
    for (before, after) in before.iter().zip(shift(&recipe)) {
        assert!(*before > 0.01 && after < 0.01 * before, "{before} {after}");
    }
}

/// A channel that is 64 times smaller than the other one has two steps left, unless it is scaled: then nothing is rounded.
#[test]
fn channels_of_different_sizes_are_kept_by_scaling() {
    let runtime = runtime();
    let mut net = Builder::new("net");
    let x = net.input("x", &MAP);
    let small = net.constant(&[2, 2, 1, 1], &[1.0, 0.0, 0.0, 1.0 / 64.0]);
    let y = net.node("Conv", &[&x, &small], &[]);
    let y = net.node("Relu", &[&y], &[]);
    let large = net.constant(&[2, 1, 1, 1], &[127.0, 64.0 * 127.0]);
    let y = net.node("Conv", &[&y, &large], &[Setting::Int("group", 2)]);
    net.output(&y, "y", &MAP);
    let onnx = net.finish();
    let integers = sample(|index| (index % 16) as f32 * 8.0 + 7.0);
    let samples = std::slice::from_ref(&integers);
    let wanted = run(&runtime, &onnx, &integers);
    let scaled = Statistics::equalized(&runtime, &onnx, samples, &ProgressBar::hidden())
        .unwrap()
        .unwrap()
        .recipe(Calibrator::Max);
    assert_eq!(scaled.doublings["Conv0"], "06");
    assert_eq!(run(&runtime, &int8(&onnx, &scaled).unwrap(), &integers), wanted);
    let plain = calibrated(&runtime, &onnx, samples);
    let rounded = run(&runtime, &int8(&onnx, &plain).unwrap(), &integers);
    assert_eq!(rounded[..16], wanted[..16]);
    assert!(error(&wanted[16..], &rounded[16..]) > 0.05);
}

#[test]
fn nothing_to_calibrate_on_is_an_error() {
    let runtime = runtime();
    let refused = |samples: &[Sample]| {
        Statistics::collect(&runtime, &network(), samples, &ProgressBar::hidden())
            .err()
            .expect("refused")
            .to_string()
    };
    assert!(refused(&[]).contains("no sample was given"));
    assert!(refused(&[sample(|_| f32::NAN)]).contains("not finite on a sample"));
}

/// The four networks have the same inputs and outputs in every precision, and their recipes are for them.
#[test]
fn the_networks_in_every_precision() {
    let runtime = runtime();
    let store = Store::open(default_dir()).unwrap();
    for (network, signature) in [
        (Network::Detector, detector::signature()),
        (Network::Landmarks, landmarks::signature()),
        (Network::Embedding, embedding::signature()),
        (Network::Generator, generator::signature(128)),
    ] {
        let onnx = store.load(network).unwrap();
        let loads = |onnx: &[u8], signature: &Signature| {
            runtime
                .exact_engine(onnx, signature)
                .unwrap_or_else(|error| panic!("{error}"));
        };
        loads(&fp16(&onnx).unwrap(), &signature);
        match int8(&onnx, &Recipe::shipped(network).unwrap()) {
            Ok(quantized) => loads(&quantized, &signature),
            // New weights may come before their recipe; they run in FP16 until then.
            Err(Error::Quantize { reason, .. }) if network == Network::Generator => {
                eprintln!("the generator has no INT8 recipe: {reason}");
            }
            Err(error) => panic!("{network:?}: {error}"),
        }
    }
}
