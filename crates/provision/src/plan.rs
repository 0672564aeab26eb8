//! What the release that is assigned would do here, found out without doing it.
//!
//! The job that was handed over last is verified again, on copies of what is believed, and each step is looked at as `run` would look
//! at it. All that this writes (private copies for guards, above all) is in a directory of its own, which is gone afterwards.
//!
//! - What a step before it would change counts, as far as it is known: a step that would fail as the machine is now, behind
//!   one that may change that, is `unknown`, and so is a guard.
//! - Guards are asked in a sandbox (`sandbox`). Health checks are not made.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use potluck_model::StepId;
use potluck_model::condition::Condition;
use potluck_model::list::{Action, OnFailure, Step};
use potluck_model::plan::{DIFFS_BYTES_MAX, Diff, Forecast, Plan, PlannedStep};
use potluck_model::trace::Outcome;

use crate::command::Exit;
use crate::content::Contents;
use crate::engine::{Engine, Fault, Setting, blocked, clip};
use crate::job::Job;
use crate::journal::{self, Journal, JournalError};
use crate::machine::Machine;
use crate::placed::PlacedFiles;
use crate::process::{self, RunError, SEARCH};
use crate::root::{MachineRoot, split, under_root};
use crate::sandbox;
use crate::steps;

/// The longest that a guard may take for a plan.
const GUARD_MAX: Duration = Duration::from_secs(60);
/// The job that was handed over last.
const JOB: &str = "job.json";

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// No release was ever handed over.
    #[error("no release has been assigned to this node and fetched yet ({0} is not there): there is nothing to plan")]
    Nothing(PathBuf),
    /// Something cannot be read, or the scratch directory not be made.
    #[error("cannot use {path}: {source}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The release would be refused.
    #[error("it would not be executed: {0}")]
    Refused(#[from] RunError),
    /// What was done before cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What a step would do.
pub(crate) struct Seen {
    pub(crate) forecast: Forecast,
    pub(crate) message: String,
    pub(crate) diffs: Vec<Diff>,
}

impl Seen {
    pub(crate) fn new(forecast: Forecast, message: impl Into<String>) -> Self {
        Self {
            forecast,
            message: message.into(),
            diffs: Vec::new(),
        }
    }

    /// Of a step that tells what it changes: nothing, if nothing is `said`.
    pub(crate) fn of_changes(said: &[String]) -> Self {
        let forecast = if said.is_empty() {
            Forecast::Unchanged
        } else {
            Forecast::Change
        };
        Self::new(forecast, said.join("; "))
    }
}

/// Keeps the job for plans. Losing it costs a plan; it is neither synced nor believed when it is read.
pub(crate) fn keep(dir: &Path, job: &Job) -> io::Result<()> {
    let temp = dir.join("job.new");
    fs::write(&temp, serde_json::to_vec(job)?)?;
    fs::rename(temp, dir.join(JOB))
}

/// What the release that the executing process of `dir` was given last would do. Changes nothing; a step that runs meanwhile may
/// make it outdated. Takes as long as the guards take, each at most a minute.
///
/// # Errors
/// Where nothing was given, or it would be refused.
pub fn plan(dir: &Path) -> Result<Plan, PlanError> {
    let path = dir.join(JOB);
    let job = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(PlanError::Nothing(path)),
        Err(error) => Err(error),
    };
    let job: Job = job.map_err(|source| PlanError::Io { path, source })?;
    plan_job(dir, &job, Machine::detect(), SEARCH.into())
}

