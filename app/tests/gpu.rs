//! The pipeline with pixels and networks on a GPU that is made up: the kernels compiled for the processor behind a driver
//! of the tests, and a TensorRT that computes in ONNX Runtime. `cargo xtask test` makes both (step "GPU") and runs this.
//! It shows the way of a frame and what becomes of every error; it shows nothing about a real GPU.

mod clip;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engines::models::{Network, Store, default_dir};
use engines::trt::{Device as _, Executor, Library, Profile, Recipe};
use engines::{Engine, InputSize, Precision, generator};
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use kernels::Kernels;
use kernels::cuda::{Cuda, Device, Tensor};

const WIDTH: usize = 320;
const HEIGHT: usize = 240;

/// A made-up GPU in a folder of its own.
struct Gpu(tempfile::TempDir);

impl Gpu {
    /// The one that this process has loaded.
    fn here() -> PathBuf {
        let folder = std::env::var_os("PERSONA_GPU_LIBRARIES");
        folder
            .expect("`cargo xtask test` makes the libraries and says where")
            .into()
    }

    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "libcuda.so.1",
            "libnvbufsurface.so.1.0.0",
            "libnvinfer.so.10",
            "libnvonnxparser.so.10",
        ] {
            std::fs::copy(Self::here().join(name), folder.path().join(name)).unwrap();
        }
        Self(folder)
    }

    /// Lets TensorRT fail at something.
    fn fail(folder: &Path, what: &str) {
        std::fs::write(folder.join("fake"), format!("version 100300\nfail {what}\n")).unwrap();
    }

    /// Runs the program on this GPU.
    fn run(
        &self,
        from: &Path,
        to: &Path,
        models: &Path,
        more: &[&str],
        environment: &[(&str, &str)],
    ) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_persona"));
        command
            .arg("run")
            .arg("--input")
            .arg(from)
            .arg("--output")
            .arg(to);
        command.arg("--models").arg(models).args(more);
        command.env("LD_LIBRARY_PATH", self.0.path());
        // Where the made-up TensorRT finds its ONNX Runtime.
        command.env("PERSONA_MODELS", default_dir());
        command.envs(environment.iter().copied()).output().unwrap()
    }
}

/// The networks with plans of their own. ONNX Runtime is loaded once per process, so all tests use one folder.
fn models() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("networks-on-the-gpu");
    std::fs::create_dir_all(&folder).unwrap();
    for entry in std::fs::read_dir(default_dir()).unwrap() {
        let entry = entry.unwrap();
        let link = folder.join(entry.file_name());
        if entry.file_name() != "plans" && !link.exists() {
            std::os::unix::fs::symlink(entry.path(), link).unwrap();
        }
    }
    folder
}

fn caps(format: &str, feature: &str) -> String {
    format!(
        "video/x-raw{feature},format={format},width={WIDTH},height={HEIGHT},framerate=25/1,colorimetry=bt709,\
         interlace-mode=progressive"
    )
}

/// A face of nobody, which moves a little from frame to frame, as NV12.
fn frames(count: u64) -> Vec<gst::Buffer> {
    let pipeline = gst::parse::launch(&format!(
        "appsrc name=source format=time caps={} ! videoconvert ! {} ! appsink name=sink sync=false",
        caps("RGB", "").replace("colorimetry=bt709", "colorimetry=sRGB"),
        caps("NV12", "")
    ));
    let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
    let source: gst_app::AppSrc = pipeline.by_name("source").unwrap().downcast().unwrap();
    let sink: gst_app::AppSink = pipeline.by_name("sink").unwrap().downcast().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let face = engines::drawing::face(HEIGHT, WIDTH, 0.8, 0);
    let mut buffers = Vec::new();
    for number in 0..count {
        let mut rgb = vec![0; 3 * WIDTH * HEIGHT];
        for (pixel, rgb) in rgb.chunks_exact_mut(3).enumerate() {
            let (x, y) = (pixel % WIDTH, pixel / WIDTH);
            let x = (x + number as usize).min(WIDTH - 1);
            for (channel, value) in rgb.iter_mut().enumerate() {
                *value = face[(channel * HEIGHT + y) * WIDTH + x] as u8;
            }
        }
        let mut buffer = gst::Buffer::from_mut_slice(rgb);
        let own = buffer.get_mut().unwrap();
        own.set_pts(number * 40 * gst::ClockTime::MSECOND);
        own.set_duration(40 * gst::ClockTime::MSECOND);
        source.push_buffer(buffer).unwrap();
        let sample = sink.pull_sample().unwrap();
        buffers.push(sample.buffer_owned().unwrap());
    }
    pipeline.set_state(gst::State::Null).unwrap();
    buffers
}

