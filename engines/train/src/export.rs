//! Trained weights as the files that the product and TensorRT load.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use engines::cpu::Runtime;
use engines::golden::record_generator;
use engines::models::Network;
use engines::onnx::generator::{Sizes, Weights, generator as graph};
use engines::quantize::accuracy::{Accuracy, Samples};
use engines::quantize::{Sample, best_recipe, fp16, int8};
use engines::{Engine, generator::signature};
use indicatif::ProgressBar;
use kernels::Kernels;
use kernels::cpu::Cpu;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::data::Faces;
use crate::network::{Generator, Size};
use crate::preset::Preset;

/// What to export, and to where.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Weights file or checkpoint; of a checkpoint, the averaged generator is taken
    #[arg(long)]
    pub weights: PathBuf,
    /// The preset that it was trained by
    #[arg(long, default_value = "edge128")]
    pub preset: String,
    /// Directory to write to
    #[arg(long)]
    pub out: PathBuf,
    /// Name of the files
    #[arg(long, default_value = "edge128")]
    pub name: String,
    /// Prepared faces to calibrate the INT8 form on; without them, none is written
    #[arg(long)]
    pub calibrate: Option<PathBuf>,
    /// Where the weights come from, in words, for the golden file: data, steps, samples, what they reached
    #[arg(long)]
    pub provenance: String,
    /// Store of the frozen networks, for its ONNX Runtime [default: the product's]
    #[arg(long)]
    pub models: Option<PathBuf>,
}

/// The prefix of the generator's variables in training files.
const PREFIX: &str = "generator.";
/// Largest difference of the ONNX files from the trainer's own arithmetic, outputs from -1 to 1: FP32 and FP16.
const TOLERANCES: [f64; 2] = [1e-3, 3e-2];
/// Faces that the INT8 form is calibrated on.
const CALIBRATION_FACES: usize = 200;

/// The generator of a weights file, by names without prefix; of a checkpoint, the averaged one.
fn generator(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let all =
        Tensor::read_safetensors(path).with_context(|| format!("cannot read weights {}", path.display()))?;
    let averaged = format!("average.{PREFIX}");
    let prefix = [averaged.as_str(), PREFIX]
        .into_iter()
        .find(|prefix| all.iter().any(|(name, _)| name.starts_with(prefix)))
        .unwrap_or("");
    let mut named: Vec<_> = all
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor)))
        .collect();
    ensure!(!named.is_empty(), "{} holds no generator", path.display());
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(named)
}

/// The generator of a weights file or checkpoint as the bytes of a safetensors file without prefixes, FP32.
///
/// # Errors
/// When the file is missing or holds no generator.
pub fn bare(path: &Path) -> Result<Vec<u8>> {
    let temporary = tempfile::Builder::new().suffix(".safetensors").tempfile()?;
    let named: Vec<_> = generator(path)?
        .into_iter()
        .map(|(name, tensor)| (name, tensor.to_kind(Kind::Float)))
        .collect();
    Tensor::write_safetensors(&named, temporary.path())?;
    Ok(fs::read(temporary.path())?)
}

