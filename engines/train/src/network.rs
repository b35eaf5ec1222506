//! The de-identification network (paper section 3.1, figure 1a) and its discriminator.

use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

use serde::{Deserialize, Serialize};

/// The sizes that the paper leaves open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Side of the aligned crop in pixels, a multiple of 32.
    pub side: i64,
    /// Channels of the first convolution.
    pub stem: i64,
    /// Channels after each of the five strided separable convolutions.
    pub encoder: [i64; 5],
    /// Values of the latent vector.
    pub latent: i64,
    /// Values of the target's embedding.
    pub embedding: i64,
    /// Channels of the map that the decoder starts from; every upscale block halves them.
    pub decoder: i64,
    /// Whether training sees a further image of half the side (figure 7f).
    #[serde(default)]
    pub low: bool,
}

impl Size {
    /// Side of the smallest map.
    fn bottom(&self) -> i64 {
        self.side / 32
    }

    /// Index of the encoder block whose map has 32x32 values, and of the upscale block that gives such a map.
    fn link(&self) -> (usize, usize) {
        let halvings = (self.side / 32).ilog2() as usize;
        (halvings - 1, 5 - halvings - 1)
    }
}

// Paper section 4: all convolutional weights are drawn from N(0, 0.02).
const INIT: Init = Init::Randn {
    mean: 0.0,
    stdev: 0.02,
};

#[derive(Debug)]
struct Conv {
    weight: Tensor,
    stride: i64,
    padding: i64,
    groups: i64,
}

impl Conv {
    fn new(path: Path, from: i64, to: i64, kernel: i64, stride: i64) -> Self {
        let weight = path.var("weight", &[to, from, kernel, kernel], INIT);
        Self {
            weight,
            stride,
            padding: (kernel - 1) / 2,
            groups: 1,
        }
    }

    fn depthwise(path: Path, channels: i64) -> Self {
        let weight = path.var("weight", &[channels, 1, 3, 3], INIT);
        Self {
            weight,
            stride: 2,
            padding: 1,
            groups: channels,
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        x.conv2d(
            &self.weight,
            None::<&Tensor>,
            stride,
            padding,
            [1, 1],
            self.groups,
        )
    }
}

#[derive(Debug)]
struct InstanceNorm {
    scale: Tensor,
    shift: Tensor,
}

impl InstanceNorm {
    fn new(path: Path, channels: i64) -> Self {
        Self {
            scale: path.ones("weight", &[channels]),
            shift: path.zeros("bias", &[channels]),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let none = None::<&Tensor>;
        x.instance_norm(
            Some(&self.scale),
            Some(&self.shift),
            none,
            none,
            true,
            0.0,
            1e-5,
            false,
        )
    }
}

fn leaky(x: &Tensor, slope: f64) -> Tensor {
    // The binding of leaky_relu has no slope; prelu with a constant is the same operation.
    x.prelu(&Tensor::full([1], slope, (Kind::Float, x.device())))
}

#[derive(Debug)]
struct Separable {
    depthwise: Conv,
    pointwise: Conv,
    norm: InstanceNorm,
}

impl Separable {
    fn new(path: Path, from: i64, to: i64) -> Self {
        Self {
            depthwise: Conv::depthwise(&path / 0, from),
            pointwise: Conv::new(&path / 1, from, to, 1, 1),
            norm: InstanceNorm::new(&path / 2, to),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let x = self.pointwise.forward(&self.depthwise.forward(x));
        leaky(&self.norm.forward(&x), 0.1)
    }
}

#[derive(Debug)]
struct Upscale {
    conv: Conv,
    norm: InstanceNorm,
}

impl Upscale {
    fn new(path: Path, channels: i64) -> Self {
        Self {
            conv: Conv::new(&path / "c", channels, 2 * channels, 3, 1),
            norm: InstanceNorm::new(&path / "n", 2 * channels),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        leaky(&self.norm.forward(&self.conv.forward(x)), 0.1).pixel_shuffle(2)
    }
}

#[derive(Debug)]
struct Residual {
    a: Conv,
    b: Conv,
}

impl Residual {
    fn new(path: Path, channels: i64) -> Self {
        Self {
            a: Conv::new(&path / "a", channels, channels, 3, 1),
            b: Conv::new(&path / "b", channels, channels, 3, 1),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        x + self.b.forward(&leaky(&self.a.forward(x), 0.2))
    }
}

/// The generator: a crop and the target's embedding in, an image and a blending mask out.
#[derive(Debug)]
pub struct Generator {
    size: Size,
    stem: Conv,
    encoder: Vec<Separable>,
    to_latent: Tensor,
    from_latent: Tensor,
    link: Conv,
    upscales: Vec<Upscale>,
    residuals: Vec<Residual>,
    mix: Conv,
    image: Conv,
    mask: Conv,
    low: Option<Conv>,
}

impl Generator {
    /// Makes the generator's variables under `path`, with the names of the weights file.
    pub fn new(path: &Path, size: &Size) -> Self {
        let encoder_channels = |i: usize| if i == 0 { size.stem } else { size.encoder[i - 1] };
        let area = size.bottom() * size.bottom();
        let (link_from, link_to) = size.link();
        let decoder_channels = |i: usize| size.decoder >> (i + 1);
        Self {
            stem: Conv::new(path / "c0", 3, size.stem, 5, 1),
            encoder: (0..5)
                .map(|i| Separable::new(path / "d" / i, encoder_channels(i), size.encoder[i]))
                .collect(),
            to_latent: (path / "fc1").var("weight", &[size.latent, size.encoder[4] * area], INIT),
            from_latent: (path / "fc2").var(
                "weight",
                &[size.decoder * area, size.latent + size.embedding],
                INIT,
            ),
            link: Conv::new(path / "sk", size.encoder[link_from], 1, 1, 1),
            upscales: (0..5)
                .map(|i| Upscale::new(path / "up" / i, size.decoder >> i))
                .collect(),
            residuals: (0..5)
                .map(|i| Residual::new(path / "res" / i, decoder_channels(i) + i64::from(i == link_to)))
                .collect(),
            mix: Conv::new(
                path / "mix",
                decoder_channels(link_to) + 1,
                decoder_channels(link_to),
                1,
                1,
            ),
            image: Conv::new(path / "img", decoder_channels(4), 3, 5, 1),
            mask: Conv::new(path / "msk", decoder_channels(4), 1, 5, 1),
            low: size
                .low
                .then(|| Conv::new(path / "low", decoder_channels(3), 3, 5, 1)),
            size: size.clone(),
        }
    }

