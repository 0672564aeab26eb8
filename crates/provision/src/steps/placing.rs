//! Places one file or link whose content is known here, for steps that make it themselves.

use std::io::Write;

use potluck_model::Digest;
use potluck_model::list::Step;
use potluck_model::plan::Forecast;
use potluck_model::trace::Outcome;

use super::{file, stale};
use crate::diff::{self, Version};
use crate::engine::{Done, Engine, Fault, failed};
use crate::look::{Found, Look};
use crate::place::Placement;
use crate::placed::{Placed, Thing};
use crate::plan::Seen;
use crate::private::CopyError;
use crate::root::under_root;

/// What is to be at a place.
pub(crate) enum Wanted<'a> {
    File { bytes: &'a [u8], mode: u32 },
    Link(&'a str),
}

impl Wanted<'_> {
    fn thing(&self) -> Thing {
        match self {
            Self::File { bytes, .. } => Thing::File(Digest::of(bytes)),
            Self::Link(target) => Thing::Link((*target).to_owned()),
        }
    }

    fn is_there(&self, look: &mut Look<'_>, path: &str) -> std::io::Result<bool> {
        Ok(match (self, look.at(path)?) {
            (Self::Link(target), Found::Link(found)) => found == *target,
            (
                Self::File { bytes, mode },
                Found::File {
                    size,
                    mode: found,
                    ours,
                },
            ) => ours && found == *mode && size == bytes.len() as u64 && look.digest(path) == Some(Digest::of(bytes)),
            _ => false,
        })
    }
}

/// What `place` would do.
pub(crate) fn plan(
    engine: &mut Engine<'_>,
    step: &Step,
    dest: &str,
    wanted: &Wanted<'_>,
    keep: bool,
) -> Result<Seen, Fault> {
    let mut look = Look::new(&engine.setting.root);
    let path = under_root(dest);
    let there = wanted
        .is_there(&mut look, path)
        .map_err(|error| cannot_look(dest, &error))?;
    let stale = stale::stale(engine, &step.id, keep, &mut look);
    let removed = stale.files(engine);
    let mut said = Vec::new();
    let mut diffs = Vec::new();
    if !there {
        if look.at(path).is_ok_and(|found| found == Found::Directory) {
            return Err(failed(format!(
                "cannot place {dest}: a directory is in its place: remove it"
            )));
        }
        said.push(format!("placed {dest}"));
        if let Wanted::File { bytes, mode } = wanted {
            let new = Version {
                bytes: (bytes.len() as u64 <= diff::DIFF_BYTES_MAX).then(|| bytes.to_vec()),
                mode: *mode,
            };
            diffs.push(diff::between(dest, look.version(path).as_ref(), Some(&new)));
        }
    }
    said.extend(stale.said(&removed));
    Ok(Seen {
        forecast: if there && removed.is_empty() {
            Forecast::Unchanged
        } else {
            Forecast::Change
        },
        message: said.join("; "),
        diffs,
    })
}

fn cannot_look(dest: &str, error: &std::io::Error) -> Fault {
    failed(format!("cannot look at {dest}: {error}"))
}

/// Places it at `dest`, and removes what the step placed elsewhere in an earlier release.
pub(crate) fn place(
    engine: &mut Engine<'_>,
    step: &Step,
    dest: &str,
    wanted: &Wanted<'_>,
    keep: bool,
) -> Result<Done, Fault> {
    let setting = engine.setting;
    let path = under_root(dest);
    let mut look = Look::new(&setting.root);
    let there = wanted
        .is_there(&mut look, path)
        .map_err(|error| cannot_look(dest, &error))?;
    let placed = Placed {
        configuration: setting.list.configuration.clone(),
        step: step.id.clone(),
        thing: wanted.thing(),
        before: None,
        keep,
    };
    if !there {
        engine.about_to_change()?;
    }
    let itself = || std::iter::once(path.to_owned());
    engine.keep_with(&step.id, itself().filter(|_| !there), itself().filter(|_| there))?;
    engine.placed.intend(path, placed);
    file::save(engine)?;
    if !there {
        let mut placement = Placement::durable(&setting.root, setting.dir)?;
        match wanted {
            Wanted::Link(target) => placement.link(path, target)?,
            Wanted::File { bytes, mode } => placement.file::<CopyError>(path, *mode, |file| {
                file.write_all(bytes)
                    .map_err(|error| CopyError(format!("cannot write {dest}: {error}; nothing was placed")))
            })?,
        }
        placement.commit()?;
    }
    engine.placed.certain(path);
    let mut said = Vec::new();
    if !there {
        said.push(format!("placed {dest}"));
    }
    let removed = stale::remove_stale(engine, &step.id, keep, &mut look, &mut said)?;
    file::save(engine)?;
    let outcome = if there && !removed {
        Outcome::Unchanged
    } else {
        Outcome::Changed
    };
    Ok(Done::new(outcome, said.join("; ")))
}
