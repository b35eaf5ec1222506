use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use engines::detector::SAME_FACE_IOU;
use engines::{Detection, Detector, InputSize, Look, suppress};
use kernels::{Kernels, Rect, Values};

use super::{Error, Job, Settings, Shared, Stage};
use crate::frame::{Pixels, RawFrame};
use crate::track::{Track, Tracker};

/// The largest detector input that any [`Scan`] uses: make the detector for it. Larger frames are looked at in tiles.
pub const LARGEST_INPUT: InputSize = InputSize {
    width: 768,
    height: 480,
};

/// Detector input pixels of the fast pass over the whole frame: 320x192, which takes 11 ms on one core.
const FAST_PIXELS: usize = 320 * 192;
/// A frame with no more pixels than this is looked at closely every time: 480x288 takes 26 ms on one core.
const SMALL_FRAME: usize = 480 * 288;
/// Faces at the seam of two tiles are found when they fit into the overlap: what the coarser pass can see, with room.
const OVERLAP: f32 = 1.25;
/// Tiles share no more detector input pixels than this.
const MOST_OVERLAP: f32 = 256.0;
/// A detection whose edge is this near to a seam, in box sides, may be a part of a face. If it lies inside another
/// detection by [`CUT_SHARE`] of its area, it is.
const SEAM: f32 = 0.1;
const CUT_SHARE: f32 = 0.6;
/// A smaller box, in areas of the whole face, is no part of it but another face behind.
const LEAST_PART: f32 = 0.3;
/// Size of the picture in which a scene cut is looked for.
const THUMBNAIL: (usize, usize) = (32, 18);
/// Difference of successive thumbnails, in units of their contrast, from which the scene is a new one. In 38 clips the
/// cuts stood at 0.84 and more, everything else (pans, a hand before the camera) at 0.46 and less.
const SCENE_CUT: f32 = 0.6;
/// Contrast that a thumbnail has at least, of 255: in the dark noise is no cut.
const LEAST_CONTRAST: f32 = 4.0;

/// Where in a frame to look for faces, and how closely.
///
/// The default looks at every frame as a whole, scaled down as far as the smallest face that is followed allows, and
/// at one tile after the other in half and full resolution by turns, so that a small new face is found within 0.5 to 2 s
/// at 720p and later in larger frames (docs/privacy.md has the times). The first
/// frame, the frame after a scene cut and a frame in which a face was lost are looked at in full resolution at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scan {
    /// Detector input of the fast pass; `None` chooses about 320x192 in the frame's own shape.
    pub fast: Option<InputSize>,
    /// Frames from one full-resolution tile to the next; 0 never looks at tiles in turn.
    pub sweep_every: u32,
    /// Pixels that the smallest face followed must have in the detector's input. A coarser pass is not made.
    pub smallest: f32,
    /// Full resolution in every frame: for recordings in which small faces matter more than time.
    pub thorough: bool,
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            fast: None,
            sweep_every: 8,
            smallest: 20.0,
            thorough: false,
        }
    }
}

impl Scan {
    /// Full resolution in every frame.
    pub fn thorough() -> Self {
        Self {
            thorough: true,
            ..Self::default()
        }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if !(self.smallest > 0.0 && self.smallest.is_finite()) {
            let got = self.smallest;
            return Err(Error::Settings(format!(
                "scan.smallest is {got}, wanted more than 0 pixels"
            )));
        }
        let Some(InputSize { width, height }) = self.fast else {
            return Ok(());
        };
        let multiple =
            width > 0 && height > 0 && InputSize::covering(width, height) == InputSize { width, height };
        let largest = LARGEST_INPUT.width * LARGEST_INPUT.height;
        if !multiple || width.checked_mul(height).is_none_or(|pixels| pixels > largest) {
            return Err(Error::Settings(format!(
                "scan.fast is {width}x{height}, wanted multiples of 32 and at most {largest} pixels"
            )));
        }
        Ok(())
    }
}

/// The frame cut into equal, overlapping tiles, each scaled to one detector input.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Level {
    /// Detector input pixels per frame pixel.
    scale: f32,
    columns: usize,
    rows: usize,
    /// Tile size in frame pixels.
    tile: (f32, f32),
    input: InputSize,
}

impl Level {
    /// One pass over the whole frame.
    fn whole((width, height): (usize, usize), input: InputSize) -> Self {
        let scale = (input.width as f32 / width as f32).min(input.height as f32 / height as f32);
        Self {
            scale,
            columns: 1,
            rows: 1,
            tile: (width as f32, height as f32),
            input,
        }
    }

