//! kill -9 of the executing process, and what the next one makes of it.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod executor;

use std::fs;
use std::time::Duration;

use common::{Node, below};
use executor::{finish, kill, left_running, power_off, runs, start, until};
use potluck_model::list::{Action, List};
use potluck_model::trace::Outcome::{Changed, Failed, Interrupted, Unchanged};
use potluck_model::trace::What;
use potluck_provision::{Job, Position, Record, RunState, Tail, running, state};

/// The first time, it leaves its process id and does not come back.
const HANGS_ONCE: &str = "echo run >> $POTLUCK_ROOT/runs\n\
    test -e $POTLUCK_ROOT/pid && exit 0\n\
    sleep 100000 & echo $! > $POTLUCK_ROOT/pid.new; mv $POTLUCK_ROOT/pid.new $POTLUCK_ROOT/pid; wait";

#[test]
fn a_run_goes_on_after_the_last_finished_step_and_says_what_was_interrupted() {
    let node = Node::new();
    let list = node
        .release(1)
        .script("first", "echo first >> $POTLUCK_ROOT/firsts")
        .with(|step| step.unless = Some(vec!["false".into()]))
        .script("hangs", HANGS_ONCE)
        .script("last", "echo last >> $POTLUCK_ROOT/lasts")
        .list();
    let executor = start(&node, &list);
    until(|| node.root("pid").exists());
    power_off(&node, executor);
    let child: i32 = node.read("pid").trim().parse().unwrap();
    assert!(runs(child), "the step outlives the executing process");
    assert!(!running(&node.dir()), "a step does not hold the lock");
    assert_eq!(state(&node.dir()).unwrap().unwrap().state, RunState::Unfinished);

    let report = finish(&node, start(&node, &list));
    assert_eq!(
        report.ended(),
        [
            ("first".into(), Changed),
            ("hangs".into(), Interrupted),
            ("hangs".into(), Changed),
            ("last".into(), Changed)
        ]
    );
    assert!(!runs(child), "no two of a step run at a time");
    assert_eq!(
        node.read("firsts"),
        "first\n",
        "what was finished is not done again, guard or not"
    );
    assert_eq!(node.read("runs"), "run\nrun\n");
    assert_eq!(node.read("lasts"), "last\n");
    assert_eq!(
        report.recap().to_string(),
        "changed=3 unchanged=0 failed=0 skipped=0 blocked=0"
    );
}

#[test]
fn a_step_that_is_interrupted_each_time_is_tried_once_a_job() {
    let node = Node::new();
    let list = node
        .release(1)
        .script(
            "hangs",
            "echo run >> $POTLUCK_ROOT/runs; touch $POTLUCK_ROOT/$$; sleep 100000",
        )
        .list();
    for count in 1..=3 {
        let executor = start(&node, &list);
        until(|| node.read("runs") == "run\n".repeat(count));
        power_off(&node, executor);
    }
    let report = node.news();
    let interrupted = report
        .ended()
        .iter()
        .filter(|(_, outcome)| *outcome == Interrupted)
        .count();
    assert_eq!(interrupted, 2, "the third is not known yet");
    let other = node.release(2).script("other", "true").list();
    let report = finish(&node, start(&node, &other));
    assert_eq!(left_running(&node), [""; 0]);
    assert_eq!(
        report.ended(),
        [("hangs".into(), Interrupted), ("other".into(), Changed)]
    );
    let interrupted = &report.records.iter().find(|record| {
        matches!(
            record.what,
            What::StepEnded {
                outcome: Interrupted,
                ..
            }
        )
    });
    assert_eq!(
        interrupted.unwrap().list,
        Some(list.digest()),
        "it is told of its own list"
    );
}

#[test]
fn a_failed_step_is_done_again_although_the_run_was_cut_off_behind_it() {
    let node = Node::new();
    let list = node
        .release(1)
        .script("good", "echo good >> $POTLUCK_ROOT/goods")
        .with(|step| step.unless = Some(vec!["false".into()]))
        .script("bad", "test -e $POTLUCK_ROOT/ready")
        .list();
    let report = finish(&node, start(&node, &list));
    assert_eq!(report.outcome("bad"), Failed);
    fs::write(node.root("ready"), "").unwrap();
    let report = finish(&node, start(&node, &list));
    assert_eq!(report.outcome("bad"), Changed);
    assert_eq!(node.read("goods"), "good\ngood\n", "a run that is over is begun anew");
}

