//! `file`: places a file, or all that is in a directory, and removes what an earlier release placed and nobody changed.
//!
//! A file is as it should be if its bytes, its mode, its kind and its owner are; else it is replaced as a whole. Directories that are
//! there already stay as they are. Either all of a step's files are replaced or, if one is bad or does not fit on the disk, none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use potluck_model::StepId;
use potluck_model::list::{Action, Entry, List, Step};
use potluck_model::trace::{Outcome, What};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::{Kind, sees_to_places};
use crate::engine::{Done, Engine, Fault, failed};
use crate::journal::JournalError;
use crate::look::{Found, Look};
use crate::place::Placement;
use crate::placed::{Placed, Thing};
use crate::private::CopyError;
use crate::root::{MachineRoot, join, under_root};

/// Paths named in a message.
const NAMED_MAX: usize = 5;
/// How deep directories that are purged may be nested.
const PURGE_DEPTH_MAX: usize = 256;

/// The definition of a step.
pub(crate) struct Placing<'a> {
    pub(crate) source: &'a str,
    pub(crate) dest: &'a str,
    pub(crate) mode: Option<u32>,
    pub(crate) keep: bool,
    pub(crate) purge: bool,
}

impl Kind for Placing<'_> {
    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault> {
        run(engine, step, self)
    }
}

struct Target<'a> {
    /// Under the root.
    path: String,
    entry: &'a Entry,
}

fn run(engine: &mut Engine<'_>, step: &Step, placing: &Placing<'_>) -> Result<Done, Fault> {
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
    let purged = if placing.purge {
        purge(engine, placing, &targets)?
    } else {
        Vec::new()
    };

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
    if !purged.is_empty() {
        said.push(named(
            &format!("removed {} that the release does not have", purged.len()),
            &purged,
        ));
    }
    let outcome = if changes.is_empty() && removed.is_empty() && purged.is_empty() {
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
        .map(|step| (&step.id, sees_to_places(&step.action)))
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

/// Every path that steps of the list place.
fn wanted(list: &List) -> BTreeSet<String> {
    let mut wanted = BTreeSet::new();
    for step in &list.steps {
        match &step.action {
            Action::File {
                source,
                dest,
                mode,
                keep,
                purge,
            } => {
                let placing = Placing {
                    source,
                    dest,
                    mode: *mode,
                    keep: *keep,
                    purge: *purge,
                };
                wanted.extend(targets(list, &placing).into_iter().map(|target| target.path));
            }
            Action::Template { dest, .. } | Action::Link { dest, .. } | Action::Directory { dest, .. } => {
                wanted.insert(under_root(dest).to_owned());
            }
            _ => {}
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
    }
    let removed = remove(engine, look, &stale)?;
    said.extend(stale.said(&removed));
    Ok(!removed.is_empty())
}

/// Removes what is in the directory and no step of the list places. Links are removed and not followed.
fn purge(engine: &mut Engine<'_>, placing: &Placing<'_>, targets: &[Target<'_>]) -> Result<Vec<String>, Fault> {
    let setting = engine.setting;
    let wanted = engine.wanted.get_or_insert_with(|| wanted(setting.list)).clone();
    let fault = |path: &str, error: std::io::Error| failed(format!("cannot remove what else is in /{path}: {error}"));
    let mut unwanted = Vec::new();
    for target in targets {
        let directory = matches!(target.entry, Entry::Directory { .. });
        if !directory || !is_under_dest(&target.path, placing.dest) {
            continue;
        }
        let names = entries(&setting.root, &target.path).map_err(|error| fault(&target.path, error))?;
        for (name, is_directory) in names {
            let path = join(&target.path, &name);
            // What another step places may lie deeper.
            let below = format!("{path}/");
            let holds_wanted = wanted
                .range(below.clone()..)
                .next()
                .is_some_and(|next| next.starts_with(&below));
            if !wanted.contains(&path) && !holds_wanted {
                unwanted.push((path, is_directory));
            }
        }
    }
    if !unwanted.is_empty() {
        engine.about_to_change()?;
    }
    let mut look = Look::new(&setting.root);
    let mut purged = Vec::new();
    for (path, is_directory) in unwanted {
        if is_directory {
            remove_all(&setting.root, &path, &mut look, 0).map_err(|error| fault(&path, error))?;
        } else {
            look.remove(&path).map_err(|error| fault(&path, error))?;
        }
        purged.push(format!("/{path}"));
    }
    Ok(purged)
}

fn is_under_dest(path: &str, dest: &str) -> bool {
    potluck_model::list::is_under(path, under_root(dest))
}

/// The names in a directory, and whether each is a directory itself. Names that are not UTF-8 are left alone.
fn entries(root: &MachineRoot, path: &str) -> std::io::Result<Vec<(String, bool)>> {
    let fd = root.directory(path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(fd, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&readable)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name != "." && name != ".." {
            let stat = rustix::fs::statat(&readable, name, AtFlags::SYMLINK_NOFOLLOW)?;
            names.push((
                name.to_owned(),
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            ));
        }
    }
    names.sort();
    Ok(names)
}

/// Removes a directory with all that is in it.
fn remove_all(root: &MachineRoot, path: &str, look: &mut Look<'_>, depth: usize) -> std::io::Result<()> {
    if depth > PURGE_DEPTH_MAX {
        return Err(std::io::Error::other(format!(
            "it is nested deeper than {PURGE_DEPTH_MAX}"
        )));
    }
    for (name, is_directory) in entries(root, path)? {
        let below = join(path, &name);
        if is_directory {
            remove_all(root, &below, look, depth + 1)?;
        } else {
            look.remove(&below)?;
        }
    }
    look.remove_empty(path).map(drop)
}

pub(super) fn save(engine: &mut Engine<'_>) -> Result<(), Fault> {
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
