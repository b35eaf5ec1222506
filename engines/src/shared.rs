use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kernels::Kernels;

use crate::{Engine, Error, Result};

/// One loaded network for any number of pipelines, which use it by turns.
///
/// Turns are given in the order in which they are asked for. A pipeline asks for one at a time, so each gets its share
/// however much the others want. Once a run has panicked the network is not to be relied on: every later run is an
/// error, and whoever uses it covers, until the network is loaded anew.
///
/// # Together
/// Where the place can put tensors together ([`Shared::<Cpu>::merging`](Shared::merging), and the GPU), those who wait
/// behind each other share a turn: their faces go through the network in one run. Nobody waits for company. When a turn is
/// over, whoever is waiting in the group whose turn it is goes with it, and who comes later is in the next one; so a pipeline
/// still waits for one request of every other at most. A run that fails is an error for each who had a part in it.
pub struct Shared<K: Kernels>(Arc<Inner<K>>);

struct Inner<K: Kernels> {
    network: String,
    engine: Mutex<Box<dyn Engine<K>>>,
    queue: Mutex<Queue<K>>,
    next: Condvar,
    broken: AtomicBool,
}

struct Queue<K: Kernels> {
    /// The turn that the next one who asks gets.
    given: u64,
    /// The turn that is being taken.
    taken: u64,
    /// Where requests are put together: one gathers while the other one runs. Empty where that cannot be done.
    groups: Vec<Group<K>>,
}

/// Requests of several pipelines that share a turn.
struct Group<K: Kernels> {
    /// `None` while the network works with it, and for ever once that has panicked.
    batch: Option<Box<dyn Batch<K>>>,
    turn: u64,
    /// Entries of all requests; 0 when the group is free.
    entries: usize,
    /// Those who have not taken their part of the result yet.
    members: usize,
    result: Option<std::result::Result<(), Arc<Error>>>,
}

/// Memory of a place for requests that are put together.
pub(crate) trait Batch<K: Kernels>: Send {
    /// How many entries a request has; `None` when it does not fit in, not even alone.
    fn entries(&self, inputs: &[&K::Tensor], outputs: &[K::Tensor]) -> Option<usize>;
    /// Most entries.
    fn capacity(&self) -> usize;
    /// Puts a request that fits behind the first `first` entries.
    ///
    /// # Errors
    /// The place's own.
    fn put(&mut self, first: usize, inputs: &[&K::Tensor]) -> Result<()>;
    /// Runs the network over what was put in.
    ///
    /// # Errors
    /// The engine's.
    fn run(&mut self, engine: &mut dyn Engine<K>) -> Result<()>;
    /// Copies the result of the request that was put in behind `first` entries.
    ///
    /// # Errors
    /// The place's own.
    fn take(&self, first: usize, outputs: &mut [K::Tensor]) -> Result<()>;
}

/// Where a request was put.
#[derive(Clone, Copy)]
struct Seat {
    group: usize,
    first: usize,
}

/// Locks; what the lock protects is valid at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Kernels> Queue<K> {
    /// A turn behind all others.
    fn give(&mut self) -> u64 {
        let turn = self.given;
        self.given = turn.wrapping_add(1);
        turn
    }

    /// Puts a request to those who wait last, or has it wait as the first of a group. `None` when it has to go alone.
    fn join(&mut self, inputs: &[&K::Tensor], outputs: &[K::Tensor]) -> Option<Seat> {
        let last = self.given.wrapping_sub(1);
        if self.given == self.taken {
            return None;
        }
        // A group whose turn has come is closed, and one before others stays as it is: nobody overtakes.
        let is_open = |group: &Group<K>| group.entries > 0 && group.turn == last && last != self.taken;
        let fits = |group: &Group<K>| {
            let batch = group.batch.as_ref()?;
            let entries = group.entries + batch.entries(inputs, outputs)?;
            (entries <= batch.capacity()).then_some(entries)
        };
        let found = |wanted: &dyn Fn(&Group<K>) -> bool| {
            let mut groups = self.groups.iter().enumerate();
            groups.find_map(|(index, group)| wanted(group).then(|| fits(group)).flatten().map(|n| (index, n)))
        };
        let (index, entries) = found(&is_open).or_else(|| found(&|group| group.entries == 0))?;
        let group = &mut self.groups[index];
        let first = group.entries;
        group.batch.as_mut()?.put(first, inputs).ok()?;
        group.entries = entries;
        group.members += 1;
        if first == 0 {
            self.groups[index].turn = self.give();
        }
        Some(Seat { group: index, first })
    }
}

