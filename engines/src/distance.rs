//! How far apart the outputs of two runs of one network are.

/// Landmarks of the outer corners of the eyes (iBUG 300-W order).
const OUTER_EYES: [usize; 2] = [36, 45];

/// `x, y` after `x, y` as points.
pub(crate) fn points(values: &[f32]) -> &[[f32; 2]] {
    values.as_chunks().0
}

fn distance(p: [f32; 2], q: [f32; 2]) -> f64 {
    f64::from(p[0] - q[0]).hypot(f64::from(p[1] - q[1]))
}

/// Mean distance of points.
pub(crate) fn displacement(a: &[[f32; 2]], b: &[[f32; 2]]) -> f64 {
    let total: f64 = a.iter().zip(b).map(|(p, q)| distance(*p, *q)).sum();
    total / a.len().max(1) as f64
}

/// Distance of the outer eye corners of 68 landmarks; not a number when there are fewer.
pub(crate) fn eyes(landmarks: &[f32]) -> f64 {
    let [left, right] = OUTER_EYES.map(|eye| points(landmarks).get(eye).copied().unwrap_or([f32::NAN; 2]));
    distance(left, right)
}

/// Cosine of the angle between two embeddings.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Sum of the squared differences.
pub(crate) fn squared(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// Peak signal-to-noise ratio, dB; `peak` is the range of the values. At most 120, so that a mean stays a number where
/// values are equal; not a number where one of them is none.
pub(crate) fn psnr(a: &[f32], b: &[f32], peak: f64) -> f64 {
    let error = squared(a, b) / a.len().max(1) as f64;
    if error.is_nan() {
        return error;
    }
    (10.0 * (peak * peak / error).log10()).min(120.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // An error of 0.02 everywhere, of a range of 2: 20 log10(100) = 40 dB.
        let (a, b) = (vec![0.5f32; 8], vec![0.52f32; 8]);
        assert!((psnr(&a, &b, 2.0) - 40.0).abs() < 1e-4);
        assert_eq!(psnr(&a, &a, 2.0), 120.0);
        assert!(psnr(&a, &[f32::NAN; 8], 2.0).is_nan());
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0]) - 0.5f64.sqrt()).abs() < 1e-7);
        assert_eq!(squared(&[1.0, 2.0], &[4.0, -2.0]), 25.0);

        // Eyes 0.4 apart, every point moved by (0.003, 0.004).
        let mut face = vec![0.5f32; 136];
        face[2 * OUTER_EYES[0]] = 0.3;
        face[2 * OUTER_EYES[1]] = 0.7;
        let moved: Vec<f32> = face
            .chunks(2)
            .flat_map(|p| [p[0] + 0.003, p[1] + 0.004])
            .collect();
        assert!((displacement(points(&face), points(&moved)) - 0.005).abs() < 1e-6);
        assert!((eyes(&face) - 0.4).abs() < 1e-6);
    }
}
