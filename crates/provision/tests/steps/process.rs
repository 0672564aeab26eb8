//! The executing process: halts, verification, and what it is alone with.

use std::fs;
use std::path::Path;

use potluck_model::trace::Outcome::{Changed, Halted, Unchanged};
use potluck_provision::{Executor, Job, Position, Record, RunState, Tail, last_words, running, state};

use crate::common::{Node, below};
use crate::{PROGRAM, execute, execute_job, names};

#[test]
fn a_halted_fleet_starts_no_step() {
    let node = Node::new();
    let list = node
        .release(1)
        .script("a", "touch $POTLUCK_ROOT/a")
        .script("b", "touch $POTLUCK_ROOT/b")
        .list();
    let mut job = node.job(&list);
    job.halted = true;
    let report = execute_job(&node, &job);
    assert_eq!(names(&report), [("a".into(), Halted), ("b".into(), Halted)]);
    assert!(below(&node.root("")).is_empty());
    assert_eq!(execute(&node, &list).recap().changed, 2);
}

/// A step that waits until somebody writes to the pipe that it makes.
const WAITS: &str = "mkfifo $POTLUCK_ROOT/pipe; echo waiting; cat $POTLUCK_ROOT/pipe > $POTLUCK_ROOT/got";

fn until(what: impl Fn() -> bool) {
    for _ in 0..60_000 {
        if what() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("it did not come to that in a minute");
}

#[test]
fn a_halt_lets_the_running_step_finish_also_after_the_agent_has_gone() {
    for pipe_is_gone in [false, true] {
        let node = Node::new();
        let list = node.release(1).script("a", WAITS).script("b", "true").list();
        let mut executor = Executor::start(Path::new(PROGRAM), &[], &node.dir(), &node.job(&list)).unwrap();
        until(|| node.root("pipe").exists());
        assert!(running(&node.dir()));
        assert!(matches!(
            state(&node.dir()).unwrap().unwrap().state,
            RunState::Unfinished
        ));
        if pipe_is_gone {
            potluck_provision::halt(&node.dir()).unwrap();
            drop(executor);
        } else {
            executor.halt().unwrap();
            drop(executor);
        }
        fs::write(node.root("pipe"), "go on").unwrap();
        until(|| !running(&node.dir()));
        let report = node.news();
        assert_eq!(names(&report), [("a".into(), Changed), ("b".into(), Halted)]);
        assert_eq!(node.read("got"), "go on");
        let report = execute(&node, &list);
        assert_eq!(names(&report), [("a".into(), Unchanged), ("b".into(), Changed)]);
    }
}

#[test]
fn records_can_be_read_while_a_step_runs() {
    let node = Node::new();
    let list = node.release(1).script("a", WAITS).list();
    let mut executor = Executor::start(Path::new(PROGRAM), &[], &node.dir(), &node.job(&list)).unwrap();
    let mut tail = Tail::new(&node.dir(), Position::default());
    let mut lines = Vec::new();
    until(|| node.root("pipe").exists());
    while lines.is_empty() {
        for Record { what, .. } in tail.poll().unwrap() {
            if let potluck_model::trace::What::StepOutput { line, .. } = what {
                lines.push(line);
            }
        }
    }
    assert_eq!(lines, ["waiting"]);
    assert!(executor.finished().unwrap().is_none());
    fs::write(node.root("pipe"), "").unwrap();
    assert!(executor.wait().unwrap().success());
}

#[test]
fn a_second_executing_process_in_the_same_directory_is_refused() {
    let node = Node::new();
    let list = node.release(1).script("a", WAITS).list();
    let job = node.job(&list);
    let mut first = Executor::start(Path::new(PROGRAM), &[], &node.dir(), &job).unwrap();
    until(|| node.root("pipe").exists());
    let mut second = Executor::start(Path::new(PROGRAM), &[], &node.dir(), &job).unwrap();
    assert!(!second.wait().unwrap().success());
    assert!(
        last_words(&node.dir()).contains("another process"),
        "{}",
        last_words(&node.dir())
    );
    fs::write(node.root("pipe"), "").unwrap();
    assert!(first.wait().unwrap().success());
}

/// Runs a job that must be refused, and returns why.
fn refused(node: &Node, job: &Job) -> String {
    let mut executor = Executor::start(Path::new(PROGRAM), &[], &node.dir(), job).unwrap();
    assert!(!executor.wait().unwrap().success());
    let trouble = node.news().trouble();
    assert_eq!(trouble.len(), 1, "{trouble:?}");
    assert_eq!(last_words(&node.dir()), trouble[0]);
    assert!(below(&node.root("")).is_empty());
    trouble[0].clone()
}

#[test]
fn a_job_that_cannot_be_verified_executes_nothing() {
    let node = Node::new();
    let list = node.release(1).script("a", "touch $POTLUCK_ROOT/a").list();
    let other = Node::new();
    let mut job = node.job(&list);
    job.assignment = other.job(&list).assignment;
    assert!(refused(&node, &job).contains("signature"));
    let mut job = node.job(&list);
    fs::write(&job.list.path, "not it").unwrap();
    job.list.len = 6;
    assert!(refused(&node, &job).contains("not those that are assigned"));
    let mut job = node.job(&list);
    job.machine_root = node.root("missing");
    assert!(refused(&node, &job).contains("missing"));
    // Now that a good one has pinned the root, another fleet has nothing to say.
    execute(&node, &node.release(2).list());
    assert!(refused(&node, &other.job(&list)).contains("stays in the fleet"));
}

#[test]
fn steps_inherit_no_file_of_the_executing_process() {
    let node = Node::new();
    let list = node.release(1).script("a", "ls -l /proc/self/fd; umask").list();
    let output = execute(&node, &list).output("a");
    for name in ["lock", "journal", "store", "/log", "/root"] {
        let inherited = output
            .iter()
            .find(|line| line.contains(&format!("{}{name}", node.dir().display())));
        assert_eq!(inherited, None);
    }
    assert_eq!(output.last().unwrap(), "0022");
}
