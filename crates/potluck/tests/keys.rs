//! Publishers' keys away from the server, with real processes: signing here, lost and stolen keys, restored servers.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "some of it is for other tests only")]
mod common;

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use common::{Fleet, PATIENCE, POLL, code};

fn wait(what: &str, mut met: impl FnMut() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(POLL);
    }
}

/// A configuration of one file with this text.
fn page(fleet: &Fleet, text: &str) -> String {
    let directory = fleet.path("web");
    fs::create_dir_all(directory.join("site")).unwrap();
    fs::write(directory.join("site/index.html"), text).unwrap();
    let configuration = "[[step]]\nid = 'site'\nfile = 'site'\ndest = '/srv/www'\n";
    fs::write(directory.join("configuration.toml"), configuration).unwrap();
    directory.to_str().unwrap().to_owned()
}

fn placed(fleet: &Fleet, node: u8) -> String {
    fs::read_to_string(fleet.root(node).join("srv/www/index.html")).unwrap_or_default()
}

/// Standard error of a command that must fail.
fn refused(fleet: &Fleet, args: &[&str]) -> String {
    let output = fleet.operate_anyhow(args);
    assert!(!output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn node_ids(fleet: &Fleet) -> Vec<String> {
    let nodes = fleet.json(&["nodes"]);
    let ids = nodes
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["node"].as_str().unwrap());
    ids.map(str::to_owned).collect()
}

fn key_files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let names = entries.map(|name| name.into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".key.json")).collect();
    names.sort();
    names
}

#[test]
fn what_this_machine_signs_is_executed_and_the_server_can_sign_nothing() {
    let fleet = Fleet::new(71);
    fleet.operate(&["publish", &page(&fleet, "one")]);
    fleet.operate(&["assign", "web", "--all"]);
    let _one = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    fleet.await_nodes(1, "converged");
    assert!(fleet.operate(&["status"]).contains("are on this server"));
    fleet.operate(&["key", "move"]);
    let status = fleet.operate(&["status"]);
    assert!(status.contains("Who owns this fleet: one publisher's key"), "{status}");
    for role in ["root", "targets"] {
        assert!(!fleet.path(&format!("server/keys/{role}.key")).exists());
    }
    let ring = fleet.path(".config/potluck/keys");
    assert_eq!(key_files(&ring).len(), 1);

    fleet.operate(&["publish", &page(&fleet, "two")]);
    wait("the second release is executed", || placed(&fleet, 1) == "two");
    // Without the key, nothing is published.
    let elsewhere = fleet.path("empty");
    let text = refused(
        &fleet,
        &["publish", &page(&fleet, "evil"), "--keys", elsewhere.to_str().unwrap()],
    );
    assert!(text.contains("no key in"), "{text}");

    // A node that joins now pins this machine's key.
    let _two = fleet.start_agent(2, &["--join", &fleet.join_string()]);
    fleet.await_nodes(2, "converged");
    assert_eq!(placed(&fleet, 2), "two");
    let only = node_ids(&fleet)[0].clone();
    let text = fleet.operate(&["publish", &page(&fleet, "three"), "--only", &only, "--minimum", "this"]);
    assert!(text.contains("for 1 node only; nothing below release 3"), "{text}");
    let listed = fleet.operate(&["key", "list"]);
    assert!(
        listed.contains("web 3: for 1 node only, nothing below release 3"),
        "{listed}"
    );
    wait("the other node says why it does not execute it", || {
        fleet.operate(&["nodes", "--trouble", "--json"]).contains("[narrowed]")
    });
    let texts = [placed(&fleet, 1), placed(&fleet, 2)];
    assert_eq!(texts.iter().filter(|text| *text == "three").count(), 1, "{texts:?}");
    // Going back to what has a hole is refused as well.
    fleet.operate(&["assign", "web@2", "--all"]);
    wait("both nodes refuse", || {
        let nodes = fleet.json(&["nodes", "--trouble"]);
        let narrowed = |node: &&Value| node.to_string().contains("below which none is executed");
        nodes.as_array().unwrap().iter().filter(narrowed).count() == 2
    });
}

#[test]
fn a_lost_publishers_key_is_replaced_with_the_help_of_another_one() {
    let fleet = Fleet::new(72);
    let stick = fleet.path("stick");
    let stick_text = stick.to_str().unwrap();
    fs::write(fleet.path("passphrase"), "correct horse\n").unwrap();
    let passphrase = fleet.path("passphrase");
    let sealed = ["--passphrase-file", passphrase.to_str().unwrap()];
    let spare = fleet.operate(&[&["key", "new", "--keys", stick_text, "--sealed"][..], &sealed].concat());
    fleet.operate(&["key", "move", "--signer", spare.trim()]);
    let ring = fleet.path(".config/potluck/keys");
    let lost = key_files(&ring)[0].trim_end_matches(".key.json").to_owned();
    fleet.operate(&["publish", &page(&fleet, "one")]);
    fleet.operate(&["assign", "web", "--all"]);
    let _agent = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    fleet.await_nodes(1, "converged");

    fs::remove_dir_all(&ring).unwrap();
    assert!(refused(&fleet, &["publish", &page(&fleet, "two")]).contains("no key in"));
    let with_stick = |args: &[&str]| fleet.operate(&[args, &["--keys", stick_text], &sealed].concat());
    // A new key on this machine, and the lost one is worth nothing any more.
    let new = fleet.operate(&["key", "new"]);
    with_stick(&["key", "add", new.trim()]);
    with_stick(&["key", "remove", &lost]);
    fleet.operate(&["publish", &page(&fleet, "two")]);
    wait("what the new key signed is executed", || placed(&fleet, 1) == "two");
    let listed = fleet.operate(&["key", "list"]);
    assert!(!listed.contains(&lost), "{listed}");
    // The stick without its passphrase signs nothing.
    let text = refused(&fleet, &["key", "renew", "--keys", stick_text]);
    assert!(text.contains("passphrase"), "{text}");
}

