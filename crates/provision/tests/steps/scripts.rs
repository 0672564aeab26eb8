//! Scripts, guards, and what becomes of what stands behind them.

use std::fs;
use std::os::unix::fs::symlink;

use potluck_model::list::{Action, Entry, EnvVar, ExitMeaning, ExitOutcome, List};
use potluck_model::trace::Outcome::{Blocked, Changed, Failed, Skipped, Unchanged};
use potluck_provision::{RunState, state};

use crate::common::{Node, below, run as run_action};
use crate::{execute, execute_job, names};

#[test]
fn a_second_run_of_an_unchanged_release_changes_nothing_and_says_so() {
    let node = Node::new();
    let list = node
        .release(1)
        .file("site/index.html", 0o644, "hello")
        .link("site/latest", "index.html")
        .place("site", "site", "/srv/www")
        .script("tune", "echo tuned >> $POTLUCK_ROOT/tuned")
        .list();
    let first = execute(&node, &list);
    assert_eq!(names(&first), [("site".into(), Changed), ("tune".into(), Changed)]);
    assert_eq!(node.read("srv/www/latest"), "hello");
    assert_eq!(node.read("tuned"), "tuned\n");
    let second = execute(&node, &list);
    assert_eq!(
        second.recap().to_string(),
        "changed=0 unchanged=2 failed=0 skipped=0 blocked=0"
    );
    assert_eq!(node.read("tuned"), "tuned\n");
    let last = state(&node.dir()).unwrap().unwrap();
    assert_eq!((last.list, last.release), (list.digest(), 1));
    assert_eq!(last.state, RunState::Finished(second.recap()));
}

#[test]
fn a_run_step_without_a_guard_runs_once_for_its_definition_and_inputs() {
    let node = Node::new();
    let release = |number, script: &str, input: &str, arg: &str| {
        node.release(number)
            .file("data/input", 0o644, input)
            .file("other", 0o644, format!("{number}"))
            .script("once", script)
            .with(|step| {
                if let Action::Run { inputs, args, .. } = &mut step.action {
                    inputs.push("data".into());
                    args.push(arg.into());
                }
            })
            .list()
    };
    let outcome = |list: List| execute(&node, &list).outcome("once");
    assert_eq!(outcome(release(1, "true", "a", "x")), Changed);
    assert_eq!(outcome(release(2, "true", "a", "x")), Unchanged, "another file changed");
    assert_eq!(outcome(release(3, "true", "b", "x")), Changed, "an input changed");
    assert_eq!(outcome(release(4, "true;", "b", "x")), Changed, "the script changed");
    assert_eq!(
        outcome(release(5, "true;", "b", "y")),
        Changed,
        "the definition changed"
    );
    assert_eq!(outcome(release(6, "true", "a", "x")), Unchanged, "it ran in release 1");
}

#[test]
fn a_failed_step_runs_again_with_the_next_job() {
    let node = Node::new();
    let list = node
        .release(1)
        .script("flaky", "echo trying; test -e $POTLUCK_ROOT/ready || exit 9")
        .list();
    let report = execute(&node, &list);
    assert_eq!(report.outcome("flaky"), Failed);
    assert_eq!(report.exit("flaky"), Some(9));
    assert_eq!(report.message("flaky"), "exit code 9; its last line: trying");
    fs::write(node.root("ready"), b"").unwrap();
    assert_eq!(execute(&node, &list).outcome("flaky"), Changed);
    assert_eq!(execute(&node, &list).outcome("flaky"), Unchanged);
}

#[test]
fn a_failed_step_ends_the_run_and_blocks_what_is_behind_it() {
    let node = Node::new();
    let list = node
        .release(1)
        .script("good", "true")
        .script("bad", "exit 1")
        .script("needs-bad", "true")
        .with(|step| step.needs.push("bad".parse().unwrap()))
        .script("needs-blocked", "true")
        .with(|step| step.needs.push("needs-bad".parse().unwrap()))
        .script("other", "true")
        .list();
    let report = execute(&node, &list);
    assert_eq!(
        names(&report),
        [
            ("good".into(), Changed),
            ("bad".into(), Failed),
            ("needs-bad".into(), Blocked),
            ("needs-blocked".into(), Blocked),
            ("other".into(), Blocked)
        ]
    );
    assert_eq!(report.message("needs-bad"), "it needs bad, which failed");
    assert_eq!(report.message("other"), "after the failure of bad");
    assert!(!report.recap().converged());
}

