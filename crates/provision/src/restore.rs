//! Takes back what a release has changed, and restores the release before it.
//!
//! - If a health check fails, and this release was never healthy here, the last release of the configuration that was is restored: what
//!   this one changed is undone, the latest first, and then that one is executed.
//! - If a step fails that says `on_failure = "undo"`, likewise; where there was no release before, what was changed is undone.
//! - Never to a release that publishers do not permit any more: then what was done stays.
//! - A release that was taken back is not executed again before it is assigned anew; what was restored is kept as it says.
//!
//! Begun, it is noted; cut off, the next process goes on with it before it does anything else. An `undo` that was cut off is run again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use potluck_model::assignment::AssignedRelease;
use potluck_model::list::{List, OnFailure};
use potluck_model::trace::{Outcome, Recap, What};
use potluck_model::{Digest, StepId, UnixSeconds};

use crate::command;
use crate::command::Event;
use crate::content::Contents;
use crate::engine::{Done, Engine, Fault, Setting, clip, failed};
use crate::file;
use crate::job::Job;
use crate::journal::{Journal, JournalError};
use crate::leftover;
use crate::place;
use crate::placed::PlacedFiles;
use crate::releases::Releases;
use crate::root::MachineRoot;
use crate::saved::{Record, Saved};
use crate::stage::Stage;
use crate::state::{Fact, GivenUp, Good};
use crate::steps::run;

/// Why a release is to be taken back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// This step failed, and says so.
    Failed(StepId),
    /// This health check failed.
    Unhealthy(StepId),
}

/// Whether a list may ever be taken back: else nothing need be kept.
fn may_be_undone(list: &List) -> bool {
    !list.settings.health.is_empty() || list.steps.iter().any(|step| step.on_failure == OnFailure::Undo)
}

/// Executes the list of `setting`, or what has been restored instead, and says how the list's steps ended.
pub(crate) fn execute(
    setting: &Setting<'_>,
    journal: Journal,
    contents: Contents,
    placed: PlacedFiles,
    staged: Option<Stage>,
    job: &Job,
) -> Result<Recap, JournalError> {
    let sequence = job.assignment.signed.sequence;
    let undo_dir = setting.dir.join("undo");
    let mut engine = Engine::new(setting, journal, contents, placed, staged);
    if may_be_undone(setting.list) || undo_dir.exists() {
        engine.saved = Some(Saved::open(setting.dir).map_err(JournalError::io(&undo_dir))?);
    }
    let undoing = engine.journal.state().undoing.clone();
    if let Some(undoing) = undoing.filter(|undoing| undoing.list != setting.digest) {
        // Another release is assigned by now: what the one before it left half undone is finished first.
        engine.undo()?;
        engine.undone(undoing.list, undoing.recap, 0)?;
    }
    let given_up = |engine: &Engine<'_>| {
        let given_up = engine.journal.state().given_up.clone();
        given_up.filter(|given_up| given_up.list == setting.digest && given_up.sequence == sequence)
    };
    if let Some(GivenUp { recap, .. }) = given_up(&engine) {
        let previous = previous(&engine, job)?;
        if let Some(good) = previous.good {
            engine = restore(setting, engine, &good)?.0;
        }
        engine.note(What::Executed { recap }, None)?;
        engine.journal.sync()?;
        return Ok(recap);
    }
    let undoing = engine.journal.state().undoing.clone();
    let message = match undoing {
        Some(undoing) => undoing.why,
        None => {
            let (recap, why) = engine.run()?;
            let Some(why) = why else {
                return finish(engine, recap);
            };
            let previous = previous(&engine, job)?;
            let release = setting.list.release;
            let (mut message, failed) = match &why {
                Why::Failed(step) => (format!("step {step} of release {release} failed"), Some(step.clone())),
                Why::Unhealthy(check) => (format!("release {release} is not healthy ({check} failed)"), None),
            };
            if let Some(refused) = previous.refused {
                message = format!("{message}, and what it changed stays: {refused}");
                engine.note(What::Trouble { message }, None)?;
                return finish(engine, recap);
            }
            if previous.good.is_none() && failed.is_none() {
                return finish(engine, recap);
            }
            engine.journal.append(
                Some(setting.digest),
                None,
                Some(Fact::Undoing {
                    recap,
                    failed,
                    why: message.clone(),
                }),
            )?;
            engine.journal.sync()?;
            message
        }
    };
    let undoing = engine.journal.state().undoing.clone();
    let recap = undoing.map(|undoing| undoing.recap).unwrap_or_default();
    engine.undo()?;
    let recap = engine.undone(setting.digest, recap, sequence)?;
    let message = match previous(&engine, job)?.good {
        None => format!("{message}; what it changed was undone"),
        Some(good) => {
            let release = good.list.release;
            let (next, restored) = restore(setting, engine, &good)?;
            engine = next;
            if restored.converged() {
                format!("{message}; release {release} was restored")
            } else {
                format!(
                    "{message}; what it changed was undone, but release {release} could not be restored whole: {restored}"
                )
            }
        }
    };
    engine.note(What::Trouble { message }, None)?;
    engine.note(What::Executed { recap }, None)?;
    engine.journal.sync()?;
    Ok(recap)
}

