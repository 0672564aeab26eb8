//! Goes through the steps of a list, in order, and notes each before and after it is done.
//!
//! - A failed step ends the run: steps behind it are `blocked`, whether they need it or not, unless it says `on_failure =
//!   "continue"`: then only those that need it are. A skipped step satisfies those that need it.
//! - A step that others notify is done if one of them changed something, in this run or in one before that did not come so far.
//! - A run that was cut off is taken up again by the next job for the same list: steps that had ended well are not done again and
//!   count as they ended; the interrupted one is reported as such and done again, once a job.
//! - A run that is over is begun anew by the next job: what is as it should be is `unchanged`.
//! - What changes nothing costs no sync: the note that a step starts is synced just before its first change.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use potluck_model::condition::Condition;
use potluck_model::facts::Facts;
use potluck_model::list::{HealthCheck, List, OnFailure, OnInterrupt, RETRY_DELAY_SECONDS_MAX, Step};
use potluck_model::trace::{Outcome, Recap, What};
use potluck_model::{Digest, NodeId, StepId};

use crate::adopt::Adopted;
use crate::archive::ArchiveError;
use crate::command::{self, CommandError, Event};
use crate::content::Contents;
use crate::executor::halt_path;
use crate::facts;
use crate::fail;
use crate::health;
use crate::journal::{Journal, JournalError};
use crate::leftover;
use crate::machine::Machine;
use crate::place::{self, PlaceError};
use crate::placed::PlacedFiles;
use crate::private::Private;
use crate::restore::Why;
use crate::root::{MachineRoot, under_root};
use crate::saved::Saved;
use crate::shim;
use crate::stage::Stage;
use crate::state::{Fact, Open, of_step};
use crate::steps;

/// How often a step that waits to be tried again looks whether it is halted.
const LOOK: Duration = Duration::from_millis(200);

/// What a run is about. Nothing of it changes while it runs.
pub(crate) struct Setting<'a> {
    /// The executing process's own directory.
    pub(crate) dir: &'a Path,
    pub(crate) list: &'a List,
    pub(crate) digest: Digest,
    pub(crate) node: NodeId,
    pub(crate) root: MachineRoot,
    pub(crate) machine: Machine,
    /// `PATH` of steps.
    pub(crate) search: OsString,
    pub(crate) halted: &'a AtomicBool,
}

pub(crate) struct Engine<'a> {
    pub(crate) setting: &'a Setting<'a>,
    pub(crate) journal: Journal,
    pub(crate) contents: Contents,
    pub(crate) placed: PlacedFiles,
    pub(crate) private: Option<Private>,
    /// What was copied before the release was complete.
    pub(crate) stage: Option<Stage>,
    /// Every path that the list's `file` steps place.
    pub(crate) wanted: Option<BTreeSet<String>>,
    /// What was there before steps changed it, where it may have to be put back.
    pub(crate) saved: Option<Saved>,
    /// The current step, if it says how what it does is taken back, and has not changed anything yet.
    pub(crate) takes_back: Option<StepId>,
    /// What an earlier executing process had begun of the current step.
    pub(crate) adopted: Option<Adopted>,
    /// A command of the current step was given into the care of a shim.
    pub(crate) in_care: bool,
    /// Which try of the current step this is.
    pub(crate) attempt: u32,
    /// When the time of the current step is over.
    deadline: Instant,
    /// Looked at once a run.
    facts: OnceCell<Facts>,
}

/// How a step ended that did not fail otherwise.
pub(crate) struct Done {
    pub(crate) outcome: Outcome,
    pub(crate) exit: Option<i32>,
    pub(crate) message: String,
    pub(crate) fact: Option<Fact>,
}

impl Done {
    pub(crate) fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            outcome,
            exit: None,
            message: message.into(),
            fact: None,
        }
    }
}

/// Why a step could not be done.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The step failed: what to tell people.
    Failed(String),
    /// The run cannot go on: what is not noted may not be done.
    Journal(JournalError),
}

pub(crate) fn failed(message: impl Into<String>) -> Fault {
    Fault::Failed(message.into())
}

