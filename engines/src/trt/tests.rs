//! The binding against NVIDIA's TensorRT-RTX, which parses and compiles without a GPU, and against a made-up `libnvinfer`.

use std::path::{Path, PathBuf};

use kernels::Kernels;
use kernels::cpu::{Cpu, Tensor};

use super::*;
use crate::models::{Network, Store, default_dir};
use crate::onnx::{Builder as Onnx, Dim};
use crate::{
    Engine, Golden, InputSize, Precision, Shared, Signature, cpu, detector, embedding, generator, golden,
    landmarks,
};

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
    for network in Network::ALL {
        let fp32 = store.load(network).unwrap();
        for precision in [Precision::Fp32, Precision::Fp16, Precision::Int8] {
            let onnx = match precision.onnx(network, &fp32) {
                Ok(onnx) => onnx,
                // New weights are without a recipe until they are calibrated; then FP16 serves.
                Err(error) if precision == Precision::Int8 => {
                    eprintln!("not compiled: {error}");
                    continue;
                }
                Err(error) => panic!("{network} in {precision}: {error}"),
            };
            // As it is, and as TensorRT 8 gets it.
            for onnx in [onnx.clone(), crate::onnx::basic::convert(&onnx).unwrap()] {
                let plan = build(&library, network, precision, &onnx)
                    .unwrap_or_else(|error| panic!("{network} in {precision}: {error}"));
                println!("{network} {precision}: {} bytes", plan.len());
                assert!(plan.len() > fp32.len() / 10, "{network}: {} bytes", plan.len());
            }
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
        (b"no network".to_vec(), "ONNX: "),
        (network("Det"), "is the operator Det, which is not on the list"),
        (network("Pad"), "it refused the ONNX file: node 0: "),
        (
            network("Relu"),
            "output 0 is `landmarks` [-1, 3, 112, 112], wanted `landmarks` [any, 136]",
        ),
    ] {
        let error = build(&library, Network::Landmarks, Precision::Fp32, &onnx).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    // A plan needs a GPU to be loaded, and this one is none.
    let profiles = Profile::of(Network::Landmarks, &landmarks::signature(), LARGEST);
    let error = library.load(b"no plan", &landmarks::signature(), &profiles, None);
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

// SAFETY: a CPU tensor's memory is its own, and the made-up library below takes addresses in memory for the device's. It
// runs at once where there is no stream.
unsafe impl Device for Cpu {
    fn address(tensor: &Tensor) -> Option<u64> {
        Some(tensor.data().as_ptr() as u64)
    }

    fn shape(tensor: &Tensor) -> [usize; 4] {
        tensor.shape()
    }

    fn stream(_tensor: &Tensor) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    fn share(
        _: &mut Cpu,
        engine: Box<dyn Engine<Cpu>>,
        signature: &Signature,
        _: usize,
    ) -> crate::Result<Shared<Cpu>> {
        // A run is done when it returns.
        Ok(Shared::new(&signature.network, engine))
    }
}

/// A folder with a made-up TensorRT (`fake/nvinfer.rs`).
struct Fake(tempfile::TempDir);

impl Fake {
    /// Lets it say that it is of this version.
    fn new(version: i32) -> Self {
        let fake = Self(tempfile::tempdir().unwrap());
        // Cargo builds the examples with the tests: target/PROFILE/deps/THIS, target/PROFILE/examples.
        let built = std::env::current_exe().unwrap();
        let built = built
            .parent()
            .and_then(Path::parent)
            .unwrap()
            .join("examples/libfake_nvinfer.so");
        assert!(
            built.exists(),
            "{} is missing: cargo build -p engines --features tensorrt --example fake_nvinfer",
            built.display()
        );
        let major = if version < 10_000 {
            version / 1000
        } else {
            version / 10_000
        };
        let path = |name: &str| fake.0.path().join(format!("{name}.so.{major}"));
        // A copy of its own is a library of its own to the loader.
        std::fs::copy(built, path("libnvinfer")).unwrap();
        std::fs::hard_link(path("libnvinfer"), path("libnvonnxparser")).unwrap();
        fake.set(version, "");
        fake
    }

    /// Lets something fail.
    fn set(&self, version: i32, fail: &str) {
        std::fs::write(
            self.0.path().join("fake"),
            format!("version {version}\nfail {fail}\n"),
        )
        .unwrap();
    }

    fn open(&self) -> crate::Result<Library> {
        Library::open(Some(self.0.path()))
    }

    /// Objects that were made and not destroyed.
    fn live_objects(&self) -> usize {
        let is_library = |path: &PathBuf| path.to_string_lossy().contains("libnvinfer");
        let path = std::fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(is_library);
        // SAFETY: it is loaded already, and the function only returns a number.
        unsafe {
            let library = libloading::Library::new(path.unwrap()).unwrap();
            library
                .get::<extern "C" fn() -> usize>(c"fakeLiveObjects")
                .unwrap()()
        }
    }
}

/// The versions whose layouts differ.
const VERSIONS: [i32; 4] = [8502, 8601, 100_300, 110_401];

/// `y = relu(x)`, which needs no network from anywhere.
fn relu() -> (Vec<u8>, Signature, Vec<Profile>) {
    let mut onnx = Onnx::new("relu");
    let dims = [Dim::Free("n"), Dim::Fixed(4)];
    let input = onnx.input("x", &dims);
    let output = onnx.node("Relu", &[&input], &[]);
    onnx.output(&output, "y", &dims);
    let signature = Signature::new("relu")
        .input("x", &[None, Some(4)])
        .output("y", &[None, Some(4)]);
    let profile = |batch: [usize; 3]| Profile(vec![batch.map(|batch| vec![batch, 4])]);
    (
        onnx.finish(),
        signature,
        vec![profile([1, 1, 2]), profile([1, 4, 8])],
    )
}

fn recipe<'a>((onnx, signature, profiles): &'a (Vec<u8>, Signature, Vec<Profile>)) -> Recipe<'a> {
    Recipe {
        onnx,
        signature,
        profiles,
        precision: Precision::Fp16,
        workspace: None,
        dla: None,
    }
}

