//! The agent's end.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

use super::wire::{self, ANSWER_BYTES_MAX, Answer, Request};
use crate::executor::{Executor, ExecutorError};
use crate::job::{Job, Order};
use crate::tail::{Position, Record};

/// Has the keeper do what only it can do. Clones share the connection. Each call waits for the keeper, which does nothing
/// that takes long.
#[derive(Clone)]
pub struct Provisioner {
    stream: Arc<Mutex<UnixStream>>,
}

impl Provisioner {
    /// `stream` leads to a `Keeper`.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream: Arc::new(Mutex::new(stream)),
        }
    }

    /// Starts an executing process, and feeds it the job. Blocks until the job is taken.
    pub fn start(&self, job: &Job) -> Result<Executor, ExecutorError> {
        self.launch(&Order::Execute(job))
    }

    /// Has one find out whether what publishers have signed is believed. It executes nothing, and ends.
    pub fn verify(&self, job: &Job) -> Result<Executor, ExecutorError> {
        self.launch(&Order::Verify(job))
    }

    /// Starts one while the release is still being fetched (`Executor::stage`).
    pub fn stage(&self, job: &Job) -> Result<Executor, ExecutorError> {
        self.launch(&Order::Stage(job))
    }

    fn launch(&self, order: &Order<'_>) -> Result<Executor, ExecutorError> {
        match self.call(&Request::Start).map_err(ExecutorError::Keeper)? {
            (Answer::Started { process }, Some(pipe)) => Executor::kept(self.clone(), process, File::from(pipe), order),
            _ => Err(ExecutorError::Keeper(io::ErrorKind::InvalidData.into())),
        }
    }

    pub(crate) fn finished(&self, process: u32) -> io::Result<Option<ExitStatus>> {
        match self.call(&Request::Finished { process })?.0 {
            Answer::Finished { status } => Ok(status.map(ExitStatus::from_raw)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// What the journal has after `position`, as `Tail::poll` gives it, and the position after that.
    pub fn poll(&self, position: Position) -> io::Result<(Vec<Record>, Position)> {
        match self.call(&Request::Poll { position })?.0 {
            Answer::Records { records, position } => Ok((records, position)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Whether an executing process works, such as one from before the agent was restarted.
    pub fn running(&self) -> io::Result<bool> {
        match self.call(&Request::Running)?.0 {
            Answer::Running { running } => Ok(running),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// No further step starts, also of an executing process from before the agent was restarted.
    pub fn halt(&self) -> io::Result<()> {
        self.call(&Request::Halt).map(drop)
    }

    /// The end of what the last executing process said on stderr. Often empty.
    pub fn last_words(&self) -> String {
        match self.call(&Request::LastWords) {
            Ok((Answer::Words { words }, _)) => words,
            _ => String::new(),
        }
    }

    /// Removes what an executing process that died had copied ahead.
    pub fn discard_staged(&self) -> io::Result<()> {
        self.call(&Request::DiscardStaged).map(drop)
    }

    /// The machine is to be another node than before. Fails unless it was started with a join string.
    pub fn forget(&self) -> io::Result<()> {
        self.call(&Request::Forget).map(drop)
    }

    fn call(&self, request: &Request) -> io::Result<(Answer, Option<OwnedFd>)> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        wire::send(&stream, request, None)?;
        match wire::receive(&stream, ANSWER_BYTES_MAX)? {
            Some((Answer::Fault { why }, _)) => Err(io::Error::other(why)),
            Some(answer) => Ok(answer),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
