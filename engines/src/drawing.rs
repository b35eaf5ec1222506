//! A drawn face: what networks are compared on where no photograph may be. It is nobody.

/// One soft-edged ellipse: centre, radii (both in units of the drawing's side), colour, and how hard its edge is.
struct Ellipse {
    center: [f32; 2],
    radii: [f32; 2],
    color: [f32; 3],
    hardness: f32,
}

const fn ellipse(center: [f32; 2], radii: [f32; 2], color: [f32; 3], hardness: f32) -> Ellipse {
    Ellipse {
        center,
        radii,
        color,
        hardness,
    }
}

const HAIR: [f32; 3] = [52.0, 40.0, 34.0];
const SKIN: [f32; 3] = [214.0, 170.0, 142.0];
const SHADE: [f32; 3] = [176.0, 128.0, 104.0];
const WHITE: [f32; 3] = [236.0, 232.0, 228.0];
const DARK: [f32; 3] = [38.0, 28.0, 26.0];
const LIPS: [f32; 3] = [172.0, 84.0, 82.0];

/// From back to front. Eyes, nose and mouth lie where those of an upright average face do.
#[rustfmt::skip]
const PARTS: [Ellipse; 18] = [
    ellipse([0.50, 0.98], [0.34, 0.20], [70.0, 80.0, 110.0], 12.0),
    ellipse([0.50, 0.42], [0.29, 0.36], HAIR, 14.0),
    ellipse([0.50, 0.84], [0.12, 0.16], SHADE, 8.0),
    ellipse([0.50, 0.51], [0.235, 0.33], SKIN, 14.0),
    ellipse([0.30, 0.52], [0.035, 0.07], SHADE, 6.0),
    ellipse([0.70, 0.52], [0.035, 0.07], SHADE, 6.0),
    ellipse([0.40, 0.405], [0.065, 0.014], HAIR, 3.0),
    ellipse([0.60, 0.405], [0.065, 0.014], HAIR, 3.0),
    ellipse([0.40, 0.46], [0.055, 0.032], SHADE, 3.0),
    ellipse([0.60, 0.46], [0.055, 0.032], SHADE, 3.0),
    ellipse([0.40, 0.465], [0.042, 0.020], WHITE, 4.0),
    ellipse([0.60, 0.465], [0.042, 0.020], WHITE, 4.0),
    ellipse([0.40, 0.465], [0.018, 0.020], DARK, 4.0),
    ellipse([0.60, 0.465], [0.018, 0.020], DARK, 4.0),
    ellipse([0.50, 0.55], [0.022, 0.09], SHADE, 1.2),
    ellipse([0.50, 0.615], [0.050, 0.022], SHADE, 2.0),
    ellipse([0.50, 0.70], [0.085, 0.026], LIPS, 4.0),
    ellipse([0.50, 0.70], [0.075, 0.005], DARK, 2.0),
];

/// Draws a face into `[3, rows, columns]`, RGB 0 to 255. It fills `size` of the shorter side about the picture's middle.
/// `number` chooses one of many that differ in place, size and light.
pub fn face(rows: usize, columns: usize, size: f32, number: usize) -> Vec<f32> {
    let vary = |step: usize| ((number * step) % 17) as f32 / 17.0 - 0.5;
    let side = size * rows.min(columns) as f32 * (1.0 + 0.15 * vary(5));
    let corner = [
        0.5 * (columns as f32 - side) + 0.06 * side * vary(7),
        0.5 * (rows as f32 - side) + 0.06 * side * vary(11),
    ];
    let light = 1.0 + 0.3 * vary(3);
    let mut values = vec![0.0; 3 * rows * columns];
    for row in 0..rows {
        for column in 0..columns {
            let x = (column as f32 + 0.5 - corner[0]) / side;
            let y = (row as f32 + 0.5 - corner[1]) / side;
            // A wall, brighter to the right.
            let mut color = [120.0 + 40.0 * x, 126.0 + 36.0 * x, 132.0 + 30.0 * x];
            for part in &PARTS {
                let from_center = [
                    (x - part.center[0]) / part.radii[0],
                    (y - part.center[1]) / part.radii[1],
                ];
                let distance = from_center[0].hypot(from_center[1]);
                let weight = (part.hardness * (1.0 - distance)).clamp(0.0, 1.0);
                for (color, part) in color.iter_mut().zip(part.color) {
                    *color += weight * (part - *color);
                }
            }
            // Lit from the left.
            let light = light * (1.1 - 0.3 * x.clamp(0.0, 1.0));
            for (channel, color) in color.into_iter().enumerate() {
                values[(channel * rows + row) * columns + column] = (light * color).clamp(0.0, 255.0).round();
            }
        }
    }
    values
}
