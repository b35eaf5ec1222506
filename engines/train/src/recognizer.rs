//! Frozen networks that look at faces: recognisers for the multi-image perceptual loss (paper section 3.2.1) and
//! the landmark network.

use anyhow::{Context, Result};
use engines::models::{self, Store};
use tch::{Device, Kind, Tensor};

use crate::augment::{Field, degrade};
use crate::onnx::Network;
use crate::preset;

/// A recogniser whose activations can be reached with gradients.
#[derive(Debug)]
pub struct Recognizer {
    network: Network,
    spec: preset::Recognizer,
    mean: Tensor,
}

/// What a recogniser sees in a picture.
#[derive(Debug)]
pub struct Seen {
    /// Maps of the low layers, tied to the source.
    pub low: Vec<Tensor>,
    /// Maps of the high layer, tied to the target.
    pub high: Vec<Tensor>,
    /// The descriptor `[n, d]`.
    pub descriptor: Tensor,
}

impl Recognizer {
    /// Loads the recogniser out of the store.
    ///
    /// # Errors
    /// When the file is missing or not such a network.
    pub fn load(store: &Store, spec: &preset::Recognizer, device: Device) -> Result<Self> {
        let mean = Tensor::from_slice(&spec.mean)
            .to_kind(Kind::Float)
            .view([1, 3, 1, 1])
            .to_device(device);
        Ok(Self {
            network: load(store, &spec.network, device)?,
            spec: spec.clone(),
            mean,
        })
    }

    /// What the preset says about it.
    pub fn spec(&self) -> &preset::Recognizer {
        &self.spec
    }

    /// Looks at aligned crops `[n, 3, s, s]` in -1 to 1 through `view`.
    ///
    /// # Errors
    /// When the network refuses its input.
    pub fn look(&self, crops: &Tensor, view: &View) -> Result<Seen> {
        let chips = (view.sample(crops) - &self.mean) / self.spec.scale;
        let chips = if self.spec.bgr { chips.flip([1]) } else { chips };
        let relus: Vec<_> = self.spec.low.iter().chain(&self.spec.high).copied().collect();
        let (descriptor, mut low) = self.network.forward(&chips, &relus)?;
        let high = low.split_off(self.spec.low.len());
        Ok(Seen {
            low,
            high,
            descriptor: if self.spec.unit {
                unit(&descriptor)
            } else {
                descriptor
            },
        })
    }

    /// The descriptors of aligned crops, seen straight.
    ///
    /// # Errors
    /// When the network refuses its input.
    pub fn describe(&self, crops: &Tensor) -> Result<Tensor> {
        Ok(self.look(crops, &View::straight(self, crops))?.descriptor)
    }
}

/// How a batch of crops is shown to a network; the same for source and output.
#[derive(Debug)]
pub struct View {
    field: Field,
    noise: Option<Tensor>,
}

impl View {
    /// A random view: moved, and degraded when `poor`.
    pub fn draw(recognizer: &Recognizer, motion: &preset::Motion, poor: bool, crops: &Tensor) -> Self {
        let (samples, spec) = (crops.size()[0], recognizer.spec());
        let field = Field::draw(motion, samples, spec.size, spec.window, crops.device());
        let noise = poor
            .then(|| Tensor::randn([samples, 3, spec.size, spec.size], (Kind::Float, crops.device())) * 6.0);
        Self { field, noise }
    }

    /// The view that the recogniser was made for.
    pub fn straight(recognizer: &Recognizer, crops: &Tensor) -> Self {
        Self::draw(recognizer, &STILL, false, crops)
    }

    fn sample(&self, crops: &Tensor) -> Tensor {
        let bytes = (self.field.sample(crops) + 1.0) * 127.5;
        match &self.noise {
            Some(noise) => degrade(&bytes, noise),
            None => bytes,
        }
    }
}

/// No motion.
pub const STILL: preset::Motion = preset::Motion {
    rotation: 0.0,
    scale: 0.0,
    shift: 0.0,
    elastic: 0.0,
};

/// Rows brought to unit length.
pub fn unit(rows: &Tensor) -> Tensor {
    rows / (rows.square().sum_dim_intlist(1, true, Kind::Float) + 1e-12).sqrt()
}

/// The 68-point landmark network.
#[derive(Debug)]
pub struct Landmarker {
    network: Network,
}

impl Landmarker {
    /// Side of its input.
    pub const SIZE: i64 = 112;
    /// The part of an aligned crop that a box of 1.1 times a face takes.
    pub const WINDOW: preset::Window = preset::Window {
        x: 0.02,
        y: 0.02,
        side: 0.96,
    };

    /// Loads the network out of the store.
    ///
    /// # Errors
    /// When the file is missing or not such a network.
    pub fn load(store: &Store, network: &str, device: Device) -> Result<Self> {
        Ok(Self {
            network: load(store, network, device)?,
        })
    }

    /// Landmarks of pictures `[n, 3, 112, 112]` in 0 to 255: `[n, 68, 2]`, x and y in fractions of the picture.
    ///
    /// # Errors
    /// When the network refuses its input.
    pub fn locate(&self, pictures: &Tensor) -> Result<Tensor> {
        Ok(self.network.forward(pictures, &[])?.0.f_view([-1, 68, 2])?)
    }

    /// Landmarks of aligned crops `[n, 3, s, s]` in -1 to 1, in fractions of the window of `field`.
    ///
    /// # Errors
    /// When the network refuses its input.
    pub fn look(&self, crops: &Tensor, field: &Field) -> Result<Tensor> {
        self.locate(&((field.sample(crops) + 1.0) * 127.5))
    }
}

/// The product's own networks by their name in the store, others by their file in its directory.
fn load(store: &Store, network: &str, device: Device) -> Result<Network> {
    let path = store.dir().join(network);
    let bytes = match network {
        "embedding" => store.load(models::Network::Embedding)?,
        "landmarks" => store.load(models::Network::Landmarks)?,
        _ => std::fs::read(&path).with_context(|| format!("cannot read network {}", path.display()))?,
    };
    Network::read(&bytes, device).with_context(|| format!("network {network}"))
}
