//! The losses of paper section 3.2, each a pure function over tensors, and our own.
//!
//! Images are `[n, 3, s, s]` in -1 to 1, masks and weights `[n, 1, s, s]` in 0 to 1. Every loss is a mean, so
//! that its weight does not depend on batch or crop size.

use tch::{Kind, Tensor};

use crate::recognizer::unit;

fn l1(a: &Tensor, b: &Tensor) -> Tensor {
    (a - b).abs().mean(Kind::Float)
}

fn dx(x: &Tensor) -> Tensor {
    let width = x.size()[3];
    x.narrow(3, 1, width - 1) - x.narrow(3, 0, width - 1)
}

fn dy(x: &Tensor) -> Tensor {
    let height = x.size()[2];
    x.narrow(2, 1, height - 1) - x.narrow(2, 0, height - 1)
}

/// The mean of `values` where every pixel counts by `weight`, per channel.
fn weighted_mean(values: &Tensor, weight: &Tensor) -> Tensor {
    let channels = values.size()[1] as f64;
    (values * weight).sum(Kind::Float) / (weight.sum(Kind::Float) * channels + 1e-6)
}

/// What the product shows: the generated image where `cover` is 1, the source where it is 0 (section 3, step g).
pub fn composite(source: &Tensor, image: &Tensor, cover: &Tensor) -> Tensor {
    source + cover * (image - source)
}

/// Reconstruction, equation 3: mean absolute difference, pixels counted by `weight`.
pub fn reconstruction(output: &Tensor, source: &Tensor, weight: &Tensor) -> Tensor {
    weighted_mean(&(output - source).abs(), weight)
}

/// Edge preservation, equation 4: both axes' derivatives of output and source, pixels counted by `weight`.
pub fn edges(output: &Tensor, source: &Tensor, weight: &Tensor) -> Tensor {
    let (height, width) = (weight.size()[2], weight.size()[3]);
    weighted_mean(&(dx(output) - dx(source)).abs(), &weight.narrow(3, 0, width - 1))
        + weighted_mean(&(dy(output) - dy(source)).abs(), &weight.narrow(2, 0, height - 1))
}

/// Size of the mask, first of equation 5.
pub fn mask_size(mask: &Tensor) -> Tensor {
    mask.mean(Kind::Float)
}

/// Roughness of the mask, second and third of equation 5.
pub fn mask_roughness(mask: &Tensor) -> Tensor {
    dx(mask).abs().mean(Kind::Float) + dy(mask).abs().mean(Kind::Float)
}

/// Mixup of real and generated images, equation 2: `beta` `[n, 1, 1, 1]` parts real.
pub fn mixup(real: &Tensor, generated: &Tensor, beta: &Tensor) -> Tensor {
    generated + beta * (real - generated)
}

/// Least-squares adversarial loss, equation 2: the discriminator's target is `beta`, the generator's is
/// `1 - beta`. `judged` is the discriminator's map over the mixed image.
pub fn least_squares(judged: &Tensor, target: &Tensor) -> Tensor {
    (judged - target).square().mean(Kind::Float) * 0.5
}

/// One summand of equation 6: the difference of two activation maps in units of the reference's mean activation
/// (the paper's `c_n`).
pub fn tie(reference: &Tensor, activation: &Tensor) -> Tensor {
    l1(reference, activation) / (reference.abs().mean(Kind::Float) + 1e-3)
}

/// Last summand of equation 6, as a hinge: how far the descriptors `[n, d]` of output and target fall short of
/// `distance`. Unbounded pushing makes one anti-face of everybody; strangers' typical distance is enough.
pub fn closeness(target: &Tensor, output: &Tensor, distance: f64) -> Tensor {
    (distance - descriptor_distance(target, output))
        .relu()
        .mean(Kind::Float)
}

/// Euclidean distance per row of two `[n, d]` tensors: `[n]`.
pub fn descriptor_distance(a: &Tensor, b: &Tensor) -> Tensor {
    // The small constant keeps the gradient finite where both agree.
    ((a - b).square().sum_dim_intlist(1, false, Kind::Float) + 1e-8).sqrt()
}

/// Ours: colour and light of 8x8 blocks, so that skin tone does not drift at the hull's edge.
pub fn tone(output: &Tensor, source: &Tensor, weight: &Tensor) -> Tensor {
    let blocks = |x: &Tensor| x.avg_pool2d([8, 8], [8, 8], [0, 0], false, true, None);
    weighted_mean(&(blocks(output) - blocks(source)).abs(), &blocks(weight))
}