    /// As few tiles as the largest input allows, at `scale`, overlapping by `overlap` frame pixels.
    fn tiled((width, height): (usize, usize), scale: f32, overlap: f32) -> Self {
        // More tiles only get smaller while they share less than the largest input.
        let overlap = overlap.min(MOST_OVERLAP / scale);
        let side = |frame: usize, count: usize| (frame as f32 + (count - 1) as f32 * overlap) / count as f32;
        let input = |tile: (f32, f32)| {
            InputSize::covering((tile.0 * scale).ceil() as usize, (tile.1 * scale).ceil() as usize)
        };
        let (mut columns, mut rows) = (1, 1);
        let mut tile = (width as f32, height as f32);
        while input(tile).width * input(tile).height > LARGEST_INPUT.width * LARGEST_INPUT.height {
            if tile.0 > tile.1 {
                columns += 1;
            } else {
                rows += 1;
            }
            tile = (side(width, columns), side(height, rows));
        }
        Self {
            scale,
            columns,
            rows,
            tile,
            input: input(tile),
        }
    }

    fn tiles(&self) -> usize {
        self.columns * self.rows
    }

    /// Tile `index` of a frame, in frame pixels; together the tiles cover the frame.
    fn region(&self, (width, height): (usize, usize), index: usize) -> Rect {
        let place = |frame: usize, tile: f32, count: usize, i: usize| {
            if count == 1 {
                0.0
            } else {
                (frame as f32 - tile) * i as f32 / (count - 1) as f32
            }
        };
        Rect {
            x: place(width, self.tile.0, self.columns, index % self.columns),
            y: place(height, self.tile.1, self.rows, index / self.columns),
            width: self.tile.0,
            height: self.tile.1,
        }
    }
}

/// From coarse to fine: what a frame of one size can be looked at with.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Levels {
    frame: (usize, usize),
    fast: Level,
    half: Level,
    full: Level,
}

impl Levels {
    fn new(frame: (usize, usize), scan: &Scan) -> Self {
        let (width, height) = frame;
        let fast = match scan.fast {
            Some(input) => Level::whole(frame, input),
            None => {
                let scale = (FAST_PIXELS as f32 / (width * height) as f32).sqrt().min(1.0);
                let side = |side: usize| ((side as f32 * scale / 32.0).round() as usize).max(1) * 32;
                Level::whole(
                    frame,
                    InputSize {
                        width: side(width),
                        height: side(height),
                    },
                )
            }
        };
        let overlap = OVERLAP * scan.smallest / fast.scale;
        let full = Level::tiled(frame, 1.0, overlap);
        if scan.fast.is_none() && width * height <= SMALL_FRAME {
            return Self {
                frame,
                fast: full,
                half: full,
                full,
            };
        }
        Self {
            frame,
            fast,
            half: Level::tiled(frame, 0.5, overlap),
            full,
        }
    }
}

/// Finds the faces of each frame and follows them: the first half of the pipeline.
pub struct Detect<K: Kernels> {
    kernels: K,
    detector: Detector<K>,
    scan: Scan,
    possible: f32,
    tracker: Tracker,
    levels: Option<Levels>,
    /// Whether the next frame is looked at in full: the first one, and the one after a failure.
    look_closely: bool,
    /// Tiles that the sweep has looked at.
    swept: usize,
    /// Frames from one tile of the sweep to the next, at the present load.
    sweep_pause: u32,
    since_tile: u32,
    since_full: u32,
    thumbnail: K::Tensor,
    /// The thumbnail of the frame before; empty before the first.
    before: Vec<f32>,
    /// The passes to make next.
    looks: Vec<Look>,
    found: Vec<Detection>,
    /// Boxes that touch a seam between tiles.
    cut: Vec<Rect>,
    failing: bool,
}

impl<K: Kernels> Detect<K> {
    /// Takes a place of its own and the detector, made for [`LARGEST_INPUT`].
    ///
    /// # Errors
    /// [`Error::Settings`] for settings out of range; [`Error::Kernels`] when memory is short.
    pub fn new(mut kernels: K, detector: Detector<K>, settings: &Settings) -> Result<Self, Error> {
        settings.check()?;
        let thumbnail = kernels.tensor([1, 3, THUMBNAIL.1, THUMBNAIL.0])?;
        Ok(Self {
            kernels,
            detector,
            scan: settings.scan,
            possible: settings.possible,
            tracker: Tracker::new(settings.track),
            levels: None,
            look_closely: true,
            swept: 0,
            sweep_pause: settings.scan.sweep_every,
            since_tile: 0,
            since_full: 0,
            thumbnail,
            before: Vec::with_capacity(3 * THUMBNAIL.0 * THUMBNAIL.1),
            looks: Vec::new(),
            found: Vec::new(),
            cut: Vec::new(),
            failing: false,
        })
    }

