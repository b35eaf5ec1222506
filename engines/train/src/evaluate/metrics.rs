//! The numbers, each a pure function.

use kernels::{Landmarks, Point};
use serde::Serialize;

/// Mean, median and extremes of a list.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Arithmetic mean.
    pub mean: f64,
    /// Value in the middle.
    pub median: f64,
    /// Fifth of a hundred, from below.
    pub p5: f64,
    /// Ninety-fifth of a hundred.
    pub p95: f64,
}

impl Summary {
    /// Of a list; `None` when it is empty.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Some(Self {
            mean: mean(values)?,
            median: quantile(&sorted, 0.5)?,
            p5: quantile(&sorted, 0.05)?,
            p95: quantile(&sorted, 0.95)?,
        })
    }
}

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The value below which the share `at` of an ascending list lies, between its neighbours linearly.
fn quantile(sorted: &[f64], at: f64) -> Option<f64> {
    let position = at * (sorted.len().checked_sub(1)?) as f64;
    let (low, share) = (position.floor(), position.fract());
    let (a, b) = (sorted.get(low as usize)?, sorted.get(position.ceil() as usize)?);
    Some(a + share * (b - a))
}

/// The smallest score that no more than the share `rate` of the impostors reaches. Scores rise with likeness.
pub fn threshold(impostors: &[f64], rate: f64) -> Option<f64> {
    let mut sorted = impostors.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let accepted = (rate * sorted.len() as f64).floor() as usize;
    // Just above the best impostor that must be refused.
    sorted.get(accepted).map(|refused| refused.next_up())
}

/// Share of scores that reach the threshold: TAR of genuine scores, FAR of impostors'.
pub fn acceptance(scores: &[f64], threshold: f64) -> Option<f64> {
    let accepted = scores.iter().filter(|score| **score >= threshold).count();
    (!scores.is_empty()).then(|| accepted as f64 / scores.len() as f64)
}

/// Equal error rate: where as many impostors are accepted as genuine pairs are refused.
pub fn equal_error_rate(genuine: &[f64], impostors: &[f64]) -> Option<f64> {
    let mut all: Vec<_> = genuine
        .iter()
        .map(|score| (*score, true))
        .chain(impostors.iter().map(|score| (*score, false)))
        .collect();
    all.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
    let (mut refused, mut accepted) = (0, impostors.len());
    let rates = |refused: usize, accepted: usize| {
        (
            refused as f64 / genuine.len() as f64,
            accepted as f64 / impostors.len() as f64,
        )
    };
    for (_, is_genuine) in all {
        if is_genuine {
            refused += 1
        } else {
            accepted -= 1
        }
        let (frr, far) = rates(refused, accepted);
        if frr >= far {
            return Some(0.5 * (frr + far));
        }
    }
    None
}

/// How many others are at least as like the probe as the true person, plus one: 1 is a hit.
pub fn rank(true_score: f64, others: impl Iterator<Item = f64>) -> usize {
    1 + others.filter(|score| *score >= true_score).count()
}

/// Mean distance of two sets of landmarks, in inter-ocular distances (outer corners) of the first.
pub fn landmark_error(reference: &Landmarks, points: &Landmarks) -> f64 {
    let distances: f64 = reference
        .iter()
        .zip(points)
        .map(|(a, b)| f64::from(a.distance(*b)))
        .sum();
    distances / reference.len() as f64 / f64::from(reference[36].distance(reference[45]))
}

/// Opening of the mouth (inner lips) over its width.
pub fn mouth_opening(points: &Landmarks) -> f64 {
    opening(points, [61, 62, 63], [67, 66, 65], 60, 64)
}

/// Mean opening of both eyes over their width.
pub fn eye_opening(points: &Landmarks) -> f64 {
    0.5 * (opening(points, [37, 38], [41, 40], 36, 39) + opening(points, [43, 44], [47, 46], 42, 45))
}

fn opening<const N: usize>(
    points: &Landmarks,
    upper: [usize; N],
    lower: [usize; N],
    left: usize,
    right: usize,
) -> f64 {
    let between = |a: usize, b: usize| f64::from(points[a].distance(points[b]));
    let heights: f64 = upper.iter().zip(&lower).map(|(&a, &b)| between(a, b)).sum();
    heights / N as f64 / between(left, right)
}

/// Pearson's correlation; `None` for fewer than two pairs or without spread.
pub fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let count = pairs.len() as f64;
    let (sum_x, sum_y) = pairs
        .iter()
        .fold((0.0, 0.0), |(x, y), pair| (x + pair.0, y + pair.1));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        let (dx, dy) = (x - sum_x / count, y - sum_y / count);
        (xx, yy, xy) = (xx + dx * dx, yy + dy * dy, xy + dx * dy);
    }
    let spread = (xx * yy).sqrt();
    (pairs.len() >= 2 && spread > 0.0).then(|| xy / spread)
}

/// Cosine of the angle between two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum::<f64>()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

/// Euclidean distance of two vectors.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(x, y)| f64::from(x - y).powi(2))
        .sum::<f64>()
        .sqrt()
}

/// Mean length of the landmarks' second difference over time, in inter-ocular distances: trembling, not motion.
pub fn jitter(track: &[Landmarks]) -> Option<f64> {
    let tremble = |window: &[Landmarks]| {
        let [a, b, c] = window else { return 0.0 };
        let bend = |i: usize| {
            Point::new(a[i].x - 2.0 * b[i].x + c[i].x, a[i].y - 2.0 * b[i].y + c[i].y)
                .distance(Point::default())
        };
        let sum: f64 = (0..b.len()).map(|i| f64::from(bend(i))).sum();
        sum / b.len() as f64 / f64::from(b[36].distance(b[45]))
    };
    mean(&track.windows(3).map(tremble).collect::<Vec<_>>())
}

