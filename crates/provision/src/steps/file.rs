//! `file`: places a file, or all that is in a directory, and removes what an earlier release placed and nobody changed.
//!
//! A file is as it should be if its bytes, its mode, its kind and its owner are; else it is replaced as a whole. Directories that are
//! there already stay as they are. Either all of a step's files are replaced or, if one is bad or does not fit on the disk, none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use potluck_model::StepId;
use potluck_model::list::{Action, Entry, List, Step};
use potluck_model::trace::{Outcome, What};

use crate::engine::{Done, Engine, Fault, failed};
use crate::journal::JournalError;
use crate::place::{Found, Look, Placement};
use crate::placed::{Placed, Thing};
use crate::private::CopyError;
use crate::root::{join, under_root};

/// Paths named in a message.
const NAMED_MAX: usize = 5;

/// The definition of a step.
pub(crate) struct Placing<'a> {
    pub(crate) source: &'a str,
    pub(crate) dest: &'a str,
    pub(crate) mode: Option<u32>,
    pub(crate) keep: bool,
}

struct Target<'a> {
    /// Under the root.
    path: String,
    entry: &'a Entry,
}

pub(crate) fn run(engine: &mut Engine<'_>, step: &Step, placing: &Placing<'_>) -> Result<Done, Fault> {
    let setting = engine.setting;
    let targets = targets(setting.list, placing);
    let mut look = Look::new(&setting.root);
    let mut changes = Vec::new();
    for target in &targets {
        let same = is_as_listed(&mut look, target, placing.mode)
            .map_err(|error| failed(format!("cannot look at /{}: {error}", target.path)))?;
        if !same {
            changes.push(target);
        }
    }
    let stale = stale(engine, &step.id, placing.keep, &mut look);
    if !(changes.is_empty() && stale.remove.is_empty()) {
        engine.about_to_change()?;
    }
    let changed: BTreeSet<&str> = changes.iter().map(|target| target.path.as_str()).collect();
    for target in &targets {
        let thing = match target.entry {
            Entry::File { digest, .. } => Thing::File(*digest),
            Entry::Link { target, .. } => Thing::Link(target.clone()),
            // One that was there before is not ours, unless it was.
            Entry::Directory { .. } => {
                let ours = engine.placed.files().get(&target.path);
                if changed.contains(target.path.as_str()) || ours.is_some_and(|placed| placed.thing == Thing::Directory)
                {
                    Thing::Directory
                } else {
                    continue;
                }
            }
        };
        let placed = Placed {
            configuration: setting.list.configuration.clone(),
            step: step.id.clone(),
            thing,
            before: None,
            keep: placing.keep,
        };
        engine.placed.intend(&target.path, placed);
    }
    save(engine)?;
    place(engine, &changes, placing.mode)?;
    for target in &targets {
        engine.placed.certain(&target.path);
    }
    let removed = remove(engine, &mut look, &stale)?;
    save(engine)?;

    let files = |targets: &mut dyn Iterator<Item = &Target<'_>>| {
        targets
            .filter(|target| !matches!(target.entry, Entry::Directory { .. }))
            .map(|target| format!("/{}", target.path))
            .collect::<Vec<_>>()
    };
    let placed = files(&mut changes.iter().copied());
    let mut said = Vec::new();
    if !changes.is_empty() {
        let all = files(&mut targets.iter()).len();
        said.push(named(&format!("placed {} of {all} files", placed.len()), &placed));
    }
    said.extend(stale.said(&removed));
    let outcome = if changes.is_empty() && removed.is_empty() {
        Outcome::Unchanged
    } else {
        Outcome::Changed
    };
    Ok(Done::new(outcome, said.join("; ")))
}

