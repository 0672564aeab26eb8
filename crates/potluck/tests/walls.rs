//! The walls around the process that talks to the network, around a real agent.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "some of it is for other tests only")]
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use common::{Fleet, network_process};

const CAPABILITIES: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn status(process: u32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// A release that places a file, notes as whom it is executed, and waits for the file `go`.
fn publish(fleet: &Fleet) {
    let directory = fleet.sample();
    let script = "#!/bin/sh\nset -e\nid -u >\"$POTLUCK_ROOT/uid\"\n\
                  grep NoNewPrivs /proc/self/status >\"$POTLUCK_ROOT/privileges\"\ntouch \"$POTLUCK_ROOT/waits\"\n\
                  until test -e \"$POTLUCK_ROOT/go\"; do sleep 0.05; done\n";
    fs::write(directory.join("mark.sh"), script).unwrap();
    fleet.publish(&directory);
    fleet.operate(&["assign", "web", "--all"]);
}

/// Whether this process has a socket of the network open.
fn has_network_socket(process: u32) -> bool {
    let tables = ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"];
    let tables = tables.map(|name| fs::read_to_string(format!("/proc/{process}/net/{name}")).unwrap_or_default());
    let files = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    files
        .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
        .filter_map(|target| {
            let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
            Some(inode)
        })
        .any(|inode| {
            let mut lines = tables.iter().flat_map(|table| table.lines());
            lines.any(|line| line.split_whitespace().nth(9) == Some(&inode))
        })
}

/// Processes with these words on their command line.
fn processes(words: &[&str]) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words
                .iter()
                .all(|word| line.split('\0').any(|argument| argument == *word))
        })
        .collect()
}

/// Sockets of whatever kind that a process has open.
fn sockets(process: u32) -> usize {
    let files = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

#[test]
fn who_talks_to_the_network_has_no_privileges_and_who_executes_talks_to_nobody() {
    let fleet = Fleet::new(61);
    publish(&fleet);
    let agent = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    let root = fleet.root(1);
    while !root.join("waits").exists() {
        std::thread::sleep(common::POLL);
    }
    let dir = fleet.path("node-1").canonicalize().unwrap().join("execute");
    let executing = processes(&["execute", dir.to_str().unwrap()]);
    assert_eq!(executing.len(), 1, "{executing:?}");
    for process in executing.into_iter().chain(processes(&["shim", dir.to_str().unwrap()])) {
        assert_eq!(sockets(process), 0);
    }
    fs::write(root.join("go"), "").unwrap();
    let node = &fleet.await_nodes(1, "converged")[0];
    let keeper = agent.child.id();
    let inside = network_process(keeper).unwrap();

    let found = status(inside);
    for name in CAPABILITIES.iter().filter(|name| is_root() || **name != "CapBnd") {
        assert_eq!(u64::from_str_radix(&found[*name], 16), Ok(0), "{name}");
    }
    assert_eq!((found["NoNewPrivs"].as_str(), found["Seccomp"].as_str()), ("1", "2"));
    assert!(has_network_socket(inside) && !has_network_socket(keeper));

    // Provisioning is as it was: as who started the agent, and free to become somebody else.
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    assert_eq!(read("uid").trim(), rustix::process::geteuid().as_raw().to_string());
    assert!(read("privileges").trim().ends_with('0'), "{}", read("privileges"));
    assert_eq!(read("srv/www/index.html"), "<h1>hello</h1>\n");

    let walls = node["facts"]["walls"].as_str().unwrap();
    assert_eq!(walls.contains("user"), is_root(), "{walls}");
    assert!(walls.contains("no-privileges landlock seccomp"), "{walls}");
    if !is_root() {
        let log = fs::read_to_string(fleet.path("node-1.log")).unwrap();
        assert!(log.contains("was not started as root"), "{log}");
        return;
    }

    let uids: Vec<&str> = found["Uid"].split_whitespace().collect();
    let gids: Vec<&str> = found["Gid"].split_whitespace().collect();
    assert!(uids.iter().chain(&gids).all(|id| *id != "0"), "{uids:?} {gids:?}");
    assert_eq!(found["Groups"], "");
    let data = fleet.path("node-1");
    let as_it = |script: &str| {
        let ended = Command::new("setpriv")
            .args([
                "--reuid",
                uids[0],
                "--regid",
                gids[0],
                "--clear-groups",
                "sh",
                "-c",
                script,
            ])
            .current_dir(&data)
            .stderr(Stdio::null())
            .status();
        ended.unwrap().success()
    };
    assert!(
        as_it("cat node.json >/dev/null && touch probe && rm probe"),
        "what is its own it can use"
    );
    for attempt in [
        "cat /etc/shadow",
        "ls execute",
        "cat execute/trust.json",
        "mv execute elsewhere",
        "rmdir execute",
        "touch execute/x",
        "chmod 777 execute",
    ] {
        assert!(!as_it(attempt), "{attempt}");
    }
    assert!(data.join("execute/trust.json").exists());
}

#[test]
fn a_data_directory_of_before_the_walls_goes_on_and_a_root_without_them_can_go_back() {
    if !is_root() {
        eprintln!("not root: there is one user only");
        return;
    }
    let fleet = Fleet::new(62);
    publish(&fleet);
    fs::create_dir(fleet.root(1)).unwrap();
    fs::write(fleet.root(1).join("go"), "").unwrap();
    // Nobody but root may enter: it runs as before.
    fs::set_permissions(fleet.dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let first = fleet.agent_once(1, &["--join", &fleet.join_string()]);
    let log = String::from_utf8(first.stderr).unwrap();
    assert!(
        first.status.success() && log.contains("only its owner may enter"),
        "{log}"
    );
    let data = fleet.path("node-1");
    let owner = |name: &str| fs::metadata(data.join(name)).unwrap().uid();
    assert_eq!((owner("node.json"), owner("store")), (0, 0));
    let identity = fs::read(data.join("node.json")).unwrap();

    fs::set_permissions(fleet.dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    assert!(fleet.agent_once(1, &[]).status.success());
    assert!(owner("node.json") != 0 && owner("store") == owner("node.json"));
    assert_eq!((owner("execute"), owner("execute/trust.json")), (0, 0));

    fs::set_permissions(fleet.dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(fleet.agent_once(1, &[]).status.success());
    fs::set_permissions(fleet.dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let last = fleet.agent_once(1, &[]);
    assert!(last.status.success(), "{last:?}");
    assert!(owner("boot") != 0);
    assert_eq!(
        fs::read(data.join("node.json")).unwrap(),
        identity,
        "it is the same node"
    );
}

#[test]
fn the_network_process_ends_with_its_keeper_and_the_agent_with_its_network_process() {
    let fleet = Fleet::new(63);
    let mut agent = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    fleet.await_nodes(1, "unassigned");
    let inside = network_process(agent.child.id()).unwrap();
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
    let line = || fs::read_to_string(format!("/proc/{inside}/cmdline")).unwrap_or_default();
    let began = std::time::Instant::now();
    while line().contains("--network-process") {
        assert!(began.elapsed() < common::PATIENCE, "it goes on without its keeper");
        std::thread::sleep(common::POLL);
    }
    let mut agent = fleet.start_agent(1, &[]);
    let inside = loop {
        match network_process(agent.child.id()) {
            Some(inside) => break inside,
            None => std::thread::sleep(common::POLL),
        }
    };
    let pid = rustix::process::Pid::from_raw(inside.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(agent.child.wait().unwrap().code(), Some(1));
}
