//! What the raters' answers come to, in the form of the paper's table 2, with confidence intervals.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::Key;
use crate::evaluate::metrics;

/// One rater's file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answers {
    study: String,
    form: String,
    rater: String,
    clips: BTreeMap<String, ClipAnswer>,
    faces: BTreeMap<String, FaceAnswer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ClipAnswer {
    Real,
    Modified,
    /// The rater knows the person, so that the answer would say nothing.
    Known,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged)]
enum FaceAnswer {
    /// Index in the gallery.
    Person(usize),
    Known(Known),
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Known {
    Known,
}

/// Right answers among all, with the interval that holds the true share at 95 % (Wilson 1927).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Share {
    right: usize,
    answers: usize,
    share: f64,
    low: f64,
    high: f64,
}

impl Share {
    fn of(right: usize, answers: usize) -> Option<Self> {
        // The normal distribution's quantile for 95 %, two-sided.
        const Z: f64 = 1.959_964;
        let (n, share) = (answers as f64, right as f64 / answers as f64);
        let center = share + Z * Z / (2.0 * n);
        let reach = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        (answers > 0).then(|| Self {
            right,
            answers,
            share,
            low: ((center - reach) / scale).max(0.0),
            high: ((center + reach) / scale).min(1.0),
        })
    }
}

/// Table 2 (a).
#[derive(Debug, Serialize)]
struct Clips {
    by_clip: BTreeMap<String, Share>,
    /// Mean and standard deviation of the clips' shares, as the paper gives them.
    mean: f64,
    deviation: Option<f64>,
    /// The mean's interval at 95 % when other raters had been asked: a bootstrap over raters.
    interval: [f64; 2],
}

/// Table 2 (b) or (c).
#[derive(Debug, Serialize)]
struct Faces {
    /// Rows are the true persons, columns those chosen.
    confusion: Vec<Vec<usize>>,
    right: Option<Share>,
}

#[derive(Debug, Serialize)]
struct Report {
    weights: String,
    raters: usize,
    persons: Vec<String>,
    clips: Option<Clips>,
    originals: Faces,
    modified: Faces,
}

