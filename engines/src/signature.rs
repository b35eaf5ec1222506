use std::fmt;

/// Name and shape of one input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The name in the ONNX file.
    pub name: String,
    /// The dimensions; `None` is chosen at run time (number of faces, size of the picture).
    pub dims: Vec<Option<usize>>,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` [", self.name)?;
        for (i, dim) in self.dims.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            match dim {
                Some(size) => write!(f, "{comma}{size}")?,
                None => write!(f, "{comma}any")?,
            }
        }
        f.write_str("]")
    }
}

/// The inputs and outputs that a network must have, in order. Compared with the file when it is loaded.
///
/// Every tensor is `f32`. One of rank 2 (`[n, c]`) is held as `[n, c, 1, 1]` by [`kernels::Kernels::tensor`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The network's name, for messages.
    pub network: String,
    /// Its inputs.
    pub inputs: Vec<Port>,
    /// Its outputs.
    pub outputs: Vec<Port>,
}

impl Signature {
    /// A signature without inputs and outputs yet.
    pub fn new(network: impl Into<String>) -> Self {
        Self {
            network: network.into(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Adds an input.
    pub fn input(mut self, name: &str, dims: &[Option<usize>]) -> Self {
        self.inputs.push(Port {
            name: name.into(),
            dims: dims.into(),
        });
        self
    }

    /// Adds an output.
    pub fn output(mut self, name: &str, dims: &[Option<usize>]) -> Self {
        self.outputs.push(Port {
            name: name.into(),
            dims: dims.into(),
        });
        self
    }
}
