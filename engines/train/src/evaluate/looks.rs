//! How outputs look beside their originals.

use anyhow::Result;
use kernels::{Hull, Point};
use serde::Serialize;

use super::metrics::{self, Region, Summary};
use super::product::{Face, Product, Replaced};

/// One output beside its original; before, then after.
#[derive(Debug, Clone)]
pub struct Look {
    found_again: bool,
    landmark_error: f64,
    mouths: (f64, f64),
    eyes: (f64, f64),
    sharpness: Option<f64>,
    sharpness_of_path: Option<f64>,
    similarity: Option<f64>,
    rgb_difference: Option<f64>,
    mask_coverage: Option<f64>,
    /// Whether the output passes for the original's sex, where somebody judged that.
    pub same_sex: Option<bool>,
}

impl Look {
    /// Measures what the product did to a face.
    ///
    /// # Errors
    /// When a network fails.
    pub fn measure(face: &Face, replaced: &mut Replaced, product: &mut Product) -> Result<Self> {
        let found_again = product.found_again(&mut replaced.picture, face.region)?;
        let landmarks = product.locate(&mut replaced.picture, face.region)?;
        let side = product.side();
        let hull = Hull::of(&face.landmarks.map(|point| face.align.apply(point)));
        let center = |i: usize| (i as f32 + 0.5) / side as f32;
        let inside: Vec<bool> = (0..side * side)
            .map(|i| hull.contains(Point::new(center(i % side), center(i / side))))
            .collect();
        let [before, _, after] = &replaced.crops;
        let luma = [luma(before), luma(after), luma(&replaced.unchanged)];
        let region = |i: usize| Region {
            luma: &luma[i],
            inside: &inside,
            side,
        };
        let sharpness = [0, 1, 2].map(|i| metrics::sharpness(region(i)));
        let ratio = |i: usize| Some(sharpness[i]? / sharpness[0]?);
        let within = |values: &mut dyn Iterator<Item = f32>| {
            let kept: Vec<f64> = values
                .zip(inside.iter().cycle())
                .filter(|(_, inside)| **inside)
                .map(|(v, _)| f64::from(v))
                .collect();
            metrics::mean(&kept)
        };
        Ok(Self {
            found_again,
            landmark_error: metrics::landmark_error(&face.landmarks, &landmarks),
            mouths: (
                metrics::mouth_opening(&face.landmarks),
                metrics::mouth_opening(&landmarks),
            ),
            eyes: (
                metrics::eye_opening(&face.landmarks),
                metrics::eye_opening(&landmarks),
            ),
            sharpness: ratio(1),
            sharpness_of_path: ratio(2),
            similarity: metrics::similarity(region(0), region(1)),
            rgb_difference: within(&mut before.iter().zip(after).map(|(a, b)| (a - b).abs())),
            mask_coverage: within(&mut replaced.mask.iter().copied()),
            same_sex: None,
        })
    }
}

/// Many outputs beside their originals.
#[derive(Debug, Default, Serialize)]
pub struct Looks {
    pub faces: usize,
    pub found_again: Option<f64>,
    pub landmark_error: Option<Summary>,
    pub mouth_correlation: Option<f64>,
    pub eye_correlation: Option<f64>,
    pub sharpness: Option<Summary>,
    /// Of the crop put back unchanged: the most that this path allows a generator that copies.
    pub sharpness_of_path: Option<Summary>,
    pub similarity: Option<Summary>,
    pub rgb_difference: Option<Summary>,
    pub mask_coverage: Option<Summary>,
    /// Share of the outputs that pass for the original's sex.
    pub same_sex: Option<f64>,
}

impl Looks {
    /// Sums up any number of faces.
    pub fn of<'a>(looks: impl IntoIterator<Item = &'a Look>) -> Self {
        let looks: Vec<&Look> = looks.into_iter().collect();
        let pairs = |of: fn(&Look) -> (f64, f64)| -> Vec<_> { looks.iter().map(|look| of(look)).collect() };
        let summary = |of: fn(&Look) -> Option<f64>| {
            Summary::of(&looks.iter().filter_map(|look| of(look)).collect::<Vec<_>>())
        };
        let share = |of: fn(&Look) -> Option<bool>| {
            let values = looks.iter().filter_map(|look| of(look));
            metrics::mean(&values.map(|value| f64::from(u8::from(value))).collect::<Vec<_>>())
        };
        Self {
            faces: looks.len(),
            found_again: share(|look| Some(look.found_again)),
            landmark_error: summary(|look| Some(look.landmark_error)),
            mouth_correlation: metrics::correlation(&pairs(|look| look.mouths)),
            eye_correlation: metrics::correlation(&pairs(|look| look.eyes)),
            sharpness: summary(|look| look.sharpness),
            sharpness_of_path: summary(|look| look.sharpness_of_path),
            similarity: summary(|look| look.similarity),
            rgb_difference: summary(|look| look.rgb_difference),
            mask_coverage: summary(|look| look.mask_coverage),
            same_sex: share(|look| look.same_sex),
        }
    }
}

fn luma(crop: &[f32]) -> Vec<f32> {
    let area = crop.len() / 3;
    (0..area)
        .map(|i| 0.299 * crop[i] + 0.587 * crop[area + i] + 0.114 * crop[2 * area + i])
        .collect()
}