/// Writes `NAME.safetensors` (FP16) and `NAME.toml` (golden values), which the product embeds, and `NAME.onnx`
/// (opset 13, FP32) and `NAME.fp16.onnx` (computing in FP16, inputs and outputs FP32). Both ONNX files are run
/// through the product's CPU engine and compared with the trainer's own arithmetic before anything is said to be
/// good. With faces to calibrate on, also `NAME.int8.onnx` (QuantizeLinear and DequantizeLinear) and `NAME.int8.toml`,
/// the recipe that the product embeds, provided that the result is as near to FP32 as the product wants it.
///
/// # Errors
/// When a file cannot be read or written, the weights are not the preset's, or a file computes something else.
pub fn export(options: &Options) -> Result<()> {
    let path = |ending: &str| options.out.join(format!("{}.{ending}", options.name));
    let write = |ending: &str, bytes: &[u8]| {
        let path = path(ending);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    fs::create_dir_all(&options.out).with_context(|| format!("cannot make {}", options.out.display()))?;
    let half: Vec<_> = generator(&options.weights)?
        .into_iter()
        .map(|(name, tensor)| (name, tensor.to_kind(Kind::Half)))
        .collect();
    Tensor::write_safetensors(&half, path("safetensors"))?;
    // Everything else is made of the rounded weights, so that all files are one network.
    let weights = Weights::read(&fs::read(path("safetensors"))?)?;
    let side = Sizes::of(&weights)?.side;
    let single = graph(&weights)?;
    let size = Preset::load(&options.preset)?.generator;
    let wanted = reference(&half, &size)?;

    let store = crate::fit::store(options.models.as_deref())?;
    let runtime = Runtime::load(&store.runtime_library()?, 1)?;
    let files = [("onnx", single.clone()), ("fp16.onnx", fp16(&single)?)];
    for ((ending, onnx), tolerance) in files.iter().zip(TOLERANCES) {
        let mut engine = runtime.engine(onnx, &signature(side))?;
        let difference = run(engine.as_mut(), &size)?
            .iter()
            .zip(&wanted)
            .map(|(got, wanted)| (got - wanted).abs().max().double_value(&[]))
            .fold(0.0, f64::max);
        ensure!(
            difference <= tolerance,
            "{ending}: differs by {difference:.2e} from the trainer, allowed {tolerance:.0e}"
        );
        write(ending, onnx)?;
        println!(
            "{}: within {difference:.1e} of the trainer",
            path(ending).display()
        );
    }
    let mut engine = runtime.engine(&single, &signature(side))?;
    let golden = record_generator(&mut Cpu::default(), engine.as_mut(), side, &options.provenance)?;
    write("toml", golden.as_bytes())?;
    let Some(calibrate) = &options.calibrate else {
        return Ok(());
    };
    let samples = Samples {
        inputs: samples(&Faces::read(calibrate)?)?,
        ..Samples::default()
    };
    let bar = ProgressBar::new(0);
    let found = best_recipe(
        &runtime,
        Network::Generator,
        &single,
        &samples,
        Accuracy::is_good,
        &bar,
    )?;
    bar.finish_and_clear();
    ensure!(
        found.accuracy.is_enough(),
        "int8.onnx: {} on the calibration faces: not near enough to FP32",
        found.accuracy
    );
    let mut recipe = found.recipe;
    // The set's name, not where it lies on this machine.
    let set = calibrate.file_stem().unwrap_or_default().to_string_lossy();
    recipe.calibration = format!("{} faces of {set}", samples.inputs.len());
    write("int8.onnx", &int8(&single, &recipe)?)?;
    write("int8.toml", recipe.text()?.as_bytes())?;
    println!("{}: {}", path("int8.onnx").display(), found.accuracy);
    Ok(())
}

/// Faces as the generator is given them, each with its own descriptor, evenly spaced over the set.
fn samples(faces: &Faces) -> Result<Vec<Sample>> {
    let step = faces.len().div_ceil(CALIBRATION_FACES).max(1);
    let sample = |index: usize| {
        let index = index as i64;
        let batch = faces.batch(&[index], &[index], &[false], Device::Cpu);
        [batch.pictures, batch.targets]
            .into_iter()
            .map(|tensor| {
                let size = tensor.size();
                let shape = size.iter().map(|side| Ok(usize::try_from(*side)?));
                let shape = shape.collect::<Result<Vec<_>>>()?;
                Ok((shape, Vec::<f32>::try_from(tensor.flatten(0, -1))?))
            })
            .collect()
    };
    (0..faces.len()).step_by(step).map(sample).collect()
}

/// A face and a target that use the whole range of values.
fn inputs(size: &Size) -> (Tensor, Tensor) {
    tch::manual_seed(1);
    let options = (Kind::Float, Device::Cpu);
    let coarse = Tensor::rand([1, 3, 16, 16], options) * 2.0 - 1.0;
    let face = coarse.upsample_bilinear2d([size.side, size.side], false, None, None);
    (
        face,
        crate::recognizer::unit(&Tensor::randn([1, size.embedding], options)),
    )
}

/// A frozen generator with the weights of a file or checkpoint.
///
/// # Errors
/// When the file cannot be read or holds a generator of another size.
pub fn load(path: &Path, size: &Size) -> Result<Generator> {
    frozen(&generator(path)?, size).with_context(|| path.display().to_string())
}

fn frozen(weights: &[(String, Tensor)], size: &Size) -> Result<Generator> {
    let mut store = VarStore::new(Device::Cpu);
    let generator = Generator::new(&store.root(), size);
    store.freeze();
    let mut variables = store.variables();
    for (name, tensor) in weights {
        let variable = variables
            .get_mut(name)
            .with_context(|| format!("the preset's generator has no {name}"))?;
        variable
            .f_copy_(tensor)
            .with_context(|| format!("{name} is not the preset's"))?;
    }
    Ok(generator)
}

/// Image and mask by the trainer's own arithmetic.
fn reference(weights: &[(String, Tensor)], size: &Size) -> Result<[Tensor; 2]> {
    let (face, target) = inputs(size);
    let (image, mask) = frozen(weights, size)?.forward(&face, &target);
    Ok([image, mask])
}

/// Image and mask by the product's CPU engine.
fn run(engine: &mut dyn Engine<Cpu>, size: &Size) -> Result<[Tensor; 2]> {
    let mut place = Cpu::default();
    let (side, embedding) = (usize::try_from(size.side)?, usize::try_from(size.embedding)?);
    let (face, target) = inputs(size);
    let mut given = [
        place.tensor([1, 3, side, side])?,
        place.tensor([1, embedding, 1, 1])?,
    ];
    for (tensor, values) in given.iter_mut().zip([face, target]) {
        place.write(tensor, 0, &Vec::<f32>::try_from(values.flatten(0, -1))?)?;
    }
    let mut outputs = [
        place.tensor([1, 3, side, side])?,
        place.tensor([1, 1, side, side])?,
    ];
    engine.run(&[&given[0], &given[1]], &mut outputs)?;
    let shaped = |index: usize, channels| {
        Tensor::from_slice(outputs[index].data()).view([1, channels, size.side, size.side])
    };
    Ok([shaped(0, 3), shaped(1, 1)])
}
