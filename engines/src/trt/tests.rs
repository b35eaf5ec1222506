//! The binding against NVIDIA's TensorRT-RTX, which parses and compiles without a GPU, and against a made-up `libnvinfer`.

use std::path::PathBuf;

use super::*;
use crate::models::{Network, Store, default_dir};
use crate::onnx::{Builder as Onnx, Dim};
use crate::{InputSize, Signature, detector, embedding, generator, landmarks};

const NETWORKS: [Network; 4] = [
    Network::Detector,
    Network::Landmarks,
    Network::Embedding,
    Network::Generator,
];
const LARGEST: InputSize = InputSize {
    width: 768,
    height: 480,
};

fn signature(network: Network) -> Signature {
    match network {
        Network::Detector => detector::signature(),
        Network::Landmarks => landmarks::signature(),
        Network::Embedding => embedding::signature(),
        Network::Generator => generator::signature(128),
    }
}

const RTX: &str = "PERSONA_TENSORRT_RTX";

/// The library that `cargo xtask test` has fetched.
fn rtx() -> Library {
    let folder = std::env::var_os(RTX).map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| panic!("{RTX} must be the folder with libtensorrt_rtx.so.1"));
    Library::open(Some(&folder)).unwrap()
}

fn build(library: &Library, network: Network, precision: Precision, onnx: &[u8]) -> crate::Result<Vec<u8>> {
    let signature = signature(network);
    library.build(&Recipe {
        onnx,
        signature: &signature,
        profiles: &Profile::of(network, &signature, LARGEST),
        precision,
        workspace: Some(256 << 20),
        dla: None,
    })
}

#[test]
#[ignore = "needs NVIDIA's TensorRT-RTX: `cargo xtask test` fetches it and runs this"]
fn rtx_compiles_every_network() {
    let library = rtx();
    assert_eq!(library.version().family, Family::Rtx);
    let store = Store::open(default_dir()).unwrap();
    for network in NETWORKS {
        let onnx = store.load(network).unwrap();
        // As it is, and as TensorRT 8 gets it.
        for onnx in [onnx.clone(), crate::onnx::basic::convert(&onnx).unwrap()] {
            let plan = build(&library, network, Precision::Fp32, &onnx).unwrap();
            assert!(plan.len() > onnx.len() / 4, "{network:?}: {} bytes", plan.len());
        }
    }
}

/// What TensorRT refuses comes back as an error in its own words, and nothing is left that would disturb the next one.
#[test]
#[ignore = "needs NVIDIA's TensorRT-RTX: `cargo xtask test` fetches it and runs this"]
fn rtx_says_what_is_wrong() {
    let library = rtx();
    let network = |operator| {
        let mut onnx = Onnx::new("test");
        let dims = [Dim::Free("n"), Dim::Fixed(3), Dim::Fixed(112), Dim::Fixed(112)];
        let input = onnx.input("rgb255", &dims);
        let output = onnx.node(operator, &[&input], &[]);
        onnx.output(&output, "landmarks", &dims);
        onnx.finish()
    };
    for (onnx, words) in [
        (b"no network".to_vec(), "it refused the ONNX file"),
        (network("Det"), "it refused the ONNX file: node 0: "),
        (
            network("Relu"),
            "output 0 is `landmarks` [-1, 3, 112, 112], wanted `landmarks` [any, 136]",
        ),
    ] {
        let error = build(&library, Network::Landmarks, Precision::Fp32, &onnx).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    // A plan needs a GPU to be loaded, and this one is none.
    // SAFETY: null is the default stream.
    let stream = unsafe { Stream::new(std::ptr::null_mut()) };
    let profiles = Profile::of(Network::Landmarks, &landmarks::signature(), LARGEST);
    let error = library.load(b"no plan", &landmarks::signature(), &profiles, None, stream);
    let error = error.err().expect("refused").to_string();
    assert!(error.contains("landmarks: TensorRT says: it made no "), "{error}");
}

#[test]
fn what_is_no_tensorrt() {
    let folder = tempfile::tempdir().unwrap();
    let refused = || Library::open(Some(folder.path())).unwrap_err().to_string();
    assert!(refused().contains("there is no libnvinfer"), "{}", refused());
    std::fs::write(folder.path().join("libnvinfer.so.10"), b"not a library").unwrap();
    assert!(
        refused().contains("libnvinfer.so.10: not a usable TensorRT: "),
        "{}",
        refused()
    );
}
