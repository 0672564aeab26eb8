//! A node of a fleet of one: makes releases, signs assignments, and executes them. Shared with the unit tests.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "test code, of which each test program uses a part"
)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use potluck_model::assignment::{ASSIGNMENT_FORMAT, AssignedRelease, Assignment, AssignmentKind, Root, SigningKey};
use potluck_model::list::{Action, Entry, HealthCheck, List, Settings, Step, format_of};
use potluck_model::trace::{Outcome, Recap, What};
use potluck_model::{AudienceName, Digest, Location, NodeId, UnixSeconds};

use crate::{Job, Position, Record, Tail};

pub(crate) struct Node {
    pub(crate) temp: tempfile::TempDir,
    key: SigningKey,
    sequence: Cell<u64>,
    position: Cell<Position>,
    /// Contents of the list that was handed over before.
    before: RefCell<Vec<Digest>>,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::in_directory(tempfile::tempdir().unwrap())
    }

    /// With all that it has below a directory.
    pub(crate) fn under(directory: &Path) -> Self {
        Self::in_directory(tempfile::tempdir_in(directory).unwrap())
    }

    fn in_directory(temp: tempfile::TempDir) -> Self {
        for name in ["root", "store"] {
            fs::create_dir(temp.path().join(name)).unwrap();
        }
        Self {
            temp,
            key: SigningKey::from_pkcs8(&SigningKey::generate()).unwrap(),
            sequence: Cell::new(0),
            position: Cell::new(Position::default()),
            before: RefCell::new(Vec::new()),
        }
    }

    /// The executing process's own directory.
    pub(crate) fn dir(&self) -> PathBuf {
        self.temp.path().join("execute")
    }

    /// A path under `--root`.
    pub(crate) fn root(&self, path: &str) -> PathBuf {
        self.temp.path().join("root").join(path)
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root(path)).unwrap_or_else(|error| format!("({error})"))
    }

    pub(crate) fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.root(path)).unwrap().permissions().mode() & 0o7777
    }

    /// Where the store holds a content.
    pub(crate) fn stored(&self, digest: Digest) -> PathBuf {
        self.temp.path().join("store").join(digest.to_string())
    }

    pub(crate) fn store(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        fs::write(self.stored(digest), bytes).unwrap();
        digest
    }

    pub(crate) fn release(&self, number: u64) -> Release<'_> {
        Release {
            node: self,
            configuration: "web".to_owned(),
            number,
            entries: BTreeMap::new(),
            steps: Vec::new(),
            settings: Settings::default(),
        }
    }

    /// A job for a list, with everything that the store has of it.
    pub(crate) fn job(&self, list: &List) -> Job {
        let bytes = list.to_bytes();
        let digest = self.store(&bytes);
        self.sequence.set(self.sequence.get() + 1);
        let at = |digest: Digest| {
            let path = self.stored(digest);
            fs::metadata(&path).ok().map(|data| {
                let location = Location {
                    path,
                    offset: 0,
                    len: data.len(),
                };
                (digest, location)
            })
        };
        let root = Root::first(&self.key);
        let named: Vec<Digest> = list.contents().iter().map(|content| content.digest).collect();
        let contents = named.clone();
        Job {
            root_digest: root.digest(),
            root,
            node: NodeId(1),
            assignment: self.key.sign(Assignment {
                kind: AssignmentKind::Assignment,
                format: ASSIGNMENT_FORMAT,
                node: NodeId(1),
                sequence: self.sequence.get(),
                issued: UnixSeconds(0),
                expires: UnixSeconds(u64::from(u32::MAX)),
                release: Some(AssignedRelease {
                    configuration: list.configuration.clone(),
                    release: list.release,
                    list: digest,
                    list_size: bytes.len() as u64,
                }),
            }),
            trust: None,
            list: at(digest).unwrap().1,
            contents: contents
                .into_iter()
                .chain(self.before.replace(named))
                .filter_map(at)
                .collect(),
            machine_root: self.temp.path().join("root"),
            halted: false,
        }
    }

    /// What was noted since the last call.
    pub(crate) fn news(&self) -> Report {
        let mut tail = Tail::new(&self.dir(), self.position.get());
        let mut records = Vec::new();
        loop {
            let more = tail.poll().unwrap();
            if more.is_empty() {
                break;
            }
            records.extend(more);
        }
        self.position.set(tail.position());
        Report { records }
    }
}

pub(crate) struct Release<'n> {
    node: &'n Node,
    configuration: String,
    number: u64,
    entries: BTreeMap<Vec<u8>, Entry>,
    steps: Vec<Step>,
    settings: Settings,
}

