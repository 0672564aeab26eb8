//! Backup, restoration and removal of what nobody needs, on a server that runs.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "some of it is for other tests only")]
mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use common::{Fleet, PATIENCE, POLL, code};
use serde_json::Value;

/// Waits until the only node has executed this release.
fn await_release(fleet: &Fleet, release: u64) {
    let began = Instant::now();
    loop {
        let nodes = fleet.json(&["nodes"]);
        let node = &nodes[0];
        if node["assigned"]["release"] == release && node["progress"]["state"] == "converged" {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "release {release}: {nodes:#}");
        std::thread::sleep(POLL);
    }
}

#[test]
fn nodes_go_on_with_a_server_that_was_restored_from_an_older_backup() {
    let mut fleet = Fleet::new(20);
    let directory = fleet.sample();
    let index = directory.join("site/index.html");
    fleet.publish(&directory);
    fleet.operate(&["assign", "web", "--all"]);
    let _agent = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    await_release(&fleet, 1);
    let file = fleet.path("backup.tar");
    let made = fleet.json(&["backup", file.to_str().unwrap()]);
    assert!(made["packs"].as_u64().unwrap() > 0, "{made}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    // What the backup does not know of.
    fs::write(&index, "<h1>lost</h1>\n").unwrap();
    fleet.publish(&directory);
    await_release(&fleet, 2);
    let document: Value = serde_json::from_slice(&fs::read(fleet.path("server/operator.json")).unwrap()).unwrap();
    let address = document["servers"][0].as_str().unwrap().to_owned();
    assert!(fleet.server.take().unwrap().stop().success());
    let refused = fleet.operate_anyhow(&["restore", file.to_str().unwrap()]);
    assert_eq!(code(&refused), 65);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("is not empty"), "{text}");
    fs::rename(fleet.path("server"), fleet.path("lost")).unwrap();
    fleet.operate(&["restore", file.to_str().unwrap()]);

    assert_eq!(fleet.start_server(&address), address);
    // Its old state is told as well until it reports anew; what counts is what it does.
    let placed = fleet.root(1).join("srv/www/index.html");
    let await_placed = |text: &str| {
        let began = Instant::now();
        while fs::read_to_string(&placed).unwrap() != text {
            assert!(began.elapsed() < PATIENCE, "{text}");
            std::thread::sleep(POLL);
        }
    };
    await_placed("<h1>hello</h1>\n");
    // The number is taken again, by other content.
    fs::write(&index, "<h1>after</h1>\n").unwrap();
    assert_eq!(fleet.publish(&directory)["release"], 2);
    await_placed("<h1>after</h1>\n");
    await_release(&fleet, 2);
}

#[test]
fn what_nobody_needs_is_removed_and_told() {
    let fleet = Fleet::new(21);
    let directory = fleet.sample();
    for text in ["one", "two", "three"] {
        fs::write(directory.join("site/index.html"), text).unwrap();
        fleet.publish(&directory);
    }
    fleet.operate(&["assign", "web@1", "--where", "role=old"]);
    let text = fleet.operate(&["gc", "--keep", "1", "--grace", "0s"]);
    assert!(text.starts_with("removed web release 2\nremoved 1 release, "), "{text}");
    let again = fleet.json(&["gc", "--keep", "1"]);
    assert_eq!(again["releases"].as_array().unwrap().len(), 0, "{again}");
    let zero = fleet.operate_anyhow(&["gc", "--keep", "0"]);
    assert_eq!(code(&zero), 64, "{zero:?}");
    // A node that is assigned an old release gets all of it.
    let join = fleet.operate(&["join-token", "--label", "role=old"]);
    assert_eq!(code(&fleet.agent_once(1, &["--join", join.trim()])), 0);
    let placed = fs::read_to_string(fleet.root(1).join("srv/www/index.html")).unwrap();
    assert_eq!(placed, "one");
}

#[test]
fn a_backup_of_something_else_is_refused_with_what_to_do() {
    let fleet = Fleet::new(22);
    let run = |args: &[&str]| {
        let output = fleet.command(args).output().unwrap();
        (code(&output), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (nowhere, file) = (fleet.path("nowhere"), fleet.path("b.tar"));
    let (nowhere, file) = (nowhere.to_str().unwrap(), file.to_str().unwrap());
    let (exit, text) = run(&["backup", file, "--data", nowhere]);
    assert_eq!(exit, 65, "{text}");
    assert!(text.contains("is not the data directory of a server"), "{text}");
    assert!(!fleet.path("b.tar").exists() && !fleet.path("nowhere").exists());
    let (exit, text) = run(&["restore", file, "--data", nowhere]);
    assert_eq!(exit, 1, "{text}");
    assert!(text.contains("b.tar") && text.contains("No such file"), "{text}");
    fs::write(file, "rubbish").unwrap();
    let (exit, text) = run(&["restore", file, "--data", nowhere]);
    assert_eq!(exit, 65, "{text}");
    assert!(text.contains("is not a whole backup"), "{text}");
}
