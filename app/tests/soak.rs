//! Endurance at accelerated time: cameras that come and go all the while, whether the box gets each of them back, and
//! whether it keeps its memory.
//!
//! Every run takes some seconds; `PERSONA_SOAK=900` asks for so many (`cargo xtask test --long`).

mod boxed;
mod camera;
mod clip;

use std::time::{Duration, Instant};

use boxed::{Boxed, free_port, metric};
use camera::{Codec, TestCamera};

/// Seconds in every run.
const SECONDS: u64 = 15;
/// Cameras that come and go by turns, so that each connection holds long enough to count as a good one.
const CAMERAS: usize = 4;
/// In this time a loss is noticed, and a camera that is there again gives a picture: on a machine that is overloaded
/// some attempts are out of time, and the pauses between them grow to half a minute.
const NOTICED: Duration = Duration::from_secs(10);
const BACK: Duration = Duration::from_secs(180);
/// Part of the time that is needed until all memory is in use that ever will be.
const WARM: f64 = 0.4;
/// Least samples from which a slope is told.
const ENOUGH: usize = 60;
/// Most memory that may be lost with each loss of a camera, bytes: some thousand losses then cost a few megabytes.
const LEAK: f64 = 4096.0;

/// Least squares of a line: its slope and the slope's standard error.
fn slope(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let slope = points
        .iter()
        .map(|point| (point.0 - x) * (point.1 - y))
        .sum::<f64>()
        / spread;
    let rest: f64 = points
        .iter()
        .map(|point| (point.1 - y - slope * (point.0 - x)).powi(2))
        .sum();
    (slope, (rest / (count - 2.0) / spread).sqrt())
}

#[test]
fn a_slope_is_found_under_noise() {
    let noise = |x: f64| 50.0 * (x * 1.7).sin();
    let points: Vec<_> = (0..200)
        .map(f64::from)
        .map(|x| (x, 1e6 + 3.0 * x + noise(x)))
        .collect();
    let (found, error) = slope(&points);
    assert!(
        (found - 3.0).abs() < 3.0 * error && error < 0.1,
        "{found} {error}"
    );
}

/// Waits until a stream gives a picture, or gives none; says whether that came in time.
fn wait(page: u16, stream: &str, up: bool, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    let label = format!("\"{stream}\"");
    while (metric(page, "persona_stream_up", &label) > 0.0) != up {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

#[test]
fn cameras_come_back_and_memory_stays() {
    clip::init();
    let seconds = std::env::var("PERSONA_SOAK").map_or(SECONDS, |text| text.parse().expect("seconds"));
    let dir = tempfile::tempdir().unwrap();
    // A file that ends after a second and is begun anew, again and again.
    clip::mp4(&dir.path().join("short.mp4"), 30, (160, 120));
    let mut cameras: Vec<_> = (0..CAMERAS)
        .map(|_| Some(TestCamera::start(0, Codec::H264, None)))
        .collect();
    let ports: Vec<_> = cameras.iter().flatten().map(TestCamera::port).collect();
    let (port, page) = (free_port(), free_port());
    let streams: String = ports
        .iter()
        .enumerate()
        .map(|(number, port)| {
            format!(
                "[[camera]]\nname = \"c{number}\"\nsource = \"rtsp://127.0.0.1:{port}/camera\"\ntimeout = 3\n"
            )
        })
        .collect();
    let server = Boxed::start(
        dir.path(),
        port,
        &format!(
            "[rtsp]\nlisten = \"127.0.0.1:{port}\"\n[page]\nlisten = \"127.0.0.1:{page}\"\n{streams}\
             [[camera]]\nname = \"file\"\nsource = \"short.mp4\"\n"
        ),
    );
    for number in 0..CAMERAS {
        assert!(
            wait(page, &format!("c{number}"), true, BACK),
            "camera {number} gives no picture"
        );
    }
    let losses = || metric(page, "persona_losses_total", "");
    let total = |name: &str| metric(page, name, "");
    let (threads, files) = (
        total("persona_process_threads"),
        total("persona_process_open_files"),
    );
    let (start, mut samples) = (Instant::now(), Vec::new());
    let (mut flaps, mut back, mut longest) = (0, 0, Duration::ZERO);
    while start.elapsed() < Duration::from_secs(seconds) {
        let number = flaps % CAMERAS;
        let name = format!("c{number}");
        // Every third one falls silent, the others die.
        let is_silent = flaps % 3 == 2;
        let camera = cameras[number].take().unwrap();
        let camera = if is_silent {
            camera.set_silent(true);
            Some(camera)
        } else {
            drop(camera);
            None
        };
        assert!(
            wait(page, &name, false, NOTICED),
            "the loss of camera {number} is not noticed"
        );
        flaps += 1;
        let camera = match camera {
            Some(camera) => {
                camera.set_silent(false);
                camera
            }
            None => TestCamera::start(ports[number], Codec::H264, None),
        };
        cameras[number] = Some(camera);
        let returned = Instant::now();
        if wait(page, &name, true, BACK) {
            back += 1;
            longest = longest.max(returned.elapsed());
        }
        samples.push((losses(), total("persona_process_resident_bytes")));
    }
    let kept = &samples[(WARM * samples.len() as f64) as usize..];
    let (first, last) = (kept[0].1 / 1e6, kept[kept.len() - 1].1 / 1e6);
    println!(
        "{seconds} s: {flaps} flaps of {CAMERAS} cameras, {back} came back, the slowest after {longest:.1?}; {} losses in \
         all; threads {threads} -> {}, files {files} -> {}",
        losses(),
        total("persona_process_threads"),
        total("persona_process_open_files"),
    );
    let leak = (kept.len() >= ENOUGH).then(|| slope(kept));
    if let Some((slope, error)) = leak {
        println!("memory {first:.1} -> {last:.1} MB, {slope:.0} ± {error:.0} bytes a loss");
    }
    assert_eq!(back, flaps, "cameras that did not come back");
    assert!(wait(page, "file", true, BACK), "the file is not played any more");
    // Some threads and files belong to connections that come and go at this moment.
    assert!(total("persona_process_threads") <= threads + 30.0);
    assert!(total("persona_process_open_files") <= files + 30.0);
    if let Some((slope, error)) = leak {
        assert!(
            slope - 2.0 * error < LEAK,
            "memory grows by {slope} ± {error} bytes a loss"
        );
    }
    assert_eq!(server.stop(), Some(0));
}