fn bytes(buffer: &gst::BufferRef) -> Vec<u8> {
    buffer.map_readable().unwrap().to_vec()
}

/// appsrc ! persona ! appsink
struct Bench {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    sink: gst_app::AppSink,
}

impl Bench {
    fn start(place: &str, models: &Path, feature: &str) -> Self {
        clip::init();
        let pipeline = gst::parse::launch(&format!(
            "appsrc name=source format=time caps={} ! persona name=persona place={place} models={} ! \
             appsink name=sink sync=false",
            caps("NV12", feature),
            models.display()
        ));
        let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
        let by_name = |name| pipeline.by_name(name).unwrap();
        let bench = Self {
            source: by_name("source").downcast().unwrap(),
            sink: by_name("sink").downcast().unwrap(),
            pipeline,
        };
        if bench.pipeline.set_state(gst::State::Playing).is_err() {
            let bus = bench.pipeline.bus().unwrap();
            match bus.pop_filtered(&[gst::MessageType::Error]).unwrap().view() {
                gst::MessageView::Error(error) => panic!("{}", error.error()),
                _ => unreachable!(),
            }
        }
        bench
    }

    fn push(&self, frame: gst::Buffer) {
        self.source.push_buffer(frame).unwrap();
    }

    fn pull(&self) -> Option<gst::Sample> {
        self.sink.try_pull_sample(60 * gst::ClockTime::SECOND)
    }

    /// Everything that comes out of these frames, and how many faces were replaced.
    fn all(&self, frames: impl IntoIterator<Item = gst::Buffer>) -> (Vec<gst::Buffer>, u64) {
        for frame in frames {
            self.push(frame);
        }
        self.source.end_of_stream().unwrap();
        let out = std::iter::from_fn(|| self.pull()).map(|sample| sample.buffer_owned().unwrap());
        (out.collect(), self.generated())
    }

    fn generated(&self) -> u64 {
        let persona = self.pipeline.by_name("persona").unwrap();
        persona
            .property::<gst::Structure>("stats")
            .get("generated")
            .unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.pipeline.set_state(gst::State::Null).unwrap();
    }
}

/// Copies that the element may change.
fn copies(frames: &[gst::Buffer]) -> Vec<gst::Buffer> {
    frames.iter().map(|frame| frame.copy_deep().unwrap()).collect()
}

/// Mean absolute difference of two pictures.
fn difference(a: &[u8], b: &[u8]) -> f64 {
    let sum: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.len() as f64
}

/// Whether the luma is one grey: covered as a whole.
fn is_covered(nv12: &[u8]) -> bool {
    let luma = &nv12[..WIDTH * HEIGHT];
    let (least, most) = (luma.iter().min().unwrap(), luma.iter().max().unwrap());
    most - least <= 2
}

/// `NvBufSurface` over NV12 rows in memory of a graphics card, which for the made-up driver is any memory: the kind of
/// surface that needs no mapping. The fields lie where the headers of Jetson Linux r35 to r39 put them.
struct Surface {
    head: Vec<u8>,
    // Only pointed to.
    _params: Box<[u64; 52]>,
    _pixels: Pixels,
}

/// What the driver changes while others may look.
type Pixels = Arc<[AtomicU8]>;

