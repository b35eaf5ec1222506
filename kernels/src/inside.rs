//! Which pixels of a crop lie in a face's hull.

use std::ops::Range;

use crate::{Placement, Point};

/// For each row of a crop of `side` pixels, from the top, the pixels whose centre lies in the hull; they are neighbours,
/// because a hull is convex.
pub(crate) fn rows(placement: &Placement, side: usize) -> impl Iterator<Item = Range<usize>> {
    (0..side).map(move |row| {
        let y = (row as f32 + 0.5) / side as f32;
        let Some((left, right)) = span(placement, y) else {
            return 0..0;
        };
        // `as` clamps to the row.
        let first = ((left * side as f32 - 0.5).ceil().max(0.0) as usize).min(side);
        let end = ((right * side as f32 + 0.5).floor().max(0.0) as usize).clamp(first, side);
        first..end
    })
}

/// Where the line at height `y` of the unit crop lies in the hull.
fn span(placement: &Placement, y: f32) -> Option<(f32, f32)> {
    let corners = placement.hull.vertices();
    let (mut left, mut right) = (f32::INFINITY, f32::NEG_INFINITY);
    for (from, to) in corners.iter().zip(corners.iter().cycle().skip(1)) {
        let [from, to]: [Point; 2] = [from, to].map(|corner| placement.align.apply(*corner));
        if (from.y <= y) != (to.y <= y) {
            let x = from.x + (to.x - from.x) * (y - from.y) / (to.y - from.y);
            left = left.min(x);
            right = right.max(x);
        }
    }
    (left <= right).then_some((left, right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hull, Similarity};

    #[test]
    fn a_square_a_triangle_and_what_lies_elsewhere() {
        let align = Similarity {
            a: 0.01,
            b: 0.0,
            tx: 0.0,
            ty: 0.0,
        };
        let rows = |corners: &[(f32, f32)]| -> Vec<_> {
            let corners: Vec<_> = corners.iter().map(|(x, y)| Point::new(*x, *y)).collect();
            let hull = Hull::of(&corners);
            rows(&Placement { align, hull }, 4).collect()
        };
        // Of a crop of 4 x 4 pixels, each 25 x 25 of the frame, those with their centre inside.
        for (corners, wanted) in [
            (
                vec![(10.0, 30.0), (70.0, 30.0), (70.0, 70.0), (10.0, 70.0)],
                [0..0, 0..3, 0..3, 0..0],
            ),
            (
                vec![(0.0, 0.0), (100.0, 100.0), (0.0, 100.0)],
                [0..1, 0..2, 0..3, 0..4],
            ),
            (
                vec![(-500.0, -500.0), (500.0, -500.0), (500.0, 500.0), (-500.0, 500.0)],
                [0..4, 0..4, 0..4, 0..4],
            ),
            (
                vec![(500.0, 0.0), (900.0, 0.0), (900.0, 90.0)],
                [4..4, 4..4, 4..4, 4..4],
            ),
            (vec![], [0..0, 0..0, 0..0, 0..0]),
        ] {
            assert_eq!(rows(&corners), wanted, "{corners:?}");
        }
    }
}
