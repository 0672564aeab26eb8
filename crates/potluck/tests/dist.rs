//! What is in dist/: units for systemd, users, directories.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn dist(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist").join(name)
}

/// `KEY=VALUE` of a unit, in order.
fn unit(name: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(dist(name)).unwrap();
    let lines = text
        .lines()
        .filter(|line| !(line.is_empty() || line.starts_with(['#', '['])));
    lines
        .map(|line| {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{name}: {line}"));
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

fn value<'a>(unit: &'a [(String, String)], key: &str) -> &'a str {
    let found = unit.iter().find(|(name, _)| name == key);
    found.map_or_else(|| panic!("there is no {key}"), |(_, value)| value)
}

#[test]
fn the_agents_unit_confines_nothing_that_steps_need_and_leaves_what_executes_alone() {
    let unit = unit("potluck-agent.service");
    assert_eq!(value(&unit, "KillMode"), "process");
    assert_eq!(value(&unit, "Restart"), "always");
    // Each of these would hold for steps as well.
    let confining = |key: &str| {
        [
            "Protect",
            "Private",
            "Restrict",
            "NoNewPrivileges",
            "Capability",
            "SystemCall",
            "ReadOnly",
            "User",
            "Memory",
        ]
        .iter()
        .any(|prefix| key.starts_with(prefix))
    };
    let found: Vec<_> = unit.iter().filter(|(key, _)| confining(key)).collect();
    assert!(found.is_empty(), "{found:?}");
    // systemd would give what is in it to root at each start.
    assert!(unit.iter().all(|(key, _)| key != "StateDirectory"));
}

#[test]
fn the_servers_unit_gives_it_one_directory_and_no_privileges() {
    let unit = unit("potluck-server.service");
    for (key, wanted) in [
        ("CapabilityBoundingSet", ""),
        ("NoNewPrivileges", "true"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "true"),
        ("PrivateDevices", "true"),
        ("RestrictNamespaces", "true"),
        ("SystemCallArchitectures", "native"),
    ] {
        assert_eq!(value(&unit, key), wanted, "{key}");
    }
    let user = value(&unit, "User");
    assert_ne!(user, "root");
    let users = fs::read_to_string(dist("potluck.sysusers")).unwrap();
    for user in [user, "potluck"] {
        assert!(
            users.lines().any(|line| line.split_whitespace().nth(1) == Some(user)),
            "{user}"
        );
    }
    let directory = format!("/var/lib/{}", value(&unit, "StateDirectory"));
    assert!(value(&unit, "ExecStart").ends_with(&format!("--data {directory}")));
}

#[test]
fn the_units_commands_are_ones_that_the_program_knows() {
    for name in ["potluck-agent.service", "potluck-server.service"] {
        let unit = unit(name);
        let mut words = value(&unit, "ExecStart").split_whitespace();
        assert_eq!(words.next(), Some("/usr/bin/potluck"));
        let ended = Command::new(env!("CARGO_BIN_EXE_potluck"))
            .args(words)
            .arg("--help")
            .output()
            .unwrap();
        assert!(ended.status.success(), "{name}: {ended:?}");
    }
}

#[test]
fn systemd_has_nothing_to_say_against_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for name in ["potluck-agent.service", "potluck-server.service"] {
        let text = fs::read_to_string(dist(name)).unwrap();
        let path = dir.path().join(name);
        fs::write(&path, text.replace("/usr/bin/potluck", env!("CARGO_BIN_EXE_potluck"))).unwrap();
        paths.push(path);
    }
    let Ok(ended) = Command::new("systemd-analyze").arg("verify").args(&paths).output() else {
        eprintln!("NOT CHECKED: there is no systemd-analyze here; the other tests of this file read the units");
        return;
    };
    let said = String::from_utf8_lossy(&ended.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("potluck-")).collect();
    assert!(ours.is_empty() && ended.status.success(), "{said}");
    let users = Command::new("systemd-sysusers")
        .arg("--dry-run")
        .arg(dist("potluck.sysusers"))
        .output()
        .unwrap();
    assert!(users.status.success(), "{users:?}");
}
