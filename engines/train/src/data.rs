//! Aligned crops of a face data set, cached as one file of bytes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use indicatif::ProgressIterator;
use kernels::cpu::Cpu;
use kernels::{
    Color, Frame, Hull, Kernels, LANDMARKS, Landmarks, MEAN_FACE, Matrix, Placement, Plane, Planes, Point,
    Range, Rect, Similarity,
};
use tch::{Device, Kind, Tensor};

use crate::preset::Preset;
use crate::recognizer::{Landmarker, Recognizer};

/// A set of aligned faces in memory. The first dimension of every tensor is the face.
#[derive(Debug)]
pub struct Faces {
    /// `[n, 3, side, side]`, bytes, RGB.
    pub crops: Tensor,
    /// The soft hull, what the product may replace: `[n, 1, side, side]`, bytes, 255 is all.
    pub hulls: Tensor,
    /// 68 landmarks in fractions of the crop: `[n, 68, 2]`.
    pub landmarks: Tensor,
    /// Descriptors of the crop and of its mirror image: `[n, 2, d]`, not of unit length.
    pub descriptors: Tensor,
    /// Picture file of each face, relative to the data directory.
    pub names: Vec<String>,
}

impl Faces {
    /// Reads a set that [`prepare`] wrote.
    ///
    /// # Errors
    /// When the file is missing or not complete.
    pub fn read(path: &Path) -> Result<Self> {
        let context = || format!("cannot read {}: make it with `train prepare`", path.display());
        let mut tensors: HashMap<_, _> = Tensor::read_safetensors(path)
            .with_context(context)?
            .into_iter()
            .collect();
        let mut take = |name| {
            tensors
                .remove(name)
                .with_context(|| format!("{} has no {name}", path.display()))
        };
        let faces = Self {
            crops: take("crops")?,
            hulls: take("hulls")?,
            landmarks: take("landmarks")?,
            descriptors: take("descriptors")?,
            names: fs::read_to_string(path.with_extension("txt"))
                .with_context(context)?
                .lines()
                .map(str::to_owned)
                .collect(),
        };
        ensure!(
            faces.names.len() as i64 == faces.crops.size()[0],
            "{} and its list of names differ in length",
            path.display()
        );
        Ok(faces)
    }

    /// Writes the set as `path` and the names as a text file beside it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        let tensors = [
            ("crops", &self.crops),
            ("hulls", &self.hulls),
            ("landmarks", &self.landmarks),
            ("descriptors", &self.descriptors),
        ];
        Tensor::write_safetensors(&tensors, path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        fs::write(path.with_extension("txt"), self.names.join("\n"))?;
        Ok(())
    }

    /// How many faces there are.
    #[allow(clippy::len_without_is_empty)] // a set without faces is never made
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// For every face the faces of the same person (itself among them), by the folder of its picture; alone
    /// where the person is unknown.
    pub fn persons(&self) -> Vec<Vec<i64>> {
        let mut of: HashMap<&str, Vec<i64>> = HashMap::new();
        for (index, name) in self.names.iter().enumerate() {
            if let Some(person) = person_of(name) {
                of.entry(person).or_default().push(index as i64);
            }
        }
        let alone = |index: usize| vec![index as i64];
        let all = self.names.iter().enumerate();
        all.map(|(index, name)| person_of(name).map_or_else(|| alone(index), |person| of[person].clone()))
            .collect()
    }
}

/// The person in a picture, where its path tells: `.../lfw/PERSON/FILE`.
pub fn person_of(name: &str) -> Option<&str> {
    let (folder, _) = name.rsplit_once('/')?;
    let (set, person) = folder.rsplit_once('/')?;
    set.ends_with("lfw").then_some(person)
}

/// One row of FACES.tsv: where a detector found the face in a picture.
struct Found {
    file: String,
    region: Rect,
}