/// A picture of `side` x `side` luma values and which of them count.
#[derive(Debug, Clone, Copy)]
pub struct Region<'a> {
    /// Values, row by row.
    pub luma: &'a [f32],
    /// Which values count.
    pub inside: &'a [bool],
    /// Values per row.
    pub side: usize,
}

/// Variance of the four-neighbour Laplacian inside the region: the usual measure of sharpness.
pub fn sharpness(region: Region<'_>) -> Option<f64> {
    let Region { luma, inside, side } = region;
    let values: Vec<f64> = (side..luma.len().saturating_sub(side))
        .filter(|&i| inside[i] && !matches!(i % side, 0) && i % side != side - 1)
        .map(|i| f64::from(luma[i - side] + luma[i + side] + luma[i - 1] + luma[i + 1] - 4.0 * luma[i]))
        .collect();
    let center = mean(&values)?;
    mean(&values.iter().map(|v| (v - center).powi(2)).collect::<Vec<_>>())
}

/// Structural similarity (Wang et al. 2004) over 8x8 blocks whose centre counts; values 0 to 255.
pub fn similarity(a: Region<'_>, b: Region<'_>) -> Option<f64> {
    const BLOCK: usize = 8;
    let (c1, c2) = ((0.01 * 255.0f64).powi(2), (0.03 * 255.0f64).powi(2));
    let side = a.side;
    let mut found = Vec::new();
    for y in (0..=side.saturating_sub(BLOCK)).step_by(BLOCK / 2) {
        for x in (0..=side.saturating_sub(BLOCK)).step_by(BLOCK / 2) {
            if !a.inside[(y + BLOCK / 2) * side + x + BLOCK / 2] {
                continue;
            }
            let at = (0..BLOCK * BLOCK).map(|i| (y + i / BLOCK) * side + x + i % BLOCK);
            let (mut sums, count) = ([0.0; 5], (BLOCK * BLOCK) as f64);
            for i in at {
                let (p, q) = (f64::from(a.luma[i]), f64::from(b.luma[i]));
                for (sum, term) in sums.iter_mut().zip([p, q, p * p, q * q, p * q]) {
                    *sum += term / count;
                }
            }
            let [p, q, pp, qq, pq] = sums;
            let (vp, vq, cov) = (pp - p * p, qq - q * q, pq - p * q);
            found.push((2.0 * p * q + c1) * (2.0 * cov + c2) / ((p * p + q * q + c1) * (vp + vq + c2)));
        }
    }
    mean(&found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::MEAN_FACE;

    #[test]
    fn threshold_lets_the_share_pass() {
        let impostors: Vec<f64> = (0..1000).map(f64::from).collect();
        for (rate, passing) in [(0.0, 0), (1e-3, 1), (1e-2, 10), (0.5, 500)] {
            let at = threshold(&impostors, rate).unwrap();
            assert_eq!(impostors.iter().filter(|s| **s >= at).count(), passing, "{rate}");
        }
        assert_eq!(threshold(&[], 0.1), None);
    }

    #[test]
    fn separated_and_equal_scores_have_known_error_rates() {
        assert_eq!(equal_error_rate(&[0.8, 0.9], &[0.1, 0.2]), Some(0.0));
        assert_eq!(equal_error_rate(&[0.1, 0.9], &[0.0, 0.5]), Some(0.5));
        assert_eq!(acceptance(&[0.1, 0.6, 0.7, 0.9], 0.6), Some(0.75));
    }

    #[test]
    fn rank_counts_the_nearer() {
        assert_eq!(rank(0.5, [0.9, 0.5, 0.1].into_iter()), 3);
        assert_eq!(rank(0.5, std::iter::empty()), 1);
    }

    #[test]
    fn a_shifted_face_has_a_known_error() {
        let shifted = MEAN_FACE.map(|p| Point::new(p.x + 0.1, p.y));
        let eyes = f64::from(MEAN_FACE[36].distance(MEAN_FACE[45]));
        assert!((landmark_error(&MEAN_FACE, &shifted) - 0.1 / eyes).abs() < 1e-6);
        assert!((mouth_opening(&MEAN_FACE) - mouth_opening(&shifted)).abs() < 1e-6);
        assert!(jitter(&[MEAN_FACE, shifted, MEAN_FACE]).unwrap() > 0.4);
        assert!(jitter(&[MEAN_FACE; 3]).unwrap() < 1e-6);
    }

    #[test]
    fn correlation_of_lines() {
        let line: Vec<_> = (0..5).map(|i| (f64::from(i), 3.0 - 2.0 * f64::from(i))).collect();
        assert!((correlation(&line).unwrap() + 1.0).abs() < 1e-12);
        assert_eq!(correlation(&[(1.0, 2.0), (1.0, 3.0)]), None);
    }

    #[test]
    fn a_checkerboard_is_sharper_than_a_ramp() {
        let side = 16;
        let inside = vec![true; side * side];
        let board: Vec<f32> = (0..side * side)
            .map(|i| if (i + i / side) % 2 == 0 { 0.0 } else { 1.0 })
            .collect();
        let ramp: Vec<f32> = (0..side * side).map(|i| (i % side) as f32).collect();
        let region = |luma| Region {
            luma,
            inside: &inside,
            side,
        };
        // Every Laplacian of the board is 4 or -4, every one of the ramp 0.
        assert!((sharpness(region(&board)).unwrap() - 16.0).abs() < 1e-6);
        assert!(sharpness(region(&ramp)).unwrap() < 1e-9);
        assert!((similarity(region(&ramp), region(&ramp)).unwrap() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let summary = Summary::of(&[4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((summary.mean, summary.median), (2.5, 2.5));
        assert_eq!(Summary::of(&[]), None);
    }
}
