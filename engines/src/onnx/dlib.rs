//! dlib's face recognition ResNet: a strict reader of dlib's serialised network, and the network around the weights.
//!
//! dlib has no format description; the rules here were read off `dlib/serialize.h` and `dlib/dnn/layers.h` and hold to
//! the file's last byte. Records follow the way of the data: `con_4`, `affine_`, `relu_` and so on. The network is
//! `anet` of dlib's `dnn_face_recognition_ex.cpp`: a stem and 14 residual units, of which four halve the map.

use super::builder::{Builder, Dim, Setting, Value};
use crate::{Error, Result};

/// Side of the chip in pixels.
const SIDE: usize = 150;
/// Numbers in the embedding.
const EMBEDDING: usize = 128;
/// Channels after the last unit.
const FEATURES: usize = 256;
/// Version numbers of the nested layers, which dlib writes before the first record.
const VERSIONS: usize = 130;

/// The residual units in order: output channels, and whether the unit halves the map.
const UNITS: [(usize, bool); 14] = [
    (32, false),
    (32, false),
    (32, false),
    (64, true),
    (64, false),
    (64, false),
    (64, false),
    (128, true),
    (128, false),
    (128, false),
    (256, true),
    (256, false),
    (256, false),
    (256, true),
];

/// Writes the network as ONNX: RGB 0 to 255 `[n, 3, 150, 150]` in, embedding `[n, 128]` out. The affine layers are
/// folded into the convolutions.
///
/// # Errors
/// [`Error::Parse`] when the bytes are not that network to the last one.
pub fn convert(dat: &[u8]) -> Result<Vec<u8>> {
    let mut reader = Reader {
        bytes: dat,
        offset: 0,
    };
    let mean = reader.header()?;
    let mut net = Net {
        reader,
        graph: Builder::new("dlib_face_recognition_resnet_v1"),
        records: 0,
    };
    let input = net.graph.input(
        "rgb255",
        &[Dim::Free("n"), Dim::Fixed(3), Dim::Fixed(SIDE), Dim::Fixed(SIDE)],
    );
    let mean = net.graph.constant(&[1, 3, 1, 1], &mean);
    // dlib's input layer divides by 256, not 255.
    let scale = net.graph.constant(&[1], &[1.0 / 256.0]);
    let centered = net.graph.node("Sub", &[&input, &mean], &[]);
    let scaled = net.graph.node("Mul", &[&centered, &scale], &[]);
    let stem = Conv {
        inputs: 3,
        outputs: 32,
        kernel: 7,
        stride: 2,
        pad: 0,
    };
    let filtered = net.convolution(&scaled, stem)?;
    let filtered = net.relu(&filtered)?;
    net.record("max_pool_2", |reader| reader.expect(&[3, 3, 2, 2, 0, 0]))?;
    let pool = [
        Setting::Ints("kernel_shape", &[3, 3]),
        Setting::Ints("strides", &[2, 2]),
    ];
    let mut map = Map {
        value: net.graph.node("MaxPool", &[&filtered], &pool),
        channels: 32,
        side: 35,
    };
    for (channels, halves) in UNITS {
        map = net.unit(map, channels, halves)?;
    }
    net.record("avg_pool_2", |reader| reader.expect(&[0, 0, 1, 1, 0, 0]))?;
    let pooled = net.graph.node("GlobalAveragePool", &[&map.value], &[]);
    let features = net.graph.node("Flatten", &[&pooled], &[]);
    let matrix = net.record("fc_2", Reader::fully_connected)?;
    let matrix = net.graph.constant(&[FEATURES, EMBEDDING], &matrix);
    let embedding = net.graph.node("MatMul", &[&features, &matrix], &[]);
    net.graph
        .output(&embedding, "embedding", &[Dim::Free("n"), Dim::Fixed(EMBEDDING)]);
    net.reader.end()?;
    Ok(net.graph.finish())
}

#[derive(Clone, Copy)]
struct Conv {
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    pad: usize,
}

/// A value with what padding needs to know about it.
struct Map {
    value: Value,
    channels: usize,
    side: usize,
}

struct Net<'a> {
    reader: Reader<'a>,
    graph: Builder,
    records: usize,
}

