//! Steps that go on while the executing process is gone, and what the next one makes of them.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod executor;

use std::fs;

use common::Node;
use executor::{finish, kill, left_running, shims, start, until};
use potluck_model::list::{List, OnInterrupt, Retry};
use potluck_model::trace::Outcome::{Changed, Failed, Interrupted};
use potluck_model::trace::{Outcome, What};
use potluck_provision::{Job, Position, Record, Tail};

/// Says that it runs, waits until it may go on, and ends as `end` says.
fn waits(end: &str) -> String {
    format!(
        "echo run >> $POTLUCK_ROOT/runs; echo before\n\
         while ! test -e $POTLUCK_ROOT/go; do sleep 0.02; done\n\
         echo after; {end}"
    )
}

fn two_steps(node: &Node, end: &str, on_interrupt: OnInterrupt) -> List {
    node.release(1)
        .script("waits", &waits(end))
        .with(|step| step.on_interrupt = on_interrupt)
        .script("next", "echo next >> $POTLUCK_ROOT/nexts")
        .list()
}

/// Starts, and is cut off while the first step waits. The step goes on.
fn cut_off(node: &Node, list: &List) {
    let executor = start(node, list);
    until(|| node.root("runs").exists() && output_is_noted(node));
    kill(executor);
    assert_eq!(shims(node).len(), 1);
}

fn output_is_noted(node: &Node) -> bool {
    fs::read_to_string(node.dir().join("journal.0"))
        .unwrap()
        .contains("before")
}

fn go(node: &Node) {
    fs::write(node.root("go"), "").unwrap();
}

#[test]
fn a_step_that_still_runs_is_awaited_and_has_its_true_end() {
    for (end, outcome, exit) in [
        ("exit 0", Changed, Some(0)),
        ("exit 7", Failed, Some(7)),
        ("kill -9 $$", Failed, None),
    ] {
        for on_interrupt in [OnInterrupt::Again, OnInterrupt::Fail] {
            let node = Node::new();
            let list = two_steps(&node, end, on_interrupt);
            cut_off(&node, &list);
            let executor = start(&node, &list);
            go(&node);
            let report = finish(&node, executor);
            assert_eq!(report.outcome("waits"), outcome, "{end}");
            assert_eq!(report.exit("waits"), exit, "{end}");
            assert_eq!(report.output("waits"), ["before", "after"], "each line once");
            assert_eq!(node.read("runs"), "run\n", "it runs once");
            let next = if outcome == Changed {
                "next\n"
            } else {
                "(No such file or directory (os error 2))"
            };
            assert_eq!(node.read("nexts"), next);
            assert_eq!(left_running(&node), [""; 0]);
        }
    }
}

#[test]
fn a_step_that_ended_while_nobody_was_there_has_its_true_end() {
    for (end, outcome, exit) in [("exit 0", Changed, Some(0)), ("exit 7", Failed, Some(7))] {
        let node = Node::new();
        let list = two_steps(&node, end, OnInterrupt::Fail);
        cut_off(&node, &list);
        go(&node);
        until(|| shims(&node).is_empty());
        let report = finish(&node, start(&node, &list));
        assert_eq!((report.outcome("waits"), report.exit("waits")), (outcome, exit));
        assert_eq!(report.output("waits"), ["before", "after"]);
        assert_eq!(node.read("runs"), "run\n");
        let kept = fs::read_dir(node.dir().join("shims")).unwrap().count();
        assert_eq!(kept, 0, "what is noted is not kept twice");
    }
}

#[test]
fn its_time_is_over_even_if_nobody_comes_back() {
    let node = Node::new();
    let list = node
        .release(1)
        .script(
            "hangs",
            "echo run >> $POTLUCK_ROOT/runs; echo before; timeout 2007 sleep 1007 & sleep 1008",
        )
        .with(|step| step.timeout_seconds = 2)
        .list();
    cut_off(&node, &list);
    until(|| shims(&node).is_empty());
    assert_eq!(left_running(&node), [""; 0]);
    let report = finish(&node, start(&node, &list));
    assert_eq!(report.outcome("hangs"), Failed);
    assert!(
        report.message("hangs").contains("did not end within 2 s"),
        "{}",
        report.message("hangs")
    );
    assert_eq!(node.read("runs"), "run\n");
}

#[test]
fn tries_go_on_where_they_were() {
    let node = Node::new();
    let list = node
        .release(1)
        .script("waits", &waits("test $(wc -l < $POTLUCK_ROOT/runs) = 3"))
        .with(|step| {
            step.retry = Some(Retry {
                times: 2,
                delay_seconds: 0,
            });
        })
        .list();
    cut_off(&node, &list);
    go(&node);
    let report = finish(&node, start(&node, &list));
    assert_eq!(report.outcome("waits"), Changed);
    assert_eq!(node.read("runs"), "run\n".repeat(3), "the first try is not made again");
}

#[test]
fn another_release_waits_for_the_step_and_says_how_it_ended() {
    let node = Node::new();
    let list = two_steps(&node, "exit 9", OnInterrupt::Again);
    cut_off(&node, &list);
    let other = node.release(2).script("other", "cat $POTLUCK_ROOT/runs").list();
    let executor = start(&node, &other);
    go(&node);
    let report = finish(&node, executor);
    assert_eq!(
        report.ended(),
        [("waits".into(), Interrupted), ("other".into(), Changed)]
    );
    assert_eq!(report.exit("waits"), Some(9));
    let of = |outcome: Outcome| {
        let found = report
            .records
            .iter()
            .find(|record| matches!(&record.what, What::StepEnded { outcome: o, .. } if *o == outcome));
        found.unwrap().list.unwrap()
    };
    assert_eq!(of(Interrupted), list.digest(), "it is told of its own list");
    assert_eq!(of(Changed), other.digest());
}

#[test]
fn a_guard_is_not_asked_again_about_a_step_that_runs() {
    let node = Node::new();
    let list = node
        .release(1)
        .script("waits", &waits("exit 0"))
        .with(|step| step.unless = Some(vec!["sh".into(), "-c".into(), "test -e $POTLUCK_ROOT/runs".into()]))
        .list();
    cut_off(&node, &list);
    let executor = start(&node, &list);
    go(&node);
    let report = finish(&node, executor);
    assert_eq!(report.outcome("waits"), Changed);
}
