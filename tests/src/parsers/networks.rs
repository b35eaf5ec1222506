//! Readers of networks: ONNX, dlib's and face-api's weights, our generator's, and compiled plans.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use engines::models::{Store, default_dir};
use engines::onnx::proto::Model;
use engines::onnx::{Builder, Dim, Setting, basic, centerface, dlib, face_api, generator};
use engines::quantize::{self, Calibrator, Recipe};
use prost::Message;
use sha2::{Digest, Sha256};

/// What is made of a file is a network again, and not much larger than the file.
fn is_a_network(made: engines::Result<Vec<u8>>, from: usize) {
    match made {
        Ok(made) => {
            assert!(
                made.len() <= 8 * from + (1 << 16),
                "{} bytes of {from}",
                made.len()
            );
            assert!(Model::decode(made.as_slice()).is_ok_and(|model| model.graph.is_some()));
        }
        // The sentence is made too: it quotes the file.
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// ONNX, for everything that reads or rewrites it.
pub(super) fn onnx(bytes: &[u8]) {
    is_a_network(centerface::convert(bytes), bytes.len());
    is_a_network(basic::convert(bytes), bytes.len());
    is_a_network(quantize::fp16(bytes), bytes.len());
    // A layer's name is kept once for each layer.
    let layers = quantize::sensitivity::layers(bytes).unwrap_or_default();
    assert!(layers.len() <= bytes.len());
    let mut recipe = Recipe {
        network: Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        calibration: String::new(),
        calibrator: Calibrator::Max,
        half: Vec::new(),
        scales: BTreeMap::from([("x".into(), 0.1), ("v0".into(), 0.02), ("v1".into(), 0.5)]),
        doublings: BTreeMap::new(),
        corrections: BTreeMap::new(),
    };
    is_a_network(quantize::int8(bytes, &recipe), bytes.len());
    // The seeds have two channels.
    let doubled = layers.into_iter().take(1).map(|layer| (layer, "01".into()));
    recipe.doublings = doubled.collect();
    is_a_network(quantize::int8(bytes, &recipe), bytes.len());
}

/// Small networks of the kinds that are rewritten.
pub(super) fn onnx_seeds() -> Vec<Vec<u8>> {
    let map = [Dim::Free("n"), Dim::Fixed(2), Dim::Fixed(4), Dim::Fixed(4)];
    let kernel = [
        Setting::Ints("kernel_shape", &[1, 1]),
        Setting::Ints("pads", &[0; 4]),
    ];
    let mut normal = Builder::new("normal");
    let x = normal.input("x", &map);
    let scale = normal.constant(&[2], &[1.0, 2.0]);
    let y = normal.node(
        "InstanceNormalization",
        &[&x, &scale, &scale],
        &[Setting::Float("epsilon", 1e-3)],
    );
    normal.output(&y, "y", &map);
    let mut folded = Builder::new("folded");
    let x = folded.input("x", &map);
    let filters = folded.constant(&[2, 2, 1, 1], &[1.0, 0.5, -1.0, 2.0]);
    let [gamma, beta, mean, variance] = [1.0, 0.5, 0.1, 4.0].map(|value| folded.constant(&[2], &[value; 2]));
    let v = folded.node("Conv", &[&x, &filters], &kernel);
    let v = folded.node("BatchNormalization", &[&v, &gamma, &beta, &mean, &variance], &[]);
    let v = folded.node("Relu", &[&v], &[]);
    let sum = folded.node("Add", &[&v, &x], &[]);
    folded.output(&sum, "y", &map);
    let mut matrix = Builder::new("matrix");
    let x = matrix.input("x", &map);
    let weights = matrix.constant(&[3, 32], &[0.25; 96]);
    let flat = matrix.node("Flatten", &[&x], &[]);
    let y = matrix.node("Gemm", &[&flat, &weights], &[Setting::Int("transB", 1)]);
    let axis = matrix.integers(&[1]);
    let y = matrix.node(
        "Concat",
        &[&y, &y],
        &[Setting::Int("axis", 1), Setting::Text("mode", "CRD")],
    );
    let _ = matrix.node("Slice", &[&y, &axis, &axis, &axis], &[]);
    matrix.output(&y, "y", &[Dim::Free("n"), Dim::Fixed(6)]);
    [normal, folded, matrix].map(Builder::finish).into()
}

/// A pinned file of others, by the end of its name.
fn pinned(name: &str) -> Vec<u8> {
    let store = Store::open(default_dir()).expect("the pins can be read");
    let file = store.verify().into_iter().find(|file| file.path.ends_with(name));
    let path = file.expect("the file is pinned").path;
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run `persona models fetch`", path.display()))
}

static DLIB: LazyLock<Vec<u8>> = LazyLock::new(|| pinned("dlib_face_recognition_resnet_model_v1.dat"));

/// A file of dlib's, whole.
pub(super) fn dlib(bytes: &[u8]) {
    is_a_network(dlib::convert(bytes), bytes.len());
}

/// As far as the first layer's shape, which is what a small file can hold.
pub(super) fn dlib_seeds() -> Vec<Vec<u8>> {
    vec![DLIB[..700].into(), DLIB[..1200].into()]
}

/// dlib's real file with some bytes changed: each edit is a place in 4 bytes, a new byte, and nothing else.
pub(super) fn dlib_edits(bytes: &[u8]) {
    thread_local!(static FILE: RefCell<Vec<u8>> = RefCell::new(DLIB.clone()));
    FILE.with_borrow_mut(|file| {
        let edits: Vec<_> = bytes
            .chunks_exact(5)
            .map(|edit| {
                let place = u32::from_le_bytes([edit[0], edit[1], edit[2], edit[3]]);
                (place as usize % file.len(), edit[4])
            })
            .collect();
        for (place, byte) in &edits {
            file[*place] = *byte;
        }
        is_a_network(dlib::convert(file), file.len());
        for (place, _) in &edits {
            file[*place] = DLIB[*place];
        }
    });
}

/// One edit beside each layer's name.
pub(super) fn dlib_edits_seeds() -> Vec<Vec<u8>> {
    let names = ["con_4", "affine_", "relu_", "avg_pool_2", "add_prev_", "fc_2"];
    let places = names.iter().flat_map(|name| {
        let found = DLIB.windows(name.len()).enumerate().skip(200);
        found
            .filter(move |(_, window)| window == &name.as_bytes())
            .map(|(place, _)| place)
            .take(3)
    });
    places
        .map(|place| {
            let edit = |offset: usize, byte| [&((place + offset) as u32).to_le_bytes()[..], &[byte]].concat();
            [edit(0, b'c'), edit(12, 2), edit(20, 1)].concat()
        })
        .collect()
}

static FACE_API: LazyLock<Vec<u8>> = LazyLock::new(|| pinned("face_landmark_68_model.bin"));

/// A manifest of face-api's, beside its real weights.
pub(super) fn face_api(bytes: &[u8]) {
    is_a_network(
        face_api::convert(bytes, &FACE_API),
        bytes.len() + 4 * FACE_API.len(),
    );
    is_a_network(face_api::convert(bytes, b""), bytes.len());
}

pub(super) fn face_api_seeds() -> Vec<Vec<u8>> {
    let whole = pinned("face_landmark_68_model-weights_manifest.json");
    let small = br#"[{"weights":[{"name":"fc/bias","shape":[0],"dtype":"float32",
        "quantization":{"dtype":"uint8","scale":0.5,"min":-1}}],"paths":["a"]}]"#;
    vec![whole, small.to_vec()]
}

