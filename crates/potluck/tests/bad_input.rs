//! Mistakes: each gets one clear message, an exit code that is written down, and loses nothing.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "some of it is for other tests only")]
mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Instant;

use common::{Fleet, PATIENCE, POLL, code};
use serde_json::Value;

const OK: i32 = 0;
const FAILURE: i32 = 1;
const USAGE: i32 = 64;
const DATA: i32 = 65;

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks the exit code, that every part is said, and that nothing was printed as a result.
#[track_caller]
fn refused(output: &Output, exit: i32, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(code(output), exit, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(text.matches("error:").count(), 1, "{text}");
}

fn write(directory: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn directories_that_cannot_be_published_are_told_apart() {
    let fleet = Fleet::new(40);
    let publish = |name: &str| fleet.operate_anyhow(&["publish", fleet.path(name).to_str().unwrap()]);
    refused(&publish("nowhere"), DATA, &["there is no directory", "nowhere"]);
    fs::create_dir(fleet.path("empty")).unwrap();
    refused(&publish("empty"), DATA, &["the directory is empty"]);
    fs::write(fleet.path("file"), "x").unwrap();
    refused(&publish("file"), DATA, &["is not a directory"]);

    let directory = fleet.path("strange");
    write(&directory, &[("files/a", "a")]);
    std::os::unix::fs::symlink("/etc/passwd", directory.join("files/out")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.join("files/socket")).unwrap();
    let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"files/\xff");
    fs::write(directory.join(name), "").unwrap();
    let strange = publish("strange");
    refused(
        &strange,
        DATA,
        &["files/out", "files/socket", "a socket", "is not valid UTF-8; rename it"],
    );
    assert!(fleet.json(&["status"])["stored_bytes"] == 0, "something was uploaded");
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_nothing_is_published() {
    const NOBODY: u32 = 65_534;
    let fleet = Fleet::new(41);
    let directory = fleet.path("web");
    write(&directory, &[("files/open", "x"), ("files/closed", "secret")]);
    fs::set_permissions(directory.join("files/closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = fleet.command(&["publish", "--data"]);
    if rustix::process::geteuid().is_root() {
        // Root reads everything: somebody else tries, with a program and a credential that are within reach.
        let program = fleet.path("potluck");
        fs::copy(env!("CARGO_BIN_EXE_potluck"), &program).unwrap();
        let credential = fleet.path("credential");
        fs::create_dir(&credential).unwrap();
        fs::copy(fleet.path("server/operator.json"), credential.join("operator.json")).unwrap();
        std::os::unix::fs::chown(credential.join("operator.json"), Some(NOBODY), None).unwrap();
        fs::set_permissions(fleet.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        command = std::process::Command::new(program);
        command.args(["publish", "--data"]).arg(credential).uid(NOBODY);
    } else {
        command.arg(fleet.path("server"));
    }
    let output = command.arg(&directory).stdin(Stdio::null()).output().unwrap();
    refused(&output, DATA, &["files/closed", "Permission denied"]);
    assert!(fleet.json(&["status"])["stored_bytes"] == 0, "something was uploaded");
}

#[test]
fn every_mistake_in_a_configuration_is_told_at_once_with_its_place() {
    let fleet = Fleet::new(42);
    let directory = fleet.path("web");
    let text = r#"nam = "x"
[[step]]
id = "a"
rn = "a.sh"
needs = ["b", "nope"]
[[step]]
id = "b"
run = "b.sh"
needs = ["a"]
timeout = "3 potatoes"
[[step]]
id = "c"
file = "c"
dest = "/etc/c"
[[step]]
id = "d"
file = "d"
dest = "/etc/c"
"#;
    write(
        &directory,
        &[("configuration.toml", text), ("b.sh", ""), ("c", ""), ("d", "")],
    );
    let output = fleet.operate_anyhow(&["publish", directory.to_str().unwrap()]);
    let parts = [
        r#"configuration.toml:1:1: unknown key "nam" at the top; did you mean "name"?"#,
        r#"configuration.toml:4:1: unknown key "rn" in step "a"; did you mean "run"?"#,
        "configuration.toml:5:10: steps need each other in a circle: a needs b needs a",
        r#"configuration.toml:5:15: step "a" needs "nope", and there is no such step"#,
        r#"configuration.toml:10:11: "3 potatoes" is not a duration"#,
        r#"configuration.toml:18:8: step "d" places "/etc/c", and so does step "c""#,
    ];
    refused(&output, DATA, &parts);
    fs::write(directory.join("configuration.toml"), "name = \"x\n[[step]\n").unwrap();
    let output = fleet.operate_anyhow(&["publish", directory.to_str().unwrap()]);
    refused(
        &output,
        DATA,
        &[
            "configuration.toml:1:10: not valid TOML",
            "configuration.toml:2:8: not valid TOML",
        ],
    );
}

#[test]
fn unused_files_are_a_warning_and_what_is_unchanged_makes_no_release() {
    let fleet = Fleet::new(43);
    let directory = fleet.path("web");
    let toml = "[[step]]\nid = 'a'\nfile = 'a'\ndest = '/etc/a'\n";
    write(
        &directory,
        &[("configuration.toml", toml), ("a", ""), ("b", ""), ("c/d", "")],
    );
    for expected in ["published web release 1", "web is unchanged, still release 1"] {
        let output = fleet.operate_anyhow(&["publish", directory.to_str().unwrap()]);
        assert_eq!(code(&output), OK, "{output:?}");
        let text = stderr(&output);
        assert!(text.contains("warning: b is used by no step"), "{text}");
        assert!(text.contains("warning: c/ (1 file) is used by no step"), "{text}");
        assert!(
            String::from_utf8_lossy(&output.stdout).starts_with(expected),
            "{output:?}"
        );
    }
}

#[test]
fn a_directory_that_changes_while_it_is_read_makes_no_release() {
    let fleet = Fleet::new(44);
    let directory = fleet.path("web");
    write(&directory, &[("files/large", &"x".repeat(48 << 20))]);
    let large = directory.join("files/large");
    let publish = fleet
        .command(&["publish", directory.to_str().unwrap(), "--data"])
        .arg(fleet.path("server"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let open = || {
        let files = fs::read_dir(format!("/proc/{}/fd", publish.id())).unwrap();
        files
            .flatten()
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == large))
    };
    let began = Instant::now();
    while !open() {
        assert!(began.elapsed() < PATIENCE, "the file is never read");
    }
    fs::write(&large, "y".repeat(48 << 20)).unwrap();
    let output = publish.wait_with_output().unwrap();
    refused(&output, FAILURE, &["files/large changed while"]);
    let status = fleet.json(&["status"]);
    assert!(status["assignments"].as_array().unwrap().is_empty());
    refused(
        &fleet.operate_anyhow(&["assign", "web", "--all"]),
        FAILURE,
        &["nothing has been published yet"],
    );
}

#[test]
fn unknown_names_are_told_with_what_was_perhaps_meant() {
    let fleet = Fleet::new(45);
    fleet.publish(&fleet.sample());
    let run = |args: &[&str]| fleet.operate_anyhow(args);
    refused(
        &run(&["assign", "webb", "--all"]),
        FAILURE,
        &["no configuration webb", "did you mean web?"],
    );
    refused(
        &run(&["assign", "web@2", "--all"]),
        FAILURE,
        &["no release \"2\"", "did you mean 1?"],
    );
    refused(
        &run(&["assign", "web", "--node", "nohost"]),
        FAILURE,
        &["no node \"nohost\"", "potluck nodes"],
    );
    refused(
        &run(&["assign", "web", "--node", "00c0ffee00c0ffee"]),
        FAILURE,
        &["no node 00c0ffee00c0ffee"],
    );
    refused(
        &run(&["unassign", "webb"]),
        FAILURE,
        &["no configuration webb", "did you mean web?"],
    );
    refused(&run(&["unassign", "web"]), FAILURE, &["web is not assigned to anybody"]);
    refused(
        &run(&["unassign", "--id", "9"]),
        FAILURE,
        &["no assignment 9", "potluck status"],
    );
    for command in ["node", "logs", "trace"] {
        refused(
            &run(&[command, "nohost"]),
            FAILURE,
            &["no node \"nohost\"", "potluck nodes"],
        );
        refused(&run(&[command, "a b"]), USAGE, &["neither a node id"]);
    }
    assert!(fleet.json(&["status"])["assignments"].as_array().unwrap().is_empty());
}

#[test]
fn selectors_that_make_no_sense_are_refused_and_ones_that_match_nobody_are_kept_with_a_warning() {
    let fleet = Fleet::new(46);
    fleet.publish(&fleet.sample());
    let wrong = fleet.operate_anyhow(&["assign", "web", "--where", "role=web site=lab"]);
    refused(
        &wrong,
        USAGE,
        &["expected a comma at character 10", "role=web,site!=lab"],
    );
    for (target, warning) in [
        (&["--where", "role=web"][..], "no node's labels match role=web now"),
        (&["--all"], "there is no node yet"),
    ] {
        let output = fleet.operate_anyhow(&[&["assign", "web"], target].concat());
        assert_eq!(code(&output), OK);
        assert!(stderr(&output).contains(&format!("warning: {warning}")), "{output:?}");
    }
    let join = fleet.operate(&["join-token", "--label", "role=web"]);
    assert_eq!(code(&fleet.agent_once(1, &["--join", join.trim()])), OK);
    let output = fleet.operate_anyhow(&["assign", "web", "--where", "role=web"]);
    assert_eq!((code(&output), stderr(&output)), (OK, String::new()));
}

#[test]
fn join_strings_that_are_of_no_use_say_why_and_are_not_shown() {
    let fleet = Fleet::new(47);
    let good = fleet.join_string();
    let mistyped = format!("{}X{}", &good[..40], &good[41..]).replacen("XX", "XY", 1);
    let (cut, newer) = (&good[..60], good.replacen("potluck1", "potluck2", 1));
    for (join, part) in [
        (cut, "cut short or mistyped"),
        (&mistyped, "cut short or mistyped"),
        (&newer, "begins with \"potluck1.\""),
        ("hello", "begins with \"potluck1.\""),
    ] {
        let output = fleet.agent_once(1, &["--join", join]);
        refused(&output, DATA, &["--join", part]);
        let text = stderr(&output);
        assert!(
            join.len() < 40 || !text.contains(&join[20..40]),
            "a secret is shown: {text}"
        );
    }
    let file = fleet.path("join");
    let file = file.to_str().unwrap();
    refused(
        &fleet.agent_once(1, &["--join-file", file]),
        DATA,
        &["reading the join string from", "No such file"],
    );
    fs::write(file, "\n").unwrap();
    refused(
        &fleet.agent_once(1, &["--join-file", file]),
        DATA,
        &["reading the join string from", file],
    );
    assert_eq!(fleet.json(&["nodes"]).as_array().unwrap().len(), 0);

    // Used up.
    assert_eq!(code(&fleet.agent_once(1, &["--join", &good])), 3);
    let used = fleet.agent_once(2, &["--join", &good]);
    refused_agent(&used, FAILURE, &["has been used up", "potluck join-token", "--uses"]);
    // Expired.
    let short = fleet.operate(&["join-token", "--ttl", "1s", "--uses", "1000"]);
    let began = Instant::now();
    let expired = loop {
        let output = fleet.agent_once(2, &["--join", short.trim()]);
        if code(&output) == FAILURE {
            break output;
        }
        assert!(began.elapsed() < PATIENCE, "the token never expires: {output:?}");
        fs::remove_dir_all(fleet.path("node-2")).unwrap();
    };
    refused_agent(&expired, FAILURE, &["has expired", "potluck join-token"]);
    // The same fleet again is fine, also with a string that is used up; another fleet is not.
    assert_eq!(code(&fleet.agent_once(1, &["--join", &good])), 3);
    let other = Fleet::new(48);
    let output = fleet.agent_once(1, &["--join", &other.join_string()]);
    refused_agent(&output, DATA, &["has joined another fleet already", "--data"]);
    assert_eq!(code(&fleet.agent_once(1, &[])), 3, "the node is as it was");
}

/// The same for an agent, which may have logged something before.
#[track_caller]
fn refused_agent(output: &Output, exit: i32, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(code(output), exit, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_eq!(
        text.lines().filter(|line| line.starts_with("error:")).count(),
        1,
        "{text}"
    );
}

#[test]
fn ports_and_data_directories_in_use_or_of_a_newer_version_are_told() {
    let fleet = Fleet::new(49);
    let credential: Value = serde_json::from_slice(&fs::read(fleet.path("server/operator.json")).unwrap()).unwrap();
    let address = credential["servers"][0].as_str().unwrap();
    let server = |data: &str, listen: &str| {
        let mut command = fleet.command(&["server", "--listen", listen, "--exit-with-stdin", "--data"]);
        command.arg(fleet.path(data)).output().unwrap()
    };
    refused(&server("other", address), FAILURE, &[address, "in use", "--listen"]);
    refused(
        &server("server", "127.0.0.1:0"),
        FAILURE,
        &["in use by another server", "--data"],
    );
    refused(
        &server("other", "192.0.2.1:7440"),
        FAILURE,
        &["192.0.2.1", "has no such address"],
    );
    fs::write(fleet.path("other/version"), "format = 9\n").unwrap();
    refused(
        &server("other", "127.0.0.1:0"),
        DATA,
        &["format 9", "reads up to 1: update it"],
    );
    fs::write(fleet.path("other/version"), "format = 1\n").unwrap();
    fs::write(fleet.path("other/server.db"), "rubbish".repeat(999)).unwrap();
    // The log of changes would heal it.
    fs::remove_file(fleet.path("other/server.db-wal")).unwrap();
    let damaged = server("other", "127.0.0.1:0");
    refused(&damaged, DATA, &["database is damaged", "restore it from a backup"]);

    let running = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    fleet.await_nodes(1, "unassigned");
    refused_agent(
        &fleet.agent_once(1, &[]),
        FAILURE,
        &["in use by another agent", "--data"],
    );
    drop(running);
    fs::write(fleet.path("node-1/format"), "9\n").unwrap();
    refused_agent(&fleet.agent_once(1, &[]), DATA, &["format 9", "update potluck"]);
    let nobody = fleet
        .command(&["status", "--data"])
        .arg(fleet.path("node-1"))
        .output()
        .unwrap();
    refused(
        &nobody,
        FAILURE,
        &[
            "node-1/operator.json",
            "--data must name the data directory of a server",
        ],
    );
}

#[test]
fn unassigning_and_halting_work_while_things_run() {
    let fleet = Fleet::new(50);
    let directory = fleet.path("slow");
    let gate = fleet.path("gate");
    let wait = format!("#!/bin/sh\nwhile [ ! -e '{}' ]; do sleep 0.05; done\n", gate.display());
    write(
        &directory,
        &[
            (
                "configuration.toml",
                "[[step]]\nid = 'wait'\nrun = 'wait.sh'\n\n[[step]]\nid = 'mark'\nrun = 'mark.sh'\nneeds = ['wait']\n",
            ),
            ("wait.sh", &wait),
            ("mark.sh", "#!/bin/sh\necho ran >>\"$POTLUCK_ROOT/marks\"\n"),
        ],
    );
    fleet.publish(&directory);
    fleet.operate(&["assign", "slow", "--all"]);
    let _agent = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    let node = fleet.await_nodes(1, "executing")[0]["node"]
        .as_str()
        .unwrap()
        .to_owned();
    fleet.operate(&["halt"]);
    // What executes has heard of it once this is there.
    let told = fleet.path("node-1/execute/halt");
    let began = Instant::now();
    while !told.exists() {
        assert!(began.elapsed() < PATIENCE, "the halt does not arrive");
        std::thread::sleep(POLL);
    }
    fs::write(&gate, "").unwrap();
    fleet.await_nodes(1, "halted");
    let marks = fleet.root(1).join("marks");
    assert!(!marks.exists(), "a step started although the fleet is halted");
    fleet.operate(&["unassign", "slow"]);
    fleet.operate(&["resume"]);
    fleet.await_nodes(1, "unassigned");
    fleet.operate(&["assign", "slow", "--node", &node]);
    fleet.await_nodes(1, "converged");
    assert_eq!(fs::read_to_string(&marks).unwrap(), "ran\n");
}
