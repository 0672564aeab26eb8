//! Who belongs to the fleet, with real processes: renewing, revoking, approving, copies of a node, operators.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "some of it is for other tests only")]
mod common;

use std::fs;
use std::time::Instant;

use serde_json::Value;

use common::{Fleet, PATIENCE, POLL};

/// Waits until `found` gives something.
fn wait<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(POLL);
    }
}

/// The certificate of a node, as it is on its disk.
fn certificate(fleet: &Fleet, node: u8) -> Option<String> {
    let text = fs::read(fleet.path(&format!("node-{node}/node.json"))).ok()?;
    let joined: Value = serde_json::from_slice(&text).unwrap();
    Some(joined["certificate"].as_str().unwrap().to_owned())
}

#[test]
fn certificates_renew_themselves_and_also_after_they_have_expired() {
    let settings = "node-certificate-life = \"6s\"\n";
    let fleet = Fleet::with_settings(51, settings);
    fleet.publish(&fleet.sample());
    fleet.operate(&["assign", "web", "--all"]);
    let mut agent = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    fleet.await_nodes(1, "converged");
    let boots = || fs::read_to_string(fleet.path("node-1/boot")).unwrap();
    let (first, boot) = (certificate(&fleet, 1).unwrap(), boots());
    let second = wait("a second certificate", || {
        certificate(&fleet, 1).filter(|now| *now != first)
    });
    wait("a third certificate", || {
        certificate(&fleet, 1).filter(|now| *now != second)
    });
    assert_eq!(boots(), boot, "no restart was needed");
    // The server still talks with it, over connections that were made with the new certificate.
    fleet.operate(&["unassign", "web"]);
    fleet.await_nodes(1, "unassigned");

    assert!(agent.stop().success());
    let last = certificate(&fleet, 1).unwrap();
    // Long absence: the certificate expires meanwhile.
    std::thread::sleep(std::time::Duration::from_secs(8));
    fleet.operate(&["assign", "web", "--all"]);
    let _agent = fleet.start_agent(1, &[]);
    fleet.await_nodes(1, "converged");
    assert_ne!(certificate(&fleet, 1).unwrap(), last);
    assert_eq!(
        fleet.json(&["nodes"]).as_array().unwrap().len(),
        1,
        "it is the same node"
    );
}

fn node_id(fleet: &Fleet, node: u8) -> Option<String> {
    let text = fs::read(fleet.path(&format!("node-{node}/node.json"))).ok()?;
    let joined: Value = serde_json::from_slice(&text).unwrap();
    Some(joined["node"].as_str().unwrap().to_owned())
}

fn log(fleet: &Fleet, node: u8) -> String {
    fs::read_to_string(fleet.path(&format!("node-{node}.log"))).unwrap()
}

/// What the server knows of a node.
fn info(fleet: &Fleet, id: &str) -> Value {
    fleet.json(&["node", id])
}

#[test]
fn a_revoked_node_is_left_alone_by_the_server_and_by_its_peers_and_the_others_go_on() {
    let fleet = Fleet::new(52);
    fleet.publish(&fleet.sample());
    fleet.operate(&["assign", "web", "--all"]);
    let _agents: Vec<_> = (1..=3)
        .map(|node| fleet.start_agent(node, &["--join", &fleet.join_string()]))
        .collect();
    fleet.await_nodes(3, "converged");
    let revoked = node_id(&fleet, 2).unwrap();
    fleet.operate(&["revoke", &revoked, "--reason", "stolen"]);
    // The server cuts it off, and the others are told.
    wait("the revoked node says so", || {
        log(&fleet, 2).contains("was revoked").then_some(())
    });
    for node in [1, 3] {
        wait("the list is kept", || {
            let text = fs::read(fleet.path(&format!("node-{node}/revocations.json"))).ok()?;
            let list: Value = serde_json::from_slice(&text).unwrap();
            (list["signed"]["nodes"] == serde_json::json!([revoked])).then_some(())
        });
    }
    let known = info(&fleet, &revoked);
    assert_eq!(
        (&known["standing"], &known["reason"]),
        (&"revoked".into(), &"stolen".into())
    );
    // A new release reaches the others, and not that one.
    let directory = fleet.sample();
    fs::write(directory.join("site/index.html"), "<h1>second</h1>\n").unwrap();
    fleet.publish(&directory);
    let page = |node: u8| fs::read_to_string(fleet.root(node).join("srv/www/index.html")).unwrap();
    for node in [1, 3] {
        wait("the second release", || page(node).contains("second").then_some(()));
    }
    assert!(
        page(2).contains("hello"),
        "what was placed stays, and nothing new comes"
    );
    let text = fleet.operate(&["status"]);
    assert!(text.contains("1 revoked"), "{text}");
}

