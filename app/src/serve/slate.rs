//! What viewers see in place of a picture: grey text on black, made by the box, nothing of the camera's.

use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::{FONT_6X10, FONT_10X20};
use embedded_graphics::pixelcolor::Gray8;
use embedded_graphics::prelude::*;
use embedded_graphics::text::{Baseline, Text};
use gstreamer as gst;
use gstreamer_video as gst_video;

/// Luma of the ground and of the text, limited range.
const GROUND: u8 = 24;
const TEXT: u8 = 190;
/// Neutral chroma.
const GREY: u8 = 128;
/// Frame height from which letters are doubled, then tripled, and so on.
const STEP: u32 = 360;

/// A slate in the format of the stream, I420 or NV12: its chroma is the same in both. `None` for other formats.
pub(super) fn slate(info: &gst_video::VideoInfo, lines: &[&str]) -> Option<gst::Buffer> {
    let mut bytes = vec![GREY; info.size()];
    let stride = usize::try_from(*info.stride().first()?).ok()?;
    let offset = *info.offset().first()?;
    let scale = (info.height() / STEP).max(1);
    let (width, height) = (info.width(), info.height());
    let rows = bytes.get_mut(offset..)?.chunks_mut(stride).take(height as usize);
    for row in rows {
        row[..width as usize].fill(GROUND);
    }
    let mut canvas = Canvas {
        luma: &mut bytes[offset..],
        stride,
        size: (width, height),
        scale,
    };
    let (font, margin) = if height < STEP {
        (&FONT_6X10, 8)
    } else {
        (&FONT_10X20, 24)
    };
    let step = font.character_size.height as i32 * 7 / 5;
    let style = MonoTextStyle::new(font, Gray8::new(TEXT));
    for (number, line) in lines.iter().enumerate() {
        let place = Point::new(margin, margin + step * number as i32);
        let Ok(_) = Text::with_baseline(line, place, style, Baseline::Top).draw(&mut canvas);
    }
    Some(gst::Buffer::from_mut_slice(bytes))
}

/// The luma plane, drawn on in squares of `scale` pixels.
struct Canvas<'a> {
    luma: &'a mut [u8],
    stride: usize,
    size: (u32, u32),
    scale: u32,
}

impl OriginDimensions for Canvas<'_> {
    fn size(&self) -> Size {
        Size::new(self.size.0 / self.scale, self.size.1 / self.scale)
    }
}

impl DrawTarget for Canvas<'_> {
    type Color = Gray8;
    type Error = std::convert::Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Gray8>>>(&mut self, pixels: I) -> Result<(), Self::Error> {
        let area = self.bounding_box();
        for Pixel(place, color) in pixels {
            if !area.contains(place) {
                continue;
            }
            let scale = self.scale as usize;
            let (x, y) = (place.x as usize * scale, place.y as usize * scale);
            for row in y..y + scale {
                let start = row * self.stride + x;
                self.luma[start..start + scale].fill(color.luma());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slate_has_text_on_an_even_ground_in_every_size() {
        gst::init().unwrap();
        for (width, height) in [(16, 16), (33, 17), (320, 240), (1280, 720), (1920, 1080)] {
            for format in [gst_video::VideoFormat::I420, gst_video::VideoFormat::Nv12] {
                let info = gst_video::VideoInfo::builder(format, width, height)
                    .build()
                    .unwrap();
                let slate = slate(
                    &info,
                    &["Persona", "a line that is longer than the smallest picture"],
                )
                .unwrap();
                assert_eq!(slate.size(), info.size());
                let bytes = slate.map_readable().unwrap();
                let luma = &bytes[..info.stride()[0] as usize * height as usize];
                let text = luma.iter().filter(|value| **value == TEXT).count();
                assert!(luma.contains(&GROUND), "{width}x{height}");
                assert!(text > 0, "{width}x{height}");
                assert!(bytes[info.offset()[1]..].iter().all(|value| *value == GREY));
            }
        }
    }
}
