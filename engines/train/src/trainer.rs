//! One step of training, and everything that takes part in it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use engines::models::Store;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Beta, Distribution, weighted::WeightedIndex};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::attributes::{AgeGender, Attributes};
use crate::augment::Field;
use crate::data::{Batch, Faces};
use crate::inverter::Inverter;
use crate::losses;
use crate::network::{Discriminator, Generator};
use crate::optimizer::Adam;
use crate::preset::{Preset, Window};
use crate::reader::Reader;
use crate::recognizer::{Landmarker, Recognizer, View};
use crate::sheet;

/// Loss terms of one step, by name; every step gives the same names in the same order.
pub type Terms = Vec<(&'static str, Tensor)>;

/// Networks, optimisers and data of a run.
#[derive(Debug)]
pub struct Trainer {
    /// The recipe.
    pub preset: Preset,
    /// Steps done.
    pub step: u64,
    device: Device,
    faces: Faces,
    persons: Vec<Vec<i64>>,
    variables: VarStore,
    generator: Generator,
    discriminator: Discriminator,
    eyes: Option<Discriminator>,
    average_variables: VarStore,
    average: Generator,
    generator_adam: Adam,
    discriminator_adam: Adam,
    recognizers: Vec<Recognizer>,
    /// One per recogniser, unless the preset goes without.
    inverters: Vec<Inverter>,
    /// Likewise.
    readers: Vec<Reader>,
    landmarker: Option<Landmarker>,
    attributes: Option<AgeGender>,
}

/// What a recogniser has to say about a step's outputs.
struct Perception {
    /// The multi-image perceptual loss without its last summand.
    perceptual: Tensor,
    /// That summand.
    push: Tensor,
    sameness: Tensor,
    /// What the inverter knows, in nats.
    known: Tensor,
    distance: Tensor,
    /// Index of the recogniser.
    recognizer: usize,
    /// Descriptors of the originals and of the outputs.
    descriptors: [Tensor; 2],
}

/// Sex and age as the discriminators are told.
const LABELS: i64 = 2;

impl Trainer {
    /// Makes the networks with random weights.
    ///
    /// # Errors
    /// When a frozen network cannot be read or the faces do not fit the preset.
    pub fn new(preset: Preset, faces: Faces, store: &Store, device: Device) -> Result<Self> {
        let side = faces.crops.size()[3];
        ensure!(
            side == preset.generator.side,
            "the faces are {side} pixels wide, the preset wants {}",
            preset.generator.side
        );
        ensure!(!preset.recognizer.is_empty(), "the preset names no recognizer");
        tch::manual_seed(preset.optimizer.seed);
        let variables = VarStore::new(device);
        let generator = Generator::new(&(variables.root() / "generator"), &preset.generator);
        let spec = preset.attributes.as_ref();
        let labels = if spec.is_some_and(|spec| spec.told) {
            LABELS
        } else {
            0
        };
        let path = variables.root() / "discriminator";
        let discriminator = Discriminator::new(&path, labels);
        let eyes = (preset.loss.eyes > 0.0).then(|| Discriminator::new(&(path / "eyes"), labels));
        let mut average_variables = VarStore::new(device);
        let average = Generator::new(&(average_variables.root() / "generator"), &preset.generator);
        average_variables.freeze();
        let adam = |part: &str| {
            let mut named: Vec<_> = variables
                .variables()
                .into_iter()
                .filter(|(name, _)| name.starts_with(part))
                .collect();
            named.sort_by(|(a, _), (b, _)| a.cmp(b));
            Adam::new(named, preset.optimizer.beta_1, preset.optimizer.beta_2)
        };
        let recognizers = preset
            .recognizer
            .iter()
            .map(|spec| Recognizer::load(store, spec, device))
            .collect::<Result<Vec<_>>>()?;
        let (mut inverters, mut readers) = (Vec::new(), Vec::new());
        let blank = Tensor::zeros([1, 3, side, side], (Kind::Float, device));
        let (beta_1, beta_2) = (preset.optimizer.beta_1, preset.optimizer.beta_2);
        for (index, recognizer) in recognizers.iter().enumerate() {
            let width = tch::no_grad(|| recognizer.describe(&blank))?.size()[1];
            let path = |part: &str| variables.root() / part / index;
            if preset.loss.inversion > 0.0 {
                inverters.push(Inverter::new(&path("inverter"), width, beta_1, beta_2));
            }
            if spec.is_some_and(|spec| spec.read > 0.0) {
                readers.push(Reader::new(&path("reader"), width, LABELS, beta_1, beta_2));
            }
        }
        let mut trainer = Self {
            generator_adam: adam("generator."),
            discriminator_adam: adam("discriminator."),
            recognizers,
            inverters,
            readers,
            landmarker: preset
                .landmarks
                .as_ref()
                .map(|spec| Landmarker::load(store, &spec.network, device))
                .transpose()?,
            attributes: preset
                .attributes
                .as_ref()
                .filter(|spec| spec.told || spec.sex > 0.0 || spec.age > 0.0 || spec.read > 0.0)
                .map(|_| AgeGender::load(store.dir(), device))
                .transpose()?,
            persons: faces.persons(),
            preset,
            step: 0,
            device,
            faces,
            variables,
            generator,
            discriminator,
            eyes,
            average_variables,
            average,
        };
        trainer.average_towards(1.0);
        Ok(trainer)
    }

    /// Takes weights, not the optimisers' state, from a weights file or a checkpoint.
    ///
    /// # Errors
    /// When the file lacks a variable.
    pub fn initialize(&mut self, path: &Path) -> Result<()> {
        let context = || format!("cannot start from {}", path.display());
        let missing = self.variables.load_partial(path).with_context(context)?;
        // Discriminators may begin anew, and so may the further output of figure 7f, which nobody ships.
        let needed = |name: &&String| name.starts_with("generator.") && !name.starts_with("generator.low.");
        if let Some(name) = missing.iter().find(needed) {
            bail!("{} has no variable {name}", path.display());
        }
        self.average_towards(1.0);
        Ok(())
    }

    fn average_towards(&mut self, share: f64) {
        let _guard = tch::no_grad_guard();
        let present = self.variables.variables();
        for (name, mut average) in self.average_variables.variables() {
            let _ = average.lerp_(&present[&name], share);
        }
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let mut state: Vec<_> = self.variables.variables().into_iter().collect();
        state.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut averages: Vec<_> = self.average_variables.variables().into_iter().collect();
        averages.sort_by(|(a, _), (b, _)| a.cmp(b));
        state.extend(
            averages
                .into_iter()
                .map(|(name, t)| (format!("average.{name}"), t)),
        );
        state.extend(self.generator_adam.state("adam"));
        state.extend(self.discriminator_adam.state("adam"));
        state.extend(self.inverters.iter().flat_map(Inverter::state));
        state.extend(self.readers.iter().flat_map(Reader::state));
        state
    }

    /// Writes everything that [`Trainer::restore`] needs, replacing the file only when it is complete.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut state = self.state();
        state.push(("step".into(), Tensor::from(self.step as i64)));
        let partial = path.with_extension("partial.safetensors");
        Tensor::write_safetensors(&state, &partial)
            .with_context(|| format!("cannot write {}", partial.display()))?;
        fs::rename(&partial, path)?;
        Ok(())
    }

    /// Continues exactly where [`Trainer::save`] was called: every random draw depends on seed and step alone.
    ///
    /// # Errors
    /// When the file is missing or belongs to another preset.
    pub fn restore(&mut self, path: &Path) -> Result<()> {
        let saved: HashMap<_, _> = Tensor::read_safetensors(path)
            .with_context(|| format!("cannot resume from {}", path.display()))?
            .into_iter()
            .collect();
        let find = |name: &str| {
            saved
                .get(name)
                .with_context(|| format!("{} has no {name}", path.display()))
        };
        let _guard = tch::no_grad_guard();
        for (name, mut tensor) in self.state() {
            tensor
                .f_copy_(find(&name)?)
                .with_context(|| format!("{name} in {}", path.display()))?;
        }
        self.step = u64::try_from(find("step")?.int64_value(&[]))?;
        Ok(())
    }

    /// Writes the averaged generator alone, FP32.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn export(&self, path: &Path) -> Result<()> {
        self.average_variables
            .save(path)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Does one step of generator and discriminator and gives its loss terms.
    ///
    /// # Errors
    /// When a loss is not a number or a network refuses its input.
    pub fn advance(&mut self) -> Result<Terms> {
        let seed = self.preset.optimizer.seed.wrapping_add(self.step as i64);
        tch::manual_seed(seed);
        let mut random = StdRng::seed_from_u64(seed as u64);
        let batch = self.draw_batch(&mut random);
        let loss = self.preset.loss.clone();
        let samples = batch.pictures.size()[0];

        let input = Field::draw(
            &self.preset.augment.input,
            samples,
            self.preset.generator.side,
            Window::WHOLE,
            self.device,
        )
        .sample(&batch.pictures);
        let (x, hull) = (&batch.pictures, &batch.hulls);
        let (raw, mask, low) = self.generator.forward_all(&input, &batch.targets);
        let mask = if loss.mask { mask } else { mask.ones_like() };
        let whole = hull.ones_like();
        let region = if loss.hull { hull } else { &whole };
        let shown_raw = losses::composite(x, &raw, region);
        let shown = losses::composite(x, &raw, &(&mask * region));

        // Only the hull is ever shown; outside of it the losses count little.
        let weight = hull * 0.92 + 0.08;
        let outputs = [&raw, &shown];
        let sum = |of: &dyn Fn(&Tensor) -> Tensor| of(outputs[0]) + of(outputs[1]);
        let mut terms: Terms = vec![
            (
                "reconstruction",
                sum(&|z| losses::reconstruction(z, x, &weight)) * loss.lambda_1,
            ),
            ("edges", sum(&|z| losses::edges(z, x, &weight)) * loss.lambda_2),
            ("tone", losses::tone(&raw, x, &weight) * loss.tone),
            ("mask", losses::mask_size(&mask) * loss.lambda_4),
            ("roughness", losses::mask_roughness(&mask) * loss.lambda_5),
            ("exposure", losses::exposure(&mask, hull) * loss.exposure),
        ];

        let mut judged = match (loss.both, self.step.is_multiple_of(2)) {
            (true, _) => Tensor::cat(&[&shown_raw, &shown], 0),
            (false, true) => shown_raw,
            (false, false) => shown.shallow_clone(),
        };
        if let Some(low) = low {
            let half = |x: &Tensor| x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None);
            let (x_low, weight) = (half(x), half(&weight));
            terms.push((
                "low",
                losses::reconstruction(&low, &x_low, &weight) * loss.lambda_1
                    + losses::edges(&low, &x_low, &weight) * loss.lambda_2,
            ));
            let side = self.preset.generator.side;
            let low = low.upsample_bilinear2d([side, side], false, None, None);
            judged = Tensor::cat(&[judged, losses::composite(x, &low, region)], 0);
        }
        let repeat = judged.size()[0] / samples;
        let repeated = |t: &Tensor| t.repeat([repeat, 1, 1, 1]);
        let (x, hull) = (repeated(x), repeated(hull));

        let gain = loss.detail_gain;
        terms.push((
            "detail",
            losses::missing_detail(&judged, &x, &hull, gain) * loss.detail,
        ));
        terms.push(("grain", losses::grain(&judged, &x, &hull, gain) * loss.grain));
        let perception = self.perceive(&mut random, &x, &judged)?;
        let push = loss.lambda_3 * self.preset.lambda_at(self.step);
        let known = (&perception.known - loss.inversion_free).relu();
        terms.push(("perceptual", perception.perceptual * loss.lambda_3));
        terms.push(("push", perception.push * push));
        terms.push(("sameness", perception.sameness * loss.sameness));
        terms.push(("inversion", known * loss.inversion));
        terms.extend(self.locate(&x, &judged)?);
        let (ties, labels) = self.tell(&x, &judged)?;
        terms.extend(ties);
        if let (Some(reader), Some(spec)) = (self.readers.get(perception.recognizer), &self.preset.attributes)
        {
            let [_, outputs] = &perception.descriptors;
            terms.push(("read", reader.error(outputs, &labels) * spec.read));
        }

        let generated = if loss.adversarial_raw { &judged } else { &shown };
        let beta = self.draw_beta(&mut random, generated.size()[0])?;
        let told = labels.narrow(0, 0, generated.size()[0]);
        let mixed = losses::mixup(&x.narrow(0, 0, generated.size()[0]), generated, &beta);
        let judge = |mixed: &Tensor, target: &Tensor| {
            let whole = losses::least_squares(&self.discriminator.forward(mixed, &told), target);
            let eyes = self.eyes.as_ref().map(|discriminator| {
                let judged = discriminator.forward(&eyes_of(mixed), &told);
                losses::least_squares(&judged, target)
            });
            (whole, eyes)
        };
        let (whole, eyes) = judge(&mixed, &(1.0 - &beta));
        terms.push(("adversarial", whole * loss.lambda_0));
        if let Some(eyes) = eyes {
            terms.push(("adversarial eyes", eyes * (loss.lambda_0 * loss.eyes)));
        }

        let total = terms
            .iter()
            .fold(Tensor::zeros([], (Kind::Float, self.device)), |sum, (_, term)| {
                sum + term
            });
        let value = total.double_value(&[]);
        ensure!(
            value.is_finite(),
            "step {}: the loss is {value}; resume with a lower learning rate",
            self.step
        );
        let rate = self.preset.rate_at(self.step);
        let optimizer = &self.preset.optimizer;
        self.generator_adam
            .descend(&total, self.step + 1, rate * optimizer.learning_rate)?;

        let (whole, eyes) = judge(&mixed.detach(), &beta);
        let discriminator = match &eyes {
            Some(eyes) => &whole + eyes,
            None => whole.shallow_clone(),
        };
        self.discriminator_adam.descend(
            &discriminator,
            self.step + 1,
            rate * optimizer.discriminator_rate,
        )?;
        if let Some(inverter) = self.inverters.get_mut(perception.recognizer) {
            let [originals, outputs] = &perception.descriptors;
            inverter.learn(outputs, originals, self.step + 1)?;
        }
        if let Some(reader) = self.readers.get_mut(perception.recognizer) {
            let [originals, _] = &perception.descriptors;
            reader.learn(originals, &labels, self.step + 1)?;
        }
        // The average of few steps forgets its start faster.
        self.average_towards(self.preset.optimizer.ema.max(1.0 / (self.step + 1) as f64));
        self.step += 1;

        terms.push(("discriminator", whole));
        terms.extend(eyes.map(|eyes| ("discriminator eyes", eyes)));
        terms.push(("known", perception.known));
        terms.push(("distance", perception.distance));
        terms.push(("coverage", 1.0 - losses::exposure(&mask, &batch.hulls)));
        for (_, term) in &mut terms {
            *term = term.detach();
        }
        Ok(terms)
    }

    fn draw_batch(&self, random: &mut StdRng) -> Batch {
        let count = self.preset.optimizer.batch;
        let indices: Vec<i64> = (0..count)
            .map(|_| random.random_range(0..self.faces.len() as i64))
            .collect();
        let mirrored: Vec<bool> = (0..count).map(|_| random.random()).collect();
        let targets: Vec<i64> = indices
            .iter()
            .map(|&index| {
                let same = &self.persons[index as usize];
                let other = random.random_bool(self.preset.augment.other_picture);
                if other {
                    same[random.random_range(0..same.len())]
                } else {
                    index
                }
            })
            .collect();
        let batch = self.faces.batch(&indices, &targets, &mirrored, self.device);
        let side = self.preset.generator.side;
        let field = Field::draw(
            &self.preset.augment.picture,
            count,
            side,
            Window::WHOLE,
            self.device,
        );
        Batch {
            pictures: field.sample(&batch.pictures),
            hulls: field.sample(&batch.hulls),
            ..batch
        }
    }

    /// Shows source and output to one of the recognisers.
    fn perceive(&self, random: &mut StdRng, x: &Tensor, output: &Tensor) -> Result<Perception> {
        let shares = WeightedIndex::new(self.recognizers.iter().map(|r| r.spec().share))
            .context("the recognizers' shares")?;
        let index = shares.sample(random);
        let recognizer = &self.recognizers[index];
        let spec = recognizer.spec();
        let poor = random.random_bool(self.preset.augment.degrade);
        let view = View::draw(recognizer, &self.preset.augment.recognizer, poor, x);
        let source = tch::no_grad(|| recognizer.look(x, &view))?;
        let seen = recognizer.look(output, &view)?;
        let ties = |reference: &[Tensor], maps: &[Tensor], weight: f64| {
            reference
                .iter()
                .zip(maps)
                .fold(Tensor::zeros([], (Kind::Float, self.device)), |sum, (r, m)| {
                    sum + losses::tie(r, m)
                })
                * weight
        };
        let loss = &self.preset.loss;
        // In training the target is the source (paper section 3).
        let perceptual = ties(&source.low, &seen.low, loss.low) + ties(&source.high, &seen.high, loss.high);
        let push = losses::closeness(&source.descriptor, &seen.descriptor, spec.distance);
        let distance = losses::descriptor_distance(&source.descriptor, &seen.descriptor).mean(Kind::Float);
        let known = match self.inverters.get(index) {
            Some(inverter) => inverter.knows(&seen.descriptor, &source.descriptor),
            None => losses::matched(&seen.descriptor, &source.descriptor),
        };
        Ok(Perception {
            perceptual,
            push,
            sameness: losses::sameness(&seen.descriptor, spec.spread),
            known,
            distance,
            recognizer: index,
            descriptors: [source.descriptor, seen.descriptor],
        })
    }

    /// The losses of position and expression.
    fn locate(&self, x: &Tensor, output: &Tensor) -> Result<Terms> {
        let (Some(landmarker), Some(spec)) = (&self.landmarker, &self.preset.landmarks) else {
            return Ok(Vec::new());
        };
        let motion = &self.preset.augment.recognizer;
        let field = Field::draw(
            motion,
            x.size()[0],
            Landmarker::SIZE,
            Landmarker::WINDOW,
            self.device,
        );
        let source = tch::no_grad(|| landmarker.look(x, &field))?;
        let points = landmarker.look(output, &field)?;
        let opening = |of| losses::expression(&source, &points, of);
        Ok(vec![
            (
                "position",
                losses::landmark_error(&source, &points) * spec.position,
            ),
            ("mouth", opening(&losses::MOUTH) * spec.mouth),
            ("eyes", opening(&losses::EYES) * spec.eyes),
        ])
    }

    /// The losses of sex and age, and what the discriminators are told: the source's sex from -1 to 1, and by how
    /// many times 40 years it is above 40, `[n, 2]`.
    fn tell(&self, x: &Tensor, output: &Tensor) -> Result<(Terms, Tensor)> {
        let (Some(network), Some(spec)) = (&self.attributes, &self.preset.attributes) else {
            let labels = Tensor::zeros([x.size()[0], LABELS], (Kind::Float, self.device));
            return Ok((Vec::new(), labels));
        };
        let motion = &self.preset.augment.recognizer;
        let samples = x.size()[0];
        let field = Field::draw(motion, samples, AgeGender::SIZE, AgeGender::WINDOW, self.device);
        let Attributes { male, age } = tch::no_grad(|| network.look(x, &field))?;
        let labels = Tensor::stack(&[(&male / 2.0).tanh(), (&age - 40.0) / 40.0], 1);
        let mut terms = Vec::new();
        if spec.sex > 0.0 || spec.age > 0.0 {
            let seen = network.look(output, &field)?;
            let years = (age - seen.age).abs().mean(Kind::Float);
            terms.push(("sex", losses::cross_entropy(&male, &seen.male) * spec.sex));
            terms.push(("age", years * (spec.age / 10.0)));
        }
        Ok((terms, labels))
    }

    fn draw_beta(&self, random: &mut StdRng, samples: i64) -> Result<Tensor> {
        let alpha = self.preset.loss.alpha;
        let beta = Beta::new(alpha, alpha).context("alpha of the mixup must be positive")?;
        let values: Vec<f32> = (0..samples).map(|_| beta.sample(random) as f32).collect();
        Ok(Tensor::from_slice(&values)
            .view([-1, 1, 1, 1])
            .to_device(self.device))
    }

    /// Writes a sheet of twelve faces: source, raw, mask, masked and target.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn draw(&self, path: &Path) -> Result<()> {
        const COLUMNS: usize = 12;
        let _guard = tch::no_grad_guard();
        let indices: Vec<i64> = (0..COLUMNS)
            .map(|i| (i * self.faces.len() / COLUMNS) as i64)
            .collect();
        let targets: Vec<i64> = indices
            .iter()
            .map(|&index| {
                self.persons[index as usize]
                    .iter()
                    .copied()
                    .find(|other| *other != index)
                    .unwrap_or(index)
            })
            .collect();
        let straight = [false; COLUMNS];
        let batch = self.faces.batch(&indices, &targets, &straight, self.device);
        let target = self
            .faces
            .batch(&targets, &targets, &straight, self.device)
            .pictures;
        let (raw, mask) = self.average.forward(&batch.pictures, &batch.targets);
        let shown = losses::composite(&batch.pictures, &raw, &(&mask * &batch.hulls));
        let rows = [batch.pictures, raw, mask * 2.0 - 1.0, shown, target];
        sheet::write(path, &rows.map(|row| row.to_device(Device::Cpu)))
    }
}

