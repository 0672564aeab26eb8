//! `link`: makes sure that there is a symbolic link.

use potluck_model::list::Step;

use super::Kind;
use super::placing::{self, Wanted, place};
use crate::engine::{Done, Engine, Fault};
use crate::plan::Seen;

pub(crate) struct Link<'a> {
    pub(crate) dest: &'a str,
    pub(crate) target: &'a str,
}

impl Kind for Link<'_> {
    fn plan(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Seen, Fault> {
        placing::plan(engine, step, self.dest, &Wanted::Link(self.target), false)
    }

    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault> {
        place(engine, step, self.dest, &Wanted::Link(self.target), false)
    }
}