    /// Runs the generator: `face` `[n, 3, side, side]` in -1 to 1 and unit-length `target` `[n, embedding]` give
    /// the raw image `[n, 3, side, side]` in -1 to 1 and the mask `[n, 1, side, side]` in 0 to 1.
    pub fn forward(&self, face: &Tensor, target: &Tensor) -> (Tensor, Tensor) {
        let (image, mask, _) = self.forward_all(face, target);
        (image, mask)
    }

    /// [`Self::forward`], and the image of half the side `[n, 3, side / 2, side / 2]` where there is one.
    pub fn forward_all(&self, face: &Tensor, target: &Tensor) -> (Tensor, Tensor, Option<Tensor>) {
        let (link_from, link_to) = self.size.link();
        let mut x = leaky(&self.stem.forward(face), 0.1);
        let mut link = None;
        for (i, block) in self.encoder.iter().enumerate() {
            x = block.forward(&x);
            if i == link_from {
                link = Some(self.link.forward(&x));
            }
        }
        let latent = x.flatten(1, -1).matmul(&self.to_latent.tr());
        let bottom = self.size.bottom();
        let mut x = Tensor::cat(&[&latent, target], 1)
            .matmul(&self.from_latent.tr())
            .view([-1, self.size.decoder, bottom, bottom]);
        let mut low = None;
        for (i, (upscale, residual)) in self.upscales.iter().zip(&self.residuals).enumerate() {
            x = upscale.forward(&x);
            x = match &link {
                Some(link) if i == link_to => {
                    self.mix.forward(&residual.forward(&Tensor::cat(&[&x, link], 1)))
                }
                _ => residual.forward(&x),
            };
            if i == 3 {
                low = self.low.as_ref().map(|head| head.forward(&x).tanh());
            }
        }
        (
            self.image.forward(&x).tanh(),
            self.mask.forward(&x).sigmoid(),
            low,
        )
    }
}

/// The discriminator: four strided convolutions and one sigmoid convolution (paper section 3.1).
#[derive(Debug)]
pub struct Discriminator {
    convs: Vec<Conv>,
    norms: Vec<InstanceNorm>,
    /// What each label says for every channel of the last map.
    labels: Option<Tensor>,
}

impl Discriminator {
    /// Makes the discriminator's variables under `path`, with the names of the weights file. It is told `labels`
    /// numbers about the picture, as in a projection discriminator (Miyato and Koyama 2018).
    pub fn new(path: &Path, labels: i64) -> Self {
        // The positions of convolutions and norms in the weights file: conv, LReLU, then (conv, norm, LReLU) x 3.
        let layers = path / "l";
        let channels = [3, 32, 64, 128, 256, 1];
        let conv = |i: usize, stride| {
            let weight =
                (&layers / [0, 2, 5, 8, 11][i]).var("weight", &[channels[i + 1], channels[i], 4, 4], INIT);
            Conv {
                weight,
                stride,
                padding: 1,
                groups: 1,
            }
        };
        Self {
            convs: (0..5).map(|i| conv(i, if i < 4 { 2 } else { 1 })).collect(),
            norms: (1..4)
                .map(|i| InstanceNorm::new(&layers / [3, 6, 9][i - 1], channels[i + 1]))
                .collect(),
            // Zeros: untrained, it does not listen.
            labels: (labels > 0).then(|| path.zeros("labels", &[labels, channels[4]])),
        }
    }

