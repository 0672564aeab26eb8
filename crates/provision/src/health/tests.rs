//! When a machine counts as healthy.

use potluck_model::trace::Outcome::{Changed, Failed, Unchanged};

use crate::bench::Bench;

#[test]
fn a_machine_that_is_not_healthy_in_time_has_not_converged() {
    let bench = Bench::new(false);
    let list = |number, within, check: &str| {
        bench
            .node
            .release(number)
            .file("check.sh", 0o755, format!("#!/bin/sh\n{check}\n"))
            .script("work", "true")
            .health(&["./check.sh"], within, 0)
            .health(&["true"], 0, 0)
            .list()
    };
    let report = bench.execute(&list(1, 0, "echo no answer; exit 7"));
    assert_eq!(report.outcome("work"), Changed);
    assert_eq!(report.outcome("health.1"), Failed);
    assert!(
        report.message("health.1").contains("no answer"),
        "{}",
        report.message("health.1")
    );
    assert!(!report.recap().converged());
    assert!(
        report.ended().iter().all(|(id, _)| id != "health.2"),
        "what comes behind is not asked"
    );
    // It gets well while it is watched.
    let slowly = "test -e $POTLUCK_ROOT/up && exit 0; touch $POTLUCK_ROOT/up; exit 1";
    let report = bench.execute(&list(2, 60, slowly));
    assert_eq!(report.outcome("health.1"), Unchanged, "{}", report.message("health.1"));
    assert_eq!(report.outcome("health.2"), Unchanged);
    assert!(report.recap().converged());
}

#[test]
fn a_machine_must_stay_healthy_for_as_long_as_the_check_says() {
    let bench = Bench::new(false);
    let once = "test -e $POTLUCK_ROOT/up && exit 1; touch $POTLUCK_ROOT/up";
    let list = bench
        .node
        .release(1)
        .file("check.sh", 0o755, format!("#!/bin/sh\n{once}\n"))
        .script("work", "true")
        .health(&["./check.sh"], 0, 60)
        .list();
    let report = bench.execute(&list);
    assert_eq!(report.outcome("health.1"), Failed, "it was well only once");
}

#[test]
fn health_is_not_asked_about_after_a_failure() {
    let bench = Bench::new(false);
    let list = bench
        .node
        .release(1)
        .script("bad", "exit 1")
        .health(&["true"], 0, 0)
        .list();
    let report = bench.execute(&list);
    assert!(report.ended().iter().all(|(id, _)| id != "health.1"));
}
