//! Which deviations of the real networks the floors of [`engines::admission`] let through: they need the store that
//! `cargo xtask test` or `persona models fetch` fills.

use engines::admission::{Closeness, compare};
use engines::models::{Network, Store, default_dir};
use engines::{Engine, Result, cpu, detector, embedding, generator, landmarks};
use kernels::cpu::{Cpu, Tensor};

/// A network whose outputs are changed.
struct Changed<F> {
    engine: Box<dyn Engine<Cpu>>,
    /// Takes the number of an output and what it holds.
    change: F,
}

impl<F: Fn(usize, &mut [f32]) + Send> Engine<Cpu> for Changed<F> {
    fn run(&mut self, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<()> {
        self.engine.run(inputs, outputs)?;
        for (index, output) in outputs.iter_mut().enumerate() {
            (self.change)(index, output.data_mut());
        }
        Ok(())
    }
}

/// The real network, and the same with its outputs changed.
fn compare_changed(network: Network, change: impl Fn(usize, &mut [f32]) + Send) -> Closeness {
    let store = Store::open(default_dir()).unwrap();
    let runtime = cpu::Runtime::load(&store.runtime_library().unwrap(), 1).unwrap();
    let signature = match network {
        Network::Detector => detector::signature(),
        Network::Landmarks => landmarks::signature(),
        Network::Embedding => embedding::signature(),
        Network::Generator => generator::signature(128),
    };
    let load = || runtime.engine(&store.load(network).unwrap(), &signature).unwrap();
    let mut reference = load();
    let mut engine = Changed {
        engine: load(),
        change,
    };
    compare(network, 128, &mut Cpu::default(), &mut engine, reference.as_mut()).unwrap()
}

#[test]
fn the_floors_stand_where_they_should() {
    struct Case {
        network: Network,
        /// Output, and what happens to its numbers.
        change: fn(usize, &mut [f32]),
        is_enough: bool,
    }
    let case = |network, change, is_enough| Case {
        network,
        change,
        is_enough,
    };
    fn nothing(_: usize, _: &mut [f32]) {}
    fn not_a_number(_: usize, values: &mut [f32]) {
        values.iter_mut().for_each(|value| *value = f32::NAN);
    }
    fn add(values: &mut [f32], amount: f32) {
        // To and fro, as rounding does.
        values
            .iter_mut()
            .enumerate()
            .for_each(|(i, v)| *v += if i % 2 == 0 { amount } else { -amount });
    }
    let networks = [
        Network::Detector,
        Network::Landmarks,
        Network::Embedding,
        Network::Generator,
    ];
    let mut cases: Vec<_> = networks.map(|network| case(network, nothing, true)).into();
    cases.extend(networks.map(|network| case(network, not_a_number, false)));
    cases.extend([
        case(Network::Detector, |_, values| add(values, 0.01), true),
        case(
            Network::Detector,
            |index, values| values.iter_mut().for_each(|v| *v *= [0.3, 1.0][index.min(1)]),
            false,
        ),
        case(
            Network::Detector,
            |index, values| values[0] = [0.9, values[0]][index.min(1)],
            false,
        ),
        case(
            Network::Detector,
            |index, values| add(values, [0.0, 0.3][index.min(1)]),
            false,
        ),
        case(Network::Landmarks, |_, values| add(values, 0.0002), true),
        case(Network::Landmarks, |_, values| add(values, 0.002), false),
        case(Network::Embedding, |_, values| add(values, 0.005), true),
        case(Network::Embedding, |_, values| add(values, 0.05), false),
        // 2 / 10^(38/20) = 0.025 for faces, half of it for masks.
        case(Network::Generator, |_, values| add(values, 0.01), true),
        case(
            Network::Generator,
            |index, values| add(values, [0.03, 0.0][index]),
            false,
        ),
        case(
            Network::Generator,
            |index, values| add(values, [0.0, 0.02][index]),
            false,
        ),
    ]);
    for (
        number,
        Case {
            network,
            change,
            is_enough,
        },
    ) in cases.into_iter().enumerate()
    {
        let closeness = compare_changed(network, change);
        assert_eq!(closeness.is_enough(), is_enough, "{number}: {closeness}");
        if number == 0 {
            let Closeness::Detector { faces, .. } = closeness else {
                panic!("{closeness}")
            };
            assert_eq!(faces, 16, "CenterFace does not see every drawing");
        }
    }
}
