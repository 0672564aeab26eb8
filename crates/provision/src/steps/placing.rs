//! Places one file or link whose content is known here, for steps that make it themselves.

use std::io::Write;

use potluck_model::Digest;
use potluck_model::list::Step;
use potluck_model::trace::Outcome;

use super::file;
use crate::engine::{Done, Engine, Fault, failed};
use crate::look::{Found, Look};
use crate::place::Placement;
use crate::placed::{Placed, Thing};
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
        .map_err(|error| failed(format!("cannot look at {dest}: {error}")))?;
    let placed = Placed {
        configuration: setting.list.configuration.clone(),
        step: step.id.clone(),
        thing: wanted.thing(),
        before: None,
        keep,
    };
    engine.placed.intend(path, placed);
    file::save(engine)?;
    if !there {
        engine.about_to_change()?;
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
    let removed = file::remove_stale(engine, &step.id, keep, &mut look, &mut said)?;
    file::save(engine)?;
    let outcome = if there && !removed {
        Outcome::Unchanged
    } else {
        Outcome::Changed
    };
    Ok(Done::new(outcome, said.join("; ")))
}
