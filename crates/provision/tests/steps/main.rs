//! The rules of steps, shown with the real executing process and real scripts.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../common/mod.rs"]
mod common;
mod files;
mod process;
mod scripts;

use std::path::Path;

use common::{Node, Report};
use potluck_model::list::List;
use potluck_provision::{Executor, Job, Position, Record, Tail, last_words};

const PROGRAM: &str = env!("CARGO_BIN_EXE_potluck-execute");

fn execute_job(node: &Node, job: &Job) -> Report {
    let mut executor = Executor::start(Path::new(PROGRAM), &[], &node.dir(), job).unwrap();
    let status = executor.wait().unwrap();
    assert!(status.success(), "{status}: {}", last_words(&node.dir()));
    node.news()
}

fn execute(node: &Node, list: &List) -> Report {
    execute_job(node, &node.job(list))
}

fn names(report: &Report) -> Vec<(String, potluck_model::trace::Outcome)> {
    report.ended()
}
