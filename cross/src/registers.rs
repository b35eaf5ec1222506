//! What NVIDIA's assembler says about the committed PTX: registers, shared memory, and whether anything had to be spilled.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{ptx, setup, steps};

/// A wheel with `ptxas`, by version and SHA-256, which pip itself compares; where it lies in there, and the GPUs that it
/// assembles for. NVIDIA's licence allows its use.
struct Assembler {
    wheel: &'static str,
    ptxas: &'static str,
    architectures: &'static [u32],
}

const ASSEMBLERS: [Assembler; 2] = [
    // Xavier, Orin, Hopper and CUDA 12's name for Thor.
    Assembler {
        wheel: "nvidia-cuda-nvcc-cu12==12.9.86 \
            --hash=sha256:5d6a0d32fdc7ea39917c20065614ae93add6f577d840233237ff08e9a38f58f0",
        ptxas: "nvidia/cuda_nvcc/bin/ptxas",
        architectures: &[72, 87, 90, 101],
    },
    // CUDA 13's name for Thor.
    Assembler {
        wheel: "nvidia-cuda-nvcc==13.0.88 \
            --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03",
        ptxas: "nvidia/cu13/bin/ptxas",
        architectures: &[110],
    },
];

/// What one kernel needs.
#[derive(Debug, Default, PartialEq)]
struct Needs {
    kernel: String,
    registers: u32,
    shared: u32,
    /// Bytes of the stack, stored and loaded.
    spilled: u32,
}

/// Prints what every kernel needs on every GPU.
///
/// # Errors
/// When an assembler cannot be had, refuses the PTX, or spills.
pub fn report(root: &Path) -> Result<()> {
    setup::ensure()?;
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "the assemblers' wheels are pinned for x86-64 Linux only"
    );
    println!(
        "{:12} {:>8} {:>10} {:>14} {:>8}",
        "kernel", "GPU", "registers", "shared bytes", "spilled"
    );
    let mut spills = 0;
    for assembler in &ASSEMBLERS {
        let ptxas = fetch(root, assembler)?;
        for &architecture in assembler.architectures {
            for needs in assemble(root, &ptxas, architecture)? {
                let gpu = format!("sm_{architecture}");
                let Needs {
                    kernel,
                    registers,
                    shared,
                    spilled,
                } = &needs;
                println!("{kernel:12} {gpu:>8} {registers:>10} {shared:>14} {spilled:>8}");
                spills += u32::from(needs.spilled > 0);
            }
        }
    }
    ensure!(spills == 0, "{spills} kernels spill registers to memory");
    Ok(())
}

fn assemble(root: &Path, ptxas: &Path, architecture: u32) -> Result<Vec<Needs>> {
    let (_, source) = ptx::files(root)
        .filter(|(oldest, _)| *oldest <= architecture)
        .max_by_key(|(oldest, _)| *oldest)
        .with_context(|| format!("no PTX is for sm_{architecture}"))?;
    let output = Command::new(ptxas)
        .args(["-v", &format!("-arch=sm_{architecture}"), "-o", "/dev/null"])
        .arg(&source)
        .output()
        .with_context(|| format!("{} cannot be started", ptxas.display()))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!(
            "ptxas refuses {} for sm_{architecture}: {messages}",
            source.display()
        );
    }
    let needs = needs(&messages);
    ensure!(
        !needs.is_empty(),
        "ptxas said nothing about {}: {messages}",
        source.display()
    );
    Ok(needs)
}

/// Reads what `ptxas -v` says.
fn needs(messages: &str) -> Vec<Needs> {
    let mut all: Vec<Needs> = Vec::new();
    let before = |line: &str, unit: &str| -> u32 {
        line.split(unit)
            .next()
            .and_then(|text| text.split_whitespace().next_back())
            .filter(|_| line.contains(unit))
            .and_then(|number| number.parse().ok())
            .unwrap_or(0)
    };
    for line in messages.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            all.push(Needs {
                kernel,
                ..Needs::default()
            });
        } else if let Some(last) = all.last_mut() {
            last.registers += before(line, " registers");
            last.shared += before(line, " bytes smem");
            for unit in [" bytes stack frame", " bytes spill stores", " bytes spill loads"] {
                last.spilled += before(line, unit);
            }
        }
    }
    all
}

/// The assembler out of its wheel, fetched once: about 40 MB.
fn fetch(root: &Path, assembler: &Assembler) -> Result<PathBuf> {
    let (name, _) = assembler.wheel.split_once(' ').context("a wheel has a hash")?;
    let folder = root.join("target/ptxas").join(name);
    let ptxas = folder.join(assembler.ptxas);
    steps::wheel(&folder, assembler.wheel, "40 MB")?;
    ensure!(
        ptxas.is_file(),
        "the wheel of {name} holds no {}",
        assembler.ptxas
    );
    Ok(ptxas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptxas_is_understood() {
        let messages = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'checksum' for 'sm_87'\n\
            ptxas info    : Function properties for checksum\n    \
            0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
            ptxas info    : Used 24 registers, used 1 barriers, 2048 bytes smem, 480 bytes cmem[0]\n\
            ptxas info    : Compiling entry function 'resize_f32' for 'sm_87'\n    \
            16 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads\n\
            ptxas info    : Used 48 registers, used 0 barriers, 528 bytes cmem[0]\n";
        let wanted = [("checksum", 24, 2048, 0), ("resize_f32", 48, 0, 48)].map(
            |(kernel, registers, shared, spilled)| Needs {
                kernel: kernel.to_owned(),
                registers,
                shared,
                spilled,
            },
        );
        assert_eq!(needs(messages), wanted);
    }
}
