//! Commands of steps in the care of a small process each, a *shim*, that outlives whoever started it: it knows how the command
//! ended and keeps what it printed, until somebody asks.
//!
//! A shim is this program again, with a session of its own. Its directory `shims/N` has `lock`, which is locked while the shim
//! lives; `started.json`, what to look for if it died; `output`, lines with their time; and `status.json`, how all ended.
//!
//! Guarantees: `status.json` is there whole or not at all, lasts once it is there, and only the shim that saw the end writes it.
//! From before the shim is started until it is gone, the lock is held: a command is never taken for ended that may yet begin.
//! A command has its time, and ends with all that it started when that is over, with or without an executing process.
//! Limit: if the shim itself is killed, how the command ended is not known.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use potluck_model::UnixMicros;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::fail;
use crate::journal::JournalError;
use crate::leftover;
use crate::scope;

mod keeper;
mod order;
mod output;

pub use keeper::shim_main;
pub(crate) use order::{End, Order};
use order::{Started, Status, name};
use output::Reader;

/// Where the directories of shims are.
const SHIMS: &str = "shims";
/// How often to look for new lines and the end.
const LOOK: Duration = Duration::from_millis(25);

/// A command in the care of a shim.
pub(crate) struct Shim {
    dir: PathBuf,
    /// None: an earlier executing process started it.
    child: Option<Child>,
    pidfd: Option<OwnedFd>,
}

/// Where shim `number` has its files.
fn place(dir: &Path, number: u64) -> PathBuf {
    dir.join(SHIMS).join(number.to_string())
}

impl Shim {
    /// Starts one and hands it the order; `number` was never used before. The command may not have begun when this returns.
    pub(crate) fn start(dir: &Path, number: u64, order: &Order) -> io::Result<Self> {
        let place = place(dir, number);
        remove(&place)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&place)?;
        fail::io("shim.lock")?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(place.join(name::LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let line = crate::job::to_line(order)?;
        let mut command = program(&place);
        let mut child = command.stdin(Stdio::piped()).stdout(lock).spawn()?;
        // It holds the lock, which is the shim's alone now.
        drop(command);
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok();
        fail::here("shim.order");
        let handed = child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(&line));
        if let Err(error) = handed {
            // It has not got all of it, and runs nothing.
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        fail::here("shim.ordered");
        Ok(Self {
            dir: place,
            child: Some(child),
            pidfd,
        })
    }

    /// One that an earlier executing process started, if it still lives or has noted how its command ended.
    pub(crate) fn find(dir: &Path, number: u64) -> Option<Self> {
        let shim = Self {
            dir: place(dir, number),
            child: None,
            pidfd: None,
        };
        (shim.dir.exists() && (shim.lives() || shim.end().is_some())).then_some(shim)
    }

    /// Passes on what the command prints, with the time, until it has ended. `None`: the shim is gone, and how it ended is not known.
    ///
    /// If `sink` fails, the command goes on.
    pub(crate) fn follow(
        &mut self,
        sink: &mut dyn FnMut(UnixMicros, String) -> Result<(), JournalError>,
    ) -> Result<Option<End>, JournalError> {
        let mut reader = Reader::new();
        loop {
            // In this order: what ended has printed all.
            let lives = self.lives();
            let end = self.end();
            self.pass_on(&mut reader, sink)?;
            if end.is_some() {
                fail::here("shim.seen");
                if let Some(child) = &mut self.child {
                    // It has nothing left to do but to end.
                    let _ = child.wait();
                }
                return Ok(end);
            }
            if !lives {
                return Ok(None);
            }
            self.wait();
        }
    }

    fn pass_on(
        &self,
        reader: &mut Reader,
        sink: &mut dyn FnMut(UnixMicros, String) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let path = self.dir.join(name::OUTPUT);
        loop {
            let printed = reader.poll(&path).map_err(JournalError::io(&path))?;
            if printed.is_empty() {
                return Ok(());
            }
            for line in printed {
                sink(line.at, line.line)?;
            }
        }
    }

    fn wait(&self) {
        let most = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(LOOK.subsec_nanos()),
        };
        match &self.pidfd {
            // Wakes early, or fails and is called again.
            Some(pidfd) => drop(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&most))),
            None => std::thread::sleep(LOOK),
        }
    }

    fn lives(&self) -> bool {
        let Ok(file) = File::open(self.dir.join(name::LOCK)) else {
            return false;
        };
        matches!(
            flock(&file, FlockOperation::NonBlockingLockShared),
            Err(Errno::WOULDBLOCK)
        )
    }

    fn end(&self) -> Option<End> {
        order::read::<Status>(&self.dir.join(name::STATUS)).map(|status| status.end)
    }
}

/// Whether a shim lives in `dir`: what its command uses must not be touched.
pub(crate) fn any_lives(dir: &Path) -> bool {
    let entries = fs::read_dir(dir.join(SHIMS)).into_iter().flatten().flatten();
    entries
        .map(|entry| Shim {
            dir: entry.path(),
            child: None,
            pidfd: None,
        })
        .any(|shim| shim.lives())
}

/// Kills what is left of a command whose shim is gone. True if there was anything.
pub(crate) fn end_left(dir: &Path, number: u64) -> io::Result<bool> {
    let Some(started) = order::read::<Started>(&place(dir, number).join(name::STARTED)) else {
        return Ok(false);
    };
    let mut any = false;
    for path in &started.scopes {
        any |= scope::end(path)?;
    }
    Ok(leftover::end_session(&started.process)? || any)
}

/// Gives back the room of all shims of steps that have ended, and removes control groups that nothing is in any more.
pub(crate) fn clean_up(dir: &Path) {
    let entries = fs::read_dir(dir.join(SHIMS)).into_iter().flatten().flatten();
    for entry in entries {
        let shim = Shim {
            dir: entry.path(),
            child: None,
            pidfd: None,
        };
        if !shim.lives() {
            // What cannot be removed now is removed by the next one.
            let _ = remove(&shim.dir);
        }
    }
    scope::remove_empty();
}

fn remove(place: &Path) -> io::Result<()> {
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// This program again, as it was when it was started, even if it has been replaced meanwhile.
fn program(place: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.env_clear();
    #[cfg(not(test))]
    std::os::unix::process::CommandExt::arg0(&mut command, "potluck-shim")
        .arg("shim")
        .arg("--dir")
        .arg(place);
    // In the unit tests' program a test is the shim.
    #[cfg(test)]
    command
        .args([
            "--exact",
            "shim::tests::stays_with_a_command_if_it_is_told_where",
            "--nocapture",
        ])
        .env(tests::PLACE, place);
    command
}

#[cfg(test)]
mod tests;
