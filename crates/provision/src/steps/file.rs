//! `file`: places a file, or all that is in a directory, and removes what an earlier release placed and nobody changed.
//!
//! A file is as it should be if its bytes, its mode, its kind and its owner are; else it is replaced as a whole. Directories that are
//! there already stay as they are. Either all of a step's files are replaced or, if one is bad or does not fit on the disk, none.

use std::collections::BTreeSet;

use potluck_model::list::{Action, Entry, List, Step};
use potluck_model::plan::{Diff, Forecast};
use potluck_model::trace::Outcome;

use super::purge::{Purge, Unwanted};
use super::stale::{Stale, remove, stale};
use super::{Kind, named};
use crate::diff;
use crate::engine::{Done, Engine, Fault, failed};
use crate::look::{Found, Look};
use crate::place::Placement;
use crate::placed::{Placed, Thing};
use crate::plan::Seen;
use crate::private::CopyError;
use crate::root::{join, under_root};

/// The definition of a step.
pub(crate) struct Placing<'a> {
    pub(crate) source: &'a str,
    pub(crate) dest: &'a str,
    pub(crate) mode: Option<u32>,
    pub(crate) keep: bool,
    pub(crate) purge: bool,
}

impl Kind for Placing<'_> {
    fn plan(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Seen, Fault> {
        let mut look = Look::new(&engine.setting.root);
        let state = State::find(engine, step, self, &mut look)?;
        let unwanted = match &state.purge {
            Some(purge) => self.unwanted(engine, purge, &state.targets)?,
            None => Vec::new(),
        };
        let purged: Vec<String> = unwanted.iter().map(|unwanted| format!("/{}", unwanted.path)).collect();
        let removed = state.stale.files(engine);
        let changes = state.changes();
        for target in &changes {
            if !matches!(target.entry, Entry::Directory { .. })
                && look.at(&target.path).is_ok_and(|found| found == Found::Directory)
            {
                return Err(failed(format!(
                    "cannot place /{}: a directory is in its place: remove it",
                    target.path
                )));
            }
        }
        let diffs = changes
            .iter()
            .filter_map(|target| diff_of(engine, &mut look, target, self.mode))
            .collect();
        Ok(Seen {
            forecast: if changes.is_empty() && removed.is_empty() && purged.is_empty() {
                Forecast::Unchanged
            } else {
                Forecast::Change
            },
            message: state.said(&removed, &purged),
            diffs,
        })
    }

    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault> {
        run(engine, step, self)
    }
}

impl Placing<'_> {
    /// What purging would remove.
    fn unwanted(&self, engine: &mut Engine<'_>, purge: &Purge, targets: &[Target<'_>]) -> Result<Vec<Unwanted>, Fault> {
        let list = engine.setting.list;
        let wanted = engine.wanted.get_or_insert_with(|| wanted(list));
        let dest = under_root(self.dest);
        let directories = targets.iter().filter_map(|target| match target.entry {
            Entry::Directory { .. } => target.path.strip_prefix(dest).map(|rest| rest.trim_start_matches('/')),
            _ => None,
        });
        purge
            .unwanted(dest, directories, wanted)
            .map_err(|error| failed(format!("cannot look what else is in {}: {error}", self.dest)))
    }
}

struct Target<'a> {
    /// Under the root.
    path: String,
    entry: &'a Entry,
}

/// What is, as far as it concerns a step.
struct State<'a> {
    targets: Vec<Target<'a>>,
    /// Those that are not as listed, by index.
    differing: BTreeSet<usize>,
    stale: Stale,
    /// The directory that is to be purged, if it is there already.
    purge: Option<Purge>,
}

impl<'a> State<'a> {
    fn find(engine: &mut Engine<'a>, step: &Step, placing: &Placing<'_>, look: &mut Look<'_>) -> Result<Self, Fault> {
        let targets = targets(engine.setting.list, placing);
        let mut differing = BTreeSet::new();
        for (index, target) in targets.iter().enumerate() {
            let same = is_as_listed(look, target, placing.mode)
                .map_err(|error| failed(format!("cannot look at /{}: {error}", target.path)))?;
            if !same {
                differing.insert(index);
            }
        }
        Ok(Self {
            stale: stale(engine, &step.id, placing.keep, look),
            purge: open_purge(engine, placing)?,
            targets,
            differing,
        })
    }

    fn changes(&self) -> Vec<&Target<'a>> {
        self.differing.iter().map(|index| &self.targets[*index]).collect()
    }

    /// What is changed, for people.
    fn said(&self, removed: &[String], purged: &[String]) -> String {
        let files = |targets: &mut dyn Iterator<Item = &Target<'_>>| {
            targets
                .filter(|target| !matches!(target.entry, Entry::Directory { .. }))
                .map(|target| format!("/{}", target.path))
                .collect::<Vec<_>>()
        };
        let mut said = Vec::new();
        if !self.differing.is_empty() {
            let placed = files(&mut self.changes().into_iter());
            let all = files(&mut self.targets.iter()).len();
            said.push(named(&format!("placed {} of {all} files", placed.len()), &placed));
        }
        said.extend(self.stale.said(removed));
        if !purged.is_empty() {
            let removed = format!("removed {} that the release does not have", purged.len());
            said.push(named(&removed, purged));
        }
        said.join("; ")
    }
}

