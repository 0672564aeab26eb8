//! The rules of steps, shown with the real executing process and real scripts.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use common::{Node, Report, below, run as run_action};
use potluck_model::Digest;
use potluck_model::list::{Action, Entry, EnvVar, ExitMeaning, ExitOutcome, List};
use potluck_model::trace::Outcome::{Blocked, Changed, Failed, Halted, Skipped, Unchanged};
use potluck_provision::{Executor, Job, Position, Record, RunState, Tail, last_words, running, state};

const PROGRAM: &str = env!("CARGO_BIN_EXE_potluck-execute");

fn execute_job(node: &Node, job: &Job) -> Report {
    let mut executor = Executor::start(Path::new(PROGRAM), &[], &node.dir(), job).unwrap();
    let status = executor.wait().unwrap();
    assert!(status.success(), "{status}: {}", last_words(&node.dir()));
    node.news()
}

fn execute(node: &Node, list: &List) -> Report {
    execute_job(node, &node.job(list))
}

fn names(report: &Report) -> Vec<(String, potluck_model::trace::Outcome)> {
    report.ended()
}

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
    let releases = below(&node.dir().join("releases"));
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
fn files_get_their_bytes_modes_and_links_and_nothing_else_is_touched() {
    let node = Node::new();
    fs::create_dir_all(node.root("srv/www/tmp")).unwrap();
    fs::set_permissions(node.root("srv/www/tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(node.root("srv/www/index.html"), "old").unwrap();
    fs::write(node.root("srv/www/mine"), "mine").unwrap();
    let list = node
        .release(1)
        .file("site/index.html", 0o640, "new")
        .file("site/bin/run", 0o755, "#!")
        .file("site/empty", 0o600, "")
        .directory("site/void", 0o700)
        .directory("site/tmp", 0o755)
        .link("site/latest", "bin/run")
        .place("site", "site", "/srv/www")
        .file("one", 0o644, "one")
        .step(
            "one",
            Action::File {
                source: "one".into(),
                dest: "/etc/deep/one.conf".into(),
                mode: Some(0o4711),
                keep: false,
                purge: false,
            },
        )
        .list();
    let report = execute(&node, &list);
    assert_eq!(names(&report), [("site".into(), Changed), ("one".into(), Changed)]);
    assert!(report.message("site").starts_with("placed 4 of 4 files: /srv/www/"));
    assert_eq!(node.read("srv/www/index.html"), "new");
    assert_eq!(node.read("srv/www/mine"), "mine");
    assert_eq!(node.read("etc/deep/one.conf"), "one");
    assert_eq!(node.mode("srv/www/index.html"), 0o640);
    assert_eq!(node.mode("srv/www/bin/run"), 0o755);
    assert_eq!(node.mode("srv/www/void"), 0o700);
    assert_eq!(
        node.mode("srv/www/tmp"),
        0o1777,
        "a directory that was there stays as it is"
    );
    assert_eq!(node.mode("etc/deep"), 0o755);
    assert_eq!(node.mode("etc/deep/one.conf"), 0o4711);
    assert_eq!(
        fs::read_link(node.root("srv/www/latest")).unwrap(),
        Path::new("bin/run")
    );
    assert!(below(&node.root("")).iter().all(|name| !name.contains(".potluck")));
}

#[test]
fn a_file_that_differs_in_bytes_mode_or_kind_is_placed_again() {
    let node = Node::new();
    let list = node
        .release(1)
        .file("site/a", 0o644, "aaaa")
        .link("site/l", "a")
        .place("site", "site", "/w")
        .list();
    execute(&node, &list);
    let damage: [fn(&Node); 5] = [
        |node| fs::write(node.root("w/a"), "bbbb").unwrap(),
        |node| fs::set_permissions(node.root("w/a"), fs::Permissions::from_mode(0o600)).unwrap(),
        |node| {
            fs::rename(node.root("w/a"), node.root("elsewhere")).unwrap();
            symlink("../elsewhere", node.root("w/a")).unwrap();
        },
        |node| fs::remove_file(node.root("w/a")).unwrap(),
        |node| {
            fs::remove_file(node.root("w/l")).unwrap();
            fs::write(node.root("w/l"), "aaaa").unwrap();
        },
    ];
    for damage in damage {
        damage(&node);
        assert_eq!(execute(&node, &list).outcome("site"), Changed);
        assert_eq!(node.read("w/a"), "aaaa");
        assert!(fs::symlink_metadata(node.root("w/a")).unwrap().is_file());
        assert_eq!(node.mode("w/a"), 0o644);
        assert_eq!(fs::read_link(node.root("w/l")).unwrap(), Path::new("a"));
        assert_eq!(execute(&node, &list).outcome("site"), Unchanged);
    }
}

#[test]
fn links_on_the_machine_are_followed_inside_the_root_only() {
    let node = Node::new();
    let outside = node.temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(node.root("usr/lib")).unwrap();
    symlink("/usr/lib", node.root("lib")).unwrap();
    symlink(&outside, node.root("out")).unwrap();
    symlink("../../outside", node.root("up")).unwrap();
    let inside = node.release(1).file("f", 0o644, "f").place("a", "f", "/lib/f").list();
    assert_eq!(execute(&node, &inside).outcome("a"), Changed);
    assert_eq!(node.read("usr/lib/f"), "f");
    for (number, dest) in [(2, "/out/f"), (3, "/up/f"), (4, "/out/deep/f")] {
        let list = node.release(number).file("f", 0o644, "f").place("b", "f", dest).list();
        assert_eq!(execute(&node, &list).outcome("b"), Failed, "{dest}");
    }
    assert!(below(&outside).is_empty());
}

#[test]
fn a_directory_and_a_file_do_not_replace_each_other() {
    let node = Node::new();
    fs::create_dir_all(node.root("d/x")).unwrap();
    fs::write(node.root("f"), "").unwrap();
    let list = node.release(1).file("f", 0o644, "f").place("a", "f", "/d").list();
    let report = execute(&node, &list);
    assert_eq!(report.outcome("a"), Failed);
    assert!(report.message("a").contains("/d"), "{}", report.message("a"));
    let list = node.release(2).file("d/f", 0o644, "f").place("a", "d", "/f").list();
    assert_eq!(execute(&node, &list).outcome("a"), Failed);
    let list = node.release(3).file("f", 0o644, "f").place("a", "f", "/").list();
    assert_eq!(execute(&node, &list).outcome("a"), Failed);
}

#[test]
fn what_is_no_longer_listed_is_removed_if_nobody_changed_it() {
    let node = Node::new();
    let first = node
        .release(1)
        .file("site/kept", 0o644, "1")
        .file("site/gone", 0o644, "2")
        .file("site/edited", 0o644, "3")
        .file("site/sub/deep/gone", 0o644, "4")
        .link("site/link", "kept")
        .file("site/moved", 0o644, "5")
        .place("site", "site", "/w")
        .list();
    execute(&node, &first);
    fs::write(node.root("w/edited"), "by hand").unwrap();
    fs::write(node.root("w/foreign"), "foreign").unwrap();
    let second = node
        .release(2)
        .file("site/kept", 0o644, "1")
        .place("site", "site", "/w")
        .file("moved", 0o644, "5")
        .place("other", "moved", "/w/moved")
        .list();
    let report = execute(&node, &second);
    assert_eq!(report.outcome("site"), Changed);
    assert!(
        report.message("site").contains("removed 3 no longer listed"),
        "{}",
        report.message("site")
    );
    assert!(
        report.message("site").contains("/w/edited"),
        "{}",
        report.message("site")
    );
    assert_eq!(below(&node.root("w")), ["edited", "foreign", "kept", "moved"]);
    assert_eq!(report.outcome("other"), Unchanged);
    assert_eq!(execute(&node, &second).recap().changed, 0);
}

#[test]
fn files_of_a_step_that_is_gone_are_removed_unless_it_said_keep() {
    let node = Node::new();
    let first = node
        .release(1)
        .file("a", 0o644, "a")
        .place("gone", "a", "/d/a")
        .file("b", 0o644, "b")
        .place("stays", "b", "/d/b")
        .with(|step| {
            if let Action::File { keep, .. } = &mut step.action {
                *keep = true;
            }
        })
        .list();
    execute(&node, &first);
    let failing = node.release(2).script("x", "exit 1").list();
    execute(&node, &failing);
    assert_eq!(below(&node.root("d")), ["a", "b"], "nothing is removed after a failure");
    let second = node.release(3).script("x", "exit 0").list();
    let report = execute(&node, &second);
    assert_eq!(names(&report), [("x".into(), Changed), ("gone".into(), Changed)]);
    assert_eq!(report.message("gone"), "removed 1 no longer listed: /d/a");
    assert_eq!(report.recap().changed, 2);
    assert_eq!(below(&node.root("d")), ["b"]);
    let another = node.release(1).of("another").script("y", "true").list();
    execute(&node, &another);
    assert_eq!(below(&node.root("d")), ["b"], "another configuration removes nothing");
}

#[test]
fn five_thousand_small_files_are_placed_and_found_unchanged() {
    let node = Node::new();
    let mut release = node.release(1);
    for number in 0..5_000 {
        release = release.file(
            &format!("site/{}/{number}", number % 50),
            0o644,
            format!("file {number}"),
        );
    }
    let list = release.place("site", "site", "/srv").list();
    assert_eq!(execute(&node, &list).recap().changed, 1);
    assert_eq!(below(&node.root("srv")).len(), 5_050);
    assert_eq!(execute(&node, &list).recap().unchanged, 1);
}

#[test]
fn bytes_that_are_not_those_of_the_list_are_never_used() {
    let node = Node::new();
    let list = node
        .release(1)
        .file("site/a", 0o644, "aaaa")
        .file("site/b", 0o644, "bbbb")
        .place("site", "site", "/w")
        .list();
    fs::write(node.stored(Digest::of(b"bbbb")), "evil").unwrap();
    let report = execute(&node, &list);
    assert_eq!(report.outcome("site"), Failed);
    assert!(report.message("site").contains("site/b"), "{}", report.message("site"));
    assert!(below(&node.root("")).is_empty(), "nothing of the step is placed");

    let list = node.release(2).script("a", "touch $POTLUCK_ROOT/ran").list();
    fs::write(
        node.stored(Digest::of(b"touch $POTLUCK_ROOT/ran")),
        "touch $POTLUCK_ROOT/bad",
    )
    .unwrap();
    let report = execute(&node, &list);
    assert_eq!(report.outcome("a"), Failed);
    assert!(report.message("a").contains("a.sh"), "{}", report.message("a"));
    assert!(below(&node.root("")).is_empty());
}

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

#[test]
fn an_archive_is_unpacked_once_and_again_when_it_or_its_place_changed() {
    let node = Node::new();
    let release = |number, text: &str, dest: &str| {
        node.release(number)
            .file("app.tar.gz", 0o644, archive(&[("bin/app", text), ("README", "x")]))
            .step(
                "app",
                Action::Archive {
                    source: "app.tar.gz".into(),
                    dest: dest.into(),
                },
            )
            .list()
    };
    let report = execute(&node, &release(1, "one", "/opt/app"));
    assert_eq!(report.message("app"), "unpacked 2 files to /opt/app");
    assert_eq!(node.read("opt/app/bin/app"), "one");
    let outcome = |list: List| execute(&node, &list).outcome("app");
    assert_eq!(outcome(release(2, "one", "/opt/app")), Unchanged);
    assert_eq!(outcome(release(3, "two", "/opt/app")), Changed);
    assert_eq!(outcome(release(4, "one", "/opt/app")), Changed, "back to the first");
    assert_eq!(node.read("opt/app/bin/app"), "one");
    assert_eq!(outcome(release(5, "one", "/opt/other")), Changed);
    assert_eq!(outcome(release(6, "one", "/opt/app")), Unchanged);
    fs::remove_dir_all(node.root("opt/app")).unwrap();
    assert_eq!(outcome(release(7, "one", "/opt/app")), Changed);
    assert!(!node.dir().join("work").exists());
}

#[test]
fn an_archive_that_is_refused_leaves_nothing() {
    let node = Node::new();
    let list = node
        .release(1)
        .file("bad.zip", 0o644, b"PK\x03\x04 and then nothing")
        .step(
            "bad",
            Action::Archive {
                source: "bad.zip".into(),
                dest: "/opt".into(),
            },
        )
        .list();
    let report = execute(&node, &list);
    assert_eq!(report.outcome("bad"), Failed);
    assert!(
        report.message("bad").starts_with("cannot unpack bad.zip"),
        "{}",
        report.message("bad")
    );
    assert!(below(&node.root("")).is_empty());
    assert!(!node.dir().join("work").exists());
}

#[test]
fn packages_are_for_the_whole_machine() {
    let node = Node::new();
    let list = node
        .release(1)
        .file("a.deb", 0o644, "deb")
        .file("a.rpm", 0o644, "rpm")
        .step(
            "a",
            Action::Package {
                sources: vec!["a.deb".into(), "a.rpm".into()],
            },
        )
        .list();
    let report = execute(&node, &list);
    assert_eq!(report.outcome("a"), Failed);
    assert!(
        report.message("a").starts_with("unsupported"),
        "{}",
        report.message("a")
    );
}

#[test]
fn a_release_lacks_only_packages_of_the_other_package_manager() {
    let node = Node::new();
    let list = node
        .release(1)
        .file("x.rpm", 0o644, "rpm")
        .step(
            "never",
            Action::Package {
                sources: vec!["x.rpm".into()],
            },
        )
        .with(|step| step.creates = Some("/".into()))
        .script("run", "ls")
        .list();
    let machine = potluck_provision::Machine::detect();
    let usable = potluck_provision::usable(&list, &machine);
    let mut job = node.job(&list);
    job.contents.retain(|(digest, _)| usable.contains(digest));
    assert_eq!(execute_job(&node, &job).outcome("run"), Changed);
    job = node.job(&list);
    job.contents.clear();
    let list = node.release(2).file("data", 0o644, "data").script("run", "ls;").list();
    job = node.job(&list);
    job.contents.retain(|(digest, _)| *digest != Digest::of(b"data"));
    let report = execute_job(&node, &job);
    assert_eq!(report.outcome("run"), Failed);
    assert!(report.message("run").contains("data"), "{}", report.message("run"));
}

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
