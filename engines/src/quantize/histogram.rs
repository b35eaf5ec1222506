//! How large the values of a tensor are, and from which size on it is best to clip them.

use serde::{Deserialize, Serialize};

/// Bins of a histogram.
const BINS: usize = 4096;
/// Steps of an 8-bit number on one side of 0.
pub(super) const STEPS: usize = 127;

/// How the largest value that keeps its size is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Calibrator {
    /// The largest magnitude seen: nothing is clipped.
    Max,
    /// The magnitude below which this share of the values lies, in percent.
    Percentile(f64),
    /// Least Kullback-Leibler divergence between the values before and after (Migacz, "8-bit Inference with TensorRT",
    /// GTC 2017).
    Entropy,
    /// Least mean squared error of rounding and clipping together.
    Mse,
}

impl std::fmt::Display for Calibrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Percentile(share) => write!(f, "percentile {share}"),
            Self::Entropy => f.write_str("entropy"),
            Self::Mse => f.write_str("mse"),
        }
    }
}

/// A histogram of magnitudes that widens as larger ones come, so that one pass over the data is enough.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    /// Upper end of the last bin.
    range: f32,
    largest: f32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BINS],
            range: 0.0,
            largest: 0.0,
        }
    }
}

impl Histogram {
    /// Counts values; says whether all of them are finite. Those that are not are left out.
    pub fn add(&mut self, values: &[f32]) -> bool {
        let (mut largest, mut finite) = (0f32, true);
        for value in values {
            finite &= value.is_finite();
            if value.is_finite() {
                largest = largest.max(value.abs());
            }
        }
        if largest > 0.0 && self.range == 0.0 {
            // Zeros counted before lie in the first bin of every range.
            self.range = largest;
        }
        while largest > self.range {
            self.widen();
        }
        self.largest = self.largest.max(largest);
        let bins = BINS as f32 / self.range;
        for value in values.iter().filter(|value| value.is_finite()) {
            let bin = if self.range > 0.0 {
                (value.abs() * bins) as usize
            } else {
                0
            };
            self.counts[bin.min(BINS - 1)] += 1;
        }
        finite
    }

    /// Doubles the range: two bins become one.
    fn widen(&mut self) {
        for bin in 0..BINS / 2 {
            self.counts[bin] = self.counts[2 * bin] + self.counts[2 * bin + 1];
        }
        self.counts[BINS / 2..].fill(0);
        self.range *= 2.0;
    }

    /// Largest magnitude seen.
    pub fn largest(&self) -> f32 {
        self.largest
    }

    /// The magnitude from which on values are clipped, above 0 unless every value was 0.
    pub fn threshold(&self, calibrator: Calibrator) -> f32 {
        let width = self.range / BINS as f32;
        let used = ((self.largest / width).ceil() as usize).clamp(1, BINS);
        let bins = match calibrator {
            _ if self.largest == 0.0 => return 0.0,
            Calibrator::Max => return self.largest,
            Calibrator::Percentile(share) => self.percentile(share / 100.0),
            Calibrator::Entropy => self.entropy(used),
            Calibrator::Mse => self.mse(used),
        };
        (bins as f32 * width).min(self.largest)
    }

    /// Bins that hold at least `share` of all values.
    fn percentile(&self, share: f64) -> usize {
        let total: u64 = self.counts.iter().sum();
        let mut seen = 0;
        for (bin, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen as f64 >= share * total as f64 {
                return bin + 1;
            }
        }
        BINS
    }

    /// The number of bins with the least divergence, from the smallest number that 127 steps can tell apart.
    fn entropy(&self, used: usize) -> usize {
        let step = (used / 512).max(1);
        let candidates = (STEPS + 1..=used).step_by(step).chain([used]);
        let divergences = candidates.map(|bins| (bins, self.divergence(bins, used)));
        divergences
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map_or(used, |(bins, _)| bins)
    }

    /// `KL(p, q)`: `p` are the values with everything beyond `bins` in the last one, `q` what remains of those up to
    /// `bins` when they are told apart by 127 steps only. The first bin is left out: it holds the zeros after a ReLU,
    /// which every scale keeps.
    fn divergence(&self, bins: usize, used: usize) -> f64 {
        let mut p: Vec<f64> = self.counts[..bins].iter().map(|count| *count as f64).collect();
        let mut q = vec![0.0; bins];
        p[0] = 0.0;
        for step in 0..STEPS + 1 {
            // Each step rounds to the nearest: the bins between two half steps become alike.
            let edge = |half: f64| ((half / STEPS as f64 * bins as f64).round().max(0.0) as usize).min(bins);
            let (from, to) = (edge(step as f64 - 0.5), edge(step as f64 + 0.5));
            let filled = p[from..to].iter().filter(|count| **count > 0.0).count();
            let sum: f64 = p[from..to].iter().sum();
            for bin in from..to {
                if p[bin] > 0.0 {
                    q[bin] = sum / filled as f64;
                }
            }
        }
        p[bins - 1] += self.counts[bins..used]
            .iter()
            .map(|count| *count as f64)
            .sum::<f64>();
        let (sum_p, sum_q): (f64, f64) = (p.iter().sum(), q.iter().sum());
        if sum_q == 0.0 {
            return f64::INFINITY;
        }
        // A bin that only clipping fills has no counterpart: that costs, but not infinitely.
        const MISSING: f64 = 1e-9;
        p.iter()
            .zip(&q)
            .filter(|(p, _)| **p > 0.0)
            .map(|(p, q)| p / sum_p * ((p / sum_p) / (q / sum_q).max(MISSING)).ln())
            .sum()
    }

