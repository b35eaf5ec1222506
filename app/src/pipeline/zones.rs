use std::fmt;
use std::str::FromStr;

use kernels::{Hull, Point, Rect, Region};

/// Parts of the picture that an installer has set: what they hide does not depend on any network.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Zones {
    /// Covered in every frame, whatever is there.
    pub masked: Vec<Polygon>,
    /// A face that reaches into one of these is covered, never replaced.
    pub covered: Vec<Polygon>,
}

/// A convex polygon in fractions of the picture: (0, 0) is its upper left corner and (1, 1) its lower right one,
/// whatever the camera's resolution. Written as SVG writes points: `0,0 0.5,0 0.5,0.3`.
#[derive(Debug, Clone, PartialEq)]
pub struct Polygon(Vec<Point>);

/// Why a text is no polygon.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadPolygon {
    /// A corner is not two numbers.
    #[error("{0:?} is no corner; wanted x,y such as 0.25,0.5")]
    Corner(String),
    /// A corner lies outside of the picture.
    #[error("the corner {0} is outside of the picture; wanted fractions of it, 0 to 1")]
    Outside(String),
    /// Too few or too many corners.
    #[error("{0} corners; wanted 3 to {most}", most = Polygon::MOST)]
    Count(usize),
    /// No area, or a corner that points inwards, or sides that cross.
    #[error(
        "the corners do not go once around a convex area, one neighbour after the other; make two polygons of a bent one"
    )]
    Bent,
}

impl Polygon {
    /// Most corners.
    pub const MOST: usize = 32;
    /// Twice the least area of the triangle at a corner, in areas of the picture: less is a line.
    const LEAST: f32 = 1e-6;

    /// The whole picture.
    pub fn everything() -> Self {
        Self(
            [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
                .map(|(x, y)| Point::new(x, y))
                .into(),
        )
    }

    /// Polygons as one text, separated by `;`.
    pub fn join(polygons: &[Self]) -> String {
        polygons
            .iter()
            .map(Self::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// Polygons out of one text, separated by `;`.
    ///
    /// # Errors
    /// [`BadPolygon`] of the first that is none.
    pub fn split(text: &str) -> Result<Vec<Self>, BadPolygon> {
        text.split(';')
            .filter(|text| !text.trim().is_empty())
            .map(str::parse)
            .collect()
    }

    /// Checks the corners.
    fn new(corners: Vec<Point>) -> Result<Self, BadPolygon> {
        let count = corners.len();
        if !(3..=Self::MOST).contains(&count) {
            return Err(BadPolygon::Count(count));
        }
        let at = |index: usize| corners[index % count];
        let turns = (0..count).map(|i| {
            let (a, b, c) = (at(i), at(i + 1), at(i + 2));
            (b.x - a.x) * (c.y - b.y) - (b.y - a.y) * (c.x - b.x)
        });
        let (left, right) = turns.fold((0, 0), |(left, right), turn| {
            (
                left + usize::from(turn > Self::LEAST),
                right + usize::from(turn < -Self::LEAST),
            )
        });
        // Corners that all turn one way may still go around twice, as in a star: then they change between going right
        // and going left more than twice.
        let forwards = |i: usize| at(i + 1).x > at(i).x || (at(i + 1).x == at(i).x && at(i + 1).y > at(i).y);
        let reversals = (0..count).filter(|&i| forwards(i) != forwards(i + 1)).count();
        if left.max(right) < 3 || left.min(right) > 0 || reversals > 2 {
            return Err(BadPolygon::Bent);
        }
        Ok(Self(corners))
    }

    fn hull(&self, (width, height): (usize, usize)) -> Hull {
        let mut corners = [Point::default(); Self::MOST];
        for (to, from) in corners.iter_mut().zip(&self.0) {
            *to = Point::new(from.x * width as f32, from.y * height as f32);
        }
        Hull::of(&corners[..self.0.len()])
    }
}

impl FromStr for Polygon {
    type Err = BadPolygon;

    fn from_str(text: &str) -> Result<Self, BadPolygon> {
        let corner = |text: &str| {
            let numbers = text
                .split_once(',')
                .and_then(|(x, y)| Some((x.parse().ok()?, y.parse().ok()?)));
            let (x, y): (f32, f32) = numbers.ok_or_else(|| BadPolygon::Corner(text.into()))?;
            if (0.0..=1.0).contains(&x) && (0.0..=1.0).contains(&y) {
                Ok(Point::new(x, y))
            } else {
                Err(BadPolygon::Outside(text.into()))
            }
        };
        Self::new(text.split_whitespace().map(corner).collect::<Result<_, _>>()?)
    }
}

impl fmt::Display for Polygon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(index, corner)| {
            let space = if index > 0 { " " } else { "" };
            write!(f, "{space}{},{}", corner.x, corner.y)
        })
    }
}

/// [`Zones`] in the pixels of one size of frame.
#[derive(Debug, Default)]
pub(super) struct Placed {
    zones: Zones,
    size: (usize, usize),
    masked: Vec<Hull>,
    covered: Vec<Hull>,
}

impl Placed {
    pub(super) fn new(zones: Zones) -> Self {
        Self {
            zones,
            ..Self::default()
        }
    }

    /// Takes the zones to frames of this size; nothing is done while it stays the same.
    pub(super) fn fit(&mut self, size: (usize, usize)) {
        if self.size == size {
            return;
        }
        let place = |zones: &[Polygon]| zones.iter().map(|zone| zone.hull(size)).collect();
        (self.masked, self.covered) = (place(&self.zones.masked), place(&self.zones.covered));
        self.size = size;
    }