impl Surface {
    fn new(pixels: &Pixels) -> Self {
        const CUDA_DEVICE: u64 = 2;
        const NV12_709: usize = 33;
        let mut params = Box::new([0; 52]);
        let pair = |low: usize, high: usize| low as u64 | (high as u64) << 32;
        params[0] = pair(WIDTH, HEIGHT);
        params[1] = pair(WIDTH, NV12_709);
        params[5] = pixels.as_ptr() as u64;
        // Planes: their number; then widths, heights, pitches, offsets and sizes, four of each.
        params[6] = pair(2, WIDTH);
        params[7] = pair(WIDTH / 2, 0);
        params[8] = pair(0, HEIGHT);
        params[9] = pair(HEIGHT / 2, 0);
        params[10] = pair(0, WIDTH);
        params[11] = pair(WIDTH, 0);
        params[13] = pair(WIDTH * HEIGHT, 0);
        params[14] = pair(0, WIDTH * HEIGHT);
        params[15] = pair(WIDTH * HEIGHT / 2, 0);
        // One picture of a batch of one.
        let head = [1 << 32, 1, CUDA_DEVICE, params.as_ptr() as u64, 0, 0, 0, 0];
        Self {
            head: head.iter().flat_map(|word: &u64| word.to_le_bytes()).collect(),
            _params: params,
            _pixels: pixels.clone(),
        }
    }
}

impl AsMut<[u8]> for Surface {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.head
    }
}

#[test]
#[ignore = "needs the made-up GPU of `cargo xtask test`"]
fn frames_on_the_gpu_are_those_of_the_cpu() {
    let models = models();
    clip::init();
    let frames = frames(12);
    let [(cpu, faces), (gpu, same)] =
        ["cpu", "cuda"].map(|place| Bench::start(place, &models, "").all(copies(&frames)));
    assert_eq!((cpu.len(), gpu.len()), (12, 12));
    assert_eq!(faces, same);
    assert!(faces >= 8, "{faces} faces were replaced");
    for ((cpu, gpu), raw) in cpu.iter().zip(&gpu).zip(&frames) {
        assert_eq!(cpu.pts(), gpu.pts());
        let [cpu, gpu, raw] = [cpu, gpu, raw].map(|buffer| bytes(buffer));
        // FP16 against FP32.
        assert!(difference(&cpu, &gpu) < 0.05, "{}", difference(&cpu, &gpu));
        assert!(difference(&gpu, &raw) > 0.5, "{}", difference(&gpu, &raw));
    }
}

#[test]
#[ignore = "needs the made-up GPU of `cargo xtask test`"]
fn nvmm_buffers_are_changed_in_place() {
    let models = models();
    clip::init();
    let frames = frames(6);
    let (wanted, faces) = Bench::start("cuda", &models, "").all(copies(&frames));
    assert!(faces > 0);
    let bench = Bench::start("cuda", &models, "(memory:NVMM)");
    let pixels = frames
        .iter()
        .map(|frame| bytes(frame).into_iter().map(AtomicU8::new).collect());
    let pixels: Vec<Pixels> = pixels.collect();
    let buffers = frames.iter().zip(&pixels).map(|(frame, pixels)| {
        let mut buffer = gst::Buffer::from_mut_slice(Surface::new(pixels));
        buffer.get_mut().unwrap().set_pts(frame.pts());
        buffer
    });
    let buffers: Vec<_> = buffers.collect();
    let (out, same) = bench.all(buffers);
    assert_eq!((out.len(), same), (6, faces));
    let caps = bench.sink.static_pad("sink").unwrap().current_caps().unwrap();
    assert!(caps.features(0).unwrap().contains("memory:NVMM"), "{caps}");
    for ((out, pixels), wanted) in out.iter().zip(&pixels).zip(&wanted) {
        assert_eq!(out.size(), 64, "the surface went through");
        let pixels: Vec<_> = pixels.iter().map(|value| value.load(Ordering::Relaxed)).collect();
        assert!(pixels == bytes(wanted), "{}", difference(&pixels, &bytes(wanted)));
    }
}

