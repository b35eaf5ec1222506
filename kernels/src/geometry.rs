//! Points, boxes, the similarity transform and the convex hull of a face.

/// A point in frame pixels (or crop fractions, where said so).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Point {
    /// To the right.
    pub x: f32,
    /// Down.
    pub y: f32,
}

impl Point {
    /// A point.
    pub const fn new(x: f32, y: f32) -> Self {
        Self { x, y }
    }

    /// Euclidean distance.
    pub fn distance(self, other: Point) -> f32 {
        (self.x - other.x).hypot(self.y - other.y)
    }
}

/// An axis-aligned box in frame pixels.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rect {
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Width, not negative.
    pub width: f32,
    /// Height, not negative.
    pub height: f32,
}

impl Rect {
    /// A box from its top left corner and size.
    pub const fn new(x: f32, y: f32, width: f32, height: f32) -> Self {
        Self { x, y, width, height }
    }

    /// The smallest box around the points; empty at the origin without any.
    pub fn around(points: &[Point]) -> Self {
        let Some(first) = points.first() else {
            return Self::default();
        };
        let (mut low, mut high) = (*first, *first);
        for point in points {
            low = Point::new(low.x.min(point.x), low.y.min(point.y));
            high = Point::new(high.x.max(point.x), high.y.max(point.y));
        }
        Self::new(low.x, low.y, high.x - low.x, high.y - low.y)
    }

    /// Right edge.
    pub fn right(&self) -> f32 {
        self.x + self.width
    }

    /// Bottom edge.
    pub fn bottom(&self) -> f32 {
        self.y + self.height
    }

    /// Middle.
    pub fn center(&self) -> Point {
        Point::new(self.x + 0.5 * self.width, self.y + 0.5 * self.height)
    }

    /// Area in square pixels.
    pub fn area(&self) -> f32 {
        self.width * self.height
    }

    /// The box scaled about its middle.
    pub fn scaled(&self, factor: f32) -> Self {
        let center = self.center();
        let (width, height) = (self.width * factor, self.height * factor);
        Self::new(center.x - 0.5 * width, center.y - 0.5 * height, width, height)
    }

    /// The part that both boxes share; empty when they do not touch.
    pub fn intersection(&self, other: &Rect) -> Self {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let (right, bottom) = (self.right().min(other.right()), self.bottom().min(other.bottom()));
        Self::new(x, y, (right - x).max(0.0), (bottom - y).max(0.0))
    }

    /// Intersection over union, 0 to 1.
    pub fn iou(&self, other: &Rect) -> f32 {
        let shared = self.intersection(other).area();
        let union = self.area() + other.area() - shared;
        if union > 0.0 { shared / union } else { 0.0 }
    }

    /// Whether the point lies inside or on the edge.
    pub fn contains(&self, point: Point) -> bool {
        point.x >= self.x && point.x <= self.right() && point.y >= self.y && point.y <= self.bottom()
    }
}

/// How many landmarks a face has (the 68-point order of iBUG 300-W, as in the paper).
pub const LANDMARKS: usize = 68;

/// The 68 landmarks of one face in frame pixels: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67.
pub type Landmarks = [Point; LANDMARKS];

