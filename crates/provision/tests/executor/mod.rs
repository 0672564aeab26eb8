//! Executing processes as the agent starts them, and how they are ended.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "test code, of which each test program uses a part"
)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use potluck_model::list::List;
use potluck_provision::{Executor, Job, last_words};
use rustix::process::{Pid, Signal};

use crate::common::{Node, Report};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_potluck-execute");

pub(crate) fn start(node: &Node, list: &List) -> Executor {
    start_job(node, &node.job(list))
}

pub(crate) fn start_job(node: &Node, job: &Job) -> Executor {
    Executor::start(Path::new(PROGRAM), &[], &node.dir(), job).unwrap()
}

pub(crate) fn finish(node: &Node, mut executor: Executor) -> Report {
    let status = executor.wait().unwrap();
    assert!(status.success(), "{status}: {}", last_words(&node.dir()));
    node.news()
}

pub(crate) fn kill(mut executor: Executor) {
    let pid = Pid::from_raw(i32::try_from(executor.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    executor.wait().unwrap();
}

/// As when the machine goes down: the shims go, too.
pub(crate) fn power_off(node: &Node, executor: Executor) {
    kill(executor);
    for shim in shims(node) {
        rustix::process::kill_process(Pid::from_raw(shim).unwrap(), Signal::KILL).unwrap();
    }
    until(|| shims(node).is_empty());
}

/// The processes that stay with steps of this node.
pub(crate) fn shims(node: &Node) -> Vec<i32> {
    let dir = node.dir().canonicalize().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let words = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
        if words.starts_with("potluck-shim") && words.contains(dir.to_str().unwrap()) {
            found.push(path.file_name().unwrap().to_str().unwrap().parse().unwrap());
        }
    }
    found
}

pub(crate) fn until(what: impl Fn() -> bool) {
    for _ in 0..60_000 {
        if what() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it did not come to that in a minute");
}

pub(crate) fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Processes of steps of this node that still run.
pub(crate) fn left_running(node: &Node) -> Vec<String> {
    let mark = format!("POTLUCK_ROOT={}", node.root("").canonicalize().unwrap().display());
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let environ = fs::read(path.join("environ")).unwrap_or_default();
        if environ
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes())
        {
            left.push(fs::read_to_string(path.join("stat")).unwrap_or_default());
        }
    }
    left
}
