use kernels::{Hull, LANDMARKS, Landmarks, MEAN_FACE, Point, Rect, Similarity};

use super::Reason;

/// When a face is replaced; a face that fails one of these is covered. Lengths are fractions of the face's box side
/// (the square root of its area), where nothing else is said.
///
/// The landmarker always gives a face's shape, whatever it is shown, so its own word is worth nothing: it must agree
/// with the detector, which found its five points independently, and with the shape of faces in general. The limits
/// leave room for what was measured on clips (docs/networks.md).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trust {
    /// Narrowest box that is replaced, in frame pixels.
    pub smallest_face: f32,
    /// Largest mean distance of the landmarks' five points from the detector's.
    pub disagreement: f32,
    /// Largest root mean square distance from the average face after alignment, in crop fractions.
    pub residual: f32,
    /// Largest asymmetry of the nose tip between the outer eye corners, 0 (frontal) to 1 (over one corner).
    pub asymmetry: f32,
    /// Landmarks lie inside the box enlarged by this factor about its middle.
    pub enlarged: f32,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            smallest_face: 24.0,
            disagreement: 0.12,
            residual: 0.08,
            asymmetry: 0.65,
            enlarged: 1.5,
        }
    }
}

/// The face's pose and place once its landmarks are trusted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pose {
    /// From frame pixels to the aligned crop.
    pub align: Similarity,
    /// See [`Trust::asymmetry`].
    pub asymmetry: f32,
}

impl Trust {
    /// Aligns a face, or says why its landmarks are not to be relied on. `rect` and `points` are the detector's.
    pub(super) fn judge(
        &self,
        rect: &Rect,
        points: &[Point; 5],
        landmarks: &Landmarks,
    ) -> Result<Pose, Reason> {
        let allowed = rect.scaled(self.enlarged);
        if !landmarks.iter().all(|point| allowed.contains(*point)) || Hull::of(landmarks).is_empty() {
            return Err(Reason::Landmarks);
        }
        let align = Similarity::estimate(landmarks, &MEAN_FACE).ok_or(Reason::Landmarks)?;
        // Both of these grow when a head turns away, so the nose is asked first: its answer is the better reason.
        let asymmetry = asymmetry(landmarks);
        if asymmetry.is_nan() || asymmetry > self.asymmetry {
            return Err(Reason::Turned);
        }
        let side = rect.area().sqrt();
        let distance: f32 = five_points(landmarks)
            .iter()
            .zip(points)
            .map(|(ours, theirs)| ours.distance(*theirs))
            .sum();
        let disagreement = distance / (points.len() as f32 * side);
        let square: f32 = landmarks
            .iter()
            .zip(&MEAN_FACE)
            .map(|(point, mean)| align.apply(*point).distance(*mean).powi(2))
            .sum();
        let residual = (square / LANDMARKS as f32).sqrt();
        // Written so that a number which is none fails.
        if disagreement <= self.disagreement && residual <= self.residual {
            Ok(Pose { align, asymmetry })
        } else {
            Err(Reason::Landmarks)
        }
    }
}

/// Eye centres, nose tip and mouth corners of the 68 points.
fn five_points(landmarks: &Landmarks) -> [Point; 5] {
    let mean = |points: &[Point]| {
        let sum = points
            .iter()
            .fold(Point::default(), |sum, p| Point::new(sum.x + p.x, sum.y + p.y));
        Point::new(sum.x / points.len() as f32, sum.y / points.len() as f32)
    };
    [
        mean(&landmarks[36..42]),
        mean(&landmarks[42..48]),
        landmarks[30],
        landmarks[48],
        landmarks[54],
    ]
}

