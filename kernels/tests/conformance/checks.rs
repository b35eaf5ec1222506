//! The checks, generic over the place.

use kernels::cpu::Cpu;
use kernels::{
    Error, Hull, Kernels, MEAN_FACE, Matrix, Placement, Point, Range, Rect, Region, Result, Similarity,
    Values,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::picture::{Bytes, Format, HD, Picture, SD};
use super::place::Place;

const FORMATS: [Format; 2] = [Format::I420, Format::Nv12];

type Tensor<P> = <<P as Place>::Kernels as Kernels>::Tensor;

/// A tensor with these values in every entry.
fn tensor<P: Place>(kernels: &mut P::Kernels, shape: [usize; 4], values: &[f32]) -> Tensor<P> {
    let mut tensor = kernels.tensor(shape).unwrap();
    for entry in 0..shape[0] {
        kernels.write(&mut tensor, entry, values).unwrap();
    }
    tensor
}

/// One crop of a picture.
fn warp<P: Place>(picture: &mut Picture, align: Similarity, values: Values, side: usize) -> Vec<f32> {
    let kernels = &mut P::kernels();
    let mut crops = kernels.tensor([1, 3, side, side]).unwrap();
    P::lend(kernels, picture, |kernels, frame| {
        kernels.warp(frame, &[align], values, &mut crops)
    })
    .unwrap();
    kernels.read(&mut crops).unwrap().to_vec()
}

fn resize<P: Place>(picture: &mut Picture, region: Rect, [width, height]: [usize; 2]) -> Vec<f32> {
    let kernels = &mut P::kernels();
    let mut image = kernels.tensor([1, 3, height, width]).unwrap();
    P::lend(kernels, picture, |kernels, frame| {
        kernels.resize(frame, region, Values::Byte, &mut image, 0)
    })
    .unwrap();
    kernels.read(&mut image).unwrap().to_vec()
}

fn blend<P: Place>(
    picture: &mut Picture,
    placement: &Placement,
    side: usize,
    face: &[f32],
    mask: &[f32],
) -> Result<()> {
    let kernels = &mut P::kernels();
    let faces = tensor::<P>(kernels, [1, 3, side, side], face);
    let masks = tensor::<P>(kernels, [1, 1, side, side], mask);
    P::lend(kernels, picture, |kernels, frame| {
        kernels.blend(frame, std::slice::from_ref(placement), &faces, &masks)
    })
}

/// The share of the hull that a mask covers, and the mask raised to 0.6.
fn judge<P: Place>(placement: &Placement, side: usize, face: &[f32], mask: &[f32]) -> (f32, Vec<f32>) {
    let kernels = &mut P::kernels();
    let faces = tensor::<P>(kernels, [1, 3, side, side], face);
    let mut masks = tensor::<P>(kernels, [1, 1, side, side], mask);
    let mut shares = kernels.tensor([1, 1, 1, 1]).unwrap();
    let placements = std::slice::from_ref(placement);
    kernels
        .judge(placements, 0.6, &faces, &mut masks, &mut shares)
        .unwrap();
    let share = kernels.read(&mut shares).unwrap()[0];
    (share, kernels.read(&mut masks).unwrap().to_vec())
}

fn cover<P: Place>(picture: &mut Picture, regions: &[Region]) {
    P::lend(&mut P::kernels(), picture, |kernels, frame| {
        kernels.cover(frame, regions)
    })
    .unwrap();
}

/// The transform of a crop of `pixels` frame pixels about `center`, turned by `angle`.
fn about(center: Point, pixels: f32, angle: f32) -> Similarity {
    let (a, b) = (angle.cos() / pixels, angle.sin() / pixels);
    Similarity {
        a,
        b,
        tx: 0.5 - (a * center.x - b * center.y),
        ty: 0.5 - (b * center.x + a * center.y),
    }
}

/// The mean face under a transform.
fn face_hull(align: &Similarity) -> Hull {
    let back = align.inverse();
    Hull::of(&MEAN_FACE.map(|point| back.apply(point)))
}

/// Grey of limited range: the RGB value of a luma.
fn grey(luma: f32) -> f32 {
    ((luma - 16.0) * 255.0 / 219.0).clamp(0.0, 255.0)
}

/// How far a point lies outside of a hull, at least: 0 inside.
fn outside(hull: &Hull, point: Point) -> f32 {
    let vertices = hull.vertices();
    let next = vertices.iter().cycle().skip(1);
    vertices.iter().zip(next).fold(0.0, |most: f32, (a, b)| {
        let cross = (b.x - a.x) * (point.y - a.y) - (b.y - a.y) * (point.x - a.x);
        most.max(-cross / a.distance(*b))
    })
}

/// Fails when a byte changed that `may_change` does not allow.
fn assert_only(before: &Picture, after: &Picture, may_change: impl Fn(Point) -> bool) {
    for (plane, (was, is)) in before.planes.iter().zip(&after.planes).enumerate() {
        for (index, (was, is)) in was.data.iter().zip(&is.data).enumerate() {
            if was != is {
                let position = before.position(plane, index);
                assert!(
                    position.is_some_and(&may_change),
                    "plane {plane} byte {index} at {position:?} changed from {was} to {is}"
                );
            }
        }
    }
}

/// Runs a property, as often as the environment's `PROPTEST_CASES` says.
fn check<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value)) {
    let asked = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    let mut runner = TestRunner::new(Config {
        cases: asked.unwrap_or(cases),
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&strategy, |value| {
        test(value);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

prop_compose! {
    /// A noise picture of any small size, with or without padding.
    fn noise()(
        width in 1_usize..90, height in 1_usize..70, nv12: bool, full: bool, padding in 0_usize..9, seed: u32,
    ) -> Picture {
        let format = if nv12 { Format::Nv12 } else { Format::I420 };
        let mut color = SD;
        if full {
            color.range = Range::Full;
            color.matrix = Matrix::Bt709;
        }
        Picture::noise((width, height), color, format, padding, seed)
    }
}

prop_compose! {
    /// A convex polygon in and around a small frame.
    fn hull()(points in prop::collection::vec((-30.0_f32..120.0, -30.0_f32..100.0), 3..12)) -> Hull {
        Hull::of(&points.iter().map(|&(x, y)| Point::new(x, y)).collect::<Vec<_>>())
    }
}

prop_compose! {
    fn align()(x in -20.0_f32..110.0, y in -20.0_f32..90.0, pixels in 3.0_f32..200.0, angle in -3.2_f32..3.2)
        -> Similarity
    {
        about(Point::new(x, y), pixels, angle)
    }
}

pub fn tensors_keep_their_entries<P: Place>() {
    let kernels = &mut P::kernels();
    let mut tensor = kernels.tensor([3, 1, 2, 2]).unwrap();
    assert_eq!(kernels.read(&mut tensor).unwrap(), [0.0; 12]);
    kernels.write(&mut tensor, 2, &[1.0, 2.0, 3.0, 4.0]).unwrap();
    kernels.resize_batch(&mut tensor, 1).unwrap();
    assert_eq!(kernels.read(&mut tensor).unwrap(), [0.0; 4]);
    assert!(kernels.write(&mut tensor, 1, &[0.0; 4]).is_err());
    kernels.resize_batch(&mut tensor, 0).unwrap();
    assert!(kernels.read(&mut tensor).unwrap().is_empty());
    kernels.resize_batch(&mut tensor, 3).unwrap();
    assert_eq!(kernels.read(&mut tensor).unwrap()[8..], [1.0, 2.0, 3.0, 4.0]);
    assert!(kernels.resize_batch(&mut tensor, 4).is_err());
    assert!(kernels.write(&mut tensor, 0, &[0.0; 3]).is_err());
    assert!(kernels.tensor([0, 3, 2, 2]).is_err());
    assert!(kernels.tensor([usize::MAX, 3, 2, 2]).is_err());
}

/// What was fetched is there after any wait, and what is written afterwards is read instead.
pub fn tensors_are_fetched_together<P: Place>() {
    let kernels = &mut P::kernels();
    let mut tensors = [(); 3].map(|()| kernels.tensor([2, 1, 1, 2]).unwrap());
    for round in 0..3_u8 {
        for (tensor, values) in tensors.iter_mut().zip([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]) {
            let values = values.map(|value: f32| value + 10.0 * f32::from(round));
            kernels.write(tensor, 1, &values).unwrap();
            kernels.fetch(tensor).unwrap();
        }
        if round == 1 {
            kernels.finish().unwrap();
        }
        for (tensor, first) in tensors.iter_mut().zip([1.0, 3.0, 5.0]) {
            let first = first + 10.0 * f32::from(round);
            assert_eq!(kernels.read(tensor).unwrap()[2..], [first, first + 1.0]);
        }
    }
    let [tensor, ..] = &mut tensors;
    kernels.fetch(tensor).unwrap();
    kernels.write(tensor, 0, &[7.0, 8.0]).unwrap();
    assert_eq!(kernels.read(tensor).unwrap()[..2], [7.0, 8.0]);
    kernels.fetch(tensor).unwrap();
    kernels.resize_batch(tensor, 1).unwrap();
    assert_eq!(kernels.read(tensor).unwrap(), [7.0, 8.0]);
}

/// Masks are raised inside of the hull and nowhere else, and what they were is counted.
pub fn judge_fills_the_holes_of_a_mask<P: Place>() {
    const SIDE: usize = 64;
    let align = about(Point::new(80.0, 60.0), 200.0, 0.3);
    let back = align.inverse();
    // The middle of the crop.
    let corners = [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)];
    let hull = Hull::of(&corners.map(|(x, y)| back.apply(Point::new(x, y))));
    let is_inside = |index: usize| {
        let middle = SIDE / 4..3 * SIDE / 4;
        middle.contains(&(index / SIDE)) && middle.contains(&(index % SIDE))
    };
    let placement = Placement { align, hull };
    let mut far = placement.clone();
    far.align.tx += 10.0;
    struct Case(&'static str, Placement, f32, Option<f32>);
    let left_half = |i: usize| i % SIDE < SIDE / 2;
    let cases = [
        Case("half a mask", placement.clone(), 0.0, Some(0.5)),
        Case("far away", far, 0.0, Some(0.0)),
        Case("a face that is none", placement, f32::INFINITY, None),
    ];
    let kernels = &mut P::kernels();
    let mask: Vec<f32> = (0..SIDE * SIDE)
        .map(|i| if left_half(i) { 0.1 } else { 0.9 })
        .collect();
    let count = cases.len();
    let (mut faces, mut masks, mut shares) = (
        kernels.tensor([count, 3, SIDE, SIDE]).unwrap(),
        kernels.tensor([count, 1, SIDE, SIDE]).unwrap(),
        kernels.tensor([count, 1, 1, 1]).unwrap(),
    );
    let mut placements = Vec::new();
    for (entry, Case(_, placement, last, _)) in cases.iter().enumerate() {
        let mut face = [0.5; 3 * SIDE * SIDE];
        face[3 * SIDE * SIDE - 1] = *last;
        kernels.write(&mut faces, entry, &face).unwrap();
        kernels.write(&mut masks, entry, &mask).unwrap();
        placements.push(placement.clone());
    }
    kernels
        .judge(&placements, 0.6, &faces, &mut masks, &mut shares)
        .unwrap();
    kernels.fetch(&mut masks).unwrap();
    let given = kernels.read(&mut shares).unwrap();
    for (Case(name, _, _, wanted), share) in cases.iter().zip(given) {
        match wanted {
            Some(wanted) => assert!((share - wanted).abs() < 0.02, "{name}: {share}"),
            None => assert!(share.is_nan(), "{name}: {share}"),
        }
    }
    let given = kernels.read(&mut masks).unwrap();
    for (i, (after, before)) in given.iter().zip(mask.iter().cycle()).enumerate() {
        let is_raised = is_inside(i % (SIDE * SIDE)) && i / (SIDE * SIDE) != 1;
        let wanted = if is_raised { before.max(0.6) } else { *before };
        assert_eq!(*after, wanted, "pixel {i}");
    }
    // A mask without numbers keeps them where they are, for `blend` to make them grey.
    let mut odd = mask.clone();
    odd[SIDE * SIDE / 2 + SIDE / 2] = f32::NAN;
    kernels.write(&mut masks, 0, &odd).unwrap();
    kernels
        .judge(&placements, 0.6, &faces, &mut masks, &mut shares)
        .unwrap();
    assert!(kernels.read(&mut shares).unwrap()[0].is_nan());
    assert!(kernels.read(&mut masks).unwrap()[SIDE * SIDE / 2 + SIDE / 2].is_nan());
}

/// Luma that rises linearly must give crops that rise linearly, by the transform.
pub fn ramps_stay_ramps<P: Place>() {
    struct Case(f32, f32, usize);
    for Case(pixels, angle, side) in [
        Case(64.0, 0.0, 64),
        Case(64.0, 0.4, 48),
        Case(90.0, -1.1, 112),
        Case(100.0, 2.9, 16),
    ] {
        for format in FORMATS {
            // An even slope in whole bytes: rounding to bytes leaves no error at the samples.
            let luma = |x: f32, y: f32| 20.0 + (x - 0.5) + 0.5 * (y - 0.5);
            let mut picture = Picture::new((130, 140), SD, format, 3, |x, y| [luma(x, y), 128.0, 128.0]);
            let align = about(Point::new(65.0, 70.0), pixels, angle);
            let crop = warp::<P>(&mut picture, align, Values::Byte, side);
            let back = align.inverse();
            for j in 0..side {
                for i in 0..side {
                    let at = Point::new((i as f32 + 0.5) / side as f32, (j as f32 + 0.5) / side as f32);
                    let at = back.apply(at);
                    if at.x < 1.0 || at.y < 1.0 || at.x > 129.0 || at.y > 139.0 {
                        continue;
                    }
                    // Half steps of the slope were rounded: at most half a code value, times 255 / 219.
                    let (got, wanted) = (crop[j * side + i], grey(luma(at.x, at.y)));
                    assert!(
                        (got - wanted).abs() < 0.65,
                        "{pixels} {angle} {side} {format:?} {i} {j}: {got} {wanted}"
                    );
                }
            }
        }
    }
}

/// Chroma must land where luma does: a ramp in U turns with the transform too.
pub fn warp_follows_rotation_and_scale<P: Place>() {
    for format in FORMATS {
        let blue = |x: f32| 100.0 + 0.5 * (x - 0.5);
        let mut picture = Picture::new((120, 120), HD, format, 0, |x, _| [128.0, blue(x), 128.0]);
        let align = about(Point::new(60.0, 60.0), 80.0, 0.7);
        let crop = warp::<P>(&mut picture, align, Values::Signed, 64);
        for (i, j) in [(5, 7), (32, 32), (60, 3), (17, 50)] {
            let at = align
                .inverse()
                .apply(Point::new((i as f32 + 0.5) / 64.0, (j as f32 + 0.5) / 64.0));
            let wanted = grey(128.0) + (blue(at.x) - 128.0) * 1.8556 * 255.0 / 224.0;
            let got = (crop[2 * 64 * 64 + j * 64 + i] + 1.0) * 127.5;
            assert!((got - wanted).abs() < 0.02, "{format:?} {i} {j}: {got} {wanted}");
        }
    }
}

pub fn warp_repeats_the_edge<P: Place>() {
    for format in FORMATS {
        let mut picture = Picture::new((16, 16), SD, format, 0, |x, _| {
            [if x < 8.0 { 50.0 } else { 200.0 }, 128.0, 128.0]
        });
        let crop = warp::<P>(
            &mut picture,
            about(Point::new(8.0, 8.0), 160.0, 0.0),
            Values::Byte,
            20,
        );
        for row in crop.chunks_exact(20) {
            assert!(row[..9].iter().all(|v| (v - grey(50.0)).abs() < 1e-3), "{row:?}");
            assert!(
                row[11..].iter().all(|v| (v - grey(200.0)).abs() < 1e-3),
                "{row:?}"
            );
        }
    }
}

/// Stripes of two pixels are grey from afar, not stripes of another width.
pub fn warp_averages_what_it_shrinks<P: Place>() {
    for format in FORMATS {
        let mut picture = Picture::new((512, 512), SD, format, 0, |x, _| {
            [if x % 4.0 < 2.0 { 60.0 } else { 180.0 }, 128.0, 128.0]
        });
        for pixels in [300.0, 410.0, 500.0] {
            let crop = warp::<P>(
                &mut picture,
                about(Point::new(256.0, 256.0), pixels, 0.0),
                Values::Byte,
                32,
            );
            let far = crop.iter().map(|v| (v - grey(120.0)).abs()).fold(0.0, f32::max);
            assert!(far < 24.0, "{format:?} {pixels}: {far} from the mean");
        }
    }
}

pub fn resize_averages_exactly<P: Place>() {
    for format in FORMATS {
        // Each result is the mean of 4 x 3 pixels.
        let luma = |x: f32, y: f32| 30.0 + 3.0 * ((x as usize * 7 + y as usize * 11) % 60) as f32;
        let mut picture = Picture::new((32, 24), SD, format, 5, |x, y| [luma(x, y), 128.0, 128.0]);
        let got = resize::<P>(&mut picture, Rect::new(0.0, 0.0, 32.0, 24.0), [8, 8]);
        for (i, value) in got[..64].iter().enumerate() {
            let (x, y) = (i % 8 * 4, i / 8 * 3);
            let sum: f32 = (0..12)
                .map(|k| luma((x + k % 4) as f32, (y + k / 4) as f32))
                .sum();
            assert!((value - grey(sum / 12.0)).abs() < 1e-3, "{format:?} {i}: {value}");
        }
        // A region that begins and ends inside of pixels: 2.5 pixels for each result.
        let got = resize::<P>(&mut picture, Rect::new(3.25, 2.0, 5.0, 2.0), [2, 1]);
        let row = |y: f32| 0.75 * luma(3.0, y) + luma(4.0, y) + 0.75 * luma(5.0, y);
        let wanted = grey((row(2.0) + row(3.0)) / 5.0);
        assert!((got[0] - wanted).abs() < 1e-3, "{format:?}: {} {wanted}", got[0]);
    }
}

/// A flat colour stays that colour to the border, whatever the scale.
pub fn resize_keeps_a_flat_frame<P: Place>() {
    let sizes = (
        (1_usize..70, 1_usize..70),
        (1_usize..50, 1_usize..50),
        any::<bool>(),
    );
    check(64, sizes, |(size, (width, height), nv12)| {
        let format = FORMATS[usize::from(nv12)];
        let mut picture = Picture::new(size, HD, format, 2, |_, _| [120.0, 110.0, 140.0]);
        let whole = Rect::new(0.0, 0.0, size.0 as f32, size.1 as f32);
        let got = resize::<P>(&mut picture, whole, [width, height]);
        let luma = grey(120.0);
        let wanted = [
            luma + 12.0 * 1.5748 * 255.0 / 224.0,
            luma + (18.0 * 0.187_324 - 12.0 * 0.468_124) * 255.0 / 224.0,
            luma - 18.0 * 1.8556 * 255.0 / 224.0,
        ];
        for (channel, wanted) in got.chunks_exact(width * height).zip(wanted) {
            for value in channel {
                assert!(
                    (value - wanted).abs() < 2e-3,
                    "{size:?} to {width}x{height}: {value} {wanted}"
                );
            }
        }
    });
}

pub fn resize_is_black_outside<P: Place>() {
    for format in FORMATS {
        let mut picture = Picture::new((40, 40), HD, format, 0, |_, _| [200.0, 90.0, 170.0]);
        // The left half and the lower half of the region lie outside; once shrinking, once growing.
        for (region, side) in [(40.0, 10), (8.0, 16)] {
            let region = Rect::new(-0.5 * region, 40.0 - 0.5 * region, region, region);
            let got = resize::<P>(&mut picture, region, [side, side]);
            for (i, value) in got.iter().enumerate() {
                let (x, y) = (i % side, i / side % side);
                let inside = x >= side / 2 && y < side / 2;
                assert_eq!(*value > 1.0, inside, "{format:?} {side} {x} {y}: {value}");
            }
        }
        let got = resize::<P>(&mut picture, Rect::new(500.0, 500.0, 30.0, 30.0), [8, 8]);
        assert_eq!(got, [0.0; 3 * 64]);
    }
}

/// A crop that goes back where it came from, at its own resolution, changes next to nothing.
pub fn warp_and_blend_give_the_frame_back<P: Place>() {
    for format in FORMATS {
        let smooth = |x: f32, y: f32| {
            [
                120.0 + 40.0 * (0.11 * x).sin() + 30.0 * (0.07 * y).cos(),
                128.0 + 20.0 * (0.05 * x + 0.03 * y).sin(),
                128.0 - 15.0 * (0.04 * y).cos(),
            ]
        };
        for color in [SD, HD] {
            let before = Picture::new((160, 150), color, format, 7, smooth);
            let align = about(Point::new(80.0, 75.0), 100.0, 0.0);
            for (align, tolerance) in [(align, 1), (about(Point::new(80.3, 74.6), 97.0, 0.6), 2)] {
                let mut picture = before.clone();
                let side = 100;
                let face = warp::<P>(&mut picture, align, Values::Signed, side);
                let placement = Placement {
                    align,
                    hull: face_hull(&align),
                };
                blend::<P>(&mut picture, &placement, side, &face, &vec![1.0; side * side]).unwrap();
                for (was, is) in before.planes.iter().zip(&picture.planes) {
                    let most = was.data.iter().zip(&is.data).map(|(a, b)| a.abs_diff(*b)).max();
                    assert!(most <= Some(tolerance), "{format:?} {color:?}: {most:?}");
                }
            }
        }
    }
}

/// In the middle of the hull the result is `frame + m * (face - frame)`; at its edge it is the frame.
pub fn blend_mixes_by_the_mask<P: Place>() {
    for format in FORMATS {
        for mask in [0.0, 0.25, 1.0, 3.0, -2.0] {
            let before = Picture::new((100, 100), SD, format, 0, |_, _| [60.0, 100.0, 150.0]);
            let align = about(Point::new(50.0, 50.0), 80.0, 0.2);
            let placement = Placement {
                align,
                hull: face_hull(&align),
            };
            let mut after = before.clone();
            // White: Y 235, U and V 128. Values above 1 count as 1.
            blend::<P>(&mut after, &placement, 16, &[5.0; 3 * 256], &[mask; 256]).unwrap();
            let mask = mask.clamp(0.0, 1.0);
            let middle = after.planes[0].data[50 * 100 + 50];
            assert_eq!(
                middle,
                (60.0 + mask * 175.0_f32).round_ties_even() as u8,
                "{format:?} {mask}"
            );
            let (u, v) = match format {
                Format::I420 => (
                    after.planes[1].data[25 * 50 + 25],
                    after.planes[2].data[25 * 50 + 25],
                ),
                Format::Nv12 => (
                    after.planes[1].data[25 * 100 + 50],
                    after.planes[1].data[25 * 100 + 51],
                ),
            };
            assert_eq!(
                (u, v),
                (
                    (100.0 + mask * 28.0).round() as u8,
                    (150.0 - mask * 22.0_f32).round_ties_even() as u8
                )
            );
            for x in 0..100 {
                for y in 0..100 {
                    let point = Point::new(x as f32 + 0.5, y as f32 + 0.5);
                    let value = after.planes[0].data[y * 100 + x];
                    assert!((60..=middle).contains(&value), "{x} {y} {value}");
                    if !placement.hull.contains(point) {
                        assert_eq!(value, 60);
                    }
                }
            }
        }
    }
}

pub fn blend_changes_nothing_outside_of_the_hull<P: Place>() {
    check(
        192,
        (noise(), hull(), align(), 1_usize..40),
        |(before, hull, align, side)| {
            let mut after = before.clone();
            let placement = Placement { align, hull };
            let face: Vec<f32> = (0..3 * side * side)
                .map(|i| ((i * 37) % 200) as f32 / 100.0 - 1.0)
                .collect();
            match blend::<P>(&mut after, &placement, side, &face, &vec![1.0; side * side]) {
                Ok(()) => assert_only(&before, &after, |point| outside(&placement.hull, point) < 1e-3),
                Err(_) => assert_eq!((placement.hull.is_empty(), &before), (true, &after)),
            }
        },
    );
}

/// Faces that overlap, blended at once, give what they give one after another: the last one lies on top.
pub fn blend_of_many_is_one_after_another<P: Place>() {
    let faces = prop::collection::vec((align(), hull()), 2..7);
    check(48, (noise(), faces, 1_usize..24), |(before, faces, side)| {
        let placements: Vec<_> = faces
            .into_iter()
            .map(|(align, hull)| Placement { align, hull })
            .filter(|placement| !placement.hull.is_empty())
            .collect();
        let kernels = &mut P::kernels();
        let count = placements.len().max(1);
        let mut colors = kernels.tensor([count, 3, side, side]).unwrap();
        let mut masks = kernels.tensor([count, 1, side, side]).unwrap();
        let mut one_by_one = before.clone();
        for (entry, placement) in placements.iter().enumerate() {
            let level = entry as f32 / 4.0 - 0.8;
            let color: Vec<f32> = (0..3 * side * side)
                .map(|i| level + (i % 3) as f32 / 5.0)
                .collect();
            let mask: Vec<f32> = (0..side * side).map(|i| 0.4 + (i % 4) as f32 / 5.0).collect();
            kernels.write(&mut colors, entry, &color).unwrap();
            kernels.write(&mut masks, entry, &mask).unwrap();
            blend::<P>(&mut one_by_one, placement, side, &color, &mask).unwrap();
        }
        let mut at_once = before;
        P::lend(kernels, &mut at_once, |kernels, frame| {
            kernels.blend(frame, &placements, &colors, &masks)
        })
        .unwrap();
        assert_eq!(at_once, one_by_one);
    });
}

/// What is not a number must neither panic nor leave the face.
pub fn blend_makes_what_is_not_finite_grey<P: Place>() {
    let side = 32;
    let align = about(Point::new(50.0, 50.0), 80.0, 0.0);
    let placement = Placement {
        align,
        hull: face_hull(&align),
    };
    for format in FORMATS {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let sound = [vec![0.3; 3 * side * side], vec![0.0; side * side]];
            for part in 0..2 {
                let mut inputs = sound.clone();
                let middle = inputs[part].len() - side * side / 2;
                inputs[part][middle - side..middle + side].fill(wrong);
                let before = Picture::new((100, 100), SD, format, 0, |_, _| [60.0, 100.0, 150.0]);
                let mut after = before.clone();
                blend::<P>(&mut after, &placement, side, &inputs[0], &inputs[1]).unwrap();
                // 16 + 219 / 2, or beside it: the mask is 0 where everything is finite.
                let luma = &after.planes[0].data;
                assert!(
                    [125, 126].contains(&luma[50 * 100 + 50]),
                    "{}",
                    luma[50 * 100 + 50]
                );
                assert_eq!(luma[65 * 100 + 50], 60);
            }
            let all = vec![wrong; 3 * side * side];
            let mut picture = Picture::noise((100, 100), HD, format, 0, 5);
            blend::<P>(&mut picture, &placement, side, &all, &all[..side * side]).unwrap();
            let row = &picture.planes[0].data[50 * 100..][35..65];
            assert!(row.iter().all(|value| [125, 126].contains(value)), "{row:?}");
        }
    }
}

/// Without a place for a face nothing changes, and the caller hears it.
pub fn blend_refuses_what_it_cannot_place<P: Place>() {
    let sound = about(Point::new(20.0, 20.0), 30.0, 0.0);
    let hull = face_hull(&sound);
    let with = |a: f32, tx: f32| Similarity { a, tx, ..sound };
    let cases = [
        (sound, Hull::of(&[])),
        (
            sound,
            Hull::of(&[Point::new(1.0, 1.0), Point::new(9.0, 9.0), Point::new(5.0, 5.0)]),
        ),
        (with(f32::NAN, 0.0), hull.clone()),
        (with(0.0, 0.0), hull.clone()),
        (with(f32::INFINITY, 0.0), hull.clone()),
        (with(0.03, f32::NAN), hull.clone()),
    ];
    for (align, hull) in cases {
        let before = Picture::noise((40, 40), HD, Format::Nv12, 0, 3);
        let mut after = before.clone();
        let placement = Placement { align, hull };
        let outcome = blend::<P>(&mut after, &placement, 4, &[0.0; 48], &[1.0; 16]);
        assert!(
            matches!(outcome, Err(Error::Placement { entry: 0, .. })),
            "{placement:?}: {outcome:?}"
        );
        assert_eq!(before, after);
    }
}

pub fn cover_depends_on_nothing_inside<P: Place>() {
    let regions = prop::collection::vec(
        prop_oneof![
            3 => hull().prop_map(Region::Hull),
            3 => (-20.0_f32..100.0, -20.0_f32..80.0, 0.5_f32..70.0, 0.5_f32..70.0)
                .prop_map(|(x, y, width, height)| Region::Box(Rect::new(x, y, width, height))),
            1 => Just(Region::Frame),
        ],
        1..4,
    );
    check(
        192,
        (noise(), regions, any::<u32>()),
        |(before, regions, seed)| {
            let covered = |point: Point| {
                regions.iter().any(|region| match region {
                    Region::Hull(hull) => hull.is_empty() || hull.contains(point),
                    Region::Box(rect) => rect.contains(point),
                    Region::Frame => true,
                })
            };
            // The same picture with other bytes at everything that is to be covered.
            let mut other = before.clone();
            let noise = Picture::noise(
                (before.width, before.height),
                before.color,
                before.format,
                0,
                seed,
            );
            for (plane, (bytes, noise)) in other.planes.iter_mut().zip(&noise.planes).enumerate() {
                for (index, byte) in bytes.data.iter_mut().enumerate() {
                    if before.position(plane, index).is_some_and(covered) {
                        *byte = noise.data[index % noise.data.len()];
                    }
                }
            }
            let mut after = before.clone();
            cover::<P>(&mut after, &regions);
            cover::<P>(&mut other, &regions);
            assert_eq!(after, other, "what was inside shows");
            let near = |point: Point| {
                covered(point)
                    || regions.iter().any(|region| match region {
                        Region::Hull(hull) => outside(hull, point) < 1e-3,
                        Region::Box(rect) => rect.scaled(1.0 + 1e-3).contains(point),
                        Region::Frame => true,
                    })
            };
            assert_only(&before, &after, near);
        },
    );
}

/// Neighbouring bytes of a covered region differ by 2 at most.
pub fn cover_has_no_detail<P: Place>() {
    for format in FORMATS {
        let mut picture = Picture::noise((200, 160), HD, format, 0, 9);
        let hull = face_hull(&about(Point::new(90.0, 80.0), 120.0, 0.3));
        cover::<P>(&mut picture, &[Region::Hull(hull.clone())]);
        let luma = &picture.planes[0].data;
        let mut seen = 0;
        for y in 0..160 {
            for x in 0..199 {
                let inside = |x: usize| hull.contains(Point::new(x as f32 + 0.5, y as f32 + 0.5));
                if inside(x) && inside(x + 1) {
                    seen += 1;
                    assert!(luma[y * 200 + x].abs_diff(luma[y * 200 + x + 1]) <= 2);
                }
            }
        }
        assert!(seen > 4000);
    }
}

/// Over a dozen pixels the light of a wall behind, carried on through the fill, would look like a face's own shading.
pub fn cover_of_a_small_face_has_one_color<P: Place>() {
    for format in FORMATS {
        let mut picture = Picture::noise((96, 80), HD, format, 0, 9);
        // Dark on the left, bright on the right.
        for (index, byte) in picture.planes[0].data.iter_mut().enumerate() {
            *byte = (index % 96 * 2) as u8;
        }
        cover::<P>(&mut picture, &[Region::Box(Rect::new(40.0, 30.0, 14.0, 18.0))]);
        let luma = &picture.planes[0].data;
        let color = luma[30 * 96 + 40];
        for y in 30..48 {
            let row = &luma[y * 96 + 40..y * 96 + 54];
            assert!(
                row.iter().all(|byte| *byte == color),
                "{format:?} row {y}: {row:?}"
            );
        }
        assert!(
            color.abs_diff(94) <= 4,
            "{format:?}: {color} is not what lies around it"
        );
    }
}

pub fn cover_without_surroundings_is_grey<P: Place>() {
    for format in FORMATS {
        for rect in [Rect::new(0.0, 0.0, 50.0, 30.0), Rect::new(-1e6, -1e6, 3e6, 3e6)] {
            let mut picture = Picture::noise((50, 30), HD, format, 4, 2);
            cover::<P>(&mut picture, &[Region::Box(rect)]);
            let first = picture.planes[0].data[0];
            for (plane, bytes) in picture.planes.iter().enumerate() {
                for (index, byte) in bytes.data.iter().enumerate() {
                    let wanted = match (picture.position(plane, index), plane) {
                        (None, _) => 0xA5,
                        (Some(_), 0) => first,
                        (Some(_), _) => 128,
                    };
                    assert_eq!(*byte, wanted, "{format:?} {rect:?} plane {plane} byte {index}");
                }
            }
        }
    }
}

/// A face without a place may be anywhere.
pub fn cover_of_what_has_no_place_covers_the_frame<P: Place>() {
    let whole = |region: Region| {
        let mut picture = Picture::noise((48, 32), SD, Format::I420, 1, 4);
        cover::<P>(
            &mut picture,
            &[Region::Box(Rect::new(2.0, 2.0, 9.0, 9.0)), region],
        );
        picture
    };
    let covered = whole(Region::Frame);
    for region in [
        Region::Hull(Hull::of(&[])),
        Region::Hull(Hull::of(&[Point::new(f32::NAN, 1.0); 5])),
        Region::Box(Rect::new(f32::NAN, 0.0, 5.0, 5.0)),
        Region::Box(Rect::new(3.0, 3.0, f32::NAN, 5.0)),
        Region::Box(Rect::new(3.0, 3.0, 0.0, 5.0)),
        Region::Box(Rect::new(-1e30, -1e30, 2e30, 2e30)),
    ] {
        assert_eq!(whole(region.clone()), covered, "{region:?}");
    }
    // A box that lies elsewhere is no reason to.
    assert_ne!(whole(Region::Box(Rect::new(-90.0, 0.0, 5.0, 5.0))), covered);
}

/// Every kernel on every size from 1 x 1 to 17 x 17.
pub fn tiny_frames_work<P: Place>() {
    for (width, height) in (1..=17).flat_map(|width| (1..=17).map(move |height| (width, height))) {
        for format in FORMATS {
            let mut picture = Picture::new((width, height), HD, format, 1, |_, _| [120.0, 128.0, 128.0]);
            let center = Point::new(0.5 * width as f32, 0.5 * height as f32);
            let align = about(center, width.max(height) as f32, 0.3);
            let crop = warp::<P>(&mut picture, align, Values::Byte, 5);
            assert!(
                crop.iter().all(|value| (value - grey(120.0)).abs() < 1e-3),
                "{width}x{height}: {crop:?}"
            );
            let before = picture.clone();
            let placement = Placement {
                align,
                hull: face_hull(&align),
            };
            blend::<P>(&mut picture, &placement, 5, &[-0.5; 75], &[1.0; 25]).unwrap();
            assert_only(&before, &picture, |point| outside(&placement.hull, point) < 1e-3);
            cover::<P>(&mut picture, &[Region::Hull(placement.hull)]);
            cover::<P>(&mut picture, &[Region::Frame]);
        }
    }
}

pub fn transforms_far_away_work<P: Place>() {
    for (x, y) in [(1e6, 0.0), (-1e6, 1e6), (0.0, -5e6)] {
        for format in FORMATS {
            let before = Picture::new((64, 48), HD, format, 0, |_, _| [120.0, 128.0, 128.0]);
            let mut picture = before.clone();
            let align = about(Point::new(x, y), 100.0, 0.4);
            let crop = warp::<P>(&mut picture, align, Values::Byte, 16);
            assert!(
                crop.iter().all(|value| (value - grey(120.0)).abs() < 1e-3),
                "{crop:?}"
            );
            let placement = Placement {
                align,
                hull: face_hull(&align),
            };
            if !placement.hull.is_empty() {
                blend::<P>(&mut picture, &placement, 4, &[1.0; 48], &[1.0; 16]).unwrap();
                cover::<P>(&mut picture, &[Region::Hull(placement.hull)]);
            }
            assert_eq!(before, picture);
        }
    }
}

fn checksum<P: Place>(picture: &mut Picture) -> u64 {
    P::lend(&mut P::kernels(), picture, |kernels, frame| {
        kernels.checksum(frame)
    })
    .unwrap()
}

/// The same for the same picture in any format and stride; another one once a sample has changed.
pub fn checksum_tells_pictures_apart<P: Place>() {
    for size in [(1, 1), (37, 22), (130, 70)] {
        let mut pictures = [(Format::I420, 0), (Format::Nv12, 0), (Format::Nv12, 7)]
            .map(|(format, padding)| Picture::noise(size, HD, format, padding, 3));
        let sums = pictures.each_mut().map(checksum::<P>);
        assert_eq!([sums[0]; 3], sums, "{size:?}");
        for picture in &mut pictures {
            for (plane, part) in [(0, 0), (0, 3), (1, 0), (1, 2), (1, 5)] {
                let Bytes { row, stride, .. } = picture.planes[plane];
                let rows = picture.planes[plane].data.len().div_ceil(stride);
                let index = part * (rows - 1) / 5 * stride + part * (row - 1) / 5;
                picture.planes[plane].data[index] ^= 1;
                assert_ne!(
                    checksum::<P>(picture),
                    sums[0],
                    "{size:?} plane {plane} byte {index}"
                );
                picture.planes[plane].data[index] ^= 1;
            }
        }
        assert_eq!(pictures.each_mut().map(checksum::<P>), sums);
    }
}

pub fn shapes_are_checked<P: Place>() {
    let kernels = &mut P::kernels();
    let mut picture = Picture::noise((32, 32), HD, Format::Nv12, 0, 1);
    let before = picture.clone();
    let align = about(Point::new(16.0, 16.0), 20.0, 0.0);
    let placements = [(); 2].map(|()| Placement {
        align,
        hull: face_hull(&align),
    });
    let mut make = |shape: [usize; 4]| kernels.tensor(shape).unwrap();
    let (mut grey, mut oblong, mut one) = (make([2, 1, 8, 8]), make([2, 3, 8, 9]), make([1, 3, 8, 8]));
    let (faces, masks, small) = (make([2, 3, 8, 8]), make([2, 1, 8, 8]), make([2, 1, 4, 4]));
    let region = Rect::new(0.0, 0.0, 32.0, 32.0);
    P::lend(kernels, &mut picture, |kernels, frame| {
        let aligns = [align; 2];
        for crops in [&mut grey, &mut oblong, &mut one] {
            assert!(matches!(
                kernels.warp(frame, &aligns, Values::Byte, crops),
                Err(Error::Shape { .. })
            ));
        }
        assert!(kernels.resize(frame, region, Values::Byte, &mut grey, 0).is_err());
        assert!(kernels.resize(frame, region, Values::Byte, &mut one, 1).is_err());
        for region in [
            Rect::new(0.0, 0.0, 0.0, 5.0),
            Rect::new(f32::NAN, 0.0, 5.0, 5.0),
            Rect::new(0.0, 0.0, 5.0, -1.0),
        ] {
            let outcome = kernels.resize(frame, region, Values::Byte, &mut one, 0);
            assert!(
                matches!(outcome, Err(Error::Region { .. })),
                "{region:?}: {outcome:?}"
            );
        }
        for (faces, masks) in [
            (&one, &masks),
            (&faces, &small),
            (&oblong, &masks),
            (&masks, &masks),
            (&faces, &faces),
        ] {
            let outcome = kernels.blend(frame, &placements, faces, masks);
            assert!(matches!(outcome, Err(Error::Shape { .. })), "{outcome:?}");
        }
        kernels.blend(frame, &[], &faces, &masks).unwrap();
        kernels.warp(frame, &[], Values::Byte, &mut one).unwrap();
        kernels.cover(frame, &[]).unwrap();
    });
    assert_eq!(before, picture);
    for (faces, masks, shares, is_sound) in [
        ([1, 3, 8, 8], [2, 1, 8, 8], [2, 1, 1, 1], false),
        ([2, 3, 8, 8], [2, 1, 4, 4], [2, 1, 1, 1], false),
        ([2, 3, 8, 8], [2, 1, 8, 8], [1, 1, 1, 1], false),
        ([2, 3, 8, 8], [2, 1, 8, 8], [2, 1, 1, 2], false),
        ([2, 3, 8, 8], [2, 1, 8, 8], [2, 1, 1, 1], true),
    ] {
        let [faces, mut masks, mut shares] =
            [faces, masks, shares].map(|shape| kernels.tensor(shape).unwrap());
        let outcome = kernels.judge(&placements, 0.5, &faces, &mut masks, &mut shares);
        assert_eq!(outcome.is_ok(), is_sound, "{outcome:?}");
    }
}

/// Every kernel gives what [`Cpu`] gives: crops within 1 of 255, frames within 1 code value.
pub fn agrees_with_the_cpu<P: Place>() {
    let near = |got: &[f32], wanted: &[f32]| got.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= 1.0);
    check(
        64,
        (noise(), hull(), align(), 1_usize..40),
        |(before, hull, align, side)| {
            let mut picture = before.clone();
            let crop = warp::<P>(&mut picture, align, Values::Byte, side);
            assert!(near(&crop, &warp::<Cpu>(&mut picture, align, Values::Byte, side)));
            let region = hull.bounds();
            if region.area() > 0.0 {
                let scaled = resize::<P>(&mut picture, region, [side, 7]);
                assert!(near(&scaled, &resize::<Cpu>(&mut picture, region, [side, 7])));
            }
            let face: Vec<f32> = crop.iter().map(|value| 1.0 - value / 127.5).collect();
            let mask: Vec<f32> = (0..side * side).map(|i| (i % 5) as f32 / 4.0).collect();
            let regions = [
                Region::Hull(hull.clone()),
                Region::Box(Rect::new(5.0, 5.0, 20.0, 10.0)),
            ];
            let placement = Placement { align, hull };
            if !placement.hull.is_empty() {
                let [(share, raised), (wanted, wanted_mask)] = [
                    judge::<P>(&placement, side, &face, &mask),
                    judge::<Cpu>(&placement, side, &face, &mask),
                ];
                assert_eq!((share, raised), (wanted, wanted_mask));
            }
            let [mut here, mut there] = [before.clone(), before];
            let outcomes = [
                blend::<P>(&mut here, &placement, side, &face, &mask).is_ok(),
                blend::<Cpu>(&mut there, &placement, side, &face, &mask).is_ok(),
            ];
            assert_eq!(outcomes[0], outcomes[1]);
            assert_near(&here, &there);
            cover::<P>(&mut here, &regions);
            cover::<Cpu>(&mut there, &regions);
            assert_near(&here, &there);
        },
    );
}

fn assert_near(here: &Picture, there: &Picture) {
    for (here, there) in here.planes.iter().zip(&there.planes) {
        let most = here
            .data
            .iter()
            .zip(&there.data)
            .map(|(a, b)| a.abs_diff(*b))
            .max();
        assert!(most <= Some(1), "{most:?} code values apart");
    }
}
