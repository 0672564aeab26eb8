//! The server is killed without warning while it is at work: what it acknowledged is there when it returns.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "some of it is for other tests only")]
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use common::{Fleet, PATIENCE, POLL, code};
use potluck_model::Digest;
use potluck_model::api::NodeEvents;
use potluck_model::trace::What;
use potluck_net::api::Client;
use potluck_net::tls::{self, Identity};
use serde_json::Value;

/// Kills the server, and starts it again at the same address.
fn kill(fleet: &mut Fleet, address: &str) {
    let mut service = fleet.server.take().unwrap();
    service.child.kill().unwrap();
    service.child.wait().unwrap();
    drop(service);
    assert_eq!(fleet.start_server(address), address);
}

fn credential(fleet: &Fleet) -> Value {
    serde_json::from_slice(&fs::read(fleet.path("server/operator.json")).unwrap()).unwrap()
}

fn address(fleet: &Fleet) -> String {
    credential(fleet)["servers"][0].as_str().unwrap().to_owned()
}

/// The operator's client.
fn client(fleet: &Fleet) -> Client {
    let credential = credential(fleet);
    let text = |name: &str| credential[name].as_str().unwrap().to_owned();
    let identity = Identity::from_pem(&text("certificate"), &text("key"), &text("ca")).unwrap();
    let tls = tls::client_config(Some(&identity), &identity.ca).unwrap();
    Client::new(vec![address(fleet)], tls)
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_be_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn await_that(what: &str, met: impl Fn() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(POLL / 10);
    }
}

#[test]
fn every_acknowledged_upload_is_there_however_often_the_server_is_killed() {
    let mut fleet = Fleet::new(30);
    let address = address(&fleet);
    let client = client(&fleet);
    let (done, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let count = Arc::new(AtomicUsize::new(0));
    let uploader = std::thread::spawn({
        let (client, done, acknowledged, count) = (client.clone(), done.clone(), acknowledged.clone(), count.clone());
        move || {
            runtime().block_on(async {
                let mut seed = 0;
                while !done.load(Ordering::Relaxed) {
                    let chunks: Vec<(Digest, Bytes)> = (0..8)
                        .map(|_| {
                            seed += 1;
                            let bytes = noise(seed, 100_000);
                            (Digest::of(&bytes), bytes.into())
                        })
                        .collect();
                    if client.upload_chunks(&chunks, None).await.is_ok() {
                        let digests = chunks.iter().map(|(digest, _)| *digest);
                        acknowledged.lock().unwrap().extend(digests);
                        count.fetch_add(1, Ordering::Relaxed);
                    } else {
                        tokio::time::sleep(POLL).await;
                    }
                }
            });
        }
    });
    for round in 1..=6_u32 {
        let before = count.load(Ordering::Relaxed);
        await_that("uploads go on", || count.load(Ordering::Relaxed) > before + 1);
        // Not always at the same moment of an upload.
        std::thread::sleep(POLL / 10 * round);
        kill(&mut fleet, &address);
    }
    done.store(true, Ordering::Relaxed);
    uploader.join().unwrap();
    let acknowledged = acknowledged.lock().unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        for digests in acknowledged.chunks(512) {
            let missing = client.missing_chunks(digests).await.unwrap();
            assert!(missing.iter().all(|missing| !missing), "an acknowledged chunk is gone");
        }
        let last = acknowledged.last().unwrap();
        let bytes = client.content(last, 100_000).await.unwrap();
        assert_eq!(Digest::of(&bytes), *last);
    });
    // What was cut off is cleaned up.
    let packs = fs::read_dir(fleet.path("server/packs")).unwrap();
    assert!(
        packs
            .flatten()
            .all(|entry| entry.path().extension() == Some("pack".as_ref()))
    );
}