#[test]
fn a_node_waits_for_approval_with_the_same_fingerprint_on_both_sides() {
    let fleet = Fleet::new(53);
    fleet.publish(&fleet.sample());
    fleet.operate(&["assign", "web", "--all"]);
    let join = fleet.operate(&["join-token", "--approval"]);
    let file = fleet.path("join");
    fs::write(&file, join).unwrap();
    let flags = ["--join-file", file.to_str().unwrap()];
    let mut agent = fleet.start_agent(1, &flags);
    let pending = wait("a node that waits", || {
        fleet.json(&["nodes"]).as_array().unwrap().first().cloned()
    });
    assert_eq!(pending["standing"], "pending");
    let fingerprint = pending["fingerprint"].as_str().unwrap();
    wait("the node's log", || log(&fleet, 1).contains(fingerprint).then_some(()));
    assert!(fleet.operate(&["nodes"]).contains(fingerprint));
    assert_eq!(node_id(&fleet, 1), None, "it has no certificate");
    // It is the same node after a restart, although the token had one use.
    assert!(agent.stop().success());
    let _agent = fleet.start_agent(1, &flags);
    fleet.operate(&["approve", pending["node"].as_str().unwrap()]);
    let nodes = fleet.await_nodes(1, "converged");
    assert_eq!(nodes.len(), 1);
    assert_eq!(node_id(&fleet, 1).as_deref(), pending["node"].as_str());
}

#[test]
fn a_copied_data_directory_is_no_node_until_somebody_approves_it_as_a_new_one() {
    let fleet = Fleet::new(54);
    fleet.publish(&fleet.sample());
    fleet.operate(&["assign", "web", "--all"]);
    let joined = fleet
        .agent(1, &["--once"])
        .env("POTLUCK_JOIN", fleet.join_string())
        .output()
        .unwrap();
    assert_eq!(common::code(&joined), 0, "{joined:?}");
    // The same directory, as if on another machine.
    let path = fleet.path("node-1/node.json");
    let mut identity: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let first = identity["node"].clone();
    let machine = identity["machine"].as_object_mut().unwrap();
    assert!(machine.contains_key("machine-id"), "this machine has none: {machine:?}");
    machine.insert("machine-id".into(), "0".repeat(64).into());
    fs::write(&path, identity.to_string()).unwrap();
    let refused = fleet.agent_once(1, &[]);
    assert_eq!(common::code(&refused), 65, "{refused:?}");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("machine-id") && text.contains("--join-file"), "{text}");
    // With a join string it asks to be a node of its own, and waits although the token would let it in.
    let _agent = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    let pending = wait("a node that waits", || {
        let nodes = fleet.json(&["nodes"]);
        let found = nodes
            .as_array()
            .unwrap()
            .iter()
            .find(|node| node["standing"] == "pending");
        found.cloned()
    });
    let id = pending["node"].as_str().unwrap();
    assert_ne!(pending["node"], first);
    fleet.operate(&["approve", id]);
    wait("the copy is a node", || {
        (info(&fleet, id)["progress"]["state"] == "converged").then_some(())
    });
    assert_eq!(node_id(&fleet, 1).as_deref(), Some(id));
}

