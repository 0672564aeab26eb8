//! The agent's side of the executing process: start it, stop it from starting more, know how the last run ended.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use potluck_model::join::JOIN_VARIABLE;
use potluck_model::trace::Recap;
use potluck_model::{ConfigurationName, Digest, UnixMicros};

use crate::job::{self, Arrival, Control, Job, Order};
use crate::journal::{self, JournalError};
use crate::keeper::Provisioner;

/// Bytes of the log that `last_words` returns at most.
const LAST_WORDS_BYTES_MAX: u64 = 2_000;
/// How often the keeper is asked whether a process has ended that should end soon.
const WAIT: Duration = Duration::from_millis(10);

/// Why the executing process could not be started or spoken to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// Its directory cannot be used.
    #[error("cannot use {path} for executing: {source}")]
    Dir {
        /// The directory or a file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program does not start.
    #[error("cannot start {program} to execute steps: {source}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not take its job.
    #[error("cannot hand the job to the executing process: {0}")]
    Pipe(io::Error),
    /// The keeper does not do as it is asked.
    #[error("cannot have the executing process started: {0}")]
    Keeper(io::Error),
}

/// A running executing process. Dropping this leaves it running: it is found again with `running` and `Tail`.
pub struct Executor {
    process: Process,
    pipe: Option<File>,
}

enum Process {
    /// This process's own child.
    Own { child: Child, dir: PathBuf },
    /// The keeper's.
    Kept { keeper: Provisioner, id: u32 },
}

/// What is known of the last run in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RunState {
    /// It was begun and is either running or was cut off.
    Unfinished,
    /// It is over.
    Finished(Recap),
}

/// The last run in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LastRun {
    /// Digest of the list.
    pub list: Digest,
    /// Its configuration.
    pub configuration: ConfigurationName,
    /// Its release.
    pub release: u64,
    /// When the run began; a run that was cut off and taken up again began once.
    pub started: UnixMicros,
    /// How far it came.
    pub state: RunState,
}

impl LastRun {
    /// Whether the run is over.
    pub fn finished(&self) -> bool {
        self.recap().is_some()
    }

    /// How its steps ended, if it is over.
    pub fn recap(&self) -> Option<Recap> {
        match self.state {
            RunState::Unfinished => None,
            RunState::Finished(recap) => Some(recap),
        }
    }
}

/// The last run in `dir`; none if nothing was ever executed there. Can be called while it runs.
pub fn state(dir: &Path) -> Result<Option<LastRun>, JournalError> {
    let (_, state, _) = journal::load(dir)?;
    Ok(state.run.map(|run| LastRun {
        list: run.list,
        configuration: run.configuration,
        release: run.release,
        started: run.started,
        state: run.recap.map_or(RunState::Unfinished, RunState::Finished),
    }))
}

impl Executor {
    /// Runs `program ARGS… --dir DIR`, which is to call `main`, and feeds it the job. Blocks until the job is taken.
    ///
    /// It gets a session of its own and outlives this process. What it says on stderr goes to `DIR/log`.
    pub fn start(program: &Path, args: &[&OsStr], dir: &Path, job: &Job) -> Result<Self, ExecutorError> {
        Self::spawn(program, args, dir, &Order::Execute(job))
    }

    /// Runs it as `start` does while the release is still being fetched: what arrives of it is copied and verified, and nothing
    /// is changed before `execute`. It ends with this process unless it is told to execute.
    pub fn stage(program: &Path, args: &[&OsStr], dir: &Path, job: &Job) -> Result<Self, ExecutorError> {
        Self::spawn(program, args, dir, &Order::Stage(job))
    }

    fn spawn(program: &Path, args: &[&OsStr], dir: &Path, order: &Order<'_>) -> Result<Self, ExecutorError> {
        let (child, pipe) = launch(program, args, dir)?;
        let dir = dir.to_owned();
        Self::begin(Process::Own { child, dir }, pipe.into(), order)
    }

    /// One that the keeper has started.
    pub(crate) fn kept(keeper: Provisioner, id: u32, pipe: File, order: &Order<'_>) -> Result<Self, ExecutorError> {
        Self::begin(Process::Kept { keeper, id }, pipe, order)
    }

