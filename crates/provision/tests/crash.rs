//! A loop over all fail points: the executing process or a shim is killed there, or the disk fails, and the next executing
//! process has to make the best of it. `POTLUCK_CRASH_RUNS` says how often, a hundred times unless it does, and
//! `POTLUCK_CRASH_FIRST` which run is the first.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod executor;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::{Node, Report, below};
use executor::{finish, left_running, shims, start, until};
use potluck_model::list::{Action, ExitMeaning, ExitOutcome, List, OnInterrupt, Retry};
use potluck_model::trace::Outcome::{Changed, Failed, Interrupted, Skipped, Unchanged};
use potluck_model::trace::{Outcome, What};
use potluck_provision::{Job, Position, Record, Tail};

/// How often, unless the environment says.
const RUNS: usize = 100;
/// Runs that make it the whole loop, in which the time of recovering counts.
const RUNS_WHOLE: usize = 1_000;
/// A run that was cut off is to be done so long after the next one is started.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// Not a divisor of the number of cases, so that a short slice has some of all places.
const STRIDE: usize = 7_919;
/// How many nodes are killed at a time.
const WORKERS: usize = 4;
/// Lines that the step `again` prints.
const LINES: [&str; 3] = ["one", "two", "three"];

/// Where something happens, and what.
#[derive(Clone, Debug)]
struct Case {
    place: String,
    action: &'static str,
    variant: Variant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Variant {
    First,
    /// Another release was executed before.
    Upgrade,
    /// The last step fails, and must not come out as anything else.
    Failing,
    /// The process that recovers is cut off at the same place.
    Twice,
}

const VARIANTS: [Variant; 4] = [Variant::First, Variant::Upgrade, Variant::Failing, Variant::Twice];

/// What happened, over all cases.
#[derive(Default, Debug)]
struct Tally {
    fired: usize,
    interrupted: usize,
    slowest: Duration,
}

fn release(node: &Node, number: u64, variant: Variant) -> List {
    let mut release = node.release(number);
    for file in 0..20 {
        let text = format!("release {number} file {file} ").repeat(40);
        release = release.file(&format!("site/{file}"), 0o644, text);
    }
    let marks = |id: &str| {
        format!(
            "echo start $POTLUCK_RELEASE >> $POTLUCK_ROOT/{id}.log; sleep 0.01\n\
             echo end $POTLUCK_RELEASE >> $POTLUCK_ROOT/{id}.log\n\
             : of release {number}\n"
        )
    };
    let mut release = release
        .place("site", "site", "/srv")
        .script("once", &marks("once"))
        .with(|step| step.on_interrupt = OnInterrupt::Fail)
        .script("again", &format!("echo one; echo two\n{}\necho three", marks("again")))
        .file("conf.j2", 0o644, "release {{ release }}")
        .step(
            "conf",
            Action::Template {
                source: "conf.j2".into(),
                dest: "/etc/conf".into(),
                mode: None,
                keep: false,
            },
        )
        .with(|step| step.notify = vec!["follow".parse().unwrap()])
        .script("guarded", "touch $POTLUCK_ROOT/guarded")
        .with(|step| {
            step.unless = Some(vec!["sh".into(), "-c".into(), "test -e $POTLUCK_ROOT/guarded".into()]);
        })
        .script(
            "flaky",
            &format!("echo x >> $POTLUCK_ROOT/flaky.{number}; test $(wc -l < $POTLUCK_ROOT/flaky.{number}) -ge 2"),
        )
        .with(|step| {
            step.retry = Some(Retry {
                times: 2,
                delay_seconds: 0,
            });
        })
        .script("nothing", "exit 3")
        .with(|step| {
            if let Action::Run { exit, .. } = &mut step.action {
                exit.push(ExitMeaning {
                    code: 3,
                    means: ExitOutcome::Unchanged,
                });
            }
        });
    if variant == Variant::Failing {
        release = release.script("bad", "exit 9");
    }
    // What is notified is done last.
    release
        .script("follow", "echo followed $POTLUCK_RELEASE >> $POTLUCK_ROOT/follow.log")
        .with(|step| step.unless = Some(vec!["false".into()]))
        .list()
}

fn plan(node: &Node, case: &str) {
    fs::create_dir_all(node.dir()).unwrap();
    fs::write(node.dir().join("fail-point"), case).unwrap();
}

/// Starts one that is cut off, or not, and waits until it and what it started are over.
fn start_and_fall(node: &Node, list: &List) {
    start(node, list).wait().unwrap();
}

/// All places that are come by in a run of which nothing is cut off, and whether the disk can fail there.
fn places(variant: Variant) -> Vec<(String, bool)> {
    let node = Node::new();
    if variant == Variant::Upgrade {
        finish(&node, start(&node, &release(&node, 1, variant)));
    }
    plan(&node, "none kill");
    finish(&node, start(&node, &release(&node, 2, variant)));
    let trace = fs::read_to_string(node.dir().join("fail-trace")).unwrap();
    trace
        .lines()
        .map(|line| {
            let (place, kind) = line.split_once(' ').unwrap();
            (place.to_owned(), kind == "disk")
        })
        .collect()
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for variant in VARIANTS {
        for (place, disk) in places(variant) {
            let actions: &[&str] = if disk { &["kill", "enospc", "eio"] } else { &["kill"] };
            cases.extend(actions.iter().map(|action| Case {
                place: place.clone(),
                action,
                variant,
            }));
        }
    }
    cases
}

/// Does one case, and says how long the recovery took, and whether it came by the place.
fn try_case(case: &Case, tally: &Mutex<Tally>) {
    let node = Node::new();
    if case.variant == Variant::Upgrade {
        finish(&node, start(&node, &release(&node, 1, case.variant)));
        node.news();
    }
    let list = release(&node, 2, case.variant);
    plan(&node, &format!("{} {}", case.place, case.action));
    start_and_fall(&node, &list);
    if case.variant == Variant::Twice {
        start_and_fall(&node, &list);
    }
    let trace = fs::read_to_string(node.dir().join("fail-trace")).unwrap_or_default();
    fs::remove_file(node.dir().join("fail-point")).unwrap();
    let begun = Instant::now();
    let mut executor = start(&node, &list);
    let status = executor.wait().unwrap();
    let took = begun.elapsed();
    assert!(status.success(), "{}", potluck_provision::last_words(&node.dir()));
    let report = node.news();
    check(&node, &report, case);
    // Until it is as it should be: a step that may not be done again has failed until somebody tries again.
    let mut again = finish(&node, start(&node, &list));
    if again.recap().changed > 0 {
        again = finish(&node, start(&node, &list));
    }
    assert_eq!(again.recap().changed, 0, "{:?}", again.ended());
    let failing = u32::from(case.variant == Variant::Failing);
    assert_eq!(
        u64::from(failing),
        u64::from(again.recap().failed),
        "{:?}",
        again.ended()
    );
    for id in ["once", "again"] {
        assert_eq!(again.outcome(id), Unchanged, "{id}");
    }
    until(|| shims(&node).is_empty());
    assert_eq!(left_running(&node), [""; 0]);
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    tally.fired += usize::from(
        trace
            .lines()
            .any(|line| line.split(' ').next() == Some(case.place.as_str())),
    );
    tally.interrupted += usize::from(report.ended().iter().any(|(_, outcome)| *outcome == Interrupted));
    tally.slowest = tally.slowest.max(took);
}

/// What must be so once the run that was cut off has been taken up, whatever happened.
fn check(node: &Node, report: &Report, case: &Case) {
    let count = |name: &str, line: &str| node.read(name).lines().filter(|found| *found == line).count();
    let ended = |id: &str, wanted: &[Outcome]| {
        let all = report.ended();
        all.iter()
            .filter(|(step, outcome)| step == id && wanted.contains(outcome))
            .count()
    };
    for id in ["once", "again"] {
        let (starts, ends) = (
            count(&format!("{id}.log"), "start 2"),
            count(&format!("{id}.log"), "end 2"),
        );
        let allowed = 1 + ended(id, &[Failed]) + if id == "again" { ended(id, &[Interrupted]) } else { 0 };
        assert!(starts <= allowed, "{id} began {starts} times, {:?}", report.ended());
        match report.outcome(id) {
            Changed | Unchanged => assert!(ends >= 1, "{id} is said to have been done: {:?}", report.ended()),
            Failed => {}
            Outcome::Blocked if report.outcome("once") == Failed => {}
            other => panic!("{id} came out as {other:?}"),
        }
    }
    nothing_is_torn(node, case);
    each_line_once(report);
    if report.ended().iter().any(|(id, _)| id == "bad") {
        assert!(
            matches!(report.outcome("bad"), Failed | Outcome::Blocked),
            "{:?}",
            report.ended()
        );
        if report.outcome("bad") == Failed {
            assert_eq!(report.exit("bad"), Some(9));
        }
    }
    let all_well = report.recap().converged();
    if all_well {
        assert_eq!(node.read("etc/conf"), "release 2");
        assert!(count("follow.log", "followed 2") >= 1, "{:?}", report.ended());
        assert!(node.root("guarded").exists());
        assert!(matches!(report.outcome("guarded"), Changed | Unchanged | Skipped));
    } else if case.variant != Variant::Failing {
        // The only reason not to be done now: what may not be done again.
        assert_eq!(report.outcome("once"), Failed, "{:?}", report.ended());
        assert!(
            report.message("once").contains("on_interrupt"),
            "{}",
            report.message("once")
        );
    }
}

fn nothing_is_torn(node: &Node, case: &Case) {
    for path in below(&node.root("")) {
        assert!(!path.contains(".potluck-"), "{path} was left");
        if let Some(name) = path.strip_prefix("srv/") {
            let text = node.read(&path);
            let whole = |number: u64| text == format!("release {number} file {name} ").repeat(40);
            assert!(
                whole(2) || (whole(1) && case.variant == Variant::Upgrade),
                "{path} is torn"
            );
        }
    }
}

/// The step that prints lines has each once, if it came out well in one go.
fn each_line_once(report: &Report) {
    let mut lines = Vec::new();
    for record in &report.records {
        match &record.what {
            What::StepStarted { step } if step.as_str() == "again" => lines.clear(),
            What::StepOutput { step, line } if step.as_str() == "again" => lines.push(line.as_str()),
            What::StepEnded {
                step, outcome: Changed, ..
            } if step.as_str() == "again" => assert_eq!(lines, LINES),
            _ => {}
        }
    }
}

#[test]
fn wherever_it_is_cut_off_nothing_is_torn_wrongly_done_or_done_twice() {
    let from_env = |name: &str, usual| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let runs = from_env("POTLUCK_CRASH_RUNS", RUNS);
    let first = from_env("POTLUCK_CRASH_FIRST", 0);
    let cases = cases();
    let tally = Mutex::new(Tally::default());
    let next = AtomicUsize::new(first);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let run = next.fetch_add(1, Ordering::Relaxed);
                    if run >= first + runs {
                        return;
                    }
                    let case = &cases[run * STRIDE % cases.len()];
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| try_case(case, &tally)));
                    assert!(result.is_ok(), "in run {run}: {case:?}");
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{runs} runs over {} cases: {} came by their place, {} had an interrupted step, the slowest recovery took {:?}",
        cases.len(),
        tally.fired,
        tally.interrupted,
        tally.slowest
    );
    assert!(
        tally.fired * 10 >= runs * 9,
        "too many places were not come by: {tally:?}"
    );
    if runs >= RUNS_WHOLE {
        assert!(tally.slowest <= RECOVERY_MAX, "{tally:?}");
    }
}