impl<K: Kernels> Group<K> {
    /// A member has its part; the last one frees the group.
    fn leave(&mut self) {
        self.members -= 1;
        if self.members == 0 {
            (self.entries, self.result) = (0, None);
        }
    }
}

/// A turn, over when this is dropped.
struct Turn<'a, K: Kernels>(&'a Inner<K>);

impl<K: Kernels> Inner<K> {
    /// Waits for a turn.
    fn turn<'a>(&'a self, mut queue: MutexGuard<'a, Queue<K>>, mine: u64) -> Turn<'a, K> {
        while queue.taken != mine {
            queue = self.next.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        Turn(self)
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn check(&self) -> Result<()> {
        if self.is_broken() {
            return Err(self.panicked());
        }
        Ok(())
    }

    fn panicked(&self) -> Error {
        Error::Runtime {
            network: self.network.clone(),
            reason: "a run of it has panicked; it has to be loaded anew".into(),
        }
    }

    /// The first of a group sees to the run of all.
    fn run_group<'a>(&'a self, queue: MutexGuard<'a, Queue<K>>, index: usize) {
        let mine = queue.groups[index].turn;
        let turn = self.turn(queue, mine);
        // Nobody joins any more. The lock is not held while the network runs.
        let batch = lock(&self.queue).groups[index].batch.take();
        if let Some(mut batch) = batch {
            let ran = self.check().and_then(|()| batch.run(lock(&self.engine).as_mut()));
            let group = &mut lock(&self.queue).groups[index];
            (group.batch, group.result) = (Some(batch), Some(ran.map_err(Arc::new)));
        }
        drop(turn);
    }

    fn run_together<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue<K>>,
        seat: Seat,
        outputs: &mut [K::Tensor],
    ) -> Result<()> {
        if seat.first == 0 {
            self.run_group(queue, seat.group);
            queue = lock(&self.queue);
        }
        while queue.groups[seat.group].result.is_none() {
            // The panic may have been that of this group's run, which then has no result.
            self.check()?;
            queue = self.next.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let group = &mut queue.groups[seat.group];
        let part = match (&group.result, &group.batch) {
            (Some(Ok(())), Some(batch)) => batch.take(seat.first, outputs),
            (Some(Err(error)), _) => Err(Error::Together(error.clone())),
            _ => Err(self.panicked()),
        };
        group.leave();
        part
    }
}

impl<K: Kernels> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
        }
        let mut queue = lock(&self.0.queue);
        queue.taken = queue.taken.wrapping_add(1);
        self.0.next.notify_all();
    }
}

impl<K: Kernels> Shared<K> {
    /// Shares a network, one request in a turn; `name` is for messages.
    pub fn new(name: &str, engine: Box<dyn Engine<K>>) -> Self {
        Self::with(name, engine, Vec::new())
    }

    /// Shares a network whose requests are put together in `batches`.
    pub(crate) fn with(name: &str, engine: Box<dyn Engine<K>>, batches: Vec<Box<dyn Batch<K>>>) -> Self {
        let group = |batch| Group {
            batch: Some(batch),
            turn: 0,
            entries: 0,
            members: 0,
            result: None,
        };
        Self(Arc::new(Inner {
            network: name.into(),
            engine: Mutex::new(engine),
            queue: Mutex::new(Queue {
                given: 0,
                taken: 0,
                groups: batches.into_iter().map(group).collect(),
            }),
            next: Condvar::new(),
            broken: AtomicBool::new(false),
        }))
    }

    /// Whether a run has panicked.
    pub fn is_broken(&self) -> bool {
        self.0.is_broken()
    }
}

