use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use engines::generator::not_finite;
use engines::{Asked, Embedder, Embedding, Generator, Landmarker};
use kernels::{Hull, Kernels, Landmarks, MEAN_FACE, Placement, Pool, Rect, Region, Similarity, Values};

use super::verify::{self, Need, Verified};
use super::zones::Placed;
use super::{Error, Job, Policy, Reason, Settings, Shared, Stage, Stats, Treatment, quality};
use crate::frame::{Anonymized, Pixels};
use crate::track::{Evidence, LandmarkFilter, Track, TrackId};

/// Side of the crop in which sharpness is measured, pixels.
const SHARPNESS_SIDE: usize = 64;
/// Side of an aligned crop in frame pixels from which more size makes no better embedding: dlib's chip has 150.
const ENOUGH_PIXELS: f32 = 176.0;
/// A later frame's embedding replaces the one in use when its quality is this much better: often enough to leave a
/// bad first frame behind, seldom enough that the new face keeps its looks.
const CLEARLY_BETTER: f32 = 1.6;
/// The detector's box ends at the chin and below the hair: a cover of the face reaches from hair line to chin.
const FACE: Margins = Margins {
    sides: 0.15,
    above: 0.3,
    below: 0.15,
};
/// A cover of the head hides ears, beard and most hair as well.
const HEAD: Margins = Margins {
    sides: 0.4,
    above: 0.6,
    below: 0.3,
};

/// Proof that every face of a frame was replaced or covered, or the whole frame covered. Only [`Anonymize::treat`],
/// [`Anonymize::cover_frame`] and [`Anonymize::cover_without_place`] make one, and only at their ends.
struct Proof(());

/// One face of the frame in work. Covered unless `replaced` is set, which only a blend does, and which is taken back when
/// what the place says at the end of the frame is not what it should.
struct Face {
    track: Track,
    /// Whether the face may still be replaced; if not, why.
    candidate: Result<(), Reason>,
    /// Alignment and hull, once the landmarks are trusted.
    placement: Option<Placement>,
    asymmetry: f32,
    /// How good a picture of the face this one can be, 0 to 1, and how good it is, if that was asked.
    best: f32,
    quality: Option<f32>,
    /// Whether the output is to be verified in this frame.
    need: Need,
    /// Who the face is in this frame, if that was asked.
    input: Option<Embedding>,
    /// Where the place says how much of the face its mask covers: run of the generator, and entry.
    judged: Option<(usize, usize)>,
    replaced: bool,
    /// Whether it is covered already, below the faces that are replaced.
    is_below: bool,
}

impl Face {
    fn refuse(&mut self, reason: Reason) {
        self.candidate = Err(reason);
    }

    /// Covers the face after all.
    fn take_back(&mut self, reason: Reason) {
        self.replaced = false;
        self.refuse(reason);
    }

    fn treatment(&self) -> Treatment {
        if self.replaced {
            return Treatment::Generate;
        }
        // A face that no step refused, but none replaced either, was given up by a step that failed.
        Treatment::Cover(self.candidate.err().unwrap_or(Reason::Network))
    }

    /// What to cover: what `policy` asks for, else the hull of trusted landmarks, else the box of the face.
    fn region(&self, policy: Policy) -> Region {
        match (policy, &self.placement) {
            (Policy::Head, _) => Region::Box(HEAD.around(&self.track.rect)),
            (Policy::Anonymize, Some(placement)) => Region::Hull(placement.hull.clone()),
            _ => Region::Box(FACE.around(&self.track.rect)),
        }
    }
}

/// How far a cover reaches beyond the detector's box, in its widths and heights.
struct Margins {
    sides: f32,
    above: f32,
    below: f32,
}

impl Margins {
    /// The box with its margins, none of which is less than two pixels.
    fn around(&self, rect: &Rect) -> Rect {
        let sides = (self.sides * rect.width).max(2.0);
        let above = (self.above * rect.height).max(2.0);
        let below = (self.below * rect.height).max(2.0);
        Rect::new(
            rect.x - sides,
            rect.y - above,
            rect.width + 2.0 * sides,
            rect.height + above + below,
        )
    }
}

/// When the frame's time is up, and where its times are noted.
struct Clock<'s> {
    stats: &'s Stats,
    deadline: Option<Instant>,
}