    /// The number of bins with the least squared error.
    fn mse(&self, used: usize) -> usize {
        let step = (used / 512).max(1);
        let candidates = (1..=used).step_by(step).chain([used]);
        let errors = candidates.map(|bins| (bins, self.squared_error(bins, used)));
        errors
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map_or(used, |(bins, _)| bins)
    }

    fn squared_error(&self, bins: usize, used: usize) -> f64 {
        let scale = bins as f64 / STEPS as f64;
        let rounding: f64 = (0..bins)
            .map(|bin| {
                // Values spread over their bin; where a step is finer than a bin, rounding costs a twelfth of its square.
                let value = bin as f64 + 0.5;
                let error = if scale < 2.0 {
                    scale * scale / 12.0
                } else {
                    let off = value - (value / scale).round() * scale;
                    off * off + 1.0 / 12.0
                };
                self.counts[bin] as f64 * if bin == 0 { 0.0 } else { error }
            })
            .sum();
        let clipping: f64 = (bins..used)
            .map(|bin| {
                let off = bin as f64 + 0.5 - bins as f64;
                self.counts[bin] as f64 * off * off
            })
            .sum();
        rounding + clipping
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Calibrator; 4] = [
        Calibrator::Max,
        Calibrator::Percentile(100.0),
        Calibrator::Entropy,
        Calibrator::Mse,
    ];

    fn of(values: impl IntoIterator<Item = f32>) -> Histogram {
        let mut histogram = Histogram::default();
        assert!(histogram.add(&values.into_iter().collect::<Vec<_>>()));
        histogram
    }

    /// 0 to 1 evenly, 10,000 values, then `outliers` times 100.
    fn with_outliers(outliers: usize) -> Histogram {
        of((0..10_000)
            .map(|i| i as f32 / 10_000.0)
            .chain(std::iter::repeat_n(100.0, outliers)))
    }

    #[test]
    fn nothing_is_clipped_where_all_sizes_are_as_frequent() {
        let even = of((0..100_000).map(|i| i as f32 / 100_000.0 - 0.5));
        for calibrator in ALL {
            let threshold = even.threshold(calibrator);
            assert!((0.49..=0.5).contains(&threshold), "{calibrator}: {threshold}");
        }
    }

    #[test]
    fn a_percentile_is_the_share_of_values() {
        let even = of((0..100_000).map(|i| i as f32 / 100_000.0));
        for share in [10.0, 50.0, 99.0, 99.9] {
            let threshold = even.threshold(Calibrator::Percentile(share));
            assert!(
                (f64::from(threshold) - share / 100.0).abs() < 5e-4,
                "{share}: {threshold}"
            );
        }
    }

    /// Worked out by hand: with a threshold t, a step is t / 127 wide and costs (t / 127)² / 12 for each of 10,000
    /// values, the one at 100 costs (100 - t)²: together least at t = 95. Of a normal distribution, 8 bits keep about 3.9
    /// standard deviations (Banner et al., "Post training 4-bit quantization of convolutional networks", section 3).
    #[test]
    fn mean_squared_error_weighs_rounding_against_clipping() {
        let kept = with_outliers(1).threshold(Calibrator::Mse);
        assert!((90.0..=98.0).contains(&kept), "{kept}");
        // Twelve even numbers have a sum with a standard deviation of 1.
        let gaussian = of((1..200_000u64).map(|i| {
            let even = |k: u32| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(5 * k) >> 40;
            (0..12).map(|k| even(k) as f32 / (1u64 << 24) as f32).sum::<f32>() - 6.0
        }));
        let threshold = gaussian.threshold(Calibrator::Mse);
        assert!((3.3..=4.4).contains(&threshold), "{threshold}");
    }

    #[test]
    fn entropy_gives_up_what_is_rare() {
        // Small values are frequent, as behind a ReLU: told apart by two steps only, they would all look alike. Sixteen
        // far out tell nothing about 10,000.
        let values = (0..10_000).map(|i| (i as f32 / 10_000.0).powi(3));
        let histogram = of(values.chain([100.0; 16]));
        let clipped = histogram.threshold(Calibrator::Entropy);
        assert!(clipped < 50.0, "{clipped}");
        assert_eq!(histogram.threshold(Calibrator::Max), 100.0);
    }

    #[test]
    fn zeros_and_what_is_not_finite() {
        let mut histogram = of([0.0; 10]);
        for calibrator in ALL {
            assert_eq!(histogram.threshold(calibrator), 0.0);
        }
        assert!(!histogram.add(&[f32::NAN, 2.0, f32::INFINITY]));
        assert_eq!(histogram.threshold(Calibrator::Max), 2.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// One pass is as good as knowing the largest value before: nothing is lost when the range widens.
        #[test]
        fn widening_keeps_every_value(values in proptest::collection::vec(-1e3f32..1e3, 1..200), split in 0usize..200) {
            let mut twice = Histogram::default();
            let split = split.min(values.len());
            twice.add(&values[..split]);
            twice.add(&values[split..]);
            prop_assert_eq!(twice.counts.iter().sum::<u64>(), values.len() as u64);
            let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            prop_assert_eq!(twice.threshold(Calibrator::Max), largest);
            for calibrator in ALL {
                let threshold = twice.threshold(calibrator);
                prop_assert!(threshold > 0.0 && threshold <= largest || largest == 0.0);
            }
        }
    }
}
