use kernels::{Placement, Point};

/// Raises the mask inside the face's hull to `floor`, so that the person shows through nowhere, and gives the share
/// of the hull, 0 to 1, in which the network's own mask was at least that. NaN when no pixel lies in the hull.
///
/// `mask` is one face's `side x side` mask. A mask of which much must be raised is a network that refuses to replace
/// the face: raising it all would show a blurred mixture, so the caller covers the face instead.
pub(super) fn raise(mask: &mut [f32], side: usize, placement: &Placement, floor: f32) -> f32 {
    let (mut inside, mut own) = (0u32, 0u32);
    for (row, values) in mask.chunks_exact_mut(side).enumerate() {
        let y = (row as f32 + 0.5) / side as f32;
        let Some((left, right)) = span(placement, y) else {
            continue;
        };
        // Pixels whose centre lies in the span; `as` clamps to the row.
        let first = ((left * side as f32 - 0.5).ceil().max(0.0) as usize).min(side);
        let end = ((right * side as f32 + 0.5).floor().max(0.0) as usize).clamp(first, side);
        for value in &mut values[first..end] {
            inside += 1;
            if *value >= floor {
                own += 1;
            } else {
                *value = floor;
            }
        }
    }
    own as f32 / inside as f32
}

/// Where the line at height `y` of the unit crop lies in the hull, which is convex.
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
    use kernels::{Hull, Similarity};

    const SIDE: usize = 64;

    /// The middle of the crop, 0.25 to 0.75, of a face of 200 pixels that is turned by 0.3.
    fn placement() -> Placement {
        let align = Similarity {
            a: 0.005 * 0.3f32.cos(),
            b: 0.005 * 0.3f32.sin(),
            tx: -0.2,
            ty: -0.4,
        };
        let back = align.inverse();
        let corners = [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)];
        Placement {
            align,
            hull: Hull::of(&corners.map(|(x, y)| back.apply(Point::new(x, y)))),
        }
    }

    fn is_inside(index: usize) -> bool {
        let middle = SIDE / 4..3 * SIDE / 4;
        middle.contains(&(index / SIDE)) && middle.contains(&(index % SIDE))
    }

    #[test]
    fn a_hole_is_filled_and_nothing_else_changes() {
        let mut mask: Vec<f32> = (0..SIDE * SIDE)
            .map(|i| if i % SIDE < SIDE / 2 { 0.1 } else { 0.9 })
            .collect();
        let before = mask.clone();
        let share = raise(&mut mask, SIDE, &placement(), 0.6);
        assert!((share - 0.5).abs() < 0.05, "{share}");
        for (i, (after, before)) in mask.iter().zip(&before).enumerate() {
            let wanted = if is_inside(i) { before.max(0.6) } else { *before };
            assert_eq!(*after, wanted, "pixel {i}");
        }
    }

    #[test]
    fn no_hull_in_the_crop_has_no_share() {
        let mut far = placement();
        far.align.tx += 10.0;
        for placement in [
            far,
            Placement {
                hull: Hull::of(&[]),
                ..placement()
            },
        ] {
            assert!(raise(&mut [0.9; SIDE * SIDE], SIDE, &placement, 0.5).is_nan());
        }
    }
}
