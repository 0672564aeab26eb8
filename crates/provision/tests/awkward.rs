//! Scripts that do what scripts should not: each ends as it is documented, and the next step is done or not as configured.

mod common;
mod executor;

use common::{Node, Report};
use executor::{finish, left_running, start};
use potluck_model::list::{List, OnFailure};
use potluck_model::trace::Outcome::{Blocked, Changed, Failed};
use potluck_provision::{Job, Position, Record, Tail};

/// The script, and a step behind it that needs files of the release.
fn release(node: &Node, script: &str, on_failure: OnFailure) -> List {
    node.release(1)
        .script("awkward", script)
        .with(|step| {
            step.timeout_seconds = 60;
            step.on_failure = on_failure;
        })
        .file("lib/data", 0o644, "data of the release")
        .script("next", "cat lib/data >> $POTLUCK_ROOT/next")
        .list()
}

fn run(node: &Node, script: &str, on_failure: OnFailure) -> Report {
    finish(node, start(node, &release(node, script, on_failure)))
}

/// It fails, and what is behind it is blocked or done as it says.
fn fails(script: &str, timeout_seconds: u64, message: &str) {
    for (on_failure, next) in [(OnFailure::Stop, Blocked), (OnFailure::Continue, Changed)] {
        let node = Node::new();
        let mut list = release(&node, script, on_failure);
        list.steps[0].timeout_seconds = timeout_seconds;
        let report = finish(&node, start(&node, &list));
        assert_eq!(report.outcome("awkward"), Failed);
        assert!(
            report.message("awkward").contains(message),
            "{}",
            report.message("awkward")
        );
        assert_eq!(report.outcome("next"), next);
        assert_eq!(left_running(&node), [""; 0]);
    }
}

/// It ends well, and so does what is behind it.
fn does_well(script: &str) -> (Node, Report) {
    let node = Node::new();
    let report = run(&node, script, OnFailure::Stop);
    assert_eq!(report.outcome("awkward"), Changed, "{}", report.message("awkward"));
    assert_eq!(report.outcome("next"), Changed, "{}", report.message("next"));
    assert_eq!(node.read("next"), "data of the release");
    (node, report)
}

#[test]
fn one_that_hangs_is_ended_with_its_children_in_other_groups_and_sessions() {
    let script = "trap '' TERM HUP\n\
        timeout 3001 sleep 2001 & setsid sleep 2002 &\n\
        (setsid setsid sleep 2003 &)\n\
        sleep 2004";
    fails(
        script,
        1,
        "did not end within 1 s, and was ended with all its processes",
    );
}

#[test]
fn one_that_floods_a_gibibyte_is_read_to_its_end_and_little_is_kept() {
    let (_, report) = does_well("yes 'the same line again and again' | head -c 1073741824; echo the end");
    let lines = report.output("awkward");
    assert_eq!(lines.len(), 10_001);
    assert!(lines.last().unwrap().contains("not kept"), "{:?}", lines.last());
}

#[test]
fn one_that_closes_its_descriptors_is_awaited() {
    does_well("exec <&- >&- 2>&-; sleep 0.3; echo late > $POTLUCK_ROOT/late");
    fails("exec <&- >&- 2>&-; sleep 0.3; exit 5", 60, "exit code 5");
}

#[test]
fn one_that_leaves_a_daemon_behind_ends_when_it_ends_itself() {
    let (node, _) = does_well(
        "setsid sh -c 'echo $$ > $POTLUCK_ROOT/pid; exec sleep 2005' & \nwhile ! test -s $POTLUCK_ROOT/pid; do sleep 0.02; done",
    );
    assert_eq!(left_running(&node).len(), 1, "the daemon is left alone");
    let pid = rustix::process::Pid::from_raw(node.read("pid").trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn one_that_is_ended_by_a_signal_says_which() {
    fails("kill -SEGV $$", 60, "SIGSEGV (11)");
    fails("kill -TERM $$", 60, "SIGTERM (15)");
    // With all of its group: what stays with it is in another.
    fails("kill -KILL 0", 60, "SIGKILL (9)");
}

#[test]
fn one_that_removes_its_directory_leaves_the_files_of_the_release_to_the_next() {
    does_well("rm -rf \"$PWD\"");
}
