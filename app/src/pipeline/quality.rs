/// How sharp a face is, 0 (flat or blurred) to 1: the mean of the absolute Laplacian over the standard deviation of
/// the brightness, so that contrast and light make no difference.
///
/// `crop` is an RGB crop `[3, side, side]`.
pub(super) fn sharpness(crop: &[f32], side: usize) -> f32 {
    let pixels = side * side;
    let brightness = |row: usize, column: usize| {
        let at = |channel: usize| {
            crop.get(channel * pixels + row * side + column)
                .copied()
                .unwrap_or(0.0)
        };
        0.25 * (at(0) + 2.0 * at(1) + at(2))
    };
    let (mut laplacian, mut sum, mut square) = (0.0, 0.0, 0.0);
    for row in 1..side - 1 {
        for column in 1..side - 1 {
            let middle = brightness(row, column);
            let around = brightness(row - 1, column)
                + brightness(row + 1, column)
                + brightness(row, column - 1)
                + brightness(row, column + 1);
            laplacian += (4.0 * middle - around).abs();
            sum += middle;
            square += middle * middle;
        }
    }
    let count = ((side - 2) * (side - 2)) as f32;
    let (mean, laplacian) = (sum / count, laplacian / count);
    let deviation = (square / count - mean * mean).max(0.0).sqrt();
    // One grey level keeps noise on a flat picture from looking sharp.
    (laplacian / (deviation + 1.0)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 32;

    fn stripes(period: f32, contrast: f32) -> Vec<f32> {
        let wave = |i: usize| 128.0 + contrast * ((i % SIDE) as f32 * std::f32::consts::TAU / period).sin();
        (0..3 * SIDE * SIDE).map(wave).collect()
    }

    #[test]
    fn finer_detail_is_sharper_whatever_its_contrast() {
        let [coarse, fine] = [16.0, 4.0].map(|period| sharpness(&stripes(period, 50.0), SIDE));
        assert!(fine > 2.0 * coarse, "{fine} {coarse}");
        let faint = sharpness(&stripes(16.0, 25.0), SIDE);
        assert!((faint - coarse).abs() < 0.05 * coarse + 0.01, "{faint} {coarse}");
        assert_eq!(sharpness(&stripes(4.0, 0.0), SIDE), 0.0);
    }
}
