//! Where a passphrase comes from: a file, the environment, or somebody at the terminal.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::exit::{Doing, Exit, Failure};

/// Variable that holds it.
const VARIABLE: &str = "POTLUCK_PASSPHRASE";
/// The most bytes of one.
const BYTES_MAX: u64 = 1_024;

/// Where it comes from.
#[derive(Debug, Clone)]
pub(super) struct Passphrase {
    file: Option<PathBuf>,
}

impl Passphrase {
    /// From `file` if it is given.
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { file }
    }

    /// The passphrase of a key that is there. `key` is for the question.
    pub(super) fn of(&self, key: &str) -> Result<String, Failure> {
        match self.given()? {
            Some(given) => Ok(given),
            None => ask(&format!("Passphrase of {key}: ")),
        }
    }

    /// One for a new key.
    pub(super) fn new_one(&self) -> Result<String, Failure> {
        if let Some(given) = self.given()? {
            return Ok(given);
        }
        let first = ask("Passphrase of the new key: ")?;
        if ask("The same again: ")? != first {
            return Err(Failure::new("making a key: the two passphrases differ").exit(Exit::Usage));
        }
        Ok(first)
    }

    fn given(&self) -> Result<Option<String>, Failure> {
        let text = match (&self.file, std::env::var(VARIABLE)) {
            (Some(file), _) => {
                let mut text = String::new();
                let read = File::open(file).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text));
                read.doing(|| format!("reading the passphrase from {}", file.display()))?;
                text
            }
            (None, Ok(text)) if !text.is_empty() => text,
            (None, _) => return Ok(None),
        };
        checked(&text).map(Some)
    }
}

fn checked(text: &str) -> Result<String, Failure> {
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(Failure::new("the passphrase is empty").exit(Exit::Usage));
    }
    Ok(text.to_owned())
}

/// Asks at the terminal, which shows nothing of what is typed.
fn ask(question: &str) -> Result<String, Failure> {
    let tty = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .map_err(|_| {
            Failure::new("the key is sealed with a passphrase, and there is no terminal to ask for it")
                .advice(format!("Give it with --passphrase-file FILE or in {VARIABLE}."))
        })?;
    let doing = || "asking for the passphrase".to_owned();
    (&tty).write_all(question.as_bytes()).doing(doing)?;
    let usual = tcgetattr(&tty).doing(doing)?;
    let mut silent = usual.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&tty, OptionalActions::Flush, &silent).doing(doing)?;
    let mut line = String::new();
    let read = BufReader::new((&tty).take(BYTES_MAX)).read_line(&mut line);
    tcsetattr(&tty, OptionalActions::Flush, &usual).doing(doing)?;
    (&tty).write_all(b"\n").doing(doing)?;
    read.doing(doing)?;
    checked(&line)
}
