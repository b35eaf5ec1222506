//! Was a face changed between the input and the output of an anonymizer, or is what differs only what an encoder did?
//!
//! # Definition
//! A face is judged on the luma of the middle of its box ([`INNER`] of its width and height), averaged to a grid of at
//! most [`GRID`] x [`GRID`] cells, with the local mean (of [`LOCAL`] of the grid's side) taken away: what is left is the
//! face's detail at the scale that carries identity. Brightness and contrast do not count: the output's detail is
//! compared with the input's times the gain that fits best. That gives
//! * `similarity`: the correlation of the two details, 1 for a copy, 0 for something unrelated;
//! * `remains`: the share of the input's detail that is found in the output's (the slope of a least-squares line), 1 for a
//!   copy, near 0 for a cover, whatever the light;
//! * `difference`: the root mean square of what the gain leaves over, in luma levels of 0 to 255;
//! * `change` = `difference` x sqrt(1 - `similarity`): noise on a copy leaves a high similarity, so its difference counts
//!   little;
//! * `background`: the `change` of patches of the same size all over the frame, where nothing was to be changed: what the
//!   encoder did ([`QUANTILE`] of them are smaller; patches near any face do not count, nor flat patches of another
//!   cover, nor, while they are few, patches that show something else; [`ASSUMED`] without any).
//!
//! The face is **changed** when `change` is at least [`FLOOR`] levels and at least [`RATIO`]
//! times `background`, or when less than [`REMAINS`] of the face's detail remains (dark faces have too little detail for
//! the first). Everything else is **exposed**: in doubt, a face counts as exposed. Only what has no detail worth the name
//! in the input ([`FAINT`]) is not judged. docs/privacy.md has the measurements behind the limits.

use kernels::{Point, Rect};

/// Part of the box's width and height that is judged: inside the hull of any face that looks to the front.
pub const INNER: f32 = 0.65;
/// Most cells along one side of the grid.
pub const GRID: usize = 24;
/// Side of the window of the local mean, in grid sides.
pub const LOCAL: f32 = 0.5;
/// Smallest change, in luma levels.
pub const FLOOR: f32 = 1.0;
/// How many times the background's change the face's must be.
pub const RATIO: f32 = 3.0;
/// A face of whose detail less than this remains is covered.
pub const REMAINS: f32 = 0.35;
/// A face with less detail than this in the input, in luma levels, shows nothing that could be exposed: the black back of
/// a head, a face burnt out by the sun. It is not judged.
pub const FAINT: f32 = 0.25;
/// The background's change where no background is visible, in luma levels: a poor encoder's (x264 CRF 33) where a cell is
/// one pixel. An encoder's noise averages out over larger cells.
pub const ASSUMED: f32 = 1.3;
/// Which of the background's patches counts: that share of them is smaller.
pub const QUANTILE: f32 = 0.75;
/// Background patches across and down the frame.
const LATTICE: (usize, usize) = (10, 7);
/// Detail of a flat patch, in luma levels: a cover's slow change and an encoder's noise.
const FLAT: f32 = 1.5;
/// A background patch with less similarity and more difference than this shows something else than the input did.
const GONE: (f32, f32) = (0.5, 4.0);
/// Background patches keep this many box sizes away from every face's middle.
const CLEARANCE: f32 = 1.6;

/// The luma plane of a frame: `stride` bytes a row.
#[derive(Debug, Clone, Copy)]
pub struct Luma<'a> {
    /// Rows of `stride` bytes, of which `width` are picture.
    pub data: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

/// What was measured on one face of one frame, see the module's definition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    /// Correlation of the details, -1 to 1.
    pub similarity: f32,
    /// Share of the input's detail that is found in the output's.
    pub remains: f32,
    /// Root mean square of what the two details differ by, in luma levels.
    pub difference: f32,
    /// How much of the face's detail is another one, in luma levels.
    pub change: f32,
    /// The same away from the faces, or [`ASSUMED`].
    pub background: f32,
    /// The difference over all patches, those that show something else among them: how badly the two frames fit together.
    pub misfit: f32,
    /// Whether most of the background is still there. If not, the two frames do not belong together, and that must not
    /// pass for a change of the face.
    pub fits: bool,
}