/// A buffer that somebody else holds too cannot be copied here, so it goes nowhere; nor does one on a CPU.
#[test]
#[ignore = "needs the made-up GPU of `cargo xtask test`"]
fn nvmm_buffers_that_cannot_be_changed_go_nowhere() {
    let models = models();
    clip::init();
    let frame = &frames(1)[0];
    let pixels: Pixels = bytes(frame).into_iter().map(AtomicU8::new).collect();
    let bench = Bench::start("cuda", &models, "(memory:NVMM)");
    let mut held = gst::Buffer::from_mut_slice(Surface::new(&pixels));
    held.get_mut().unwrap().set_pts(frame.pts());
    let (out, _) = bench.all([held.clone()]);
    assert!(out.is_empty());
    let bench = Bench::start("cpu", &models, "(memory:NVMM)");
    drop(held);
    bench.push(gst::Buffer::from_mut_slice(Surface::new(&pixels)));
    let bus = bench.pipeline.bus().unwrap();
    let kinds = [gst::MessageType::Error];
    assert!(
        bus.timed_pop_filtered(20 * gst::ClockTime::SECOND, &kinds)
            .is_some()
    );
    assert!(bench.sink.try_pull_sample(gst::ClockTime::ZERO).is_none());
}

/// While a network does not run, frames are covered whole; when it does again, they are anonymized again.
#[test]
#[ignore = "needs the made-up GPU of `cargo xtask test`"]
fn an_engine_that_fails_covers() {
    let models = models();
    clip::init();
    let here = Gpu::here();
    let frames = frames(30);
    let bench = Bench::start("cuda", &models, "");
    for frame in copies(&frames[..10]) {
        bench.push(frame);
    }
    // Two are held back by the look-ahead, so eight come out, and what comes later was not looked at before.
    let out: Vec<_> = (0..8)
        .map(|_| bytes(bench.pull().unwrap().buffer().unwrap()))
        .collect();
    assert!(!is_covered(out.last().unwrap()));
    Gpu::fail(&here, "enqueue");
    for frame in copies(&frames[10..20]) {
        bench.push(frame);
    }
    let out: Vec<_> = (0..10)
        .map(|_| bytes(bench.pull().unwrap().buffer().unwrap()))
        .collect();
    // The two that were held were looked at in time; their faces are covered or replaced.
    for (number, (out, raw)) in out.iter().zip(&frames[8..]).enumerate() {
        assert!(
            is_covered(out) == (number >= 2) && difference(out, &bytes(raw)) > 0.5,
            "{number}"
        );
    }
    Gpu::fail(&here, "nothing");
    let before = bench.generated();
    let (out, _) = bench.all(copies(&frames[20..]));
    assert_eq!(out.len(), 12);
    assert!(!is_covered(&bytes(out.last().unwrap())));
    assert!(bench.generated() > before);
}

