//! A server that was broken into, as an agent meets it: the attacker has its whole disk, what was on it before, and the keys
//! that are there, and makes it serve what they like. Publishers' keys are elsewhere.
//!
//! A server without its own keys for snapshot and timestamp serves the files that lie in its directory, whatever they are.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "some of it is for other tests only")]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use common::{Fleet, PATIENCE, POLL, code};
use potluck_model::UnixSeconds;
use potluck_trust::{Document, Role, SecretKey, Signed, Snapshot, Targets, Timestamp, lifetime, snapshot, timestamp};

/// A fleet whose publisher's key is on the operator's machine, with one node that has executed release 1.
struct Scene {
    fleet: Fleet,
    address: String,
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

impl Scene {
    fn new(network: u8) -> Self {
        let fleet = Fleet::new(network);
        let scene = Self {
            address: String::new(),
            fleet,
        };
        scene.fleet.operate(&["publish", &scene.page("one")]);
        scene.fleet.operate(&["assign", "web", "--all"]);
        let joined = scene.fleet.agent_once(1, &["--join", &scene.fleet.join_string()]);
        assert_eq!(code(&joined), 0, "{joined:?}");
        let node: Value = serde_json::from_slice(&fs::read(scene.fleet.path("node-1/node.json")).unwrap()).unwrap();
        Self {
            address: node["servers"][0].as_str().unwrap().to_owned(),
            ..scene
        }
    }

    fn page(&self, text: &str) -> String {
        let directory = self.fleet.path("web");
        fs::create_dir_all(directory.join("site")).unwrap();
        fs::write(directory.join("site/index.html"), text).unwrap();
        let configuration = "[[step]]\nid = 'site'\nfile = 'site'\ndest = '/srv/www'\n";
        fs::write(directory.join("configuration.toml"), configuration).unwrap();
        directory.to_str().unwrap().to_owned()
    }

    fn placed(&self) -> String {
        fs::read_to_string(self.fleet.root(1).join("srv/www/index.html")).unwrap_or_default()
    }

    fn keys(&self) -> PathBuf {
        self.fleet.path("server/keys")
    }

    /// Does something to the disk of the server while it is off.
    fn break_in(&mut self, change: impl FnOnce(&Self)) {
        drop(self.fleet.server.take());
        change(self);
        let address = self.address.clone();
        self.fleet.start_server(&address);
    }

    fn online_key(&self, role: Role) -> SecretKey {
        SecretKey::from_pkcs8(&fs::read(self.keys().join(format!("{role}.key"))).unwrap()).unwrap()
    }

    fn file<T: Document>(&self) -> Signed<T> {
        let path = self.keys().join(format!("{}.json", T::ROLE));
        Signed::from_bytes(&fs::read(path).unwrap()).unwrap()
    }

    fn put<T: Document>(&self, file: &Signed<T>) {
        fs::write(self.keys().join(format!("{}.json", T::ROLE)), file.to_bytes()).unwrap();
    }

    /// Signs snapshot and timestamp with the server's keys, as if it were then, and takes the keys away.
    fn serve(&self, targets: &Signed<Targets>, version: u64, now: UnixSeconds) {
        let mut snapshot = snapshot(targets, version, now);
        snapshot.sign(&self.online_key(Role::Snapshot));
        let mut timestamp = timestamp(&snapshot, version, now);
        timestamp.sign(&self.online_key(Role::Timestamp));
        self.put(targets);
        self.put(&snapshot);
        self.put(&timestamp);
        self.take_keys();
    }

    fn take_keys(&self) {
        for role in [Role::Snapshot, Role::Timestamp] {
            let name = self.keys().join(format!("{role}.key"));
            fs::rename(&name, name.with_extension("taken")).unwrap();
        }
    }

