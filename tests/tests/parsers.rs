//! Every parser that reads bytes from outside, fed with what it is meant to read, changed at random.
//!
//! `PROPTEST_CASES` multiplies the cases (`cargo xtask test --long`); `cargo xtask fuzz` looks further, guided by coverage.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{TestError, TestRunner};
use tests::parsers::{PARSERS, Parser};

/// Random cases of a parser for each that `PROPTEST_CASES` asks for.
const CASES: u32 = 8;

/// A change of some bytes.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// Repeats a part of itself elsewhere.
    Repeat(Index, usize, Index),
    Cut(Index),
    /// Goes on as another seed does from there.
    Cross(Index, Index),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        // One past the end is a place too.
        let place = |index: &Index| index.index(bytes.len() + 1);
        match self {
            Self::Set(at, byte) => {
                let at = place(at);
                if let Some(old) = bytes.get_mut(at) {
                    *old = *byte;
                }
            }
            Self::Insert(at, new) => {
                let at = place(at);
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Remove(at, count) => {
                let (at, end) = (place(at), bytes.len());
                bytes.drain(at..end.min(at + count));
            }
            Self::Repeat(from, count, to) => {
                let (from, to) = (place(from), place(to));
                let part = bytes[from..bytes.len().min(from + count)].to_vec();
                bytes.splice(to..to, part);
            }
            Self::Cut(at) => bytes.truncate(place(at)),
            Self::Cross(seed, at) => {
                let (other, at) = (seed.get(seeds), place(at));
                bytes.truncate(at);
                bytes.extend(other.get(at..).unwrap_or_default());
            }
        }
    }
}

/// Numbers and signs at which parsers turn.
fn byte() -> impl Strategy<Value = u8> {
    let turns = b"\0\x01\x7f\x80\xff\"'[]{}=,:;.#\\/-+ \n\r09aAzZeE".to_vec();
    prop_oneof![any::<u8>(), prop::sample::select(turns)]
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<Index>;
    prop_oneof![
        4 => (index(), byte()).prop_map(|(at, byte)| Change::Set(at, byte)),
        2 => (index(), prop::collection::vec(byte(), 1..12)).prop_map(|(at, new)| Change::Insert(at, new)),
        2 => (index(), 1usize..40).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (index(), 1usize..200, index()).prop_map(|(from, count, to)| Change::Repeat(from, count, to)),
        1 => index().prop_map(Change::Cut),
        1 => (index(), index()).prop_map(|(seed, at)| Change::Cross(seed, at)),
    ]
}

fn try_hard(parser: &Parser) {
    let seeds = (parser.seeds)();
    seeds.iter().for_each(|seed| (parser.feed)(seed));
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    config.cases = if parser.is_slow {
        config.cases
    } else {
        CASES * config.cases
    };
    let changed = (any::<Index>(), prop::collection::vec(change(), 1..6)).prop_map(|(seed, changes)| {
        let mut bytes = seed.get(&seeds).clone();
        changes.iter().for_each(|change| change.apply(&mut bytes, &seeds));
        bytes
    });
    let tried = TestRunner::new(config).run(&changed, |bytes| {
        (parser.feed)(&bytes);
        Ok(())
    });
    if let Err(TestError::Fail(reason, bytes)) = tried {
        panic!("{}: {reason}: {:?}", parser.name, String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn no_bytes_get_a_parser_to_panic_or_to_take_what_it_must_not() {
    for parser in PARSERS {
        let started = std::time::Instant::now();
        try_hard(parser);
        println!("{:12} {:5.1} s", parser.name, started.elapsed().as_secs_f64());
    }
}