#[test]
fn an_operator_works_from_a_machine_of_their_own_and_is_in_the_log() {
    let fleet = Fleet::new(55);
    let join = fleet.operate(&["operator", "add", "alice"]);
    let home = fleet.path("alice");
    let alice = |args: &[&str]| {
        let output = fleet.command(args).env("HOME", &home).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    alice(&["operator", "join", join.trim()]);
    alice(&["halt"]);
    alice(&["resume"]);
    let text = fleet.operate(&["audit", "--verify"]);
    assert!(text.contains("alice") && text.contains("POST /v1/halt"), "{text}");
    let log = fleet.json(&["audit"]);
    let newest = format!(
        "{}:{}",
        log["newest"]["number"],
        log["newest"]["hash"].as_str().unwrap()
    );
    alice(&["audit", "--checkpoint", &newest]);
    fleet.operate(&["operator", "remove", "alice"]);
    let refused = fleet.command(&["status"]).env("HOME", &home).output().unwrap();
    assert_eq!(common::code(&refused), 1);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("was removed"), "{text}");
}

#[test]
fn without_news_of_revocations_for_too_long_peers_are_left_alone_until_the_server_is_back() {
    let mut fleet = Fleet::with_settings(57, "offline-grace = \"4s\"\n");
    fleet.publish(&fleet.sample());
    fleet.operate(&["assign", "web", "--all"]);
    let _agent = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    fleet.await_nodes(1, "converged");
    let joined: Value = serde_json::from_slice(&fs::read(fleet.path("node-1/node.json")).unwrap()).unwrap();
    let server = joined["servers"][0].as_str().unwrap().to_owned();
    let peer_port: std::net::SocketAddr = fleet.json(&["nodes"])[0]["addresses"][0]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let is_open = || std::net::TcpStream::connect(peer_port).is_ok();
    assert!(is_open());
    drop(fleet.server.take());
    wait("the peer port is closed", || (!is_open()).then_some(()));
    assert!(log(&fleet, 1).contains("offline grace"), "{}", log(&fleet, 1));
    fleet.start_server(&server);
    wait("the peer port is open again", || is_open().then_some(()));
    // The node says afterwards what it did meanwhile.
    let id = node_id(&fleet, 1).unwrap();
    wait("the trouble is reported", || {
        fleet.operate(&["logs", &id]).contains("offline grace").then_some(())
    });
}

#[test]
fn nodes_notice_a_server_whose_log_ends_earlier_than_they_were_told() {
    let mut fleet = Fleet::new(58);
    fleet.publish(&fleet.sample());
    fleet.operate(&["assign", "web", "--all"]);
    let _agent = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    fleet.await_nodes(1, "converged");
    let joined: Value = serde_json::from_slice(&fs::read(fleet.path("node-1/node.json")).unwrap()).unwrap();
    let server = joined["servers"][0].as_str().unwrap().to_owned();
    let backup = fleet.path("backup.tar");
    fleet.operate(&["backup", backup.to_str().unwrap()]);
    for command in ["halt", "resume", "halt", "resume"] {
        fleet.operate(&[command]);
    }
    let newest = fleet.json(&["audit"])["newest"].clone();
    wait("the node keeps the end of the log", || {
        let kept: Value = serde_json::from_slice(&fs::read(fleet.path("node-1/audit.json")).ok()?).unwrap();
        (kept == newest).then_some(())
    });
    drop(fleet.server.take());
    fs::remove_dir_all(fleet.path("server")).unwrap();
    fleet.operate(&["restore", backup.to_str().unwrap()]);
    fleet.start_server(&server);
    let id = node_id(&fleet, 1).unwrap();
    wait("the trouble is reported", || {
        fleet
            .operate(&["logs", &id])
            .contains("restored from an older copy")
            .then_some(())
    });
    let text = fleet.operate(&["audit", "--verify"]);
    assert!(text.contains("restored from a backup"), "{text}");
}