    /// The agent meets this server: nothing new is executed, and the operator is told this kind of reason.
    fn refuses(&self, kind: &str, still: &str) {
        let output = self.fleet.agent_once(1, &[]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(self.placed(), still, "{text}");
        assert!(text.contains(&format!("[{kind}]")), "{kind}: {text}");
        let nodes = self.fleet.json(&["nodes"]);
        let trouble = nodes[0]["progress"]["trouble"].as_str().unwrap_or_default().to_owned();
        assert!(trouble.contains(&format!("[{kind}]")), "status: {trouble}");
    }

    fn accepts(&self, text: &str) {
        let output = self.fleet.agent_once(1, &[]);
        assert_eq!(code(&output), 0, "{output:?}");
        assert_eq!(self.placed(), text);
    }
}

#[test]
fn arbitrary_software_signed_with_keys_from_an_old_disk_is_not_executed() {
    let mut scene = Scene::new(81);
    let loot = scene.fleet.path("loot");
    // Copied when the server still decided; then the keys were moved.
    scene.break_in(|scene| copy(&scene.fleet.path("server"), &loot));
    scene.fleet.operate(&["key", "move"]);
    scene.accepts("one");
    scene.fleet.operate(&["publish", &scene.page("two")]);
    scene.accepts("two");
    scene.break_in(|scene| copy(&loot, &scene.fleet.path("server")));
    // Often enough to get above all numbers that the node has seen.
    for number in 0..8 {
        scene
            .fleet
            .operate(&["publish", &scene.page(&format!("evil {number}"))]);
    }
    scene.refuses("unsigned", "two");
}

#[test]
fn an_older_release_or_older_metadata_is_a_rollback() {
    let mut scene = Scene::new(82);
    scene.fleet.operate(&["key", "move"]);
    let loot = scene.fleet.path("loot");
    scene.break_in(|scene| copy(&scene.fleet.path("server"), &loot));
    scene
        .fleet
        .operate(&["publish", &scene.page("two"), "--minimum", "this"]);
    scene.accepts("two");
    // What was forbidden stays forbidden, whatever the server assigns.
    scene.fleet.operate(&["assign", "web@1", "--all"]);
    scene.refuses("narrowed", "two");
    // And with the metadata of before, too.
    scene.break_in(|scene| copy(&loot, &scene.fleet.path("server")));
    scene.fleet.operate(&["unassign", "web"]);
    scene.fleet.operate(&["assign", "web@1", "--all"]);
    let output = scene.fleet.agent_once(1, &[]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(scene.placed(), "two", "{text}");
    assert!(text.contains("[narrowed]") || text.contains("[rollback]"), "{text}");
}

#[test]
fn frozen_mixed_and_forged_metadata_keeps_new_releases_out_and_what_was_adopted_in_force() {
    let mut scene = Scene::new(83);
    scene.fleet.operate(&["key", "move"]);
    scene.accepts("one");
    scene.fleet.operate(&["publish", &scene.page("two")]);
    let now = UnixSeconds::now();
    let honest = scene.fleet.path("honest");
    copy(&scene.keys(), &honest);

    // Indefinite freeze: the newest that the attacker shows has expired.
    scene.break_in(|scene| {
        let past = UnixSeconds(now.0 - lifetime(Role::Timestamp) - 86_400);
        scene.serve(&scene.file::<Targets>(), now.0 + 1_000, past);
    });
    scene.refuses("expired", "one");

    // Mix-and-match: a snapshot of other targets.
    scene.break_in(|scene| {
        copy(&honest, &scene.keys());
        let stale = scene.file::<Timestamp>();
        scene.serve(&scene.file::<Targets>(), now.0 + 2_000, now);
        scene.put(&stale);
    });
    scene.refuses("mix-and-match", "one");

    // Targets that the attacker changed and signed with what they have.
    scene.break_in(|scene| {
        copy(&honest, &scene.keys());
        let mut editor = potluck_trust::TargetsEditor::after(&scene.file::<Targets>(), now);
        editor.at_least(now.0 + 3_000);
        let mut forged = editor.finish().unwrap();
        forged.sign(&scene.online_key(Role::Snapshot));
        scene.serve(&forged, now.0 + 3_000, now);
    });
    scene.refuses("unsigned", "one");

    // The honest server again: the node goes on. Its versions had been driven up with the stolen keys (fast-forward), so the
    // publisher has these replaced.
    scene.break_in(|scene| copy(&honest, &scene.keys()));
    scene.refuses("rollback", "one");
    scene.fleet.operate(&["key", "rotate", "--online"]);
    scene.accepts("two");
    let newest = scene.file::<Snapshot>();
    assert!(
        newest.version() < now.0 + 1_000,
        "the stolen keys' versions bind nobody"
    );
}

#[test]
fn a_root_that_the_attacker_made_is_refused() {
    let mut scene = Scene::new(84);
    scene.fleet.operate(&["key", "move"]);
    scene.accepts("one");
    scene.fleet.operate(&["publish", &scene.page("two")]);
    scene.break_in(|scene| {
        let path = scene.keys().join("2.root.json");
        let root = Signed::<potluck_trust::Root>::from_bytes(&fs::read(&path).unwrap()).unwrap();
        let thief = SecretKey::generate();
        let mut editor = potluck_trust::RootEditor::after(&root, UnixSeconds::now());
        for role in [Role::Root, Role::Targets] {
            editor.clear(role).add(role, &thief.public());
        }
        let mut forged = editor.finish().unwrap();
        forged.sign(&thief);
        fs::write(scene.keys().join("3.root.json"), forged.to_bytes()).unwrap();
    });
    scene.refuses("unsigned", "one");
}

#[test]
fn metadata_that_is_refused_shows_at_once_also_for_what_was_adopted_and_goes_when_it_is_good_again() {
    let mut scene = Scene::new(85);
    scene.fleet.operate(&["key", "move"]);
    let _agent = scene.fleet.start_agent(1, &[]);
    scene.fleet.await_nodes(1, "converged");
    let honest = scene.fleet.path("honest");
    scene.break_in(|scene| {
        copy(&scene.keys(), &honest);
        let now = UnixSeconds::now();
        let past = UnixSeconds(now.0 - lifetime(Role::Timestamp) - 86_400);
        scene.serve(&scene.file::<Targets>(), now.0 + 1_000, past);
    });
    let trouble = |scene: &Scene| {
        let nodes = scene.fleet.json(&["nodes"]);
        assert_eq!(
            nodes[0]["progress"]["state"], "converged",
            "what was adopted stays in force"
        );
        nodes[0]["progress"]["trouble"].as_str().map(str::to_owned)
    };
    let wait = |scene: &Scene, what: &str, met: &dyn Fn(Option<String>) -> bool| {
        let began = Instant::now();
        while !met(trouble(scene)) {
            assert!(began.elapsed() < PATIENCE, "{what}: {:?}", trouble(scene));
            std::thread::sleep(POLL);
        }
    };
    wait(&scene, "the trouble is told", &|trouble| {
        trouble.is_some_and(|trouble| trouble.contains("[expired]"))
    });
    let shown = scene.fleet.operate(&["nodes", "--trouble"]);
    assert!(shown.contains("converged"), "what was adopted stays in force: {shown}");
    scene.break_in(|scene| copy(&honest, &scene.keys()));
    wait(&scene, "the trouble is over", &|trouble| trouble.is_none());
}
