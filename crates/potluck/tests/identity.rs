//! Who belongs to the fleet, with real processes: certificates that renew themselves.
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