impl From<JournalError> for Fault {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

impl From<PlaceError> for Fault {
    fn from(error: PlaceError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<ArchiveError> for Fault {
    fn from(error: ArchiveError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl<'a> Engine<'a> {
    pub(crate) fn new(
        setting: &'a Setting<'a>,
        journal: Journal,
        contents: Contents,
        placed: PlacedFiles,
        stage: Option<Stage>,
    ) -> Self {
        Self {
            setting,
            journal,
            contents,
            placed,
            private: None,
            stage,
            wanted: None,
            saved: None,
            takes_back: None,
            adopted: None,
            in_care: false,
            attempt: 1,
            deadline: Instant::now(),
            facts: OnceCell::new(),
        }
    }

    /// What another engine goes on with.
    pub(crate) fn into_parts(self) -> (Journal, Contents, PlacedFiles) {
        (self.journal, self.contents, self.placed)
    }

    /// Does what is to be done, and says how it ended, and whether and why what was done is to be taken back. That the run is over
    /// is not noted yet.
    pub(crate) fn run(&mut self) -> Result<(Recap, Option<Why>), JournalError> {
        let mut ended = self.begin()?;
        let carried = ended.clone();
        let mut recap = Recap::default();
        let mut failure: Option<StepId> = None;
        let handlers: BTreeSet<&StepId> = self.setting.list.steps.iter().flat_map(|step| &step.notify).collect();
        for step in &self.setting.list.steps {
            if let Some(outcome) = carried.get(&step.id) {
                recap.count(*outcome);
                if *outcome == Outcome::Failed && step.on_failure != OnFailure::Continue {
                    failure = Some(step.id.clone());
                }
                continue;
            }
            let outcome = if let Some(reason) = blocked(step, &ended, failure.as_ref()) {
                self.end(&step.id, Instant::now(), Done::new(Outcome::Blocked, reason))?
            } else if self.halted() {
                self.end(
                    &step.id,
                    Instant::now(),
                    Done::new(Outcome::Halted, "the fleet is halted"),
                )?
            } else if handlers.contains(&step.id) && !self.is_notified(&step.id) {
                let done = Done::new(Outcome::Skipped, "nothing that it follows changed");
                self.end(&step.id, Instant::now(), done)?
            } else {
                self.step(step)?
            };
            if outcome == Outcome::Failed && step.on_failure != OnFailure::Continue {
                failure = Some(step.id.clone());
            }
            ended.insert(step.id.clone(), outcome);
            recap.count(outcome);
            self.journal.rotate_if_large()?;
        }
        if recap.converged() && !self.halted() {
            for outcome in steps::stale::remove_vanished(self)? {
                recap.count(outcome);
            }
        }
        if recap.converged() && !self.halted() {
            for (number, outcome) in health::check(self)?.into_iter().enumerate() {
                recap.count(outcome);
                if outcome == Outcome::Failed {
                    return Ok((recap, Some(Why::Unhealthy(HealthCheck::id(number + 1)))));
                }
            }
        }
        fail::here("run.done");
        let undo = |step: &&Step| step.on_failure == OnFailure::Undo && ended.get(&step.id) == Some(&Outcome::Failed);
        let why = self.setting.list.steps.iter().find(undo);
        Ok((recap, why.map(|step| Why::Failed(step.id.clone()))))
    }

    /// Takes up a run of this list that was cut off, or begins one. Returns how steps ended that are not to be done again.
    fn begin(&mut self) -> Result<BTreeMap<StepId, Outcome>, JournalError> {
        let setting = self.setting;
        // What cannot be cleaned up now is tried again.
        let _ = place::clean_up(&setting.root, setting.dir);
        let last = self.journal.state().run.clone().filter(|run| run.recap.is_none());
        let mut carried = BTreeMap::new();
        let mut same = false;
        if let Some(run) = last {
            same = run.list == setting.digest && run.root == setting.root.path();
            let resumed = match &run.open {
                Some(open) => self.take_up(run.list, open, same)?,
                None => None,
            };
            if same {
                // What it came to when it was interrupted may have been noted just now.
                carried = self.journal.state().run.clone().map_or(run.ended, |run| run.ended);
                carried.retain(|step, outcome| match outcome {
                    Outcome::Changed | Outcome::Unchanged | Outcome::Skipped => true,
                    Outcome::Failed => self.on_interrupt(step) == OnInterrupt::Fail,
                    _ => false,
                });
                carried.extend(resumed);
            }
        }
        shim::clean_up(setting.dir);
        if !same {
            let began = Fact::Began {
                configuration: setting.list.configuration.clone(),
                release: setting.list.release,
                root: setting.root.path().to_owned(),
            };
            self.journal.append(Some(setting.digest), None, Some(began))?;
        }
        Ok(carried)
    }

    /// Cleans up after a step that was cut off, and says so.
    pub(crate) fn interrupted(&mut self, list: Digest, open: &Open) -> Result<(), JournalError> {
        let mut message = "the machine or the executing process died while it ran".to_owned();
        let of_shim = open
            .handed
            .last()
            .map(|handed| shim::end_left(self.setting.dir, handed.number));
        let of_group = open.process.as_ref().map(leftover::end);
        for left in [of_shim, of_group].into_iter().flatten() {
            match left {
                Ok(false) => {}
                Ok(true) => message += "; what was left of it was ended",
                Err(error) => {
                    message.push_str("; what is left of it could not be ended: ");
                    message.push_str(&error.to_string());
                }
            }
        }
        let mut outcome = Outcome::Interrupted;
        if list == self.setting.digest {
            // It may have changed what others are to follow, and will find it as it should be.
            self.notify(&open.step)?;
            if self.on_interrupt(&open.step) == OnInterrupt::Fail {
                outcome = Outcome::Failed;
                message += "; it is not done again in this run (on_interrupt)";
            }
        }
        let what = What::StepEnded {
            step: open.step.clone(),
            outcome,
            millis: 0,
            exit: None,
            message,
        };
        self.journal.append(Some(list), Some(what), None)?;
        self.journal.sync()
    }

    fn on_interrupt(&self, id: &StepId) -> OnInterrupt {
        let step = self.setting.list.steps.iter().find(|step| step.id == *id);
        step.map_or(OnInterrupt::Again, |step| step.on_interrupt)
    }

    pub(crate) fn is_notified(&self, id: &StepId) -> bool {
        let configuration = &self.setting.list.configuration;
        self.journal.state().notified.contains(&of_step(configuration, id))
    }

    /// Notes that a step changed something, for those that follow it.
    pub(crate) fn notify(&mut self, id: &StepId) -> Result<(), JournalError> {
        let setting = self.setting;
        let Some(step) = setting.list.steps.iter().find(|step| step.id == *id) else {
            return Ok(());
        };
        for handler in &step.notify {
            if !self.is_notified(handler) {
                let fact = Fact::Notified {
                    configuration: setting.list.configuration.clone(),
                    step: handler.clone(),
                };
                self.journal.append(Some(setting.digest), None, Some(fact))?;
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<Outcome, JournalError> {
        let start = Instant::now();
        self.note(What::StepStarted { step: step.id.clone() }, None)?;
        fail::here("step.started");
        self.tries(step, start, 1)
    }

    /// Does a step that was noted to have started, until it has ended well or may not be tried again; `first`: the next try.
    pub(crate) fn tries(&mut self, step: &Step, start: Instant, first: u32) -> Result<Outcome, JournalError> {
        let tries = 1 + step.retry.map_or(0, |retry| retry.times);
        let mut delay = step.retry.map_or(0, |retry| retry.delay_seconds);
        for _ in 1..first {
            delay = (2 * delay).min(RETRY_DELAY_SECONDS_MAX);
        }
        let mut number = first;
        let done = loop {
            self.attempt = number;
            self.give_time(Duration::from_secs(step.timeout_seconds));
            let attempted = match self.adopted {
                Some(_) => self.kind(step),
                None => self.guarded(step),
            };
            let done = match attempted {
                Ok(done) => self.leave_adopted(done),
                Err(Fault::Failed(message)) => Done::new(Outcome::Failed, message),
                Err(Fault::Journal(error)) => return Err(error),
            };
            if done.outcome != Outcome::Failed || number >= tries || self.halted() {
                break done;
            }
            let line = format!(
                "(try {number} of {tries} failed: {}; trying again in {delay} s)",
                clip(&done.message)
            );
            self.say(&step.id, line)?;
            self.wait(Duration::from_secs(delay));
            delay = (2 * delay).min(RETRY_DELAY_SECONDS_MAX);
            number += 1;
        };
        if matches!(done.outcome, Outcome::Changed | Outcome::Failed) {
            self.notify(&step.id)?;
        }
        fail::here("step.done");
        let outcome = self.end(&step.id, start, done)?;
        fail::here("step.ended");
        if self.in_care {
            // Only what lasts makes its shims' files dispensable.
            self.journal.sync()?;
            shim::clean_up(self.setting.dir);
            self.in_care = false;
        }
        Ok(outcome)
    }

    /// Commands end within this time from now.
    pub(crate) fn give_time(&mut self, time: Duration) {
        let now = Instant::now();
        let far = now + Duration::from_secs(u64::from(u32::MAX));
        self.deadline = now.checked_add(time).unwrap_or(far);
    }

    /// Until the time is over, or no further step may start.
    fn wait(&self, most: Duration) {
        let start = Instant::now();
        while !self.halted() {
            let left = most.saturating_sub(start.elapsed());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    fn guarded(&mut self, step: &Step) -> Result<Done, Fault> {
        if let Some(when) = &step.when {
            let condition = Condition::parse(when).map_err(|fault| failed(format!("its condition: {fault}")))?;
            let holds = condition.holds(self.facts()).map_err(|unknown| {
                failed(format!(
                    "its condition asks for facts.{unknown}, which this version of Potluck does not know: update it"
                ))
            })?;
            if !holds {
                return Ok(Done::new(Outcome::Skipped, format!("not here: {}", clip(when))));
            }
        }
        if let Some(creates) = &step.creates {
            let there = self
                .setting
                .root
                .exists(under_root(creates))
                .map_err(|error| failed(format!("cannot look whether {creates} exists: {error}")))?;
            if there {
                return Ok(Done::new(Outcome::Skipped, format!("{creates} exists")));
            }
        }
        if let Some(unless) = &step.unless
            && steps::run::guard(self, step, unless)?
        {
            let guard = unless.join(" ");
            return Ok(Done::new(Outcome::Skipped, format!("`{}` says so", clip(&guard))));
        }
        self.kind(step)
    }

    fn kind(&mut self, step: &Step) -> Result<Done, Fault> {
        let kind = steps::of(&step.action);
        let root = &self.setting.root;
        if let Some(what) = kind.concerns_machine().filter(|_| !root.is_machine()) {
            return Err(failed(format!(
                "unsupported: {what} concern the whole machine, and the root is {}",
                root.path().display()
            )));
        }
        self.takes_back = step.undo.as_ref().map(|_| step.id.clone());
        let done = kind.run(self, step);
        self.takes_back = None;
        done
    }

    /// What this machine says of itself.
    pub(crate) fn facts(&self) -> &Facts {
        let setting = self.setting;
        self.facts
            .get_or_init(|| facts::facts(&setting.machine, setting.root.path()))
    }

    /// Notes the end of a step. Synced if it changed something or may have; else with what comes next.
    pub(crate) fn end(&mut self, step: &StepId, start: Instant, done: Done) -> Result<Outcome, JournalError> {
        let outcome = done.outcome;
        let what = What::StepEnded {
            step: step.clone(),
            outcome,
            millis: start.elapsed().as_millis() as u64,
            exit: done.exit,
            message: done.message,
        };
        self.note(what, done.fact)?;
        if matches!(outcome, Outcome::Changed | Outcome::Failed) {
            self.journal.sync()?;
        }
        Ok(outcome)
    }

    pub(crate) fn note(&mut self, what: What, fact: Option<Fact>) -> Result<(), JournalError> {
        self.journal.append(Some(self.setting.digest), Some(what), fact)
    }

    /// To be called before a step's first change: from here on a crash leaves it interrupted.
    pub(crate) fn about_to_change(&mut self) -> Result<(), JournalError> {
        self.keep_command()?;
        self.journal.sync()
    }

    /// Reports a line of a step.
    pub(crate) fn say(&mut self, step: &StepId, line: String) -> Result<(), JournalError> {
        let step = step.clone();
        self.note(What::StepOutput { step, line }, None)
    }

    /// A program of the machine, with the environment that such have in steps.
    pub(crate) fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", &self.setting.search)
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .env("POTLUCK_NODE", self.setting.node.to_string())
            .current_dir("/");
        command
    }

    /// Runs a command of a step within what is left of its time; `output`: its lines are reported, and it is in the care of a shim.
    /// Without, it is a guard, which changes nothing and ends with this process.
    pub(crate) fn execute(&mut self, step: &Step, command: Command, output: bool) -> Result<command::Ended, Fault> {
        self.execute_seeing(step, command, output, &mut |_| {})
    }

    /// Likewise; `see` gets each line that is kept.
    pub(crate) fn execute_seeing(
        &mut self,
        step: &Step,
        command: Command,
        output: bool,
        see: &mut dyn FnMut(&str),
    ) -> Result<command::Ended, Fault> {
        if output {
            return self.in_care(step, &command, see);
        }
        self.about_to_change()?;
        let program = command.get_program().to_string_lossy().into_owned();
        let left = self.time_left();
        let (journal, digest) = (&mut self.journal, self.setting.digest);
        let mut sink = |event| match event {
            Event::Spawned(process) => journal.append(Some(digest), None, Some(Fact::Spawned(process))),
            Event::Line(_) => Ok(()),
        };
        command::run(command, left, &mut sink).map_err(|error| match error {
            CommandError::Journal(error) => Fault::Journal(error),
            CommandError::Start(error) => not_started(&program, &error),
            CommandError::Wait(error) => failed(format!("{program} ran, but: {error}")),
        })
    }

    /// What is left of the current step's time.
    pub(crate) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Runs a command that only asks and changes nothing. Its output is not reported.
    pub(crate) fn question(&mut self, command: Command) -> Result<command::Ended, Fault> {
        let program = command.get_program().to_string_lossy().into_owned();
        let left = self.deadline.saturating_duration_since(Instant::now());
        command::run(command, left, &mut |_| Ok(())).map_err(|error| {
            let advice = match &error {
                CommandError::Start(error) => advice(error),
                _ => "",
            };
            failed(format!("cannot run {program}: {error}{advice}"))
        })
    }

    pub(crate) fn halted(&self) -> bool {
        self.setting.halted.load(Ordering::Relaxed) || halt_path(self.setting.dir).exists()
    }

    /// Bytes of a content, verified, in a file that only this process can write to.
    pub(crate) fn own_copy(&mut self, name: &str, digest: Digest, size: u64) -> Result<PathBuf, Fault> {
        let work = self.setting.dir.join("work");
        let path = work.join(name);
        let io = |error| failed(format!("cannot copy it to {}: {error}", path.display()));
        let _ = fs::remove_dir_all(&work);
        fs::create_dir(&work).map_err(io)?;
        let mut file = fs::File::create(&path).map_err(io)?;
        self.contents
            .copy(digest, size, &mut file)
            .map_err(|error| failed(error.to_string()))?;
        Ok(path)
    }

    /// Gives back the space of `own_copy`.
    pub(crate) fn remove_own_copy(&self) {
        let _ = fs::remove_dir_all(self.setting.dir.join("work"));
    }
}

/// Why a step may not start.
pub(crate) fn blocked(step: &Step, ended: &BTreeMap<StepId, Outcome>, failure: Option<&StepId>) -> Option<String> {
    let need = step.needs.iter().find_map(|need| match ended.get(need) {
        // What is halted says so itself, and so will this.
        Some(Outcome::Changed | Outcome::Unchanged | Outcome::Skipped | Outcome::Halted) => None,
        Some(Outcome::Failed) => Some(format!("it needs {need}, which failed")),
        Some(Outcome::Blocked) => Some(format!("it needs {need}, which was blocked")),
        Some(Outcome::Interrupted | Outcome::Undone) | None => Some(format!("it needs {need}, which has not ended")),
    });
    need.or_else(|| failure.map(|failure| format!("after the failure of {failure}")))
}

/// That a program does not start, and what to do.
pub(crate) fn not_started(program: &str, error: &std::io::Error) -> Fault {
    failed(format!("cannot start {program}: {error}{}", advice(error)))
}

/// What to do when a program does not start.
fn advice(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::NotFound {
        " (it, or the interpreter that it names, is not installed here: a package step before this one can see to that)"
    } else {
        ""
    }
}

/// Shortens what may be long, for messages.
pub(crate) fn clip(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let mut short: String = text.chars().take(CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests;
