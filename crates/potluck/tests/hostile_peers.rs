//! Peers that were let in and behave badly: a node gets everything all the same, uses none of what they sent, says who it
//! was, and leaves them alone.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "some of it is for other tests only")]
mod common;
mod hostile;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;

use common::Fleet;
use hostile::{Hostile, Mischief, Tally};

const SMALL_FILES: usize = 40;
const LARGE: usize = 2 << 20;
/// How often a peer that fails may be asked before it is left alone: some requests are out at once.
const ASKED_MAX: u64 = 24;

/// Publishes small files and a large one, and assigns them to all.
fn publish(fleet: &Fleet) {
    let web = fleet.path("web");
    fs::create_dir_all(web.join("site")).unwrap();
    for index in 0..SMALL_FILES {
        fs::write(web.join(format!("site/{index}")), content(index, 1_000 + 97 * index)).unwrap();
    }
    fs::write(web.join("site/large"), content(99, LARGE)).unwrap();
    fs::write(
        web.join("configuration.toml"),
        "[[step]]\nid = 'site'\nfile = 'site'\ndest = '/srv'\n",
    )
    .unwrap();
    fleet.publish(&web);
    fleet.operate(&["assign", "web", "--all"]);
}

fn content(seed: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_be_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// A node is provisioned beside a peer that does this; what was recorded of the peer's failures, and the peer's tally.
fn provision_beside(mischief: Mischief, network: u8) -> (Vec<String>, Tally) {
    let fleet = Fleet::new(network);
    publish(&fleet);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ip = IpAddr::V4(Ipv4Addr::new(127, 83, network, 1));
    let join = fleet.join_string().parse().unwrap();
    let peer = runtime.block_on(Hostile::join(&join, ip, mischief));
    let (culprit, tally) = (peer.node, peer.tally.clone());
    runtime.spawn(peer.run());

    let root = fleet.root(2);
    let output = fleet.agent_once(2, &["-v", "--join", &fleet.join_string()]);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{mischief:?}: {log}");
    for index in 0..SMALL_FILES {
        let placed = fs::read(root.join(format!("srv/{index}"))).unwrap();
        assert!(
            placed == content(index, 1_000 + 97 * index),
            "file {index} has other bytes"
        );
    }
    assert!(fs::read(root.join("srv/large")).unwrap() == content(99, LARGE));

    let status = fleet.json(&["status"]);
    let culprit = culprit.to_string();
    let nodes = status["nodes"].as_array().unwrap();
    let victim = nodes.iter().find(|node| node["node"] != culprit.as_str()).unwrap()["node"]
        .as_str()
        .unwrap();
    let trace = fleet.json(&["trace", victim]);
    assert_eq!(
        trace["totals"]["peer_bytes"], 0,
        "the peer gave nothing: {}",
        trace["totals"]
    );
    let failures = trace["failures"].as_array().unwrap();
    let of_culprit = failures
        .iter()
        .filter(|failure| failure["source"]["peer"] == culprit.as_str());
    let faults = of_culprit
        .map(|failure| failure["fault"].as_str().unwrap().to_owned())
        .collect();
    assert!(tally.connected.load(Ordering::Relaxed) > 0, "the two never met: {log}");
    let asked = tally.asked.load(Ordering::Relaxed);
    assert!(asked <= ASKED_MAX, "{mischief:?}: it was asked {asked} times");
    (faults, tally)
}

#[test]
fn a_peer_that_does_not_have_what_it_announced_is_named() {
    let (faults, tally) = provision_beside(Mischief::Lies, 81);
    assert!(tally.asked.load(Ordering::Relaxed) > 0);
    assert!(
        faults.iter().any(|fault| fault.contains("does not have what it said")),
        "{faults:?}"
    );
}

#[test]
fn bytes_that_are_not_those_asked_for_are_thrown_away_and_their_sender_is_named() {
    let (faults, tally) = provision_beside(Mischief::WrongBytes, 82);
    assert!(tally.sent.load(Ordering::Relaxed) > 0);
    assert!(
        faults.iter().any(|fault| fault.contains("do not have their digest")),
        "{faults:?}"
    );
    assert_eq!(
        tally.connected.load(Ordering::Relaxed),
        1,
        "it is not connected to again"
    );
}

#[test]
fn a_peer_that_sends_nothing_costs_a_short_deadline_and_is_named() {
    let (faults, _) = provision_beside(Mischief::Silence, 83);
    assert!(faults.iter().any(|fault| fault.contains("sent nothing")), "{faults:?}");
}

#[test]
fn a_peer_that_sends_without_end_is_cut_off_and_named() {
    let (faults, tally) = provision_beside(Mischief::Endless, 84);
    assert!(!faults.is_empty());
    let sent = tally.sent.load(Ordering::Relaxed);
    assert!(sent < 64 << 20, "{sent} bytes were taken");
}

#[test]
fn a_peer_that_talks_nonsense_does_no_harm() {
    provision_beside(Mischief::Nonsense, 85);
}