/// Removes what steps placed that this release does not have any more. They are reported under their old names.
pub(crate) fn remove_vanished(engine: &mut Engine<'_>) -> Result<Vec<Outcome>, JournalError> {
    let list = engine.setting.list;
    let present: BTreeMap<&StepId, bool> = list
        .steps
        .iter()
        .map(|step| (&step.id, matches!(step.action, Action::File { .. })))
        .collect();
    let vanished: BTreeSet<StepId> = engine
        .placed
        .files()
        .values()
        .filter(|placed| placed.configuration == list.configuration && present.get(&placed.step) != Some(&true))
        .map(|placed| placed.step.clone())
        .collect();
    let mut outcomes = Vec::new();
    for old in vanished {
        let start = Instant::now();
        let mut look = Look::new(&engine.setting.root);
        let stale = stale(engine, &old, false, &mut look);
        let nothing = stale.remove.is_empty() && stale.changed.is_empty();
        // A step of another kind may have the name now.
        let name = if present.contains_key(&old) {
            format!("{old}.removed").parse().unwrap_or_else(|_| old.clone())
        } else {
            old
        };
        if !nothing {
            engine.note(What::StepStarted { step: name.clone() }, None)?;
            engine.about_to_change()?;
        }
        let result = remove(engine, &mut look, &stale).and_then(|removed| {
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

/// What a step places, parents before what is in them.
fn targets<'a>(list: &'a List, placing: &Placing<'a>) -> Vec<Target<'a>> {
    paths(list, placing.source, placing.dest)
        .map(|(path, entry)| Target { path, entry })
        .collect()
}

/// Paths under the root of what a step places, parents before what is in them.
pub(crate) fn paths<'a>(
    list: &'a List,
    source: &'a str,
    dest: &'a str,
) -> impl Iterator<Item = (String, &'a Entry)> + use<'a> {
    list.entries_under(source).map(move |entry| {
        let rest = entry.path()[source.len()..].trim_start_matches('/');
        (join(under_root(dest), rest), entry)
    })
}

fn is_as_listed(look: &mut Look<'_>, target: &Target<'_>, mode: Option<u32>) -> std::io::Result<bool> {
    let wanted_mode = mode;
    Ok(match target.entry {
        Entry::Directory { .. } => look.is_directory(&target.path)?,
        Entry::Link { target: to, .. } => look.at(&target.path)? == Found::Link(to.clone()),
        Entry::File { mode, size, digest, .. } => match look.at(&target.path)? {
            Found::File {
                size: found,
                mode: found_mode,
                ours,
            } => {
                ours && found == *size
                    && found_mode == wanted_mode.unwrap_or(*mode)
                    && look.digest(&target.path) == Some(*digest)
            }
            _ => false,
        },
    })
}

fn place(engine: &mut Engine<'_>, changes: &[&Target<'_>], mode: Option<u32>) -> Result<(), Fault> {
    let mut placement = Placement::durable(&engine.setting.root, engine.setting.dir)?;
    let (contents, stage) = (&mut engine.contents, &mut engine.stage);
    let mut copies = Vec::new();
    for target in changes {
        let staged = match (target.entry, stage.as_mut()) {
            (Entry::File { mode: own, digest, .. }, Some(stage)) => {
                stage.take(contents, &target.path, *digest, mode.unwrap_or(*own))
            }
            _ => None,
        };
        match staged {
            Some(staged) => placement.adopt(&target.path, staged)?,
            None => copies.push(target),
        }
    }
    placement.announce(copies.iter().map(|target| target.path.as_str()))?;
    for target in copies {
        match target.entry {
            Entry::Directory { mode, .. } => {
                placement.directory(&target.path, *mode)?;
            }
            Entry::Link { target: to, .. } => placement.link(&target.path, to)?,
            Entry::File {
                path,
                mode: own,
                size,
                digest,
                ..
            } => placement.file::<CopyError>(&target.path, mode.unwrap_or(*own), |file| {
                contents
                    .copy(*digest, *size, file)
                    .map_err(|error| CopyError(format!("{path}: {error}; nothing was placed")))
            })?,
        }
    }
    placement.commit()?;
    Ok(())
}

/// What a step placed and is not listed any more.
#[derive(Default)]
struct Stale {
    /// As it was placed, deepest first.
    remove: Vec<String>,
    /// Changed by somebody: it stays.
    changed: Vec<String>,
    /// Not to be remembered.
    forget: Vec<String>,
}

impl Stale {
    fn said(&self, removed: &[String]) -> Vec<String> {
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
}

fn stale(engine: &mut Engine<'_>, step: &StepId, keep: bool, look: &mut Look<'_>) -> Stale {
    let list = engine.setting.list;
    let wanted = engine.wanted.get_or_insert_with(|| wanted(list));
    let mut stale = Stale::default();
    for (path, placed) in engine.placed.files().iter().rev() {
        if placed.configuration != list.configuration || placed.step != *step || wanted.contains(path) {
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

/// Every path that `file` steps of the list place.
fn wanted(list: &List) -> BTreeSet<String> {
    let mut wanted = BTreeSet::new();
    for step in &list.steps {
        if let Action::File {
            source,
            dest,
            mode,
            keep,
        } = &step.action
        {
            let placing = Placing {
                source,
                dest,
                mode: *mode,
                keep: *keep,
            };
            wanted.extend(targets(list, &placing).into_iter().map(|target| target.path));
        }
    }
    wanted
}

/// Returns what was really removed; a directory with other things in it stays.
fn remove(engine: &mut Engine<'_>, look: &mut Look<'_>, stale: &Stale) -> Result<Vec<String>, Fault> {
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

fn save(engine: &mut Engine<'_>) -> Result<(), Fault> {
    engine
        .placed
        .save()
        .map_err(|error| failed(format!("cannot note which files are placed (placed.json): {error}")))
}

fn named(what: &str, paths: &[String]) -> String {
    if paths.is_empty() {
        return what.to_owned();
    }
    let first = paths[..paths.len().min(NAMED_MAX)].join(", ");
    let more = if paths.len() > NAMED_MAX { ", …" } else { "" };
    format!("{what}: {first}{more}")
}
