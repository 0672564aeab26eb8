//! Goes through the steps of a list, in order, and notes each before and after it is done.
//!
//! - A failed step ends the run: steps behind it are `blocked`, whether they need it or not. (A way to say otherwise comes with
//!   a later format of the list.) A skipped step satisfies those that need it.
//! - A run that was cut off is taken up again by the next job for the same list: steps that had ended well are not done again and
//!   count as they ended; the interrupted one is reported as such and done again, once a job.
//! - A run that is over is begun anew by the next job: what is as it should be is `unchanged`.
//! - What changes nothing costs no sync: the note that a step starts is synced just before its first change.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use potluck_model::list::{Action, List, Step};
use potluck_model::trace::{Outcome, Recap, What};
use potluck_model::{Digest, NodeId, StepId};

use crate::archive::ArchiveError;
use crate::command::{self, CommandError, Event};
use crate::content::Contents;
use crate::executor::halt_path;
use crate::journal::{Journal, JournalError};
use crate::leftover;
use crate::machine::Machine;
use crate::place::{self, PlaceError};
use crate::placed::PlacedFiles;
use crate::private::Private;
use crate::root::{MachineRoot, under_root};
use crate::stage::Stage;
use crate::state::{Fact, Open};
use crate::steps;

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
    /// When the time of the current step is over.
    deadline: Instant,
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
            deadline: Instant::now(),
        }
    }

    /// Does what is to be done, and says how it ended.
    pub(crate) fn run(&mut self) -> Result<Recap, JournalError> {
        let mut ended = self.begin()?;
        let carried = ended.clone();
        let mut recap = Recap::default();
        let mut failure: Option<StepId> = None;
        for step in &self.setting.list.steps {
            if let Some(outcome) = carried.get(&step.id) {
                recap.count(*outcome);
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
            } else {
                self.step(step)?
            };
            if outcome == Outcome::Failed {
                failure = Some(step.id.clone());
            }
            ended.insert(step.id.clone(), outcome);
            recap.count(outcome);
            self.journal.rotate_if_large()?;
        }
        if recap.converged() && !self.halted() {
            for outcome in steps::file::remove_vanished(self)? {
                recap.count(outcome);
            }
        }
        self.note(What::Executed { recap }, None)?;
        self.journal.sync()?;
        Ok(recap)
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
            if let Some(open) = &run.open {
                self.interrupted(run.list, open)?;
            }
            same = run.list == setting.digest && run.root == setting.root.path();
            if same {
                carried = run.ended;
                carried
                    .retain(|_, outcome| matches!(outcome, Outcome::Changed | Outcome::Unchanged | Outcome::Skipped));
            }
        }
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
    fn interrupted(&mut self, list: Digest, open: &Open) -> Result<(), JournalError> {
        let mut message = "the machine or the executing process died while it ran".to_owned();
        if let Some(process) = &open.process {
            match leftover::end(process) {
                Ok(false) => {}
                Ok(true) => message += "; what was left of it was ended",
                Err(error) => {
                    message.push_str("; what is left of it could not be ended: ");
                    message.push_str(&error.to_string());
                }
            }
        }
        let what = What::StepEnded {
            step: open.step.clone(),
            outcome: Outcome::Interrupted,
            millis: 0,
            exit: None,
            message,
        };
        self.journal.append(Some(list), Some(what), None)?;
        self.journal.sync()
    }

    fn step(&mut self, step: &Step) -> Result<Outcome, JournalError> {
        let start = Instant::now();
        self.deadline = start
            .checked_add(Duration::from_secs(step.timeout_seconds))
            .unwrap_or(start + Duration::from_secs(u64::from(u32::MAX)));
        self.note(What::StepStarted { step: step.id.clone() }, None)?;
        let done = match self.guarded(step) {
            Ok(done) => done,
            Err(Fault::Failed(message)) => Done::new(Outcome::Failed, message),
            Err(Fault::Journal(error)) => return Err(error),
        };
        self.end(&step.id, start, done)
    }

    fn guarded(&mut self, step: &Step) -> Result<Done, Fault> {
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
        match &step.action {
            Action::Run { .. } => steps::run::run(self, step),
            Action::File {
                source,
                dest,
                mode,
                keep,
            } => steps::file::run(
                self,
                step,
                &steps::file::Placing {
                    source,
                    dest,
                    mode: *mode,
                    keep: *keep,
                },
            ),
            Action::Archive { source, dest } => steps::archive::run(self, step, source, dest),
            Action::Package { sources } => steps::package::run(self, step, sources),
        }
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
        self.journal.sync()
    }

    /// Runs a command of a step within what is left of its time; `output`: its lines are reported.
    pub(crate) fn execute(&mut self, step: &StepId, command: Command, output: bool) -> Result<command::Ended, Fault> {
        self.about_to_change()?;
        let program = command.get_program().to_string_lossy().into_owned();
        let left = self.deadline.saturating_duration_since(Instant::now());
        let (journal, digest) = (&mut self.journal, self.setting.digest);
        let mut sink = |event| match event {
            Event::Spawned(process) => journal.append(Some(digest), None, Some(Fact::Spawned(process))),
            Event::Line(line) if output => {
                let what = What::StepOutput {
                    step: step.clone(),
                    line,
                };
                journal.append(Some(digest), Some(what), None)
            }
            Event::Line(_) => Ok(()),
        };
        command::run(command, left, &mut sink).map_err(|error| match error {
            CommandError::Journal(error) => Fault::Journal(error),
            CommandError::Start(error) => failed(format!("cannot start {program}: {error}")),
            CommandError::Wait(error) => failed(format!("{program} ran, but: {error}")),
        })
    }

    /// Runs a command that only asks and changes nothing. Its output is not reported.
    pub(crate) fn question(&mut self, command: Command) -> Result<command::Ended, Fault> {
        let program = command.get_program().to_string_lossy().into_owned();
        let left = self.deadline.saturating_duration_since(Instant::now());
        command::run(command, left, &mut |_| Ok(())).map_err(|error| failed(format!("cannot run {program}: {error}")))
    }

    fn halted(&self) -> bool {
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
fn blocked(step: &Step, ended: &BTreeMap<StepId, Outcome>, failure: Option<&StepId>) -> Option<String> {
    let need = step.needs.iter().find_map(|need| match ended.get(need) {
        // What is halted says so itself, and so will this.
        Some(Outcome::Changed | Outcome::Unchanged | Outcome::Skipped | Outcome::Halted) => None,
        Some(Outcome::Failed) => Some(format!("it needs {need}, which failed")),
        Some(Outcome::Blocked) => Some(format!("it needs {need}, which was blocked")),
        Some(Outcome::Interrupted) | None => Some(format!("it needs {need}, which has not ended")),
    });
    need.or_else(|| failure.map(|failure| format!("after the failure of {failure}")))
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