impl Judgement {
    /// Whether the face was changed; if not, it is exposed.
    pub fn changed(&self) -> bool {
        self.change >= FLOOR.max(RATIO * self.background) || (self.fits && self.remains < REMAINS)
    }
}

/// Judges one face. `faces` are the boxes of all faces in the frame, the judged one among them. `None` when the middle
/// of the box has no pixels in the frame or less detail than [`FAINT`].
///
/// # Panics
/// When the two planes have different sizes.
pub fn judge(input: Luma<'_>, output: Luma<'_>, face: Rect, faces: &[Rect]) -> Option<Judgement> {
    assert_eq!((input.width, input.height), (output.width, output.height));
    let inner = face.scaled(INNER);
    let judged = compare(input, output, inner).filter(|judged| judged.input >= FAINT)?;
    let patches: Vec<Comparison> = background(input)
        .map(|middle| {
            let (x, y) = (middle.x - 0.5 * inner.width, middle.y - 0.5 * inner.height);
            Rect::new(x, y, inner.width, inner.height)
        })
        .filter(|patch| {
            faces
                .iter()
                .all(|face| patch.intersection(&face.scaled(CLEARANCE)).area() <= 0.0)
        })
        .filter(|patch| visible(input, *patch) >= 0.5)
        .filter_map(|patch| compare(input, output, patch))
        .filter(|patch| !patch.is_covered())
        .collect();
    // What shows something else, of something that was no face to us, is no encoder's doing.
    let kept = |patch: &&Comparison| patch.similarity >= GONE.0 || patch.difference < GONE.1;
    let fits = 2 * patches.iter().filter(kept).count() >= patches.len();
    let assumed = ASSUMED * GRID as f32 / inner.width.min(inner.height).max(GRID as f32);
    let misfit = quantile(patches.iter().map(|patch| patch.difference)).unwrap_or(assumed);
    let background = if fits {
        quantile(patches.iter().filter(kept).map(Comparison::change)).unwrap_or(assumed)
    } else {
        misfit
    };
    Some(Judgement {
        similarity: judged.similarity,
        remains: judged.remains,
        difference: judged.difference,
        change: judged.change(),
        background,
        misfit,
        fits,
    })
}

/// The value that [`QUANTILE`] of the patches stay below; `None` without any.
fn quantile(patches: impl Iterator<Item = f32>) -> Option<f32> {
    let mut values: Vec<f32> = patches.collect();
    values.sort_by(f32::total_cmp);
    let position = (QUANTILE * values.len().saturating_sub(1) as f32).round() as usize;
    values.get(position).copied()
}

/// Judges one face against several frames of the input, of which the output's frame may be a copy: the frame at its time
/// and the neighbours, because a shifted time must not look like a change. Frames whose background fits the output's
/// clearly worse than the best one's are no candidates; among the others the judgement that says least for a change
/// counts. `None` when [`judge`] says so for all of them.
///
/// # Panics
/// When the planes have different sizes.
pub fn judge_nearest<'a>(
    inputs: impl IntoIterator<Item = Luma<'a>>,
    output: Luma<'_>,
    face: Rect,
    faces: &[Rect],
) -> Option<Judgement> {
    let judgements: Vec<_> = inputs
        .into_iter()
        .filter_map(|input| judge(input, output, face, faces))
        .collect();
    let best = judgements
        .iter()
        .map(|judgement| judgement.misfit)
        .min_by(f32::total_cmp)?;
    judgements
        .into_iter()
        .filter(|judgement| judgement.misfit <= 1.5 * best + 0.5)
        .min_by(|a, b| {
            let changed = a.changed().cmp(&b.changed());
            changed.then(a.change.total_cmp(&b.change))
        })
}