/// Scores the raters' files against the key and writes the report.
///
/// # Errors
/// When a file cannot be read, is of another study, or a rater answered twice.
pub fn score(key: &Path, answers: &[PathBuf], out: &Path) -> Result<()> {
    let read =
        |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let truth: Key = serde_json::from_str(&read(key)?).with_context(|| format!("key {}", key.display()))?;
    let answers = answers
        .iter()
        .map(|path| {
            let context = || format!("answers {}", path.display());
            let answers: Answers = serde_json::from_str(&read(path)?).with_context(context)?;
            check(&truth, &answers).with_context(context)?;
            Ok(answers)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut raters = BTreeSet::new();
    for Answers { rater, .. } in &answers {
        ensure!(raters.insert(rater), "there are two files of rater {rater}");
    }
    let report = Report::of(&truth, &answers);
    let markdown = report.markdown()?;
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    fs::write(out.join("study.json"), serde_json::to_string_pretty(&report)?)?;
    fs::write(out.join("study.md"), &markdown)?;
    println!("{markdown}");
    Ok(())
}

fn check(key: &Key, answers: &Answers) -> Result<()> {
    ensure!(
        answers.study == key.study,
        "of study {}, the key is of {}",
        answers.study,
        key.study
    );
    let Some(form) = key.forms.get(&answers.form) else {
        bail!("form {} is not in the key", answers.form);
    };
    let unknown = answers.clips.keys().find(|id| !form.clips.contains_key(*id));
    let unknown = unknown.or_else(|| answers.faces.keys().find(|id| !form.faces.contains_key(*id)));
    if let Some(id) = unknown {
        bail!("item {id} is not on form {}", answers.form);
    }
    for answer in answers.faces.values() {
        ensure!(
            !matches!(answer, FaceAnswer::Person(person) if *person >= key.persons.len()),
            "a person was chosen who is not in the gallery: {answer:?}"
        );
    }
    Ok(())
}

/// One answer about a clip: which, and whether it was right.
type Judged<'a> = (&'a str, bool);

impl Report {
    fn of(key: &Key, answers: &[Answers]) -> Self {
        let judged: Vec<Vec<Judged<'_>>> = answers
            .iter()
            .map(|rater| {
                let truth = &key.forms[&rater.form].clips;
                let known = rater
                    .clips
                    .iter()
                    .filter(|(_, answer)| **answer != ClipAnswer::Known);
                known
                    .map(|(id, answer)| {
                        let item = &truth[id];
                        (
                            item.file.as_str(),
                            item.modified == (*answer == ClipAnswer::Modified),
                        )
                    })
                    .collect()
            })
            .collect();
        let faces = |modified: bool| {
            let count = key.persons.len();
            let mut confusion = vec![vec![0; count]; count];
            for rater in answers {
                for (id, answer) in &rater.faces {
                    let item = &key.forms[&rater.form].faces[id];
                    if let (FaceAnswer::Person(chosen), true) = (answer, item.modified == modified) {
                        confusion[item.person][*chosen] += 1;
                    }
                }
            }
            let right = (0..count).map(|person| confusion[person][person]).sum();
            Faces {
                right: Share::of(right, confusion.iter().flatten().sum()),
                confusion,
            }
        };
        Self {
            weights: key.weights.clone(),
            raters: answers.len(),
            persons: key.persons.clone(),
            clips: Clips::of(&judged),
            originals: faces(false),
            modified: faces(true),
        }
    }
}

/// The answers by clip: right, all.
fn by_clip<'a>(judged: impl Iterator<Item = &'a Judged<'a>>) -> BTreeMap<&'a str, (usize, usize)> {
    let mut clips = BTreeMap::new();
    for (clip, right) in judged {
        let (rights, all) = clips.entry(*clip).or_insert((0, 0));
        *rights += usize::from(*right);
        *all += 1;
    }
    clips
}

/// Mean over the clips of the share of right answers.
fn mean_share(clips: &BTreeMap<&str, (usize, usize)>) -> Option<f64> {
    let shares: Vec<f64> = clips
        .values()
        .map(|(right, all)| *right as f64 / *all as f64)
        .collect();
    metrics::mean(&shares)
}

impl Clips {
    /// Of every rater's answers; `None` when there are none.
    fn of(judged: &[Vec<Judged<'_>>]) -> Option<Self> {
        const DRAWS: usize = 10_000;
        let all = by_clip(judged.iter().flatten());
        let mean = mean_share(&all)?;
        let by_clip: BTreeMap<_, _> = all
            .iter()
            .filter_map(|(clip, (right, answers))| Some(((*clip).to_owned(), Share::of(*right, *answers)?)))
            .collect();
        let squares: f64 = by_clip.values().map(|share| (share.share - mean).powi(2)).sum();
        let freedom = by_clip.len() - 1;
        let mut random = StdRng::seed_from_u64(1);
        let mut means: Vec<f64> = (0..DRAWS)
            .filter_map(|_| {
                let drawn: Vec<_> = judged
                    .iter()
                    .flat_map(|_| &judged[random.random_range(0..judged.len())])
                    .collect();
                mean_share(&self::by_clip(drawn.into_iter()))
            })
            .collect();
        means.sort_unstable_by(f64::total_cmp);
        let quantile = |at: f64| means[(at * (means.len() - 1) as f64).round() as usize];
        Some(Self {
            by_clip,
            mean,
            deviation: (freedom > 0).then(|| (squares / freedom as f64).sqrt()),
            interval: [quantile(0.025), quantile(0.975)],
        })
    }
}

fn percent(value: f64) -> String {
    format!("{:.1} %", 100.0 * value)
}

impl Report {
    fn markdown(&self) -> Result<String> {
        let mut text = String::new();
        writeln!(text, "# Study of {}\n\nRaters: {}.\n", self.weights, self.raters)?;
        writeln!(text, "## Real or modified (paper table 2a; 50 % is best)\n")?;
        match &self.clips {
            Some(clips) => {
                writeln!(text, "| clip | answers | right | 95 % |\n|---|---|---|---|")?;
                for (clip, share) in &clips.by_clip {
                    writeln!(
                        text,
                        "| {clip} | {} | {} | {} to {} |",
                        share.answers,
                        percent(share.share),
                        percent(share.low),
                        percent(share.high)
                    )?;
                }
                let deviation = clips.deviation.map_or("-".into(), percent);
                let [low, high] = clips.interval.map(percent);
                writeln!(
                    text,
                    "\nMean of the clips {}, standard deviation {deviation}; other raters would have given {low} to {high} \
                     (95 %, bootstrap over raters).\n",
                    percent(clips.mean)
                )?;
            }
            None => writeln!(text, "No answers.\n")?,
        }
        for (title, faces) in [
            ("Which person, originals (2b, control)", &self.originals),
            ("Which person, modified (2c)", &self.modified),
        ] {
            writeln!(text, "## {title}\n")?;
            let Some(right) = &faces.right else {
                writeln!(text, "No answers.\n")?;
                continue;
            };
            writeln!(text, "| shown | {} |", self.persons.join(" | "))?;
            writeln!(text, "|---|{}", "---|".repeat(self.persons.len()))?;
            for (person, row) in self.persons.iter().zip(&faces.confusion) {
                let row: Vec<String> = row.iter().map(usize::to_string).collect();
                writeln!(text, "| {person} | {} |", row.join(" | "))?;
            }
            writeln!(
                text,
                "\nRight: {} of {} ({}; 95 %: {} to {}), chance {}.\n",
                right.right,
                right.answers,
                percent(right.share),
                percent(right.low),
                percent(right.high),
                percent(1.0 / self.persons.len() as f64)
            )?;
        }
        writeln!(
            text,
            "Answers of raters who know the person are left out. Intervals of single clips and of the persons count every \
             answer as independent, which several answers of one rater are not."
        )?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::study::{ClipItem, FaceItem, Form};

    fn key() -> Key {
        let form = |flip: bool| Form {
            clips: [("clip-1", "x.mp4", true), ("clip-2", "y.mp4", false)]
                .map(|(id, file, modified)| {
                    let file = file.into();
                    (
                        id.to_owned(),
                        ClipItem {
                            file,
                            modified: modified ^ flip,
                        },
                    )
                })
                .into(),
            faces: [("face-1", 0, true), ("face-2", 1, true), ("face-3", 0, false)]
                .map(|(id, person, modified)| (id.to_owned(), FaceItem { person, modified }))
                .into(),
        };
        Key {
            study: "7".into(),
            weights: "w".into(),
            persons: vec!["Ann".into(), "Ben".into()],
            forms: [("a".to_owned(), form(false)), ("b".to_owned(), form(true))].into(),
        }
    }

    fn answers(json: &str) -> Answers {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn intervals_agree_with_the_literature() {
        // Brown, Cai and DasGupta 2001 and R's prop.test(correct = FALSE).
        for (right, answers, low, high) in [
            (0, 10, 0.0, 0.2775),
            (10, 10, 0.7225, 1.0),
            (10, 20, 0.2993, 0.7007),
            (15, 20, 0.5313, 0.8881),
        ] {
            let share = Share::of(right, answers).unwrap();
            assert!((share.low - low).abs() < 1e-4, "{share:?}");
            assert!((share.high - high).abs() < 1e-4, "{share:?}");
        }
        assert_eq!(Share::of(0, 0), None);
    }

    #[test]
    fn answers_are_counted_by_form() {
        let raters = [
            r#"{"study":"7","form":"a","rater":"1","clips":{"clip-1":"modified","clip-2":"modified"},
                "faces":{"face-1":1,"face-2":1,"face-3":0}}"#,
            r#"{"study":"7","form":"b","rater":"2","clips":{"clip-1":"real","clip-2":"known"},
                "faces":{"face-1":0,"face-2":"known","face-3":0}}"#,
        ]
        .map(answers);
        let key = key();
        for rater in &raters {
            check(&key, rater).unwrap();
        }
        let report = Report::of(&key, &raters);
        let clips = report.clips.as_ref().unwrap();
        // x: right on form a, where it is modified, and on form b, where it is real. y: wrong once.
        assert_eq!(
            (clips.by_clip["x.mp4"].right, clips.by_clip["x.mp4"].answers),
            (2, 2)
        );
        assert_eq!(
            (clips.by_clip["y.mp4"].right, clips.by_clip["y.mp4"].answers),
            (0, 1)
        );
        assert_eq!(clips.mean, 0.5);
        assert_eq!(clips.interval, [0.5, 1.0], "the second rater alone has all right");
        assert_eq!(report.modified.confusion, [[1, 1], [0, 1]]);
        assert_eq!(report.originals.confusion, [[2, 0], [0, 0]]);
        let right = report.modified.right.unwrap();
        assert_eq!((right.right, right.answers), (2, 3));
        assert!(report.markdown().unwrap().contains("| Ann | 1 | 1 |"));
    }

    #[test]
    fn files_that_do_not_fit_the_key_are_refused() {
        for (json, reason) in [
            (
                r#"{"study":"8","form":"a","rater":"1","clips":{},"faces":{}}"#,
                "study 8",
            ),
            (
                r#"{"study":"7","form":"c","rater":"1","clips":{},"faces":{}}"#,
                "form c",
            ),
            (
                r#"{"study":"7","form":"a","rater":"1","clips":{"clip-9":"real"},"faces":{}}"#,
                "clip-9",
            ),
            (
                r#"{"study":"7","form":"a","rater":"1","clips":{},"faces":{"face-1":2}}"#,
                "gallery",
            ),
        ] {
            let error = check(&key(), &answers(json)).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn files_are_read_and_a_rater_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let key = file("key.json", &serde_json::to_string(&key()).unwrap());
        let answer = r#"{"study":"7","form":"a","rater":"1","clips":{"clip-1":"real"},"faces":{"face-1":0}}"#;
        let answer = file("1.json", answer);
        score(&key, std::slice::from_ref(&answer), &folder.path().join("out")).unwrap();
        let report = fs::read_to_string(folder.path().join("out/study.md")).unwrap();
        assert!(report.contains("Right: 1 of 1"), "{report}");
        let error = score(&key, &[answer.clone(), answer], folder.path()).unwrap_err();
        assert!(error.to_string().contains("rater 1"), "{error}");
    }
}