/// The eyes of aligned crops `[n, c, s, s]` with their brows, twice enlarged: `[n, c, 0.53 s, 1.31 s]`.
fn eyes_of(crops: &Tensor) -> Tensor {
    let side = crops.size()[3];
    let part = |from: f64, to: f64| {
        let start = (from * side as f64).round() as i64;
        (start, (to * side as f64).round() as i64 - start)
    };
    let ((top, height), (left, width)) = (part(0.18, 0.445), part(0.172, 0.828));
    crops
        .narrow(2, top, height)
        .narrow(3, left, width)
        .upsample_bilinear2d([2 * height, 2 * width], false, None, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engines::onnx::{Builder, Dim, Setting};

    const SIDE: i64 = 64;

    /// A frozen network of one convolution with 8 random filters, and the mean of each as descriptor.
    fn recognizer(folder: &Path) {
        let mut graph = Builder::new("tiny");
        let pictures = [Dim::Free("n"), Dim::Fixed(3), Dim::Fixed(32), Dim::Fixed(32)];
        let input = graph.input("rgb", &pictures);
        let mut random = StdRng::seed_from_u64(5);
        let weights: Vec<f32> = (0..8 * 3 * 9).map(|_| random.random_range(-0.01..0.01)).collect();
        let filters = graph.constant(&[8, 3, 3, 3], &weights);
        let settings = [
            Setting::Ints("kernel_shape", &[3, 3]),
            Setting::Ints("strides", &[2, 2]),
        ];
        let map = graph.node("Conv", &[&input, &filters], &settings);
        let map = graph.node("Relu", &[&map], &[]);
        let pooled = graph.node("GlobalAveragePool", &[&map], &[]);
        let descriptor = graph.node("Flatten", &[&pooled], &[]);
        graph.output(&descriptor, "descriptor", &[Dim::Free("n"), Dim::Fixed(8)]);
        fs::write(folder.join("tiny.onnx"), graph.finish()).unwrap();
    }

    fn preset() -> Preset {
        let mut preset = Preset::load("edge128").unwrap();
        preset.generator = crate::network::Size {
            side: SIDE,
            stem: 8,
            encoder: [8, 16, 16, 32, 32],
            latent: 32,
            embedding: 8,
            decoder: 64,
            low: false,
        };
        preset.optimizer.batch = 4;
        preset.optimizer.learning_rate = 2e-3;
        preset.landmarks = None;
        preset.lambda.clear();
        preset.recognizer.truncate(1);
        let spec = &mut preset.recognizer[0];
        (spec.network, spec.size, spec.low, spec.high) = ("tiny.onnx".into(), 32, vec![1], vec![]);
        preset
    }

    /// Made-up faces: dark eyes and mouth on an oval, of different colours.
    fn faces() -> Faces {
        let count = 6;
        let mut bytes = Vec::new();
        for face in 0..count {
            for channel in 0..3 {
                for i in 0..SIDE * SIDE {
                    let (x, y) = (
                        (i % SIDE) as f32 / SIDE as f32 - 0.5,
                        (i / SIDE) as f32 / SIDE as f32 - 0.5,
                    );
                    let near = |cx: f32, cy: f32| (x - cx).hypot(y - cy) < 0.08;
                    let dark = near(-0.15, -0.15) || near(0.15, -0.15) || near(0.0, 0.2);
                    let skin = 120 + 15 * face + 10 * channel;
                    let inside = x.hypot(y * 0.8) < 0.38;
                    bytes.push(if dark {
                        40
                    } else if inside {
                        skin as u8
                    } else {
                        90
                    });
                }
            }
        }
        let pixels = [count as i64, 3, SIDE, SIDE];
        Faces {
            crops: Tensor::from_data_size(&bytes, &pixels, Kind::Uint8),
            hulls: Tensor::full([count as i64, 1, SIDE, SIDE], 255, (Kind::Uint8, Device::Cpu)),
            landmarks: Tensor::zeros([count as i64, 68, 2], (Kind::Float, Device::Cpu)),
            descriptors: Tensor::ones([count as i64, 2, 8], (Kind::Float, Device::Cpu)),
            names: (0..count).map(|face| format!("made/up/{face}.png")).collect(),
        }
    }

    fn trainer(folder: &Path) -> Trainer {
        trainer_of(preset(), folder)
    }

    fn trainer_of(preset: Preset, folder: &Path) -> Trainer {
        tch::set_num_threads(1);
        recognizer(folder);
        crate::attributes::tests::write(folder);
        Trainer::new(preset, faces(), &Store::open(folder).unwrap(), Device::Cpu).unwrap()
    }

    fn reconstruction(terms: &Terms) -> f64 {
        terms
            .iter()
            .find(|(name, _)| *name == "reconstruction")
            .unwrap()
            .1
            .double_value(&[])
    }

    #[test]
    fn fifty_steps_lower_the_loss() {
        let _turn = crate::take_turn();
        let folder = tempfile::tempdir().unwrap();
        let mut trainer = trainer(folder.path());
        let losses: Vec<f64> = (0..50)
            .map(|_| reconstruction(&trainer.advance().unwrap()))
            .collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (first, last) = (mean(&losses[..5]), mean(&losses[45..]));
        assert!(last < 0.7 * first, "{first} to {last}");
    }

    #[test]
    fn every_preset_takes_a_step_with_the_losses_that_it_names() {
        let _turn = crate::take_turn();
        for (name, present, absent) in [
            (
                "edge128",
                vec!["adversarial eyes", "sex", "age", "read"],
                vec!["low"],
            ),
            (
                "paper128",
                vec![],
                vec!["adversarial eyes", "sex", "age", "read", "low"],
            ),
            ("figure7f", vec!["low"], vec!["sex"]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut small = preset();
            let whole = Preset::load(name).unwrap();
            small.generator.low = whole.generator.low;
            (small.loss, small.attributes) = (whole.loss, whole.attributes);
            let terms = trainer_of(small, folder.path()).advance().unwrap();
            let has = |wanted: &str| terms.iter().any(|(name, _)| *name == wanted);
            assert!(present.iter().all(|name| has(name)), "{name}: {terms:?}");
            assert!(!absent.iter().any(|name| has(name)), "{name}: {terms:?}");
        }
    }

    #[test]
    fn a_resumed_run_repeats_the_uninterrupted_one() {
        let _turn = crate::take_turn();
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join("checkpoint.safetensors");
        let mut whole = trainer(folder.path());
        for step in 0..4 {
            if step == 2 {
                whole.save(&checkpoint).unwrap();
            }
            whole.advance().unwrap();
        }
        let mut resumed = trainer(folder.path());
        resumed.restore(&checkpoint).unwrap();
        while resumed.step < whole.step {
            resumed.advance().unwrap();
        }
        for ((name, a), (other, b)) in whole.state().iter().zip(&resumed.state()) {
            assert_eq!(name, other);
            assert!(a.equal(b), "{name} differs");
        }
    }
}
