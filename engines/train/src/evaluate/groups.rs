//! Numbers by group: UTKFace's labels of gender, race and age (Zhang, Song and Qi 2017).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use image::RgbImage;
use indicatif::ProgressIterator;
use serde::Serialize;

use super::judge::Judge;
use super::looks::{Look, Looks};
use super::metrics::Summary;
use super::product::{Picture, Product};
use super::{describe, limited};

/// The faces of one group.
#[derive(Debug, Serialize)]
pub struct Group {
    /// Gender, race or age.
    pub label: &'static str,
    /// Its value.
    pub value: &'static str,
    /// Pictures, with a face found in them or not.
    pub pictures: usize,
    /// The outputs; the target is the picture itself.
    pub looks: Looks,
    /// For each judge, likeness of the output and its original.
    pub likeness: BTreeMap<String, Summary>,
}

/// Label and value, in the order of the report.
const GROUPS: [(&str, &str); 13] = [
    ("all", "all"),
    ("gender", "male"),
    ("gender", "female"),
    ("race", "White"),
    ("race", "Black"),
    ("race", "Asian"),
    ("race", "Indian"),
    ("race", "other"),
    ("age", "under 14"),
    ("age", "14 to 29"),
    ("age", "30 to 49"),
    ("age", "50 to 69"),
    ("age", "70 and more"),
];

/// The values of gender, race and age in a file name `AGE_GENDER_RACE_TIME...`; `None` when it is none such.
fn labels(name: &str) -> Option<[&'static str; 3]> {
    let mut numbers = name.split('_').map(|part| part.parse::<usize>().ok());
    let (age, gender, race) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let age = match age {
        0..14 => "under 14",
        14..30 => "14 to 29",
        30..50 => "30 to 49",
        50..70 => "50 to 69",
        _ => "70 and more",
    };
    Some([
        *["male", "female"].get(gender)?,
        *["White", "Black", "Asian", "Indian", "other"].get(race)?,
        age,
    ])
}

/// A picture that was measured: `None` when no face was found.
struct Measured {
    labels: [&'static str; 3],
    face: Option<(Look, Vec<f64>)>,
}

/// Measures at most `limit` pictures of `folder`, spread over it, in every group that has any. Pictures without
/// labels in their name are left out.
///
/// # Errors
/// When a picture cannot be read or a network fails.
pub fn measure(
    folder: &Path,
    limit: usize,
    product: &mut Product,
    judges: &mut [Judge],
) -> Result<Vec<Group>> {
    let mut labelled: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .map(|file| Ok(file?.path()))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter_map(|path| Some((labels(path.file_name()?.to_str()?)?, path)))
        .collect();
    labelled.sort();
    let mut measured = Vec::new();
    for (labels, path) in limited(labelled, Some(limit)).into_iter().progress() {
        let mut picture = Picture::of(&padded(&path)?)?;
        let Some(face) = product.find(&mut picture)? else {
            measured.push(Measured { labels, face: None });
            continue;
        };
        let before = describe(&mut picture, &face.landmarks, product, judges)?;
        let mut replaced = product.replace(&mut picture, &face, &face.embedding)?;
        let look = Look::measure(&face, &mut replaced, product)?;
        let after = describe(&mut replaced.picture, &face.landmarks, product, judges)?;
        let likeness = judges
            .iter()
            .zip(before.iter().zip(&after))
            .map(|(judge, (before, after))| judge.spec.metric.likeness(before, after))
            .collect();
        measured.push(Measured {
            labels,
            face: Some((look, likeness)),
        });
    }
    let names: Vec<_> = judges.iter().map(|judge| judge.spec.name.as_str()).collect();
    Ok(group(&measured, &names))
}

fn group(measured: &[Measured], judges: &[&str]) -> Vec<Group> {
    let of = |(label, value): (&'static str, &'static str)| {
        let members: Vec<_> = measured
            .iter()
            .filter(|entry| label == "all" || entry.labels.contains(&value))
            .collect();
        let faces = || members.iter().filter_map(|entry| entry.face.as_ref());
        let likeness = |(index, judge): (usize, &&str)| {
            let values: Vec<f64> = faces().filter_map(|(_, all)| all.get(index).copied()).collect();
            Some(((*judge).to_owned(), Summary::of(&values)?))
        };
        (!members.is_empty()).then(|| Group {
            label,
            value,
            pictures: members.len(),
            looks: Looks::of(faces().map(|(look, _)| look)),
            likeness: judges.iter().enumerate().filter_map(likeness).collect(),
        })
    };
    GROUPS.into_iter().filter_map(of).collect()
}

/// A picture with its edge repeated: UTKFace's are cut so close that a detector misses the face.
fn padded(path: &Path) -> Result<RgbImage> {
    const MARGIN: u32 = 40;
    let picture = image::open(path)
        .with_context(|| format!("cannot read picture {}", path.display()))?
        .to_rgb8();
    let (width, height) = picture.dimensions();
    let within = |at: u32, size: u32| at.saturating_sub(MARGIN).min(size - 1);
    Ok(RgbImage::from_fn(
        width + 2 * MARGIN,
        height + 2 * MARGIN,
        |x, y| *picture.get_pixel(within(x, width), within(y, height)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_from_the_name() {
        let cases = [
            (
                "10_0_0_20170110224725285.jpg.chip.jpg",
                Some(["male", "White", "under 14"]),
            ),
            ("14_1_4_2017.jpg", Some(["female", "other", "14 to 29"])),
            ("116_1_3_2017.jpg", Some(["female", "Indian", "70 and more"])),
            // Some names lack the race.
            ("61_1_20170109150557335.jpg.chip.jpg", None),
            ("Ann_Veneman_0001.jpg", None),
            ("", None),
        ];
        for (name, wanted) in cases {
            assert_eq!(labels(name), wanted, "{name}");
        }
    }

    #[test]
    fn every_value_is_reported_once() {
        let names = ["1_0_0_1", "20_1_1_1", "40_0_2_1", "60_1_3_1", "80_0_4_1"];
        let measured: Vec<_> = names
            .iter()
            .map(|name| Measured {
                labels: labels(name).unwrap(),
                face: None,
            })
            .collect();
        let groups = group(&measured, &["judge"]);
        assert_eq!(groups.len(), GROUPS.len());
        for label in ["all", "gender", "race", "age"] {
            let pictures: usize = groups
                .iter()
                .filter(|group| group.label == label)
                .map(|group| group.pictures)
                .sum();
            assert_eq!(pictures, names.len(), "{label}");
        }
        assert!(
            groups
                .iter()
                .all(|group| group.looks.faces == 0 && group.likeness.is_empty())
        );
    }
}
