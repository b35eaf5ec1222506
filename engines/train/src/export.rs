//! Trained weights as the files that the product and TensorRT load.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

/// The prefix of the generator's variables in training files.
const PREFIX: &str = "generator.";

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

/// Writes the generator of `weights` into `folder`: `NAME.safetensors` (FP16, what the product embeds) and
/// `NAME.onnx` (opset 13, FP32).
///
/// # Errors
/// When a file cannot be read or written, or the weights are not a generator's.
pub fn export(weights: &Path, folder: &Path, name: &str) -> Result<()> {
    fs::create_dir_all(folder)?;
    let half: Vec<_> = generator(weights)?
        .into_iter()
        .map(|(name, tensor)| (name, tensor.to_kind(Kind::Half)))
        .collect();
    let path = folder.join(format!("{name}.safetensors"));
    Tensor::write_safetensors(&half, &path).with_context(|| format!("cannot write {}", path.display()))?;
    // From the rounded weights, so that both files are the same network.
    let weights = engines::onnx::generator::Weights::read(&fs::read(&path)?)?;
    fs::write(
        folder.join(format!("{name}.onnx")),
        engines::onnx::generator::generator(&weights)?,
    )?;
    Ok(())
}