impl<K: Kernels> Clone for Shared<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Kernels> Engine<K> for Shared<K> {
    fn run(&mut self, inputs: &[&K::Tensor], outputs: &mut [K::Tensor]) -> Result<()> {
        let shared = &*self.0;
        let mut queue = lock(&shared.queue);
        if let Some(seat) = queue.join(inputs, outputs) {
            return shared.run_together(queue, seat, outputs);
        }
        let mine = queue.give();
        let _turn = shared.turn(queue, mine);
        shared.check()?;
        lock(&shared.engine).run(inputs, outputs)
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

    /// A turn in which nothing is done, so that whoever comes has to wait.
    fn hold(shared: &Shared<Cpu>) -> Turn<'_, Cpu> {
        let mut queue = lock(&shared.0.queue);
        let mine = queue.give();
        shared.0.turn(queue, mine)
    }

    /// Doubles its input; notes how many entries each run has. A run with an entry of -1 fails, one of -2 panics.
    fn merging(most: usize) -> (Shared<Cpu>, Arc<Mutex<Vec<usize>>>) {
        struct Doubling(Arc<Mutex<Vec<usize>>>);
        impl Engine<Cpu> for Doubling {
            fn run(&mut self, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<()> {
                lock(&self.0).push(inputs[0].shape()[0]);
                assert!(!inputs[0].data().contains(&-2.0), "as asked for");
                if inputs[0].data().contains(&-1.0) {
                    return Err(Error::Runtime {
                        network: "doubling".into(),
                        reason: "as asked for".into(),
                    });
                }
                let doubled = inputs[0].data().iter().map(|value| 2.0 * value);
                for (to, value) in outputs[0].data_mut().iter_mut().zip(doubled) {
                    *to = value;
                }
                Ok(())
            }
        }
        let runs = Arc::<Mutex<_>>::default();
        let signature = crate::Signature::new("doubling")
            .input("x", &[None, Some(1)])
            .output("y", &[None, Some(1)]);
        let engine = Box::new(Doubling(runs.clone()));
        (Shared::merging(engine, &signature, most).unwrap(), runs)
    }

    fn run_all(engine: &mut Shared<Cpu>, values: &[f32]) -> Result<Vec<f32>> {
        let mut kernels = Cpu::default();
        let mut input = kernels.tensor([values.len(), 1, 1, 1])?;
        input.data_mut().copy_from_slice(values);
        let mut outputs = [kernels.tensor([values.len(), 1, 1, 1])?];
        engine.run(&[&input], &mut outputs)?;
        Ok(outputs[0].data().to_vec())
    }

    /// Requests that come one after the other while the network is busy, then get their results; and the runs it took.
    fn together(most: usize, requests: &[&[f32]]) -> (Vec<Result<Vec<f32>>>, Vec<usize>) {
        let (shared, runs) = merging(most);
        let results = waiting(&shared, requests);
        let runs = lock(&runs).clone();
        (results, runs)
    }

    fn waiting(shared: &Shared<Cpu>, requests: &[&[f32]]) -> Vec<Result<Vec<f32>>> {
        std::thread::scope(|scope| {
            let busy = hold(shared);
            // Turns that were given, and seats.
            let came = || {
                let queue = lock(&shared.0.queue);
                let members: usize = queue.groups.iter().map(|group| group.members).sum();
                (queue.given, members)
            };
            let threads: Vec<_> = requests
                .iter()
                .map(|values| {
                    let (mut engine, before) = (shared.clone(), came());
                    let thread = scope.spawn(move || {
                        let panicked = Error::Runtime {
                            network: String::new(),
                            reason: "panicked".into(),
                        };
                        catch_unwind(AssertUnwindSafe(|| run_all(&mut engine, values)))
                            .unwrap_or(Err(panicked))
                    });
                    while came() == before {
                        std::thread::yield_now();
                    }
                    thread
                })
                .collect();
            drop(busy);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn those_who_wait_go_together_in_order_and_each_gets_its_own() {
        struct Case {
            most: usize,
            requests: &'static [&'static [f32]],
            runs: &'static [usize],
        }
        let cases = [
            Case {
                most: 4,
                requests: &[&[1.0], &[2.0, 3.0], &[4.0]],
                runs: &[4],
            },
            // The third has no room and is the first of the next run.
            Case {
                most: 4,
                requests: &[&[1.0], &[2.0, 3.0], &[4.0, 5.0], &[6.0]],
                runs: &[3, 3],
            },
            // Too large for any group: alone, and nobody overtakes it.
            Case {
                most: 2,
                requests: &[&[1.0], &[2.0, 3.0, 4.0], &[5.0], &[6.0]],
                runs: &[1, 3, 2],
            },
            // More groups than there is memory for: alone.
            Case {
                most: 1,
                requests: &[&[1.0], &[2.0], &[3.0]],
                runs: &[1, 1, 1],
            },
        ];
        for Case { most, requests, runs } in cases {
            let (results, ran) = together(most, requests);
            assert_eq!(ran, runs, "{requests:?}");
            for (result, values) in results.into_iter().zip(requests) {
                let doubled: Vec<_> = values.iter().map(|value| 2.0 * value).collect();
                assert_eq!(result.unwrap(), doubled);
            }
        }
    }

    #[test]
    fn a_run_that_fails_fails_for_each_and_for_nobody_else() {
        let (shared, runs) = merging(4);
        let results = waiting(&shared, &[&[1.0], &[-1.0], &[2.0, 3.0], &[4.0]]);
        let sentences: Vec<_> = results
            .iter()
            .map(|result| result.as_ref().map_err(ToString::to_string))
            .collect();
        for sentence in &sentences[..3] {
            let sentence = sentence.as_ref().unwrap_err();
            assert_eq!(sentence.matches("as asked for").count(), 1, "{sentence}");
        }
        assert_eq!(sentences[3], Ok(&vec![8.0]));
        assert!(!shared.is_broken());
        let results = waiting(&shared, &[&[5.0], &[6.0]]);
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(*lock(&runs), [4, 1, 2]);
    }

    #[test]
    fn a_run_that_panics_is_an_error_for_each_and_for_all_later_ones() {
        let (shared, runs) = merging(2);
        let results = waiting(&shared, &[&[1.0], &[-2.0], &[3.0], &[4.0], &[5.0]]);
        assert!(results.iter().all(Result::is_err), "{results:?}");
        assert!(shared.is_broken() && run_all(&mut shared.clone(), &[1.0]).is_err());
        assert_eq!(*lock(&runs), [2]);
    }

    #[test]
    fn many_at_once_get_their_own_results_and_nobody_more_turns_than_another() {
        let (shared, runs) = merging(3);
        std::thread::scope(|scope| {
            for number in 0..8u16 {
                let mut engine = shared.clone();
                scope.spawn(move || {
                    for round in 0..200u16 {
                        let values = [f32::from(number), f32::from(round), 0.5];
                        let values = &values[..1 + usize::from(number + round) % 3];
                        let doubled: Vec<_> = values.iter().map(|value| 2.0 * value).collect();
                        assert_eq!(run_all(&mut engine, values).unwrap(), doubled);
                    }
                });
            }
        });
        let requested: usize = (0..8).flat_map(|n| (0..200).map(move |r| 1 + (n + r) % 3)).sum();
        assert_eq!(lock(&runs).iter().sum::<usize>(), requested);
        let queue = lock(&shared.0.queue);
        assert!(queue.given == queue.taken && queue.groups.iter().all(|group| group.entries == 0));
    }

    #[test]
    fn turns_are_taken_in_the_order_in_which_they_are_asked_for() {
        let (served, order) = std::sync::mpsc::channel();
        let engine = Scripted(move |inputs: &[&Tensor], _: &mut [Tensor]| {
            served.send(inputs[0].data()[0]).unwrap();
        });
        let shared: Shared<Cpu> = Shared::new("recording", Box::new(engine));
        std::thread::scope(|scope| {
            let busy = hold(&shared);
            for number in 0..6u8 {
                let mut engine = shared.clone();
                scope.spawn(move || {
                    // Who comes again goes to the end, however soon that is.
                    for _ in 0..3 {
                        run(&mut engine, f32::from(number)).unwrap();
                    }
                });
                while lock(&shared.0.queue).given < u64::from(number) + 2 {
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