impl Release<'_> {
    pub(crate) fn of(mut self, configuration: &str) -> Self {
        configuration.clone_into(&mut self.configuration);
        self
    }

    pub(crate) fn directory(mut self, path: &str, mode: u32) -> Self {
        self.parents(path);
        let path = path.to_owned();
        self.entries
            .insert(path.clone().into_bytes(), Entry::Directory { path, mode });
        self
    }

    pub(crate) fn file(mut self, path: &str, mode: u32, bytes: impl AsRef<[u8]>) -> Self {
        self.parents(path);
        let bytes = bytes.as_ref();
        let entry = Entry::File {
            path: path.to_owned(),
            mode,
            size: bytes.len() as u64,
            digest: self.node.store(bytes),
            chunks: (bytes.len() as u64 > potluck_model::chunk_list::SINGLE_CHUNK_BYTES_MAX)
                .then(|| Digest::of(b"the executing process needs no chunks")),
        };
        self.entries.insert(path.as_bytes().to_vec(), entry);
        self
    }

    pub(crate) fn link(mut self, path: &str, target: &str) -> Self {
        self.parents(path);
        let entry = Entry::Link {
            path: path.to_owned(),
            target: target.to_owned(),
        };
        self.entries.insert(path.as_bytes().to_vec(), entry);
        self
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            let path = path[..at].to_owned();
            self.entries
                .entry(path.clone().into_bytes())
                .or_insert(Entry::Directory { path, mode: 0o755 });
        }
    }

    /// Adds a step, to be refined with `with`.
    pub(crate) fn step(mut self, id: &str, action: Action) -> Self {
        self.steps.push(Step::new(id.parse().unwrap(), action, 600));
        self
    }

    pub(crate) fn var(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.settings.vars.insert(name.into(), value.into());
        self
    }

    pub(crate) fn health(mut self, run: &[&str], within_seconds: u64, stable_for_seconds: u64) -> Self {
        self.settings.health.push(HealthCheck {
            run: run.iter().map(ToString::to_string).collect(),
            within_seconds,
            stable_for_seconds,
        });
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Step)) -> Self {
        change(self.steps.last_mut().unwrap());
        self
    }

    pub(crate) fn with_each(mut self, change: impl Fn(&mut Step)) -> Self {
        self.steps.iter_mut().for_each(change);
        self
    }

    /// A script `ID.sh` and its step.
    pub(crate) fn script(self, id: &str, text: &str) -> Self {
        let source = format!("{id}.sh");
        self.file(&source, 0o644, text).step(id, run(&source))
    }

    pub(crate) fn place(self, id: &str, source: &str, dest: &str) -> Self {
        self.step(
            id,
            Action::File {
                source: source.into(),
                dest: dest.into(),
                mode: None,
                keep: false,
                purge: false,
            },
        )
    }

    pub(crate) fn list(self) -> List {
        let list = List {
            format: format_of(&self.steps, &self.settings),
            configuration: self.configuration.parse().unwrap(),
            release: self.number,
            version: None,
            audience: AudienceName::fleet(),
            entries: self.entries.into_values().collect(),
            steps: self.steps,
            settings: self.settings,
        };
        list.check().unwrap();
        list
    }
}

pub(crate) fn run(source: &str) -> Action {
    Action::Run {
        source: source.into(),
        args: vec![],
        env: vec![],
        exit: vec![],
        inputs: vec![],
        user: None,
    }
}

/// What a run noted.
pub(crate) struct Report {
    pub(crate) records: Vec<Record>,
}

impl Report {
    pub(crate) fn recap(&self) -> Recap {
        self.records
            .iter()
            .rev()
            .find_map(|record| match &record.what {
                What::Executed { recap } => Some(*recap),
                _ => None,
            })
            .unwrap_or_else(|| panic!("the run is not over: {:?}", self.records))
    }

    /// Steps and how they ended, in order.
    pub(crate) fn ended(&self) -> Vec<(String, Outcome)> {
        self.records
            .iter()
            .filter_map(|record| match &record.what {
                What::StepEnded { step, outcome, .. } => Some((step.to_string(), *outcome)),
                _ => None,
            })
            .collect()
    }

    /// How a step ended last.
    pub(crate) fn outcome(&self, id: &str) -> Outcome {
        let all = self.ended();
        all.iter()
            .rev()
            .find(|(step, _)| step == id)
            .unwrap_or_else(|| panic!("{id} has not ended: {all:?}"))
            .1
    }

    pub(crate) fn message(&self, id: &str) -> String {
        self.records
            .iter()
            .rev()
            .find_map(|record| match &record.what {
                What::StepEnded { step, message, .. } if step.as_str() == id => Some(message.clone()),
                _ => None,
            })
            .unwrap_or_default()
    }

    pub(crate) fn exit(&self, id: &str) -> Option<i32> {
        self.records.iter().rev().find_map(|record| match &record.what {
            What::StepEnded { step, exit, .. } if step.as_str() == id => *exit,
            _ => None,
        })
    }

    pub(crate) fn output(&self, id: &str) -> Vec<String> {
        self.records
            .iter()
            .filter_map(|record| match &record.what {
                What::StepOutput { step, line } if step.as_str() == id => Some(line.clone()),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn trouble(&self) -> Vec<String> {
        self.records
            .iter()
            .filter_map(|record| match &record.what {
                What::Trouble { message } => Some(message.clone()),
                _ => None,
            })
            .collect()
    }
}

/// Names of everything below a directory, sorted.
pub(crate) fn below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                todo.push(path);
            }
        }
    }
    found.sort();
    found
}
