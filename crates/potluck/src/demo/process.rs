//! A process of the demo, that does not outlive it.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::tail;
use crate::exit::{Doing, Failure};

/// How long a process may take to start, and to end by itself.
const PATIENCE: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(3);

/// This program, started once more. It ends when its standard input closes: also when this process is killed.
pub(super) struct Program {
    name: String,
    log: PathBuf,
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Program {
    /// Starts it with `before`, a path, and `after` as arguments; what it logs goes to `log`.
    pub(super) fn start(
        name: &str,
        log: PathBuf,
        before: &[&str],
        path: &Path,
        after: &[&str],
    ) -> Result<Self, Failure> {
        let doing = || format!("starting {name}");
        let program = std::env::current_exe().doing(doing)?;
        let file = File::create(&log).doing(doing)?;
        let mut child = Command::new(program)
            .args(before)
            .arg(path)
            .args(after.iter().map(OsStr::new))
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .doing(doing)?;
        Ok(Self {
            name: name.to_owned(),
            log,
            stdin: child.stdin.take(),
            child,
        })
    }

    /// Waits for the first line that it prints: it is ready.
    pub(super) async fn first_line(&mut self) -> Result<(), Failure> {
        let Some(stdout) = self.child.stdout.take() else {
            return Ok(());
        };
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        match tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await {
            Ok(Ok(read)) if read > 0 => Ok(()),
            Ok(_) => Err(self.ended("did not start")),
            Err(_) => Err(self.ended(&format!("did not start within {} s", PATIENCE.as_secs()))),
        }
    }

    /// An error if it has ended, which it should not.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait().doing(|| format!("looking after {}", self.name))? {
            None => Ok(()),
            Some(status) => Err(self.ended(&format!("ended early, with {status}"))),
        }
    }

    fn ended(&self, how: &str) -> Failure {
        Failure::new(format!("{} {how}; the end of its log:\n{}", self.name, tail(&self.log)))
    }

    /// Lets it end by itself for a moment, then kills it.
    pub(super) async fn end(mut self) {
        drop(self.stdin.take());
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}
