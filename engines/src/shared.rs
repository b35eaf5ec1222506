use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kernels::Kernels;

use crate::{Engine, Error, Result};

/// One loaded network for any number of pipelines, which use it by turns.
///
/// Turns are given in the order in which they are asked for. A pipeline asks for one at a time, so each gets its share
/// however much the others want. Once a run has panicked the network is not to be relied on: every later run is an
/// error, and whoever uses it covers, until the network is loaded anew.
pub struct Shared<K: Kernels>(Arc<Inner<K>>);

struct Inner<K: Kernels> {
    network: String,
    engine: Mutex<Box<dyn Engine<K>>>,
    turns: Mutex<Turns>,
    next: Condvar,
    broken: AtomicBool,
}

#[derive(Default)]
struct Turns {
    /// The turn that the next one who asks gets.
    given: u64,
    /// The turn that is being taken.
    taken: u64,
}

/// Locks; what the lock protects is valid at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A turn, over when this is dropped.
struct Turn<'a, K: Kernels>(&'a Inner<K>);

impl<K: Kernels> Inner<K> {
    fn turn(&self) -> Turn<'_, K> {
        let mut turns = lock(&self.turns);
        let mine = turns.given;
        turns.given = mine.wrapping_add(1);
        while turns.taken != mine {
            turns = self.next.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
        Turn(self)
    }
}

impl<K: Kernels> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
        }
        let mut turns = lock(&self.0.turns);
        turns.taken = turns.taken.wrapping_add(1);
        self.0.next.notify_all();
    }
}

impl<K: Kernels> Shared<K> {
    /// Shares a network; `name` is for messages.
    pub fn new(name: &str, engine: Box<dyn Engine<K>>) -> Self {
        Self(Arc::new(Inner {
            network: name.into(),
            engine: Mutex::new(engine),
            turns: Mutex::default(),
            next: Condvar::new(),
            broken: AtomicBool::new(false),
        }))
    }

    /// Whether a run has panicked.
    pub fn is_broken(&self) -> bool {
        self.0.broken.load(Ordering::Acquire)
    }
}

impl<K: Kernels> Clone for Shared<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Kernels> Engine<K> for Shared<K> {
    fn run(&mut self, inputs: &[&K::Tensor], outputs: &mut [K::Tensor]) -> Result<()> {
        let _turn = self.0.turn();
        if self.is_broken() {
            return Err(Error::Runtime {
                network: self.0.network.clone(),
                reason: "a run of it has panicked; it has to be loaded anew".into(),
            });
        }
        lock(&self.0.engine).run(inputs, outputs)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicUsize;

    use kernels::cpu::{Cpu, Tensor};

    use super::*;
    use crate::testing::Scripted;

    fn run(engine: &mut Shared<Cpu>, value: f32) -> Result<f32> {
        let mut kernels = Cpu::default();
        let mut input = kernels.tensor([1, 1, 1, 1])?;
        input.data_mut()[0] = value;
        let mut outputs = [kernels.tensor([1, 1, 1, 1])?];
        engine.run(&[&input], &mut outputs)?;
        Ok(outputs[0].data()[0])
    }

    fn doubling() -> Shared<Cpu> {
        let inside = AtomicUsize::new(0);
        let engine = Scripted(move |inputs: &[&Tensor], outputs: &mut [Tensor]| {
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two runs at once");
            assert!(inputs[0].data()[0] >= 0.0, "negative");
            outputs[0].data_mut()[0] = 2.0 * inputs[0].data()[0];
            inside.fetch_sub(1, Ordering::SeqCst);
        });
        Shared::new("doubling", Box::new(engine))
    }

    #[test]
    fn turns_are_taken_in_the_order_in_which_they_are_asked_for() {
        let (served, order) = std::sync::mpsc::channel();
        let engine = Scripted(move |inputs: &[&Tensor], _: &mut [Tensor]| {
            served.send(inputs[0].data()[0]).unwrap();
        });
        let shared: Shared<Cpu> = Shared::new("recording", Box::new(engine));
        std::thread::scope(|scope| {
            let busy = shared.0.turn();
            for number in 0..6u8 {
                let mut engine = shared.clone();
                scope.spawn(move || {
                    // Who comes again goes to the end, however soon that is.
                    for _ in 0..3 {
                        run(&mut engine, f32::from(number)).unwrap();
                    }
                });
                while lock(&shared.0.turns).given < u64::from(number) + 2 {
                    std::thread::yield_now();
                }
            }
            drop(busy);
        });
        let order: Vec<f32> = order.try_iter().collect();
        assert_eq!(order[..6], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(order.len(), 18);
    }

    #[test]
    fn after_a_panic_nobody_is_served_and_nobody_waits_for_ever() {
        let shared = doubling();
        let mut first = shared.clone();
        assert!(catch_unwind(AssertUnwindSafe(|| run(&mut first, -1.0))).is_err());
        assert!(shared.is_broken());
        let sentence = run(&mut shared.clone(), 1.0).unwrap_err().to_string();
        assert!(
            sentence.contains("doubling") && sentence.contains("loaded anew"),
            "{sentence}"
        );
    }
}
