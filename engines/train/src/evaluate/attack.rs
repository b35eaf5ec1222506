//! What somebody gains who trains on our outputs: a recogniser's head re-trained on them (the parrot attack of
//! Newton, Sweeney and Malin 2005), and a network that leads descriptors of outputs back to those of the originals.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use indicatif::ProgressIterator;
use serde::Serialize;
use tch::nn::{self, Init, Module, OptimizerConfig, VarStore};
use tch::{Device, Kind, Tensor};

use super::judge::{Judge, Metric};
use super::product::{Picture, Product};
use super::{Subject, describe, judges, limited, metrics};
use crate::recognizer::unit;

/// What to attack, and with what.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    subject: Subject,
    /// TOML files of the recognisers that the attacker starts from
    #[arg(long = "recognizer", required = true)]
    recognizers: Vec<PathBuf>,
    /// Persons of eval/lfw that are attacked, spread over those with four pictures or more
    #[arg(long, default_value_t = 200)]
    persons: usize,
    /// Persons of train/lfw that the inverter learns from, spread likewise
    #[arg(long, default_value_t = 300)]
    learners: usize,
    /// Pictures taken of each person
    #[arg(long, default_value_t = 8)]
    pictures: usize,
}

/// Fewest pictures of a person: two to learn from, two to test with.
const FEWEST: usize = 4;
/// Width of the hidden layers.
const HIDDEN: i64 = 256;
const SEED: i64 = 1;

/// One picture as a recogniser describes it.
struct Sample {
    original: Vec<f32>,
    output: Vec<f32>,
    /// The original with the face covered: hair, ears and what else the generator never touches.
    covered: Vec<f32>,
}

/// All pictures of one person.
type Person = Vec<Sample>;

/// Everything measured.
#[derive(Debug, Serialize)]
struct Report {
    weights: String,
    attacks: Vec<Attack>,
}

/// One method with one recogniser.
#[derive(Debug, Serialize)]
struct Attack {
    recognizer: String,
    trained_on: bool,
    method: Method,
    #[serde(flatten)]
    outcome: Outcome,
}

/// What an attack came to.
#[derive(Debug, Serialize)]
struct Outcome {
    /// Persons to choose from.
    persons: usize,
    /// Pictures to be recognised.
    probes: usize,
    /// Outputs that the attacker learns from.
    lessons: usize,
    /// What is compared, and how well that goes.
    verdicts: Vec<(&'static str, Verdict)>,
}

/// What the attacker learns from.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    /// Outputs of the very persons that are to be recognised.
    Parrot,
    /// Outputs and originals of other persons.
    Inverter,
}

/// How well probes are recognised; chance is 1 and 5 of the persons, and the FAR itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Verdict {
    rank_1: f64,
    rank_5: f64,
    tar_at_far_1e3: f64,
    tar_at_far_1e2: f64,
}

impl Verdict {
    /// Judges the likeness of each probe (row) to each person (column); `truth` is every probe's person. The
    /// thresholds are those of the same probes against the persons that they do not show.
    fn of(likeness: &[Vec<f64>], truth: &[usize]) -> Option<Self> {
        let (mut genuine, mut impostors, mut ranks) = (Vec::new(), Vec::new(), Vec::new());
        for (row, &person) in likeness.iter().zip(truth) {
            let others = || {
                row.iter()
                    .enumerate()
                    .filter(move |(other, _)| *other != person)
                    .map(|(_, score)| *score)
            };
            let score = *row.get(person)?;
            genuine.push(score);
            impostors.extend(others());
            ranks.push(metrics::rank(score, others()));
        }
        let within = |most| {
            let hits = ranks.iter().filter(|rank| **rank <= most).count();
            (!ranks.is_empty()).then(|| hits as f64 / ranks.len() as f64)
        };
        let tar = |rate| metrics::acceptance(&genuine, metrics::threshold(&impostors, rate)?);
        Some(Self {
            rank_1: within(1)?,
            rank_5: within(5)?,
            tar_at_far_1e3: tar(1e-3)?,
            tar_at_far_1e2: tar(1e-2)?,
        })
    }
}

