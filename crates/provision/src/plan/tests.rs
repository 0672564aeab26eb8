//! What a plan says is what is then done, and a plan changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use potluck_model::list::{Action, ServiceState};
use potluck_model::plan::{Forecast, Plan};
use potluck_model::trace::Outcome;
use proptest::prelude::*;

use crate::bench::Bench;
use crate::common::{below, run};
use crate::drawn::{disturb, drawn, list};

fn forecast(plan: &Plan, id: &str) -> Forecast {
    step(plan, id).forecast
}

fn step<'p>(plan: &'p Plan, id: &str) -> &'p potluck_model::plan::PlannedStep {
    plan.steps.iter().find(|step| step.step.as_str() == id).unwrap()
}

/// All that is in a directory, with what would tell that it was written to.
fn snapshot(dir: &Path) -> BTreeMap<String, (u64, i64, i64, u32)> {
    below(dir)
        .into_iter()
        .map(|path| {
            let data = fs::symlink_metadata(dir.join(&path)).unwrap();
            (path, (data.ino(), data.mtime(), data.mtime_nsec(), data.mode()))
        })
        .collect()
}

/// A bench whose root can be looked into by a guard in a sandbox, which is nobody.
fn open_bench() -> Bench {
    let bench = Bench::new(false);
    for path in ["", "root"] {
        fs::set_permissions(bench.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    bench
}

#[test]
fn a_plan_shows_how_text_would_change_and_changes_nothing() {
    let bench = Bench::new(false);
    let list = |number, text: &str| {
        bench
            .node
            .release(number)
            .file("app.conf", 0o644, text)
            .file("key", 0o600, format!("secret {text}"))
            .file("t.j2", 0o644, format!("{{{{ facts.os }}}} {text}\n"))
            .place("conf", "app.conf", "/etc/app.conf")
            .place("key", "key", "/etc/key")
            .step(
                "rendered",
                Action::Template {
                    source: "t.j2".into(),
                    dest: "/etc/t".into(),
                    mode: None,
                    keep: false,
                },
            )
            .list()
    };
    bench.execute(&list(1, "one\n"));
    let before = (snapshot(&bench.node.root("")), snapshot(&bench.node.dir()));
    let plan = bench.plan(&list(2, "two\n"));
    assert_eq!((snapshot(&bench.node.root("")), snapshot(&bench.node.dir())), before);
    let diff = &step(&plan, "conf").diffs[0];
    assert_eq!(
        (diff.path.as_str(), diff.text.as_str()),
        (
            "/etc/app.conf",
            "--- a/etc/app.conf\n+++ b/etc/app.conf\n@@ -1 +1 @@\n-one\n+two\n"
        )
    );
    let hidden = &step(&plan, "key").diffs[0].text;
    assert!(hidden.starts_with("(not shown"), "{hidden}");
    let rendered = &step(&plan, "rendered").diffs[0].text;
    assert!(
        rendered.contains("-linux one\n") && rendered.contains("+linux two\n"),
        "{rendered}"
    );
    assert!(!serde_json::to_string(&plan).unwrap().contains("secret"));
    assert!(plan.differs() && !bench.plan(&list(1, "one\n")).differs());
}

#[test]
fn a_guard_is_asked_where_it_can_change_nothing() {
    let bench = open_bench();
    let list = bench
        .node
        .release(1)
        .file(
            "check.sh",
            0o755,
            "#!/bin/sh\necho x > $POTLUCK_ROOT/written; test -e $POTLUCK_ROOT/done\n",
        )
        .file("lib", 0o644, "")
        .script("work", "touch $POTLUCK_ROOT/done")
        .with(|step| step.unless = Some(vec!["./check.sh".into()]))
        .list();
    let possible = crate::sandbox::works("/usr/sbin:/usr/bin:/sbin:/bin".as_ref());
    let expected = |forecast| if possible { forecast } else { Forecast::Unknown };
    let plan = bench.plan(&list);
    assert_eq!(forecast(&plan, "work"), expected(Forecast::Run), "{plan:?}");
    fs::write(bench.node.root("done"), "").unwrap();
    let plan = bench.plan(&list);
    assert_eq!(forecast(&plan, "work"), expected(Forecast::Skip), "{plan:?}");
    assert!(!bench.node.root("written").exists());
}

#[test]
fn what_a_guard_would_find_after_a_change_is_not_known() {
    let bench = open_bench();
    let list = bench
        .node
        .release(1)
        .file("f", 0o644, "f")
        .place("file", "f", "/etc/f")
        .script("made", "true")
        .with(|step| step.creates = Some("/etc/f".into()))
        .script("asks", "true")
        .with(|step| step.unless = Some(vec!["true".into()]))
        .script("later", "true")
        .with(|step| step.creates = Some("/elsewhere".into()))
        .list();
    let plan = bench.plan(&list);
    let all: Vec<Forecast> = plan.steps.iter().map(|step| step.forecast).collect();
    assert_eq!(
        all,
        [Forecast::Change, Forecast::Skip, Forecast::Unknown, Forecast::Unknown]
    );
    assert!(step(&plan, "asks").message.contains("file has changed something"));
}

#[test]
fn a_missing_interpreter_is_found_and_what_stands_behind_is_blocked() {
    let bench = Bench::new(false);
    let list = |number, first: &str| {
        bench
            .node
            .release(number)
            .file("script", 0o644, format!("{first}\n"))
            .step("script", run("script"))
            .script("next", "true")
            .list()
    };
    for first in ["#!/nowhere/perl -w", "#!/usr/bin/env nowhere-perl"] {
        let plan = bench.plan(&list(1, first));
        assert_eq!(forecast(&plan, "script"), Forecast::Fail, "{first}");
        assert!(step(&plan, "script").message.contains("is not installed here"));
        assert_eq!(forecast(&plan, "next"), Forecast::Block);
    }
    let plan = bench.plan(&list(1, "#!/usr/bin/env -S sh -e"));
    assert_eq!(forecast(&plan, "script"), Forecast::Run);
}

#[test]
fn what_would_fail_now_but_may_not_after_a_step_before_it_is_unknown() {
    let bench = Bench::new(true);
    bench.program(
        "systemctl",
        "[ \"$3\" = --property=LoadState ] && echo not-found; exit 0",
    );
    let unit = Action::Service {
        name: "app.service".into(),
        state: Some(ServiceState::Started),
        enabled: None,
    };
    let alone = bench.node.release(1).step("app", unit.clone()).list();
    assert_eq!(forecast(&bench.plan(&alone), "app"), Forecast::Fail);
    let behind = bench.node.release(1).script("install", "true").step("app", unit).list();
    let plan = bench.plan(&behind);
    assert_eq!(forecast(&plan, "app"), Forecast::Unknown);
    assert!(step(&plan, "app").message.contains("there is no unit"), "{plan:?}");
}

#[test]
fn a_release_that_would_be_refused_has_no_plan() {
    let bench = Bench::new(false);
    let newer = bench.node.release(2).script("x", "true").list();
    let older = bench.node.job(&bench.node.release(1).script("x", "true").list());
    bench.execute(&newer);
    let refused = crate::plan::plan_job(
        &bench.node.dir(),
        &older,
        crate::machine::Machine::default(),
        "/bin".into(),
    );
    assert!(
        matches!(refused, Err(crate::PlanError::Refused(_))),
        "an older assignment"
    );
    assert!(matches!(
        crate::plan(&bench.path("nowhere")),
        Err(crate::PlanError::Nothing(_))
    ));
}

fn fits(forecast: Forecast, outcome: Outcome) -> bool {
    match forecast {
        Forecast::Unchanged => outcome == Outcome::Unchanged,
        Forecast::Change => outcome == Outcome::Changed,
        Forecast::Run => matches!(outcome, Outcome::Changed | Outcome::Unchanged | Outcome::Failed),
        Forecast::Skip => outcome == Outcome::Skipped,
        Forecast::Fail => outcome == Outcome::Failed,
        Forecast::Block => outcome == Outcome::Blocked,
        Forecast::Unknown => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn what_a_plan_says_is_what_is_then_done_and_a_second_run_changes_nothing(
        before in prop::collection::vec(drawn(), 0..5),
        disturbances in prop::collection::vec(0..35_u8, 0..4),
        steps in prop::collection::vec(drawn(), 1..7),
    ) {
        let bench = Bench::new(false);
        bench.execute(&list(&bench, 1, &before));
        for what in &disturbances {
            disturb(&bench, *what);
        }
        let list = list(&bench, 2, &steps);
        let untouched = (snapshot(&bench.node.root("")), snapshot(&bench.node.dir()));
        let plan = bench.plan(&list);
        prop_assert_eq!((snapshot(&bench.node.root("")), snapshot(&bench.node.dir())), untouched);
        let report = bench.execute(&list);
        let ended = report.ended();
        let planned: Vec<&str> = plan.steps.iter().map(|step| step.step.as_str()).collect();
        let mut failed = false;
        for (number, (id, outcome)) in ended.iter().enumerate() {
            // What a script does, only it knows; nor what stands behind one that failed.
            if failed {
                break;
            }
            prop_assert_eq!(planned.get(number), Some(&id.as_str()), "{:?} {:?}", plan, ended);
            let forecast = plan.steps[number].forecast;
            prop_assert!(fits(forecast, *outcome), "{}: {:?}, and {:?} was planned: {:#?}", id, outcome, forecast, plan);
            let behind_script = plan.steps[..number].iter().any(|step| step.forecast == Forecast::Run);
            prop_assert!(forecast != Forecast::Unknown || behind_script, "{:#?}", plan);
            failed = forecast != Forecast::Fail && *outcome == Outcome::Failed;
        }
        if report.recap().converged() {
            prop_assert!(!bench.plan(&list).differs(), "{:#?}", bench.plan(&list));
            let again = bench.execute(&list).recap();
            prop_assert_eq!(again.changed, 0);
        }
    }
}