/// Notes how the run ended. If it ended well, this is what is restored should a later release fail.
fn finish(mut engine: Engine<'_>, recap: Recap) -> Result<Recap, JournalError> {
    let setting = engine.setting;
    let dir = setting.dir.join("good");
    let is_new = engine
        .journal
        .state()
        .good
        .as_ref()
        .is_none_or(|good| good.list != setting.digest);
    if recap.converged() && is_new {
        keep_list(&dir, setting.list, setting.digest).map_err(JournalError::io(&dir))?;
    }
    engine.note(What::Executed { recap }, None)?;
    engine.journal.sync()?;
    if recap.converged() {
        if let Some(saved) = &mut engine.saved {
            saved.clear().map_err(JournalError::io(&setting.dir.join("undo")))?;
        }
        if is_new {
            // What stays costs room and nothing else.
            let _ = forget_lists(&dir, setting.digest);
        }
    }
    Ok(recap)
}

fn keep_list(dir: &Path, list: &List, digest: Digest) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    file::replace(&list_path(dir, digest), &list.to_bytes())
}

fn list_path(dir: &Path, digest: Digest) -> PathBuf {
    dir.join(digest.to_string())
}

fn forget_lists(dir: &Path, but: Digest) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path != list_path(dir, but) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// What could be restored.
#[derive(Default)]
struct Previous {
    good: Option<GoodList>,
    /// There is one, but it may not be.
    refused: Option<String>,
}

struct GoodList {
    list: List,
    digest: Digest,
}

/// The last release of the configuration that was healthy here, if it is another one than this and publishers permit it.
fn previous(engine: &Engine<'_>, job: &Job) -> Result<Previous, JournalError> {
    let setting = engine.setting;
    let good = engine.journal.state().good.clone().filter(|good| {
        good.list != setting.digest
            && good.configuration == setting.list.configuration
            && good.root == setting.root.path()
    });
    let Some(Good { list: digest, .. }) = good else {
        return Ok(Previous::default());
    };
    let path = list_path(&setting.dir.join("good"), digest);
    let bytes = match fs::read(&path) {
        Ok(bytes) if Digest::of(&bytes) == digest => bytes,
        Ok(_) => return Ok(Previous::default()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Previous::default()),
        Err(error) => return Err(JournalError::io(&path)(error)),
    };
    let Ok(list) = List::from_bytes(&bytes) else {
        return Ok(Previous::default());
    };
    if let Some(pinned) = job.root.releases {
        let release = AssignedRelease {
            configuration: list.configuration.clone(),
            release: list.release,
            list: digest,
            list_size: bytes.len() as u64,
        };
        let permitted = Releases::open(setting.dir, pinned, job, false)
            .and_then(|mut releases| releases.permitted(job, &release, UnixSeconds::now()));
        // It was adopted once, and stays so whatever the metadata of today is like; but not if a publisher has forbidden it.
        if let Err(error) = permitted
            && error.is_narrowed()
        {
            return Ok(Previous {
                good: None,
                refused: Some(format!(
                    "release {} before it may not be restored: {error}",
                    list.release
                )),
            });
        }
    }
    Ok(Previous {
        good: Some(GoodList { list, digest }),
        refused: None,
    })
}

