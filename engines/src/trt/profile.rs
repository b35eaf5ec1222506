use std::fmt;

use crate::models::Network;
use crate::{InputSize, Signature};

/// Most faces in one run of a plan.
pub const MAX_FACES: usize = 16;
/// Smallest side of the detector's input in pixels.
const SMALLEST_SIDE: usize = 32;

/// A range of shapes that a plan is compiled for: per input the smallest, the one to be fast at, and the largest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile(pub(super) Vec<[Vec<usize>; 3]>);

impl Profile {
    /// The profiles of a network. Those of faces take 1 to 16 of them: one profile is fast at 1 to 4, which is most frames,
    /// the other at 8. The detector takes one picture and is fast at `largest`; pictures of as many pixels may be up to twice
    /// as wide as high, or the other way round.
    pub fn of(network: Network, signature: &Signature, largest: InputSize) -> Vec<Self> {
        let batches: &[[usize; 3]] = match network {
            Network::Detector => &[[1, 1, 1]],
            _ => &[[1, 1, 4], [1, 8, MAX_FACES]],
        };
        let InputSize { width, height } = largest;
        let InputSize { width: side, .. } = InputSize::covering((2 * width * height).isqrt(), 0);
        let profile = |batch: &[usize; 3]| {
            let ranges = signature.inputs.iter().map(|port| {
                std::array::from_fn(|at| {
                    let free = [
                        batch[at],
                        0,
                        [SMALLEST_SIDE, height, side][at],
                        [SMALLEST_SIDE, width, side][at],
                    ];
                    let sizes = port.dims.iter().zip(free);
                    sizes.map(|(fixed, free)| fixed.unwrap_or(free)).collect()
                })
            });
            Self(ranges.collect())
        };
        batches.iter().map(profile).collect()
    }

    /// Whether it takes inputs of these shapes, of which only as many dimensions count as the input has.
    pub(super) fn takes(&self, shapes: impl Iterator<Item = [usize; 4]>) -> bool {
        self.0.iter().zip(shapes).all(|([smallest, _, largest], shape)| {
            let ranges = smallest.iter().zip(largest).zip(shape);
            ranges
                .into_iter()
                .all(|((smallest, largest), size)| (*smallest..=*largest).contains(&size))
        })
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, [smallest, fast, largest]) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{smallest:?} to {largest:?} (fast at {fast:?})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_the_pipeline_has_a_profile() {
        struct Case {
            network: Network,
            signature: Signature,
            shapes: Vec<[usize; 4]>,
            profile: Option<usize>,
        }
        let case = |network, shapes: &[[usize; 4]], profile| Case {
            network,
            signature: match network {
                Network::Detector => crate::detector::signature(),
                Network::Landmarks => crate::landmarks::signature(),
                Network::Embedding => crate::embedding::signature(),
                Network::Generator => crate::generator::signature(128),
            },
            shapes: shapes.into(),
            profile,
        };
        let cases = [
            case(Network::Detector, &[[1, 3, 480, 768]], Some(0)),
            case(Network::Detector, &[[1, 3, 864, 416]], Some(0)),
            case(Network::Detector, &[[1, 3, 32, 32]], Some(0)),
            case(Network::Detector, &[[1, 3, 896, 32]], None),
            case(Network::Detector, &[[2, 3, 480, 768]], None),
            case(Network::Landmarks, &[[1, 3, 112, 112]], Some(0)),
            case(Network::Embedding, &[[5, 3, 150, 150]], Some(1)),
            case(Network::Generator, &[[16, 3, 128, 128], [16, 128, 1, 1]], Some(1)),
            case(Network::Generator, &[[17, 3, 128, 128], [17, 128, 1, 1]], None),
        ];
        let largest = InputSize {
            width: 768,
            height: 480,
        };
        for Case {
            network,
            signature,
            shapes,
            profile,
        } in cases
        {
            let profiles = Profile::of(network, &signature, largest);
            let takes = |profile: &Profile| profile.takes(shapes.iter().copied());
            assert_eq!(profiles.iter().position(takes), profile, "{network:?} {shapes:?}");
        }
    }
}