/// Reads the rows of FACES.tsv whose files begin with `prefix`, with a detector score of at least 0.5, without
/// UTKFace pictures of persons under 14.
fn found(data: &Path, prefix: &str) -> Result<Vec<Found>> {
    let path = data.join("FACES.tsv");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut rows = Vec::new();
    for (line, row) in text.lines().enumerate().skip(1) {
        let broken = || {
            format!(
                "{}, line {}: not file, size, score and box",
                path.display(),
                line + 1
            )
        };
        let columns: Vec<_> = row.split('\t').collect();
        let file = *columns.first().with_context(broken)?;
        let number = |column: usize| -> Result<f32> {
            columns
                .get(column)
                .with_context(broken)?
                .parse()
                .with_context(broken)
        };
        let child = file.contains("utk/")
            && file
                .rsplit('/')
                .next()
                .and_then(|name| name.split('_').next())
                .and_then(|age| age.parse().ok())
                .is_some_and(|age: u32| age < 14);
        if !file.starts_with(prefix) || child || number(3)? < 0.5 {
            continue;
        }
        let (left, top, right, bottom) = (number(4)?, number(5)?, number(6)?, number(7)?);
        rows.push(Found {
            file: file.to_owned(),
            region: Rect::new(left, top, right - left, bottom - top),
        });
    }
    ensure!(
        !rows.is_empty(),
        "{} lists no face under {prefix}",
        path.display()
    );
    Ok(rows)
}

/// What to prepare, and for what.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Directory with FACES.tsv and the pictures
    #[arg(long)]
    pub data: PathBuf,
    /// Take the pictures whose path begins so
    #[arg(long, default_value = "train/")]
    pub prefix: String,
    /// Store of the frozen networks [default: the product's]
    #[arg(long)]
    pub models: Option<PathBuf>,
    /// The preset that the faces are for
    #[arg(long, default_value = "edge128")]
    pub preset: String,
    /// File to write
    #[arg(long)]
    pub out: PathBuf,
}

/// Aligns the faces of a data set and writes them as one file.
///
/// # Errors
/// When a picture or network cannot be read, or the file not written.
pub fn prepare(options: &Options) -> Result<()> {
    let preset = Preset::load(&options.preset)?;
    let store = crate::fit::store(options.models.as_deref())?;
    let spec = preset
        .recognizer
        .first()
        .context("the preset names no recognizer")?;
    let recognizer = Recognizer::load(&store, spec, Device::Cpu)?;
    let landmarker = Landmarker::load(&store, "landmarks", Device::Cpu)?;
    let side = preset.generator.side;
    align(&options.data, &options.prefix, side, &landmarker, &recognizer)?.write(&options.out)
}

