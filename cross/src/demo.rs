use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{clips, setup, steps};

/// Anonymizes `clip`, or the two default clips, into `out/`.
///
/// # Errors
/// What is missing, which file cannot be read, or which step failed.
pub fn run(root: &Path, clip: Option<&Path>) -> Result<()> {
    if let Some(clip) = clip {
        fs::File::open(clip).with_context(|| format!("the clip {} cannot be opened", clip.display()))?;
    }
    setup::ensure()?;
    let persona = steps::build_persona(root, "release")?;
    steps::run(Command::new(&persona).args(["models", "fetch"]))?;

    let out = root.join("out");
    fs::create_dir_all(&out)?;
    let clips: Vec<(PathBuf, &str)> = match clip {
        Some(clip) => vec![(clip.to_owned(), "demo")],
        None => {
            let [portrait, carphone] = clips::defaults(root)?;
            vec![(portrait, "demo"), (carphone, "demo-carphone")]
        }
    };
    for (input, name) in &clips {
        let video = out.join(name).with_extension("mp4");
        println!("\n{} -> {}", input.display(), video.display());
        steps::run(
            Command::new(&persona)
                .arg("run")
                .arg("--input")
                .arg(input)
                .arg("--output")
                .arg(&video)
                .arg("--overwrite"),
        )?;
        steps::run(
            Command::new(&persona)
                .arg("sheet")
                .arg("--input")
                .arg(input)
                .arg("--output")
                .arg(&video)
                .arg("--to")
                .arg(out.join(name).with_extension("png")),
        )?;
    }
    println!("\nin {}:", out.display());
    for (_, name) in &clips {
        println!("  {name}.mp4  the anonymized clip\n  {name}.png  inputs above outputs");
    }
    Ok(())
}
