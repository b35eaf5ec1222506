//! `persona check --gpu`: whether the GPU does what the CPU does, and how fast.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use kernels::Result;
use kernels::cuda::roofline::{Limits, Load, measure};
use kernels::cuda::{Cuda, Device, agreement};

/// Faces in the frames that are timed.
const FACES: [usize; 3] = [1, 4, 16];
/// How often each kernel is timed.
const ROUNDS: usize = 50;

/// Compares `cases` random frames with the CPU, then times the kernels; gives a report for people.
///
/// # Errors
/// When there is no usable GPU, when it fails, or when a byte differs by more than 1 code value.
pub fn check(cases: u64) -> Result<String> {
    let device = Device::open(0)?;
    let mut cuda = Cuda::new(&device)?;
    let (major, minor) = device.compute_capability();
    let mut report = format!("{}, compute capability {major}.{minor}\n\n", device.name());
    let agreement = agreement::compare(&mut cuda, 0..cases)?;
    let _ = writeln!(
        report,
        "Like the CPU: {} random frames with {} faces; {} of {} bytes differ, by 1 code value; tensors by at most {:.3} \
         of 255\n",
        agreement.cases, agreement.faces, agreement.different, agreement.bytes, agreement.tensors
    );
    let _ = writeln!(
        report,
        "Microseconds a 1080p frame, measured (predicted by docs/performance.md):"
    );
    let _ = writeln!(
        report,
        "{:8} {:>18} {:>18} {:>18}",
        "", "1 face", "4 faces", "16 faces"
    );
    let limits = Limits::of(&device);
    let mut measured = [[Duration::ZERO; 5]; FACES.len()];
    for (measured, faces) in measured.iter_mut().zip(FACES) {
        *measured = measure(&mut cuda, faces, ROUNDS, Instant::now)?;
    }
    for (kernel, load) in Load::of(1).iter().enumerate() {
        let _ = write!(report, "{:8}", load.kernel);
        for (measured, faces) in measured.iter().zip(FACES) {
            let micros = |duration: Duration| format!("{:.0}", duration.as_secs_f64() * 1e6);
            let predicted = limits.map_or("unknown".into(), |limits| {
                micros(Load::of(faces)[kernel].predicted(limits))
            });
            let _ = write!(
                report,
                " {:>18}",
                format!("{} ({predicted})", micros(measured[kernel]))
            );
        }
        let _ = writeln!(report);
    }
    Ok(report)
}
