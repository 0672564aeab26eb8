//! The demo: a server and nodes as real processes on loopback addresses, who provision themselves from each other.

mod example;
mod process;
mod show;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use potluck_model::api::{AssignRequest, NodeInfo, NodeState, Status, Target, TokenAnswer, TokenRequest};
use serde::Serialize;
use tempfile::TempDir;

use crate::commands;
use crate::credential::Credential;
use crate::exit::{Doing, Exit, Failure};
use crate::operator::Operator;
use crate::output::Output;
use crate::publish::{Narrowing, Publication, Published, publish};
use crate::publisher::KeyPlace;
use crate::trace::{Shares, Totals};
use process::Program;
use show::Live;

pub(crate) use show::summary;

/// The key of the label by which nodes of the demo are told apart.
const LABEL: &str = "demo";
/// How often the server is asked how far the nodes are.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// What is to be shown.
pub(crate) struct Demo {
    /// How many nodes in all; the last one comes late, if there are several.
    pub(crate) nodes: u8,
    /// The directory to publish instead of the example.
    pub(crate) directory: Option<PathBuf>,
    /// Leave everything running until Ctrl-C, and the files after that.
    pub(crate) keep: bool,
}

/// What came of it.
#[derive(Serialize, Debug)]
pub(crate) struct Shown {
    /// What was published.
    pub(crate) published: Published,
    /// The nodes, in the order in which they started.
    pub(crate) nodes: Vec<NodeShown>,
    /// Where everything is, if it was kept.
    pub(crate) directory: Option<PathBuf>,
}

/// What one node did.
#[derive(Serialize, Debug)]
pub(crate) struct NodeShown {
    /// `node-1` and so on.
    pub(crate) name: String,
    /// Whether it came after the others had finished.
    pub(crate) late: bool,
    /// What the server knows of it.
    pub(crate) info: NodeInfo,
    /// Files by where they came from.
    pub(crate) files: Shares,
    /// Bytes of files by where they came from.
    pub(crate) bytes: Totals,
}

/// Everything that runs. Dropped, all of it ends and its directory is removed.
struct Stage {
    // Dropped in this order: first the processes, then what they have open.
    agents: Vec<Program>,
    server: Program,
    operator: Operator,
    directory: TempDir,
}

/// Shows it. Ends early, and leaves nothing behind, when `interrupted` resolves.
pub(crate) async fn run(
    demo: Demo,
    output: Output,
    interrupted: impl Future<Output = ()>,
) -> Result<(Shown, Exit), Failure> {
    let mut interrupted = std::pin::pin!(interrupted);
    let directory = tempfile::Builder::new()
        .prefix("potluck-demo-")
        .tempdir()
        .doing(|| "making a directory for the demo".into())?;
    let mut stage = tokio::select! {
        stage = Stage::open(directory) => stage?,
        () = &mut interrupted => return Err(stopped()),
    };
    let acts = tokio::select! {
        acts = stage.play(&demo, output) => acts,
        () = &mut interrupted => Err(stopped()),
    };
    let kept = match (&acts, demo.keep) {
        (Ok(shown), true) => {
            show::kept(output, stage.directory.path(), shown);
            interrupted.await;
            true
        }
        _ => false,
    };
    let directory = stage.close(kept).await;
    let shown = Shown { directory, ..acts? };
    let failed = shown
        .nodes
        .iter()
        .any(|node| node.info.progress.state == NodeState::Failed);
    Ok((shown, if failed { Exit::StepFailed } else { Exit::Ok }))
}

fn stopped() -> Failure {
    Failure::new("the demo was stopped; nothing of it is left")
}

impl Stage {
    async fn open(directory: TempDir) -> Result<Self, Failure> {
        let data = directory.path().join("server");
        let mut server = Program::start(
            "the server",
            directory.path().join("server.log"),
            &["server", "--listen", "127.0.0.1:0", "--json", "--data"],
            &data,
            &[],
        )?;
        server.first_line().await?;
        let operator = Operator::with(Credential::find(Some(&data))?)?;
        Ok(Self {
            agents: Vec::new(),
            server,
            operator,
            directory,
        })
    }

    async fn play(&mut self, demo: &Demo, output: Output) -> Result<Shown, Failure> {
        let mut live = Live::new(output);
        let example = match &demo.directory {
            Some(directory) => directory.clone(),
            None => self.example().await?,
        };
        live.say(&format!("a server runs; publishing {}", example.display()));
        let publication = Publication {
            directory: example,
            name: None,
            version: None,
            narrowing: Narrowing::default(),
            place: KeyPlace::default(),
        };
        let mut progress = output.progress();
        let published = publish(&self.operator, publication, &mut progress).await?;
        drop(progress);
        live.say(&commands::publish::line(&published));
        for warning in &published.warnings {
            live.say(&format!("warning: {warning}"));
        }
        let request = AssignRequest {
            configuration: published.configuration.clone(),
            version: None,
            target: Target::All,
        };
        let _: serde_json::Value = self.operator.client.post("/v1/assignments", &request).await?;
        let join = self.join_string(demo.nodes).await?;

        let late = u8::from(demo.nodes > 1);
        let early = demo.nodes - late;
        live.say(&match early {
            1 => "a node starts with nothing".to_owned(),
            _ => format!("{early} nodes start with nothing, all at once"),
        });
        for number in 1..=early {
            self.start_agent(number, &join)?;
        }
        self.converge(early, &mut live).await?;
        if late > 0 {
            live.say("one more node comes, late");
            self.start_agent(demo.nodes, &join)?;
            self.converge(demo.nodes, &mut live).await?;
        }
        let nodes = self.nodes(early).await?;
        live.end();
        Ok(Shown {
            published,
            nodes,
            directory: None,
        })
    }

