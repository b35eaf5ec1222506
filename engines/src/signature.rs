use std::fmt;

use crate::{Error, Result};

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

impl Port {
    /// Whether a tensor of this name and these sizes, -1 where they are chosen at run time, may be it.
    pub(crate) fn fits(&self, name: &str, sizes: &[i64]) -> bool {
        let size_fits = |(wanted, got): (&Option<usize>, &i64)| match wanted {
            Some(size) => *got == -1 || usize::try_from(*got) == Ok(*size),
            None => *got == -1,
        };
        self.name == name && self.dims.len() == sizes.len() && self.dims.iter().zip(sizes).all(size_fits)
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

    /// Compares a list of the network's tensors, of this `kind`, with what a file or plan has in its place: by `fits`,
    /// and told by `describe`.
    ///
    /// # Errors
    /// [`Error::Signature`] for the first that differs.
    pub(crate) fn compare<T>(
        &self,
        kind: &str,
        wanted: &[Port],
        got: &[T],
        fits: impl Fn(&Port, &T) -> bool,
        describe: impl Fn(&T) -> String,
    ) -> Result<()> {
        let differs = |tensor: String, wanted: String, got: String| Error::Signature {
            network: self.network.clone(),
            tensor,
            wanted,
            got,
        };
        if wanted.len() != got.len() {
            let count = |count: usize| format!("{count} {kind}s");
            return Err(differs(
                format!("its list of {kind}s"),
                count(wanted.len()),
                count(got.len()),
            ));
        }
        for (index, (wanted, got)) in wanted.iter().zip(got).enumerate() {
            if !fits(wanted, got) {
                return Err(differs(
                    format!("{kind} {index}"),
                    wanted.to_string(),
                    describe(got),
                ));
            }
        }
        Ok(())
    }
}
