//! What was being taken back when the executing process died, the next one goes on taking back.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::fs;
use std::path::Path;

use common::{Node, Report, below};
use potluck_model::list::List;
use potluck_model::trace::Outcome::Undone;
use potluck_provision::{Executor, Job, Position, Record, Tail, last_words};

const PROGRAM: &str = env!("CARGO_BIN_EXE_potluck-execute");
/// Kills the executing process when it is run for the first time.
const DEADLY: &str = "#!/bin/sh\necho undo >> $POTLUCK_ROOT/log\ntest -e $POTLUCK_ROOT/died && exit 0\n\
                      touch $POTLUCK_ROOT/died\nkill -9 $PPID\nsleep 100\n";

fn start(node: &Node, job: &Job) -> bool {
    let mut executor = Executor::start(Path::new(PROGRAM), &[], &node.dir(), job).unwrap();
    executor.wait().unwrap().success()
}

fn finish(node: &Node, job: &Job) -> Report {
    assert!(start(node, job), "{}", last_words(&node.dir()));
    node.news()
}

fn good(node: &Node) -> List {
    node.release(1)
        .file("a", 0o644, "one")
        .place("a", "a", "/etc/a")
        .health(&["true"], 0, 0)
        .list()
}

/// A release that is not healthy, and of which the taking back is cut off in its middle.
fn bad(node: &Node) -> List {
    node.release(2)
        .file("a", 0o644, "two")
        .file("b", 0o644, "b")
        .file("undo.sh", 0o755, DEADLY)
        .place("a", "a", "/etc/a")
        .script("middle", "true")
        .with(|step| step.undo = Some(vec!["./undo.sh".into()]))
        .place("b", "b", "/etc/b")
        .health(&["false"], 0, 0)
        .list()
}

#[test]
fn it_goes_on_where_it_was_and_restores_the_release_before() {
    let node = Node::new();
    finish(&node, &node.job(&good(&node)));
    let job = node.job(&bad(&node));
    assert!(!start(&node, &job), "it was killed");
    assert!(!node.root("etc/b").exists(), "the latest was taken back");
    assert_eq!(node.read("etc/a"), "two");
    let report = finish(&node, &job);
    assert_eq!(node.read("etc/a"), "one");
    assert_eq!(
        node.read("log"),
        "undo\nundo\n",
        "an undo that was cut off is run again"
    );
    let undone: Vec<String> = report
        .ended()
        .into_iter()
        .filter(|(_, outcome)| *outcome == Undone)
        .map(|(id, _)| id)
        .collect();
    assert_eq!(undone, ["b", "middle", "a"]);
    assert!(
        report.trouble()[0].contains("release 1 was restored"),
        "{:?}",
        report.trouble()
    );
    assert_eq!(below(&node.dir().join("undo")), [""; 0]);
    // It was reported as one run.
    assert_eq!(report.recap().undone, 3);
}

#[test]
fn it_is_finished_before_another_release_begins() {
    let node = Node::new();
    finish(&node, &node.job(&good(&node)));
    assert!(!start(&node, &node.job(&bad(&node))));
    let next = node
        .release(3)
        .file("c", 0o644, "three")
        .place("c", "c", "/etc/c")
        .health(&["true"], 0, 0)
        .list();
    let report = finish(&node, &node.job(&next));
    assert!(report.recap().converged());
    assert_eq!(
        below(&node.root("etc")),
        ["c"],
        "what release 1 had placed is not listed any more"
    );
    assert_eq!(
        node.read("log"),
        "undo\n",
        "the undo of a release that is not assigned any more cannot be run"
    );
    assert!(
        report.message("middle").contains("not assigned any more"),
        "{}",
        report.message("middle")
    );
}

#[test]
fn what_was_kept_is_gone_when_a_release_has_ended_well() {
    let node = Node::new();
    finish(&node, &node.job(&good(&node)));
    fs::write(node.root("etc/a"), "drifted").unwrap();
    let report = finish(&node, &node.job(&good(&node)));
    assert!(report.recap().converged());
    assert_eq!(below(&node.dir().join("undo")), [""; 0]);
    assert_eq!(below(&node.dir().join("good")).len(), 1);
}