/// A directory that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    /// With copies of what is believed.
    fn make(dir: &Path) -> io::Result<Self> {
        let path = dir.join(format!("plan-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        // The sandbox of a guard is entered from here, and is nobody.
        fs::DirBuilder::new().mode(0o711).create(&path)?;
        let scratch = Self(path);
        copy(&dir.join("trust.json"), &scratch.0.join("trust.json"))?;
        fs::create_dir(scratch.0.join("releases"))?;
        let believed = match fs::read_dir(dir.join("releases")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(scratch),
            other => other?,
        };
        for entry in believed {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                copy(&entry.path(), &scratch.0.join("releases").join(entry.file_name()))?;
            }
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::copy(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what a plan that was killed left in `dir`.
pub(crate) fn remove_left(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix("plan-"));
        if let Some(process) = process
            && !Path::new("/proc").join(process).exists()
        {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

pub(crate) fn plan_job(dir: &Path, job: &Job, machine: Machine, search: OsString) -> Result<Plan, PlanError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| PlanError::Io { path, source }
    };
    let scratch = Scratch::make(dir).map_err(io(dir))?;
    let process::Verified { list, .. } = process::verify(&scratch.0, job, None).map_err(|(_, error)| error)?;
    let (_, state, _) = journal::load(dir)?;
    let journal = Journal::of_state(&scratch.0, state)?;
    let root = MachineRoot::open(&job.machine_root).map_err(io(&job.machine_root))?;
    let placed = PlacedFiles::open(dir, root.path()).map_err(io(&dir.join("placed.json")))?;
    let halted = AtomicBool::new(false);
    let setting = Setting {
        dir: &scratch.0,
        list: &list,
        digest: list.digest(),
        node: job.node,
        root,
        machine,
        search,
        halted: &halted,
    };
    let engine = Engine::new(&setting, journal, Contents::new(&job.contents), placed, None);
    let mut planner = Planner {
        engine,
        sandbox: None,
        changes: None,
        commands: None,
        will_exist: BTreeSet::new(),
        diffs_bytes: 0,
    };
    Ok(Plan {
        configuration: list.configuration.clone(),
        release: list.release,
        list: setting.digest,
        steps: planner.steps()?,
    })
}

struct Planner<'a> {
    engine: Engine<'a>,
    /// Whether guards can be asked, once that is known.
    sandbox: Option<bool>,
    /// The last step so far that would change something.
    changes: Option<StepId>,
    /// The last step so far that would do what only it knows.
    commands: Option<StepId>,
    /// Paths under the root that steps so far would make.
    will_exist: BTreeSet<String>,
    diffs_bytes: usize,
}

impl Planner<'_> {
    fn steps(&mut self) -> Result<Vec<PlannedStep>, JournalError> {
        let setting = self.engine.setting;
        let list = setting.list;
        let handlers: BTreeSet<&StepId> = list.steps.iter().flat_map(|step| &step.notify).collect();
        let mut notified: BTreeMap<&StepId, Forecast> = BTreeMap::new();
        let mut ended: BTreeMap<StepId, Outcome> = BTreeMap::new();
        let mut failure = None;
        let mut planned = Vec::new();
        for step in &list.steps {
            let waits = handlers.contains(&step.id) && !self.engine.is_notified(&step.id);
            let mut seen = if let Some(reason) = blocked(step, &ended, failure.as_ref()) {
                Seen::new(Forecast::Block, reason)
            } else {
                match notified.get(&step.id) {
                    None if waits => Seen::new(Forecast::Skip, "nothing that it follows would change"),
                    Some(Forecast::Change) => self.step(step)?,
                    Some(_) if waits => {
                        let message = "it is done if what it follows changes something, which is not known";
                        Seen::new(Forecast::Unknown, message)
                    }
                    _ => self.step(step)?,
                }
            };
            self.bound(&mut seen.diffs);
            let outcome = match seen.forecast {
                Forecast::Fail => Outcome::Failed,
                Forecast::Block => Outcome::Blocked,
                _ => Outcome::Changed,
            };
            if outcome == Outcome::Failed && step.on_failure != OnFailure::Continue {
                failure = Some(step.id.clone());
            }
            let changes = match seen.forecast {
                Forecast::Change => Some(Forecast::Change),
                Forecast::Run | Forecast::Unknown | Forecast::Fail => Some(Forecast::Unknown),
                _ => None,
            };
            if let Some(changes) = changes {
                for handler in &step.notify {
                    let known = notified.entry(handler).or_insert(changes);
                    if changes == Forecast::Change {
                        *known = changes;
                    }
                }
                self.learn(step, seen.forecast);
            }
            ended.insert(step.id.clone(), outcome);
            planned.push(PlannedStep {
                step: step.id.clone(),
                forecast: seen.forecast,
                message: seen.message,
                diffs: seen.diffs,
            });
        }
        if failure.is_none() && !ended.values().any(|outcome| *outcome != Outcome::Changed) {
            planned.extend(steps::stale::plan_vanished(&mut self.engine));
        }
        Ok(planned)
    }

    /// What steps behind this one have to reckon with.
    fn learn(&mut self, step: &Step, forecast: Forecast) {
        self.changes = Some(step.id.clone());
        let list = self.engine.setting.list;
        let mut made: Vec<String> = match &step.action {
            Action::File { source, dest, .. } => steps::file::paths(list, source, dest).map(|(path, _)| path).collect(),
            Action::Template { dest, .. } | Action::Link { dest, .. } | Action::Directory { dest, .. } => {
                vec![under_root(dest).to_owned()]
            }
            _ => {
                self.commands = Some(step.id.clone());
                Vec::new()
            }
        };
        if forecast == Forecast::Unknown {
            self.commands = Some(step.id.clone());
        }
        while let Some(path) = made.pop() {
            let parent = split(&path).0.to_owned();
            if self.will_exist.insert(path) && !parent.is_empty() {
                made.push(parent);
            }
        }
    }

    /// What is beyond the limit is named only.
    fn bound(&mut self, diffs: &mut [Diff]) {
        for diff in diffs {
            self.diffs_bytes += diff.text.len();
            if self.diffs_bytes > DIFFS_BYTES_MAX {
                "(not shown: the plan shows enough already)".clone_into(&mut diff.text);
            }
        }
    }

    fn step(&mut self, step: &Step) -> Result<Seen, JournalError> {
        self.engine
            .give_time(GUARD_MAX.min(Duration::from_secs(step.timeout_seconds)));
        match self.guarded(step) {
            Ok(seen) => Ok(seen),
            Err(Fault::Journal(error)) => Err(error),
            Err(Fault::Failed(why)) => Ok(match self.may_help(step) {
                Some(before) => Seen::new(
                    Forecast::Unknown,
                    format!("as the machine is now: {why}; but {before} before it would change something"),
                ),
                None => Seen::new(Forecast::Fail, why),
            }),
        }
    }

    /// A step before this one that may change why this one would fail. What steps place stands in nobody's way.
    fn may_help(&self, step: &Step) -> Option<&StepId> {
        if steps::sees_to_places(&step.action) {
            self.commands.as_ref()
        } else {
            self.changes.as_ref()
        }
    }

    fn guarded(&mut self, step: &Step) -> Result<Seen, Fault> {
        if let Some(when) = &step.when {
            let condition = Condition::parse(when).map_err(|fault| Fault::Failed(format!("its condition: {fault}")))?;
            let holds = condition.holds(self.engine.facts()).map_err(|unknown| {
                Fault::Failed(format!(
                    "its condition asks for facts.{unknown}, which is not known here"
                ))
            })?;
            if !holds {
                return Ok(Seen::new(Forecast::Skip, format!("not here: {}", clip(when))));
            }
        }
        if let Some(creates) = &step.creates {
            let root = &self.engine.setting.root;
            let path = under_root(creates);
            let there = root
                .exists(path)
                .map_err(|error| Fault::Failed(format!("cannot look whether {creates} exists: {error}")))?;
            if there {
                return Ok(Seen::new(Forecast::Skip, format!("{creates} exists")));
            }
            if self.will_exist.contains(path) {
                return Ok(Seen::new(Forecast::Skip, format!("{creates} would exist by then")));
            }
            if let Some(before) = &self.commands {
                let message = format!("{before} before it may make {creates}");
                return Ok(Seen::new(Forecast::Unknown, message));
            }
        }
        if let Some(unless) = &step.unless
            && let Some(seen) = self.guard(unless)?
        {
            return Ok(seen);
        }
        let kind = steps::of(&step.action);
        let root = &self.engine.setting.root;
        if let Some(what) = kind.concerns_machine().filter(|_| !root.is_machine()) {
            return Err(Fault::Failed(format!(
                "unsupported: {what} concern the whole machine, and the root is {}",
                root.path().display()
            )));
        }
        kind.plan(&mut self.engine, step)
    }

    /// `None`: the guard says that the step is to be done.
    fn guard(&mut self, unless: &[String]) -> Result<Option<Seen>, Fault> {
        let words = unless.join(" ");
        let guard = clip(&words);
        let unknown = |why: &str| Ok(Some(Seen::new(Forecast::Unknown, format!("its guard `{guard}` {why}"))));
        if let Some(before) = &self.changes {
            return unknown(&format!("is asked when {before} has changed something"));
        }
        let search = &self.engine.setting.search;
        if !*self.sandbox.get_or_insert_with(|| sandbox::works(search)) {
            return unknown(
                "can only be asked in a sandbox, and this machine makes none (unshare and setpriv of util-linux, user namespaces)",
            );
        }
        let command = steps::run::guard_command(&mut self.engine, unless, true)?;
        let ended = self.engine.question(sandbox::wrap(&command))?;
        match ended.exit {
            Exit::Code(0) => Ok(Some(Seen::new(Forecast::Skip, format!("`{guard}` says so")))),
            Exit::Code(sandbox::NOT_MADE | 126 | 127) => unknown("could not be asked in a sandbox"),
            Exit::Code(_) if ended.last_line.to_lowercase().contains("permission denied") => {
                unknown("needs privileges, which it has not in a sandbox")
            }
            Exit::Code(_) => Ok(None),
            Exit::Signal(_) | Exit::TimedOut => unknown("did not end by itself in a sandbox"),
        }
    }
}

#[cfg(test)]
mod tests;
