//! Hostile bytes for decoders: the samples in `corpus/TARGET/`, and mutations of them.
//!
//! A target is a test that calls `fuzz`. `cargo test` tries each with a few hundred mutations; with `FUZZ_SECONDS=30` in the
//! environment each goes on for so long. What is tried is the same for the same `PROPTEST_RNG_SEED`. What makes a target panic is
//! made small and printed; put it into the corpus once it is mended.
//!
//! Runs on stable Rust, without instrumentation: how far it gets depends on the samples, so each kind that a decoder knows
//! should be among them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::sample::Index;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Mutations that are tried in one round.
const CASES: u32 = 256;
/// Mutations of one input, at most.
const MUTATIONS_MAX: usize = 6;
/// No input gets larger.
const BYTES_MAX: usize = 1 << 20;
/// What decoders look out for: numbers at the edges of widths, and pieces of the texts that they read.
const TOKENS: [&[u8]; 22] = [
    &[0],
    &[0xff],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1],
    b"-1",
    b"18446744073709551616",
    b"9007199254740993",
    b"1e400",
    b"null",
    b"{}",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"\"",
    b"\\u0000",
    b"\xf0\x9f\xa6\x80",
    b"../../../../etc/passwd",
    b"/",
    b"\0",
    b"ustar\x0000",
    b"PK\x01\x02",
];

#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Set(Index, u8),
    Token(Index, Index, bool),
    Remove(Index, Index),
    Repeat(Index, Index, u8),
    Cut(Index),
    /// The rest comes from another sample.
    Splice(Index, Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<Index>;
    proptest::prop_oneof![
        3 => (index(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        3 => (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        4 => (index(), index(), any::<bool>()).prop_map(|(at, token, over)| Mutation::Token(at, token, over)),
        2 => (index(), index()).prop_map(|(from, len)| Mutation::Remove(from, len)),
        1 => (index(), index(), any::<u8>()).prop_map(|(from, len, times)| Mutation::Repeat(from, len, times)),
        1 => index().prop_map(Mutation::Cut),
        1 => (index(), index(), index()).prop_map(|(at, other, from)| Mutation::Splice(at, other, from)),
    ]
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>, samples: &[Vec<u8>]) {
        let at = |index: &Index, len: usize| index.index(len + 1);
        let run = |from: &Index, len: &Index, bytes: &[u8]| {
            let from = at(from, bytes.len());
            // Short runs are what most structures are made of.
            from..from + at(len, (bytes.len() - from).min(64))
        };
        match self {
            Self::Flip(index, bit) if !bytes.is_empty() => {
                let index = index.index(bytes.len());
                bytes[index] ^= 1 << bit;
            }
            Self::Set(index, byte) if !bytes.is_empty() => {
                let index = index.index(bytes.len());
                bytes[index] = *byte;
            }
            Self::Flip(..) | Self::Set(..) => {}
            Self::Token(index, token, over) => {
                let (start, token) = (at(index, bytes.len()), TOKENS[token.index(TOKENS.len())]);
                let end = if *over {
                    (start + token.len()).min(bytes.len())
                } else {
                    start
                };
                bytes.splice(start..end, token.iter().copied());
            }
            Self::Remove(from, len) => {
                bytes.drain(run(from, len, bytes));
            }
            Self::Repeat(from, len, times) => {
                let run = run(from, len, bytes);
                let repeated = bytes[run.clone()].repeat(usize::from(*times));
                bytes.splice(run.end..run.end, repeated);
            }
            Self::Cut(index) => bytes.truncate(at(index, bytes.len())),
            Self::Splice(index, other, from) => {
                let other = &samples[other.index(samples.len())];
                bytes.truncate(at(index, bytes.len()));
                bytes.extend_from_slice(&other[at(from, other.len())..]);
            }
        }
        bytes.truncate(BYTES_MAX);
    }
}

/// The samples of a target, in the order of their names. Fails if there are none.
pub fn samples(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no samples", dir.display());
    let read = |path: PathBuf| fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    paths.into_iter().map(read).collect()
}

/// Gives `test` the samples of a target and mutations of them. It is to panic if bytes are not handled as they should be.
pub fn fuzz(target: &str, test: impl Fn(&[u8])) {
    let samples = samples(target);
    for sample in &samples {
        test(sample);
    }
    let seconds = number("FUZZ_SECONDS").unwrap_or(0);
    let seed = number("PROPTEST_RNG_SEED").unwrap_or(82);
    let began = Instant::now();
    let strategy = (any::<Index>(), vec(mutation(), 1..=MUTATIONS_MAX)).prop_map(|(sample, mutations)| {
        let mut bytes = samples[sample.index(samples.len())].clone();
        for mutation in &mutations {
            mutation.apply(&mut bytes, &samples);
        }
        bytes
    });
    let mut rounds: u64 = 0;
    while rounds == 0 || began.elapsed() < Duration::from_secs(seconds) {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&rounds.to_le_bytes());
        let config = Config {
            cases: CASES,
            failure_persistence: None,
            ..Config::default()
        };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let result = TestRunner::new_with_rng(config, rng).run(&strategy, |bytes| {
            test(&bytes);
            Ok(())
        });
        if let Err(error) = result {
            panic!("{target}, seed {seed}, round {rounds}: {error}");
        }
        rounds += 1;
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn mutations_are_many_the_same_each_time_and_begin_with_the_samples() {
        let tried = || {
            let tried = RefCell::new(Vec::new());
            fuzz("join", |bytes| tried.borrow_mut().push(bytes.to_vec()));
            tried.into_inner()
        };
        let first = tried();
        let known = samples("join");
        assert_eq!(first[..known.len()], known);
        let different: BTreeSet<_> = first.iter().collect();
        assert!(different.len() > 200, "{}", different.len());
        assert_eq!(tried(), first);
    }

    #[test]
    #[should_panic(expected = "join, seed")]
    fn what_a_target_cannot_take_is_found() {
        fuzz("join", |bytes| assert!(bytes.len() < 300 && bytes.starts_with(b"p")));
    }
}