impl<'a> Net<'a> {
    /// Reads one record: its name, what `read` takes, and what ends every record.
    fn record<T>(&mut self, name: &str, read: impl FnOnce(&mut Reader<'a>) -> Result<T>) -> Result<T> {
        self.reader.expect_string(name)?;
        let value = read(&mut self.reader)?;
        self.reader.end_of_record(self.records == 0)?;
        self.records += 1;
        Ok(value)
    }

    fn relu(&mut self, x: &Value) -> Result<Value> {
        self.record("relu_", |_| Ok(()))?;
        Ok(self.graph.node("Relu", &[x], &[]))
    }

    /// A convolution and the affine layer after it, as one.
    fn convolution(&mut self, x: &Value, shape: Conv) -> Result<Value> {
        let Conv {
            inputs,
            outputs,
            kernel,
            stride,
            pad,
        } = shape;
        let (mut weights, mut biases) = self.record("con_4", |reader| reader.convolution(shape))?;
        let (gamma, beta) = self.record("affine_", |reader| reader.affine(outputs))?;
        for (weights, gamma) in weights.chunks_exact_mut(inputs * kernel * kernel).zip(&gamma) {
            weights.iter_mut().for_each(|weight| *weight *= gamma);
        }
        for ((bias, gamma), beta) in biases.iter_mut().zip(&gamma).zip(&beta) {
            *bias = *bias * gamma + beta;
        }
        let weights = self.graph.constant(&[outputs, inputs, kernel, kernel], &weights);
        let biases = self.graph.constant(&[outputs], &biases);
        let settings = [
            Setting::Ints("kernel_shape", &[kernel, kernel]),
            Setting::Ints("strides", &[stride, stride]),
            Setting::Ints("pads", &[pad; 4]),
        ];
        Ok(self.graph.node("Conv", &[x, &weights, &biases], &settings))
    }

    /// `relu(skip + convolution(relu(convolution(x))))`; where the unit halves the map, the skip is an average pool.
    fn unit(&mut self, x: Map, channels: usize, halves: bool) -> Result<Map> {
        let (stride, pad) = if halves { (2, 0) } else { (1, 1) };
        let first = Conv {
            inputs: x.channels,
            outputs: channels,
            kernel: 3,
            stride,
            pad,
        };
        let second = Conv {
            inputs: channels,
            outputs: channels,
            kernel: 3,
            stride: 1,
            pad: 1,
        };
        let filtered = self.convolution(&x.value, first)?;
        let filtered = self.relu(&filtered)?;
        let filtered = Map {
            value: self.convolution(&filtered, second)?,
            channels,
            side: if halves { (x.side - 3) / 2 + 1 } else { x.side },
        };
        let skip = if halves {
            self.record("avg_pool_2", |reader| reader.expect(&[2, 2, 2, 2, 0, 0]))?;
            let pool = [
                Setting::Ints("kernel_shape", &[2, 2]),
                Setting::Ints("strides", &[2, 2]),
            ];
            Map {
                value: self.graph.node("AveragePool", &[&x.value], &pool),
                channels: x.channels,
                side: (x.side - 2) / 2 + 1,
            }
        } else {
            x
        };
        self.record("add_prev_", |_| Ok(()))?;
        // dlib adds maps of different sizes as if the smaller one went on in zeros.
        let (channels, side) = (filtered.channels.max(skip.channels), filtered.side.max(skip.side));
        let filtered = self.grow(filtered, channels, side);
        let skip = self.grow(skip, channels, side);
        let sum = self.graph.node("Add", &[&skip, &filtered], &[]);
        let value = self.relu(&sum)?;
        Ok(Map {
            value,
            channels,
            side,
        })
    }

    fn grow(&mut self, map: Map, channels: usize, side: usize) -> Value {
        let (more_channels, more_side) = (channels - map.channels, side - map.side);
        if more_channels == 0 && more_side == 0 {
            return map.value;
        }
        let pads = [0, 0, 0, 0, 0, more_channels, more_side, more_side].map(|pad| pad as i64);
        let pads = self.graph.integers(&pads);
        self.graph.node("Pad", &[&map.value, &pads], &[])
    }
}

/// dlib's serialised values.
struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, reason: impl Into<String>) -> Error {
        Error::Parse {
            format: "dlib network",
            offset: self.offset,
            reason: reason.into(),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.offset.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.offset..end));
        let taken = taken.ok_or_else(|| self.wrong("the file ends too early"))?;
        self.offset += count;
        Ok(taken)
    }

    /// A head byte (sign in bit 7, number of bytes in the low 4 bits), then the magnitude, little endian.
    fn integer(&mut self) -> Result<i64> {
        let head = self.take(1)?[0];
        let count = usize::from(head & 0x0f);
        if head & 0x70 != 0 || count > 8 {
            return Err(self.wrong(format!("{head:#04x} begins no integer")));
        }
        let magnitude = self
            .take(count)?
            .iter()
            .rev()
            .fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let magnitude = i64::try_from(magnitude).map_err(|_| self.wrong("an integer is too large"))?;
        Ok(if head & 0x80 != 0 { -magnitude } else { magnitude })
    }

    /// A number is mantissa and exponent of two.
    fn float(&mut self) -> Result<f32> {
        let (mantissa, exponent) = (self.integer()?, self.integer()?);
        let exponent = i32::try_from(exponent).map_err(|_| self.wrong("an exponent is too large"))?;
        Ok((mantissa as f64 * 2f64.powi(exponent)) as f32)
    }

    fn expect(&mut self, wanted: &[i64]) -> Result<()> {
        for wanted in wanted {
            let got = self.integer()?;
            if got != *wanted {
                return Err(self.wrong(format!("{got} where the network has {wanted}")));
            }
        }
        Ok(())
    }

    fn expect_string(&mut self, wanted: &str) -> Result<()> {
        self.expect(&[wanted.len() as i64])?;
        let got = self.take(wanted.len())?;
        if got == wanted.as_bytes() {
            Ok(())
        } else {
            Err(self.wrong(format!(
                "a layer `{}` where the network has `{wanted}`",
                String::from_utf8_lossy(got)
            )))
        }
    }

    /// A tensor of the given dimensions: format 2, four dimensions, the values.
    fn tensor(&mut self, dims: [usize; 4]) -> Result<Vec<f32>> {
        self.expect(&[2])?;
        self.expect(&dims.map(|dim| dim as i64))?;
        let values = self.take(4 * dims.iter().product::<usize>())?;
        Ok(values
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect())
    }

    /// A view into a tensor: format 1, four dimensions.
    fn alias(&mut self, dims: [usize; 4]) -> Result<()> {
        self.expect(&[1])?;
        self.expect(&dims.map(|dim| dim as i64))
    }

    /// Factors of learning rate and weight decay, which mean nothing here.
    fn multipliers(&mut self) -> Result<()> {
        (0..4).try_for_each(|_| self.float().map(drop))
    }

    /// Loss layer, layer versions and input layer; gives the mean colour.
    fn header(&mut self) -> Result<[f32; 3]> {
        self.expect(&[1])?;
        self.expect_string("loss_metric_2")?;
        // The loss's margin and distance threshold.
        self.float()?;
        self.float()?;
        for _ in 0..VERSIONS {
            let version = self.integer()?;
            if !(1..=3).contains(&version) {
                return Err(self.wrong(format!("layer version {version} is not known")));
            }
        }
        self.expect_string("input_rgb_image_sized")?;
        let mean = [self.float()?, self.float()?, self.float()?];
        self.expect(&[SIDE as i64, SIDE as i64])?;
        Ok(mean)
    }

    /// Weights `[outputs, inputs, kernel, kernel]` and biases.
    fn convolution(&mut self, shape: Conv) -> Result<(Vec<f32>, Vec<f32>)> {
        let Conv {
            inputs,
            outputs,
            kernel,
            stride,
            pad,
        } = shape;
        let count = outputs * inputs * kernel * kernel;
        let mut weights = self.tensor([count + outputs, 1, 1, 1])?;
        self.expect(&[outputs, kernel, kernel, stride, stride, pad, pad].map(|value| value as i64))?;
        self.alias([outputs, inputs, kernel, kernel])?;
        self.alias([1, outputs, 1, 1])?;
        self.multipliers()?;
        let biases = weights.split_off(count);
        Ok((weights, biases))
    }

    /// Scale and shift per channel.
    fn affine(&mut self, channels: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let mut gamma = self.tensor([2 * channels, 1, 1, 1])?;
        self.alias([1, channels, 1, 1])?;
        self.alias([1, channels, 1, 1])?;
        self.expect(&[0])?;
        let beta = gamma.split_off(channels);
        Ok((gamma, beta))
    }

    /// The matrix `[256, 128]` without bias.
    fn fully_connected(&mut self) -> Result<Vec<f32>> {
        self.expect(&[EMBEDDING as i64, FEATURES as i64])?;
        let matrix = self.tensor([FEATURES, EMBEDDING, 1, 1])?;
        self.alias([FEATURES, EMBEDDING, 1, 1])?;
        self.alias([0, 0, 0, 0])?;
        self.expect(&[1])?;
        self.multipliers()?;
        Ok(matrix)
    }

    /// Three flags and three empty tensors (gradients and outputs); one integer more after the first record.
    fn end_of_record(&mut self, first: bool) -> Result<()> {
        if self.take(3)?.iter().any(|flag| !matches!(flag, b'0' | b'1')) {
            return Err(self.wrong("a layer's flags are not 0 or 1"));
        }
        for _ in 0..3 {
            self.tensor([0; 4])?;
        }
        if first { self.expect(&[1]) } else { Ok(()) }
    }

    fn end(&self) -> Result<()> {
        match self.bytes.len() - self.offset {
            0 => Ok(()),
            left => Err(self.wrong(format!("{left} bytes are left over"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::onnx::proto::Model;

    /// Writes what [`Reader`] reads: the same network with made-up weights.
    #[derive(Default)]
    struct Writer {
        bytes: Vec<u8>,
        records: usize,
    }

    impl Writer {
        fn integer(&mut self, value: i64) {
            let magnitude = value.unsigned_abs();
            let count = (64 - magnitude.leading_zeros()).div_ceil(8) as u8;
            self.bytes.push(count | if value < 0 { 0x80 } else { 0 });
            self.bytes.extend(&magnitude.to_le_bytes()[..count.into()]);
        }

        fn integers(&mut self, values: &[usize]) {
            values.iter().for_each(|value| self.integer(*value as i64));
        }

        fn string(&mut self, text: &str) {
            self.integer(text.len() as i64);
            self.bytes.extend(text.as_bytes());
        }

        fn tensor(&mut self, dims: [usize; 4]) {
            self.integer(2);
            self.integers(&dims);
            self.bytes
                .resize(self.bytes.len() + 4 * dims.iter().product::<usize>(), 0x3c);
        }

        fn alias(&mut self, dims: [usize; 4]) {
            self.integer(1);
            self.integers(&dims);
        }

        fn record(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
            self.string(name);
            write(self);
            self.bytes.extend(b"010");
            (0..3).for_each(|_| self.tensor([0; 4]));
            if self.records == 0 {
                self.integer(1);
            }
            self.records += 1;
        }

        fn convolution(&mut self, inputs: usize, outputs: usize, kernel: usize, stride: usize, pad: usize) {
            self.record("con_4", |w| {
                w.tensor([outputs * inputs * kernel * kernel + outputs, 1, 1, 1]);
                w.integers(&[outputs, kernel, kernel, stride, stride, pad, pad]);
                w.alias([outputs, inputs, kernel, kernel]);
                w.alias([1, outputs, 1, 1]);
                w.integers(&[1, 0, 1, 0, 1, 0, 0, 0]);
            });
            self.record("affine_", |w| {
                w.tensor([2 * outputs, 1, 1, 1]);
                w.alias([1, outputs, 1, 1]);
                w.alias([1, outputs, 1, 1]);
                w.integer(0);
            });
        }

        fn network() -> Vec<u8> {
            let mut w = Self::default();
            w.integer(1);
            w.string("loss_metric_2");
            // 0.04 and 0.6 as mantissa and exponent.
            [5_368_709, -27, 10_066_330, -24]
                .iter()
                .for_each(|value| w.integer(*value));
            w.integers(&[1; VERSIONS]);
            w.string("input_rgb_image_sized");
            let mean = [8_046_641, -16, 7_667_778, -16, 6_835_274, -16];
            mean.iter().for_each(|value| w.integer(*value));
            w.integers(&[SIDE, SIDE]);
            w.convolution(3, 32, 7, 2, 0);
            w.record("relu_", |_| ());
            w.record("max_pool_2", |w| w.integers(&[3, 3, 2, 2, 0, 0]));
            let mut inputs = 32;
            for (outputs, halves) in UNITS {
                if halves {
                    w.convolution(inputs, outputs, 3, 2, 0);
                } else {
                    w.convolution(inputs, outputs, 3, 1, 1);
                }
                w.record("relu_", |_| ());
                w.convolution(outputs, outputs, 3, 1, 1);
                if halves {
                    w.record("avg_pool_2", |w| w.integers(&[2, 2, 2, 2, 0, 0]));
                }
                w.record("add_prev_", |_| ());
                w.record("relu_", |_| ());
                inputs = outputs;
            }
            w.record("avg_pool_2", |w| w.integers(&[0, 0, 1, 1, 0, 0]));
            w.record("fc_2", |w| {
                w.integers(&[EMBEDDING, FEATURES]);
                w.tensor([FEATURES, EMBEDDING, 1, 1]);
                w.alias([FEATURES, EMBEDDING, 1, 1]);
                w.alias([0; 4]);
                w.integer(1);
                w.integers(&[1, 0, 1, 0, 1, 0, 0, 0]);
            });
            assert_eq!(w.records, 108);
            w.bytes
        }
    }

    fn reader(bytes: &[u8]) -> Reader<'_> {
        Reader { bytes, offset: 0 }
    }

    #[test]
    fn integers() {
        for (bytes, wanted) in [
            (&[0x00][..], Some(0)),
            (&[0x01, 0x03], Some(3)),
            (&[0x81, 0x03], Some(-3)),
            (&[0x02, 0x01, 0x02], Some(513)),
            (
                &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
                Some(i64::MAX),
            ),
            (&[0x08, 0, 0, 0, 0, 0, 0, 0, 0x80], None),
            (&[0x09, 1, 1, 1, 1, 1, 1, 1, 1, 1], None),
            (&[0x11, 0x03], None),
            (&[0x02, 0x01], None),
            (&[], None),
        ] {
            assert_eq!(reader(bytes).integer().ok(), wanted, "{bytes:x?}");
        }
    }

    #[test]
    fn floats() {
        assert_eq!(reader(&[0x01, 0x03, 0x81, 0x01]).float().unwrap(), 1.5);
        assert_eq!(reader(&[0x81, 0x01, 0x01, 0x02]).float().unwrap(), -4.0);
        assert!(
            reader(&[0x01, 0x03, 0x08, 0, 0, 0, 0, 0, 0, 0, 0x40])
                .float()
                .is_err()
        );
    }

    #[test]
    fn a_tensor_is_no_longer_than_the_file() {
        // Announces as many values as asked for, holds one.
        let mut writer = Writer::default();
        writer.integers(&[2, 1 << 40, 1, 1, 1]);
        writer.bytes.extend([0; 4]);
        assert!(reader(&writer.bytes).tensor([1 << 40, 1, 1, 1]).is_err());
    }

    #[test]
    fn the_whole_network_and_nothing_else() {
        let network = Writer::network();
        let onnx = convert(&network).unwrap();
        let graph = <Model as prost::Message>::decode(onnx.as_slice())
            .unwrap()
            .graph
            .unwrap();
        let count = |operator: &str| {
            graph
                .node
                .iter()
                .filter(|n| n.op_type.as_deref() == Some(operator))
                .count()
        };
        let operators = ["Conv", "Relu", "Add", "AveragePool", "Pad", "MatMul"];
        // Of the four units that halve, three widen the skip and two lengthen the other branch.
        assert_eq!(operators.map(count), [29, 29, 14, 4, 5, 1]);

        let longer = [network.as_slice(), b"x"].concat();
        let error = convert(&longer).unwrap_err().to_string();
        assert!(error.contains("1 bytes are left over"), "{error}");
        for length in [0, 1, 20, 700, 5_000, network.len() / 2, network.len() - 1] {
            let error = convert(&network[..length]).unwrap_err();
            assert!(matches!(error, Error::Parse { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(convert(&bytes).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_changed_byte_never_panics(at in 0usize..4_096, with in any::<u8>()) {
            // Names, shapes and settings of the first layers lie around their weights (4,736 floats in the stem).
            let mut network = Writer::network();
            network.truncate(200_000);
            for offset in [at, 20_000 + at, network.len() - 1 - at] {
                network[offset] = with;
                prop_assert!(convert(&network).is_err());
            }
        }
    }
}
