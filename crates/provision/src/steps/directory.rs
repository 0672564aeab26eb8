//! `directory`: makes sure that there is a directory, of this mode and owner. One that is no longer listed stays.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use potluck_model::list::Step;
use potluck_model::trace::Outcome;
use rustix::fs::{AtFlags, Gid, Mode, Uid};
use rustix::io::Errno;

use super::Kind;
use crate::accounts;
use crate::engine::{Done, Engine, Fault, failed};
use crate::place::Placement;
use crate::plan::Seen;
use crate::root::under_root;

/// Permission bits of a directory that is made and has no others.
const USUAL_MODE: u32 = 0o755;

pub(crate) struct Directory<'a> {
    pub(crate) dest: &'a str,
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<&'a str>,
    pub(crate) group: Option<&'a str>,
}

impl Kind for Directory<'_> {
    fn plan(&self, engine: &mut Engine<'_>, _: &Step) -> Result<Seen, Fault> {
        let dest = self.dest;
        let (owner, group) = self.belongs_to(engine)?;
        if !self.is_there(engine)? {
            return Ok(Seen::of_changes(&[format!("made {dest}")]));
        }
        let stat = self
            .open(engine)
            .and_then(|fd| rustix::fs::fstat(&fd).map_err(|error| self.cannot(error)))?;
        let mut said = Vec::new();
        if owner.is_some_and(|uid| uid != stat.st_uid) || group.is_some_and(|gid| gid != stat.st_gid) {
            said.push("changed its owner".to_owned());
        }
        if let Some(mode) = self.mode.filter(|mode| *mode != stat.st_mode & 0o7777) {
            said.push(format!("changed its mode from {:o} to {mode:o}", stat.st_mode & 0o7777));
        }
        Ok(Seen::of_changes(&said))
    }

    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault> {
        let dest = self.dest;
        let path = under_root(dest);
        let (owner, group) = self.belongs_to(engine)?;
        let setting = engine.setting;
        let mut said = Vec::new();
        if !self.is_there(engine)? {
            engine.about_to_change()?;
            engine.keep(&step.id, std::iter::once(path.to_owned()))?;
            let mut placement = Placement::durable(&setting.root, setting.dir)?;
            placement.directory(path, self.mode.unwrap_or(USUAL_MODE))?;
            placement.commit()?;
            said.push(format!("made {dest}"));
        }
        let io = |error| self.cannot(error);
        let fd = self.open(engine)?;
        let stat = rustix::fs::fstat(&fd).map_err(io)?;
        let owner = owner.filter(|uid| *uid != stat.st_uid);
        let group = group.filter(|gid| *gid != stat.st_gid);
        if owner.is_some() || group.is_some() {
            engine.about_to_change()?;
            let (uid, gid) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
            rustix::fs::chownat(fd.as_fd(), "", uid, gid, AtFlags::EMPTY_PATH).map_err(io)?;
            said.push("changed its owner".to_owned());
        }
        // A change of owner takes special bits away.
        let stat = rustix::fs::fstat(&fd).map_err(io)?;
        if let Some(mode) = self.mode.filter(|mode| *mode != stat.st_mode & 0o7777) {
            engine.about_to_change()?;
            // The descriptor is one of a path only: this names just what it stands for, and follows no link.
            let own = format!("/proc/self/fd/{}", fd.as_raw_fd());
            rustix::fs::chmod(own, Mode::from_raw_mode(mode)).map_err(io)?;
            said.push(format!("changed its mode from {:o} to {mode:o}", stat.st_mode & 0o7777));
        }
        let outcome = if said.is_empty() {
            Outcome::Unchanged
        } else {
            Outcome::Changed
        };
        Ok(Done::new(outcome, said.join("; ")))
    }
}

impl Directory<'_> {
    /// Numbers of the owner and the group that it is to have.
    fn belongs_to(&self, engine: &mut Engine<'_>) -> Result<(Option<u32>, Option<u32>), Fault> {
        let owner = match self.owner {
            Some(name) => Some(accounts::existing_user(engine, name)?.uid),
            None => None,
        };
        let group = match self.group {
            Some(name) => Some(accounts::existing_group(engine, name)?),
            None => None,
        };
        Ok((owner, group))
    }

    fn is_there(&self, engine: &Engine<'_>) -> Result<bool, Fault> {
        let there = engine.setting.root.exists(under_root(self.dest));
        there.map_err(|error| failed(format!("cannot look at {}: {error}", self.dest)))
    }

    fn open(&self, engine: &Engine<'_>) -> Result<OwnedFd, Fault> {
        let opened = engine.setting.root.directory(under_root(self.dest));
        opened.map_err(|error| failed(format!("{} is no directory that can be used: {error}", self.dest)))
    }

    fn cannot(&self, error: Errno) -> Fault {
        failed(format!("cannot see to the directory {}: {error}", self.dest))
    }
}
