//! What an earlier release placed and this one does not list any more: removed, if nobody changed it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use potluck_model::StepId;
use potluck_model::plan::{Forecast, PlannedStep};
use potluck_model::trace::{Outcome, What};

use super::file::{save, wanted};
use super::{named, sees_to_places};
use crate::engine::{Done, Engine, Fault, failed};
use crate::journal::JournalError;
use crate::look::{Found, Look};
use crate::placed::Thing;

/// What a step placed and is not listed any more.
#[derive(Default)]
pub(super) struct Stale {
    /// As it was placed, deepest first.
    pub(super) remove: Vec<String>,
    /// Changed by somebody: it stays.
    changed: Vec<String>,
    /// Not to be remembered.
    forget: Vec<String>,
}

impl Stale {
    pub(super) fn said(&self, removed: &[String]) -> Vec<String> {
        let mut said = Vec::new();
        if !removed.is_empty() {
            said.push(named(&format!("removed {} no longer listed", removed.len()), removed));
        }
        if !self.changed.is_empty() {
            let left = format!("left {} no longer listed that somebody changed", self.changed.len());
            said.push(named(&left, &self.changed));
        }
        said
    }

    /// What would be removed and told: directories that are empty then are not told of.
    pub(super) fn files(&self, engine: &Engine<'_>) -> Vec<String> {
        let is_file = |path: &&String| {
            let placed = engine.placed.files().get(*path);
            placed.is_none_or(|placed| placed.thing != Thing::Directory)
        };
        self.remove
            .iter()
            .filter(is_file)
            .map(|path| format!("/{path}"))
            .collect()
    }
}

pub(super) fn stale(engine: &mut Engine<'_>, step: &StepId, keep: bool, look: &mut Look<'_>) -> Stale {
    let list = engine.setting.list;
    let wanted = engine.wanted.get_or_insert_with(|| wanted(list));
    let mut stale = Stale::default();
    for (path, placed) in engine.placed.of_step(&list.configuration, step).rev() {
        if wanted.contains(path) {
            continue;
        }
        stale.forget.push(path.clone());
        if keep || placed.keep {
            continue;
        }
        let found = look.at(path).unwrap_or(Found::Other);
        let is = |thing: &Thing| match (thing, &found) {
            (Thing::Link(target), Found::Link(found)) => target == found,
            (Thing::Directory, Found::Directory) | (Thing::File(_), Found::File { .. }) => true,
            _ => false,
        };
        let unchanged = |thing: &Thing, look: &mut Look<'_>| match thing {
            Thing::File(digest) => is(thing) && look.digest(path) == Some(*digest),
            _ => is(thing),
        };
        if found == Found::Nothing {
            continue;
        }
        if unchanged(&placed.thing, look) || placed.before.as_ref().is_some_and(|thing| unchanged(thing, look)) {
            stale.remove.push(path.clone());
        } else {
            stale.changed.push(format!("/{path}"));
        }
    }
    stale
}

/// Returns what was really removed; a directory with other things in it stays.
pub(super) fn remove(engine: &mut Engine<'_>, look: &mut Look<'_>, stale: &Stale) -> Result<Vec<String>, Fault> {
    let mut removed = Vec::new();
    for path in &stale.remove {
        let directory = engine
            .placed
            .files()
            .get(path)
            .is_some_and(|placed| placed.thing == Thing::Directory);
        let gone = if directory {
            look.remove_empty(path)
        } else {
            look.remove(path)
        };
        if gone.map_err(|error| failed(format!("cannot remove /{path}, which is no longer listed: {error}")))?
            && !directory
        {
            removed.push(format!("/{path}"));
        }
    }
    for path in &stale.forget {
        engine.placed.forget(path);
    }
    Ok(removed)
}

/// Removes what a step placed at other places in an earlier release, and says so; true if anything was.
pub(crate) fn remove_stale(
    engine: &mut Engine<'_>,
    step: &StepId,
    keep: bool,
    look: &mut Look<'_>,
    said: &mut Vec<String>,
) -> Result<bool, Fault> {
    let stale = stale(engine, step, keep, look);
    if !stale.remove.is_empty() {
        engine.about_to_change()?;
        engine.keep(step, stale.remove.iter().cloned())?;
    }
    let removed = remove(engine, look, &stale)?;
    said.extend(stale.said(&removed));
    Ok(!removed.is_empty())
}

/// Removes what steps placed that this release does not have any more. They are reported under their old names.
pub(crate) fn remove_vanished(engine: &mut Engine<'_>) -> Result<Vec<Outcome>, JournalError> {
    let mut outcomes = Vec::new();
    for (old, name) in vanished(engine) {
        let start = Instant::now();
        let mut look = Look::new(&engine.setting.root);
        let stale = stale(engine, &old, false, &mut look);
        let nothing = stale.remove.is_empty() && stale.changed.is_empty();
        if !nothing {
            engine.note(What::StepStarted { step: name.clone() }, None)?;
            engine.about_to_change()?;
        }
        let kept = if stale.remove.is_empty() {
            Ok(())
        } else {
            engine.keep(&name, stale.remove.iter().cloned())
        };
        let result = kept
            .and_then(|()| remove(engine, &mut look, &stale))
            .and_then(|removed| {
                save(engine)?;
                let outcome = if removed.is_empty() {
                    Outcome::Unchanged
                } else {
                    Outcome::Changed
                };
                Ok(Done::new(outcome, stale.said(&removed).join("; ")))
            });
        let done = match result {
            Ok(_) if nothing => continue,
            Ok(done) => done,
            Err(Fault::Failed(message)) => Done::new(Outcome::Failed, message),
            Err(Fault::Journal(error)) => return Err(error),
        };
        outcomes.push(engine.end(&name, start, done)?);
    }
    Ok(outcomes)
}

/// Steps that placed something which is still known, and that the release does not have any more; each with the name under
/// which it is reported.
fn vanished(engine: &Engine<'_>) -> Vec<(StepId, StepId)> {
    let list = engine.setting.list;
    let present: BTreeMap<&StepId, bool> = list
        .steps
        .iter()
        .map(|step| (&step.id, sees_to_places(&step.action)))
        .collect();
    let vanished: BTreeSet<&StepId> = engine
        .placed
        .files()
        .values()
        .filter(|placed| placed.configuration == list.configuration && present.get(&placed.step) != Some(&true))
        .map(|placed| &placed.step)
        .collect();
    let named = |old: &StepId| {
        // A step of another kind may have the name now.
        if present.contains_key(old) {
            format!("{old}.removed").parse().unwrap_or_else(|_| old.clone())
        } else {
            old.clone()
        }
    };
    vanished.into_iter().map(|old| (old.clone(), named(old))).collect()
}

/// What `remove_vanished` would do.
pub(crate) fn plan_vanished(engine: &mut Engine<'_>) -> Vec<PlannedStep> {
    let mut planned = Vec::new();
    for (old, name) in vanished(engine) {
        let mut look = Look::new(&engine.setting.root);
        let stale = stale(engine, &old, false, &mut look);
        if stale.remove.is_empty() && stale.changed.is_empty() {
            continue;
        }
        let files = stale.files(engine);
        planned.push(PlannedStep {
            step: name,
            forecast: if files.is_empty() {
                Forecast::Unchanged
            } else {
                Forecast::Change
            },
            message: stale.said(&files).join("; "),
            diffs: Vec::new(),
        });
    }
    planned
}
