//! What goes between the executing process and a shim: the order over a pipe, everything else as files in the shim's directory.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use potluck_model::list::Limits;
use serde::{Deserialize, Serialize};

use crate::command::Exit;
use crate::state::Process;

/// The version of `started.json`, `status.json` and `output` that this version writes and reads.
pub(super) const SHIM_FORMAT: u32 = 1;
/// The most bytes of an order.
const ORDER_BYTES_MAX: u64 = 16 << 20;
/// The most bytes of `started.json` or `status.json`.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A command, and what it may take.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    program: OsString,
    args: Vec<OsString>,
    /// All of its environment.
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    timeout_millis: u64,
    pub(super) limits: Option<Limits>,
    /// systemd runs here.
    pub(super) systemd: bool,
}

impl Order {
    /// `command` has a whole environment of its own: what was cleared is not seen from outside.
    pub(crate) fn new(command: &Command, timeout: Duration, limits: Option<&Limits>, systemd: bool) -> Self {
        let variables = command.get_envs();
        Self {
            program: command.get_program().to_owned(),
            args: command.get_args().map(ToOwned::to_owned).collect(),
            env: variables
                .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
                .collect(),
            dir: command.get_current_dir().map(ToOwned::to_owned),
            timeout_millis: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            limits: limits.copied(),
            systemd,
        }
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_millis)
    }

    /// The order, if it came whole: an executing process that died while it wrote has ordered nothing.
    pub(super) fn read(input: &mut impl BufRead) -> io::Result<Self> {
        let mut line = Vec::new();
        input.by_ref().take(ORDER_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&line)?)
    }
}

/// Written before the command is started: what to look for if the shim is gone.
#[derive(Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) format: u32,
    /// The shim's session.
    pub(super) process: Process,
    /// Control groups that are made for the command.
    pub(super) scopes: Vec<PathBuf>,
}

/// Written when all is over.
#[derive(Serialize, Deserialize)]
pub(super) struct Status {
    pub(super) format: u32,
    pub(super) end: End,
}

/// How it ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum End {
    /// The command ran.
    Ended {
        exit: Exit,
        /// The last line of its output that was not empty.
        last_line: String,
    },
    /// It could not be started.
    NotStarted {
        /// Of the operating system.
        code: Option<i32>,
        why: String,
    },
    /// It ran, but how it ended could not be found out.
    Lost { why: String },
}

/// A file of a shim, if it is there and whole.
pub(super) fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The names of a shim's files in its directory.
pub(super) mod name {
    pub(in crate::shim) const LOCK: &str = "lock";
    pub(in crate::shim) const STARTED: &str = "started.json";
    pub(in crate::shim) const STATUS: &str = "status.json";
    pub(in crate::shim) const OUTPUT: &str = "output";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_was_cut_off_is_none() {
        let mut command = Command::new("true");
        command.arg("x").env_clear().env("A", "1").current_dir("/tmp");
        let order = Order::new(&command, Duration::from_secs(3), None, false);
        let line = crate::job::to_line(&order).unwrap();
        for cut in 0..line.len() {
            assert!(Order::read(&mut &line[..cut]).is_err(), "{cut}");
        }
        let read = Order::read(&mut &line[..]).unwrap();
        assert_eq!(read.timeout(), Duration::from_secs(3));
        assert_eq!(format!("{:?}", read.command()), format!("{:?}", order.command()));
    }

    #[test]
    fn how_it_ended_is_written_as_it_always_was() {
        let status = Status {
            format: SHIM_FORMAT,
            end: End::Ended {
                exit: Exit::Code(3),
                last_line: "x".into(),
            },
        };
        assert_eq!(
            serde_json::to_string(&status).unwrap(),
            r#"{"format":1,"end":{"ended":{"exit":{"code":3},"last_line":"x"}}}"#
        );
    }
}
