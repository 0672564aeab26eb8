//! `link`: makes sure that there is a symbolic link.

use potluck_model::list::Step;

use super::Kind;
use super::placing::{Wanted, place};
use crate::engine::{Done, Engine, Fault};

pub(crate) struct Link<'a> {
    pub(crate) dest: &'a str,
    pub(crate) target: &'a str,
}

impl Kind for Link<'_> {
    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault> {
        place(engine, step, self.dest, &Wanted::Link(self.target), false)
    }
}