/// Finds the landmarks of every listed face under `prefix`, aligns it and describes it.
///
/// # Errors
/// When a picture or network cannot be read.
fn align(
    data: &Path,
    prefix: &str,
    side: i64,
    landmarker: &Landmarker,
    recognizer: &Recognizer,
) -> Result<Faces> {
    const BATCH: usize = 32;
    let rows = found(data, prefix)?;
    let (mut crops, mut hulls, mut landmarks, mut descriptors) = (vec![], vec![], vec![], vec![]);
    let mut names = Vec::with_capacity(rows.len());
    let _guard = tch::no_grad_guard();
    for batch in rows.chunks(BATCH).progress() {
        let pictures = batch
            .iter()
            .map(|row| read_picture(&data.join(&row.file)))
            .collect::<Result<Vec<_>>>()?;
        let squares: Vec<_> = batch
            .iter()
            .map(|row| Similarity::of_square(&row.region.scaled(1.1)))
            .collect();
        let views = pictures
            .iter()
            .zip(&squares)
            .map(|(picture, square)| {
                let square = square.unwrap_or(Similarity {
                    a: 1.0,
                    b: 0.0,
                    tx: 0.0,
                    ty: 0.0,
                });
                warp(picture, &square, Landmarker::SIZE)
            })
            .collect::<Vec<_>>();
        let known = crops.len();
        let located = landmarker.locate(&Tensor::cat(&views, 0))?;
        for (index, row) in batch.iter().enumerate() {
            let Some(square) = squares[index] else { continue };
            let points = points(&located.get(index as i64))?.map(|point| square.inverse().apply(point));
            let Some(align) = Similarity::estimate(&points, &MEAN_FACE) else {
                continue;
            };
            let points = points.map(|point| align.apply(point));
            // Sampled at twice the resolution and averaged, so that shrinking does not alias.
            let crop = warp(&pictures[index], &align, 2 * side).avg_pool2d(
                [2, 2],
                [2, 2],
                [0, 0],
                false,
                true,
                None,
            );
            crops.push(crop.round().clamp(0.0, 255.0).to_kind(Kind::Uint8));
            hulls.push(soft_hull(&points, side as usize)?);
            landmarks.push(Tensor::from_slice(&points.map(|p| [p.x, p.y]).concat()).view([
                1,
                LANDMARKS as i64,
                2,
            ]));
            names.push(row.file.clone());
        }
        let signed = to_signed(&Tensor::cat(&crops[known..], 0));
        descriptors.push(Tensor::stack(
            &[
                recognizer.describe(&signed)?,
                recognizer.describe(&signed.flip([3]))?,
            ],
            1,
        ));
    }
    Ok(Faces {
        crops: Tensor::cat(&crops, 0),
        hulls: Tensor::cat(&hulls, 0),
        landmarks: Tensor::cat(&landmarks, 0),
        descriptors: Tensor::cat(&descriptors, 0),
        names,
    })
}

/// Bytes to -1 to 1.
pub fn to_signed(bytes: &Tensor) -> Tensor {
    bytes.to_kind(Kind::Float) / 127.5 - 1.0
}

fn read_picture(path: &Path) -> Result<Tensor> {
    let picture = image::open(path)
        .with_context(|| format!("cannot read picture {}", path.display()))?
        .to_rgb8();
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    Ok(Tensor::from_slice(picture.as_raw())
        .view([1, height, width, 3])
        .permute([0, 3, 1, 2])
        .to_kind(Kind::Float))
}

fn points(located: &Tensor) -> Result<Landmarks> {
    let values = Vec::<f32>::try_from(located.flatten(0, -1))?;
    ensure!(
        values.len() == 2 * LANDMARKS,
        "the landmark network gave {} values",
        values.len()
    );
    Ok(std::array::from_fn(|i| {
        Point::new(values[2 * i], values[2 * i + 1])
    }))
}

/// Samples the unit crop of `align` (picture pixels to crop) as `[1, 3, side, side]`, bilinearly; pixels outside
/// the picture repeat its edge, as the product does.
fn warp(picture: &Tensor, align: &Similarity, side: i64) -> Tensor {
    let (height, width) = (picture.size()[2] as f32, picture.size()[3] as f32);
    let back = align.inverse();
    // Crop and picture coordinates run from -1 to 1 in the sampler.
    let theta = [
        back.a / width,
        -back.b / width,
        (back.a - back.b + 2.0 * back.tx) / width - 1.0,
        back.b / height,
        back.a / height,
        (back.a + back.b + 2.0 * back.ty) / height - 1.0,
    ];
    let theta = Tensor::from_slice(&theta).view([1, 2, 3]);
    let grid = Tensor::affine_grid_generator(&theta, [1, 3, side, side], false);
    let (bilinear, border) = (0, 1);
    picture.grid_sampler(&grid, bilinear, border, false)
}