/// The verdict on what was compared, under its name in the report.
fn named(what: &'static str, likeness: &[Vec<f64>], truth: &[usize]) -> Result<(&'static str, Verdict)> {
    let verdict = Verdict::of(likeness, truth).context("no output to recognise")?;
    Ok((what, verdict))
}

/// Attacks the outputs of a generator and writes the report.
///
/// # Errors
/// When a file is missing, a network fails, or there are fewer than two persons with enough pictures.
pub fn attack(options: &Options) -> Result<()> {
    let subject = &options.subject;
    tch::set_num_threads(i32::try_from(subject.threads)?);
    let (runtime, mut product) = subject.open()?;
    let mut judges = judges(&options.recognizers, &runtime, &mut product)?;

    let mut read = |folder: &str, persons| {
        let folders = persons_in(&subject.data.join(folder), persons, options.pictures)?;
        samples(&folders, &mut product, &mut judges)
    };
    let attacked = read("eval/lfw", options.persons)?;
    let learners = read("train/lfw", options.learners)?;
    let mut report = Report {
        weights: subject.weights.display().to_string(),
        attacks: Vec::new(),
    };
    for (judge, (attacked, learners)) in judges.iter().zip(attacked.iter().zip(&learners)) {
        let (metric, trained_on) = (judge.spec.metric, judge.spec.trained_on);
        for (method, outcome) in [
            (Method::Parrot, parrot(attacked, metric)?),
            (Method::Inverter, inverter(learners, attacked, metric)?),
        ] {
            report.attacks.push(Attack {
                recognizer: judge.spec.name.clone(),
                trained_on,
                method,
                outcome,
            });
        }
    }
    subject.write("attack", &report, &report.markdown()?)
}

/// The pictures of at most `limit` persons, `pictures` of each, out of a folder with a folder for every person.
fn persons_in(folder: &Path, limit: usize, pictures: usize) -> Result<Vec<Vec<PathBuf>>> {
    let list = |folder: &Path| -> Result<Vec<PathBuf>> {
        let mut entries = fs::read_dir(folder)
            .with_context(|| format!("cannot read {}", folder.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        entries.sort();
        Ok(entries)
    };
    let mut persons = Vec::new();
    for person in list(folder)? {
        let mut files = list(&person)?;
        files.truncate(pictures);
        if files.len() >= FEWEST {
            persons.push(files);
        }
    }
    Ok(limited(persons, Some(limit)))
}

/// Replaces every face, the target being the person's next picture, and describes it before and after: for each
/// judge the persons of whom enough faces were found.
fn samples(
    persons: &[Vec<PathBuf>],
    product: &mut Product,
    judges: &mut [Judge],
) -> Result<Vec<Vec<Person>>> {
    let mut described: Vec<Vec<Person>> = judges.iter().map(|_| Vec::new()).collect();
    for files in persons.iter().progress() {
        let mut found = Vec::new();
        for file in files {
            let mut picture = Picture::read(file)?;
            if let Some(face) = product.find(&mut picture)? {
                found.push((picture, face));
            }
        }
        if found.len() < FEWEST {
            continue;
        }
        let targets: Vec<_> = found.iter().map(|(_, face)| face.embedding).collect();
        for persons in &mut described {
            persons.push(Person::new());
        }
        for (index, (mut picture, face)) in found.into_iter().enumerate() {
            let target = targets[(index + 1) % targets.len()];
            let mut replaced = product.replace(&mut picture, &face, &target)?.picture;
            let mut covered = product.cover(&picture, &face)?;
            let mut see = |picture| describe(picture, &face.landmarks, product, judges);
            let [originals, outputs, covered] = [see(&mut picture)?, see(&mut replaced)?, see(&mut covered)?];
            let seen = originals.into_iter().zip(outputs).zip(covered);
            for (persons, ((original, output), covered)) in described.iter_mut().zip(seen) {
                let sample = Sample {
                    original,
                    output,
                    covered,
                };
                persons
                    .last_mut()
                    .context("a person without samples")?
                    .push(sample);
            }
        }
    }
    Ok(described)
}

/// A descriptor and the index of the person that it shows.
type Labelled<'a> = (usize, &'a [f32]);

/// One descriptor of pictures `first`, `first + step`, ... of every person.
fn take<'a>(
    persons: &'a [Person],
    first: usize,
    step: usize,
    descriptor: impl Fn(&'a Sample) -> &'a Vec<f32>,
) -> Vec<Labelled<'a>> {
    let mut taken = Vec::new();
    for (person, samples) in persons.iter().enumerate() {
        let samples = samples.iter().skip(first).step_by(step);
        taken.extend(samples.map(|sample| (person, descriptor(sample).as_slice())));
    }
    taken
}