/// The average face in crop fractions: every crop is aligned to it (paper section 3, step c). Median over 789
/// training faces, made symmetric.
#[rustfmt::skip]
pub const MEAN_FACE: Landmarks = [
    Point::new(0.1346, 0.3318), Point::new(0.1434, 0.4272), Point::new(0.1600, 0.5156), Point::new(0.1749, 0.5969),
    Point::new(0.2056, 0.6870), Point::new(0.2548, 0.7589), Point::new(0.3125, 0.8070), Point::new(0.3875, 0.8565),
    Point::new(0.5000, 0.8875), Point::new(0.6125, 0.8565), Point::new(0.6875, 0.8070), Point::new(0.7452, 0.7589),
    Point::new(0.7944, 0.6870), Point::new(0.8251, 0.5969), Point::new(0.8400, 0.5156), Point::new(0.8566, 0.4272),
    Point::new(0.8654, 0.3318), Point::new(0.2186, 0.2509), Point::new(0.2632, 0.2249), Point::new(0.3190, 0.2168),
    Point::new(0.3684, 0.2210), Point::new(0.4117, 0.2353), Point::new(0.5883, 0.2353), Point::new(0.6316, 0.2210),
    Point::new(0.6810, 0.2168), Point::new(0.7368, 0.2249), Point::new(0.7814, 0.2509), Point::new(0.5000, 0.3342),
    Point::new(0.5000, 0.3969), Point::new(0.5000, 0.4542), Point::new(0.5000, 0.5076), Point::new(0.4430, 0.5414),
    Point::new(0.4673, 0.5492), Point::new(0.5000, 0.5574), Point::new(0.5327, 0.5492), Point::new(0.5570, 0.5414),
    Point::new(0.2922, 0.3232), Point::new(0.3243, 0.3110), Point::new(0.3686, 0.3092), Point::new(0.4076, 0.3295),
    Point::new(0.3730, 0.3425), Point::new(0.3261, 0.3425), Point::new(0.5924, 0.3295), Point::new(0.6314, 0.3092),
    Point::new(0.6757, 0.3110), Point::new(0.7078, 0.3232), Point::new(0.6739, 0.3425), Point::new(0.6270, 0.3425),
    Point::new(0.3727, 0.6573), Point::new(0.4172, 0.6340), Point::new(0.4725, 0.6163), Point::new(0.5000, 0.6221),
    Point::new(0.5275, 0.6163), Point::new(0.5828, 0.6340), Point::new(0.6273, 0.6573), Point::new(0.5815, 0.6969),
    Point::new(0.5411, 0.7172), Point::new(0.5000, 0.7224), Point::new(0.4589, 0.7172), Point::new(0.4185, 0.6969),
    Point::new(0.3820, 0.6580), Point::new(0.4608, 0.6480), Point::new(0.5000, 0.6473), Point::new(0.5392, 0.6480),
    Point::new(0.6180, 0.6580), Point::new(0.5374, 0.6750), Point::new(0.5000, 0.6788), Point::new(0.4626, 0.6750),
];

/// The five points (eyes, nose tip, mouth corners) of the average face in crop fractions.
pub const MEAN_FACE_5: [Point; 5] = [
    Point::new(0.3445, 0.3391),
    Point::new(0.6443, 0.3391),
    Point::new(0.4944, 0.5088),
    Point::new(0.3607, 0.6588),
    Point::new(0.6281, 0.6588),
];

/// The five points in fractions of dlib's 150-pixel chip with padding 0.25, which is the window
/// `[0.075, 0.925]` of our crop.
pub const FIVE_POINT_CHIP: [Point; 5] = [
    Point::new(0.3170, 0.3107),
    Point::new(0.6698, 0.3107),
    Point::new(0.4934, 0.5104),
    Point::new(0.3361, 0.6868),
    Point::new(0.6507, 0.6868),
];

/// Scale, rotation and translation without reflection: `x' = a x - b y + tx`, `y' = b x + a y + ty`.
///
/// Maps frame pixels to the unit crop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Similarity {
    /// Scale times cosine.
    pub a: f32,
    /// Scale times sine.
    pub b: f32,
    /// Translation to the right.
    pub tx: f32,
    /// Translation down.
    pub ty: f32,
}

impl Similarity {
    /// The least-squares similarity that maps `from` onto `to` (Umeyama 1991, without reflection); `None` when
    /// the points coincide or a coordinate is not finite.
    pub fn estimate(from: &[Point], to: &[Point]) -> Option<Self> {
        if from.len() != to.len() || from.len() < 2 {
            return None;
        }
        let count = from.len() as f64;
        let mean = |points: &[Point]| {
            let (x, y) = points
                .iter()
                .fold((0.0, 0.0), |(x, y), p| (x + f64::from(p.x), y + f64::from(p.y)));
            (x / count, y / count)
        };
        let ((from_x, from_y), (to_x, to_y)) = (mean(from), mean(to));
        let (mut dot, mut cross, mut spread) = (0.0, 0.0, 0.0);
        for (p, q) in from.iter().zip(to) {
            let (px, py) = (f64::from(p.x) - from_x, f64::from(p.y) - from_y);
            let (qx, qy) = (f64::from(q.x) - to_x, f64::from(q.y) - to_y);
            dot += px * qx + py * qy;
            cross += px * qy - py * qx;
            spread += px * px + py * py;
        }
        let (a, b) = (dot / spread, cross / spread);
        let found = Self {
            a: a as f32,
            b: b as f32,
            tx: (to_x - a * from_x + b * from_y) as f32,
            ty: (to_y - b * from_x - a * from_y) as f32,
        };
        let sound = [found.a, found.b, found.tx, found.ty]
            .iter()
            .all(|v| v.is_finite())
            && found.scale() > 0.0;
        sound.then_some(found)
    }

