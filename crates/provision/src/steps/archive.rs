//! `archive`: unpacks an archive, unless the same one was unpacked to the same directory last.

use std::fs;

use potluck_model::list::{Entry, Step};
use potluck_model::trace::Outcome;

use super::Kind;
use crate::archive;
use crate::engine::{Done, Engine, Fault, failed};
use crate::place::Placement;
use crate::root::under_root;
use crate::state::{Fact, of_step};

pub(crate) struct Unpack<'a> {
    pub(crate) source: &'a str,
    pub(crate) dest: &'a str,
}

impl Kind for Unpack<'_> {
    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault> {
        run(engine, step, self.source, self.dest)
    }
}

fn run(engine: &mut Engine<'_>, step: &Step, source: &str, dest: &str) -> Result<Done, Fault> {
    let setting = engine.setting;
    let Some(Entry::File { digest, size, .. }) = setting.list.entry(source) else {
        return Err(failed(format!("{source} is not a file of the list")));
    };
    let under = under_root(dest);
    let place = setting.root.path().join(under).to_string_lossy().into_owned();
    let by = of_step(&setting.list.configuration, &step.id);
    let last = engine
        .journal
        .state()
        .unpacked
        .get(&place)
        .and_then(|here| here.get(&by));
    if last == Some(digest) && setting.root.exists(under).unwrap_or(false) {
        return Ok(Done::new(
            Outcome::Unchanged,
            format!("it was unpacked to {dest} already"),
        ));
    }
    engine.about_to_change()?;
    let copy = engine
        .own_copy("archive", *digest, *size)
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
            dest: place,
            configuration: setting.list.configuration.clone(),
            step: step.id.clone(),
            archive: *digest,
        }),
        ..Done::new(Outcome::Changed, format!("unpacked {placed} files to {dest}"))
    })
}

fn prefixed(what: &str, fault: Fault) -> Fault {
    match fault {
        Fault::Failed(why) => failed(format!("{what}: {why}")),
        journal @ Fault::Journal(_) => journal,
    }
}