    /// Forgets what was seen, as after a seek: the next frame is looked at as the first.
    pub(super) fn reset(&mut self) {
        self.tracker.reset();
        self.levels = None;
        self.look_closely = true;
        self.before.clear();
    }

    /// Finds the faces of a frame. Whatever goes wrong ends in a job that says so, never in a frame without faces.
    pub(super) fn look<B: Pixels<K>>(
        &mut self,
        mut frame: RawFrame<B>,
        arrived: Instant,
        mut tracks: Vec<Track>,
        shared: &Shared,
    ) -> Job<B> {
        let stats = &shared.stats;
        self.sweep_pause = self.scan.sweep_every.saturating_mul(shared.rung().sweep_pause());
        tracks.clear();
        let start = Instant::now();
        // After a panic the state below is not to be relied on; nor is it used again.
        let sound = !stats.is_faulty()
            && catch_unwind(AssertUnwindSafe(|| self.find(&mut frame))).unwrap_or_else(|_| {
                log::error!("detection panicked: every frame from now on is covered whole");
                stats.set_fault();
                false
            });
        if sound {
            tracks.extend_from_slice(self.tracker.tracks());
        }
        stats.took(Stage::Detect, start.elapsed());
        Job {
            frame,
            arrived,
            tracks,
            sound,
        }
    }

    /// Updates the tracker; `false` when the frame's faces are not known.
    fn find<B: Pixels<K>>(&mut self, frame: &mut RawFrame<B>) -> bool {
        let time = frame.time();
        let size = frame.buffer_mut().size();
        // Another size is another picture: the old tracks' coordinates mean nothing in it.
        let resized = self.levels.is_some_and(|levels| levels.frame != size);
        if resized || self.tracker.breaks_at(time) {
            self.reset();
        }
        self.found.clear();
        let found = match frame.buffer_mut().with_frame(|pixels| self.scan(pixels, size)) {
            Ok(Ok(())) => true,
            Ok(Err(error)) => self.failed(&error),
            Err(error) => self.failed(&error),
        };
        self.look_closely = !found;
        if found {
            self.failing = false;
            self.tracker.update(time, &self.found);
        } else {
            self.tracker.update(time, &[]);
        }
        found
    }

    /// Reports the first of a row of failures.
    fn failed(&mut self, error: &dyn std::error::Error) -> bool {
        if !std::mem::replace(&mut self.failing, true) {
            log::error!("detection failed, whole frames are covered until it works again: {error}");
        }
        false
    }

    /// Fills `found` with every face of the frame.
    fn scan(&mut self, frame: &K::Frame<'_>, size: (usize, usize)) -> engines::Result<()> {
        let levels = *self.levels.get_or_insert_with(|| Levels::new(size, &self.scan));
        self.since_full = self.since_full.saturating_add(1);
        self.since_tile = self.since_tile.saturating_add(1);
        self.cut.clear();
        self.looks.clear();
        // Comes with what the detector says: there is one wait for all.
        let whole = Rect::new(0.0, 0.0, size.0 as f32, size.1 as f32);
        self.kernels
            .resize(frame, whole, Values::Byte, &mut self.thumbnail, 0)?;
        self.kernels.fetch(&mut self.thumbnail)?;

        let level = self.level(&levels);
        let closely = self.look_closely || self.scan.thorough || level == levels.full;
        if closely {
            self.full(&levels, None);
        } else {
            self.passes(&levels, &level);
            if self.sweep_pause > 0 && self.since_tile >= self.sweep_pause {
                self.since_tile = 0;
                let (level, tile) = self.next_tile(&levels, &level);
                self.pass(&levels, &level, tile);
            }
        }
        self.look_at(frame, &levels)?;
        let cut = self.scene_cut()?;
        if cut {
            self.tracker.scene_changed();
        }
        let has_lost = self.has_lost_a_face() && self.since_full >= self.scan.sweep_every;
        if !closely && (cut || has_lost) {
            // What was seen asks for more, which takes another wait.
            self.looks.clear();
            self.full(&levels, Some(&level));
            self.look_at(frame, &levels)?;
        }
        self.drop_cut_faces();
        suppress(&mut self.found, SAME_FACE_IOU);
        Ok(())
    }

    /// The coarsest level in which the smallest face followed is still large enough. Those of which no detection was
    /// ever sure count too: a crowd of faces at the limit of what the detector sees is such.
    fn level(&self, levels: &Levels) -> Level {
        let smallest = self
            .tracker
            .tracks()
            .iter()
            .map(|track| track.seen().width.min(track.seen().height))
            .fold(f32::INFINITY, f32::min);
        [levels.fast, levels.half]
            .into_iter()
            .find(|level| smallest * level.scale >= self.scan.smallest)
            .unwrap_or(levels.full)
    }