/// The middles of the background patches: a lattice over the whole frame, so that other covers beside the face are few
/// among them.
fn background(frame: Luma<'_>) -> impl Iterator<Item = Point> {
    let (width, height) = (frame.width as f32, frame.height as f32);
    let at = |index: usize, count: usize| (index as f32 + 0.5) / count as f32;
    (0..LATTICE.1).flat_map(move |row| {
        (0..LATTICE.0)
            .map(move |column| Point::new(width * at(column, LATTICE.0), height * at(row, LATTICE.1)))
    })
}

/// Which part of the box lies in the frame, 0 to 1.
fn visible(plane: Luma<'_>, rect: Rect) -> f32 {
    let frame = Rect::new(0.0, 0.0, plane.width as f32, plane.height as f32);
    rect.intersection(&frame).area() / rect.area().max(f32::MIN_POSITIVE)
}

/// The detail of one region in both frames.
#[derive(Debug, Clone, Copy)]
struct Comparison {
    similarity: f32,
    remains: f32,
    difference: f32,
    /// Root mean square of the input's detail, in luma levels.
    input: f32,
    /// The same of the output.
    output: f32,
}

impl Comparison {
    /// How much of the detail is another one, in luma levels.
    fn change(&self) -> f32 {
        self.difference * (1.0 - self.similarity).max(0.0).sqrt()
    }

    /// Whether something is flat that was not: a cover's doing, and not of two frames that do not belong together.
    fn is_covered(&self) -> bool {
        self.output < FLAT && self.remains < REMAINS
    }
}

/// Compares the detail inside `region`. `None` when too little of it lies in the frame.
fn compare(input: Luma<'_>, output: Luma<'_>, region: Rect) -> Option<Comparison> {
    let frame = Rect::new(0.0, 0.0, input.width as f32, input.height as f32);
    let region = region.intersection(&frame);
    let pixels = region.width.min(region.height);
    // Less than 4 cells have no detail.
    if pixels.is_nan() || pixels < 4.0 {
        return None;
    }
    let side = (pixels as usize).min(GRID);
    let before = detail(&grid(input, region, side), side);
    let after = detail(&grid(output, region, side), side);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let (energy, cross) = (dot(&before, &before), dot(&before, &after));
    let energy_after = dot(&after, &after);
    let similarity = cross / (energy * energy_after).sqrt().max(f32::MIN_POSITIVE);
    // Where the input has no detail none can be lost.
    let remains = if energy > 0.0 { cross / energy } else { 1.0 };
    // A gain near 0 would explain a covered face away: only contrast changes that keep the face are compensated.
    let gain = remains.clamp(0.5, 2.0);
    let left: f32 = before
        .iter()
        .zip(&after)
        .map(|(before, after)| (after - gain * before).powi(2))
        .sum();
    let root_mean = |sum: f32| (sum / before.len() as f32).sqrt();
    Some(Comparison {
        similarity,
        remains,
        difference: root_mean(left),
        input: root_mean(energy),
        output: root_mean(energy_after),
    })
}

/// Averages a region to `side` x `side` cells. The region lies in the frame and has at least `side` pixels a side.
fn grid(plane: Luma<'_>, region: Rect, side: usize) -> Vec<f32> {
    let edges = |start: f32, length: f32, limit: usize| -> Vec<usize> {
        (0..=side)
            .map(|cell| ((start + length * cell as f32 / side as f32).round() as usize).min(limit))
            .collect()
    };
    let columns = edges(region.x, region.width, plane.width);
    let rows = edges(region.y, region.height, plane.height);
    let mut cells = Vec::with_capacity(side * side);
    for row in rows.windows(2) {
        for column in columns.windows(2) {
            let (mut sum, mut count) = (0_u32, 0_u32);
            for y in row[0]..row[1] {
                let start = y * plane.stride;
                for value in &plane.data[start + column[0]..start + column[1]] {
                    sum += u32::from(*value);
                    count += 1;
                }
            }
            cells.push(sum as f32 / count.max(1) as f32);
        }
    }
    cells
}