fn open_purge(engine: &Engine<'_>, placing: &Placing<'_>) -> Result<Option<Purge>, Fault> {
    if !placing.purge {
        return Ok(None);
    }
    Purge::open(&engine.setting.root, under_root(placing.dest)).map_err(|error| {
        failed(format!(
            "cannot open {} to look what else is in it: {error}",
            placing.dest
        ))
    })
}

fn run(engine: &mut Engine<'_>, step: &Step, placing: &Placing<'_>) -> Result<Done, Fault> {
    let setting = engine.setting;
    let mut look = Look::new(&setting.root);
    let state = State::find(engine, step, placing, &mut look)?;
    if !(state.differing.is_empty() && state.stale.remove.is_empty()) {
        engine.about_to_change()?;
    }
    let changes = state.changes().into_iter().map(|target| target.path.clone());
    let same =
        state.targets.iter().enumerate().filter(|(index, target)| {
            !state.differing.contains(index) && !matches!(target.entry, Entry::Directory { .. })
        });
    engine.keep_with(
        &step.id,
        changes.chain(state.stale.remove.iter().cloned()),
        same.map(|(_, target)| target.path.clone()),
    )?;
    for (index, target) in state.targets.iter().enumerate() {
        let thing = match target.entry {
            Entry::File { digest, .. } => Thing::File(*digest),
            Entry::Link { target, .. } => Thing::Link(target.clone()),
            // One that was there before is not ours, unless it was.
            Entry::Directory { .. } => {
                let ours = engine.placed.files().get(&target.path);
                if state.differing.contains(&index) || ours.is_some_and(|placed| placed.thing == Thing::Directory) {
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
    if !state.differing.is_empty() {
        place(engine, &state.changes(), placing.mode)?;
    }
    for target in &state.targets {
        engine.placed.certain(&target.path);
    }
    let removed = remove(engine, &mut look, &state.stale)?;
    save(engine)?;
    let purged = purge(engine, step, placing, &state.targets)?;
    let outcome = if state.differing.is_empty() && removed.is_empty() && purged.is_empty() {
        Outcome::Unchanged
    } else {
        Outcome::Changed
    };
    Ok(Done::new(outcome, state.said(&removed, &purged)))
}

/// Removes what is in the directory and no step of the list places, if it is to be purged.
fn purge(
    engine: &mut Engine<'_>,
    step: &Step,
    placing: &Placing<'_>,
    targets: &[Target<'_>],
) -> Result<Vec<String>, Fault> {
    let Some(purge) = open_purge(engine, placing)? else {
        return Ok(Vec::new());
    };
    let unwanted = placing.unwanted(engine, &purge, targets)?;
    if !unwanted.is_empty() {
        engine.about_to_change()?;
        let mut paths = Vec::new();
        for unwanted in &unwanted {
            purge
                .below(unwanted, &mut paths)
                .map_err(|error| failed(format!("cannot look what is in /{}: {error}", unwanted.path)))?;
        }
        engine.keep(&step.id, paths.into_iter())?;
    }
    let mut purged = Vec::new();
    for unwanted in unwanted {
        purge
            .remove(&unwanted)
            .map_err(|error| failed(format!("cannot remove what else is in /{}: {error}", unwanted.path)))?;
        purged.push(format!("/{}", unwanted.path));
    }
    Ok(purged)
}

/// How a file would change.
fn diff_of(engine: &mut Engine<'_>, look: &mut Look<'_>, target: &Target<'_>, mode: Option<u32>) -> Option<Diff> {
    let Entry::File {
        mode: own,
        size,
        digest,
        ..
    } = target.entry
    else {
        return None;
    };
    let bytes = (*size <= diff::DIFF_BYTES_MAX).then(|| {
        let mut bytes = Vec::new();
        let copied = engine.contents.copy(*digest, *size, &mut bytes);
        copied.ok().map(|()| bytes)
    });
    let new = diff::Version {
        bytes: bytes.flatten(),
        mode: mode.unwrap_or(*own),
    };
    let path = format!("/{}", target.path);
    Some(diff::between(&path, look.version(&target.path).as_ref(), Some(&new)))
}

/// What a step places, parents before what is in them.
fn targets<'a>(list: &'a List, placing: &Placing<'_>) -> Vec<Target<'a>> {
    paths(list, placing.source, placing.dest)
        .map(|(path, entry)| Target { path, entry })
        .collect()
}

/// Paths under the root of what a step places, parents before what is in them.
pub(crate) fn paths<'a>(
    list: &'a List,
    source: &str,
    dest: &str,
) -> impl Iterator<Item = (String, &'a Entry)> + use<'a> {
    let (dest, len) = (under_root(dest).to_owned(), source.len());
    list.entries_under(source).map(move |entry| {
        let rest = entry.path()[len..].trim_start_matches('/');
        (join(&dest, rest), entry)
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

/// Every path that steps of the list place.
pub(super) fn wanted(list: &List) -> BTreeSet<String> {
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

pub(super) fn save(engine: &mut Engine<'_>) -> Result<(), Fault> {
    engine
        .placed
        .save()
        .map_err(|error| failed(format!("cannot note which files are placed (placed.json): {error}")))
}