/// Executes a release that was good once, in the place of the one that is assigned.
fn restore<'a>(
    setting: &'a Setting<'a>,
    engine: Engine<'a>,
    good: &GoodList,
) -> Result<(Engine<'a>, Recap), JournalError> {
    let (journal, contents, placed) = engine.into_parts();
    let path = setting.root.path();
    let root = MachineRoot::open(path).map_err(JournalError::io(path))?;
    let own = Setting {
        dir: setting.dir,
        list: &good.list,
        digest: good.digest,
        node: setting.node,
        root,
        machine: setting.machine,
        search: setting.search.clone(),
        halted: setting.halted,
    };
    let mut engine = Engine::new(&own, journal, contents, placed, None);
    let (recap, _) = engine.run()?;
    engine.note(What::Executed { recap }, None)?;
    engine.journal.sync()?;
    let (journal, contents, placed) = engine.into_parts();
    Ok((Engine::new(setting, journal, contents, placed, None), recap))
}

impl Engine<'_> {
    /// Keeps what is at these paths under the root, before a step changes it.
    pub(crate) fn keep(&mut self, step: &StepId, paths: impl Iterator<Item = String>) -> Result<(), Fault> {
        self.keep_with(step, paths, std::iter::empty())
    }

    /// Likewise; and what is known of `same`, which the step finds as it wants it, and which becomes its own if it is nobody's.
    pub(crate) fn keep_with(
        &mut self,
        step: &StepId,
        paths: impl Iterator<Item = String>,
        same: impl Iterator<Item = String>,
    ) -> Result<(), Fault> {
        let setting = self.setting;
        let same = same.filter(|path| {
            let known = self.placed.files().get(path);
            known.is_none_or(|placed| placed.step != *step || placed.configuration != setting.list.configuration)
        });
        let (mut paths, mut same) = (paths.peekable(), same.peekable());
        if paths.peek().is_none() && same.peek().is_none() {
            return Ok(());
        }
        let Some(saved) = self.saved.as_mut().filter(|_| may_be_undone(setting.list)) else {
            return Ok(());
        };
        let record = Record::new(setting.digest, &setting.list.configuration, step, &setting.root);
        saved
            .keep(&setting.root, &self.placed, record, paths, same)
            .map_err(|error| {
                failed(format!(
                    "cannot keep what is there, so that it could be undone: {error}"
                ))
            })
    }

    /// Notes, before the step's first change, that its `undo` is to be run if the release is taken back.
    pub(crate) fn keep_command(&mut self) -> Result<(), JournalError> {
        let setting = self.setting;
        if let (Some(step), Some(saved)) = (self.takes_back.take(), &mut self.saved) {
            let record = Record::new(setting.digest, &setting.list.configuration, &step, &setting.root);
            saved
                .note(record)
                .map_err(JournalError::io(&setting.dir.join("undo")))?;
        }
        Ok(())
    }

    /// Takes back all that is kept, the latest first, and reports each step.
    fn undo(&mut self) -> Result<(), JournalError> {
        let path = self.setting.dir.join("undo");
        let io = || JournalError::io(&path);
        // Of an undo that was cut off. What cannot be ended or cleaned up now is in the way of what comes, and told then.
        let open = self.journal.state().run.as_ref().and_then(|run| run.open.clone());
        if let Some(process) = open.and_then(|open| open.process) {
            let _ = leftover::end(&process);
        }
        let _ = place::clean_up(&self.setting.root, self.setting.dir);
        let mut current: Option<(StepId, Instant, Vec<String>)> = None;
        while let Some(saved) = &self.saved {
            let Some((number, record)) = saved.last().map_err(io())? else {
                break;
            };
            if current.as_ref().is_none_or(|(step, ..)| *step != record.step) {
                self.end_undone(current.take())?;
                self.note(
                    What::StepStarted {
                        step: record.step.clone(),
                    },
                    None,
                )?;
                self.journal.sync()?;
                current = Some((record.step.clone(), Instant::now(), Vec::new()));
            }
            let trouble = match self.take_back(&record) {
                Ok(lost) if lost.is_empty() => None,
                Ok(lost) => Some(format!("was not kept: {}", lost.join(", "))),
                Err(Fault::Failed(why)) => Some(why),
                Err(Fault::Journal(error)) => return Err(error),
            };
            if let Some((_, _, troubles)) = &mut current {
                troubles.extend(trouble);
            }
            if let Some(saved) = &self.saved {
                saved.forget(number).map_err(io())?;
            }
        }
        self.end_undone(current)
    }

    fn end_undone(&mut self, undone: Option<(StepId, Instant, Vec<String>)>) -> Result<(), JournalError> {
        let Some((step, start, troubles)) = undone else {
            return Ok(());
        };
        // What follows its changes is to follow this one.
        self.notify(&step)?;
        let message = if troubles.is_empty() {
            "what it changed was taken back".to_owned()
        } else {
            format!("what it changed was taken back, but: {}", troubles.join("; "))
        };
        self.end(&step, start, Done::new(Outcome::Undone, message))?;
        self.journal.sync()
    }

    /// Takes back what one record is about; returns what was not kept of it.
    fn take_back(&mut self, record: &Record) -> Result<Vec<String>, Fault> {
        if record.command {
            self.take_back_by_command(record)?;
        }
        let setting = self.setting;
        let Some(saved) = &self.saved else {
            return Ok(Vec::new());
        };
        Ok(saved.put_back(&setting.root, setting.dir, &mut self.placed, record)?)
    }

    fn take_back_by_command(&mut self, record: &Record) -> Result<(), Fault> {
        let setting = self.setting;
        let step = setting.list.steps.iter().find(|step| step.id == record.step);
        let undo = step.and_then(|step| Some((step, step.undo.as_ref()?)));
        let Some((step, undo)) = undo.filter(|_| record.list == setting.digest) else {
            return Err(failed(
                "its undo is of a release that is not assigned any more, and was not run",
            ));
        };
        self.give_time(Duration::from_secs(step.timeout_seconds));
        let command = run::guard_command(self, undo, false)?;
        let left = self.time_left();
        let (journal, digest) = (&mut self.journal, setting.digest);
        let mut sink = |event| match event {
            Event::Spawned(process) => journal.append(Some(digest), None, Some(Fact::Spawned(process))),
            Event::Line(line) => {
                let step = step.id.clone();
                journal.append(Some(digest), Some(What::StepOutput { step, line }), None)
            }
        };
        let words = undo.join(" ");
        let undo = clip(&words);
        let ended = command::run(command, left, &mut sink).map_err(|error| match error {
            command::CommandError::Journal(error) => Fault::Journal(error),
            other => failed(format!("cannot run its undo `{undo}`: {other}")),
        })?;
        ended.ok(&format!("its undo `{undo}`"))?;
        // Assigned again, it is to be done again.
        if let Some(key) = run::once(setting.list, step, setting.root.path()) {
            self.journal
                .append(Some(setting.digest), None, Some(Fact::Forgot(key)))?;
        }
        Ok(())
    }

    /// Notes that all is taken back of a list, and how its steps ended in the end.
    fn undone(&mut self, list: Digest, mut recap: Recap, sequence: u64) -> Result<Recap, JournalError> {
        let state = self.journal.state();
        let failed = state.undoing.as_ref().and_then(|undoing| undoing.failed.clone());
        if let Some(run) = state.run.as_ref().filter(|run| run.list == list) {
            let undone = run.ended.iter().filter(|(step, outcome)| {
                // One that failed goes on to count as such.
                **outcome == Outcome::Undone && Some(*step) != failed.as_ref()
            });
            recap.undone = undone.count() as u32;
            recap.changed = recap.changed.saturating_sub(recap.undone);
        }
        let fact = Fact::Undone { recap, sequence };
        // Of the list that is assigned, the end is told when the one before it is restored.
        let over = (list != self.setting.digest).then_some(What::Executed { recap });
        self.journal.append(Some(list), over, Some(fact))?;
        self.journal.sync()?;
        Ok(recap)
    }
}

#[cfg(test)]
mod tests;
