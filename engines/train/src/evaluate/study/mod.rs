//! A study with human raters, after the paper's table 2: can they tell modified clips from real ones, and do they
//! recognise five persons? The kit is blinded: pages hold no truth, and `key.json` stays with whoever scores.

mod score;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::product::{Picture, Product};
use super::{Subject, video};

/// What to do about a study.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Make the pages for raters and the key for scoring
    Build(Options),
    /// Score the files that raters sent back
    Score {
        /// The kit's key
        #[arg(long)]
        key: PathBuf,
        /// Files that the pages saved, one per rater
        #[arg(required = true)]
        answers: Vec<PathBuf>,
        /// Directory for study.md and study.json
        #[arg(long)]
        out: PathBuf,
    },
}

/// What to show.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    subject: Subject,
    /// Clips of video/talking
    #[arg(long, default_value_t = 10)]
    clips: usize,
    /// Frames of each clip
    #[arg(long, default_value_t = 75)]
    frames: usize,
    /// Persons of eval/lfw
    #[arg(long, default_value_t = 5)]
    persons: usize,
    /// Seed of what is drawn and in which order it is shown
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The truth, by form and by item.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Key {
    /// Tells the answers of one study from those of another.
    study: String,
    weights: String,
    /// The gallery, in the order shown.
    persons: Vec<String>,
    forms: BTreeMap<String, Form>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Form {
    clips: BTreeMap<String, ClipItem>,
    faces: BTreeMap<String, FaceItem>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ClipItem {
    file: String,
    modified: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct FaceItem {
    /// Index in the gallery.
    person: usize,
    modified: bool,
}

/// What a page is given.
#[derive(Serialize)]
struct Page<'a> {
    study: &'a str,
    form: &'a str,
    gallery: Vec<&'a str>,
    clips: Vec<Shown<'a>>,
    faces: Vec<Shown<'a>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    id: String,
    source: &'a str,
}

/// Builds or scores a study.
///
/// # Errors
/// When a file is missing or malformed, a network or ffmpeg fails, or there is too little to show.
pub fn run(action: &Action) -> Result<()> {
    match action {
        Action::Build(options) => build(options),
        Action::Score { key, answers, out } => score::score(key, answers, out),
    }
}

/// A real clip and the same modified, as data URIs.
struct ClipPair {
    file: String,
    versions: [String; 2],
}

/// A person's picture for the gallery, and another one as it is and modified, as data URIs.
struct PersonPictures {
    name: String,
    gallery: String,
    versions: [String; 2],
}

fn build(options: &Options) -> Result<()> {
    let subject = &options.subject;
    let (_, mut product) = subject.open()?;
    let mut random = StdRng::seed_from_u64(options.seed);
    let clips = clips(options, &mut product, &mut random)?;
    let persons = persons(options, &mut product, &mut random)?;
    let study = format!("{:08x}", random.random::<u32>());
    let mut key = Key {
        study: study.clone(),
        weights: subject.weights.display().to_string(),
        persons: persons.iter().map(|person| person.name.clone()).collect(),
        forms: BTreeMap::new(),
    };
    // What one form shows real, the other shows modified.
    let modified: Vec<bool> = {
        let mut half: Vec<bool> = (0..clips.len()).map(|index| index % 2 == 0).collect();
        half.shuffle(&mut random);
        half
    };
    for (form, flip) in [("a", false), ("b", true)] {
        let modified: Vec<bool> = modified.iter().map(|modified| modified ^ flip).collect();
        let (page, truth) = lay_out(&study, form, &clips, &persons, &modified, &mut random);
        let path = subject.out.join(format!("form-{form}.html"));
        fs::write(&path, html(&page)?).with_context(|| format!("cannot write {}", path.display()))?;
        key.forms.insert(form.into(), truth);
    }
    let path = subject.out.join("key.json");
    fs::write(&path, serde_json::to_string_pretty(&key)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!(
        "Give raters form-a.html or form-b.html, half of them each, and keep key.json to yourself: {}",
        subject.out.display()
    );
    Ok(())
}

/// One form in random order: first the clips, then all modified faces, then the faces as they are (the control,
/// which must not teach).
fn lay_out<'a>(
    study: &'a str,
    form: &'a str,
    clips: &'a [ClipPair],
    persons: &'a [PersonPictures],
    modified: &[bool],
    random: &mut StdRng,
) -> (Page<'a>, Form) {
    let mut truth = Form::default();
    let mut page = Page {
        study,
        form,
        gallery: persons.iter().map(|person| person.gallery.as_str()).collect(),
        clips: Vec::new(),
        faces: Vec::new(),
    };
    let mut order: Vec<usize> = (0..clips.len()).collect();
    order.shuffle(random);
    for index in order {
        let id = format!("clip-{}", page.clips.len() + 1);
        let (clip, modified) = (&clips[index], modified[index]);
        let source = &clip.versions[usize::from(modified)];
        page.clips.push(Shown {
            id: id.clone(),
            source,
        });
        let file = clip.file.clone();
        truth.clips.insert(id, ClipItem { file, modified });
    }
    for modified in [true, false] {
        let mut order: Vec<usize> = (0..persons.len()).collect();
        order.shuffle(random);
        for person in order {
            let id = format!("face-{}", page.faces.len() + 1);
            let source = &persons[person].versions[usize::from(modified)];
            page.faces.push(Shown {
                id: id.clone(),
                source,
            });
            truth.faces.insert(id, FaceItem { person, modified });
        }
    }
    (page, truth)
}

/// The page, complete in one file.
fn html(page: &Page<'_>) -> Result<String> {
    // Data URIs hold no `<`, so that nothing can end the script early.
    let json = serde_json::to_string(page)?.replace('<', "\\u003c");
    Ok(include_str!("page.html").replace("\"STUDY\"", &json))
}

fn data_uri(kind: &str, bytes: &[u8]) -> String {
    format!("data:{kind};base64,{}", STANDARD.encode(bytes))
}

/// Frames per second of what is shown.
const RATE: u32 = 25;
/// Fewest frames with a face that make a clip.
const FEWEST: usize = 25;

fn clips(options: &Options, product: &mut Product, random: &mut StdRng) -> Result<Vec<ClipPair>> {
    let folder = options.subject.data.join("video/talking");
    let mut files = list(&folder)?;
    files.shuffle(random);
    let mut clips = Vec::new();
    for path in files {
        if clips.len() == options.clips {
            break;
        }
        let mut versions: [Vec<Picture>; 2] = Default::default();
        let mut target = None;
        for mut picture in video::decode(&path, options.frames)? {
            // A frame without a face is missing in both versions, so that it gives nothing away.
            if let Some(face) = product.find(&mut picture)? {
                let target = *target.get_or_insert(face.embedding);
                versions[1].push(product.replace(&mut picture, &face, &target)?.picture);
                versions[0].push(picture);
            }
        }
        if versions[0].len() >= FEWEST.min(options.frames) {
            let [real, modified] = versions.map(|frames| video::encode(&frames, RATE));
            clips.push(ClipPair {
                file: name(&path),
                versions: [real?, modified?].map(|bytes| data_uri("video/mp4", &bytes)),
            });
        }
    }
    ensure!(
        clips.len() == options.clips,
        "{} has {} clips with faces, wanted {}",
        folder.display(),
        clips.len(),
        options.clips
    );
    Ok(clips)
}

fn persons(options: &Options, product: &mut Product, random: &mut StdRng) -> Result<Vec<PersonPictures>> {
    let folder = options.subject.data.join("eval/lfw");
    let mut folders = list(&folder)?;
    folders.shuffle(random);
    let mut persons = Vec::new();
    for person in folders {
        if persons.len() == options.persons {
            break;
        }
        let mut files = list(&person)?;
        files.shuffle(random);
        let [gallery, source, ..] = &files[..] else {
            continue;
        };
        let mut gallery = Picture::read(gallery)?;
        let mut source = Picture::read(source)?;
        let (Some(_), Some(face)) = (product.find(&mut gallery)?, product.find(&mut source)?) else {
            continue;
        };
        // The paper: the same pictures are used as target.
        let modified = product.replace(&mut source, &face, &face.embedding)?.picture;
        let uri = |picture: &Picture| anyhow::Ok(data_uri("image/jpeg", &video::jpeg(picture)?));
        persons.push(PersonPictures {
            name: name(&person),
            gallery: uri(&gallery)?,
            versions: [uri(&source)?, uri(&modified)?],
        });
    }
    ensure!(
        persons.len() == options.persons,
        "{} has {} persons with two pictures, wanted {}",
        folder.display(),
        persons.len(),
        options.persons
    );
    Ok(persons)
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// What lies in a folder, sorted.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut entries = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kit() -> (Vec<ClipPair>, Vec<PersonPictures>) {
        let clip = |index| ClipPair {
            file: format!("clip{index}.mp4"),
            versions: ["real", "modified"]
                .map(|version| data_uri("video/mp4", format!("{version}{index}").as_bytes())),
        };
        let person = |index| PersonPictures {
            name: format!("Person_{index}"),
            gallery: data_uri("image/jpeg", format!("gallery{index}").as_bytes()),
            versions: ["real", "modified"]
                .map(|version| data_uri("image/jpeg", format!("{version}{index}").as_bytes())),
        };
        ((0..4).map(clip).collect(), (0..5).map(person).collect())
    }

    #[test]
    fn a_page_shows_what_the_key_says_and_does_not_say_it() {
        let (clips, persons) = kit();
        let modified = [true, false, false, true];
        let mut random = StdRng::seed_from_u64(7);
        let (page, truth) = lay_out("01234567", "a", &clips, &persons, &modified, &mut random);
        assert_eq!((truth.clips.len(), truth.faces.len()), (4, 10));
        for Shown { id, source } in &page.clips {
            let item = &truth.clips[id];
            let index: usize = item.file[4..5].parse().unwrap();
            assert_eq!(item.modified, modified[index]);
            assert_eq!(*source, clips[index].versions[usize::from(item.modified)]);
        }
        for (place, Shown { id, source }) in page.faces.iter().enumerate() {
            let item = &truth.faces[id];
            assert_eq!(item.modified, place < 5, "the control comes last");
            assert_eq!(*source, persons[item.person].versions[usize::from(item.modified)]);
        }
        let html = html(&page).unwrap();
        assert!(html.contains("01234567") && html.contains(&clips[0].versions[1]));
        for told in ["Person_", ".mp4\"", "\"modified\":", "STUDY\""] {
            assert!(!html.contains(told), "the page says {told}");
        }
        // Nothing is fetched from elsewhere.
        for foreign in ["http:", "https:", "src=\"/", "@import"] {
            assert!(!html.contains(foreign), "the page refers to {foreign}");
        }
    }
}