#[test]
fn guards_decide_and_a_skipped_step_satisfies() {
    let node = Node::new();
    fs::create_dir(node.root("etc")).unwrap();
    symlink("/etc", node.root("link")).unwrap();
    let list = node
        .release(1)
        .file("check.sh", 0o755, "#!/bin/sh\necho guard; test -e $POTLUCK_ROOT/done\n")
        .script("guarded", "echo ran >> $POTLUCK_ROOT/runs; touch $POTLUCK_ROOT/done")
        .with(|step| step.unless = Some(vec!["./check.sh".into()]))
        .script("creates", "touch $POTLUCK_ROOT/etc/made")
        .with(|step| step.creates = Some("/link/made".into()))
        .script("after", "true")
        .with(|step| step.needs = vec!["guarded".parse().unwrap(), "creates".parse().unwrap()])
        .list();
    let first = execute(&node, &list);
    assert_eq!(
        names(&first),
        [
            ("guarded".into(), Changed),
            ("creates".into(), Changed),
            ("after".into(), Changed)
        ]
    );
    assert!(first.output("guarded").is_empty(), "a guard's output is its own");
    let second = execute(&node, &list);
    assert_eq!(
        names(&second),
        [
            ("guarded".into(), Skipped),
            ("creates".into(), Skipped),
            ("after".into(), Unchanged)
        ]
    );
    assert_eq!(second.message("creates"), "/link/made exists");
    fs::remove_file(node.root("done")).unwrap();
    assert_eq!(
        execute(&node, &list).outcome("guarded"),
        Changed,
        "the guard decides, not that it ran"
    );
    assert_eq!(node.read("runs"), "ran\nran\n");
}

#[test]
fn a_guard_that_cannot_be_run_fails_its_step() {
    let node = Node::new();
    let list = node
        .release(1)
        .script("a", "true")
        .with(|step| step.unless = Some(vec!["no-such-program-anywhere".into()]))
        .list();
    let report = execute(&node, &list);
    assert_eq!(report.outcome("a"), Failed);
    assert!(report.message("a").contains("no-such-program-anywhere"));
}

#[test]
fn scripts_run_in_a_private_directory_with_a_clean_environment() {
    let node = Node::new();
    let list = node
        .release(7)
        .file("lib/helper", 0o644, "helped")
        .script(
            "env",
            "env | sort | grep -v -e ^PWD= -e ^OLDPWD= -e ^SHLVL= -e ^_=\ncat lib/helper; echo; readlink /proc/self/fd/0; \
             cut -d' ' -f5 /proc/$$/stat; echo $$; echo \"$1\"",
        )
        .with(|step| {
            if let Action::Run { env, args, .. } = &mut step.action {
                args.push("an argument".into());
                env.push(EnvVar {
                    name: "EXTRA".into(),
                    value: "a b".into(),
                });
            }
        })
        .list();
    let output = execute(&node, &list).output("env");
    let root = node.root("").canonicalize().unwrap();
    let home = if rustix::process::geteuid().is_root() {
        "/root".to_owned()
    } else {
        std::env::var("HOME").unwrap()
    };
    let expected = [
        "EXTRA=a b".to_owned(),
        format!("HOME={home}"),
        "LANG=C.UTF-8".to_owned(),
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        "POTLUCK_CONFIGURATION=web".to_owned(),
        "POTLUCK_NODE=0000000000000001".to_owned(),
        "POTLUCK_RELEASE=7".to_owned(),
        format!("POTLUCK_ROOT={}", root.display()),
        "helped".to_owned(),
        "/dev/null".to_owned(),
    ];
    assert_eq!(output[..10], expected);
    assert_eq!(output[10], output[11], "its process group is its own");
    assert_eq!(output[12], "an argument");
}

#[test]
fn a_script_is_executed_itself_if_it_is_executable_or_names_its_interpreter() {
    let node = Node::new();
    let list = node
        .release(1)
        .file("bits", 0o755, "#!/bin/cat\nby its bits\n")
        .step("bits", run_action("bits"))
        .file("shebang", 0o644, "#!/bin/cat\nby its first line\n")
        .step("shebang", run_action("shebang"))
        .file("plain", 0o644, "echo by sh\n")
        .step("plain", run_action("plain"))
        .list();
    let report = execute(&node, &list);
    assert_eq!(report.output("bits")[1], "by its bits");
    assert_eq!(report.output("shebang")[1], "by its first line");
    assert_eq!(report.output("plain"), ["by sh"]);
}

#[test]
fn the_private_directory_is_as_the_list_says_in_every_run_whatever_steps_did_to_it() {
    let node = Node::new();
    let list = node
        .release(1)
        .file("data/input", 0o644, "good")
        .script(
            "a",
            "ls -R; cat data/input; echo bad > data/input; echo '#' >> a.sh; mkdir junk; touch junk/x; exit 1",
        )
        .list();
    let first = execute(&node, &list).output("a");
    assert_eq!(execute(&node, &list).output("a"), first);
    let other = node.release(2).script("a", "exit 0").list();
    execute(&node, &other);
    let releases = below(&node.dir().join("files"));
    assert_eq!(releases[0], other.digest().to_string());
    assert_eq!(releases.len(), 2, "{releases:?}");
}

