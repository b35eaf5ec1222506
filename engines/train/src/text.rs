//! Words on sheets and curves.

use font8x8::UnicodeFonts;
use image::{Rgb, RgbImage};

/// Size of a character, in pixels.
pub const GLYPH: u32 = 8;

/// Writes black text whose upper left corner is at `x`, `y`; what lies outside the picture is left out.
pub fn write(picture: &mut RgbImage, text: &str, x: u32, y: u32) {
    for (left, character) in (x..).step_by(GLYPH as usize).zip(text.chars()) {
        let glyph = font8x8::BASIC_FONTS.get(character).unwrap_or_default();
        for (dy, row) in (0..).zip(glyph) {
            for dx in (0..GLYPH).filter(|bit| row >> bit & 1 == 1) {
                if let Some(pixel) = picture.get_pixel_mut_checked(left + dx, y + dy) {
                    *pixel = Rgb([0; 3]);
                }
            }
        }
    }
}
