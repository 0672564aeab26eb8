//! What becomes of steps, as an operator sees it: parts of other configurations, output that comes while they run, and an agent that is
//! restarted meanwhile.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "some of it is for other tests only")]
mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use common::{Fleet, PATIENCE, POLL, code};

fn write(directory: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn until(what: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(POLL);
    }
}

/// A step that says that it runs, waits until it may go on, and says that it is done.
fn waiting(fleet: &Fleet) {
    let directory = fleet.path("waiting");
    let script = "set -e\necho one\necho ran >> $POTLUCK_ROOT/runs\n\
        while ! test -e $POTLUCK_ROOT/go; do sleep 0.05; done\necho two\nexit 3\n";
    let toml = "[[step]]\nrun = 'wait.sh'\nexit = { 3 = 'changed' }\n";
    write(&directory, &[("wait.sh", script), ("configuration.toml", toml)]);
    fleet.publish(&directory);
    fleet.operate(&["assign", "waiting", "--all"]);
}

#[test]
fn a_configuration_is_made_of_others_and_publish_says_what_differs() {
    let fleet = Fleet::new(91);
    let (base, web) = (fleet.path("base"), fleet.path("web"));
    write(
        &base,
        &[
            (
                "configuration.toml",
                "[[step]]\nid = 'base'\nfile = 'motd'\ndest = '/etc/motd'\n",
            ),
            ("motd", "of base\n"),
        ],
    );
    write(
        &web,
        &[
            (
                "configuration.toml",
                "include = ['base@>=1']\n[[step]]\nid = 'page'\nfile = 'page'\ndest = '/srv/page'\nneeds = ['base']\n",
            ),
            ("page", "of web\n"),
        ],
    );
    let publish = || fleet.operate_anyhow(&["publish", web.to_str().unwrap()]);
    let early = publish();
    let said = String::from_utf8_lossy(&early.stderr).into_owned();
    assert_eq!(code(&early), 65, "{said}");
    assert!(
        said.contains("configuration.toml:1:12: the server has no configuration \"base\" to include"),
        "{said}"
    );
    fleet.publish(&base);
    let first = fleet.publish(&web);
    assert_eq!(first["files"], 2, "{first}");
    fleet.operate(&["assign", "web", "--all"]);
    let once = fleet.agent_once(1, &["--join", &fleet.join_string()]);
    assert!(once.status.success(), "{once:?}");
    assert_eq!(fs::read_to_string(fleet.root(1).join("etc/motd")).unwrap(), "of base\n");
    assert_eq!(fs::read_to_string(fleet.root(1).join("srv/page")).unwrap(), "of web\n");

    write(&base, &[("motd", "of a newer base\n")]);
    fleet.publish(&base);
    assert!(
        String::from_utf8_lossy(&fleet.agent_once(1, &[]).stdout).contains("changed=0"),
        "nothing changes by itself"
    );
    let second = publish();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    let lines = [
        "compared with release 1:",
        "  + include base release 2",
        "  - include base release 1",
        "  ~ file motd",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), lines);
    assert!(
        String::from_utf8_lossy(&second.stdout).starts_with("published web release 2"),
        "{second:?}"
    );
}

#[test]
fn logs_follow_a_step_while_it_runs() {
    let fleet = Fleet::new(92);
    waiting(&fleet);
    let _agent = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    until("the step runs", || fleet.root(1).join("runs").exists());
    let node = fleet.json(&["nodes"])[0]["node"].as_str().unwrap().to_owned();
    let mut follow = fleet
        .command(&["logs", "-f", &node, "--data"])
        .arg(fleet.path("server"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let seen = lines.find(|line| line.contains("wait: one"));
    assert!(seen.is_some());
    fs::write(fleet.root(1).join("go"), "").unwrap();
    let rest: Vec<String> = lines.by_ref().take(3).collect();
    assert!(rest[0].contains("wait: two"), "{rest:?}");
    assert!(
        rest[1].contains("wait changed after") && rest[1].contains("exit 3"),
        "{rest:?}"
    );
    assert!(rest[2].contains("changed=1"), "{rest:?}");
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn a_step_goes_on_while_the_agent_is_killed_and_started_again() {
    let fleet = Fleet::new(93);
    waiting(&fleet);
    let agent = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    until("the step runs", || fleet.root(1).join("runs").exists());
    drop(agent);
    let _again = fleet.start_agent(1, &[]);
    fs::write(fleet.root(1).join("go"), "").unwrap();
    let nodes = fleet.await_nodes(1, "converged");
    let node = nodes[0]["node"].as_str().unwrap();
    assert_eq!(
        fs::read_to_string(fleet.root(1).join("runs")).unwrap(),
        "ran\n",
        "it ran once"
    );
    let log = fleet.operate(&["logs", node]);
    assert!(log.contains("wait changed after") && log.contains("exit 3"), "{log}");
    assert_eq!(log.matches("wait: ").count(), 2, "{log}");
}
