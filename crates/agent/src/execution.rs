//! Has the release executed by a process of its own, and passes on what that process writes in its journal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use potluck_model::assignment::{Assignment, Signed};
use potluck_model::trace::{Recap, What};
use potluck_model::{Digest, Location};
use potluck_provision::{Executor, Job, Machine, Position, Tail};
use potluck_store::Store;
use tokio::sync::mpsc;

use crate::driver::Event;
use crate::home::Joined;
use crate::outbox::Outbox;

/// How often the journal is looked at while steps run.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Lists that are kept: the one that was executed last, and the one before it.
const RECENT_LISTS: usize = 2;

/// Where and as what releases are executed.
pub(crate) struct Execution {
    /// The program that executes, and its data directory.
    program: PathBuf,
    dir: PathBuf,
    /// What `dest` and `creates` are under.
    root: PathBuf,
    machine: Machine,
    halted: Arc<AtomicBool>,
}

/// What is to be executed.
pub(crate) struct Order {
    pub(crate) store: Store,
    pub(crate) joined: Joined,
    pub(crate) assignment: Signed<Assignment>,
    pub(crate) halted: bool,
    pub(crate) list: Digest,
    pub(crate) contents: Vec<Digest>,
    pub(crate) outbox: Outbox,
    pub(crate) events: mpsc::Sender<Event>,
}

impl Execution {
    pub(crate) fn new(program: PathBuf, dir: PathBuf, root: PathBuf) -> Self {
        let machine = Machine::detect();
        Self {
            program,
            dir,
            root,
            machine,
            halted: Arc::new(AtomicBool::new(false)),
        }
    }

    pub(crate) fn machine(&self) -> Machine {
        self.machine
    }

    pub(crate) fn set_halted(&self, halted: bool) {
        self.halted.store(halted, Ordering::Relaxed);
    }

    /// Starts executing; `Event::Executed` follows.
    pub(crate) fn start(&self, order: Order) {
        let run = Run {
            program: self.program.clone(),
            dir: self.dir.clone(),
            root: self.root.clone(),
            halted: Arc::clone(&self.halted),
        };
        tokio::task::spawn_blocking(move || {
            let (list, events) = (order.list, order.events.clone());
            let result = run.execute(&order);
            drop(events.blocking_send(Event::Executed { list, result }));
        });
    }

    /// The lists that are kept now that `list` has been executed.
    pub(crate) fn recent_lists(&self, list: Digest) -> BTreeSet<Digest> {
        let path = self.dir.join("recent.json");
        let mut recent: Vec<Digest> = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        if recent.first() != Some(&list) {
            recent.retain(|known| *known != list);
            recent.insert(0, list);
            recent.truncate(RECENT_LISTS);
            // Losing this costs a fetch at worst.
            drop(write(&path, &recent));
        }
        recent.into_iter().collect()
    }
}

fn write<T: serde::Serialize>(path: &Path, document: &T) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, serde_json::to_vec(document)?)?;
    std::fs::rename(temporary, path)
}

/// One run, on a thread where blocking is allowed.
struct Run {
    program: PathBuf,
    dir: PathBuf,
    root: PathBuf,
    halted: Arc<AtomicBool>,
}

impl Run {
    fn execute(&self, order: &Order) -> Result<Recap, String> {
        let position_file = self.dir.join("reported.json");
        let position: Position = std::fs::read(&position_file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let mut journal = Journal {
            tail: Tail::new(&self.dir, position),
            position_file,
            recap: None,
            trouble: None,
        };
        // An executing process that a killed agent left behind finishes first.
        while potluck_provision::running(&self.dir) {
            journal.forward(order);
            std::thread::sleep(LOOK_EVERY);
        }
        journal.forward(order);
        (journal.recap, journal.trouble) = (None, None);
        let job = self.job(order)?;
        let mut executor = Executor::start(&self.program, &["execute".as_ref()], &self.dir, &job)
            .map_err(|error| format!("cannot start the executing process {}: {error}", self.program.display()))?;
        let mut halted = order.halted;
        let status = loop {
            journal.forward(order);
            let finished = executor.finished();
            if let Some(status) = finished.map_err(|error| format!("cannot wait for the executing process: {error}"))? {
                break status;
            }
            if !halted && self.halted.load(Ordering::Relaxed) {
                halted = true;
                if let Err(error) = executor.halt() {
                    tracing::warn!(%error, "cannot tell the executing process to halt");
                }
            }
            std::thread::sleep(LOOK_EVERY);
        };
        journal.forward(order);
        journal.recap.ok_or_else(|| {
            let words = potluck_provision::last_words(&self.dir);
            let otherwise = || format!("the executing process ended without a result ({status}) {words}");
            journal.trouble.take().unwrap_or_else(otherwise)
        })
    }

    fn job(&self, order: &Order) -> Result<Job, String> {
        let locate = |digest: &Digest| -> Result<Location, String> {
            match order.store.locate(digest) {
                Ok(Some(location)) => Ok(location),
                Ok(None) => Err(format!("content {digest} is not in the store any more")),
                Err(error) => Err(error.to_string()),
            }
        };
        let contents: Result<Vec<_>, String> = order
            .contents
            .iter()
            .map(|digest| Ok((*digest, locate(digest)?)))
            .collect();
        Ok(Job {
            root: order.joined.root.clone(),
            root_digest: order.joined.root.digest(),
            node: order.joined.node,
            assignment: order.assignment.clone(),
            list: locate(&order.list)?,
            contents: contents?,
            machine_root: self.root.clone(),
            halted: order.halted || self.halted.load(Ordering::Relaxed),
        })
    }
}

/// The journal, as far as it was not reported.
struct Journal {
    tail: Tail,
    position_file: PathBuf,
    /// Of the last complete run.
    recap: Option<Recap>,
    trouble: Option<String>,
}

impl Journal {
    /// Passes on everything that is new.
    fn forward(&mut self, order: &Order) {
        while self.forward_some(order) {}
    }

    fn forward_some(&mut self, order: &Order) -> bool {
        let records = match self.tail.poll() {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(%error, "cannot read the journal of the executing process");
                return false;
            }
        };
        if records.is_empty() {
            return false;
        }
        for record in records {
            match &record.what {
                What::Executed { recap } if record.list == Some(order.list) => self.recap = Some(*recap),
                What::Trouble { message } => self.trouble = Some(message.clone()),
                What::StepStarted { step } => tracing::debug!(%step, "step started"),
                What::StepEnded {
                    step, outcome, message, ..
                } => tracing::info!(%step, ?outcome, "{message}"),
                _ => {}
            }
            order.outbox.record_at(record.at, record.list, record.what);
        }
        if let Err(error) = write(&self.position_file, &self.tail.position()) {
            tracing::debug!(%error, "cannot note how far the journal was reported");
        }
        true
    }
}