fn whose(labelled: &[Labelled<'_>]) -> Vec<usize> {
    labelled.iter().map(|(person, _)| *person).collect()
}

/// Persons `[n]` and descriptors `[n, d]`.
fn tensors(labelled: &[Labelled<'_>]) -> Result<(Tensor, Tensor)> {
    let persons: Vec<i64> = labelled.iter().map(|(person, _)| *person as i64).collect();
    let rows: Vec<_> = labelled.iter().map(|(_, row)| Tensor::from_slice(row)).collect();
    Ok((Tensor::from_slice(&persons), Tensor::f_stack(&rows, 0)?))
}

/// Likeness of each probe to each of `count` persons: that of the person's nearest known descriptor.
fn nearest(probes: &[Labelled<'_>], known: &[Labelled<'_>], count: usize, metric: Metric) -> Vec<Vec<f64>> {
    let likeness = |probe: &[f32]| {
        let mut row = vec![f64::NEG_INFINITY; count];
        for (person, descriptor) in known {
            row[*person] = row[*person].max(metric.likeness(probe, descriptor));
        }
        row
    };
    probes.iter().map(|(_, probe)| likeness(probe)).collect()
}

/// Learns to recognise persons by every other of their outputs and is tested on the rest.
fn parrot(persons: &[Person], metric: Metric) -> Result<Outcome> {
    ensure!(
        persons.len() >= 2,
        "a parrot attack needs two persons with {FEWEST} pictures or more, found {}",
        persons.len()
    );
    let count = persons.len();
    let [known_originals, originals] = [0, 1].map(|half| take(persons, half, 2, |sample| &sample.original));
    let [lessons, outputs] = [0, 1].map(|half| take(persons, half, 2, |sample| &sample.output));
    let [known_covered, covered] = [0, 1].map(|half| take(persons, half, 2, |sample| &sample.covered));
    let truth = whose(&outputs);
    let verdict = |what, likeness: &[Vec<f64>]| named(what, likeness, &truth);
    Ok(Outcome {
        persons: count,
        probes: outputs.len(),
        lessons: lessons.len(),
        verdicts: vec![
            verdict(
                "originals among originals",
                &nearest(&originals, &known_originals, count, metric),
            )?,
            verdict(
                "outputs among originals",
                &nearest(&outputs, &known_originals, count, metric),
            )?,
            verdict(
                "outputs among outputs, recogniser as it is",
                &nearest(&outputs, &lessons, count, metric),
            )?,
            verdict(
                "outputs, linear head trained on outputs",
                &retrain(&lessons, &outputs, count, false)?,
            )?,
            verdict(
                "outputs, two-layer head trained on outputs",
                &retrain(&lessons, &outputs, count, true)?,
            )?,
            verdict(
                "covered faces, linear head trained on covered faces",
                &retrain(&known_covered, &covered, count, false)?,
            )?,
        ],
    })
}

/// Log-probability of each of `count` persons for each probe, after a head with one layer or two on top of the
/// recogniser has been trained on `lessons`.
fn retrain(
    lessons: &[Labelled<'_>],
    probes: &[Labelled<'_>],
    count: usize,
    hidden: bool,
) -> Result<Vec<Vec<f64>>> {
    const STEPS: usize = 300;
    const DROPOUT: f64 = 0.2;
    tch::manual_seed(SEED);
    let (persons, lessons) = tensors(lessons)?;
    let (_, probes) = tensors(probes)?;
    let center = lessons.mean_dim(0i64, true, Kind::Float);
    let spread = (&lessons - &center).square().mean(Kind::Float).sqrt() + 1e-6;
    let [lessons, probes] = [lessons, probes].map(|rows| (rows - &center) / &spread);

    let variables = VarStore::new(Device::Cpu);
    let root = variables.root();
    let (width, count) = (lessons.size()[1], i64::try_from(count)?);
    let head = if hidden {
        nn::seq()
            .add(nn::linear(&root / "hidden", width, HIDDEN, Default::default()))
            .add_fn(Tensor::relu)
            .add(nn::linear(&root / "persons", HIDDEN, count, Default::default()))
    } else {
        nn::seq().add(nn::linear(&root / "persons", width, count, Default::default()))
    };
    let optimizer = nn::AdamW {
        wd: 0.1,
        ..Default::default()
    };
    let mut optimizer = optimizer.build(&variables, 3e-3)?;
    for _ in 0..STEPS {
        let loss = head
            .forward(&lessons.dropout(DROPOUT, true))
            .cross_entropy_for_logits(&persons);
        optimizer.backward_step(&loss);
    }
    let probabilities = tch::no_grad(|| head.forward(&probes).log_softmax(1, Kind::Double));
    Ok(Vec::try_from(&probabilities)?)
}

/// One in so many of the inverter's persons tells when to stop.
const VALIDATION: usize = 5;

/// Learns to undo on `learners` what the generator does to descriptors, and looks for `persons` in a gallery of one
/// original each.
fn inverter(learners: &[Person], persons: &[Person], metric: Metric) -> Result<Outcome> {
    ensure!(
        learners.len() > VALIDATION && persons.len() >= 2,
        "an inverter needs more than {VALIDATION} persons to learn from and two to attack, all with {FEWEST} \
         pictures or more; found {} and {}",
        learners.len(),
        persons.len()
    );
    let lessons = take(learners, 0, 1, |sample| &sample.output);
    let answers = take(learners, 0, 1, |sample| &sample.original);
    let gallery = take(persons, 0, usize::MAX, |sample| &sample.original);
    let originals = take(persons, 1, 1, |sample| &sample.original);
    let outputs = take(persons, 1, 1, |sample| &sample.output);
    let covered_lessons = take(learners, 0, 1, |sample| &sample.covered);
    let covered = take(persons, 1, 1, |sample| &sample.covered);
    let truth = whose(&outputs);
    let verdict = |what, likeness: &[Vec<f64>]| named(what, likeness, &truth);
    let count = persons.len();
    Ok(Outcome {
        persons: count,
        probes: outputs.len(),
        lessons: lessons.len(),
        verdicts: vec![
            verdict(
                "originals among originals",
                &nearest(&originals, &gallery, count, metric),
            )?,
            verdict(
                "outputs among originals, recogniser as it is",
                &nearest(&outputs, &gallery, count, metric),
            )?,
            verdict(
                "inverted outputs among originals",
                &invert(&lessons, &answers, &outputs, &gallery)?,
            )?,
            verdict(
                "inverted covered faces among originals",
                &invert(&covered_lessons, &answers, &covered, &gallery)?,
            )?,
        ],
    })
}

/// Cosine of each inverted probe and each picture of the gallery. The inverter is a linear layer and a two-layer
/// network, both added to the descriptor itself, and learns from outputs (`lessons`) and their originals
/// (`answers`) to come near the original and no other person's (the contrastive loss of van den Oord et al. 2018).
fn invert(
    lessons: &[Labelled<'_>],
    answers: &[Labelled<'_>],
    probes: &[Labelled<'_>],
    gallery: &[Labelled<'_>],
) -> Result<Vec<Vec<f64>>> {
    const STEPS: usize = 1500;
    const BATCH: i64 = 256;
    const TEMPERATURE: f64 = 0.07;
    tch::manual_seed(SEED);
    let (persons, lessons) = tensors(lessons)?;
    let (_, answers) = tensors(answers)?;
    let centers = [&lessons, &answers].map(|rows| rows.mean_dim(0i64, true, Kind::Float));
    let [lessons, probes] = [lessons, tensors(probes)?.1].map(|rows| unit(&(rows - &centers[0])));
    let [answers, gallery] = [answers, tensors(gallery)?.1].map(|rows| unit(&(rows - &centers[1])));

    let variables = VarStore::new(Device::Cpu);
    let root = variables.root();
    let width = lessons.size()[1];
    // The untrained inverter changes nothing.
    let zero = nn::LinearConfig {
        ws_init: Init::Const(0.0),
        ..Default::default()
    };
    let linear = nn::linear(&root / "linear", width, width, zero);
    let hidden = nn::linear(&root / "hidden", width, HIDDEN, Default::default());
    let last = nn::linear(&root / "last", HIDDEN, width, zero);
    let inverted =
        |rows: &Tensor| unit(&(rows + linear.forward(rows) + last.forward(&hidden.forward(rows).relu())));
    let loss = |of: &Tensor| {
        let (persons, answers) = (persons.index_select(0, of), answers.index_select(0, of));
        let likeness = inverted(&lessons.index_select(0, of)).matmul(&answers.tr()) / TEMPERATURE;
        let here = Tensor::arange(of.size()[0], (Kind::Int64, Device::Cpu));
        let others = here.unsqueeze(1).not_equal_tensor(&here);
        let other_picture = persons.unsqueeze(1).eq_tensor(&persons).logical_and(&others);
        likeness
            .masked_fill(&other_picture, f64::NEG_INFINITY)
            .cross_entropy_for_logits(&here)
    };
    let held_out = persons.remainder(VALIDATION as i64).eq(0);
    let validation = held_out.nonzero().squeeze_dim(1);
    let training = held_out.logical_not().nonzero().squeeze_dim(1);

    let optimizer = nn::AdamW {
        wd: 0.05,
        ..Default::default()
    };
    let mut optimizer = optimizer.build(&variables, 1e-3)?;
    let (mut least, mut best) = (f64::INFINITY, probes.shallow_clone());
    for step in 0..STEPS {
        if step.is_multiple_of(50) {
            let _guard = tch::no_grad_guard();
            let value = loss(&validation).double_value(&[]);
            if value < least {
                (least, best) = (value, inverted(&probes));
            }
        }
        let count = training.size()[0];
        let order = Tensor::randperm(count, (Kind::Int64, Device::Cpu)).narrow(0, 0, count.min(BATCH));
        optimizer.backward_step(&loss(&training.index_select(0, &order)));
    }
    Ok(Vec::try_from(&best.matmul(&gallery.tr()).to_kind(Kind::Double))?)
}

impl Report {
    fn markdown(&self) -> Result<String> {
        let mut text = String::new();
        let percent = |value: f64| format!("{:.1} %", 100.0 * value);
        writeln!(text, "# Attacks on {}\n", self.weights)?;
        writeln!(
            text,
            "Probes are outputs along the product's own path, the target being another picture of the person. \
             Thresholds come from the same probes against the persons that they do not show. Covered faces are \
             originals whose face is gray: what they tell, hair, ears and clothes tell.\n"
        )?;
        for attack in &self.attacks {
            let training = if attack.trained_on { " (in training)" } else { "" };
            let outcome = &attack.outcome;
            writeln!(
                text,
                "## {:?}, {}{training}\n\n{} persons, {} probes, learnt from {} outputs.\n",
                attack.method, attack.recognizer, outcome.persons, outcome.probes, outcome.lessons
            )?;
            writeln!(
                text,
                "| what | rank 1 | rank 5 | TAR@FAR 1e-3 | TAR@FAR 1e-2 |\n|---|---|---|---|---|"
            )?;
            let chance = Verdict {
                rank_1: 1.0 / outcome.persons as f64,
                rank_5: (5.0 / outcome.persons as f64).min(1.0),
                tar_at_far_1e3: 1e-3,
                tar_at_far_1e2: 1e-2,
            };
            for (what, verdict) in outcome.verdicts.iter().chain([&("chance", chance)]) {
                writeln!(
                    text,
                    "| {what} | {} | {} | {} | {} |",
                    percent(verdict.rank_1),
                    percent(verdict.rank_5),
                    percent(verdict.tar_at_far_1e3),
                    percent(verdict.tar_at_far_1e2),
                )?;
            }
            writeln!(text)?;
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const WIDTH: usize = 32;
    const PICTURES: usize = 8;

    fn draw(random: &mut StdRng, spread: f32) -> Vec<f32> {
        (0..WIDTH).map(|_| random.random_range(-spread..spread)).collect()
    }

    /// Persons whose originals lie about a point of their own; `output` makes the output's descriptor.
    fn persons(
        count: usize,
        random: &mut StdRng,
        output: &dyn Fn(&[f32], &mut StdRng) -> Vec<f32>,
    ) -> Vec<Person> {
        (0..count)
            .map(|_| {
                let person = draw(random, 1.0);
                let mut sample = || {
                    let noise = draw(random, 0.3);
                    let original: Vec<f32> = person.iter().zip(noise).map(|(a, b)| a + b).collect();
                    Sample {
                        output: output(&original, random),
                        covered: draw(random, 1.0),
                        original,
                    }
                };
                (0..PICTURES).map(|_| sample()).collect()
            })
            .collect()
    }

    /// Gives every value another place, the same for all: the recogniser is lost, identity is not.
    fn veiled(original: &[f32], _: &mut StdRng) -> Vec<f32> {
        (0..WIDTH).map(|i| original[(i + 7) % WIDTH]).collect()
    }

    /// Says nothing of the person.
    fn random(_: &[f32], random: &mut StdRng) -> Vec<f32> {
        draw(random, 1.0)
    }

    fn rank_1(outcome: &Outcome, what: &str) -> f64 {
        let mut verdicts = outcome.verdicts.iter();
        verdicts.find(|(name, _)| *name == what).unwrap().1.rank_1
    }

    #[test]
    fn verdicts_worked_out_by_hand() {
        let likeness = [vec![0.9, 0.1, 0.2], vec![0.8, 0.5, 0.1], vec![0.0, 0.3, 0.4]];
        let verdict = Verdict::of(&likeness, &[0, 1, 2]).unwrap();
        // Genuine 0.9, 0.5, 0.4; the best impostor, 0.8, must be refused.
        let wanted = Verdict {
            rank_1: 2.0 / 3.0,
            rank_5: 1.0,
            tar_at_far_1e3: 1.0 / 3.0,
            tar_at_far_1e2: 1.0 / 3.0,
        };
        assert_eq!(verdict, wanted);
        assert_eq!(Verdict::of(&[], &[]), None);
    }

    #[test]
    fn a_head_recognises_veiled_persons_and_no_random_outputs() {
        let _turn = crate::take_turn();
        tch::set_num_threads(1);
        let mut seed = StdRng::seed_from_u64(3);
        let outcome = parrot(&persons(40, &mut seed, &veiled), Metric::Cosine).unwrap();
        assert_eq!((outcome.probes, outcome.lessons), (160, 160));
        assert!(rank_1(&outcome, "outputs among originals") < 0.2, "{outcome:?}");
        let heads = [
            "outputs, linear head trained on outputs",
            "outputs, two-layer head trained on outputs",
        ];
        for head in heads {
            assert!(rank_1(&outcome, head) > 0.9, "{outcome:?}");
        }
        assert!(
            rank_1(&outcome, "covered faces, linear head trained on covered faces") < 0.1,
            "{outcome:?}"
        );
        let outcome = parrot(&persons(40, &mut seed, &random), Metric::Cosine).unwrap();
        for head in heads {
            assert!(rank_1(&outcome, head) < 0.1, "{outcome:?}");
        }
    }

    #[test]
    fn an_inverter_lifts_a_veil_and_finds_nothing_in_noise() {
        let _turn = crate::take_turn();
        tch::set_num_threads(1);
        let mut seed = StdRng::seed_from_u64(4);
        let mut run = |output: &dyn Fn(&[f32], &mut StdRng) -> Vec<f32>| {
            let learners = persons(100, &mut seed, output);
            inverter(&learners, &persons(40, &mut seed, output), Metric::Cosine).unwrap()
        };
        let outcome = run(&veiled);
        assert!(
            rank_1(&outcome, "outputs among originals, recogniser as it is") < 0.2,
            "{outcome:?}"
        );
        assert!(
            rank_1(&outcome, "inverted outputs among originals") > 0.9,
            "{outcome:?}"
        );
        let outcome = run(&random);
        assert!(
            rank_1(&outcome, "inverted outputs among originals") < 0.1,
            "{outcome:?}"
        );
    }
}