#[test]
fn exit_codes_mean_what_the_step_says() {
    let node = Node::new();
    let script = |number: u64, code: u8| {
        node.release(number)
            .script("a", &format!("exit {code}"))
            .with(|step| {
                if let Action::Run { exit, .. } = &mut step.action {
                    let meaning = |code, means| ExitMeaning { code, means };
                    exit.push(meaning(0, ExitOutcome::Failed));
                    exit.push(meaning(2, ExitOutcome::Unchanged));
                    exit.push(meaning(3, ExitOutcome::Changed));
                }
            })
            .list()
    };
    for (code, outcome) in [(0, Failed), (1, Failed), (2, Unchanged), (3, Changed), (4, Failed)] {
        let report = execute(&node, &script(u64::from(code) + 1, code));
        assert_eq!(report.outcome("a"), outcome, "{code}");
        assert_eq!(report.exit("a"), Some(i32::from(code)));
    }
}

#[test]
fn a_step_that_is_ended_by_a_signal_or_its_timeout_has_failed() {
    let node = Node::new();
    let list = node.release(1).script("a", "kill -ABRT $$").list();
    let report = execute(&node, &list);
    assert_eq!(report.outcome("a"), Failed);
    assert_eq!(report.exit("a"), None);
    assert!(report.message("a").contains("SIGABRT"), "{}", report.message("a"));
    let list = node
        .release(2)
        .script("a", "echo started; sleep 1000 & wait")
        .with(|step| step.timeout_seconds = 1)
        .list();
    let report = execute(&node, &list);
    assert_eq!(report.outcome("a"), Failed);
    assert!(
        report.message("a").contains("did not end within 1 s"),
        "{}",
        report.message("a")
    );
}

#[test]
fn entries_of_a_list_that_no_step_uses_are_in_the_private_directory() {
    let node = Node::new();
    let list = node
        .release(1)
        .file("lib/a.txt", 0o640, "a")
        .link("lib/b.txt", "a.txt")
        .script("a", "stat -c '%a %F' lib/a.txt lib/b.txt; cat lib/b.txt")
        .list();
    assert!(
        list.entry("lib")
            .is_some_and(|entry| matches!(entry, Entry::Directory { .. }))
    );
    let output = execute(&node, &list).output("a");
    assert_eq!(output, ["640 regular file", "777 symbolic link", "a"]);
}

#[test]
fn the_files_of_releases_do_not_replace_the_metadata_that_is_believed() {
    let node = Node::new();
    let believed = node.dir().join("releases/timestamp.json");
    fs::create_dir_all(believed.parent().unwrap()).unwrap();
    fs::write(&believed, "floor").unwrap();
    for number in 1..3 {
        let list = node.release(number).script("a", &format!("exit 0 # {number}")).list();
        assert_eq!(execute(&node, &list).outcome("a"), Changed);
    }
    assert_eq!(fs::read_to_string(believed).unwrap(), "floor");
}

/// `cargo test -p potluck-provision --test steps -- --ignored --nocapture a_run_that`
#[test]
#[ignore = "measures, for bench/README.md: just long"]
fn a_run_that_changes_nothing_takes_this_long() {
    const STEPS: usize = 1_000;
    let node = Node::new();
    let guarded = |number| {
        (0..STEPS).fold(node.release(number).file("x.sh", 0o644, "exit 1"), |release, at| {
            release
                .step(&format!("s{at}"), run_action("x.sh"))
                .with(|step| step.creates = Some(format!("/d/{at}")))
        })
    };
    let files = |number| {
        (0..STEPS).fold(node.release(number), |release, at| {
            let source = format!("f{at}");
            release
                .file(&source, 0o644, format!("file {at}"))
                .place(&format!("p{at}"), &source, &format!("/d/{at}"))
        })
    };
    let lists = [("creates", guarded(2).list()), ("file", files(1).list())];
    execute(&node, &lists[1].1);
    for (name, list) in &lists {
        let job = node.job(list);
        execute_job(&node, &job);
        let mut took = Vec::new();
        for _ in 0..5 {
            let start = std::time::Instant::now();
            let report = execute_job(&node, &job);
            took.push(start.elapsed());
            assert_eq!(report.recap().changed, 0);
        }
        took.sort();
        println!(
            "{STEPS} steps ({name}), nothing to change: median {:?}, worst {:?}",
            took[2], took[4]
        );
    }
}
