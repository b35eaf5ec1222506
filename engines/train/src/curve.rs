//! The losses of a run, as a table and as a picture.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use image::{Rgb, RgbImage};

use crate::text;
use crate::trainer::Terms;

/// The losses as a CSV file: means over the steps since the last row.
pub struct Curve {
    file: File,
    /// The last header in the file: a resumed run may have other losses.
    header: String,
    sums: Vec<(&'static str, f64)>,
    count: u64,
}

impl Curve {
    /// Opens the file to append after `step`; rows after it, from before an interruption, are dropped.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let known = fs::read_to_string(path).unwrap_or_default();
        let before = |row: &&str| {
            row.split(',')
                .next()
                .and_then(|s| s.parse().ok())
                .is_none_or(|s: u64| s <= step)
        };
        let kept: Vec<_> = known.lines().filter(before).collect();
        let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        for row in &kept {
            writeln!(file, "{row}")?;
        }
        Ok(Self {
            file,
            header: kept
                .iter()
                .rfind(|row| row.starts_with("step"))
                .map_or_else(String::new, |row| (*row).into()),
            sums: Vec::new(),
            count: 0,
        })
    }

    /// Adds the terms of one step to the next row.
    ///
    /// # Errors
    /// Never for terms of one value each.
    pub fn add(&mut self, terms: &Terms) -> Result<()> {
        if self.sums.is_empty() {
            self.sums = terms.iter().map(|(name, _)| (*name, 0.0)).collect();
        }
        for ((_, sum), (_, term)) in self.sums.iter_mut().zip(terms) {
            *sum += term.double_value(&[]);
        }
        self.count += 1;
        Ok(())
    }

    /// Writes the row and gives it as text.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&mut self, step: u64, samples: u64, elapsed: Duration) -> Result<String> {
        let names: Vec<_> = self.sums.iter().map(|(name, _)| *name).collect();
        let header = format!("step,samples,seconds,{}", names.join(","));
        if self.header != header {
            writeln!(self.file, "{header}")?;
            self.header = header;
        }
        let means: Vec<_> = self
            .sums
            .iter()
            .map(|(name, sum)| (*name, sum / self.count as f64))
            .collect();
        let values: Vec<_> = means.iter().map(|(_, mean)| format!("{mean:.5}")).collect();
        writeln!(
            self.file,
            "{step},{samples},{:.0},{}",
            elapsed.as_secs_f64(),
            values.join(",")
        )?;
        self.file.flush()?;
        self.sums.clear();
        self.count = 0;
        let shown: Vec<_> = means
            .iter()
            .map(|(name, mean)| format!("{name} {mean:.4}"))
            .collect();
        Ok(format!(
            "step {step} {:.0} s {}",
            elapsed.as_secs_f64(),
            shown.join(" ")
        ))
    }
}

/// The rows of one loss: step and value.
type Series = Vec<(f64, f64)>;

/// The losses in the text of a curve file, in the order in which they first appear. A header may occur again with
/// other losses; rows that do not fit it and what is not a number are left out.
fn series(text: &str) -> Vec<(&str, Series)> {
    let mut found: Vec<(&str, Series)> = Vec::new();
    let mut header = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split(',').collect();
        if cells.first() == Some(&"step") {
            header = cells;
            continue;
        }
        let Some(Ok(step)) = cells.first().map(|cell| cell.parse::<f64>()) else {
            continue;
        };
        if cells.len() != header.len() {
            continue;
        }
        for (&name, cell) in header.iter().zip(&cells) {
            let Ok(value) = cell.parse::<f64>() else { continue };
            if matches!(name, "step" | "samples" | "seconds") || !value.is_finite() {
                continue;
            }
            match found.iter_mut().find(|(known, _)| *known == name) {
                Some((_, series)) => series.push((step, value)),
                None => found.push((name, vec![(step, value)])),
            }
        }
    }
    found
}

/// Draws a curve file as a PNG, one panel for each loss, all over the same steps. Nothing is drawn before the first
/// row.
///
/// # Errors
/// When a file cannot be read or written.
pub fn draw(csv: &Path, png: &Path) -> Result<()> {
    const COLUMNS: usize = 4;
    let text = fs::read_to_string(csv).with_context(|| format!("cannot read {}", csv.display()))?;
    let series = series(&text);
    let steps = series.iter().flat_map(|(_, rows)| rows).map(|(step, _)| *step);
    let Some(steps) = span(steps) else {
        return Ok(());
    };
    let rows = series.len().div_ceil(COLUMNS);
    let size = (COLUMNS as u32 * Panel::WIDTH, rows as u32 * Panel::HEIGHT);
    let mut sheet = RgbImage::from_pixel(size.0, size.1, Rgb([255; 3]));
    for (index, (name, rows)) in series.iter().enumerate() {
        let Some(values) = span(rows.iter().map(|(_, value)| *value)) else {
            continue;
        };
        let panel = Panel {
            left: (index % COLUMNS) as u32 * Panel::WIDTH,
            top: (index / COLUMNS) as u32 * Panel::HEIGHT,
            steps,
            values,
        };
        panel.draw(&mut sheet, name, rows);
    }
    sheet
        .save(png)
        .with_context(|| format!("cannot write {}", png.display()))
}

/// Least and greatest value, never equal.
fn span(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    let [low, high] = values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| {
        [low.min(value), high.max(value)]
    });
    let room = if low == high {
        low.abs().max(1.0) * 0.1
    } else {
        0.0
    };
    (low <= high).then_some([low - room, high + room])
}

/// Where one loss is drawn.
struct Panel {
    left: u32,
    top: u32,
    steps: [f64; 2],
    values: [f64; 2],
}

