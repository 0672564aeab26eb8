//! Has the release executed by a process of its own, and passes on what that process writes in its journal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use potluck_model::assignment::{Assignment, Signed};
use potluck_model::trace::{Outcome, Recap, What};
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

/// Messages of failed steps that are passed on, at most.
const FAILURES_MAX: usize = 16;

/// Why a release was not executed to its end.
pub(crate) struct RunFault {
    pub(crate) message: String,
    /// It died, or could not be started: the next time it may work.
    pub(crate) passing: bool,
}

impl RunFault {
    fn passing(message: String) -> Self {
        Self { message, passing: true }
    }

    fn lasting(message: String) -> Self {
        Self {
            message,
            passing: false,
        }
    }
}

/// Whether a message says that the machine was short of something: room, a quota, file descriptors, memory, processes.
pub(crate) fn lacked_something(message: &str) -> bool {
    use rustix::io::Errno;
    [
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::AGAIN,
    ]
    .iter()
    .any(|errno| message.contains(&format!("(os error {})", errno.raw_os_error())))
}

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
            let mut failures = Vec::new();
            let result = run.execute(&order, &mut failures);
            drop(events.blocking_send(Event::Executed { list, result, failures }));
        });
    }

    /// The lists that were executed last, the latest first.
    pub(crate) fn known_lists(&self) -> Vec<Digest> {
        std::fs::read(self.recent())
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    fn recent(&self) -> PathBuf {
        self.dir.join("recent.json")
    }

    /// The lists that are kept now that `list` has been executed, the latest first.
    pub(crate) fn recent_lists(&self, list: Digest) -> Vec<Digest> {
        let mut recent = self.known_lists();
        if recent.first() != Some(&list) {
            recent.retain(|known| *known != list);
            recent.insert(0, list);
            recent.truncate(RECENT_LISTS);
            // Losing this costs a fetch at worst.
            drop(write(&self.recent(), &recent));
        }
        recent
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
    fn execute(&self, order: &Order, failures: &mut Vec<String>) -> Result<Recap, RunFault> {
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
            failures: Vec::new(),
        };
        // An executing process that a killed agent left behind finishes first.
        while potluck_provision::running(&self.dir) {
            journal.forward(order);
            if self.halted.load(Ordering::Relaxed)
                && let Err(error) = potluck_provision::halt(&self.dir)
            {
                tracing::warn!(%error, "cannot halt the executing process");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        journal.forward(order);
        (journal.recap, journal.trouble) = (None, None);
        journal.failures.clear();
        let job = self.job(order).map_err(RunFault::lasting)?;
        let mut executor = Executor::start(&self.program, &["execute".as_ref()], &self.dir, &job).map_err(|error| {
            RunFault::passing(format!(
                "cannot start the executing process {}: {error}",
                self.program.display()
            ))
        })?;
        let mut halted = order.halted;
        let status = loop {
            journal.forward(order);
            let finished = executor.finished();
            let waited = finished.map_err(|error| format!("cannot wait for the executing process: {error}"));
            if let Some(status) = waited.map_err(RunFault::passing)? {
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
        failures.append(&mut journal.failures);
        journal.recap.ok_or_else(|| match journal.trouble.take() {
            Some(trouble) => RunFault::lasting(trouble),
            None => {
                let words = potluck_provision::last_words(&self.dir);
                RunFault::passing(format!(
                    "the executing process ended without a result ({status}) {words}"
                ))
            }
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
    /// Why steps failed.
    failures: Vec<String>,
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
                } => {
                    tracing::info!(%step, ?outcome, "{message}");
                    if *outcome == Outcome::Failed && self.failures.len() < FAILURES_MAX {
                        self.failures.push(message.clone());
                    }
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_was_short_of_is_told_from_other_failures() {
        let full = std::io::Error::from_raw_os_error(28).to_string();
        assert!(lacked_something(&format!("cannot write /srv/x: {full}")), "{full}");
        let denied = std::io::Error::from_raw_os_error(13).to_string();
        for other in [denied.as_str(), "exit code 28", ""] {
            assert!(!lacked_something(other), "{other}");
        }
    }
}