    fn begin(process: Process, pipe: File, order: &Order<'_>) -> Result<Self, ExecutorError> {
        let line = job::to_line(order).map_err(ExecutorError::Pipe)?;
        let mut executor = Self {
            process,
            pipe: Some(pipe),
        };
        executor.write(&line)?;
        Ok(executor)
    }

    /// Tells of contents, or parts of them, that have been stored; for after `stage`. Blocks until that is taken.
    pub fn arrived(&mut self, arrivals: &[Arrival]) -> Result<(), ExecutorError> {
        let line = job::to_line(&Order::Arrived(arrivals)).map_err(ExecutorError::Pipe)?;
        self.write(&line)
    }

    /// Everything of the release is stored: executes it; for after `stage`. The job need not name contents that it was told
    /// of as whole.
    pub fn execute(&mut self, job: &Job) -> Result<(), ExecutorError> {
        let line = job::to_line(&Order::Execute(job)).map_err(ExecutorError::Pipe)?;
        self.write(&line)
    }

    fn write(&mut self, line: &[u8]) -> Result<(), ExecutorError> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        match pipe.write_all(line) {
            // It ended already; how is seen by `finished`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(ExecutorError::Pipe),
        }
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        match &self.process {
            Process::Own { child, .. } => child.id(),
            Process::Kept { id, .. } => *id,
        }
    }

    /// No further step starts; the one that runs is finished.
    pub fn halt(&mut self) -> Result<(), ExecutorError> {
        match &self.process {
            Process::Own { dir, .. } => halt(dir)?,
            Process::Kept { keeper, .. } => keeper.halt().map_err(ExecutorError::Keeper)?,
        }
        let line = job::to_line(&Control { halt: true }).map_err(ExecutorError::Pipe)?;
        self.write(&line)
    }

    /// How it ended, if it has: success means that the run is over (its records say how), anything else that it was refused
    /// or cut off. Does not wait.
    pub fn finished(&mut self) -> io::Result<Option<ExitStatus>> {
        match &mut self.process {
            Process::Own { child, .. } => child.try_wait(),
            Process::Kept { keeper, id } => keeper.finished(*id),
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.pipe = None;
        if let Process::Own { child, .. } = &mut self.process {
            return child.wait();
        }
        loop {
            if let Some(status) = self.finished()? {
                return Ok(status);
            }
            std::thread::sleep(WAIT);
        }
    }
}

/// Starts `program ARGS… --dir DIR`, and gives the pipe that is its stdin.
pub(crate) fn launch(program: &Path, args: &[&OsStr], dir: &Path) -> Result<(Child, OwnedFd), ExecutorError> {
    let dir_error = |source| ExecutorError::Dir {
        path: dir.to_owned(),
        source,
    };
    fs::create_dir_all(dir).map_err(dir_error)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(dir_error)?;
    let log = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(dir.join("log"))
        .map_err(dir_error)?;
    let mut child = Command::new(program)
        .args(args)
        .arg("--dir")
        .arg(dir)
        // A secret that is none of the steps' business.
        .env_remove(JOIN_VARIABLE)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|source| ExecutorError::Start {
            program: program.to_owned(),
            source,
        })?;
    let pipe = child
        .stdin
        .take()
        .ok_or_else(|| ExecutorError::Pipe(io::ErrorKind::BrokenPipe.into()))?;
    Ok((child, pipe.into()))
}

/// Halts the executing process in `dir`, also one from before the agent was restarted, whose pipe is gone.
pub fn halt(dir: &Path) -> Result<(), ExecutorError> {
    let path = halt_path(dir);
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map(drop)
        .map_err(|source| ExecutorError::Dir { path, source })
}

pub(crate) fn halt_path(dir: &Path) -> PathBuf {
    dir.join("halt")
}

/// The end of what the last executing process in `dir` said on stderr: why it ended without a record. Often empty.
pub fn last_words(dir: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = fs::File::open(dir.join("log"))?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(LAST_WORDS_BYTES_MAX)))?;
        let mut bytes = Vec::new();
        file.take(LAST_WORDS_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_default()
}