#[test]
fn publishing_goes_on_when_the_server_returns_and_the_release_is_whole() {
    let mut fleet = Fleet::new(31);
    let address = address(&fleet);
    let directory = fleet.path("big");
    fs::create_dir_all(directory.join("files")).unwrap();
    let contents: Vec<Vec<u8>> = (0..4).map(|seed| noise(1_000 + seed, 8 << 20)).collect();
    for (index, content) in contents.iter().enumerate() {
        fs::write(directory.join(format!("files/{index}.bin")), content).unwrap();
    }
    let packs = fleet.path("server/packs");
    let count = |packs: &Path| fs::read_dir(packs).unwrap().count();
    let mut kills = 0;
    let began = Instant::now();
    let published = loop {
        assert!(began.elapsed() < PATIENCE, "publishing never ends");
        let mut publish = fleet
            .command(&["publish", "--json", directory.to_str().unwrap(), "--data"])
            .arg(fleet.path("server"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while kills < 4 {
            let before = count(&packs);
            await_that("uploads go on", || {
                count(&packs) > before || !Path::new(&format!("/proc/{}/fd/0", publish.id())).exists()
            });
            if publish.try_wait().unwrap().is_some() {
                break;
            }
            kill(&mut fleet, &address);
            kills += 1;
        }
        let output = publish.wait_with_output().unwrap();
        if output.status.success() {
            break serde_json::from_slice::<Value>(&output.stdout).unwrap();
        }
    };
    assert!(kills > 0, "the server was never killed in the middle");
    // At once after it was acknowledged.
    kill(&mut fleet, &address);
    assert_eq!(published["release"], 1);
    fleet.operate(&["assign", "big", "--all"]);
    kill(&mut fleet, &address);
    let join = fleet.join_string();
    kill(&mut fleet, &address);
    assert_eq!(code(&fleet.agent_once(1, &["--join", &join])), 0);
    for (index, content) in contents.iter().enumerate() {
        let placed = fs::read(fleet.root(1).join(format!("{index}.bin"))).unwrap();
        assert!(placed == *content, "file {index} differs");
    }
}

#[test]
fn no_report_of_ten_nodes_is_lost_when_the_server_is_killed_under_them() {
    const NODES: u8 = 10;
    const LINES: usize = 200;
    let mut fleet = Fleet::new(32);
    let address = address(&fleet);
    let directory = fleet.path("chatty");
    fs::create_dir(&directory).unwrap();
    // Goes on until the test has killed the server often enough.
    let gate = fleet.path("gate");
    let script = format!(
        "#!/bin/sh\nn=0\nwhile [ $n -lt {LINES} ]; do\n  n=$((n+1)); echo line $n\n  [ $n -ne 100 ] || while [ ! -e '{}' ]; \
         do sleep 0.05; done\ndone\n",
        gate.display()
    );
    fs::write(directory.join("10-talk.sh"), script).unwrap();
    fleet.publish(&directory);
    fleet.operate(&["assign", "chatty", "--all"]);
    let join = fleet.operate(&["join-token", "--uses", "10"]);
    let agents: Vec<_> = (1..=NODES)
        .map(|node| fleet.start_agent(node, &["--join", join.trim()]))
        .collect();
    fleet.await_nodes(1, "executing");
    kill(&mut fleet, &address);
    fleet.await_nodes(usize::from(NODES) / 2, "executing");
    kill(&mut fleet, &address);
    fleet.await_nodes(usize::from(NODES), "executing");
    fs::write(&gate, "").unwrap();
    kill(&mut fleet, &address);
    fleet.await_nodes(1, "converged");
    kill(&mut fleet, &address);
    let nodes = fleet.await_nodes(usize::from(NODES), "converged");
    assert_eq!(nodes.len(), usize::from(NODES), "each node joined once");
    let client = client(&fleet);
    let runtime = runtime();
    for node in &nodes {
        let id = node["node"].as_str().unwrap();
        let path = format!("/v1/nodes/{id}/events?limit=10000");
        let events: NodeEvents = runtime.block_on(client.get(&path)).unwrap();
        let mut numbers: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for event in &events.events {
            numbers.entry(event.boot).or_default().push(event.seq);
        }
        for (boot, mut numbers) in numbers {
            numbers.sort_unstable();
            let without_gap: Vec<u64> = (numbers[0]..).take(numbers.len()).collect();
            assert_eq!(numbers, without_gap, "node {id}, boot {boot}: events are lost");
        }
        let mut lines: Vec<&str> = Vec::new();
        for event in &events.events {
            if let What::StepOutput { line, .. } = &event.what {
                lines.push(line);
            }
        }
        assert_eq!(lines.len(), LINES, "node {id}");
        assert_eq!(lines.last(), Some(&format!("line {LINES}").as_str()));
    }
    drop(agents);
}