/// Ours: how much local detail the output lacks of `gain` times the source's, relative to that. Detail is the mean
/// absolute Laplacian of luma around a pixel; where it comes from is free, so sharpness costs no likeness. Luma is
/// smoothed first: otherwise a checkerboard is the cheapest detail.
pub fn missing_detail(output: &Tensor, source: &Tensor, weight: &Tensor, gain: f64) -> Tensor {
    let wanted = detail(&smooth(&luma(source))) * gain;
    let weight = around(&inner(&inner(weight)));
    let missing = (&wanted - detail(&smooth(&luma(output)))).relu();
    weighted_mean(&missing, &weight) / (weighted_mean(&wanted, &weight) + 1e-3)
}

/// Ours: how much more of the finest detail the output has than `gain` times the source's, relative to that: grain
/// and checkerboards.
pub fn grain(output: &Tensor, source: &Tensor, weight: &Tensor, gain: f64) -> Tensor {
    let allowed = detail(&luma(source)) * gain;
    let weight = around(&inner(weight));
    let excess = (detail(&luma(output)) - &allowed).relu();
    weighted_mean(&excess, &weight) / (weighted_mean(&allowed, &weight) + 1e-2)
}

fn around(x: &Tensor) -> Tensor {
    x.avg_pool2d([7, 7], [2, 2], [0, 0], false, true, None)
}

fn detail(luma: &Tensor) -> Tensor {
    around(&laplacian(luma).abs())
}

/// Binomial filter of 3x3, one pixel smaller on every side.
fn smooth(x: &Tensor) -> Tensor {
    let (height, width) = (x.size()[2], x.size()[3]);
    let rows = x.narrow(2, 0, height - 2) + x.narrow(2, 1, height - 2) * 2.0 + x.narrow(2, 2, height - 2);
    (rows.narrow(3, 0, width - 2) + rows.narrow(3, 1, width - 2) * 2.0 + rows.narrow(3, 2, width - 2)) / 16.0
}

/// Ours: how far the mask falls short of 1 inside the hull. A hole over an eye shows the person's own.
pub fn exposure(mask: &Tensor, hull: &Tensor) -> Tensor {
    weighted_mean(&(1.0 - mask), hull)
}

/// Ours: how far the descriptors `[n, d]` of a batch's outputs fall short of `distance` from one another. Without
/// it everybody is pushed in the same direction and gets the same face.
pub fn sameness(output: &Tensor, distance: f64) -> Tensor {
    let samples = output.size()[0];
    let squares = (output.unsqueeze(0) - output.unsqueeze(1))
        .square()
        .sum_dim_intlist(2, false, Kind::Float);
    let apart = (squares + 1e-8).sqrt();
    // A sample is no distance from itself; that is taken off again.
    let short: Tensor = (distance - apart).relu();
    (short.sum(Kind::Float) - short.diag(0).sum(Kind::Float)) / (samples * (samples - 1)).max(1) as f64
}

/// An opening of the face by its landmarks: upper and lower points, and the corners.
#[derive(Debug)]
pub struct Opening<'a> {
    upper: &'a [i64],
    lower: &'a [i64],
    corners: [i64; 2],
}

/// The inner lips.
pub const MOUTH: [Opening<'_>; 1] = [Opening {
    upper: &[61, 62, 63],
    lower: &[67, 66, 65],
    corners: [60, 64],
}];
/// Both eyes.
pub const EYES: [Opening<'_>; 2] = [
    Opening {
        upper: &[37, 38],
        lower: &[41, 40],
        corners: [36, 39],
    },
    Opening {
        upper: &[43, 44],
        lower: &[47, 46],
        corners: [42, 45],
    },
];

/// Ours: difference of height over width of the openings of two sets of landmarks `[n, 68, 2]`. Where the features
/// lie may change, and with them the identity; expression may not.
pub fn expression(source: &Tensor, output: &Tensor, openings: &[Opening<'_>]) -> Tensor {
    let points = |of: &Tensor, indices: &[i64]| {
        of.index_select(1, &Tensor::from_slice(indices).to_device(of.device()))
    };
    let ratios = |of: &Tensor| {
        let ratio = |opening: &Opening<'_>| {
            let [left, right] = opening.corners;
            let heights = distance(&points(of, opening.upper), &points(of, opening.lower));
            // No face has corners nearer than this; a failing landmark network may say so.
            let width = distance(&points(of, &[left]), &points(of, &[right])).clamp_min(0.02);
            heights.mean_dim(1i64, true, Kind::Float) / width
        };
        Tensor::cat(&openings.iter().map(ratio).collect::<Vec<_>>(), 1)
    };
    l1(&ratios(source), &ratios(output))
}