/// Every network, compiled and run through the layouts of every version, gives its golden values.
#[test]
fn networks_run_through_every_layout() {
    let store = Store::open(default_dir()).unwrap();
    for version in VERSIONS {
        let fake = Fake::new(version);
        let library = fake.open().unwrap();
        for (network, golden) in Network::ALL.into_iter().zip([
            Golden::detector(),
            Golden::landmarks(),
            Golden::embedding(),
            Golden::generator().unwrap(),
        ]) {
            let signature = signature(network);
            let profiles = Profile::of(network, &signature, LARGEST);
            let plan = build(&library, network, Precision::Fp32, &store.load(network).unwrap()).unwrap();
            let mut engine = library.load(&plan, &signature, &profiles, None).unwrap();
            golden::admit(&mut Cpu::default(), &mut engine, &golden).unwrap();
        }
        assert_eq!(fake.live_objects(), 0, "{version}");
    }
}

/// Each batch runs in the first context that takes it, in any order, and only shapes that fit run at all.
#[test]
fn shapes_choose_their_context() {
    for version in VERSIONS {
        let fake = Fake::new(version);
        let library = fake.open().unwrap();
        let network = relu();
        let plan = library.build(&recipe(&network)).unwrap();
        let mut engine = library.load(&plan, &network.1, &network.2, None).unwrap();
        let mut kernels = Cpu::default();
        let mut run = |faces: usize, out: [usize; 4]| {
            let mut input = kernels.tensor([faces, 4, 1, 1]).unwrap();
            for face in 0..faces {
                kernels
                    .write(&mut input, face, &[-1.0, face as f32, 2.0, -3.0])
                    .unwrap();
            }
            let mut output = [kernels.tensor(out).unwrap()];
            let ran = Engine::<Cpu>::run(&mut engine, &[&input], &mut output);
            ran.map(|()| output[0].data().to_vec())
        };
        for faces in [1, 8, 2, 1, 3] {
            let values = run(faces, [faces, 4, 1, 1]).unwrap();
            for (face, values) in values.chunks(4).enumerate() {
                assert_eq!(values, [0.0, face as f32, 2.0, 0.0]);
            }
        }
        for (faces, out, words) in [
            (
                9,
                [9, 4, 1, 1],
                "[1, 4] to [2, 4] (fast at [1, 4]) or [1, 4] to [8, 4]",
            ),
            (2, [1, 4, 1, 1], "y has shape [1, 4, 1, 1], wanted [2, 4]"),
            (2, [4, 4, 1, 1], "y has shape [4, 4, 1, 1], wanted [2, 4]"),
            (2, [2, 4, 2, 1], "y has shape [2, 4, 2, 1], wanted `y` [any, 4]"),
        ] {
            let error = run(faces, out).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}

/// Whatever TensorRT refuses becomes one error with its words, and no object stays behind.
#[test]
fn every_refusal_is_an_error() {
    for version in VERSIONS {
        let fake = Fake::new(version);
        let library = fake.open().unwrap();
        let network = relu();
        let attempt = |library: &Library| -> crate::Result<()> {
            let plan = library.build(&recipe(&network))?;
            let mut engine = library.load(&plan, &network.1, &network.2, None)?;
            let mut kernels = Cpu::default();
            let input = kernels.tensor([1, 4, 1, 1])?;
            let mut output = [kernels.tensor([1, 4, 1, 1])?];
            Engine::<Cpu>::run(&mut engine, &[&input], &mut output)
        };
        attempt(&library).unwrap();
        for (fail, words) in [
            ("builder", "it made no builder: builder was made to fail"),
            ("network", "it made no network"),
            ("parser", "it made no ONNX parser"),
            (
                "parse",
                "it refused the ONNX file: node 7: this is no network (code 4)",
            ),
            ("config", "it made no configuration"),
            ("profile", "it refused an optimization profile"),
            ("build", "it made no plan: build was made to fail"),
            ("runtime", "it made no runtime"),
            (
                "deserialize",
                "it made no engine: the plan is not one of this version",
            ),
            ("context", "it made no execution context"),
            ("select", "it refused profile 0"),
            ("enqueue", "it did not run: enqueue was made to fail"),
        ] {
            fake.set(version, fail);
            let error = attempt(&library).unwrap_err().to_string();
            assert!(
                error.starts_with("relu: TensorRT says: ") && error.contains(words),
                "{fail}: {error}"
            );
            assert_eq!(fake.live_objects(), 0, "{version} {fail}");
        }
        fake.set(version, "builder");
        let error = fake.open().unwrap_err().to_string();
        assert!(error.contains("not a usable TensorRT: TensorRT"), "{error}");
        fake.set(version, "");
        attempt(&library).unwrap();
    }
}

#[test]
fn other_versions_are_refused() {
    for version in [7103, 8401, 90_300, 120_000] {
        let fake = Fake::new(version);
        // Under a name that is looked for.
        for name in ["libnvinfer", "libnvonnxparser"] {
            let major = if version < 10_000 {
                version / 1000
            } else {
                version / 10_000
            };
            let from = fake.0.path().join(format!("{name}.so.{major}"));
            std::fs::rename(from, fake.0.path().join(format!("{name}.so.10"))).unwrap();
        }
        let error = fake.open().unwrap_err().to_string();
        assert!(
            error.contains(&format!("it reports version {version}")),
            "{error}"
        );
    }
}

/// A plan of another version, of another network or with other profiles does not load.
#[test]
fn foreign_plans_do_not_load() {
    let (old, new) = (Fake::new(100_300), Fake::new(101_300));
    let network = relu();
    let plan = old.open().unwrap().build(&recipe(&network)).unwrap();
    let library = new.open().unwrap();
    let load = |plan: &[u8], signature: &Signature, profiles: &[Profile]| {
        let loaded = library.load(plan, signature, profiles, None);
        loaded.err().expect("refused").to_string()
    };
    assert!(load(&plan, &network.1, &network.2).contains("not one of this version"));
    let plan = library.build(&recipe(&network)).unwrap();
    assert!(load(&plan[..20], &network.1, &network.2).contains("it made no engine"));
    assert!(load(&plan, &network.1, &network.2[..1]).contains("the plan has 2 profiles, wanted 1"));
    let other = Signature::new("other")
        .input("x", &[None, Some(4)])
        .output("z", &[None, Some(4)]);
    assert!(load(&plan, &other, &network.2).contains("output 0 is `y` [-1, 4], wanted `z` [any, 4]"));
    assert_eq!(new.live_objects(), 0);
}

/// What is asked for arrives: flags by version, workspace, accelerator.
#[test]
fn settings_arrive() {
    const FP16: u64 = 1 << 0;
    const INT8: u64 = 1 << 1;
    const GPU_FALLBACK: u64 = 1 << 3;
    for (version, precision, flags) in [
        (8502, Precision::Fp32, 0),
        (8502, Precision::Fp16, FP16 | 1 << 7),
        (8502, Precision::Int8, FP16 | INT8 | 1 << 7),
        (100_300, Precision::Fp32, 0),
        (100_300, Precision::Fp16, 1 << 6),
        (100_300, Precision::Int8, 1 << 6),
        (110_401, Precision::Int8, 1 << 6),
    ] {
        let fake = Fake::new(version);
        let library = fake.open().unwrap();
        let network = relu();
        let recipe = Recipe {
            precision,
            workspace: Some(64 << 20),
            ..recipe(&network)
        };
        let plan = |recipe: &Recipe<'_>| -> serde_json::Value {
            let plan = library.build(recipe).unwrap();
            let head = plan.split(|byte| *byte == 0).next().unwrap();
            serde_json::from_slice(head).unwrap()
        };
        let built = plan(&recipe);
        assert_eq!(built["flags"].as_u64(), Some(flags), "{version} {precision}");
        assert_eq!(built["workspace"].as_u64(), Some(64 << 20));
        assert_eq!(
            built["profiles"][1]["x"],
            serde_json::json!([[1, 4], [4, 4], [8, 4]])
        );
        assert!(built["dla"].is_null());
        let on_dla = plan(&Recipe {
            dla: Some(0),
            ..recipe
        });
        assert_eq!(on_dla["dla"].as_i64(), Some(0));
        assert_eq!(on_dla["flags"].as_u64(), Some(flags | GPU_FALLBACK));
        let error = library
            .build(&Recipe {
                dla: Some(1),
                ..recipe
            })
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("accelerator 1 was asked for and this machine has 1"),
            "{error}"
        );
    }
}

