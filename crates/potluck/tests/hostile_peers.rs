//! Peers that were let in and behave badly: a node gets everything all the same, uses none of what they sent, says who it
//! was, and leaves them alone.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "some of it is for other tests only")]
mod common;
mod hostile;
mod newcomer;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::Instant;

use common::{Fleet, PATIENCE, POLL, Service, network_process};
use hostile::strangers::{flood, received, silent_connections};
use hostile::{Hostile, Mischief, Tally};
use tokio::runtime::Runtime;

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
    let runtime = Runtime::new().unwrap();
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

/// A fleet with one node that has everything and goes on.
struct Holder {
    fleet: Fleet,
    service: Service,
    id: String,
    address: SocketAddr,
}

impl Holder {
    fn new(network: u8) -> Self {
        let fleet = Fleet::new(network);
        publish(&fleet);
        let service = fleet.start_agent(1, &["--join", &fleet.join_string()]);
        let nodes = fleet.await_nodes(1, "converged");
        Self {
            id: nodes[0]["node"].as_str().unwrap().to_owned(),
            address: nodes[0]["addresses"][0].as_str().unwrap().parse().unwrap(),
            fleet,
            service,
        }
    }

    /// One more node is provisioned; bytes that came from peers and from the server.
    fn provision(&self, node: u8) -> (u64, u64) {
        let join = self.fleet.join_string();
        let output = self.fleet.agent_once(node, &["--join", &join]);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{log}");
        let large = self.fleet.root(node).join("srv/large");
        assert!(fs::read(large).unwrap() == content(99, LARGE));
        let status = self.fleet.json(&["status"]);
        let nodes = status["nodes"].as_array().unwrap();
        let address = format!("127.83.{}.{node}:", self.network());
        let of = |node: &&serde_json::Value| node["addresses"][0].as_str().is_some_and(|at| at.starts_with(&address));
        let progress = &nodes.iter().find(of).unwrap()["progress"];
        let bytes = |key: &str| progress[key].as_u64().unwrap();
        (bytes("peer_bytes"), bytes("origin_bytes"))
    }

    fn network(&self) -> u8 {
        let IpAddr::V4(ip) = self.address.ip() else { panic!() };
        ip.octets()[2]
    }

    fn process(&self) -> u32 {
        network_process(self.service.child.id()).unwrap()
    }

    fn files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process())).unwrap().count()
    }

    fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits until the server knows that this node ignored something of that kind.
    fn await_ignored(&self, key: &str) -> u64 {
        let began = Instant::now();
        loop {
            let node = self.fleet.json(&["node", &self.id]);
            match node["progress"]["ignored"][key].as_u64() {
                Some(count) if count > 0 => return count,
                _ => std::thread::sleep(POLL),
            }
            assert!(began.elapsed() < PATIENCE, "{key}: {node:#}");
        }
    }

    /// A node of this fleet that behaves badly, on the runtime.
    fn beset(&self, runtime: &Runtime, number: u8, mischief: Mischief) -> Tally {
        let join = self.fleet.join_string().parse().unwrap();
        let ip = IpAddr::V4(Ipv4Addr::new(127, 83, self.network(), number));
        let mut peer = runtime.block_on(Hostile::join(&join, ip, mischief));
        peer.victims.push((self.id.parse().unwrap(), self.address));
        let tally = peer.tally.clone();
        runtime.spawn(peer.run());
        tally
    }
}

#[test]
fn a_thousand_connections_that_say_nothing_keep_nobody_out() {
    let holder = Holder::new(86);
    let before = holder.files();
    let siege = silent_connections(holder.address, 1_000);
    let began = Instant::now();
    while siege.made.load(Ordering::Relaxed) < 1_000 {
        assert!(began.elapsed() < PATIENCE, "the siege is too slow");
        std::thread::sleep(POLL);
    }
    let (peers, origin) = holder.provision(2);
    assert!(
        peers > LARGE as u64 && origin == 0,
        "{peers} from peers, {origin} from the server"
    );
    let files = holder.files();
    assert!(files < before + 100, "{files} files are open, {before} were before");
    assert!(holder.resident_kib() < 200 << 10, "{} KiB", holder.resident_kib());
    drop(siege);
    assert!(holder.await_ignored("connections_refused") > 100);
}