    /// The tile that the sweep looks at now. Half and full resolution take turns where `level` is coarser than both: the
    /// few tiles of half resolution come round soon, and show larger, more recognisable faces.
    fn next_tile(&mut self, levels: &Levels, level: &Level) -> (Level, usize) {
        self.swept += 1;
        if *level == levels.half {
            (levels.full, self.swept % levels.full.tiles())
        } else if self.swept.is_multiple_of(2) {
            (levels.full, (self.swept / 2) % levels.full.tiles())
        } else {
            (levels.half, (self.swept / 2) % levels.half.tiles())
        }
    }

    /// Full resolution over the whole frame; the fast pass too, for faces that are larger than a tile's overlap, unless
    /// that one is `done`.
    fn full(&mut self, levels: &Levels, done: Option<&Level>) {
        self.since_full = 0;
        if levels.full.tiles() > 1 && done != Some(&levels.fast) {
            self.passes(levels, &levels.fast);
        }
        self.passes(levels, &levels.full);
    }

    fn passes(&mut self, levels: &Levels, level: &Level) {
        for tile in 0..level.tiles() {
            self.pass(levels, level, tile);
        }
    }

    fn pass(&mut self, levels: &Levels, level: &Level, tile: usize) {
        self.looks.push(Look {
            region: level.region(levels.frame, tile),
            size: level.input,
        });
    }

    /// Makes the passes in `looks`; appends to `found` and notes the boxes that touch a seam.
    fn look_at(&mut self, frame: &K::Frame<'_>, levels: &Levels) -> engines::Result<()> {
        let (width, height) = (levels.frame.0 as f32, levels.frame.1 as f32);
        let cut = &mut self.cut;
        self.detector.detect_all(
            &mut self.kernels,
            frame,
            &self.looks,
            self.possible,
            &mut self.found,
            |Look { region, .. }, faces| {
                let touches_a_seam = |rect: &Rect| {
                    // The network ends the box of a face that is cut off a little before or behind the seam.
                    let near = SEAM * rect.width.max(rect.height);
                    (region.x > 0.0 && rect.x < region.x + near)
                        || (region.y > 0.0 && rect.y < region.y + near)
                        || (region.right() < width && rect.right() > region.right() - near)
                        || (region.bottom() < height && rect.bottom() > region.bottom() - near)
                };
                cut.extend(faces.iter().map(|face| face.rect).filter(touches_a_seam));
            },
        )
    }

    /// Drops the parts of faces at the seams of tiles when the whole face was found, too, and not cut itself. A part
    /// without a whole, or much smaller than it, stays: unknown is a face.
    fn drop_cut_faces(&mut self) {
        let mut index = 0;
        while index < self.found.len() {
            let part = self.found[index].rect;
            let whole_is_known = self.cut.contains(&part)
                && self.found.iter().any(|whole| {
                    whole.rect.area() > part.area()
                        && part.area() >= LEAST_PART * whole.rect.area()
                        && !self.cut.contains(&whole.rect)
                        && whole.rect.intersection(&part).area() >= CUT_SHARE * part.area()
                });
            if whole_is_known {
                self.found.swap_remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// Whether a face that is followed is not among the detections, whether it was there in the frame before or not.
    fn has_lost_a_face(&self) -> bool {
        self.tracker
            .tracks()
            .iter()
            .filter(|track| track.is_confirmed())
            .any(|track| {
                self.found
                    .iter()
                    .all(|detection| detection.rect.iou(&track.rect) < SAME_FACE_IOU)
            })
    }

    /// Compares the frame's thumbnail with the one before.
    fn scene_cut(&mut self) -> engines::Result<bool> {
        let now = self.kernels.read(&mut self.thumbnail)?;
        let difference: f32 = now.iter().zip(&self.before).map(|(a, b)| (a - b).abs()).sum();
        let contrast = contrast(now).max(contrast(&self.before));
        let cut = difference > SCENE_CUT * contrast.max(LEAST_CONTRAST * now.len() as f32);
        self.before.clear();
        self.before.extend_from_slice(now);
        Ok(cut)
    }
}

/// Sum over a thumbnail of how far its values lie from their channel's mean.
fn contrast(thumbnail: &[f32]) -> f32 {
    let pixels = THUMBNAIL.0 * THUMBNAIL.1;
    let of_channel = |channel: &[f32]| {
        let mean = channel.iter().sum::<f32>() / pixels as f32;
        channel.iter().map(|value| (value - mean).abs()).sum::<f32>()
    };
    thumbnail.chunks_exact(pixels).map(of_channel).sum()
}