impl Panel {
    const WIDTH: u32 = 320;
    const HEIGHT: u32 = 180;
    /// The axes in a panel: left, top, right and bottom, in pixels.
    const AXES: [u32; 4] = [72, 28, 300, 146];
    const BLACK: Rgb<u8> = Rgb([0; 3]);
    const GRAY: Rgb<u8> = Rgb([216; 3]);
    const BLUE: Rgb<u8> = Rgb([0, 84, 180]);

    /// The pixel of a row.
    fn at(&self, (step, value): (f64, f64)) -> (f64, f64) {
        let [left, top, right, bottom] = Self::AXES.map(f64::from);
        let share = |value: f64, [low, high]: [f64; 2]| (value - low) / (high - low);
        (
            f64::from(self.left) + left + share(step, self.steps) * (right - left),
            f64::from(self.top) + bottom - share(value, self.values) * (bottom - top),
        )
    }

    fn draw(&self, sheet: &mut RgbImage, name: &str, rows: &[(f64, f64)]) {
        let [left, _, _, bottom] = Self::AXES;
        let middle = |[low, high]: [f64; 2]| [low, 0.5 * (low + high), high];
        self.write(sheet, name, left, 10);
        for value in middle(self.values) {
            let y = self.at((self.steps[0], value));
            line(sheet, y, self.at((self.steps[1], value)), Self::GRAY);
            let mut label = format!("{value:.5}");
            label.truncate(8);
            let wide = label.len() as u32 * text::GLYPH;
            let up = y.1 as u32 - self.top;
            self.write(sheet, &label, left.saturating_sub(wide + 6), up - text::GLYPH / 2);
        }
        for step in middle(self.steps) {
            let x = self.at((step, self.values[0]));
            line(sheet, x, self.at((step, self.values[1])), Self::GRAY);
            let label = format!("{step:.0}");
            let wide = label.len() as u32 * text::GLYPH;
            let from = (x.0 as u32 - self.left).saturating_sub(wide / 2);
            self.write(sheet, &label, from.min(Self::WIDTH - wide), bottom + 6);
        }
        let corner = self.at((self.steps[0], self.values[0]));
        for end in [(self.steps[1], self.values[0]), (self.steps[0], self.values[1])] {
            line(sheet, corner, self.at(end), Self::BLACK);
        }
        for two in rows.windows(2) {
            line(sheet, self.at(two[0]), self.at(two[1]), Self::BLUE);
        }
        if let [only] = rows {
            line(sheet, self.at(*only), self.at(*only), Self::BLUE);
        }
    }

    /// Writes text whose upper left corner is at `x`, `y` of the panel.
    fn write(&self, sheet: &mut RgbImage, text: &str, x: u32, y: u32) {
        text::write(sheet, text, self.left + x, self.top + y);
    }
}

/// Draws a straight line; what lies outside the picture is left out.
fn line(sheet: &mut RgbImage, from: (f64, f64), to: (f64, f64), color: Rgb<u8>) {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let steps = dx.abs().max(dy.abs()).ceil().max(1.0) as u32;
    for step in 0..=steps {
        let share = f64::from(step) / f64::from(steps);
        let (x, y) = ((from.0 + share * dx).round(), (from.1 + share * dy).round());
        if let Some(pixel) = sheet.get_pixel_mut_checked(x as u32, y as u32) {
            *pixel = color;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Tensor;

    #[test]
    fn the_curve_forgets_rows_after_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curve.csv");
        fs::write(&path, "step,loss\n50,1.0\n100,0.5\n").unwrap();
        let mut curve = Curve::open(&path, 60).unwrap();
        curve.add(&vec![("other", Tensor::from(2.0f32))]).unwrap();
        curve.write(100, 400, Duration::ZERO).unwrap();
        let wanted = "step,loss\n50,1.0\nstep,samples,seconds,other\n100,400,0,2.00000\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), wanted);
    }

    #[test]
    fn losses_may_change_their_order_between_headers() {
        let text =
            "step,samples,seconds,a,b\n50,1,1,0.5,2\nstep,samples,seconds,b,c\n100,2,2,1,NaN\n150,3,3,1";
        let wanted = vec![("a", vec![(50.0, 0.5)]), ("b", vec![(50.0, 2.0), (100.0, 1.0)])];
        assert_eq!(series(text), wanted);
    }

    #[test]
    fn a_falling_loss_is_drawn_from_the_upper_left_to_the_lower_right() {
        let folder = tempfile::tempdir().unwrap();
        let (csv, png) = (folder.path().join("curve.csv"), folder.path().join("curve.png"));
        fs::write(&csv, "step,samples,seconds,loss\n").unwrap();
        draw(&csv, &png).unwrap();
        assert!(!png.exists());
        fs::write(&csv, "step,samples,seconds,loss\n0,0,0,1.0\n100,1,1,0.0\n").unwrap();
        draw(&csv, &png).unwrap();
        let sheet = image::open(&png).unwrap().to_rgb8();
        let [left, top, right, bottom] = Panel::AXES;
        for (x, y) in [
            (left, top),
            ((left + right) / 2, (top + bottom) / 2),
            (right, bottom),
        ] {
            assert_eq!(*sheet.get_pixel(x, y), Panel::BLUE, "{x}, {y}");
        }
        let written = (0..left).flat_map(|x| (0..Panel::HEIGHT).map(move |y| (x, y)));
        assert!(
            written
                .filter(|(x, y)| *sheet.get_pixel(*x, *y) == Panel::BLACK)
                .count()
                > 50
        );
    }

    #[test]
    fn one_row_or_equal_values_are_drawn() {
        assert_eq!(span([2.0, 2.0].into_iter()), Some([1.8, 2.2]));
        assert_eq!(span(std::iter::empty()), None);
    }
}
