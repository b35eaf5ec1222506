//! What becomes of a driver that is missing, too old or failing. The cases need the driver of the tests, which takes
//! its faults from the environment: `cargo xtask kernels` makes it and runs them.

#![cfg(feature = "cuda")]

use std::process::Command;

use kernels::cuda::{Cuda, Device, Format, Picture, Rows};
use kernels::{Color, Hull, Kernels, MEAN_FACE, Matrix, Placement, Range, Region, Similarity};

/// Runs one of the tests below in a process of its own and gives what it printed.
fn in_a_process(test: &str, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--ignored", "--nocapture"]);
    for (name, value) in environment {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{environment:?}: {printed}");
    printed
}

#[test]
#[ignore = "part of the cases below"]
fn open() {
    match Device::open(0) {
        Ok(device) => println!("opened {} {:?}", device.name(), device.compute_capability()),
        Err(error) => println!("refused: {error}"),
    }
}

#[test]
#[ignore = "needs the CUDA driver that `cargo xtask kernels` makes"]
fn what_cannot_be_used_is_refused_with_the_remedy() {
    struct Case(&'static [(&'static str, &'static str)], &'static str);
    let cases = [
        Case(&[], "opened no GPU"),
        Case(&[("LD_LIBRARY_PATH", "")], "install NVIDIA's driver"),
        Case(
            &[("FAKE_CUDA_VERSION", "10020")],
            "the driver speaks CUDA 10.2, which is too old: 11.4 is needed (JetPack 5.1)",
        ),
        Case(&[("FAKE_CUDA_DEVICES", "0")], "CUDA_ERROR_NO_DEVICE"),
        Case(
            &[("FAKE_CUDA_CAPABILITY", "62")],
            "has compute capability 6.2; 7.2 is needed (Xavier or newer)",
        ),
        Case(&[("FAKE_CUDA_CAPABILITY", "72")], "opened"),
        Case(&[("FAKE_CUDA_CAPABILITY", "110")], "opened"),
    ];
    for Case(environment, wanted) in cases {
        let printed = in_a_process("open", environment);
        assert!(printed.contains(wanted), "{environment:?}: {printed}");
    }
}

#[test]
#[ignore = "part of the case below"]
fn blend_and_finish() {
    let device = Device::open(0).unwrap();
    let mut cuda = Cuda::new(&device).unwrap();
    let faces = cuda.tensor([1, 3, 8, 8]).unwrap();
    let masks = cuda.tensor([1, 1, 8, 8]).unwrap();
    let mut picture = Picture::new(&device, 64 * 96).unwrap();
    let color = Color {
        matrix: Matrix::Bt709,
        range: Range::Limited,
    };
    let rows = |offset: usize| Rows { offset, stride: 64 };
    let format = Format::Nv12 {
        y: rows(0),
        uv: rows(64 * 64),
    };
    picture
        .with_frame([64, 64], color, format, |frame| {
            let align = Similarity {
                a: 1.0 / 40.0,
                b: 0.0,
                tx: -0.2,
                ty: -0.2,
            };
            let back = align.inverse();
            let hull = Hull::of(&MEAN_FACE.map(|point| back.apply(point)));
            let asked = cuda.blend(frame, &[Placement { align, hull }], &faces, &masks);
            println!("blend {asked:?}");
            println!("finish {:?}", cuda.finish().map_err(|error| error.to_string()));
            let covered = cuda.cover(frame, &[Region::Frame]).and_then(|()| cuda.finish());
            println!("cover {:?}", covered.map_err(|error| error.to_string()));
        })
        .unwrap();
}

/// A kernel that fails does so after it was asked for: the frame must not count as done, nor as covered afterwards.
#[test]
#[ignore = "needs the CUDA driver that `cargo xtask kernels` makes"]
fn a_kernel_that_fails_is_reported_before_the_frame_is_shown() {
    let sound = in_a_process("blend_and_finish", &[]);
    assert!(
        sound.contains("finish Ok(())") && sound.contains("cover Ok(())"),
        "{sound}"
    );
    let failing = in_a_process("blend_and_finish", &[("FAKE_CUDA_FAULT", "blend_f32")]);
    assert!(failing.contains("blend Ok(())"), "{failing}");
    for step in ["finish", "cover"] {
        let line = failing
            .lines()
            .find(|line| line.contains(&format!("{step} Err")))
            .unwrap_or_default();
        assert!(line.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{failing}");
    }
}
