//! Whoever can write in the store swaps bytes while they are checked and used.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::Node;
use potluck_model::trace::Outcome;
use potluck_provision::{Executor, Job, Position, Record, Tail};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// How often bytes are swapped, at least.
const SWAPS_MIN: u64 = 100_000;
const SWAPS_TOGETHER: u64 = 100;
/// Runs meanwhile, at least and at most: each takes some milliseconds.
const RUNS_MIN: u64 = 50;
const RUNS_MAX: u64 = 5_000;

/// As long as the good script, byte for byte.
fn evil(good: &str) -> String {
    good.replace("good", "evil")
}

/// Swaps what is at `path` by name and in place, until it is told to stop.
fn swap(path: &Path, good: &str, swaps: &AtomicU64, stop: &AtomicBool) {
    let evil = evil(good);
    let beside = path.with_extension("beside");
    let exchange = || renameat_with(CWD, path, CWD, &beside, RenameFlags::EXCHANGE).unwrap();
    while !stop.load(Ordering::Relaxed) {
        // What a new release stores lies in another file.
        fs::write(&beside, &evil).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        for _ in 0..SWAPS_TOGETHER {
            exchange();
            file.write_all_at(evil.as_bytes(), 0).unwrap();
            file.write_all_at(good.as_bytes(), 0).unwrap();
            exchange();
        }
        swaps.fetch_add(4 * SWAPS_TOGETHER, Ordering::Relaxed);
    }
}

#[test]
fn bytes_that_are_swapped_between_check_and_use_are_neither_executed_nor_placed() {
    let node = Node::new();
    let (swaps, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let script = format!("echo good >>\"$POTLUCK_ROOT/ran\" # {}", "x".repeat(2_000));
    let list = |number| {
        node.release(number)
            .file("file", 0o644, &script)
            .place("place", "file", "/placed")
            .script("script", &script)
            // It runs each time.
            .with(|step| step.unless = Some(vec!["false".into()]))
            .list()
    };
    let digest = list(1)
        .contents()
        .iter()
        .map(|content| content.digest)
        .collect::<Vec<_>>();
    let (mut good, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        for digest in &digest {
            let path = node.stored(*digest);
            let text = fs::read_to_string(&path).unwrap();
            let (swaps, stop) = (&swaps, &stop);
            scope.spawn(move || swap(&path, &text, swaps, stop));
        }
        let mut runs = 0;
        while runs < RUNS_MIN
            || (runs < RUNS_MAX && (swaps.load(Ordering::Relaxed) < SWAPS_MIN || good == 0 || refused == 0))
        {
            runs += 1;
            // Each run has to place and to execute it anew.
            let _ = fs::remove_file(node.root("placed"));
            let job = node.job(&list(runs));
            let program = Path::new(env!("CARGO_BIN_EXE_potluck-execute"));
            let mut executor = Executor::start(program, &[], &node.dir(), &job).unwrap();
            assert!(executor.wait().unwrap().success());
            let report = node.news();
            for (_, outcome) in report.ended() {
                match outcome {
                    Outcome::Changed | Outcome::Unchanged => good += 1,
                    _ => refused += 1,
                }
            }
            assert!(!node.read("ran").contains("evil"), "it was executed");
            assert!(!node.read("placed").contains("evil"), "it was placed");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let swaps = swaps.into_inner();
    eprintln!("{swaps} swaps; {good} steps took the good bytes, {refused} were refused");
    assert!(
        swaps >= SWAPS_MIN && good > 0 && refused > 0,
        "{swaps} {good} {refused}"
    );
}
