//! Clips and pictures through ffmpeg, which is installed with the product's own dependencies.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kernels::{Color, Matrix, Range};

use super::product::Picture;

/// The first frames of a clip, at most 640 pixels wide, decoded by ffmpeg.
pub fn decode(path: &Path, frames: usize) -> Result<Vec<Picture>> {
    let mut ffmpeg = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(path)
        .args([
            "-frames:v",
            &frames.to_string(),
            "-vf",
            "scale='min(640,iw)':-2,format=yuv420p",
        ])
        .args(["-f", "yuv4mpegpipe", "-"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("ffmpeg cannot be started: install it")?;
    let mut bytes = Vec::new();
    ffmpeg
        .stdout
        .take()
        .context("ffmpeg without output")?
        .read_to_end(&mut bytes)?;
    ensure!(
        ffmpeg.wait()?.success(),
        "ffmpeg cannot decode {}",
        path.display()
    );
    let malformed = || format!("{}: not a YUV4MPEG2 stream", path.display());
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .with_context(malformed)?;
    let (header, mut rest) = bytes.split_at(end + 1);
    let header = std::str::from_utf8(header).with_context(malformed)?;
    let size = |key: char| -> Result<usize> {
        let field = header
            .split_whitespace()
            .skip(1)
            .find_map(|field| field.strip_prefix(key));
        field.with_context(malformed)?.parse().with_context(malformed)
    };
    let (width, height) = (size('W')?, size('H')?);
    let color = Color {
        matrix: Matrix::Bt601,
        range: Range::Limited,
    };
    let mut pictures = Vec::new();
    while let Some(line) = rest.iter().position(|byte| *byte == b'\n') {
        let frame = rest
            .get(line + 1..line + 1 + Picture::len(width, height))
            .with_context(malformed)?;
        pictures.push(Picture::new(width, height, color, frame.to_vec())?);
        rest = &rest[line + 1 + frame.len()..];
    }
    Ok(pictures)
}

/// Frames as an H.264 clip in MP4, as browsers play it.
///
/// # Errors
/// When ffmpeg is missing or fails, or there is no frame.
pub fn encode(frames: &[Picture], frames_per_second: u32) -> Result<Vec<u8>> {
    const OPTIONS: &str = "-c:v libx264 -crf 18 -preset medium -pix_fmt yuv420p -movflags +faststart";
    // MP4 is written with seeking, so that a pipe will not do.
    let file = tempfile::Builder::new().suffix(".mp4").tempfile()?;
    let rate = frames_per_second.to_string();
    let options: Vec<&str> = OPTIONS.split(' ').collect();
    convert(frames, &["-framerate", &rate], &options, file.path())?;
    Ok(std::fs::read(file.path())?)
}

/// One full-range picture as JPEG.
///
/// # Errors
/// When ffmpeg is missing or fails.
pub fn jpeg(picture: &Picture) -> Result<Vec<u8>> {
    let file = tempfile::Builder::new().suffix(".jpg").tempfile()?;
    let full = ["-color_range", "pc"];
    convert(
        std::slice::from_ref(picture),
        &full,
        &["-q:v", "2", "-frames:v", "1", "-update", "1"],
        file.path(),
    )?;
    Ok(std::fs::read(file.path())?)
}

fn convert(frames: &[Picture], input: &[&str], output: &[&str], to: &Path) -> Result<()> {
    let first = frames.first().context("a clip without frames")?;
    let size = format!("{}x{}", first.width(), first.height());
    let mut ffmpeg = Command::new("ffmpeg")
        .args([
            "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", &size,
        ])
        .args(input)
        .args(["-i", "-"])
        .args(output)
        .arg(to)
        .stdin(Stdio::piped())
        .spawn()
        .context("ffmpeg cannot be started: install it")?;
    let mut pipe = ffmpeg.stdin.take().context("ffmpeg without input")?;
    for frame in frames {
        ensure!(
            (frame.width(), frame.height()) == (first.width(), first.height()),
            "the frames of a clip differ in size"
        );
        pipe.write_all(frame.bytes())?;
    }
    drop(pipe);
    ensure!(ffmpeg.wait()?.success(), "ffmpeg cannot write {}", to.display());
    Ok(())
}
