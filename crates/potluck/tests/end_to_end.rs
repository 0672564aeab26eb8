//! The program as an operator uses it: a server and agents as processes, on loopback addresses, without root.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "some of it is for other tests only")]
mod common;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Instant;

use common::{Fleet, LARGE, PATIENCE, POLL, Service, code};
use serde_json::Value;

#[test]
fn a_late_node_gets_every_byte_from_its_peer() {
    let fleet = Fleet::new(1);
    let published = fleet.publish(&fleet.sample());
    assert_eq!(
        (published["release"].as_u64(), published["unchanged"].as_bool()),
        (Some(1), Some(false))
    );
    fleet.operate(&["assign", "web", "--all"]);
    let _first = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    let early = fleet.await_nodes(1, "converged")[0]["node"].clone();
    let _second = fleet.start_agent(2, &["--join", &fleet.join_string()]);
    let nodes = fleet.await_nodes(2, "converged");
    let late = nodes.iter().find(|node| node["node"] != early).unwrap()["node"]
        .as_str()
        .unwrap();

    for node in [1, 2] {
        let www = fleet.root(node).join("srv/www");
        assert_eq!(fs::read(www.join("large.bin")).unwrap().len(), LARGE);
        assert_eq!(fs::read_to_string(www.join("index.html")).unwrap(), "<h1>hello</h1>\n");
        assert_eq!(fs::read_to_string(fleet.root(node).join("marks")).unwrap(), "ran\n");
    }

    let trace = fleet.json(&["trace", late]);
    let totals = &trace["totals"];
    assert_eq!(totals["origin_bytes"], 0, "{totals}");
    assert_eq!(totals["held_bytes"], 0, "{totals}");
    assert_eq!(totals["peer_bytes"], published["bytes"], "{totals}");
    assert_eq!(trace["list"], published["list"]);
    assert_eq!(trace["list_fetches"][0]["cause"], "start");
    assert_eq!(trace["recap"]["changed"], 2);
    for file in trace["files"].as_array().unwrap() {
        let ranges = file["ranges"].as_array().unwrap();
        let covered: u64 = ranges.iter().map(|range| range["len"].as_u64().unwrap()).sum();
        assert_eq!(covered, file["size"].as_u64().unwrap(), "{file}");
        assert!(ranges.iter().all(|range| range["source"]["peer"] == early), "{file}");
        // Who was asked for the list was asked for what is in it.
        let asked = trace["list_content"]["requests"].as_array().unwrap().iter();
        let asked: Vec<&Value> = asked.chain(file["requests"].as_array().unwrap()).collect();
        for answer in file["answers"].as_array().unwrap() {
            let before = |request: &&&Value| {
                request["request"] == answer["request"] && request["at"].as_u64() < answer["at"].as_u64()
            };
            assert!(
                asked.iter().any(|request| before(&request)),
                "{answer} without a request before it: {file}"
            );
        }
    }
    let outcomes: Vec<&Value> = trace["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| &step["outcome"])
        .collect();
    assert_eq!(outcomes, ["changed", "changed"]);

    let logs = fleet.operate(&["logs", late]);
    assert!(logs.contains(&format!("mark: ran as {late}")), "{logs}");
    let shown = fleet.operate(&["trace", &late[..6]]);
    assert!(shown.contains("100.0 %"), "{shown}");
}

#[test]
fn a_second_run_changes_nothing_and_says_so() {
    let fleet = Fleet::new(2);
    fleet.publish(&fleet.sample());
    fleet.operate(&["assign", "web", "--all"]);
    let first = fleet.agent_once(1, &["--detailed-exit-code", "--json", "--join", &fleet.join_string()]);
    assert_eq!(code(&first), 2, "{first:?}");
    let report: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(
        (&report["state"], &report["recap"]["changed"]),
        (&"converged".into(), &2.into())
    );

    let second = fleet.agent_once(1, &["--detailed-exit-code"]);
    assert_eq!(code(&second), 0, "{second:?}");
    let last = String::from_utf8(second.stdout).unwrap();
    assert_eq!(last, "changed=0 unchanged=2 failed=0 skipped=0 blocked=0\n");
    assert_eq!(fs::read_to_string(fleet.root(1).join("marks")).unwrap(), "ran\n");

    let again = fleet.operate(&["publish", fleet.sample().to_str().unwrap()]);
    assert_eq!(again, "web is unchanged, still release 1\n");
}

#[test]
fn a_new_release_reaches_nodes_that_follow_the_newest() {
    let fleet = Fleet::new(3);
    let directory = fleet.sample();
    fleet.publish(&directory);
    fleet.operate(&["assign", "web", "--all"]);
    let _agent = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    let node = fleet.await_nodes(1, "converged")[0]["node"]
        .as_str()
        .unwrap()
        .to_owned();
    fs::write(directory.join("site/index.html"), "<h1>new</h1>\n").unwrap();
    let second = fleet.publish(&directory);
    assert_eq!(second["release"], 2);
    let began = Instant::now();
    let trace = loop {
        let output = fleet.operate_anyhow(&["trace", &node, "--json", "--list", second["list"].as_str().unwrap()]);
        if output.status.success() {
            let trace: Value = serde_json::from_slice(&output.stdout).unwrap();
            if !trace["recap"].is_null() {
                break trace;
            }
        }
        assert!(began.elapsed() < PATIENCE, "{output:?}");
        std::thread::sleep(POLL);
    };
    let served = fs::read_to_string(fleet.root(1).join("srv/www/index.html")).unwrap();
    assert_eq!(served, "<h1>new</h1>\n");
    assert_eq!(trace["list_fetches"][0]["cause"], "notified");
    // Only the changed file travels: 13 bytes.
    assert_eq!(trace["totals"]["origin_bytes"], 13, "{}", trace["totals"]);
    assert_eq!(trace["recap"]["changed"], 1, "{}", trace["steps"]);
    assert_eq!(trace["recap"]["unchanged"], 1, "{}", trace["steps"]);
}

#[test]
fn exit_codes_tell_how_a_run_ended() {
    let mut fleet = Fleet::new(4);
    let unassigned = fleet.agent_once(1, &["--join", &fleet.join_string()]);
    assert_eq!(code(&unassigned), 3, "{unassigned:?}");

    let directory = fleet.path("bad");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("10-fail.sh"), "echo trying; exit 9\n").unwrap();
    fs::set_permissions(directory.join("10-fail.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fleet.publish(&directory);
    fleet.operate(&["assign", "bad", "--all"]);
    let failed = fleet.agent_once(1, &["--json"]);
    assert_eq!(code(&failed), 5, "{failed:?}");
    let report: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(
        (&report["state"], &report["recap"]["failed"]),
        (&"failed".into(), &1.into())
    );
    let shown = fleet.operate(&["nodes", "--trouble"]);
    assert!(shown.contains("failed"), "{shown}");

    fleet.server.take().unwrap().stop();
    let status = fleet.operate_anyhow(&["status"]);
    assert_eq!(code(&status), 4, "{status:?}");
    assert!(
        String::from_utf8_lossy(&status.stderr).contains("cannot reach the management server"),
        "{status:?}"
    );
}

#[test]
fn wrong_usage_and_wrong_data_have_codes_of_their_own() {
    let fleet = Fleet::new(5);
    let run = |args: &[&str]| fleet.command(args).output().unwrap();
    assert_eq!(code(&run(&["no-such-command"])), 64);
    assert_eq!(code(&run(&["assign", "web"])), 64);
    assert_eq!(code(&run(&[])), 64);
    assert_eq!(code(&run(&["--help"])), 0);
    assert_eq!(code(&run(&["--version"])), 0);
    assert_eq!(code(&run(&["agent", "--join", "potluck1.nonsense"])), 65);

    let settings = fleet.path("agent.toml");
    fs::write(&settings, "rooot = '/'\n").unwrap();
    let wrong = run(&["agent", "--config", settings.to_str().unwrap()]);
    assert_eq!(code(&wrong), 65);
    let text = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(
        text.contains("agent.toml:1:1: unknown key \"rooot\"; did you mean \"root\"?"),
        "{text}"
    );

    let directory = fleet.path("empty-toml");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("configuration.toml"), "[[step]]\nexce = 'x'\n").unwrap();
    assert_eq!(
        code(&fleet.operate_anyhow(&["publish", directory.to_str().unwrap()])),
        65
    );

    let nobody = run(&["status"]);
    assert_eq!(code(&nobody), 1);
    assert!(
        String::from_utf8_lossy(&nobody.stderr).contains("POTLUCK_SERVER"),
        "{nobody:?}"
    );
}

#[test]
fn the_server_and_the_agent_read_settings_files() {
    let fleet = Fleet::new(6);
    let data = fleet.path("other-server");
    let settings = fleet.path("server.toml");
    fs::write(
        &settings,
        format!("data = {data:?}\nlisten = '127.0.0.1:0'\nadvertise = ['potluck.example:7440']\n"),
    )
    .unwrap();
    let mut service = Service::start(
        fleet
            .command(&["server", "--json", "--config", settings.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    );
    let mut line = String::new();
    BufReader::new(service.child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let document: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(document["advertised"][0], "potluck.example:7440");
    assert!(data.join("operator.json").exists());
    assert!(service.stop().success());

    fs::write(fleet.path("join"), fleet.join_string()).unwrap();
    fs::create_dir(fleet.path("root")).unwrap();
    let settings = fleet.path("agent.toml");
    fs::write(
        &settings,
        format!(
            "data = {:?}\njoin-file = {:?}\nroot = {:?}\nbind = '127.83.6.1'\n",
            fleet.path("node"),
            fleet.path("join"),
            fleet.path("root")
        ),
    )
    .unwrap();
    let once = fleet
        .command(&["agent", "--once", "--config", settings.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(code(&once), 3, "{once:?}");
    assert_eq!(fleet.json(&["nodes"]).as_array().unwrap().len(), 1);
}

#[test]
fn every_operator_command_prints_one_json_document() {
    let fleet = Fleet::new(7);
    let directory = fleet.sample();
    assert!(fleet.json(&["join-token", "--uses", "2", "--ttl", "5m"])["join"].is_string());
    fleet.publish(&directory);
    let assigned = fleet.json(&["assign", "web@1", "--where", "role=web"]);
    assert_eq!(assigned["release"], 1);
    let join = fleet.operate(&["join-token", "--label", "role=web"]);
    assert_eq!(code(&fleet.agent_once(1, &["--join", join.trim()])), 0);
    let nodes = fleet.json(&["nodes"]);
    let id = nodes[0]["node"].as_str().unwrap();
    assert_eq!(fleet.json(&["node", id])["labels"]["role"], "web");
    assert!(!fleet.json(&["logs", id]).as_array().unwrap().is_empty());
    assert_eq!(fleet.json(&["trace", id])["node"], id);
    assert_eq!(fleet.json(&["halt"])["halted"], true);
    assert_eq!(fleet.json(&["status"])["halted"], true);
    assert_eq!(fleet.json(&["resume"])["halted"], false);
    assert!(fleet.json(&["unassign", "web"])["withdrawn"].is_string());
    assert!(fleet.json(&["status"])["assignments"].as_array().unwrap().is_empty());
}

#[test]
fn the_demo_shows_who_got_what_from_where_and_leaves_nothing_behind() {
    let fleet = Fleet::new(8);
    let temporary = fleet.path("tmp");
    fs::create_dir(&temporary).unwrap();
    let output = fleet
        .command(&[
            "demo",
            "--json",
            "--nodes",
            "2",
            "--dir",
            fleet.sample().to_str().unwrap(),
        ])
        .env("TMPDIR", &temporary)
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let late = &shown["nodes"][1];
    assert_eq!(
        (&late["late"], &late["bytes"]["origin_bytes"]),
        (&true.into(), &0.into()),
        "{late:#}"
    );
    assert_eq!(late["bytes"]["peer_bytes"], shown["published"]["bytes"]);
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

/// A demo of `nodes` nodes that does not end by itself, the directory for its files, and what it says.
fn demo_that_stays(fleet: &Fleet, nodes: &str) -> (Child, PathBuf, Lines<BufReader<ChildStderr>>) {
    let temporary = fleet.path("tmp");
    fs::create_dir(&temporary).unwrap();
    let sample = fleet.sample();
    let mut demo = fleet
        .command(&["demo", "--keep", "--nodes", nodes, "--dir", sample.to_str().unwrap()])
        .env("TMPDIR", &temporary)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(demo.stderr.take().unwrap()).lines();
    (demo, temporary, lines)
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let fleet = Fleet::new(9);
    let (mut demo, temporary, mut lines) = demo_that_stays(&fleet, "1");
    assert!(lines.any(|line| line.unwrap().contains("a node starts")));
    let pid = rustix::process::Pid::from_child(&demo);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = demo.wait().unwrap();
    // Everything that the demo starts has its standard error elsewhere; the pipe ends with the demo.
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(status.code(), Some(1), "{rest:?}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "{rest:?}");
}

#[test]
fn a_killed_demo_takes_its_processes_with_it() {
    let fleet = Fleet::new(10);
    let (mut demo, temporary, mut lines) = demo_that_stays(&fleet, "2");
    assert!(lines.any(|line| line.unwrap().contains("until Ctrl-C")));
    // The server, and for each node the keeper and the network process.
    assert_eq!(processes_in(&temporary), 5);
    demo.kill().unwrap();
    demo.wait().unwrap();
    let began = Instant::now();
    while processes_in(&temporary) > 0 {
        assert!(began.elapsed() < PATIENCE, "{} are left", processes_in(&temporary));
        std::thread::sleep(POLL);
    }
}

/// How many processes have something below `directory` on their command line.
fn processes_in(directory: &Path) -> usize {
    let needle = directory.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(needle))
        .count()
}

#[test]
fn publishing_a_large_file_takes_less_than_128_mib_of_memory() {
    let fleet = Fleet::new(11);
    let directory = fleet.path("large");
    fs::create_dir_all(directory.join("files")).unwrap();
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut file = fs::File::create(directory.join("files/large.img")).unwrap();
    let mut bytes = vec![0; 1 << 20];
    for _ in 0..160 {
        noise.fill(&mut bytes);
        file.write_all(&bytes).unwrap();
    }
    let program = env!("CARGO_BIN_EXE_potluck");
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -d 131072 && exec \"$0\" \"$@\"",
            program,
            "publish",
            "--json",
            "--data",
        ])
        .arg(fleet.path("server"))
        .arg(&directory)
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    let published: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(published["bytes"], 160 << 20);
}

#[test]
fn an_operator_elsewhere_names_the_server_and_brings_the_credential() {
    let fleet = Fleet::new(12);
    let config = fleet.path(".config/potluck");
    fs::create_dir_all(&config).unwrap();
    let credential = fleet.path("server/operator.json");
    let text = fs::read_to_string(&credential).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let server = document["servers"][0].as_str().unwrap();
    let elsewhere = text.replace(server, "127.0.0.1:9");
    fs::write(config.join("operator.json"), elsewhere).unwrap();
    let status = fleet
        .command(&["status"])
        .env("POTLUCK_SERVER", server)
        .output()
        .unwrap();
    assert_eq!(code(&status), 0, "{status:?}");
}