#[test]
fn two_of_two_have_to_sign_before_a_node_hears_of_a_release() {
    let fleet = Fleet::new(73);
    let bob = fleet.path("bob");
    let bob = bob.to_str().unwrap();
    fleet.operate(&["key", "move"]);
    let public = fleet.operate(&["key", "new", "--keys", bob]);
    let text = fleet.operate(&["key", "add", public.trim(), "--threshold", "2"]);
    assert!(text.contains("waiting for others"), "{text}");
    assert!(fleet.operate(&["status"]).contains("A change waits for signatures"));
    fleet.operate(&["key", "sign", "--keys", bob]);
    assert!(fleet.operate(&["status"]).contains("2 of 2 publishers' keys together"));

    let text = fleet.operate(&["publish", &page(&fleet, "one")]);
    assert!(text.contains("1 of 2 signatures"), "{text}");
    assert!(
        !fleet.operate_anyhow(&["assign", "web", "--all"]).status.success(),
        "nobody sees it yet"
    );
    let signed = fleet.operate_anyhow(&["key", "sign", "--keys", bob]);
    let said = String::from_utf8(signed.stderr).unwrap();
    assert!(said.contains("permits release 1 of web"), "{said}");
    fleet.operate(&["assign", "web", "--all"]);
    let output = fleet.agent_once(1, &["--join", &fleet.join_string()]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert_eq!(placed(&fleet, 1), "one");
    // What nobody else wants to sign is dropped.
    fleet.operate(&["publish", &page(&fleet, "two")]);
    fleet.operate(&["key", "drop"]);
    assert_eq!(fleet.agent_once(1, &[]).status.code(), Some(0));
    assert_eq!(placed(&fleet, 1), "one");
}

#[test]
fn a_server_whose_disk_was_seen_gets_fresh_keys_and_one_from_an_old_backup_is_brought_up_to_date() {
    let mut fleet = Fleet::new(74);
    fleet.operate(&["publish", &page(&fleet, "one")]);
    fleet.operate(&["assign", "web", "--all"]);
    let backup = fleet.path("backup.tar");
    fleet.operate(&["backup", backup.to_str().unwrap()]);
    fleet.operate(&["key", "move"]);
    let joined = fleet.agent_once(1, &["--join", &fleet.join_string()]);
    assert_eq!(code(&joined), 0, "{joined:?}");
    let server: Value = serde_json::from_slice(&fs::read(fleet.path("node-1/node.json")).unwrap()).unwrap();
    let server = server["servers"][0].as_str().unwrap().to_owned();

    // From before the keys were moved: the server would sign by itself again, and nodes would not believe it.
    drop(fleet.server.take());
    fs::remove_dir_all(fleet.path("server")).unwrap();
    fleet.operate(&["restore", backup.to_str().unwrap()]);
    fleet.start_server(&server);
    assert!(fleet.path("server/keys/targets.key").exists());
    assert!(fleet.operate(&["key", "list"]).contains("lost the newest root"));
    fleet.operate(&["key", "renew"]);
    assert!(!fleet.path("server/keys/targets.key").exists());

    let before = fs::read(fleet.path("server/keys/timestamp.key")).unwrap();
    fleet.operate(&["key", "rotate", "--online"]);
    assert_ne!(fs::read(fleet.path("server/keys/timestamp.key")).unwrap(), before);
    assert_eq!(key_files(&fleet.path(".config/potluck/keys")).len(), 1);
    fleet.operate(&["publish", &page(&fleet, "two")]);
    let again = fleet.agent_once(2, &["--join", &fleet.join_string()]);
    assert_eq!(code(&again), 0, "{again:?}");
    assert_eq!(placed(&fleet, 2), "two");
}

#[test]
fn the_credential_at_the_server_is_made_anew_when_its_file_is_gone() {
    let mut fleet = Fleet::new(75);
    let old = fs::read(fleet.path("server/operator.json")).unwrap();
    drop(fleet.server.take());
    fs::remove_file(fleet.path("server/operator.json")).unwrap();
    let stolen = fleet.path("stolen");
    fs::create_dir(&stolen).unwrap();
    let address = fleet.start_server("127.0.0.1:0");
    fleet.operate(&["status"]);
    let mut credential: Value = serde_json::from_slice(&old).unwrap();
    credential["servers"] = serde_json::json!([address]);
    fs::write(stolen.join("operator.json"), credential.to_string()).unwrap();
    let output = fleet
        .command(&["status", "--data", stolen.to_str().unwrap()])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("has got another credential since"), "{text}");
}
