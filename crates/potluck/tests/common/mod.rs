//! A fleet of processes on loopback addresses, as an operator uses it.
#![expect(
    unreachable_pub,
    reason = "each test file is a program of its own that has this as a module"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Far more than anything here takes: reaching it means that something hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const POLL: Duration = Duration::from_millis(50);
/// The large file of the sample configuration.
pub const LARGE: usize = 3 << 20;

/// A service that ends when this is dropped, or when this process dies.
pub struct Service {
    pub child: Child,
    stdin: Option<ChildStdin>,
}

impl Service {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.arg("--exit-with-stdin").stdin(Stdio::piped()).spawn().unwrap();
        Self {
            stdin: child.stdin.take(),
            child,
        }
    }

    /// Lets it end by itself.
    pub fn stop(&mut self) -> ExitStatus {
        drop(self.stdin.take());
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "it does not end when its standard input closes"
            );
            std::thread::sleep(POLL);
        }
    }
}

/// Of an agent with this process id: the process that talks to the network, once it is there.
pub fn network_process(agent: u32) -> Option<u32> {
    let processes = fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| {
            let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let parent = read("stat")
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split(' ').nth(2)?.parse().ok());
            parent == Some(agent) && read("cmdline").contains("--network-process")
        })
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fleet of this test's own: `network` is the third byte of its nodes' loopback addresses.
pub struct Fleet {
    pub dir: TempDir,
    network: u8,
    pub server: Option<Service>,
}

impl Fleet {
    pub fn new(network: u8) -> Self {
        Self::with_settings(network, "")
    }

    /// With a settings file for the server.
    pub fn with_settings(network: u8, settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Where this runs as root, agents have users of their own, who have to get through here.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let mut fleet = Self {
            dir,
            network,
            server: None,
        };
        fs::write(fleet.path("server.toml"), settings).unwrap();
        fleet.start_server("127.0.0.1:0");
        fleet
    }

    /// Starts the server and gives the address at which it listens.
    pub fn start_server(&mut self, listen: &str) -> String {
        let mut service = Service::start(
            self.command(&["server", "--json", "--listen", listen])
                .arg("--config")
                .arg(self.path("server.toml"))
                .arg("--data")
                .arg(self.path("server"))
                .stdout(Stdio::piped())
                .stderr(fs::File::create(self.path("server.log")).unwrap()),
        );
        let mut line = String::new();
        BufReader::new(service.child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        self.server = Some(service);
        let document: Value = serde_json::from_str(&line).unwrap();
        document["listening"].as_str().unwrap().to_owned()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn root(&self, node: u8) -> PathBuf {
        self.path(&format!("root-{node}"))
    }

    /// The program with nothing of this machine's environment that it would look at.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_potluck"));
        for name in [
            "POTLUCK_SERVER",
            "POTLUCK_LOG",
            "RUST_LOG",
            "XDG_CONFIG_HOME",
            "XDG_STATE_HOME",
        ] {
            command.env_remove(name);
        }
        command.env("HOME", self.dir.path()).stdin(Stdio::null()).args(args);
        command
    }

    pub fn operate_anyhow(&self, args: &[&str]) -> Output {
        self.command(args)
            .arg("--data")
            .arg(self.path("server"))
            .output()
            .unwrap()
    }

    /// An operator's command that must work: its standard output.
    pub fn operate(&self, args: &[&str]) -> String {
        let output = self.operate_anyhow(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The one JSON document that a command prints with `--json`.
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.operate(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// A directory with a file to place, a large one, and a script that leaves a line each time that it runs.
    pub fn sample(&self) -> PathBuf {
        let directory = self.path("web");
        fs::create_dir_all(directory.join("site")).unwrap();
        fs::write(directory.join("site/index.html"), "<h1>hello</h1>\n").unwrap();
        let mut large = vec![0; LARGE];
        blake3::Hasher::new().finalize_xof().fill(&mut large);
        fs::write(directory.join("site/large.bin"), large).unwrap();
        fs::write(
            directory.join("mark.sh"),
            "#!/bin/sh\necho \"ran as $POTLUCK_NODE\"\necho ran >>\"$POTLUCK_ROOT/marks\"\n",
        )
        .unwrap();
        fs::write(
            directory.join("configuration.toml"),
            "[[step]]\nid = 'site'\nfile = 'site'\ndest = '/srv/www'\n\n[[step]]\nid = 'mark'\nrun = 'mark.sh'\n",
        )
        .unwrap();
        directory
    }

    pub fn publish(&self, directory: &Path) -> Value {
        self.json(&["publish", directory.to_str().unwrap()])
    }

    pub fn agent(&self, node: u8, args: &[&str]) -> Command {
        let root = self.root(node);
        fs::create_dir_all(&root).unwrap();
        let mut command = self.command(&["agent"]);
        command
            .arg("--data")
            .arg(self.path(&format!("node-{node}")))
            .arg("--root")
            .arg(root)
            .args(["--bind", &format!("127.83.{}.{node}", self.network)])
            .args(args);
        command
    }

    pub fn join_string(&self) -> String {
        self.operate(&["join-token"]).trim().to_owned()
    }

    /// Starts an agent that goes on.
    pub fn start_agent(&self, node: u8, args: &[&str]) -> Service {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("node-{node}.log")))
            .unwrap();
        Service::start(self.agent(node, args).stderr(log))
    }

    /// Runs an agent to the end of its designated configuration.
    pub fn agent_once(&self, node: u8, args: &[&str]) -> Output {
        self.agent(node, &[&["--once"], args].concat()).output().unwrap()
    }

    /// Waits until `wanted` nodes are in this state, and gives them.
    pub fn await_nodes(&self, wanted: usize, state: &str) -> Vec<Value> {
        let began = Instant::now();
        loop {
            let status = self.json(&["status"]);
            let nodes: Vec<Value> = status["nodes"].as_array().unwrap().clone();
            let there = nodes.iter().filter(|node| node["progress"]["state"] == state).count();
            if there >= wanted {
                return nodes;
            }
            assert!(began.elapsed() < PATIENCE, "{wanted} nodes {state}: {status:#}");
            std::thread::sleep(POLL);
        }
    }
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}
