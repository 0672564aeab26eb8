//! Conditions, tries, failures, interruptions and limits.

use std::fs;

use potluck_model::list::{Limits, OnFailure, OnInterrupt, Retry};
use potluck_model::trace::Outcome::{Blocked, Changed, Failed, Skipped};

use crate::bench::Bench;

#[test]
fn a_condition_that_does_not_hold_skips_the_step() {
    let bench = Bench::new(false);
    let list = |when: &str| {
        bench
            .node
            .release(1)
            .script("only", "true")
            .with(|step| step.when = Some(when.into()))
            .list()
    };
    let report = bench.execute(&list("facts.os == 'plan9'"));
    assert_eq!(report.outcome("only"), Skipped);
    assert!(report.message("only").contains("plan9"));
    assert_eq!(
        bench
            .execute(&list("facts.os == 'linux' and facts.memory_mb > 1"))
            .outcome("only"),
        Changed
    );
    let report = bench.execute(&list("facts.of_the_future > 1"));
    assert_eq!(report.outcome("only"), Failed);
    assert!(report.message("only").contains("update it"));
}

#[test]
fn a_step_is_tried_again_as_often_as_it_says() {
    let bench = Bench::new(false);
    let list = |number, times| {
        bench
            .node
            .release(number)
            .script(
                "flaky",
                "echo x >> $POTLUCK_ROOT/tries; test $(wc -l < $POTLUCK_ROOT/tries) -ge 3",
            )
            .with(|step| {
                step.retry = Some(Retry {
                    times,
                    delay_seconds: 0,
                });
            })
            .list()
    };
    let report = bench.execute(&list(1, 1));
    assert_eq!(report.outcome("flaky"), Failed);
    assert!(
        report.output("flaky")[0].starts_with("(try 1 of 2 failed: exit code 1"),
        "{:?}",
        report.output("flaky")
    );
    fs::remove_file(bench.node.root("tries")).unwrap();
    assert_eq!(bench.execute(&list(2, 5)).outcome("flaky"), Changed);
    assert_eq!(bench.node.read("tries"), "x\nx\nx\n");
}

#[test]
fn a_failure_that_may_go_on_blocks_only_what_needs_it() {
    let bench = Bench::new(false);
    let list = bench
        .node
        .release(1)
        .script("bad", "exit 1")
        .with(|step| step.on_failure = OnFailure::Continue)
        .script("needs", "true")
        .with(|step| step.needs = vec!["bad".parse().unwrap()])
        .script("other", "true")
        .list();
    let report = bench.execute(&list);
    let ended: Vec<_> = report.ended().into_iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(ended, [Failed, Blocked, Changed]);
    assert!(!report.recap().converged());
}

#[test]
fn a_step_that_may_not_be_done_again_has_failed_when_it_was_interrupted() {
    use crate::journal::Journal;
    use crate::state::{Fact, Handed};
    use potluck_model::trace::What;

    for (on_interrupt, expected) in [
        (OnInterrupt::Again, vec![Changed, Changed]),
        (OnInterrupt::Fail, vec![Blocked]),
    ] {
        let bench = Bench::new(false);
        let list = bench
            .node
            .release(1)
            .script("once", "true")
            .with(|step| step.on_interrupt = on_interrupt)
            .script("next", "true")
            .list();
        // As a run leaves it that was cut off in its first step.
        fs::create_dir_all(bench.node.dir()).unwrap();
        let mut journal = Journal::open(&bench.node.dir()).unwrap();
        let began = Fact::Began {
            configuration: list.configuration.clone(),
            release: 1,
            root: bench.path("root").canonicalize().unwrap(),
        };
        journal.append(Some(list.digest()), None, Some(began)).unwrap();
        let started = What::StepStarted {
            step: "once".parse().unwrap(),
        };
        journal.append(Some(list.digest()), Some(started), None).unwrap();
        let handed = Fact::Handed(Handed {
            number: 1,
            command: list.digest(),
            attempt: 1,
        });
        journal.append(Some(list.digest()), None, Some(handed)).unwrap();
        drop(journal);
        let report = bench.execute(&list);
        let ended: Vec<_> = report.ended().into_iter().skip(1).map(|(_, outcome)| outcome).collect();
        assert_eq!(ended, expected, "{on_interrupt:?}");
        let again = bench.execute(&list);
        assert!(again.recap().converged(), "the next run begins anew");
    }
}

#[test]
fn limits_that_cannot_be_kept_are_said_and_memory_is_kept() {
    let bench = Bench::new(false);
    let list = bench
        .node
        .release(1)
        .script("limited", "ulimit -v")
        .with(|step| {
            step.limits = Some(Limits {
                memory_bytes: Some(1 << 30),
                cpu_percent: Some(50),
            });
        })
        .list();
    let report = bench.execute(&list);
    assert_eq!(report.outcome("limited"), Changed, "{}", report.message("limited"));
    let output = report.output("limited");
    assert!(output[0].contains("not kept"), "{output:?}");
    assert_eq!(output[1], "1048576");
}
