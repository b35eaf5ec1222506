//! Networks that answer at once, so that what is left is the program around them.

use engines::{Engine, Engines};
use kernels::cpu::{Cpu, Tensor};
use kernels::{MEAN_FACE, MEAN_FACE_5, Point, Rect};

use crate::networks::Loaded;

/// Side of the pictures that the generator makes, as of the one that ships.
const SIDE: usize = 128;
/// Luma from which a pixel is of the face: the measured picture is dark, its one face bright.
const BRIGHT: f32 = 140.0;
/// Pixels per cell of the detector's maps.
const CELL: usize = 4;

/// The four networks for a picture in which one bright square stands for a face.
pub(super) fn engines() -> Loaded {
    let engines = Engines::unproved(
        Box::new(Null(detect)),
        Box::new(Null(locate)),
        Box::new(Null(embed)),
        Box::new(Null(generate)),
        SIDE,
    );
    Loaded::on_cpu(engines, "networks that answer at once")
}

struct Null(fn(&[&Tensor], &mut [Tensor]));

impl Engine<Cpu> for Null {
    fn run(&mut self, inputs: &[&Tensor], outputs: &mut [Tensor]) -> engines::Result<()> {
        (self.0)(inputs, outputs);
        Ok(())
    }
}

/// Where a point of the average face lies in the square, in fractions of it.
fn in_square(mean: Point) -> Point {
    Point::new((mean.x - 0.13) / 0.74, (mean.y - 0.12) / 0.77)
}

/// The box around the bright pixels of a picture's first channel, if there are any.
fn square(picture: &[f32], width: usize) -> Option<Rect> {
    let is_bright = |value: &f32| *value > BRIGHT;
    let rows = || picture.chunks_exact(width);
    let top = rows().position(|row| row.iter().any(is_bright))?;
    let bottom = rows().rposition(|row| row.iter().any(is_bright))?;
    let row = rows().nth(usize::midpoint(top, bottom))?;
    let (left, right) = (row.iter().position(is_bright)?, row.iter().rposition(is_bright)?);
    Some(Rect::new(
        left as f32,
        top as f32,
        (right - left + 1) as f32,
        (bottom - top + 1) as f32,
    ))
}

/// CenterFace's maps (`engines::detector`) for the square.
fn detect(inputs: &[&Tensor], maps: &mut [Tensor]) {
    let [_, _, height, width] = inputs[0].shape();
    maps.iter_mut().for_each(|map| map.data_mut().fill(0.0));
    let Some(face) = square(&inputs[0].data()[..width * height], width) else {
        return;
    };
    // A part of it at a tile's edge is no face.
    if face.width.min(face.height) < 8.0 || face.width.max(face.height) > 1.5 * face.width.min(face.height) {
        return;
    }
    let (columns, cells) = (width / CELL, width * height / (CELL * CELL));
    let center = face.center();
    let (x, y) = (center.x / CELL as f32, center.y / CELL as f32);
    let cell = y as usize * columns + x as usize;
    maps[0].data_mut()[cell] = 0.9;
    maps[1].data_mut()[cell] = (face.height / CELL as f32).ln();
    maps[1].data_mut()[cells + cell] = (face.width / CELL as f32).ln();
    maps[2].data_mut()[cell] = y.fract() - 0.5;
    maps[2].data_mut()[cells + cell] = x.fract() - 0.5;
    for (j, point) in MEAN_FACE_5.iter().enumerate() {
        let place = in_square(*point);
        maps[3].data_mut()[2 * j * cells + cell] = place.y;
        maps[3].data_mut()[(2 * j + 1) * cells + cell] = place.x;
    }
}

/// The average face in the square of each crop.
fn locate(inputs: &[&Tensor], points: &mut [Tensor]) {
    let [entries, _, _, width] = inputs[0].shape();
    for entry in 0..entries {
        let crop = &inputs[0].entry(entry)[..width * width];
        let whole = Rect::new(0.0, 0.0, width as f32, width as f32);
        let face = square(crop, width).unwrap_or(whole);
        for (values, mean) in points[0].entry_mut(entry).chunks_exact_mut(2).zip(&MEAN_FACE) {
            let place = in_square(*mean);
            values[0] = (face.x + place.x * face.width) / width as f32;
            values[1] = (face.y + place.y * face.height) / width as f32;
        }
    }
}

/// Somebody, told by the brightness of the face's middle: a grey face is another person than a bright one.
fn embed(inputs: &[&Tensor], embeddings: &mut [Tensor]) {
    let [entries, _, height, width] = inputs[0].shape();
    for entry in 0..entries {
        let rows = inputs[0].entry(entry)[..width * height].chunks_exact(width);
        let middle = rows
            .skip(height / 3)
            .take(height / 3)
            .flat_map(|row| &row[width / 3..2 * width / 3]);
        let bright = middle.sum::<f32>() / (255 * (height / 3) * (2 * width / 3 - width / 3)) as f32;
        for pair in embeddings[0].entry_mut(entry).chunks_exact_mut(2) {
            pair.copy_from_slice(&[0.2 * bright, 0.2 * (1.0 - bright)]);
        }
    }
}

/// A grey face under a mask that is nearly whole.
fn generate(_: &[&Tensor], outputs: &mut [Tensor]) {
    let [image, mask] = outputs else { return };
    image.data_mut().fill(0.0);
    mask.data_mut().fill(0.95);
}