    /// The transform that maps the box onto the unit crop without rotation; the box is made square by its
    /// larger side about its middle. `None` for an empty box.
    pub fn of_square(region: &Rect) -> Option<Self> {
        let side = region.width.max(region.height);
        if !(side > 0.0 && side.is_finite()) {
            return None;
        }
        let center = region.center();
        Some(Self {
            a: 1.0 / side,
            b: 0.0,
            tx: 0.5 - center.x / side,
            ty: 0.5 - center.y / side,
        })
    }

    /// Where a point lands.
    pub fn apply(&self, point: Point) -> Point {
        Point::new(
            self.a * point.x - self.b * point.y + self.tx,
            self.b * point.x + self.a * point.y + self.ty,
        )
    }

    /// Crop units per pixel.
    pub fn scale(&self) -> f32 {
        self.a.hypot(self.b)
    }

    /// Turn in radians, clockwise on the screen.
    pub fn angle(&self) -> f32 {
        self.b.atan2(self.a)
    }

    /// The transform back from the unit crop to frame pixels.
    pub fn inverse(&self) -> Self {
        let square = self.a * self.a + self.b * self.b;
        let (a, b) = (self.a / square, -self.b / square);
        Self {
            a,
            b,
            tx: -(a * self.tx - b * self.ty),
            ty: -(b * self.tx + a * self.ty),
        }
    }

    /// The transform whose unit crop is the window `[low, high]` x `[low, high]` of this one's.
    pub fn window(&self, low: f32, high: f32) -> Self {
        let zoom = 1.0 / (high - low);
        Self {
            a: self.a * zoom,
            b: self.b * zoom,
            tx: (self.tx - low) * zoom,
            ty: (self.ty - low) * zoom,
        }
    }
}

/// A convex polygon in frame pixels, at most one vertex per landmark, counter-clockwise in a y-up plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Hull {
    vertices: [Point; LANDMARKS],
    count: usize,
}

impl Hull {
    /// The convex hull of the points (Andrew's monotone chain). Points that are not finite are left out; fewer
    /// than three distinct directions give an empty hull. Takes no heap memory.
    ///
    /// # Panics
    /// Never: points after the 68th are ignored.
    pub fn of(points: &[Point]) -> Self {
        let mut sorted = [Point::default(); LANDMARKS];
        let mut count = 0;
        for point in points
            .iter()
            .take(LANDMARKS)
            .filter(|p| p.x.is_finite() && p.y.is_finite())
        {
            sorted[count] = *point;
            count += 1;
        }
        let sorted = &mut sorted[..count];
        sorted.sort_unstable_by(|p, q| p.x.total_cmp(&q.x).then(p.y.total_cmp(&q.y)));
        let mut hull = Self {
            vertices: [Point::default(); LANDMARKS],
            count: 0,
        };
        // Two chains share their end points, so a chain may need one slot more than the hull has.
        let mut chain = [Point::default(); LANDMARKS + 1];
        let mut length = 0;
        for pass in 0..2 {
            let start = length;
            let mut extend = |point: Point| {
                while length >= start + 2 && turn(chain[length - 2], chain[length - 1], point) <= 0.0 {
                    length -= 1;
                }
                chain[length] = point;
                length += 1;
            };
            if pass == 0 {
                sorted.iter().copied().for_each(&mut extend);
            } else {
                sorted.iter().rev().copied().for_each(&mut extend);
            }
            // The chain's last point begins the other chain.
            length = length.saturating_sub(1);
        }
        if length >= 3 {
            hull.vertices[..length].copy_from_slice(&chain[..length]);
            hull.count = length;
        }
        hull
    }

