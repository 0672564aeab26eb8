//! `archive`: unpacks an archive, unless the same one was unpacked to the same directory last.

use std::fs;

use potluck_model::Digest;
use potluck_model::list::{Entry, Step};
use potluck_model::plan::Forecast;
use potluck_model::trace::Outcome;

use super::Kind;
use crate::archive;
use crate::engine::{Done, Engine, Fault, failed};
use crate::place::Placement;
use crate::plan::Seen;
use crate::root::under_root;
use crate::state::{Fact, of_step};

pub(crate) struct Unpack<'a> {
    pub(crate) source: &'a str,
    pub(crate) dest: &'a str,
}

impl Kind for Unpack<'_> {
    fn plan(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Seen, Fault> {
        let (digest, _) = file_of(engine, self.source)?;
        Ok(if is_unpacked(engine, step, self.dest, digest) {
            Seen::new(Forecast::Unchanged, format!("it was unpacked to {} already", self.dest))
        } else {
            Seen::new(Forecast::Change, format!("unpacked {} to {}", self.source, self.dest))
        })
    }

    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault> {
        run(engine, step, self.source, self.dest)
    }
}

fn run(engine: &mut Engine<'_>, step: &Step, source: &str, dest: &str) -> Result<Done, Fault> {
    let setting = engine.setting;
    let (digest, size) = file_of(engine, source)?;
    let under = under_root(dest);
    if is_unpacked(engine, step, dest, digest) {
        return Ok(Done::new(
            Outcome::Unchanged,
            format!("it was unpacked to {dest} already"),
        ));
    }
    engine.about_to_change()?;
    let copy = engine
        .own_copy("archive", digest, size)
        .map_err(|fault| prefixed(source, fault))?;
    let file = fs::File::open(&copy).map_err(|error| failed(format!("cannot read the copy of {source}: {error}")))?;
    let mut placement = Placement::durable(&setting.root, setting.dir)?;
    let placed = archive::unpack(file, under, setting.root.is_machine(), &mut placement)
        .map_err(Fault::from)
        .and_then(|placed| {
            if !under.is_empty() {
                // An archive that holds nothing still has a place.
                placement.directory(under, 0o755)?;
            }
            placement.commit()?;
            Ok(placed)
        });
    engine.remove_own_copy();
    let placed = placed.map_err(|fault| prefixed(&format!("cannot unpack {source}"), fault))?;
    Ok(Done {
        fact: Some(Fact::Unpacked {
            dest: place_of(engine, dest),
            configuration: setting.list.configuration.clone(),
            step: step.id.clone(),
            archive: digest,
        }),
        ..Done::new(Outcome::Changed, format!("unpacked {placed} files to {dest}"))
    })
}

/// Digest and size of the archive.
fn file_of(engine: &Engine<'_>, source: &str) -> Result<(Digest, u64), Fault> {
    match engine.setting.list.entry(source) {
        Some(Entry::File { digest, size, .. }) => Ok((*digest, *size)),
        _ => Err(failed(format!("{source} is not a file of the list"))),
    }
}

/// Root and directory, as it is remembered.
fn place_of(engine: &Engine<'_>, dest: &str) -> String {
    let place = engine.setting.root.path().join(under_root(dest));
    place.to_string_lossy().into_owned()
}

/// Whether it is what was unpacked there last, and the place is still there.
fn is_unpacked(engine: &Engine<'_>, step: &Step, dest: &str, archive: Digest) -> bool {
    let setting = engine.setting;
    let by = of_step(&setting.list.configuration, &step.id);
    let here = engine.journal.state().unpacked.get(&place_of(engine, dest));
    here.and_then(|here| here.get(&by)) == Some(&archive) && setting.root.exists(under_root(dest)).unwrap_or(false)
}

fn prefixed(what: &str, fault: Fault) -> Fault {
    match fault {
        Fault::Failed(why) => failed(format!("{what}: {why}")),
        journal @ Fault::Journal(_) => journal,
    }
}
