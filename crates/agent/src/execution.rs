//! Has the release executed by a process of its own, and passes on what that process writes in its journal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use potluck_model::Digest;
use potluck_model::api::ReleaseTrust;
use potluck_model::assignment::{Assignment, Signed};
use potluck_model::trace::{Outcome, Recap, What};
use potluck_provision::{Executor, Job, Machine, Position, Provisioner};
use potluck_store::Store;
use tokio::sync::mpsc;

use crate::driver::Event;
use crate::home::Joined;
use crate::lists;
use crate::outbox::Outbox;
use crate::staging::{Next, Places, Shared, Staging};

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
    /// What starts it, and where it is noted what has been executed and reported.
    provisioner: Provisioner,
    dir: PathBuf,
    /// What `dest` and `creates` are under.
    root: PathBuf,
    machine: Machine,
    halted: Arc<AtomicBool>,
}

/// What is to be executed.
pub(crate) struct Order {
    pub(crate) prospect: Prospect,
    pub(crate) halted: bool,
    /// All that this machine needs.
    pub(crate) contents: Vec<Digest>,
    pub(crate) outbox: Outbox,
    pub(crate) events: mpsc::Sender<Event>,
}

/// What will most probably be executed, once all of it is there.
pub(crate) struct Prospect {
    pub(crate) store: Store,
    pub(crate) joined: Joined,
    pub(crate) assignment: Signed<Assignment>,
    /// What publishers have signed.
    pub(crate) trust: Option<ReleaseTrust>,
    pub(crate) list: Digest,
    /// Contents of one chunk that are there already.
    pub(crate) held: Vec<Digest>,
}

impl Execution {
    pub(crate) fn new(provisioner: Provisioner, dir: PathBuf, root: PathBuf) -> Self {
        let machine = Machine::detect();
        Self {
            provisioner,
            dir,
            root,
            machine,
            halted: Arc::new(AtomicBool::new(false)),
        }
    }

    pub(crate) fn provisioner(&self) -> Provisioner {
        self.provisioner.clone()
    }

    pub(crate) fn machine(&self) -> Machine {
        self.machine
    }

    pub(crate) fn set_halted(&self, halted: bool) {
        self.halted.store(halted, Ordering::Relaxed);
    }

    /// Starts executing; `Event::Executed` follows.
    pub(crate) fn start(&self, order: Order) {
        let run = self.run();
        tokio::task::spawn_blocking(move || run.report(&order, None, &BTreeSet::new()));
    }

    /// Finds out whether what publishers have signed is believed; `Event::Verified` follows.
    pub(crate) fn verify(&self, order: Order) {
        let run = self.run();
        tokio::task::spawn_blocking(move || run.verify(&order));
    }

    /// Starts copying what is told to have arrived, ahead of executing it. Nothing follows before it is told to execute;
    /// then `Event::Executed` does.
    pub(crate) fn stage(&self, prospect: Prospect) -> Staging {
        let run = self.run();
        let (staging, shared) = Staging::new(prospect.list);
        tokio::task::spawn_blocking(move || run.stage(&prospect, &shared));
        staging
    }

