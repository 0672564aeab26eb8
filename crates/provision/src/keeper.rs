//! The keeper: starts executing processes for an agent that may not do so itself, since it has no privileges.
//!
//! # Goals
//! The agent talks to the network and is the one that an attacker reaches first. All that it can ask of the keeper is in
//! `wire::Request`: to start the one program with the one directory and root that the keeper was given, to halt it, and to read
//! what it reports. What is executed, the executing process decides by itself, from signatures. The keeper opens no socket.
//!
//! # Non-goals
//! The keeper does not confine the executing process: steps may do what they need to.

mod client;
mod wire;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Child;

pub use client::Provisioner;
use wire::{Answer, REQUEST_BYTES_MAX, Request};

use crate::tail::Tail;
use crate::{executor, lock, stage};

/// Executing processes that have been started and whose end was not asked for, at most. One works at a time; others end soon.
const PROCESSES_MAX: usize = 4;

/// What the keeper does, whatever it is asked.
pub struct Keeper {
    /// The program that is started as `PROGRAM ARGS… --dir DIR`, which is to call `main`.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The directory of the executing process. Only the keeper's user may write there.
    pub dir: PathBuf,
    /// Whether the machine may become another node: only with a new join string, which is an operator's word.
    pub may_forget: bool,
}

/// What the keeper knows while it serves.
#[derive(Default)]
struct Running {
    children: Vec<Child>,
    /// The journal's reader, where the last poll left it.
    tail: Option<Tail>,
}

impl Keeper {
    /// Answers until the other end is closed. Executing processes live on after that.
    pub fn serve(&self, stream: &UnixStream) -> io::Result<()> {
        let mut running = Running::default();
        while let Some((request, _)) = wire::receive(stream, REQUEST_BYTES_MAX)? {
            let (answer, with) = self
                .answer(&request, &mut running)
                .unwrap_or_else(|why| (Answer::Fault { why }, None));
            wire::send(stream, &answer, with.as_ref().map(AsFd::as_fd))?;
        }
        Ok(())
    }

    fn answer(&self, request: &Request, running: &mut Running) -> Result<(Answer, Option<OwnedFd>), String> {
        let children = &mut running.children;
        let answer = match request {
            Request::Start => {
                children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
                if children.len() >= PROCESSES_MAX {
                    return Err(format!("{PROCESSES_MAX} executing processes have not ended yet"));
                }
                let args: Vec<_> = self.args.iter().map(OsString::as_os_str).collect();
                let (child, pipe) =
                    executor::launch(&self.program, &args, &self.dir).map_err(|error| error.to_string())?;
                let process = child.id();
                children.push(child);
                return Ok((Answer::Started { process }, Some(pipe)));
            }
            Request::Finished { process } => {
                let child = children.iter_mut().find(|child| child.id() == *process);
                let child = child.ok_or_else(|| format!("no executing process {process} was started"))?;
                let ended = child.try_wait().map_err(|error| error.to_string())?;
                if ended.is_some() {
                    children.retain(|child| child.id() != *process);
                }
                Answer::Finished {
                    status: ended.map(ExitStatusExt::into_raw),
                }
            }
            Request::Poll { position } => {
                let tail = match &mut running.tail {
                    Some(tail) if tail.position() == *position => tail,
                    tail => tail.insert(Tail::new(&self.dir, *position)),
                };
                let records = tail.poll().map_err(|error| error.to_string())?;
                Answer::Records {
                    records,
                    position: tail.position(),
                }
            }
            Request::Running => Answer::Running {
                running: lock::running(&self.dir),
            },
            Request::Halt => {
                executor::halt(&self.dir).map_err(|error| error.to_string())?;
                Answer::Done
            }
            Request::LastWords => Answer::Words {
                words: executor::last_words(&self.dir),
            },
            Request::DiscardStaged => {
                stage::discard_staged(&self.dir).map_err(|error| error.to_string())?;
                Answer::Done
            }
            Request::Forget => {
                if !self.may_forget {
                    return Err("this machine becomes another node only with a join string".into());
                }
                match fs::remove_file(self.dir.join("trust.json")) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.to_string()),
                    _ => Answer::Done,
                }
            }
        };
        Ok((answer, None))
    }
}
