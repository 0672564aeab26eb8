//! How the program ends: documented exit codes, and failures told to people.

use std::fmt::{self, Display};
use std::process::ExitCode;

/// Exit codes. Written down in `--help` and docs/operating.md; they do not change their meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Exit {
    /// What was asked for is done.
    Ok = 0,
    /// Something failed; the message says what.
    Failure = 1,
    /// `agent --once --detailed-exit-code`: converged, and something was changed; `plan --detailed-exit-code`: something would be.
    Changed = 2,
    /// `agent --once`: nothing is assigned to this node.
    Unassigned = 3,
    /// The management server cannot be reached.
    Unreachable = 4,
    /// `agent --once`: a step failed.
    StepFailed = 5,
    /// The command line is wrong.
    Usage = 64,
    /// What was given to read is wrong: a configuration, a file of settings, a join string, a data directory, a backup.
    Data = 65,
}

/// The table of exit codes, for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
   0  done; with agent --once: converged
   1  something failed, and the message says what
   2  agent --once --detailed-exit-code: converged, and something was changed
   3  agent --once: nothing is assigned to this node
   4  the management server cannot be reached
   5  agent --once: a step failed
  64  the command line is wrong
  65  what was to be read is wrong: a configuration, settings, a join string, a data directory, a backup";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed: what was being done, why it failed, what to do. Printed whole.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code that goes with it.
    pub(crate) exit: Exit,
    message: String,
    advice: Option<String>,
}

impl Failure {
    /// A failure with exit code 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Failure,
            message: message.into(),
            advice: None,
        }
    }

    /// The same, with another exit code.
    pub(crate) fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// The same, saying on a line of its own what to do.
    pub(crate) fn advice(self, advice: impl Into<String>) -> Self {
        Self {
            advice: Some(advice.into()),
            ..self
        }
    }

    /// The same, with what was being done before the message.
    pub(crate) fn while_doing(self, doing: impl Display) -> Self {
        Self {
            message: format!("{doing}: {}", self.message),
            ..self
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(advice) = &self.advice {
            write!(f, "\n{advice}")?;
        }
        Ok(())
    }
}

/// Says what was being done when an error came up, and keeps the whole chain of its sources.
pub(crate) trait Doing<T> {
    /// `doing` reads like `reading /etc/potluck/agent.toml`.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: std::error::Error> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format!("{}: {}", doing(), chain(&error))))
    }
}

/// An error and its sources on one line; a source that the text before it already ends with is not said twice.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_say_what_was_being_done_and_what_to_do() {
        let failure = Err::<(), _>(std::io::Error::other("disk on fire"))
            .doing(|| "reading /etc/x".into())
            .unwrap_err()
            .while_doing("publishing web")
            .advice("Put it out.");
        assert_eq!(
            failure.to_string(),
            "publishing web: reading /etc/x: disk on fire\nPut it out."
        );
    }

    #[test]
    fn every_exit_code_is_in_the_help() {
        for exit in [
            Exit::Ok,
            Exit::Failure,
            Exit::Changed,
            Exit::Unassigned,
            Exit::Unreachable,
            Exit::StepFailed,
            Exit::Usage,
            Exit::Data,
        ] {
            let code = format!("{:>4}  ", exit as u8);
            assert!(EXIT_CODES.lines().any(|line| line.starts_with(&code)), "{exit:?}");
        }
    }
}