/// Ours: cross-entropy of two log-odds `[n]` in nats, the source's being the truth.
pub fn cross_entropy(source: &Tensor, output: &Tensor) -> Tensor {
    let truth = source.sigmoid();
    (output.softplus() - truth * output).mean(Kind::Float)
}

/// Ours: what descriptors `[n, d]` led back by an inverter tell about their originals, in nats: how much better than by
/// chance they are matched within the batch (the contrastive bound of van den Oord et al. 2018, at most ln n).
pub fn matched(inverted: &Tensor, originals: &Tensor) -> Tensor {
    const TEMPERATURE: f64 = 0.07;
    let samples = originals.size()[0];
    let likeness = unit(inverted).matmul(&unit(originals).tr()) / TEMPERATURE;
    let truth = Tensor::arange(samples, (Kind::Int64, originals.device()));
    (samples as f64).ln() - likeness.cross_entropy_for_logits(&truth)
}

/// Mean distance of two sets of landmarks `[n, 68, 2]`, in inter-ocular distances (outer corners) of the first.
pub fn landmark_error(source: &Tensor, output: &Tensor) -> Tensor {
    let eyes = distance(&source.narrow(1, 36, 1), &source.narrow(1, 45, 1));
    (distance(source, output) / eyes).mean(Kind::Float)
}

/// Euclidean distance of points `[n, k, 2]`: `[n, k]`.
fn distance(a: &Tensor, b: &Tensor) -> Tensor {
    ((a - b).square().sum_dim_intlist(2, false, Kind::Float) + 1e-10).sqrt()
}

/// Luma (BT.601) of an image: `[n, 1, s, s]`.
pub fn luma(image: &Tensor) -> Tensor {
    let parts = image.split(1, 1);
    &parts[0] * 0.299 + &parts[1] * 0.587 + &parts[2] * 0.114
}

/// Four-neighbour Laplacian, one pixel smaller on every side.
pub fn laplacian(x: &Tensor) -> Tensor {
    let (height, width) = (x.size()[2], x.size()[3]);
    let shifted = |y: i64, x_offset: i64| x.narrow(2, y, height - 2).narrow(3, x_offset, width - 2);
    shifted(0, 1) + shifted(2, 1) + shifted(1, 0) + shifted(1, 2) - shifted(1, 1) * 4.0
}