#[test]
fn the_run_outlives_the_agent_and_is_found_again() {
    let node = Node::new();
    let list = node
        .release(1)
        .script("a", "mkfifo $POTLUCK_ROOT/pipe; cat $POTLUCK_ROOT/pipe > /dev/null")
        .script("b", "cut -d' ' -f6 /proc/$$/stat > $POTLUCK_ROOT/session")
        .list();
    let executor = start(&node, &list);
    let id = executor.id();
    until(|| node.root("pipe").exists());
    // The pipe closes, as it does when an agent dies.
    drop(executor);
    assert!(running(&node.dir()));
    let mut tail = Tail::new(&node.dir(), Position::default());
    let before = tail.poll().unwrap().len();
    assert!(before > 0);
    let mut again = Tail::new(&node.dir(), tail.position());
    fs::write(node.root("pipe"), "").unwrap();
    until(|| !running(&node.dir()));
    let rest: Vec<Record> = again.poll().unwrap();
    assert!(matches!(rest.last().unwrap().what, What::Executed { recap } if recap.changed == 2));
    let session = node.read("session");
    assert_ne!(
        session.trim(),
        id.to_string(),
        "its session is not that of the executing process"
    );
    assert_ne!(
        session,
        fs::read_to_string("/proc/self/stat")
            .unwrap()
            .rsplit(')')
            .next()
            .unwrap()
            .split(' ')
            .nth(4)
            .unwrap()
    );
}

fn big_release(node: &Node, number: u64) -> List {
    let mut release = node.release(number);
    for file in 0..300 {
        let text = format!("release {number} file {file} ").repeat(50);
        release = release.file(&format!("site/{}/{file}", file % 7), 0o644, text);
    }
    // Each release has some that the other has not.
    release = release.file(&format!("site/only-{number}"), 0o644, format!("release {number}"));
    let mut builder = tar::Builder::new(Vec::new());
    for file in 0..50 {
        let text = format!("release {number} entry {file} ").repeat(20);
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, format!("app/{file}"), text.as_bytes())
            .unwrap();
    }
    release
        .place("site", "site", "/srv")
        .file("app.tar", 0o644, builder.into_inner().unwrap())
        .step(
            "app",
            Action::Archive {
                source: "app.tar".into(),
                dest: "/opt".into(),
            },
        )
        .script("once", &format!("echo {number} >> $POTLUCK_ROOT/ran; sleep 0.05"))
        .list()
}

/// No file is half: each is that of one of the two releases, from its first byte to its last.
fn nothing_is_torn(node: &Node) {
    let root = node.root("");
    for path in below(&root) {
        let name = path.rsplit('/').next().unwrap();
        if !root.join(&path).is_file() || path == "ran" || name.starts_with(".potluck-") {
            continue;
        }
        let text = node.read(&path);
        let whole = |number: u64| {
            if name.starts_with("only-") {
                text == format!("release {number}")
            } else if path.starts_with("srv") {
                text == format!("release {number} file {name} ").repeat(50)
            } else {
                text == format!("release {number} entry {name} ").repeat(20)
            }
        };
        assert!(whole(1) || whole(2), "{path} is torn: {text:?}");
    }
}

#[test]
fn killed_at_any_moment_nothing_is_torn_and_the_release_is_reached() {
    let node = Node::new();
    let lists = [big_release(&node, 1), big_release(&node, 2)];
    let mut kills = 0;
    for round in 0..6_u64 {
        let list = &lists[usize::try_from(round % 2).unwrap()];
        // From before its first line to about its end.
        for delay in [0, 1, 3, 10, 30, 60].map(|delay| delay * (round + 1)) {
            let executor = start(&node, list);
            std::thread::sleep(Duration::from_millis(delay));
            kill(executor);
            kills += 1;
            nothing_is_torn(&node);
        }
        if round % 3 == 1 {
            continue;
        }
        let report = finish(&node, start(&node, list));
        assert!(report.recap().converged(), "{:?}", report.ended());
        let number = list.release;
        let srv = below(&node.root("srv"));
        assert_eq!(srv.len(), 300 + 7 + 1, "{srv:?}");
        assert!(srv.contains(&format!("only-{number}")), "{srv:?}");
        assert_eq!(node.read("srv/3/3"), format!("release {number} file 3 ").repeat(50));
        assert_eq!(
            node.read("opt/app/49"),
            format!("release {number} entry 49 ").repeat(20)
        );
        let left: Vec<String> = below(&node.root(""))
            .into_iter()
            .filter(|path| path.contains(".potluck-"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let again = finish(&node, start(&node, list));
        assert_eq!(again.recap().changed, 0, "{:?}", again.ended());
        assert_eq!(again.outcome("once"), Unchanged);
    }
    assert_eq!(kills, 36);
    assert_eq!(left_running(&node), [""; 0]);
}