/// What the networks of a box are made from, with a TensorRT that says that it is of this version.
struct Bench {
    fake: Fake,
    library: Library,
    plans: Plans,
    store: Store,
    reference: cpu::Runtime,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(version: i32) -> Self {
        let (fake, folder) = (Fake::new(version), tempfile::tempdir().unwrap());
        let store = Store::open(default_dir()).unwrap();
        Self {
            library: fake.open().unwrap(),
            fake,
            plans: Plans::open(folder.path().join("plans")).unwrap(),
            reference: cpu::Runtime::load(&store.runtime_library().unwrap(), 1).unwrap(),
            store,
            _folder: folder,
        }
    }

    fn source(&self) -> Source<'_> {
        Source {
            store: &self.store,
            library: &self.library,
            plans: &self.plans,
            gpu: "a made-up GPU",
            largest: LARGEST,
        }
    }

    fn engines(&self, precision: Precision) -> crate::Result<Vec<Admission>> {
        let mut place = Cpu::default();
        let (engines, admissions) = self.source().engines(&self.reference, precision, &mut place)?;
        engines.networks([&mut Cpu::default(), &mut place], 4, LARGEST)?;
        Ok(admissions)
    }

    fn report(&self) -> String {
        std::fs::read_to_string(self.plans.dir().join(REPORT)).unwrap()
    }
}