/// A clip with the face, as a file of so many frames.
fn clip_with_a_face(path: &Path, count: u64) {
    clip::init();
    let pipeline = gst::parse::launch(&format!(
        "appsrc name=source format=time caps={} ! x264enc speed-preset=ultrafast bframes=0 quantizer=10 pass=quant ! \
         mp4mux ! filesink location={}",
        caps("NV12", ""),
        path.display()
    ));
    let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
    let source: gst_app::AppSrc = pipeline.by_name("source").unwrap().downcast().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    for frame in frames(count) {
        source.push_buffer(frame).unwrap();
    }
    source.end_of_stream().unwrap();
    let bus = pipeline.bus().unwrap();
    bus.timed_pop_filtered(20 * gst::ClockTime::SECOND, &[gst::MessageType::Eos])
        .unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
#[ignore = "needs the made-up GPU of `cargo xtask test`"]
fn what_is_not_admitted_is_not_used() {
    let (gpu, models, folder) = (Gpu::new(), models(), tempfile::tempdir().unwrap());
    let from = folder.path().join("in.mp4");
    clip_with_a_face(&from, 15);
    Gpu::fail(gpu.0.path(), "numbers");
    let to = folder.path().join("cuda.mp4");
    let output = gpu.run(&from, &to, &models, &["--place", "cuda"], &[]);
    let (status, sentence) = clip::verdict(&output);
    assert_eq!(status, 2, "{sentence}");
    assert!(sentence.contains("detector: not admitted: fp16: "), "{sentence}");
    assert!(!to.exists());
    // It says so and goes on where the networks have proved themselves.
    let to = folder.path().join("auto.mp4");
    let output = gpu.run(&from, &to, &models, &[], &[]);
    clip::assert_done(&output);
    let (_, sentence) = clip::verdict(&output);
    assert!(
        sentence.contains("on the CPU, not on the GPU: detector: not admitted"),
        "{sentence}"
    );
    assert_eq!(clip::decode(&to).frames.len(), 15);
}

/// Every frame comes out, and from the moment on at which the device fails each is covered by the processor.
#[test]
#[ignore = "needs the made-up GPU of `cargo xtask test`"]
fn a_lost_device_covers() {
    let (gpu, models, folder) = (Gpu::new(), models(), tempfile::tempdir().unwrap());
    let (from, to) = (folder.path().join("in.mp4"), folder.path().join("out.mp4"));
    clip_with_a_face(&from, 15);
    let lost = [("FAKE_CUDA_FAULT", "blend_f32")];
    let output = gpu.run(&from, &to, &models, &["--place", "cuda"], &lost);
    let (_, sentence) = clip::verdict(&output);
    assert!(sentence.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{sentence}");
    assert!(
        sentence.contains("every frame from now on is covered whole"),
        "{sentence}"
    );
    let frames = clip::decode(&to).frames;
    assert_eq!(frames.len(), 15, "{sentence}");
    // The first frame that has a face to blend is the one at which the device is lost.
    assert!(
        frames.iter().skip(3).all(|frame| frame.contrast < 1.0),
        "{frames:?}"
    );
}

/// The processor waits for the GPU where it decides by numbers and nowhere else: docs/architecture.md says for which.
#[test]
#[ignore = "needs the made-up GPU of `cargo xtask test`"]
fn a_frame_takes_one_wait_to_find_faces_and_two_to_replace_them() {
    let (gpu, models, folder) = (Gpu::new(), models(), tempfile::tempdir().unwrap());
    let mut waits = |count: u64| {
        let file = |name: &str| folder.path().join(format!("{count}.{name}"));
        let (from, to, log) = (file("in.mp4"), file("out.mp4"), file("waits"));
        clip_with_a_face(&from, count);
        let noted = [("FAKE_CUDA_WAITS", log.to_str().unwrap())];
        let output = gpu.run(&from, &to, &models, &["--place", "cuda"], &noted);
        clip::assert_done(&output);
        let log = std::fs::read_to_string(log).unwrap();
        ["detect", "anonymize"].map(|thread| log.lines().filter(|line| *line == thread).count() as u64)
    };
    // More than a second, so that the face is verified again in between. What is made at the beginning and given back at
    // the end takes waits too, as many in both.
    let [short, long] = [15, 50].map(&mut waits);
    assert_eq!([long[0] - short[0], long[1] - short[1]], [35, 2 * 35]);
}

/// `persona build`, twice at once, compiles each network once and admits it; a plan that somebody changed is compiled anew and
/// the others are left as they are.
#[test]
#[ignore = "needs the made-up GPU of `cargo xtask test`"]
fn build_makes_a_box_ready() {
    let (gpu, models, folder) = (Gpu::new(), models(), tempfile::tempdir().unwrap());
    let plans = folder.path().join("plans");
    let build = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_persona"));
        command
            .args(["build", "--workspace", "64", "--plans"])
            .arg(&plans);
        command.arg("--models").arg(&models).args(more);
        command.env("LD_LIBRARY_PATH", gpu.0.path());
        command
            .env("PERSONA_MODELS", default_dir())
            .env("RUST_LOG", "info");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let said = |build: Child| {
        let output = build.wait_with_output().unwrap();
        let [out, log] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        (output.status.code(), out, log)
    };
    let compiled = |log: &str| log.matches("; compiling").count();
    let both = [build(&[]), build(&[])].map(said);
    for (status, out, log) in &both {
        assert_eq!(*status, Some(0), "{log}");
        for network in Network::ALL {
            assert!(out.contains(&format!("{network}: fp16 admitted, ")), "{out}");
        }
    }
    assert_eq!(both.iter().map(|(.., log)| compiled(log)).sum::<usize>(), 4);
    let plan = plans.join("generator-fp16.plan");
    let sound = std::fs::read(&plan).unwrap();
    let mut changed = sound.clone();
    changed[sound.len() / 2] ^= 1;
    std::fs::write(&plan, changed).unwrap();
    let (status, _, log) = said(build(&[]));
    assert_eq!((status, compiled(&log)), (Some(0), 1), "{log}");
    assert!(
        log.contains("generator-fp16.plan: it is not as it was written; compiling"),
        "{log}"
    );
    assert!(std::fs::read(&plan).unwrap() == sound);
    let (status, _, log) = said(build(&["--dla", "7"]));
    assert!(status != Some(0) && log.contains("leave out --dla"), "{log}");
}

const CAMERAS: usize = 5;
const ROUNDS: usize = 4;

/// Notes how many faces each run has, and takes as long as it takes to ask a GPU for the kernels of a network.
struct Noting(Executor, Arc<Mutex<Vec<usize>>>);

impl Engine<Cuda> for Noting {
    fn run(&mut self, inputs: &[&Tensor], outputs: &mut [Tensor]) -> engines::Result<()> {
        self.1.lock().unwrap().push(inputs[0].shape()[0]);
        std::thread::sleep(Duration::from_millis(20));
        Engine::<Cuda>::run(&mut self.0, inputs, outputs)
    }
}

/// A camera's faces: one or two, and the identities to leave.
struct Camera {
    number: usize,
    cuda: Cuda,
    inputs: [Tensor; 2],
    outputs: [Tensor; 2],
}

impl Camera {
    fn new(device: &Arc<Device>, number: usize) -> Self {
        let (mut cuda, faces) = (Cuda::new(device).unwrap(), 1 + number % 2);
        let mut tensor = |[channels, side]: [usize; 2]| cuda.tensor([faces, channels, side, side]).unwrap();
        let inputs = [[3, 128], [128, 1]].map(&mut tensor);
        let outputs = [[3, 128], [1, 128]].map(&mut tensor);
        Self {
            number,
            cuda,
            inputs,
            outputs,
        }
    }

    /// What the generator makes of this camera's faces, which are others in each round.
    fn generate(&mut self, engine: &mut dyn Engine<Cuda>, round: usize) -> Vec<f32> {
        for input in &mut self.inputs {
            for face in 0..input.shape()[0] {
                let period = 5 + 7 * self.number + 3 * round + face;
                let stripes = (0..input.entry_len()).map(|i| (i % period) as f32 / period as f32 * 2.0 - 1.0);
                let stripes: Vec<f32> = stripes.collect();
                self.cuda.write(input, face, &stripes).unwrap();
            }
        }
        let [face, target] = &self.inputs;
        engine.run(&[face, target], &mut self.outputs).unwrap();
        for output in &mut self.outputs {
            self.cuda.fetch(output).unwrap();
        }
        let values = self
            .outputs
            .iter_mut()
            .flat_map(|output| self.cuda.read(output).unwrap().to_vec());
        values.collect()
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
#[ignore = "part of the case below"]
fn cameras_share_runs() {
    // ONNX Runtime adds up in another order for another number of faces.
    const TOLERANCE: f32 = 1e-3;
    let (store, signature) = (Store::open(default_dir()).unwrap(), generator::signature(128));
    let largest = InputSize::covering(WIDTH, HEIGHT);
    let profiles = Profile::of(Network::Generator, &signature, largest);
    let library = Library::open(Some(&Gpu::here())).unwrap();
    let plan = library.build(&Recipe {
        onnx: &store.load(Network::Generator).unwrap(),
        signature: &signature,
        profiles: &profiles,
        precision: Precision::Fp32,
        workspace: None,
        dla: None,
    });
    let mut executor = library.load(&plan.unwrap(), &signature, &profiles, None).unwrap();
    let device = Device::open(0).unwrap();
    let alone = |number| {
        let mut camera = Camera::new(&device, number);
        let rounds = (0..ROUNDS).map(|round| camera.generate(&mut executor, round));
        rounds.collect::<Vec<_>>()
    };
    let wanted: Vec<Vec<Vec<f32>>> = (0..CAMERAS).map(alone).collect();
    let of_anybody = || wanted.iter().flatten();
    for (index, one) in of_anybody().enumerate() {
        let nearest = of_anybody()
            .skip(index + 1)
            .map(|other| largest_difference(one, other))
            .fold(f32::MAX, f32::min);
        assert!(nearest > 100.0 * TOLERANCE, "two requests look alike: {nearest}");
    }

    let faces = Arc::<Mutex<Vec<usize>>>::default();
    let noting = Box::new(Noting(executor, faces.clone()));
    let shared = Cuda::share(&mut Cuda::new(&device).unwrap(), noting, &signature, 8).unwrap();
    let done: Vec<Camera> = std::thread::scope(|scope| {
        let camera = |(number, wanted): (usize, &'_ Vec<Vec<f32>>)| {
            let (mut camera, mut shared) = (Camera::new(&device, number), shared.clone());
            for (round, wanted) in wanted.iter().enumerate() {
                let got = camera.generate(&mut shared, round);
                let difference = largest_difference(&got, wanted);
                assert!(
                    difference < TOLERANCE,
                    "camera {number}, round {round}: {difference}"
                );
            }
            camera
        };
        let thread = |camera_and_wanted| {
            let named = std::thread::Builder::new().name("camera".into());
            named
                .spawn_scoped(scope, move || camera(camera_and_wanted))
                .unwrap()
        };
        let threads: Vec<_> = wanted.iter().enumerate().map(thread).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // What is given back waits, here rather than in the cameras' threads.
    drop(done);
    let faces = faces.lock().unwrap();
    let asked: usize = (0..CAMERAS).map(|number| ROUNDS * (1 + number % 2)).sum();
    assert_eq!(faces.iter().sum::<usize>(), asked);
    println!("{} requests in {} runs", CAMERAS * ROUNDS, faces.len());
}

/// Faces of several cameras go through the generator in fewer runs than the cameras ask for, each camera gets what it gets
/// alone and nobody else's face, and it waits for the GPU as often as alone: when it reads the result.
#[test]
#[ignore = "needs the made-up GPU of `cargo xtask test`"]
fn faces_of_several_cameras_share_a_run_and_come_back_to_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("waits");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", "cameras_share_runs"]);
    let output = command.env("FAKE_CUDA_WAITS", &log).output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    let runs = said
        .split_once(" requests in ")
        .and_then(|(_, rest)| rest.split_once(" runs"))
        .and_then(|(runs, _)| runs.parse::<usize>().ok());
    assert!(runs.is_some_and(|runs| runs < CAMERAS * ROUNDS), "{said}");
    let log = std::fs::read_to_string(log).unwrap();
    let waits = log.lines().filter(|line| *line == "camera").count();
    assert_eq!(waits, CAMERAS * ROUNDS);
}

#[test]
#[ignore = "needs the made-up GPU of `cargo xtask test`"]
fn a_machine_without_a_gpu_uses_the_cpu() {
    let (gpu, models, folder) = (Gpu::new(), models(), tempfile::tempdir().unwrap());
    let (from, to) = (folder.path().join("in.mp4"), folder.path().join("out.mp4"));
    clip::init();
    clip::mp4(&from, 5, (160, 120));
    for (missing, words) in [
        ("libnvinfer.so.10", "not a usable TensorRT"),
        ("libcuda.so.1", "libcuda.so.1 is not on this machine"),
    ] {
        std::fs::remove_file(gpu.0.path().join(missing)).unwrap();
        let cuda = ["--overwrite", "--place", "cuda"];
        let (status, sentence) = clip::verdict(&gpu.run(&from, &to, &models, &cuda, &[]));
        assert!(status == 2 && sentence.contains(words), "{sentence}");
        let output = gpu.run(&from, &to, &models, &["--overwrite"], &[]);
        clip::assert_done(&output);
        assert_eq!(clip::verdict(&output).1, "", "nothing to warn of");
    }
}