impl Clock<'_> {
    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() > deadline)
    }

    fn took(&self, stage: Stage, time: Duration) {
        self.stats.took(stage, time);
    }
}

/// What is remembered of a face from frame to frame.
struct Memory {
    id: TrackId,
    filter: LandmarkFilter,
    /// The face's identity, and the quality of the picture that it was taken from.
    embedding: Option<(Embedding, f32)>,
    /// Whether the latest picture was clearly better than that one: the next one is embedded.
    promising: bool,
    /// Whether the face's output is another person.
    verified: Verified,
}

/// Replaces or covers every face of a frame: the second half of the pipeline.
pub struct Anonymize<K: Kernels> {
    kernels: K,
    landmarker: Landmarker<K>,
    embedder: Embedder<K>,
    generator: Generator<K>,
    settings: Settings,
    memories: Vec<Memory>,
    zones: Placed,
    /// Crops in which sharpness is measured.
    crops: Pool<K>,
    /// What the place says of the masks.
    shares: Pool<K>,
    inputs: Asked<K>,
    outputs: Asked<K>,
    failing: bool,
    /// Most faces of a frame that may be replaced at the present load.
    most_replaced: Option<u32>,
    // Lists whose memory is used again for every frame.
    faces: Vec<Face>,
    chosen: Vec<usize>,
    /// The faces in `crops`, `inputs` and `outputs`.
    measured: Vec<usize>,
    embedded: Vec<usize>,
    verified: Vec<usize>,
    boxes: Vec<Rect>,
    landmarks: Vec<Landmarks>,
    aligns: Vec<Similarity>,
    embeddings: Vec<Embedding>,
    placements: Vec<Placement>,
    regions: Vec<Region>,
}

impl<K: Kernels> Anonymize<K> {
    /// Takes a place of its own and the networks, made for [`Settings::max_faces`].
    ///
    /// # Errors
    /// [`Error::Settings`] for settings out of range; [`Error::Kernels`] when memory is short.
    pub fn new(
        mut kernels: K,
        landmarker: Landmarker<K>,
        embedder: Embedder<K>,
        generator: Generator<K>,
        settings: &Settings,
    ) -> Result<Self, Error> {
        settings.check()?;
        let side = SHARPNESS_SIDE;
        let crops = Pool::new(&mut kernels, [settings.max_faces, 3, side, side])?;
        let shares = Pool::new(&mut kernels, [settings.max_faces, 1, 1, 1])?;
        let (inputs, outputs) = (embedder.room(&mut kernels)?, embedder.room(&mut kernels)?);
        Ok(Self {
            kernels,
            landmarker,
            embedder,
            generator,
            settings: settings.clone(),
            memories: Vec::new(),
            zones: Placed::new(settings.zones.clone()),
            crops,
            shares,
            inputs,
            outputs,
            failing: false,
            most_replaced: None,
            faces: Vec::new(),
            chosen: Vec::new(),
            measured: Vec::new(),
            embedded: Vec::new(),
            verified: Vec::new(),
            boxes: Vec::new(),
            landmarks: Vec::new(),
            aligns: Vec::new(),
            embeddings: Vec::new(),
            placements: Vec::new(),
            regions: Vec::new(),
        })
    }

    /// Forgets every face.
    pub(super) fn reset(&mut self) {
        self.memories.clear();
    }

    /// Makes the job's frame fit to be shown; `None` when its pixels cannot be reached. Gives the job's list of
    /// tracks back, to be used again.
    pub(super) fn finish<B: Pixels<K>>(
        &mut self,
        mut job: Job<B>,
        shared: &Shared,
    ) -> (Option<Anonymized<B>>, Vec<Track>) {
        let stats = &shared.stats;
        if let Some(rules) = shared.take_rules() {
            self.zones = Placed::new(rules.zones);
            self.settings.trust.smallest_face = rules.smallest_face;
            self.settings.verify.every = rules.verify_every;
        }
        self.zones.fit(job.frame.buffer_mut().size());
        let policy = shared.policy();
        let hidden = policy == Policy::Shutter || shared.is_hidden();
        let sound = job.sound && !hidden && !stats.is_faulty();
        self.most_replaced = shared.rung().faces();
        let proof = sound.then(|| self.try_treat(&mut job, policy, stats)).flatten();
        let proof = proof.or_else(|| {
            for _ in &job.tracks {
                stats.covered(Reason::Frame);
            }
            self.try_cover_frame(&mut job, stats)
        });
        let Job {
            frame,
            arrived,
            tracks,
            ..
        } = job;
        let anonymized = proof.map(|Proof(())| frame.into_anonymized());
        if anonymized.is_some() {
            stats.frame();
            stats.took(Stage::Total, arrived.elapsed());
        } else {
            stats.dropped();
        }
        (anonymized, tracks)
    }