    async fn example(&self) -> Result<PathBuf, Failure> {
        let directory = self.directory.path().join(example::NAME);
        let written = directory.clone();
        tokio::task::spawn_blocking(move || example::write(&written))
            .await
            .doing(|| "making the example".into())?
            .doing(|| format!("making the example in {}", directory.display()))?;
        Ok(directory)
    }

    async fn join_string(&self, nodes: u8) -> Result<String, Failure> {
        let request = TokenRequest {
            uses: nodes.into(),
            ttl_seconds: 3600,
            // Each node says which it is.
            labels: BTreeMap::from([(LABEL.parse().expect("a label key"), "*".to_owned())]),
            approval: false,
        };
        let answer: TokenAnswer = self.operator.client.post("/v1/tokens", &request).await?;
        Ok(answer.join)
    }

    fn start_agent(&mut self, number: u8, join: &str) -> Result<(), Failure> {
        let name = format!("node-{number}");
        let home = self.directory.path().join(&name);
        let root = home.join("root");
        std::fs::create_dir_all(&root).doing(|| format!("making {}", root.display()))?;
        // Every address of 127.0.0.0/8 is there on Linux; elsewhere only one, and the agents take ports as they find them.
        let ip = if cfg!(target_os = "linux") {
            Ipv4Addr::new(127, 82, 0, number)
        } else {
            Ipv4Addr::LOCALHOST
        };
        let root = root.display().to_string();
        let bind = IpAddr::V4(ip).to_string();
        let label = format!("{LABEL}={name}");
        self.agents.push(Program::start(
            &name,
            self.directory.path().join(format!("{name}.log")),
            &["agent", "--data"],
            &home.join("data"),
            &["--root", &root, "--bind", &bind, "--label", &label, "--join", join],
        )?);
        Ok(())
    }

    /// Waits until `wanted` nodes have executed everything, or failed to.
    async fn converge(&mut self, wanted: u8, live: &mut Live) -> Result<(), Failure> {
        let began = Instant::now();
        loop {
            for program in std::iter::once(&mut self.server).chain(&mut self.agents) {
                program.check()?;
            }
            let status: Status = self.operator.client.get("/v1/status").await?;
            let nodes = named(status.nodes);
            live.show(&nodes, began.elapsed());
            let done = |state| matches!(state, NodeState::Converged | NodeState::Failed);
            let ended = nodes.iter().filter(|(_, node)| done(node.progress.state)).count();
            if ended >= usize::from(wanted) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What each node did, from its trace.
    async fn nodes(&self, early: u8) -> Result<Vec<NodeShown>, Failure> {
        let status: Status = self.operator.client.get("/v1/status").await?;
        let mut nodes = Vec::new();
        for ((number, name), info) in named(status.nodes) {
            let report = commands::trace::read(&self.operator, info.node, None, None).await?;
            nodes.push(NodeShown {
                name,
                late: number > early,
                files: report.shares(),
                bytes: report.totals,
                info,
            });
        }
        Ok(nodes)
    }

    /// Ends all processes. Where everything is, if it is to be kept; else nothing is left.
    async fn close(self, keep: bool) -> Option<PathBuf> {
        let Self {
            agents,
            server,
            operator: _,
            directory,
        } = self;
        // All at once, then one by one: each has a moment to end by itself.
        let ending: Vec<_> = agents
            .into_iter()
            .chain([server])
            .map(|program| tokio::spawn(program.end()))
            .collect();
        for ended in ending {
            let _ = ended.await;
        }
        keep.then(|| directory.keep())
    }
}

/// The nodes by the number that they were given, with their name.
fn named(nodes: Vec<NodeInfo>) -> Vec<((u8, String), NodeInfo)> {
    let mut named: Vec<_> = nodes
        .into_iter()
        .map(|node| {
            let name = node
                .labels
                .iter()
                .find(|(key, _)| key.as_str() == LABEL)
                .map_or_else(|| node.node.to_string(), |(_, value)| value.clone());
            let number = name.strip_prefix("node-").and_then(|number| number.parse().ok());
            ((number.unwrap_or(u8::MAX), name), node)
        })
        .collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    named
}

/// The end of a log, for a failure.
fn tail(log: &Path) -> String {
    const LINES: usize = 10;
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