    /// How real each patch of `image` `[n, 3, h, w]` of a face with `labels` `[n, k]` looks: `[n, 1, h / 16 - 1,
    /// w / 16 - 1]` in 0 to 1.
    pub fn forward(&self, image: &Tensor, labels: &Tensor) -> Tensor {
        let mut x = leaky(&self.convs[0].forward(image), 0.2);
        for (conv, norm) in self.convs[1..4].iter().zip(&self.norms) {
            x = leaky(&norm.forward(&conv.forward(&x)), 0.2);
        }
        let mut judged = self.convs[4].forward(&x);
        if let Some(projection) = &self.labels {
            let told = labels.matmul(projection).unsqueeze(2).unsqueeze(3);
            let agreement = (x * told).sum_dim_intlist(1, true, Kind::Float);
            judged += agreement.avg_pool2d([2, 2], [1, 1], [0, 0], false, true, None);
        }
        judged.sigmoid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, nn::VarStore};

    const EDGE128: Size = Size {
        side: 128,
        stem: 16,
        encoder: [32, 64, 128, 256, 256],
        latent: 512,
        embedding: 128,
        decoder: 256,
        low: false,
    };
    const PAPER256: Size = Size {
        side: 256,
        stem: 64,
        encoder: [128, 256, 512, 1024, 1024],
        latent: 1024,
        embedding: 128,
        decoder: 1024,
        low: false,
    };

    struct Case {
        size: Size,
        parameters: usize,
    }

    #[test]
    fn shapes_and_parameter_counts() {
        let _turn = crate::take_turn();
        let cases = [
            Case {
                size: EDGE128,
                parameters: 6_804_018,
            },
            Case {
                size: PAPER256,
                parameters: 175_893_010,
            },
        ];
        for Case { size, parameters } in cases {
            let store = VarStore::new(Device::Cpu);
            let generator = Generator::new(&store.root(), &size);
            let face = Tensor::zeros([2, 3, size.side, size.side], (Kind::Float, Device::Cpu));
            let target = Tensor::zeros([2, size.embedding], (Kind::Float, Device::Cpu));
            let (image, mask) = tch::no_grad(|| generator.forward(&face, &target));
            assert_eq!(image.size(), [2, 3, size.side, size.side]);
            assert_eq!(mask.size(), [2, 1, size.side, size.side]);
            let count: usize = store.trainable_variables().iter().map(Tensor::numel).sum();
            assert_eq!(count, parameters, "side {}", size.side);
        }
    }

    #[test]
    fn the_discriminator_judges_patches() {
        let _turn = crate::take_turn();
        let store = VarStore::new(Device::Cpu);
        let discriminator = Discriminator::new(&store.root(), 2);
        let options = (Kind::Float, Device::Cpu);
        for (height, width, map) in [(128, 128, [1, 1, 7, 7]), (68, 168, [1, 1, 3, 9])] {
            let image = Tensor::randn([1, 3, height, width], options);
            let judge = |labels: [f32; 2]| {
                let labels = Tensor::from_slice(&labels).view([1, 2]);
                tch::no_grad(|| discriminator.forward(&image, &labels))
            };
            assert_eq!(judge([1.0, -1.0]).size(), map);
            assert_eq!(
                judge([1.0, -1.0]),
                judge([0.0, 0.0]),
                "it listens before it has learnt"
            );
        }
        let _ = tch::no_grad(|| store.variables().get_mut("labels").unwrap().fill_(1.0));
        let image = Tensor::randn([1, 3, 128, 128], options);
        let judge = |label: f32| {
            let labels = Tensor::from_slice(&[label, 0.0]).view([1, 2]);
            tch::no_grad(|| discriminator.forward(&image, &labels))
        };
        assert_ne!(judge(1.0), judge(-1.0));
    }

    #[test]
    fn a_further_image_has_half_the_side() {
        let _turn = crate::take_turn();
        let size = Size { low: true, ..EDGE128 };
        let store = VarStore::new(Device::Cpu);
        let generator = Generator::new(&store.root(), &size);
        let options = (Kind::Float, Device::Cpu);
        let (face, target) = (
            Tensor::zeros([1, 3, 128, 128], options),
            Tensor::zeros([1, 128], options),
        );
        let (_, _, low) = tch::no_grad(|| generator.forward_all(&face, &target));
        assert_eq!(low.unwrap().size(), [1, 3, 64, 64]);
    }

    #[test]
    fn presets_have_the_documented_sizes() {
        for (name, size) in [("edge128", EDGE128), ("paper256", PAPER256)] {
            assert_eq!(
                crate::preset::Preset::load(name).unwrap().generator,
                size,
                "{name}"
            );
        }
    }
}