    /// [`Self::treat`], with its failures reported: the frame must then be covered.
    fn try_treat<B: Pixels<K>>(&mut self, job: &mut Job<B>, policy: Policy, stats: &Stats) -> Option<Proof> {
        let Job {
            frame,
            arrived,
            tracks,
            ..
        } = job;
        let time = frame.time();
        let deadline = self.settings.deadline.map(|deadline| *arrived + deadline);
        let clock = Clock { stats, deadline };
        // After a panic the state is not to be relied on: `is_faulty` keeps it from being used again.
        let treated = catch_unwind(AssertUnwindSafe(|| {
            frame.buffer_mut().with_frame(|pixels| {
                let (proof, faces) = self.treat(pixels, tracks, time, policy, &clock)?;
                // Counted only now: a frame that fails half-way is counted as covered.
                for face in faces {
                    match face.treatment() {
                        Treatment::Generate => stats.generated(),
                        Treatment::Cover(reason) => stats.covered(reason),
                    }
                }
                Ok::<_, engines::Error>(proof)
            })
        }));
        match treated {
            Ok(Ok(Ok(proof))) => Some(proof),
            Ok(Ok(Err(error))) => {
                self.failed(&error);
                None
            }
            Ok(Err(error)) => {
                self.failed(&error);
                None
            }
            Err(_) => {
                log::error!("anonymization panicked: every frame from now on is covered whole");
                stats.set_fault();
                None
            }
        }
    }

    fn try_cover_frame<B: Pixels<K>>(&mut self, job: &mut Job<B>, stats: &Stats) -> Option<Proof> {
        let start = Instant::now();
        let covered = catch_unwind(AssertUnwindSafe(|| {
            job.frame
                .buffer_mut()
                .with_frame(|pixels| self.cover_frame(pixels))
        }));
        let proof = match covered {
            Ok(Ok(covered)) => covered.map_err(|error| self.failed(&error)).ok(),
            Ok(Err(error)) => {
                self.failed(&error);
                None
            }
            Err(_) => {
                stats.set_fault();
                None
            }
        };
        let proof = proof.or_else(|| Self::cover_without_place(job, stats));
        if proof.is_some() {
            stats.frame_covered();
            stats.took(Stage::Cover, start.elapsed());
        }
        proof
    }

    /// The last resort, where the place cannot even cover: it is lost, and with it every later frame's faces.
    fn cover_without_place<B: Pixels<K>>(job: &mut Job<B>, stats: &Stats) -> Option<Proof> {
        job.frame.buffer_mut().cover().ok()?;
        if !stats.is_faulty() {
            log::error!("the place of the pixels has failed: every frame from now on is covered whole");
        }
        stats.set_fault();
        Some(Proof(()))
    }

    fn cover_frame(&mut self, frame: &mut K::Frame<'_>) -> kernels::Result<Proof> {
        self.kernels.cover(frame, &[Region::Frame])?;
        self.kernels.finish()?;
        Ok(Proof(()))
    }

