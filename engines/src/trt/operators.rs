//! Which ONNX operators a version of TensorRT takes.

use prost::Message;

use super::sys::{Family, Version};
use crate::onnx::proto::Model;
use crate::{Error, Result};

/// The operators that our networks consist of, all supported in every precision that we use them in since 8.5
/// (onnx-tensorrt, `docs/operators.md` of 8.5, 8.6 and 10). Anything else must be looked up before it is added.
const OPERATORS: [&str; 29] = [
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Concat",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "Identity",
    "InstanceNormalization",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
    "QuantizeLinear",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Slice",
    "Sqrt",
    "Sub",
    "Tanh",
];

/// The operator sets that every supported version reads: 8.5 up to 17, 10 from 9.
const OPSETS: std::ops::RangeInclusive<i64> = 9..=17;

/// Refuses a network with an operator that `version` may not take, before TensorRT sees it.
///
/// # Errors
/// [`Error::TensorRt`] that names operator and version; [`Error::Parse`] when the bytes are not an ONNX network.
pub fn check(version: Version, network: &str, onnx: &[u8]) -> Result<()> {
    let model = Model::decode(onnx).map_err(|error| Error::Parse {
        format: "ONNX",
        offset: 0,
        reason: error.to_string(),
    })?;
    let refuse = |reason: String| Error::TensorRt {
        network: network.into(),
        reason,
    };
    let opset = model
        .opset_import
        .iter()
        .filter_map(|set| set.version)
        .max()
        .unwrap_or(0);
    if !OPSETS.contains(&opset) {
        return Err(refuse(format!(
            "operator set {opset} is not one that every version reads"
        )));
    }
    for node in model.graph.iter().flat_map(|graph| &graph.node) {
        let operator = node.op_type();
        // 8.5 has it only as a plugin: see `onnx::basic`.
        let is_missing = version.family == Family::V8 && operator == "InstanceNormalization";
        if is_missing || !OPERATORS.contains(&operator) {
            return Err(refuse(format!(
                "`{}` is the operator {operator}, which is not on the list for {version}",
                node.name()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;
    use crate::models::{Network, Store, default_dir};
    use crate::onnx::basic;

    #[test]
    fn every_network_is_on_the_list_of_every_version() {
        let store = Store::open(default_dir()).unwrap();
        let [old, new] = [8502, 100_300].map(|version| Version::decode(version).unwrap());
        for network in [
            Network::Detector,
            Network::Landmarks,
            Network::Embedding,
            Network::Generator,
        ] {
            let fp32 = store.load(network).unwrap();
            for precision in [Precision::Fp32, Precision::Fp16, Precision::Int8] {
                let onnx = match precision.onnx(network, &fp32) {
                    // New weights are without a recipe until they are calibrated; then FP16 serves.
                    Err(_) if precision == Precision::Int8 && network == Network::Generator => continue,
                    onnx => onnx.unwrap(),
                };
                check(new, "n", &onnx).unwrap();
                check(old, "n", &basic::convert(&onnx).unwrap()).unwrap();
            }
        }
        let error = check(old, "generator", &store.load(Network::Generator).unwrap()).unwrap_err();
        let words = "is the operator InstanceNormalization, which is not on the list for TensorRT 8.5.2";
        assert!(error.to_string().contains(words), "{error}");
        assert!(check(new, "n", b"\x08").is_err());
        assert!(
            check(new, "n", b"")
                .unwrap_err()
                .to_string()
                .contains("operator set 0")
        );
    }
}