/// The weight with which the product replaces each pixel of a crop whose landmarks, in crop fractions, are
/// `landmarks`: bytes `[1, 1, side, side]`, 255 is all. The product's own blend says it: white onto black.
pub fn soft_hull(landmarks: &Landmarks, side: usize) -> Result<Tensor> {
    let mut place = Cpu::default();
    let placement = Placement {
        align: Similarity {
            a: 1.0 / side as f32,
            b: 0.0,
            tx: 0.0,
            ty: 0.0,
        },
        hull: Hull::of(&landmarks.map(|p| Point::new(p.x * side as f32, p.y * side as f32))),
    };
    let mut white = |channels| {
        let mut tensor = place.tensor([1, channels, side, side])?;
        tensor.data_mut().fill(1.0);
        kernels::Result::Ok(tensor)
    };
    let (face, mask) = (white(3)?, white(1)?);
    let (mut luma, mut chroma) = (vec![0; side * side], vec![128; side * side.div_ceil(2)]);
    let planes = Planes::Nv12 {
        y: Plane {
            data: &mut luma,
            stride: side,
        },
        uv: Plane {
            data: &mut chroma,
            stride: side,
        },
    };
    let color = Color {
        matrix: Matrix::Bt601,
        range: Range::Full,
    };
    place.blend(
        &mut Frame::new(side, side, color, planes)?,
        &[placement],
        &face,
        &mask,
    )?;
    Ok(Tensor::from_data_size(
        &luma,
        &[1, 1, side as i64, side as i64],
        Kind::Uint8,
    ))
}

/// One set of training pictures drawn from a cache.
#[derive(Debug)]
pub struct Batch {
    /// Pictures in -1 to 1.
    pub pictures: Tensor,
    /// Soft hulls in 0 to 1.
    pub hulls: Tensor,
    /// Targets: unit-length descriptors.
    pub targets: Tensor,
}

impl Faces {
    /// The faces `indices`, mirrored where `mirrored` is set, with the descriptors of `targets`.
    pub fn batch(&self, indices: &[i64], targets: &[i64], mirrored: &[bool], device: Device) -> Batch {
        let of = Tensor::from_slice(indices);
        let pictures = to_signed(&self.crops.index_select(0, &of).to_device(device));
        let hulls = self
            .hulls
            .index_select(0, &of)
            .to_device(device)
            .to_kind(Kind::Float)
            / 255.0;
        let mirror: Vec<i64> = mirrored.iter().map(|&m| i64::from(m)).collect();
        let mirror = Tensor::from_slice(&mirror);
        let row = Tensor::from_slice(targets) * 2 + &mirror;
        let size = self.descriptors.size();
        let targets = self
            .descriptors
            .view([-1, size[2]])
            .index_select(0, &row)
            .to_device(device);
        let mirror = mirror.to_kind(Kind::Bool).view([-1, 1, 1, 1]).to_device(device);
        let turn = |x: &Tensor| x.flip([3]).where_self(&mirror, x);
        Batch {
            pictures: turn(&pictures),
            hulls: turn(&hulls),
            targets: crate::recognizer::unit(&targets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn persons_are_told_by_the_folder() {
        for (name, person) in [
            ("train/lfw/Ann_Lee/Ann_Lee_0001.jpg", Some("Ann_Lee")),
            ("train/utk/20_0_0_1.jpg", None),
            ("picture.jpg", None),
        ] {
            assert_eq!(person_of(name), person);
        }
    }

    #[test]
    fn the_soft_hull_is_full_in_the_middle_and_nothing_outside() {
        let hull = soft_hull(&MEAN_FACE, 64).unwrap();
        assert_eq!(hull.size(), [1, 1, 64, 64]);
        for (y, x, wanted) in [(32, 32, 255), (2, 32, 0), (62, 32, 0), (32, 2, 0)] {
            assert_eq!(hull.int64_value(&[0, 0, y, x]), wanted, "row {y}, column {x}");
        }
    }

    #[test]
    fn warping_by_the_identity_keeps_the_picture() {
        let picture = Tensor::arange(3 * 8 * 8, (Kind::Float, Device::Cpu)).view([1, 3, 8, 8]);
        let align = Similarity {
            a: 1.0 / 8.0,
            b: 0.0,
            tx: 0.0,
            ty: 0.0,
        };
        assert!(
            (warp(&picture, &align, 8) - &picture)
                .abs()
                .max()
                .double_value(&[])
                < 1e-3
        );
    }
}