    /// Reports the first of a row of failures.
    fn failed(&mut self, error: &dyn std::error::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            log::error!("anonymization failed, what it concerns is covered: {error}");
        }
    }

    /// Replaces or covers every one of `tracks`.
    ///
    /// A network that fails covers the faces that it was asked about. An error comes back only when a face's place is
    /// not known or the covering itself fails.
    fn treat(
        &mut self,
        frame: &mut K::Frame<'_>,
        tracks: &[Track],
        time: Duration,
        policy: Policy,
        clock: &Clock<'_>,
    ) -> engines::Result<(Proof, &[Face])> {
        if let Some(index) = tracks.iter().position(|track| !is_placed(&track.rect)) {
            return Err(engines::Error::Face {
                network: "tracker",
                index,
            });
        }
        let trust = self.settings.trust;
        self.memories
            .retain(|memory| tracks.iter().any(|track| track.id == memory.id));
        self.faces.clear();
        self.faces.extend(tracks.iter().map(|track| Face {
            track: *track,
            candidate: admit(track, policy, trust.smallest_face, &self.zones),
            placement: None,
            asymmetry: 0.0,
            best: 0.0,
            quality: None,
            need: Need::No,
            input: None,
            judged: None,
            replaced: false,
            is_below: false,
        }));
        if let Some(most) = self.most_replaced {
            // Tracks come oldest first, so that it is the same faces from frame to frame.
            let candidates = self.faces.iter_mut().filter(|face| face.candidate.is_ok());
            for face in candidates.skip(most as usize) {
                face.refuse(Reason::Load);
            }
        }
        let mut sound = self.locate(frame, time, clock);
        self.plan_verification(time);
        sound &= self.identify(frame, clock);
        sound &= self.replace(frame, policy, clock);
        self.ask_outputs(frame, clock);
        let start = Instant::now();
        if self.cover_the_rest(frame, policy)? {
            clock.took(Stage::Cover, start.elapsed());
        }
        let start = Instant::now();
        self.kernels.finish()?;
        let replaced = self.replaced();
        sound &= self.settle(time, clock);
        if self.replaced() != replaced {
            // Seldom: a face that is in the frame already may not stay there.
            self.cover_the_rest(frame, policy)?;
            self.kernels.finish()?;
        }
        clock.took(Stage::Finish, start.elapsed());
        if sound {
            self.failing = false;
        }
        Ok((Proof(()), &self.faces))
    }

    fn replaced(&self) -> usize {
        self.faces.iter().filter(|face| face.replaced).count()
    }

    /// Takes back the faces of which the place says, now that it has done its work, that they may not be shown.
    fn settle(&mut self, time: Duration, clock: &Clock<'_>) -> bool {
        let mut sound = self.judge_masks();
        sound &= self.read_inputs();
        sound &= self.judge_outputs(time, clock);
        // Last: an output is compared with the picture that it was made from.
        self.keep_inputs();
        sound
    }

    /// Lists the faces that may still be replaced in `chosen`. When time is up it refuses them all.
    fn choose(&mut self, clock: &Clock<'_>) {
        self.chosen.clear();
        let late = clock.is_late();
        for (index, face) in self.faces.iter_mut().enumerate() {
            if face.candidate.is_ok() && late {
                face.refuse(Reason::Late);
            } else if face.candidate.is_ok() {
                self.chosen.push(index);
            }
        }
    }

    /// Landmarks of the chosen faces; refuses those that are not to be relied on. `false` when the network failed.
    fn locate(&mut self, frame: &K::Frame<'_>, time: Duration, clock: &Clock<'_>) -> bool {
        self.choose(clock);
        if self.chosen.is_empty() {
            return true;
        }
        let start = Instant::now();
        self.boxes.clear();
        self.boxes
            .extend(self.chosen.iter().map(|&index| self.faces[index].track.rect));
        let located = self
            .landmarker
            .locate(&mut self.kernels, frame, &self.boxes, &mut self.landmarks);
        if let Err(error) = &located {
            self.landmarks.clear();
            self.failed(error);
        }
        // A face without landmarks, whatever the network's reason, is refused here.
        let landmarks = self.landmarks.iter().map(Some).chain(std::iter::repeat(None));
        for (&index, landmarks) in self.chosen.iter().zip(landmarks) {
            let face = &mut self.faces[index];
            let memory = memory(&mut self.memories, face.track.id, &self.settings);
            let placed = landmarks.ok_or(Reason::Network).and_then(|landmarks| {
                let points = face.track.points.ok_or(Reason::Landmarks)?;
                let pose = self.settings.trust.judge(&face.track.rect, &points, landmarks)?;
                let size = face.track.rect.area().sqrt();
                let smoothed = memory.filter.smooth(time, landmarks, size);
                let align = Similarity::estimate(&smoothed, &MEAN_FACE).ok_or(Reason::Landmarks)?;
                face.asymmetry = pose.asymmetry;
                Ok(Placement {
                    align,
                    hull: Hull::of(&smoothed),
                })
            });
            match placed {
                Ok(placement) => face.placement = Some(placement),
                Err(reason) => {
                    memory.filter.reset();
                    face.refuse(reason);
                }
            }
        }
        clock.took(Stage::Landmarks, start.elapsed());
        located.is_ok()
    }

    /// Chooses the faces whose output is verified in this frame: those that may not be shown without it, as many as a
    /// frame may take; else the one that has waited longest.
    fn plan_verification(&mut self, time: Duration) {
        let settings = self.settings.verify;
        let (mut most, mut oldest) = (settings.most, None);
        for (index, face) in self.faces.iter_mut().enumerate() {
            if face.candidate.is_err() {
                continue;
            }
            let known = memory(&mut self.memories, face.track.id, &self.settings).verified;
            match settings.need(known, time) {
                _ if known == Verified::Similar => face.refuse(Reason::Similar),
                Need::Must if most == 0 => face.refuse(Reason::Unverified),
                Need::Must => {
                    most -= 1;
                    face.need = Need::Must;
                }
                need @ Need::Due(_) => oldest = oldest.max(Some((need, index))),
                Need::No => (),
            }
        }
        if most == settings.most
            && let Some((need, index)) = oldest
        {
            self.faces[index].need = need;
        }
    }

    /// Asks who the chosen faces are that have no identity yet, an output to verify, or a clearly better picture than
    /// before; waits for the answers only when a face has no identity, because the generator needs it.
    fn identify(&mut self, frame: &K::Frame<'_>, clock: &Clock<'_>) -> bool {
        self.choose(clock);
        let start = Instant::now();
        self.measured.clear();
        self.embedded.clear();
        let mut is_urgent = false;
        for &index in &self.chosen {
            let face = &mut self.faces[index];
            let Some(placement) = &face.placement else {
                continue;
            };
            // Sharpness is at most 1, so most frames need not measure it.
            let scale = placement.align.scale();
            face.best = (1.0 / (scale * ENOUGH_PIXELS)).min(1.0) * (1.0 - face.asymmetry);
            let memory = memory(&mut self.memories, face.track.id, &self.settings);
            let is_promising = std::mem::take(&mut memory.promising);
            let (is_hopeless, is_new) = match memory.embedding {
                Some((_, known)) => (face.best < CLEARLY_BETTER * known, false),
                None => (false, true),
            };
            let is_asked_for = face.need != Need::No;
            if is_hopeless && !is_asked_for {
                continue;
            }
            self.measured.push(index);
            if is_asked_for || is_promising || is_new {
                self.embedded.push(index);
                is_urgent |= is_new;
            }
        }
        if self.measured.is_empty() {
            return true;
        }
        let asked = self.ask_inputs(frame);
        if let Err(error) = &asked {
            self.measured.clear();
            self.embedded.clear();
            self.failed(error);
        }
        let mut sound = asked.is_ok();
        if is_urgent {
            sound &= self.read_inputs();
            self.keep_inputs();
        }
        if !self.embedded.is_empty() || is_urgent {
            clock.took(Stage::Embed, start.elapsed());
        }
        self.refuse_strangers();
        sound
    }

    /// Asks for the crops of `measured` and the embeddings of `embedded`.
    fn ask_inputs(&mut self, frame: &K::Frame<'_>) -> engines::Result<()> {
        let faces = &self.faces;
        let align = |index: &usize| faces[*index].placement.as_ref().map(|placement| placement.align);
        for (run, measured) in self.measured.chunks(self.crops.entries()).enumerate() {
            self.aligns.clear();
            self.aligns.extend(measured.iter().filter_map(align));
            let [crops] = self.crops.get(&mut self.kernels, run)?;
            self.kernels.resize_batch(crops, measured.len())?;
            self.kernels.warp(frame, &self.aligns, Values::Byte, crops)?;
            self.kernels.fetch(crops)?;
        }
        self.aligns.clear();
        self.aligns.extend(self.embedded.iter().filter_map(align));
        self.embedder
            .ask(&mut self.kernels, frame, &self.aligns, &mut self.inputs)
    }

    /// How sharp the faces in `measured` are, and who those in `embedded` are; both lists are then empty. `false` when the
    /// place or the network failed.
    fn read_inputs(&mut self) -> bool {
        let read = self
            .read_crops()
            .and_then(|()| self.inputs.read(&mut self.kernels, &mut self.embeddings));
        if let Err(error) = &read {
            self.embeddings.clear();
            self.failed(error);
        }
        self.measured.clear();
        for (index, embedding) in self.embedded.drain(..).zip(&self.embeddings) {
            self.faces[index].input = Some(*embedding);
        }
        read.is_ok()
    }

    fn read_crops(&mut self) -> engines::Result<()> {
        for (run, measured) in self.measured.chunks(self.crops.entries()).enumerate() {
            let [crops] = self.crops.get(&mut self.kernels, run)?;
            let values = self.kernels.read(crops)?;
            let crops = values.chunks_exact(3 * SHARPNESS_SIDE * SHARPNESS_SIDE);
            for (&index, crop) in measured.iter().zip(crops) {
                let face = &mut self.faces[index];
                face.quality = Some(face.best * quality::sharpness(crop, SHARPNESS_SIDE));
            }
        }
        Ok(())
    }

    /// Keeps the identities that come from clearly better pictures than the known ones.
    fn keep_inputs(&mut self) {
        for face in &self.faces {
            let Some(quality) = face.quality else {
                continue;
            };
            let memory = memory(&mut self.memories, face.track.id, &self.settings);
            let known = memory.embedding.map(|(_, known)| known);
            if known.is_none_or(|known| quality >= CLEARLY_BETTER * known) {
                match face.input {
                    Some(embedding) => memory.embedding = Some((embedding, quality)),
                    None => memory.promising = true,
                }
            }
        }
    }

    /// Refuses the faces of which no embedding is known.
    fn refuse_strangers(&mut self) {
        for face in self.faces.iter_mut().filter(|face| face.candidate.is_ok()) {
            if memory(&mut self.memories, face.track.id, &self.settings)
                .embedding
                .is_none()
            {
                face.refuse(Reason::Network);
            }
        }
    }

    /// Generates the chosen faces and blends them in. Far faces come first, so that the nearer of two that overlap
    /// lies on top, in every frame alike.
    fn replace(&mut self, frame: &mut K::Frame<'_>, policy: Policy, clock: &Clock<'_>) -> bool {
        self.choose(clock);
        let faces = &self.faces;
        self.chosen.sort_unstable_by(|&a, &b| {
            let (a, b) = (&faces[a].track, &faces[b].track);
            a.rect.area().total_cmp(&b.rect.area()).then(a.id.cmp(&b.id))
        });
        let (mut generating, mut blending) = (Duration::ZERO, Duration::ZERO);
        let (mut from, mut run, mut sound) = (0, 0, true);
        while from < self.chosen.len() {
            let to = self.chosen.len().min(from + self.settings.max_faces);
            if clock.is_late() {
                for &index in &self.chosen[from..] {
                    self.faces[index].refuse(Reason::Late);
                }
                break;
            }
            let start = Instant::now();
            let generated = self.generate(frame, from..to, run);
            generating += start.elapsed();
            let start = Instant::now();
            let blended = generated.and_then(|()| {
                self.cover_phantoms(frame, policy)?;
                let (image, mask) = (self.generator.image(), self.generator.mask());
                Ok(self.kernels.blend(frame, &self.placements, image, mask)?)
            });
            blending += start.elapsed();
            for (entry, &index) in self.chosen[from..to].iter().enumerate() {
                let face = &mut self.faces[index];
                face.judged = Some((run, entry));
                face.replaced = blended.is_ok();
            }
            if let Err(error) = blended {
                sound = false;
                self.failed(&error);
            }
            (from, run) = (to, run + 1);
        }
        if !self.chosen.is_empty() {
            clock.took(Stage::Generate, generating);
            clock.took(Stage::Blend, blending);
        }
        sound
    }

    /// Generates the faces `chosen[range]` and has their masks judged.
    fn generate(&mut self, frame: &K::Frame<'_>, range: Range<usize>, run: usize) -> engines::Result<()> {
        self.placements.clear();
        self.aligns.clear();
        self.embeddings.clear();
        for &index in &self.chosen[range.clone()] {
            let face = &self.faces[index];
            let memory = memory(&mut self.memories, face.track.id, &self.settings);
            if let (Some(placement), Some((embedding, _))) = (&face.placement, memory.embedding) {
                self.placements.push(placement.clone());
                self.aligns.push(placement.align);
                self.embeddings.push(embedding);
            }
        }
        if self.placements.len() != range.len() {
            // Unreachable while `locate` and `identify` refuse what they cannot place or name.
            return Err(engines::Error::Face {
                network: "generator",
                index: self.placements.len(),
            });
        }
        self.generator
            .ask(&mut self.kernels, frame, &self.aligns, &self.embeddings)?;
        let [shares] = self.shares.get(&mut self.kernels, run)?;
        self.kernels.resize_batch(shares, range.len())?;
        let (faces, masks) = self.generator.faces_and_masks();
        let floor = self.settings.mask_floor;
        self.kernels
            .judge(&self.placements, floor, faces, masks, shares)?;
        Ok(self.kernels.fetch(shares)?)
    }

    /// Takes back the faces that the generator refused to replace, and those of which it gave no numbers. `false` when
    /// there was one of the latter.
    fn judge_masks(&mut self) -> bool {
        let mut failure = None;
        for face in self.faces.iter_mut().filter(|face| face.replaced) {
            match share(&mut self.kernels, &mut self.shares, face.judged) {
                Ok(share) if share >= self.settings.mask_coverage => (),
                Ok(share) if share.is_finite() => face.take_back(Reason::Mask),
                Ok(_) => {
                    face.take_back(Reason::Network);
                    failure = Some(not_finite("a generated face or its mask"));
                }
                Err(error) => {
                    face.take_back(Reason::Network);
                    failure = Some(error);
                }
            }
        }
        if let Some(error) = &failure {
            self.failed(error);
        }
        failure.is_none()
    }

    /// Asks for the embeddings of the outputs that are to be verified, out of the frame as it is now.
    fn ask_outputs(&mut self, frame: &K::Frame<'_>, clock: &Clock<'_>) {
        let start = Instant::now();
        let late = clock.is_late();
        self.verified.clear();
        self.aligns.clear();
        for (index, face) in self.faces.iter_mut().enumerate() {
            let Some(placement) = face.placement.as_ref().filter(|_| face.replaced) else {
                continue;
            };
            match face.need {
                // One is verified even then: its new face is made already, and a stream whose frames all end a little
                // too late would otherwise never show one.
                Need::Must if late && !self.verified.is_empty() => face.take_back(Reason::Late),
                Need::Due(_) if late => (),
                Need::Due(_) | Need::Must => {
                    self.aligns.push(placement.align);
                    self.verified.push(index);
                }
                Need::No => (),
            }
        }
        // Also when there are none, so that none of another frame are left. A failure shows when they are read.
        let asked = self
            .embedder
            .ask(&mut self.kernels, frame, &self.aligns, &mut self.outputs);
        if let Err(error) = asked {
            self.failed(&error);
        }
        if !self.verified.is_empty() {
            clock.took(Stage::Verify, start.elapsed());
        }
    }

    /// Compares the outputs with the persons; takes back those that resemble the person, and those that had to be
    /// verified and could not be. `false` when the network failed.
    fn judge_outputs(&mut self, time: Duration, clock: &Clock<'_>) -> bool {
        let read = self.outputs.read(&mut self.kernels, &mut self.embeddings);
        if let Err(error) = &read {
            self.failed(error);
        }
        let outputs = self.embeddings.iter().map(Some).chain(std::iter::repeat(None));
        for (index, output) in self.verified.drain(..).zip(outputs) {
            let face = &mut self.faces[index];
            if !face.replaced {
                // Its mask was refused: this is not what would be shown.
                continue;
            }
            let memory = memory(&mut self.memories, face.track.id, &self.settings);
            let known = face.input.as_ref().zip(memory.embedding.as_ref());
            let distance = output
                .zip(known)
                .map(|(output, (input, (kept, _)))| verify::distance(output, input, kept));
            clock.stats.verified(distance);
            memory.verified = distance.map_or(Verified::Never, |distance| {
                self.settings.verify.judge(distance, time)
            });
            match memory.verified {
                Verified::At(_) => (),
                Verified::Similar => {
                    clock.stats.similar();
                    face.take_back(Reason::Similar);
                }
                Verified::Never => face.take_back(Reason::Unverified),
            }
        }
        read.is_ok()
    }

    /// Covers what is not seen any more and never looked like a face to the landmark network, so that no identity is
    /// known of it. It is covered for as long as any other lost face, but below the faces that are replaced: such phantoms
    /// are mostly parts of a near face, and a cover on top of that would hide the new face. What a blend leaves of the
    /// pixels below it is the cover, never the picture.
    fn cover_phantoms(&mut self, frame: &mut K::Frame<'_>, policy: Policy) -> kernels::Result<()> {
        let memories = &self.memories;
        let is_known = |face: &Face| {
            let mut memories = memories.iter();
            memories.any(|memory| memory.id == face.track.id && memory.embedding.is_some())
        };
        let is_phantom =
            |face: &Face| face.candidate == Err(Reason::Coasting) && !face.is_below && !is_known(face);
        let phantoms = self.faces.iter().filter(|face| is_phantom(face));
        self.regions.clear();
        self.regions.extend(phantoms.map(|face| face.region(policy)));
        if self.regions.is_empty() {
            return Ok(());
        }
        self.kernels.cover(frame, &self.regions)?;
        // Only now: what could not be covered here is covered with the rest.
        for face in &mut self.faces {
            face.is_below |= is_phantom(face);
        }
        Ok(())
    }

    /// Covers every other face that was not replaced; `false` when there is nothing to cover. Comes last, so that no
    /// blend can bring anything back.
    fn cover_the_rest(&mut self, frame: &mut K::Frame<'_>, policy: Policy) -> kernels::Result<bool> {
        let rest = self.faces.iter().filter(|face| !face.replaced && !face.is_below);
        self.regions.clear();
        self.regions.extend(rest.map(|face| face.region(policy)));
        self.regions.extend(self.zones.masks());
        if self.regions.is_empty() {
            return Ok(false);
        }
        self.kernels.cover(frame, &self.regions)?;
        Ok(true)
    }
}

