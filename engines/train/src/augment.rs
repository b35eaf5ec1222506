//! Random changes of pictures, on the device that holds them.

use tch::{Device, Kind, Tensor};

use crate::preset::{Motion, Window};

/// Where each pixel of the changed picture comes from, as `grid_sampler` wants it.
#[derive(Debug)]
pub struct Field(Tensor);

impl Field {
    /// Draws one motion per sample; `side` is the side of what it samples to, `window` the part of the crop that
    /// is sampled when nothing moves.
    pub fn draw(motion: &Motion, samples: i64, side: i64, window: Window, device: Device) -> Self {
        let options = (Kind::Float, device);
        let uniform = |bound: f64| Tensor::rand([samples], options) * (2.0 * bound) - bound;
        let angle = uniform(motion.rotation.to_radians());
        let scale = (uniform(motion.scale) + 1.0) * window.side;
        // The sampler's coordinates run from -1 to 1, so fractions of the side count twice.
        let center = |low: f64| 2.0 * low + window.side - 1.0;
        let (x, y) = (
            uniform(2.0 * motion.shift) + center(window.x),
            uniform(2.0 * motion.shift) + center(window.y),
        );
        let (cos, sin) = (&scale * angle.cos(), &scale * angle.sin());
        let theta = Tensor::stack(
            &[
                Tensor::stack(&[&cos, &-&sin, &x], 1),
                Tensor::stack(&[&sin, &cos, &y], 1),
            ],
            1,
        );
        let mut grid = Tensor::affine_grid_generator(&theta, [samples, 3, side, side], false);
        if motion.elastic > 0.0 {
            let field = Tensor::randn([samples, 2, 5, 5], options) * motion.elastic;
            grid += field
                .upsample_bicubic2d([side, side], true, None, None)
                .permute([0, 2, 3, 1]);
        }
        Self(grid)
    }

    /// Samples `[n, c, s, s]` bilinearly; outside, the picture is mirrored.
    pub fn sample(&self, picture: &Tensor) -> Tensor {
        let (bilinear, reflection) = (0, 2);
        picture.grid_sampler(&self.0, bilinear, reflection, false)
    }
}

/// What a poor camera does: half the resolution and noise of standard deviation `noise`, in the picture's units.
pub fn degrade(picture: &Tensor, noise: &Tensor) -> Tensor {
    let side = picture.size()[3];
    picture
        .avg_pool2d([2, 2], [2, 2], [0, 0], true, false, None)
        .upsample_bilinear2d([side, side], false, None, None)
        + noise
}