    /// The corners, in order around the polygon; empty for a degenerate hull.
    pub fn vertices(&self) -> &[Point] {
        &self.vertices[..self.count]
    }

    /// Whether there is no area inside.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The smallest box around the hull.
    pub fn bounds(&self) -> Rect {
        Rect::around(self.vertices())
    }

    /// Whether the point lies inside or on the edge.
    pub fn contains(&self, point: Point) -> bool {
        self.count > 0
            && (0..self.count)
                .all(|i| turn(self.vertices[i], self.vertices[(i + 1) % self.count], point) >= 0.0)
    }
}

/// Twice the signed area of the triangle: positive when `c` lies to the left of `a` to `b` with y down to the
/// right of it.
fn turn(a: Point, b: Point, c: Point) -> f32 {
    (b.x - a.x) * (c.y - a.y) - (b.y - a.y) * (c.x - a.x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(p: Point, q: Point) -> bool {
        p.distance(q) < 1e-3
    }

    #[test]
    fn estimate_recovers_a_known_transform() {
        let known = Similarity {
            a: 0.8,
            b: -0.3,
            tx: 12.0,
            ty: -4.0,
        };
        let from: Vec<_> = MEAN_FACE
            .iter()
            .map(|p| Point::new(p.x * 200.0, p.y * 200.0))
            .collect();
        let to: Vec<_> = from.iter().map(|p| known.apply(*p)).collect();
        let found = Similarity::estimate(&from, &to).unwrap();
        for point in from {
            assert!(close(found.apply(point), known.apply(point)));
            assert!(close(found.inverse().apply(found.apply(point)), point));
        }
    }

    #[test]
    fn estimate_refuses_what_has_no_answer() {
        let same = [Point::new(3.0, 4.0); 5];
        assert_eq!(Similarity::estimate(&same, &MEAN_FACE_5), None);
        let broken = [Point::new(f32::NAN, 0.0); 5];
        assert_eq!(Similarity::estimate(&broken, &MEAN_FACE_5), None);
        assert_eq!(Similarity::estimate(&same[..1], &MEAN_FACE_5[..1]), None);
    }

    #[test]
    fn window_zooms_into_the_crop() {
        let crop = Similarity {
            a: 0.01,
            b: 0.002,
            tx: 0.1,
            ty: -0.2,
        };
        let chip = crop.window(0.075, 0.925);
        let p = Point::new(40.0, 60.0);
        let (in_crop, in_chip) = (crop.apply(p), chip.apply(p));
        assert!(close(
            in_chip,
            Point::new((in_crop.x - 0.075) / 0.85, (in_crop.y - 0.075) / 0.85)
        ));
    }

    #[test]
    fn hull_of_a_square_with_inner_points() {
        let points = [
            (0.0, 0.0),
            (4.0, 0.0),
            (4.0, 4.0),
            (0.0, 4.0),
            (2.0, 2.0),
            (1.0, 3.0),
            (2.0, 0.0),
        ];
        let hull = Hull::of(&points.map(|(x, y)| Point::new(x, y)));
        assert_eq!(hull.vertices().len(), 4);
        assert!(hull.contains(Point::new(2.0, 2.0)) && hull.contains(Point::new(0.0, 2.0)));
        assert!(!hull.contains(Point::new(4.1, 2.0)));
        assert_eq!(hull.bounds(), Rect::new(0.0, 0.0, 4.0, 4.0));
    }

    #[test]
    fn degenerate_hulls_are_empty() {
        let line: Vec<_> = (0..68).map(|i| Point::new(i as f32, 2.0 * i as f32)).collect();
        for points in [
            &[][..],
            &line,
            &[Point::new(1.0, 1.0); 68],
            &[Point::new(f32::NAN, 0.0); 3],
        ] {
            let hull = Hull::of(points);
            assert!(
                hull.is_empty() && !hull.contains(Point::new(1.0, 1.0)),
                "{points:?}"
            );
        }
    }
}