    /// What is covered in every frame.
    pub(super) fn masks(&self) -> impl Iterator<Item = Region> {
        self.masked.iter().cloned().map(Region::Hull)
    }

    /// Whether a face may not be replaced: it reaches into a covered zone, or nobody would see it behind a mask.
    pub(super) fn hide(&self, face: &Rect) -> bool {
        self.covered.iter().any(|zone| touch(zone, face))
            || self
                .masked
                .iter()
                .any(|mask| corners(face).iter().all(|corner| mask.contains(*corner)))
    }
}

fn corners(rect: &Rect) -> [Point; 4] {
    [
        Point::new(rect.x, rect.y),
        Point::new(rect.right(), rect.y),
        Point::new(rect.right(), rect.bottom()),
        Point::new(rect.x, rect.bottom()),
    ]
}

/// Whether a convex polygon and a box share a point: no side of either lies between them (the separating axis theorem).
fn touch(zone: &Hull, rect: &Rect) -> bool {
    let bounds = zone.bounds();
    let apart = bounds.x > rect.right()
        || rect.x > bounds.right()
        || bounds.y > rect.bottom()
        || rect.y > bounds.bottom();
    let vertices = zone.vertices();
    let sides = vertices.iter().zip(vertices.iter().cycle().skip(1));
    let outside = |from: &Point, to: &Point| {
        let beyond = |p: &Point| (to.x - from.x) * (p.y - from.y) - (to.y - from.y) * (p.x - from.x) < 0.0;
        corners(rect).iter().all(beyond)
    };
    !apart && !sides.into_iter().any(|(from, to)| outside(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn polygons_are_read_or_refused_in_a_sentence() {
        for good in [
            "0,0 1,0 1,1 0,1",
            "0,0 0,1 1,1 1,0",
            "0.5,0 1,0.5 0.5,1 0,0.5",
            "0,0 0.5,0 1,0 1,1",
            " 0.1,0.1\t0.9,0.1\n0.5,0.8 ",
        ] {
            let polygon: Polygon = good.parse().unwrap();
            assert_eq!(polygon.to_string().parse(), Ok(polygon.clone()));
            let two = vec![polygon.clone(), polygon];
            assert_eq!(Polygon::split(&Polygon::join(&two)), Ok(two));
        }
        let pentagram = "0.5,0 0.8,0.9 0,0.35 1,0.35 0.2,0.9";
        let bent = "0,0 1,0 1,1 0.5,0.2 0,1";
        for (bad, words) in [
            ("", "0 corners"),
            ("0,0 1,1", "2 corners; wanted 3 to 32"),
            ("0,0 1,0 1", "\"1\" is no corner"),
            ("0,0 1,0 a,b", "\"a,b\" is no corner"),
            ("0,0 1,0 0.5,1.2", "0.5,1.2 is outside"),
            ("0,0 1,0 NaN,1", "outside"),
            ("0,0 0.5,0.5 1,1", "convex"),
            ("0,0 1,1 1,0 0,1", "convex"),
            (bent, "make two polygons"),
            (pentagram, "convex"),
            (&"0,0 ".repeat(33), "33 corners"),
        ] {
            let error = bad.parse::<Polygon>().unwrap_err().to_string();
            assert!(error.contains(words), "{bad:?}: {error}");
        }
    }

    #[test]
    fn what_a_zone_hides() {
        let zones = Zones {
            masked: vec!["0,0 0.5,0 0.5,0.5 0,0.5".parse().unwrap()],
            covered: vec!["1,0 1,1 0.5,1".parse().unwrap()],
        };
        let mut placed = Placed::new(zones);
        let rect = Rect::new;
        // Before a size is known nothing has a place.
        assert!(!placed.hide(&rect(1.0, 1.0, 5.0, 5.0)));
        placed.fit((200, 100));
        for (face, hidden, what) in [
            (rect(10.0, 10.0, 20.0, 20.0), true, "behind the mask"),
            (rect(90.0, 10.0, 20.0, 20.0), false, "half behind the mask"),
            (rect(180.0, 80.0, 10.0, 10.0), true, "inside of the zone"),
            (rect(140.0, 45.0, 20.0, 20.0), true, "over the zone's edge"),
            (
                rect(105.0, 40.0, 20.0, 20.0),
                false,
                "beside the slanted edge, inside of the bounds",
            ),
            (rect(0.0, 0.0, 400.0, 400.0), true, "around the zone"),
            (rect(20.0, 60.0, 20.0, 20.0), false, "elsewhere"),
        ] {
            assert_eq!(placed.hide(&face), hidden, "{what}");
        }
    }

    proptest! {
        /// A box that shares a point with the zone touches it.
        #[test]
        fn a_shared_point_is_a_touch(
            x in 0.0f32..180.0, y in 0.0f32..80.0, width in 2.0f32..40.0, height in 2.0f32..40.0,
            corners in proptest::collection::vec((0.0f32..200.0, 0.0f32..100.0), 3..8),
        ) {
            let zone = Hull::of(&corners.iter().map(|(x, y)| Point::new(*x, *y)).collect::<Vec<_>>());
            prop_assume!(!zone.is_empty());
            let rect = Rect::new(x, y, width, height);
            let shares = |rect: &Rect| {
                (0..=40).any(|j| (0..=40).any(|i| {
                    let (i, j) = (i as f32 / 40.0, j as f32 / 40.0);
                    zone.contains(Point::new(rect.x + i * rect.width, rect.y + j * rect.height))
                }))
            };
            if shares(&rect) {
                prop_assert!(touch(&zone, &rect));
            }
        }
    }
}