/// Takes the local mean away.
fn detail(cells: &[f32], side: usize) -> Vec<f32> {
    let reach = ((0.5 * LOCAL * side as f32) as usize).max(1);
    let mut detail = Vec::with_capacity(cells.len());
    for row in 0..side {
        let rows = row.saturating_sub(reach)..(row + reach + 1).min(side);
        for column in 0..side {
            let columns = column.saturating_sub(reach)..(column + reach + 1).min(side);
            let sum: f32 = rows
                .clone()
                .flat_map(|row| &cells[row * side + columns.start..row * side + columns.end])
                .sum();
            detail.push(cells[row * side + column] - sum / (rows.len() * columns.len()) as f32);
        }
    }
    detail
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 320;
    const HEIGHT: usize = 240;

    /// A textured scene with something like a face in `face`: two dark eyes, a nose, a mouth.
    fn scene(face: Rect) -> Vec<u8> {
        let mut data = vec![0; WIDTH * HEIGHT];
        for (index, value) in data.iter_mut().enumerate() {
            let (x, y) = ((index % WIDTH) as f32, (index / WIDTH) as f32);
            let texture = 120.0 + 25.0 * (x * 0.31).sin() * (y * 0.23).cos();
            let (u, v) = ((x - face.x) / face.width, (y - face.y) / face.height);
            let spot = |cu: f32, cv: f32, ru: f32, rv: f32| {
                (-((u - cu) / ru).powi(2) - ((v - cv) / rv).powi(2)).exp()
            };
            *value = if (0.0..1.0).contains(&u) && (0.0..1.0).contains(&v) {
                let dark = 70.0 * (spot(0.33, 0.4, 0.08, 0.05) + spot(0.67, 0.4, 0.08, 0.05))
                    + 30.0 * spot(0.5, 0.58, 0.06, 0.1)
                    + 50.0 * spot(0.5, 0.77, 0.16, 0.05);
                170.0 - 20.0 * u - dark
            } else {
                texture
            } as u8;
        }
        data
    }

    fn luma(data: &[u8]) -> Luma<'_> {
        Luma {
            data,
            stride: WIDTH,
            width: WIDTH,
            height: HEIGHT,
        }
    }

    /// What an encoder does, roughly: noise of `level` everywhere, the same at every run.
    fn encoded(data: &[u8], level: f32) -> Vec<u8> {
        let mut state = 1_u32;
        data.iter()
            .map(|value| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let noise = (state >> 8) as f32 / 16_777_216.0 - 0.5;
                (f32::from(*value) + 3.46 * level * noise).round() as u8
            })
            .collect()
    }

    fn inside(data: &[u8], region: Rect, change: impl Fn(usize, usize, u8) -> u8) -> Vec<u8> {
        let mut data = data.to_vec();
        for y in region.y as usize..region.bottom() as usize {
            for x in region.x as usize..region.right() as usize {
                data[y * WIDTH + x] = change(x, y, data[y * WIDTH + x]);
            }
        }
        data
    }

    fn faces() -> [Rect; 4] {
        [12.0, 24.0, 60.0, 110.0].map(|side| Rect::new(100.0, 60.0, side, 1.25 * side))
    }

    #[test]
    fn a_copy_is_exposed_whatever_the_encoder_did() {
        for face in faces() {
            let input = scene(face);
            for level in [0.0, 1.0, 2.0, 4.0] {
                let output = encoded(&input, level);
                let found = judge(luma(&input), luma(&output), face, &[face]).unwrap();
                assert!(!found.changed(), "{} px, noise {level}: {found:?}", face.width);
            }
        }
    }

    #[test]
    fn a_brighter_or_flatter_copy_is_exposed() {
        for face in faces() {
            let input = scene(face);
            for (gain, offset) in [(1.0, 30.0), (0.8, 0.0), (0.7, 40.0)] {
                let output = inside(&input, face, |_, _, value| {
                    (gain * f32::from(value) + offset) as u8
                });
                let found = judge(luma(&input), luma(&encoded(&output, 1.0)), face, &[face]).unwrap();
                assert!(!found.changed(), "{} px, {gain}, {offset}: {found:?}", face.width);
            }
        }
    }

    #[test]
    fn a_covered_face_is_changed() {
        for face in faces() {
            let input = scene(face);
            for level in [0.0, 1.0, 2.0] {
                // A flat fill that varies slowly, as the cover kernel makes it.
                let output = inside(&input, face, |x, y, _| 90 + (x / 16 + y / 16) as u8);
                let found = judge(luma(&input), luma(&encoded(&output, level)), face, &[face]).unwrap();
                assert!(found.changed(), "{} px, noise {level}: {found:?}", face.width);
            }
        }
    }

    #[test]
    fn a_dark_face_is_judged_too() {
        for face in faces() {
            // A twentieth of the light: the face has less than two levels of detail.
            let input: Vec<u8> = scene(face).iter().map(|value| 16 + value / 20).collect();
            let copy = judge(luma(&input), luma(&encoded(&input, 0.5)), face, &[face]).unwrap();
            assert!(!copy.changed(), "{} px: {copy:?}", face.width);
            let covered = inside(&input, face, |_, _, _| 24);
            let cover = judge(luma(&input), luma(&encoded(&covered, 0.5)), face, &[face]).unwrap();
            assert!(cover.changed(), "{} px: {cover:?}", face.width);
        }
    }

    #[test]
    fn another_face_in_the_same_pose_is_changed() {
        let face = Rect::new(100.0, 60.0, 80.0, 100.0);
        let input = scene(face);
        // Features moved by a twentieth of the face, as another person's would be.
        let other = scene(Rect::new(104.0, 56.0, 80.0, 108.0));
        let output = inside(&input, face.scaled(0.9), |x, y, _| other[y * WIDTH + x]);
        let found = judge(luma(&input), luma(&encoded(&output, 1.0)), face, &[face]).unwrap();
        assert!(found.changed(), "{found:?}");
    }

    #[test]
    fn a_copy_at_another_time_is_exposed_and_a_cover_in_motion_is_not() {
        // A camera that pans: everything moves by 6 pixels from frame to frame.
        let faces: Vec<_> = (0..3)
            .map(|time| Rect::new(100.0 + 6.0 * time as f32, 60.0, 48.0, 60.0))
            .collect();
        let inputs: Vec<Vec<u8>> = faces
            .iter()
            .enumerate()
            .map(|(time, face)| {
                let mut frame = scene(*face);
                for row in frame.chunks_mut(WIDTH) {
                    let texture = row.to_vec();
                    for (x, value) in row.iter_mut().enumerate() {
                        if !(face.x - 2.0..face.right() + 2.0).contains(&(x as f32)) {
                            *value = texture[(x + WIDTH - 6 * time) % WIDTH];
                        }
                    }
                }
                frame
            })
            .collect();
        let judged = |output: &[u8]| {
            judge_nearest(
                inputs.iter().map(|input| luma(input)),
                luma(output),
                faces[1],
                &faces[1..2],
            )
            .unwrap()
        };
        for (time, input) in inputs.iter().enumerate() {
            let found = judged(&encoded(input, 1.0));
            assert!(!found.changed(), "copy of frame {time}: {found:?}");
        }
        let covered = inside(&inputs[1], faces[1], |_, _, _| 128);
        let found = judged(&encoded(&covered, 1.0));
        assert!(found.changed(), "{found:?}");
    }

    #[test]
    fn a_black_head_is_not_judged() {
        let face = Rect::new(100.0, 60.0, 60.0, 75.0);
        let input = inside(&scene(face), face, |_, _, _| 16);
        assert_eq!(
            judge(luma(&input), luma(&encoded(&input, 1.0)), face, &[face]),
            None
        );
    }

    #[test]
    fn half_a_face_is_enough_to_be_judged() {
        let face = Rect::new(-30.0, 60.0, 60.0, 75.0);
        let input = scene(face);
        let copy = judge(luma(&input), luma(&encoded(&input, 1.0)), face, &[face]).unwrap();
        assert!(!copy.changed(), "{copy:?}");
        assert_eq!(
            judge(luma(&input), luma(&input), Rect::new(-90.0, 0.0, 60.0, 75.0), &[]),
            None
        );
    }
}
