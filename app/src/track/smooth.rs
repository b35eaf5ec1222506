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
    /// At 30 frames per second: a trembling of 0.5 % of the face is more than halved, and a jump by a tenth of the face is
    /// followed to 90 % within three frames (measured in the tests below).
    fn default() -> Self {
        Self {
            min_cutoff: 1.0,
            beta: 25.0,
            speed_cutoff: 2.0,
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

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::MEAN_FACE;
    use proptest::prelude::*;

    const SIZE: f32 = 200.0;

    fn frame(index: u32) -> Duration {
        Duration::from_secs(1) * index / 30
    }

    fn face(moved: impl Fn(usize) -> Point) -> Landmarks {
        std::array::from_fn(|i| {
            let offset = moved(i);
            Point::new(MEAN_FACE[i].x * SIZE + offset.x, MEAN_FACE[i].y * SIZE + offset.y)
        })
    }

    fn mean_distance(a: &Landmarks, b: &Landmarks) -> f32 {
        a.iter().zip(b).map(|(p, q)| p.distance(*q)).sum::<f32>() / LANDMARKS as f32
    }

    #[test]
    fn a_jump_is_followed_within_three_frames() {
        for share in [0.05, 0.1, 0.5, 2.0] {
            let mut filter = LandmarkFilter::new(OneEuro::default());
            let jumped = face(|_| Point::new(share * SIZE, 0.0));
            for i in 0..30 {
                filter.smooth(frame(i), &face(|_| Point::default()), SIZE);
            }
            let mut left = 0.0;
            for i in 30..33 {
                left = mean_distance(&filter.smooth(frame(i), &jumped, SIZE), &jumped) / (share * SIZE);
            }
            assert!(
                left < 0.1,
                "after a jump by {share} of the face {left} of it is left"
            );
        }
    }

    #[test]
    fn steady_motion_lags_by_less_than_a_percent_of_the_face() {
        // A face that crosses its own width in a second.
        let place = |i: u32| face(|_| Point::new(SIZE * i as f32 / 30.0, 0.0));
        let mut filter = LandmarkFilter::new(OneEuro::default());
        for i in 0..60 {
            let lag = mean_distance(&filter.smooth(frame(i), &place(i), SIZE), &place(i)) / SIZE;
            assert!(i < 10 || lag < 0.01, "frame {i}: {lag}");
        }
    }

    #[test]
    fn a_filter_that_knows_nothing_changes_nothing() {
        let mut filter = LandmarkFilter::new(OneEuro::default());
        let [first, second] = [0.0, 5.0].map(|x| face(|_| Point::new(x, 0.0)));
        assert_eq!(filter.smooth(frame(9), &first, SIZE), first);
        assert_eq!(filter.smooth(frame(9), &second, SIZE), second, "the same time");
        assert_eq!(filter.smooth(frame(3), &first, SIZE), first, "backwards");
        filter.reset();
        assert_eq!(filter.smooth(frame(4), &second, SIZE), second, "after a reset");
    }

    proptest! {
        #[test]
        fn trembling_is_halved(noise in proptest::collection::vec(-0.005f32..0.005, 60 * LANDMARKS)) {
            let mut filter = LandmarkFilter::new(OneEuro::default());
            let still = face(|_| Point::default());
            let (mut raw, mut smooth) = (0.0, 0.0);
            for (i, noise) in noise.chunks_exact(LANDMARKS).enumerate() {
                let shaken = face(|j| Point::new(noise[j] * SIZE, -noise[(j + 9) % LANDMARKS] * SIZE));
                let smoothed = filter.smooth(frame(i as u32), &shaken, SIZE);
                if i >= 5 {
                    raw += mean_distance(&shaken, &still);
                    smooth += mean_distance(&smoothed, &still);
                }
            }
            prop_assert!(smooth < 0.5 * raw, "{smooth} of {raw} is left");
        }

        #[test]
        fn scale_makes_no_difference(zoom in 0.1f32..10.0, steps in proptest::collection::vec(-0.1f32..0.1, 10)) {
            let mut filters = [(); 2].map(|()| LandmarkFilter::new(OneEuro::default()));
            for (i, step) in steps.iter().enumerate() {
                let landmarks = face(|j| Point::new(step * SIZE, step * j as f32));
                let zoomed = landmarks.map(|p| Point::new(p.x * zoom, p.y * zoom));
                let plain = filters[0].smooth(frame(i as u32), &landmarks, SIZE);
                let again = filters[1].smooth(frame(i as u32), &zoomed, SIZE * zoom);
                let back = again.map(|p| Point::new(p.x / zoom, p.y / zoom));
                prop_assert!(mean_distance(&plain, &back) < 0.01);
            }
        }
    }
}