#[test]
fn a_flood_of_datagrams_gets_nothing_back_and_is_counted() {
    let holder = Holder::new(87);
    let strange: Vec<Vec<u8>> = (0..64_usize)
        .map(|seed| {
            // Half of them look right until they are opened.
            let mut bytes = content(seed, 40 + 20 * seed);
            if seed % 2 == 0 {
                bytes[..8].copy_from_slice(b"PLK1\0\0\0\x01");
            }
            bytes
        })
        .collect();
    let siege = flood(holder.address, strange, 2);
    let (peers, origin) = holder.provision(2);
    assert!(
        peers > LARGE as u64 && origin == 0,
        "{peers} from peers, {origin} from the server"
    );
    assert!(siege.made.load(Ordering::Relaxed) > 10_000, "that was no flood");
    assert_eq!(siege.got.load(Ordering::Relaxed), 0, "strangers got an answer");
    drop(siege);
    assert!(holder.await_ignored("datagrams_unopened") > 1_000);
}

#[test]
fn a_datagram_that_is_repeated_from_elsewhere_is_answered_once_and_with_no_more_than_it_has() {
    let holder = Holder::new(88);
    let runtime = Runtime::new().unwrap();
    let join = holder.fleet.join_string().parse().unwrap();
    let ip = IpAddr::V4(Ipv4Addr::new(127, 83, 88, 3));
    let sealed = runtime
        .block_on(Hostile::join(&join, ip, Mischief::Silence))
        .sealed_request();
    let stranger = UdpSocket::bind("127.97.0.1:0").unwrap();
    stranger.set_nonblocking(true).unwrap();
    stranger.send_to(&sealed, holder.address).unwrap();
    let began = Instant::now();
    let mut answer = 0;
    while answer == 0 {
        assert!(
            began.elapsed() < PATIENCE,
            "an admitted node's request was not answered"
        );
        std::thread::sleep(POLL);
        answer = received(&stranger);
    }
    assert!(answer <= sealed.len() as u64, "{answer} bytes for {}", sealed.len());
    let siege = flood(holder.address, vec![sealed], 2);
    let (peers, origin) = holder.provision(2);
    assert!(
        peers > LARGE as u64 && origin == 0,
        "{peers} from peers, {origin} from the server"
    );
    assert_eq!(siege.got.load(Ordering::Relaxed), 0, "a replay was answered");
    drop(siege);
    assert_eq!(received(&stranger), 0);
    assert!(holder.await_ignored("datagrams_repeated") > 100);
}

#[test]
fn peers_that_ask_for_everything_without_end_leave_room_for_others() {
    let holder = Holder::new(89);
    let runtime = Runtime::new().unwrap();
    let greedy: Vec<Tally> = (10..13)
        .map(|number| holder.beset(&runtime, number, Mischief::Greed))
        .collect();
    let began = Instant::now();
    let taken = |tally: &Tally| tally.taken.load(Ordering::Relaxed);
    while greedy.iter().any(|tally| taken(tally) < 8 << 20) {
        assert!(began.elapsed() < PATIENCE, "they are not served at all");
        std::thread::sleep(POLL);
    }
    let (peers, origin) = holder.provision(2);
    assert!(peers > 9 * origin, "{peers} from peers, {origin} from the server");
}

#[test]
fn most_of_a_crowd_says_that_it_fetches_and_does_not_and_the_others_finish() {
    let fleet = Fleet::new(90);
    publish(&fleet);
    let runtime = Runtime::new().unwrap();
    let join = fleet.operate(&["join-token", "--uses", "20"]).trim().to_owned();
    let parsed = join.parse().unwrap();
    for number in 10..18 {
        let ip = IpAddr::V4(Ipv4Addr::new(127, 83, 90, number));
        let peer = runtime.block_on(Hostile::join(&parsed, ip, Mischief::Claims));
        runtime.spawn(peer.run());
    }
    let honest: Vec<Service> = (1..=4)
        .map(|node| fleet.start_agent(node, &["--join", &join]))
        .collect();
    fleet.await_nodes(honest.len(), "converged");
    for node in 1..=4 {
        assert!(fs::read(fleet.root(node).join("srv/large")).unwrap() == content(99, LARGE));
    }
}