/// Where the nose tip stands along the line between the outer eye corners: 0 in the middle, 1 over a corner. Grows
/// with the turn of the head, because the nose stands out.
fn asymmetry(landmarks: &Landmarks) -> f32 {
    let (left, right, nose) = (landmarks[36], landmarks[45], landmarks[30]);
    let (along_x, along_y) = (right.x - left.x, right.y - left.y);
    let place =
        ((nose.x - left.x) * along_x + (nose.y - left.y) * along_y) / (along_x * along_x + along_y * along_y);
    (2.0 * place - 1.0).abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The average face of `side` pixels, each point moved by `bend` (crop fractions in and out).
    fn face(side: f32, bend: impl Fn(usize, Point) -> Point) -> Landmarks {
        std::array::from_fn(|i| {
            let point = bend(i, MEAN_FACE[i]);
            Point::new(100.0 + side * point.x, 50.0 + side * point.y)
        })
    }

    /// About what the detector's box is for the average face.
    fn rect(side: f32) -> Rect {
        Rect::new(100.0 + 0.13 * side, 50.0 + 0.1 * side, 0.74 * side, 0.8 * side)
    }

    #[test]
    fn each_fault_has_its_reason() {
        struct Case {
            name: &'static str,
            bend: fn(usize, Point) -> Point,
            wanted: Result<(), Reason>,
        }
        let cases = [
            Case {
                name: "average",
                bend: |_, p| p,
                wanted: Ok(()),
            },
            Case {
                name: "tilted by 30 degrees",
                bend: |_, p| {
                    let (sin, cos) = 0.52f32.sin_cos();
                    let (x, y) = (p.x - 0.5, p.y - 0.5);
                    Point::new(0.5 + cos * x - sin * y, 0.5 + sin * x + cos * y)
                },
                wanted: Ok(()),
            },
            Case {
                name: "nose over the eye corner",
                bend: |i, p| {
                    if (27..36).contains(&i) {
                        Point::new(p.x - 0.2, p.y)
                    } else {
                        p
                    }
                },
                wanted: Err(Reason::Turned),
            },
            Case {
                name: "upside down",
                bend: |_, p| Point::new(p.x, 1.1 - p.y),
                wanted: Err(Reason::Landmarks),
            },
            Case {
                name: "all in one place",
                bend: |_, _| Point::new(0.5, 0.5),
                wanted: Err(Reason::Landmarks),
            },
            Case {
                name: "a point far away",
                bend: |i, p| if i == 8 { Point::new(0.5, 3.0) } else { p },
                wanted: Err(Reason::Landmarks),
            },
            Case {
                name: "not a number",
                bend: |i, p| if i == 40 { Point::new(f32::NAN, p.y) } else { p },
                wanted: Err(Reason::Landmarks),
            },
            Case {
                name: "shuffled",
                bend: |i, _| MEAN_FACE[(i * 29) % LANDMARKS],
                wanted: Err(Reason::Landmarks),
            },
        ];
        for Case { name, bend, wanted } in cases {
            let landmarks = face(120.0, bend);
            // The detector sees the same tilt, and otherwise an average face.
            let points = if wanted.is_ok() {
                five_points(&landmarks)
            } else {
                five_points(&face(120.0, |_, p| p))
            };
            let judged = Trust::default().judge(&rect(120.0), &points, &landmarks);
            // A nose over the eye corner is what five shuffled points may also look like.
            match (name, judged) {
                ("shuffled", judged) => assert!(judged.is_err()),
                (_, judged) => assert_eq!(judged.map(|_| ()), wanted, "{name}"),
            }
        }
    }

    #[test]
    fn a_detector_that_sees_another_face_is_believed() {
        let landmarks = face(120.0, |_, p| p);
        let elsewhere = five_points(&landmarks).map(|p| Point::new(p.x + 25.0, p.y));
        assert_eq!(
            Trust::default().judge(&rect(120.0), &elsewhere, &landmarks),
            Err(Reason::Landmarks)
        );
    }

    #[test]
    fn alignment_leads_to_the_average_face() {
        let landmarks = face(90.0, |_, p| p);
        let pose = Trust::default()
            .judge(&rect(90.0), &five_points(&landmarks), &landmarks)
            .unwrap();
        for (point, mean) in landmarks.iter().zip(&MEAN_FACE) {
            assert!(pose.align.apply(*point).distance(*mean) < 1e-3);
        }
        assert!(pose.asymmetry < 0.02);
    }
}
