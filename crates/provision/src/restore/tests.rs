//! What a release changed is taken back, and the release before it restored.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use potluck_model::list::{Action, OnFailure};
use potluck_model::trace::Outcome::{Changed, Failed, Undone};
use potluck_model::trace::What;
use proptest::prelude::*;

use crate::bench::Bench;
use crate::common::{Report, below};
use crate::drawn::{Drawn, disturb, drawn, release};

/// All that is in a directory.
fn contents(dir: &Path) -> BTreeMap<String, (u32, String)> {
    below(dir)
        .into_iter()
        .map(|path| {
            let at = dir.join(&path);
            let data = fs::symlink_metadata(&at).unwrap();
            let text = match data.file_type() {
                kind if kind.is_symlink() => fs::read_link(&at).unwrap().to_string_lossy().into_owned(),
                kind if kind.is_file() => fs::read_to_string(&at).unwrap(),
                _ => String::new(),
            };
            (path, (data.mode(), text))
        })
        .collect()
}

fn undone(report: &Report) -> Vec<String> {
    let ended = report.ended().into_iter();
    ended
        .filter(|(_, outcome)| *outcome == Undone)
        .map(|(id, _)| id)
        .collect()
}

#[test]
fn an_unhealthy_release_gives_way_to_the_one_before_it_and_the_node_says_so() {
    let bench = Bench::new(false);
    fs::create_dir(bench.node.root("etc")).unwrap();
    fs::write(bench.node.root("etc/theirs"), "theirs").unwrap();
    fs::set_permissions(bench.node.root("etc/theirs"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("there", bench.node.root("etc/link")).unwrap();
    let one = bench
        .node
        .release(1)
        .file("app", 0o644, "one")
        .place("app", "app", "/etc/app")
        .health(&["true"], 0, 0)
        .list();
    assert!(bench.execute(&one).recap().converged());
    let before = contents(&bench.node.root(""));
    let two = bench
        .node
        .release(2)
        .file("app", 0o755, "two")
        .file("new", 0o644, "new")
        .place("app", "app", "/etc/app")
        .place("theirs", "new", "/etc/theirs")
        .place("new", "new", "/srv/deep/new")
        .step(
            "link",
            Action::Link {
                dest: "/etc/link".into(),
                target: "elsewhere".into(),
            },
        )
        .health(&["false"], 0, 0)
        .list();
    let job = bench.job(&two);
    let report = bench.execute_job(&job);
    assert_eq!(contents(&bench.node.root("")), before);
    assert_eq!(undone(&report), ["link", "new", "theirs", "app"], "the latest first");
    assert!(
        report.ended().contains(&("health.1".to_owned(), Failed)),
        "of release 2"
    );
    let recap = report
        .records
        .iter()
        .filter(|record| record.list == Some(two.digest()))
        .find_map(|record| match &record.what {
            What::Executed { recap } => Some(*recap),
            _ => None,
        })
        .unwrap();
    assert_eq!((recap.changed, recap.undone, recap.failed), (0, 4, 1));
    let trouble = report.trouble();
    assert!(
        trouble[0].contains("release 2 is not healthy") && trouble[0].contains("release 1 was restored"),
        "{trouble:?}"
    );
    // Handed over again, as after a restart of the agent, it is not tried again; what was restored is kept as it says.
    fs::write(bench.node.root("etc/app"), "drifted").unwrap();
    let report = bench.execute_job(&job);
    assert_eq!(bench.node.read("etc/app"), "one");
    assert!(
        report.ended().iter().all(|(id, _)| id != "theirs"),
        "{:?}",
        report.ended()
    );
    assert_eq!(report.recap().failed, 1, "it still counts as failed");
    // Assigned anew, it is.
    let report = bench.execute(&two);
    assert!(
        report
            .ended()
            .iter()
            .any(|(id, outcome)| id == "theirs" && *outcome == Changed)
    );
    assert_eq!(contents(&bench.node.root("")), before);
}

#[test]
fn what_a_script_did_is_taken_back_by_its_own_undo_and_done_again_when_it_is_assigned_again() {
    let bench = Bench::new(false);
    let one = bench
        .node
        .release(1)
        .script("base", "true")
        .health(&["true"], 0, 0)
        .list();
    bench.execute(&one);
    let list = |number, health: &str| {
        bench
            .node
            .release(number)
            .file("lib.sh", 0o644, "note() { echo $1 >> $POTLUCK_ROOT/log; }\n")
            .file("migrate.sh", 0o755, "#!/bin/sh\n. ./lib.sh\nnote $1\n")
            .step(
                "migrate",
                Action::Run {
                    source: "migrate.sh".into(),
                    args: vec!["up".into()],
                    env: vec![],
                    exit: vec![],
                    inputs: vec![],
                    user: None,
                },
            )
            .with(|step| step.undo = Some(vec!["./migrate.sh".into(), "down".into()]))
            .script("plain", "echo plain >> $POTLUCK_ROOT/log")
            .health(&[health], 0, 0)
            .list()
    };
    let report = bench.execute(&list(2, "false"));
    assert_eq!(bench.node.read("log"), "up\nplain\ndown\n");
    assert_eq!(
        undone(&report),
        ["migrate"],
        "what plain did, nobody knows how to take back"
    );
    let report = bench.execute(&list(3, "true"));
    assert_eq!(report.outcome("migrate"), Changed);
    assert_eq!(bench.node.read("log"), "up\nplain\ndown\nup\n");
    assert!(report.recap().converged());
}

#[test]
fn a_first_release_that_is_not_healthy_stays_for_there_is_none_before_it() {
    let bench = Bench::new(false);
    let list = bench
        .node
        .release(1)
        .file("app", 0o644, "one")
        .place("app", "app", "/etc/app")
        .health(&["false"], 0, 0)
        .list();
    let report = bench.execute(&list);
    assert!(undone(&report).is_empty());
    assert_eq!(bench.node.read("etc/app"), "one");
}

#[test]
fn a_step_that_says_so_has_all_undone_when_it_fails() {
    let bench = Bench::new(false);
    let list = bench
        .node
        .release(1)
        .file("app", 0o644, "one")
        .place("app", "app", "/etc/app")
        .script("bad", "echo half > $POTLUCK_ROOT/half; exit 1")
        .with(|step| {
            step.on_failure = OnFailure::Undo;
            step.undo = Some(vec![
                "rm".into(),
                "-f".into(),
                bench.node.root("half").display().to_string(),
            ]);
        })
        .script("next", "true")
        .list();
    let report = bench.execute(&list);
    assert_eq!(undone(&report), ["bad", "app"]);
    assert!(
        below(&bench.node.root("")).is_empty(),
        "{:?}",
        below(&bench.node.root(""))
    );
    let recap = report.recap();
    assert_eq!((recap.changed, recap.undone, recap.failed, recap.blocked), (0, 1, 1, 1));
    assert!(report.trouble()[0].contains("step bad of release 1 failed; what it changed was undone"));
}

#[test]
fn what_follows_a_change_follows_its_undoing_too() {
    let bench = Bench::new(false);
    let list = |number, text: &str, health: &str| {
        bench
            .node
            .release(number)
            .file("conf", 0o644, text)
            .place("conf", "conf", "/etc/conf")
            .with(|step| step.notify = vec!["reload".parse().unwrap()])
            .script("reload", "cat $POTLUCK_ROOT/etc/conf >> $POTLUCK_ROOT/loaded")
            .with(|step| step.unless = Some(vec!["false".into()]))
            .health(&[health], 0, 0)
            .list()
    };
    bench.execute(&list(1, "one ", "true"));
    bench.execute(&list(2, "two ", "false"));
    assert_eq!(bench.node.read("loaded"), "one two one ");
}

#[test]
fn a_release_that_was_healthy_once_is_not_taken_back_when_it_is_not_any_more() {
    let bench = Bench::new(false);
    let list = |number, text: &str| {
        bench
            .node
            .release(number)
            .file("app", 0o644, text)
            .place("app", "app", "/etc/app")
            .health(&["test", "!", "-e", bench.path("ill").to_str().unwrap()], 0, 0)
            .list()
    };
    bench.execute(&list(1, "one"));
    bench.execute(&list(2, "two"));
    bench.write("ill", "");
    let report = bench.execute(&list(2, "two"));
    assert_eq!(report.outcome("health.1"), Failed);
    assert!(undone(&report).is_empty());
    assert_eq!(bench.node.read("etc/app"), "two");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_release_places_links_and_purges_comes_back_as_it_was(
        disturbances in prop::collection::vec(0..35_u8, 0..6),
        steps in prop::collection::vec(drawn(), 1..7),
    ) {
        let bench = Bench::new(false);
        let one = bench.node.release(1).script("base", "true").health(&["true"], 0, 0).list();
        bench.execute(&one);
        for what in &disturbances {
            disturb(&bench, *what);
        }
        let before = contents(&bench.node.root(""));
        // Scripts take back what they did by themselves; modes of directories that were there stay as they are set.
        let steps: Vec<Drawn> = steps
            .into_iter()
            .filter(|step| !matches!(step, Drawn::Script { .. } | Drawn::Directory { .. }))
            .collect();
        let two = release(&bench, 2, &steps).script("last", "exit 1");
        let two = two.with_each(|step| step.on_failure = OnFailure::Undo);
        bench.execute(&two.list());
        prop_assert_eq!(contents(&bench.node.root("")), before);
    }
}
