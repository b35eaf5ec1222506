//! Y'CbCr to R'G'B' and back.
//!
//! Recommendation ITU-R BT.601-7 section 2.5 and BT.709-6 section 3 define both matrices by two weights, `Kr`
//! and `Kb`; the ranges are BT.601-7 section 2.5.3 (limited: 219 steps of luma from 16, 224 of chroma about 128)
//! and the JFIF one (full: 255 steps of both).

use crate::{Color, Matrix, Range, Values};

/// The coefficients of one [`Color`], worked out in `f64` and rounded once to `f32`.
///
/// To RGB (0 to 255, clamped), with `u = U - 128` and `v = V - 128`:
/// `l = (Y - black) * luma`, `R = l + red_v * v`, `G = (l - green_u * u) - green_v * v`, `B = l + blue_u * u`.
///
/// From RGB: each of Y, U, V is `((k[0] * R + k[1] * G) + k[2] * B) + k[3]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Coefficients {
    pub(crate) black: f32,
    pub(crate) luma: f32,
    pub(crate) red_v: f32,
    pub(crate) green_u: f32,
    pub(crate) green_v: f32,
    pub(crate) blue_u: f32,
    pub(crate) y: [f32; 4],
    pub(crate) u: [f32; 4],
    pub(crate) v: [f32; 4],
}

impl Coefficients {
    pub(crate) fn of(color: Color) -> Self {
        let (red, blue) = match color.matrix {
            Matrix::Bt601 => (0.299, 0.114),
            Matrix::Bt709 => (0.2126, 0.0722),
        };
        let (black, luma, chroma): (f64, f64, f64) = match color.range {
            Range::Limited => (16.0, 255.0 / 219.0, 255.0 / 224.0),
            Range::Full => (0.0, 1.0, 1.0),
        };
        let green = 1.0 - red - blue;
        // B - Y' spans 2 (1 - Kb) times the range of B; the same holds for red.
        let (span_u, span_v) = (2.0 * (1.0 - blue), 2.0 * (1.0 - red));
        let [to_u, to_v] = [span_u, span_v].map(|span| 1.0 / (span * chroma));
        let single = |k: [f64; 4]| k.map(|k| k as f32);
        Self {
            black: black as f32,
            luma: luma as f32,
            red_v: (span_v * chroma) as f32,
            green_u: (span_u * chroma * blue / green) as f32,
            green_v: (span_v * chroma * red / green) as f32,
            blue_u: (span_u * chroma) as f32,
            y: single([red / luma, green / luma, blue / luma, black]),
            u: single([-red * to_u, -green * to_u, (1.0 - blue) * to_u, 128.0]),
            v: single([(1.0 - red) * to_v, -green * to_v, -blue * to_v, 128.0]),
        }
    }

    /// RGB from 0 to 255 of luma above black and chroma about zero.
    #[inline(always)]
    pub(crate) fn rgb(&self, y: f32, u: f32, v: f32) -> [f32; 3] {
        let l = y * self.luma;
        let red = l + self.red_v * v;
        let green = (l - self.green_u * u) - self.green_v * v;
        let blue = l + self.blue_u * u;
        [
            red.clamp(0.0, 255.0),
            green.clamp(0.0, 255.0),
            blue.clamp(0.0, 255.0),
        ]
    }

    /// Y, U and V (with their offsets) of RGB from 0 to 255.
    #[inline(always)]
    pub(crate) fn yuv(&self, rgb: [f32; 3]) -> [f32; 3] {
        let [r, g, b] = rgb;
        let weigh = |k: [f32; 4]| ((k[0] * r + k[1] * g) + k[2] * b) + k[3];
        [weigh(self.y), weigh(self.u), weigh(self.v)]
    }
}

impl Values {
    /// `v` from 0 to 255 becomes `v * scale + offset`.
    pub(crate) fn of_byte(self) -> (f32, f32) {
        match self {
            Values::Byte => (1.0, 0.0),
            Values::Signed => (1.0 / 127.5, -1.0),
        }
    }
}

/// A byte of a value from 0 to 255: the nearest, of two equally near ones the even one.
///
/// At 1.5 * 2^23 numbers lie 1 apart, so the addition rounds and leaves the integer in the lowest bits.
#[inline(always)]
pub(crate) fn to_byte(value: f32) -> u8 {
    (value + 12_582_912.0).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_nearest() {
        for byte in 0..=255_u8 {
            let exact = f32::from(byte);
            for value in [exact, (exact - 0.49).max(0.0), (exact + 0.49).min(255.0)] {
                assert_eq!(to_byte(value), byte, "{value}");
            }
        }
        for (value, even) in [(0.5, 0), (1.5, 2), (126.5, 126), (253.5, 254)] {
            assert_eq!(to_byte(value), even);
        }
    }

    /// Reference colours: the 100 % and 75 % bars of the recommendations, worked out by hand.
    #[test]
    fn known_colours() {
        struct Case(Matrix, Range, [f32; 3], [f32; 3]);
        use Matrix::*;
        use Range::*;
        let cases = [
            Case(Bt601, Limited, [255.0, 255.0, 255.0], [235.0, 128.0, 128.0]),
            Case(Bt601, Limited, [0.0, 0.0, 0.0], [16.0, 128.0, 128.0]),
            // 16 + 219 * 0.299, 128 - 224 * 0.299 / 1.772, 128 + 112
            Case(Bt601, Limited, [255.0, 0.0, 0.0], [81.481, 90.203, 240.0]),
            Case(Bt601, Limited, [0.0, 0.0, 255.0], [40.966, 240.0, 109.786]),
            Case(Bt709, Limited, [255.0, 0.0, 0.0], [62.5594, 102.336, 240.0]),
            Case(Bt709, Limited, [0.0, 255.0, 0.0], [172.6288, 41.664, 26.270]),
            // 255 * 0.587, 128 - 255 * 0.587 / 1.772, 128 - 255 * 0.587 / 1.402
            Case(Bt601, Full, [0.0, 255.0, 0.0], [149.685, 43.527, 21.235]),
            Case(Bt709, Full, [0.0, 0.0, 255.0], [18.411, 255.5, 116.309]),
            Case(Bt709, Full, [128.0, 128.0, 128.0], [128.0, 128.0, 128.0]),
        ];
        for Case(matrix, range, rgb, yuv) in cases {
            let coefficients = Coefficients::of(Color { matrix, range });
            let got = coefficients.yuv(rgb);
            for (got, wanted) in got.iter().zip(yuv) {
                assert!(
                    (got - wanted).abs() < 2e-3,
                    "{matrix:?} {range:?} {rgb:?}: {got} {wanted}"
                );
            }
            let back = coefficients.rgb(got[0] - coefficients.black, got[1] - 128.0, got[2] - 128.0);
            for (back, wanted) in back.iter().zip(rgb) {
                assert!(
                    (back - wanted).abs() < 1e-3,
                    "{matrix:?} {range:?} {rgb:?}: {back:?}"
                );
            }
        }
    }

    #[test]
    fn coefficients_of_the_recommendations() {
        let c = Coefficients::of(Color {
            matrix: Matrix::Bt709,
            range: Range::Full,
        });
        let got = [c.red_v, c.green_u, c.green_v, c.blue_u];
        for (got, wanted) in got.iter().zip([1.5748, 0.187_324, 0.468_124, 1.8556]) {
            assert!((got - wanted).abs() < 1e-5, "{got} {wanted}");
        }
    }
}