    fn run(&self) -> Run {
        Run {
            provisioner: self.provisioner.clone(),
            dir: self.dir.clone(),
            root: self.root.clone(),
            halted: Arc::clone(&self.halted),
            machine: self.machine,
            known: self.known_lists(),
        }
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

/// What else is told of a run.
#[derive(Default)]
struct Ended {
    /// Why steps failed.
    failures: Vec<String>,
    /// The release was executed, for it was adopted before; what publishers have signed since is not believed.
    refused: bool,
}

/// One run, on a thread where blocking is allowed.
struct Run {
    provisioner: Provisioner,
    dir: PathBuf,
    root: PathBuf,
    halted: Arc<AtomicBool>,
    machine: Machine,
    /// The lists that were executed last.
    known: Vec<Digest>,
}

impl Run {
    /// Passes on what arrives until it is told to execute, and executes.
    fn stage(&self, prospect: &Prospect, shared: &Shared) {
        let mut executor = self.begin_staging(prospect);
        let mut places = Places::default();
        let mut told: BTreeSet<Digest> = prospect.held.iter().copied().collect();
        loop {
            match shared.next() {
                Next::Execute(order) => return self.report(&order, executor, &told),
                Next::Abandoned => {
                    if let Some(mut executor) = executor
                        && let Err(error) = executor.wait()
                    {
                        tracing::debug!(%error, "cannot wait for the executing process");
                    }
                    return;
                }
                Next::Tell(news) => {
                    let Some(running) = &mut executor else { continue };
                    let result = places
                        .find(&prospect.store, news)
                        .map_err(|error| error.to_string())
                        .and_then(|arrivals| {
                            let whole = arrivals.iter().filter(|arrival| arrival.part.is_none());
                            told.extend(whole.map(|arrival| arrival.digest));
                            running.arrived(&arrivals).map_err(|error| error.to_string())
                        });
                    if let Err(error) = result {
                        tracing::debug!(%error, "cannot say what has arrived; it is copied when all is here");
                    }
                }
            }
        }
    }

    /// An executing process that copies ahead; none if another one works, or it does not start.
    fn begin_staging(&self, prospect: &Prospect) -> Option<Executor> {
        if !matches!(self.provisioner.running(), Ok(false)) {
            return None;
        }
        let started = self
            .job(prospect, &prospect.held, false)
            .and_then(|job| self.provisioner.stage(&job).map_err(|error| error.to_string()));
        match started {
            Ok(executor) => Some(executor),
            Err(error) => {
                tracing::debug!(%error, "what arrives is not copied ahead");
                None
            }
        }
    }

    /// Executes, with the process that copied ahead if there is one, and tells how it went.
    fn report(&self, order: &Order, staged: Option<Executor>, told: &BTreeSet<Digest>) {
        let mut ended = Ended::default();
        let result = self.execute(order, staged, told, &mut ended);
        drop(order.events.blocking_send(Event::Executed {
            list: order.prospect.list,
            result,
            failures: ended.failures,
            refused: ended.refused,
        }));
    }

    /// Has the executing process look at what publishers have signed, and passes on what it says.
    fn verify(&self, order: &Order) {
        let looked = self.look(order);
        let refused = looked.unwrap_or_else(|error| {
            tracing::debug!(%error, "what publishers have signed is not verified now");
            None
        });
        let list = order.prospect.list;
        drop(order.events.blocking_send(Event::Verified { list, refused }));
    }

    /// Whether what publishers have signed was refused; `None`: another process works, and finds out by itself.
    fn look(&self, order: &Order) -> Result<Option<bool>, String> {
        let mut journal = self.journal();
        journal.forward(order);
        if !matches!(self.provisioner.running(), Ok(false)) {
            return Ok(None);
        }
        journal.trouble = None;
        let job = self.job(&order.prospect, &[], order.halted)?;
        let mut executor = self.provisioner.verify(&job).map_err(|error| error.to_string())?;
        while executor.finished().map_err(|error| error.to_string())?.is_none() {
            std::thread::sleep(LOOK_EVERY);
        }
        journal.forward(order);
        Ok(Some(journal.trouble.is_some()))
    }

    fn journal(&self) -> Journal {
        let position_file = self.dir.join("reported.json");
        let position: Position = std::fs::read(&position_file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Journal {
            provisioner: self.provisioner.clone(),
            position,
            position_file,
            recap: None,
            trouble: None,
            failures: Vec::new(),
        }
    }

    fn execute(
        &self,
        order: &Order,
        staged: Option<Executor>,
        told: &BTreeSet<Digest>,
        ended: &mut Ended,
    ) -> Result<Recap, RunFault> {
        let mut journal = self.journal();
        let mut executor = match self.go_on(order, staged, told)? {
            Some(executor) => executor,
            None => self.begin(order, &mut journal)?,
        };
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
        ended.failures.append(&mut journal.failures);
        ended.refused = journal.recap.is_some() && journal.trouble.is_some();
        journal.recap.ok_or_else(|| match journal.trouble.take() {
            Some(trouble) => RunFault::lasting(trouble),
            None => {
                let words = self.provisioner.last_words();
                RunFault::passing(format!(
                    "the executing process ended without a result ({status}) {words}"
                ))
            }
        })
    }

    /// Tells the process that copied ahead to execute; `None` if there is none, or it has died.
    fn go_on(
        &self,
        order: &Order,
        staged: Option<Executor>,
        told: &BTreeSet<Digest>,
    ) -> Result<Option<Executor>, RunFault> {
        let Some(mut executor) = staged else { return Ok(None) };
        if !matches!(executor.finished(), Ok(None)) {
            let words = self.provisioner.last_words();
            tracing::debug!(words, "the process that copied ahead has ended");
            return Ok(None);
        }
        let rest: Vec<Digest> = order
            .contents
            .iter()
            .filter(|digest| !told.contains(digest))
            .copied()
            .collect();
        let job = self
            .whole_job(&order.prospect, &rest, order.halted)
            .map_err(RunFault::lasting)?;
        executor
            .execute(&job)
            .map_err(|error| RunFault::passing(error.to_string()))?;
        Ok(Some(executor))
    }

    fn begin(&self, order: &Order, journal: &mut Journal) -> Result<Executor, RunFault> {
        // An executing process that a killed agent left behind finishes first.
        let asked = |error: std::io::Error| RunFault::passing(format!("cannot ask for executing processes: {error}"));
        while self.provisioner.running().map_err(asked)? {
            journal.forward(order);
            if self.halted.load(Ordering::Relaxed)
                && let Err(error) = self.provisioner.halt()
            {
                tracing::warn!(%error, "cannot halt the executing process");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        journal.forward(order);
        (journal.recap, journal.trouble) = (None, None);
        journal.failures.clear();
        let job = self
            .whole_job(&order.prospect, &order.contents, order.halted)
            .map_err(RunFault::lasting)?;
        self.provisioner
            .start(&job)
            .map_err(|error| RunFault::passing(error.to_string()))
    }

    /// The job to execute. With what the lists before name and is still here: one of them may be restored.
    fn whole_job(&self, prospect: &Prospect, contents: &[Digest], halted: bool) -> Result<Job, String> {
        let mut job = self.job(prospect, contents, halted)?;
        let named: BTreeSet<Digest> = job.contents.iter().map(|(digest, _)| *digest).collect();
        for list in self.known.iter().filter(|list| **list != prospect.list) {
            let found = lists::load(&prospect.store, list, self.machine)
                .map_err(|error| error.to_string())
                .and_then(|loaded| {
                    let held = loaded.contents.iter().filter(|of| of.needed && of.held);
                    let held = held
                        .map(|of| of.content.digest)
                        .filter(|digest| !named.contains(digest));
                    let held: Vec<Digest> = held.collect();
                    let found = prospect.store.locate_all(&held).map_err(|error| error.to_string())?;
                    Ok(held
                        .into_iter()
                        .zip(found)
                        .filter_map(|(digest, at)| Some((digest, at?)))
                        .collect::<Vec<_>>())
                });
            match found {
                Ok(found) => job.contents.extend(found),
                Err(error) => tracing::debug!(%list, %error, "what the list before names is not handed over"),
            }
        }
        Ok(job)
    }

    fn job(&self, prospect: &Prospect, contents: &[Digest], halted: bool) -> Result<Job, String> {
        let store = &prospect.store;
        let gone = |digest: &Digest| format!("content {digest} is not in the store any more");
        let list = store.locate(&prospect.list).map_err(|error| error.to_string())?;
        let found = store.locate_all(contents).map_err(|error| error.to_string())?;
        let contents: Result<Vec<_>, String> = contents
            .iter()
            .zip(found)
            .map(|(digest, at)| Ok((*digest, at.ok_or_else(|| gone(digest))?)))
            .collect();
        Ok(Job {
            root: prospect.joined.root.clone(),
            root_digest: prospect.joined.root.digest(),
            node: prospect.joined.node,
            assignment: prospect.assignment.clone(),
            trust: prospect.trust.clone(),
            list: list.ok_or_else(|| gone(&prospect.list))?,
            contents: contents?,
            machine_root: self.root.clone(),
            halted: halted || self.halted.load(Ordering::Relaxed),
        })
    }
}

/// The journal, as far as it was not reported.
struct Journal {
    provisioner: Provisioner,
    position: Position,
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
        let records = match self.provisioner.poll(self.position) {
            Ok((records, position)) => {
                self.position = position;
                records
            }
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
                What::Executed { recap } if record.list == Some(order.prospect.list) => {
                    self.recap = Some(*recap);
                    self.trouble = None;
                }
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
        if let Err(error) = write(&self.position_file, &self.position) {
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