/// The whole way: compiled, kept, loaded, compared with FP32, admitted, and said so beside the plans.
#[test]
fn networks_are_admitted_as_they_are() {
    for version in [8502, 100_300] {
        let bench = Bench::new(version);
        let admissions = bench.engines(Precision::Fp16).unwrap();
        for (admission, network) in admissions.iter().zip(Network::ALL) {
            assert_eq!(
                (admission.network, admission.precision),
                (network, Precision::Fp16)
            );
            assert!(admission.refused.is_empty(), "{admission}");
        }
        assert!(
            bench
                .report()
                .starts_with("detector: fp16 admitted, 0 of 16 faces lost"),
            "{}",
            bench.report()
        );
        // The second start compiles nothing.
        bench.fake.set(version, "build");
        bench.engines(Precision::Fp16).unwrap();
    }
}

/// By the shipped recipes every network is near enough to FP32 for INT8, as far as that can be seen without a GPU.
#[test]
fn int8_is_admitted() {
    let admissions = Bench::new(100_300).engines(Precision::Int8).unwrap();
    for admission in admissions {
        // New weights are without a recipe until they are calibrated; then FP16 serves.
        let waits = |(_, reason): &(Precision, String)| reason.contains("its INT8 recipe was made for");
        let may_wait = admission.network == Network::Generator && admission.refused.iter().any(waits);
        assert!(admission.precision == Precision::Int8 || may_wait, "{admission}");
    }
}

/// INT8 that is not admitted falls back to FP16; FP16 that is not admitted is not run.
#[test]
fn what_is_refused_falls_back_and_says_why() {
    let bench = Bench::new(100_300);
    // The plans of FP16 are there; those of INT8 cannot be compiled.
    let compile = |precision| {
        bench
            .source()
            .compile(precision, Settings::default(), &indicatif::ProgressBar::hidden())
    };
    compile(Precision::Fp16).unwrap();
    bench.fake.set(100_300, "build");
    compile(Precision::Int8).unwrap();
    let admissions = bench.engines(Precision::Int8).unwrap();
    for admission in &admissions {
        assert_eq!(admission.precision, Precision::Fp16);
        let [(Precision::Int8, reason)] = admission.refused.as_slice() else {
            panic!("{admission}")
        };
        let has_recipe = !reason.contains("recipe");
        assert!(
            !has_recipe || reason.contains("build was made to fail"),
            "{reason}"
        );
    }
    assert!(bench.report().contains("int8 refused: "), "{}", bench.report());
    // A device that computes something else.
    bench.fake.set(100_300, "numbers");
    let error = bench.engines(Precision::Int8).unwrap_err();
    assert!(matches!(error, crate::Error::NotAdmitted { .. }), "{error}");
    let words = error.to_string();
    assert!(
        words.starts_with("detector: not admitted: ") && words.contains("fp16: "),
        "{words}"
    );
    assert!(
        bench.report().contains("detector: not admitted: "),
        "{}",
        bench.report()
    );
    // A plan that TensorRT does not load is compiled once more, and then it is as it is.
    bench.fake.set(100_300, "deserialize");
    let words = bench.engines(Precision::Fp16).unwrap_err().to_string();
    assert!(words.contains("it made no engine"), "{words}");
}