fn inner(x: &Tensor) -> Tensor {
    x.narrow(2, 1, x.size()[2] - 2).narrow(3, 1, x.size()[3] - 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn tensor(shape: &[i64], values: &[f32]) -> Tensor {
        Tensor::from_slice(values).view(shape)
    }

    /// One channel repeated to three, so that per-channel means stay the channel's.
    fn picture(side: i64, values: &[f32]) -> Tensor {
        tensor(&[1, 1, side, side], values).repeat([1, 3, 1, 1])
    }

    fn close(name: &str, got: &Tensor, wanted: f64) {
        let got = got.double_value(&[]);
        assert!(
            (got - wanted).abs() < 3e-3 * wanted.abs().max(1.0),
            "{name}: {got}, wanted {wanted}"
        );
    }

    #[test]
    fn values_worked_out_by_hand() {
        let x = picture(2, &[0.0, 0.2, 0.4, 0.6]);
        let z = picture(2, &[0.1, 0.2, 0.0, 1.0]);
        let all = Tensor::ones([1, 1, 2, 2], (Kind::Float, Device::Cpu));
        let first = tensor(&[1, 1, 2, 2], &[1.0, 0.0, 0.0, 0.0]);
        // |z - x| is 0.1, 0, 0.4, 0.4.
        close("reconstruction", &reconstruction(&z, &x, &all), 0.225);
        close(
            "reconstruction of one pixel",
            &reconstruction(&z, &x, &first),
            0.1,
        );
        // Along x: 0.1 against 0.2, 1.0 against 0.2; along y: -0.1 against 0.4, 0.8 against 0.4.
        close(
            "edges",
            &edges(&z, &x, &all),
            (0.1 + 0.8) / 2.0 + (0.5 + 0.4) / 2.0,
        );

        let mask = tensor(&[1, 1, 2, 2], &[1.0, 0.5, 0.0, 0.5]);
        close("mask size", &mask_size(&mask), 0.5);
        close("mask roughness", &mask_roughness(&mask), 0.5 + 0.5);
        close("exposure", &exposure(&mask, &first), 0.0);
        close("exposure", &exposure(&mask, &all), 0.5);
        let shown = composite(&x, &z, &mask);
        let wanted = picture(2, &[0.1, 0.2, 0.4, 0.8]);
        close("composite", &(shown - wanted).abs().max(), 0.0);
    }

    #[test]
    fn mixup_and_its_targets() {
        let (real, generated) = (picture(1, &[1.0]), picture(1, &[0.0]));
        let beta = tensor(&[1, 1, 1, 1], &[0.3]);
        let mixed = mixup(&real, &generated, &beta);
        close("mixed", &mixed.mean(Kind::Float), 0.3);
        // A discriminator that tells the share exactly has no loss; the generator's is 0.5 (0.3 - 0.7)^2.
        close("discriminator", &least_squares(&beta, &beta), 0.0);
        close("generator", &least_squares(&beta, &(1.0 - &beta)), 0.08);
    }

    #[test]
    fn perceptual_terms() {
        let reference = tensor(&[1, 2], &[1.0, 3.0]);
        close(
            "tie",
            &tie(&reference, &tensor(&[1, 2], &[2.0, 3.0])),
            0.5 / 2.001,
        );
        let t = tensor(&[2, 2], &[0.0, 0.0, 0.0, 0.0]);
        let z = tensor(&[2, 2], &[0.3, 0.4, 3.0, 4.0]);
        // Distances 0.5 and 5: the first falls short of 0.9 by 0.4, the second does not.
        close("closeness", &closeness(&t, &z, 0.9), 0.2);
        let same = tensor(&[3, 2], &[0.0, 0.0, 0.3, 0.4, 3.0, 4.0]);
        // Of three pairs only the first is nearer than 0.9.
        close("sameness", &sameness(&same, 0.9), 0.4 / 3.0);
    }

    #[test]
    fn tone_counts_light_and_not_detail() {
        let flat = Tensor::zeros([1, 3, 16, 16], (Kind::Float, Device::Cpu));
        let all = Tensor::ones([1, 1, 16, 16], (Kind::Float, Device::Cpu));
        let signs: Vec<f32> = (0..256)
            .map(|i| if (i + i / 16) % 2 == 0 { 0.5 } else { -0.5 })
            .collect();
        let board = picture(16, &signs);
        let waves: Vec<f32> = (0..256).map(|i| if i % 4 < 2 { 0.5 } else { -0.5 }).collect();
        let stripes = picture(16, &waves);
        close("detail of a board", &tone(&board, &flat, &all), 0.0);
        close("lighter", &tone(&(&flat + 0.25), &flat, &all), 0.25);
        // The finest board is grain, and no detail once smoothed.
        let bold = &board * 10.0;
        close("grain of a board", &grain(&(&bold * 0.5), &bold, &all, 0.25), 1.0);
        close("no grain", &grain(&board, &board, &all, 1.0), 0.0);
        close(
            "a board gives no detail",
            &missing_detail(&board, &stripes, &all, 1.0),
            1.0,
        );
        close(
            "all detail missing",
            &missing_detail(&flat, &stripes, &all, 1.0),
            1.0,
        );
        close(
            "none missing",
            &missing_detail(&stripes, &stripes, &all, 1.0),
            0.0,
        );
        close(
            "a fifth missing",
            &missing_detail(&stripes, &stripes, &all, 1.25),
            0.2,
        );
        close(
            "more than wanted",
            &missing_detail(&stripes, &flat, &all, 1.0),
            0.0,
        );
    }

    #[test]
    fn landmarks_may_move_while_their_openings_stay() {
        let face: Vec<f32> = kernels::MEAN_FACE.iter().flat_map(|p| [p.x, p.y]).collect();
        let face = tensor(&[1, 68, 2], &face);
        let moved = &face + 0.1;
        let eyes = f64::from(kernels::MEAN_FACE[36].distance(kernels::MEAN_FACE[45]));
        close(
            "moved",
            &landmark_error(&face, &moved),
            0.1 * 2.0f64.sqrt() / eyes,
        );
        for (openings, wanted) in [(&MOUTH[..], 0.1), (&EYES, 0.1)] {
            close("expression", &expression(&face, &moved, openings), 0.0);
            close(
                "twice the size",
                &expression(&face, &(&face * 2.0), openings),
                0.0,
            );
            // Lower points down by a tenth of the opening's width: by nearly as much does the ratio grow.
            let opened = face.copy();
            for Opening { lower, corners, .. } in openings {
                let [left, right] = corners.map(|corner| kernels::MEAN_FACE[corner as usize]);
                let tenth = 0.1 * f64::from(left.distance(right));
                for point in *lower {
                    let _ = opened.get(0).get(*point).get(1).g_add_scalar_(tenth);
                }
            }
            let difference = expression(&face, &opened, openings).double_value(&[]);
            assert!((difference - wanted).abs() < 0.01, "{openings:?}: {difference}");
        }
    }

    #[test]
    fn sex_and_what_an_inverter_knows() {
        let sure = tensor(&[2], &[20.0, -20.0]);
        close("agreed", &cross_entropy(&sure, &sure), 0.0);
        close("both wrong", &cross_entropy(&sure, &-&sure), 20.0);
        close(
            "undecided",
            &cross_entropy(&sure, &tensor(&[2], &[0.0, 0.0])),
            2.0f64.ln(),
        );
        let apart = Tensor::eye(4, (Kind::Float, Device::Cpu));
        close("all known", &matched(&apart, &apart), 4.0f64.ln());
        let alike = Tensor::ones([4, 4], (Kind::Float, Device::Cpu));
        close("nothing known", &matched(&alike, &apart), 0.0);
        // Two groups of two: which group is known, which of the two is not.
        let groups = tensor(
            &[4, 4],
            &[1., 1., 0., 0., 1., 1., 0., 0., 0., 0., 1., 1., 0., 0., 1., 1.],
        );
        close("half known", &matched(&groups, &apart), 2.0f64.ln());
    }

    #[test]
    fn gradients_agree_with_differences() {
        let _turn = crate::take_turn();
        tch::manual_seed(3);
        let options = (Kind::Float, Device::Cpu);
        let source = Tensor::randn([2, 3, 16, 16], options) * 0.5;
        let weight = Tensor::rand([2, 1, 16, 16], options);
        let start = Tensor::randn([2, 3, 16, 16], options) * 0.5;
        type Loss<'a> = Box<dyn Fn(&Tensor) -> Tensor + 'a>;
        let cases: [(&str, Loss<'_>); 9] = [
            (
                "reconstruction",
                Box::new(|z| reconstruction(z, &source, &weight)),
            ),
            ("edges", Box::new(|z| edges(z, &source, &weight))),
            ("tone", Box::new(|z| tone(z, &source, &weight))),
            ("detail", Box::new(|z| missing_detail(z, &source, &weight, 3.0))),
            ("grain", Box::new(|z| grain(z, &source, &weight, 0.3))),
            (
                "closeness",
                Box::new(|z| closeness(&source.flatten(1, -1), &z.flatten(1, -1), 100.0)),
            ),
            ("sameness", Box::new(|z| sameness(&z.flatten(1, -1), 100.0))),
            (
                "matched",
                Box::new(|z| matched(&z.flatten(1, -1), &source.flatten(1, -1))),
            ),
            (
                "cross-entropy",
                Box::new(|z| cross_entropy(&source.flatten(0, -1), &z.flatten(0, -1))),
            ),
        ];
        for (name, loss) in cases {
            let z = start.detach().copy().set_requires_grad(true);
            let gradient = &Tensor::run_backward(&[loss(&z)], &[&z], false, false)[0];
            // Along the gradient nothing cancels, so that a kink on the way matters little.
            let direction = gradient / gradient.abs().max();
            let slope = (gradient * &direction).sum(Kind::Double).double_value(&[]);
            let step = 1e-3;
            let at = |sign: f64| loss(&(&start + &direction * (sign * step))).double_value(&[]);
            let wanted = (at(1.0) - at(-1.0)) / (2.0 * step);
            assert!(
                (slope - wanted).abs() < 0.02 * wanted.abs(),
                "{name}: {slope}, wanted {wanted}"
            );
        }
    }
}