static EDGE128: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engines/models/edge128.safetensors");
    std::fs::read(path).expect("the generator's weights lie in the repository")
});

/// Length of the list of tensors at the beginning of the shipped weights.
fn list_length() -> usize {
    let length = EDGE128.first_chunk().expect("a file of weights");
    u64::from_le_bytes(*length) as usize
}

/// Weights of a generator: any file, and any list of tensors before the real values.
pub(super) fn generator(bytes: &[u8]) {
    let convert = |file: &[u8]| {
        let weights = generator::Weights::read(file)?;
        generator::generator(&weights)
    };
    is_a_network(convert(bytes), bytes.len());
    let length = (bytes.len() as u64).to_le_bytes();
    let file = [&length, bytes, &EDGE128[8 + list_length()..]].concat();
    is_a_network(convert(&file), file.len());
}

pub(super) fn generator_seeds() -> Vec<Vec<u8>> {
    let list = br#"{"c0.weight":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]}}"#;
    let small = [&(list.len() as u64).to_le_bytes()[..], list, &[0; 4]].concat();
    vec![EDGE128[8..8 + list_length()].into(), small]
}

/// A plan's file: whatever it says of itself, only the plan that was written is ever given.
#[cfg(feature = "tensorrt")]
pub(super) fn plan(bytes: &[u8]) {
    use engines::trt::{Plan, Plans};

    thread_local!(static PLANS: (tempfile::TempDir, Plans) = {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let plans = Plans::open(folder.path().join("plans")).expect("a folder in it");
        (folder, plans)
    });
    PLANS.with(|(_, plans)| {
        let path = plans.dir().join("generator-fp16.plan");
        write_private(&path, bytes);
        if let Ok(Plan { bytes, .. }) = plans.read(&key(), None) {
            assert_eq!(bytes, b"the plan");
        }
    });
}

#[cfg(feature = "tensorrt")]
fn write_private(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    let mut options = std::fs::File::options();
    let file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .expect("a temporary file");
}

#[cfg(feature = "tensorrt")]
fn key() -> engines::trt::Key {
    let version = engines::trt::Version::decode(100_300).expect("a version that is known");
    engines::trt::Key::new(
        version,
        "Orin",
        "generator",
        engines::Precision::Fp16,
        &[],
        b"onnx",
    )
}

#[cfg(feature = "tensorrt")]
pub(super) fn plan_seeds() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let plans = engines::trt::Plans::open(folder.path().join("plans")).expect("a folder in it");
    plans
        .get(&key(), None, |_| Ok(b"the plan".to_vec()))
        .expect("a plan can be written");
    vec![std::fs::read(plans.dir().join("generator-fp16.plan")).expect("it was written")]
}