/// Which share of a face's hull its mask covers; NaN when nobody said.
fn share<K: Kernels>(
    kernels: &mut K,
    shares: &mut Pool<K>,
    judged: Option<(usize, usize)>,
) -> engines::Result<f32> {
    let Some((run, entry)) = judged else {
        return Ok(f32::NAN);
    };
    let [shares] = shares.get(kernels, run)?;
    Ok(kernels.read(shares)?.get(entry).copied().unwrap_or(f32::NAN))
}

/// Whether a track may be replaced at all.
fn admit(track: &Track, policy: Policy, smallest: f32, zones: &Placed) -> Result<(), Reason> {
    match (policy, track.evidence) {
        (Policy::Cover | Policy::Head | Policy::Shutter, _) => Err(Reason::Policy),
        _ if zones.hide(&track.rect) => Err(Reason::Zone),
        (_, Evidence::Tentative) => Err(Reason::Tentative),
        (_, Evidence::Coasting) => Err(Reason::Coasting),
        (_, Evidence::LookAhead) => Err(Reason::LookAhead),
        (_, Evidence::Detected) if track.rect.width.min(track.rect.height) < smallest => Err(Reason::Small),
        (_, Evidence::Detected) => Ok(()),
    }
}

/// Whether a box can be covered.
fn is_placed(rect: &Rect) -> bool {
    [rect.x, rect.y, rect.width, rect.height]
        .iter()
        .all(|v| v.is_finite())
        && rect.width >= 0.0
        && rect.height >= 0.0
}

/// The face's memory, new for a new face.
fn memory<'m>(memories: &'m mut Vec<Memory>, id: TrackId, settings: &Settings) -> &'m mut Memory {
    let index = memories
        .iter()
        .position(|memory| memory.id == id)
        .unwrap_or_else(|| {
            memories.push(Memory {
                id,
                filter: LandmarkFilter::new(settings.smoothing),
                embedding: None,
                promising: false,
                verified: Verified::default(),
            });
            memories.len() - 1
        });
    &mut memories[index]
}
