//! Which layers cost most when they are rounded, and how many of them have to stay in FP16.

use indicatif::ProgressBar;

use super::qdq::{self, Kind};
use super::{Recipe, calibrate, int8};
use crate::Result;

/// Names of the layers that a recipe may name, in the order of the network.
///
/// # Errors
/// [`crate::Error::Quantize`] when the network is not understood.
pub fn layers(onnx: &[u8]) -> Result<Vec<String>> {
    let graph = calibrate::folded(onnx)?;
    Ok(qdq::layers(&graph).into_iter().map(|layer| layer.name).collect())
}

/// Rounds one layer at a time, everything else in FP16, and asks `cost` what that does to the network (0 is nothing).
/// Gives the layers by cost, highest first; one step of `progress` per layer.
///
/// # Errors
/// As [`int8`]; those of `cost`.
pub fn rank(
    onnx: &[u8],
    recipe: &Recipe,
    mut cost: impl FnMut(&[u8]) -> Result<f64>,
    progress: &ProgressBar,
) -> Result<Vec<(String, f64)>> {
    let graph = calibrate::folded(onnx)?;
    let layers = qdq::layers(&graph);
    let mut costs: Vec<(String, f64)> = Vec::with_capacity(layers.len());
    for layer in &layers {
        // A sum is part of the layer whose output it takes, and is rounded with it only.
        let with = match &layer.kind {
            Kind::Weighted { .. } => None,
            Kind::Sum { layer, .. } => Some(layer),
        };
        let rounded = |name: &String| *name == layer.name || Some(name) == with;
        let alone = Recipe {
            half: layers
                .iter()
                .map(|layer| layer.name.clone())
                .filter(|name| !rounded(name))
                .collect(),
            ..recipe.clone()
        };
        let together = cost(&int8(onnx, &alone)?)?;
        let before = with.and_then(|name| costs.iter().find(|(earlier, _)| earlier == name));
        let before = before.map_or(0.0, |(_, cost)| *cost);
        let own = match together - before {
            // No numbers at all are the highest cost.
            own if own.is_nan() => f64::INFINITY,
            own => own.max(0.0),
        };
        costs.push((layer.name.clone(), own));
        progress.inc(1);
    }
    costs.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(costs)
}

/// Lets the fewest of the costliest layers stay in FP16 with which `accept` takes the network, by halving the range in
/// question. With all of them in FP16 when it never does: whoever asks looks at the result.
///
/// # Errors
/// As [`int8`]; those of `accept`.
pub fn keep_costliest(
    onnx: &[u8],
    recipe: &mut Recipe,
    ranking: &[(String, f64)],
    mut accept: impl FnMut(&[u8]) -> Result<bool>,
) -> Result<()> {
    let names: Vec<String> = ranking.iter().map(|(name, _)| name.clone()).collect();
    let (mut enough, mut too_few) = (names.len(), None);
    let mut next = 0;
    loop {
        recipe.half = names[..next].to_vec();
        if accept(&int8(onnx, recipe)?)? {
            enough = next;
        } else {
            too_few = Some(next);
        }
        let from = too_few.map_or(0, |few: usize| few + 1);
        if from >= enough {
            break;
        }
        // A few layers are usually enough: twice as many as failed, then the middle.
        next = match too_few {
            Some(few) if 2 * few + 1 < enough => 2 * few + 1,
            _ => from.midpoint(enough),
        };
    }
    recipe.half = names[..enough].to_vec();
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::onnx::proto::Model;
    use crate::onnx::{Builder, Dim};
    use crate::quantize::Calibrator;

    /// A chain of convolutions, the last one with a residual sum.
    fn network() -> (Vec<u8>, Recipe) {
        let mut net = Builder::new("net");
        let map = [Dim::Free("n"), Dim::Fixed(1), Dim::Free("h"), Dim::Free("w")];
        let x = net.input("x", &map);
        let mut value = x.clone();
        for weight in [1.0, 2.0, 3.0] {
            let weights = net.constant(&[1, 1, 1, 1], &[weight]);
            value = net.node("Conv", &[&value, &weights], &[]);
        }
        let sum = net.node("Add", &[&x, &value], &[]);
        net.output(&sum, "y", &map);
        let onnx = net.finish();
        let mut recipe = Recipe::new(&onnx, Calibrator::Max);
        for value in ["x", "v0", "v1"] {
            recipe.scales.insert(value.into(), 0.1);
        }
        (onnx, recipe)
    }

    /// Nodes whose first input comes out of a pair.
    fn rounded(onnx: &[u8]) -> Vec<String> {
        let graph = Model::decode(onnx).unwrap().graph.unwrap();
        let pair = |value: &String| value.ends_with("_dequantized");
        graph
            .node
            .iter()
            .filter(|node| node.input.first().is_some_and(pair))
            .map(|node| node.name().to_owned())
            .collect()
    }

    #[test]
    fn every_layer_is_measured_alone() {
        let (onnx, recipe) = network();
        let progress = ProgressBar::hidden();
        let mut seen = Vec::new();
        let ranking = rank(
            &onnx,
            &recipe,
            |onnx| {
                let layers = rounded(onnx);
                seen.push(layers.clone());
                let cost = |layer: &String| match layer.as_str() {
                    "Conv0" => 1.0,
                    "Conv1" => 5.0,
                    "Conv2" => 2.0,
                    _ => 0.5,
                };
                Ok(layers.iter().map(cost).sum())
            },
            &progress,
        )
        .unwrap();
        assert_eq!(
            seen,
            [vec!["Conv0"], vec!["Conv1"], vec!["Conv2"], vec!["Conv2", "Add3"]]
        );
        let wanted = [("Conv1", 5.0), ("Conv2", 2.0), ("Conv0", 1.0), ("Add3", 0.5)];
        assert_eq!(ranking, wanted.map(|(name, cost)| (name.to_owned(), cost)));
        assert_eq!(progress.position(), 4);
    }

    #[test]
    fn as_few_as_needed_stay() {
        let (onnx, recipe) = network();
        let names = ["Conv1", "Conv2", "Conv0", "Add3"];
        let ranking = names.map(|name| (name.to_owned(), 1.0));
        for needed in 0..=5 {
            let mut recipe = recipe.clone();
            let mut asked = 0;
            keep_costliest(&onnx, &mut recipe, &ranking, |onnx| {
                asked += 1;
                // A sum goes with its layer.
                let rounded = rounded(onnx);
                let half = names
                    .iter()
                    .filter(|name| !rounded.iter().any(|layer| layer == *name));
                Ok(half.filter(|name| **name != "Add3").count() >= needed.min(3) && needed < 4)
            })
            .unwrap();
            let wanted = if needed < 4 { needed } else { 4 };
            assert_eq!(recipe.half, names[..wanted]);
            assert!(asked <= 4, "{asked}");
        }
    }
}
