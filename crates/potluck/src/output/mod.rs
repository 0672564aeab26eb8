//! What people see on stdout and stderr, and what programs read.

mod progress;
mod table;
mod text;

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::exit::Failure;

pub(crate) use progress::Progress;
pub(crate) use table::{Column, Table};
pub(crate) use text::{ago, bytes, clean, clock, count, span, stamp};

/// Whether and how output is coloured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Style {
    colours: bool,
}

/// What a piece of text means; on a terminal, its colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Tone {
    /// Nothing in particular.
    #[default]
    Plain,
    /// A heading.
    Strong,
    /// Less important.
    Dim,
    /// All is well.
    Good,
    /// Under way.
    Busy,
    /// Needs attention.
    Bad,
}

impl Style {
    /// Without colours, for snapshots.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { colours: false };

    /// Colours only on a terminal, and not if `NO_COLOR` is set (<https://no-color.org>) or `TERM` is `dumb`.
    pub(crate) fn of_stdout() -> Self {
        Self {
            colours: std::io::stdout().is_terminal() && colours_are_wanted(),
        }
    }

    /// The same for stderr.
    pub(crate) fn of_stderr() -> Self {
        Self {
            colours: std::io::stderr().is_terminal() && colours_are_wanted(),
        }
    }

    /// `text` in the colour of its tone.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            _ if !self.colours => return text.to_owned(),
            Tone::Strong => "1",
            Tone::Dim => "2",
            Tone::Good => "32",
            Tone::Busy => "33",
            Tone::Bad => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// What the environment says about colours.
pub(crate) fn colours_are_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Where a command's result goes: one JSON document, or text for people.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// `--json`.
    pub(crate) json: bool,
    /// Colours of the text.
    pub(crate) style: Style,
    /// `--quiet`: no progress, no notes.
    pub(crate) quiet: bool,
}

impl Output {
    /// Prints `document` with `--json`, else what `text` makes of it.
    pub(crate) fn result<T: Serialize>(self, document: &T, text: impl FnOnce(Style) -> String) -> Result<(), Failure> {
        if self.json {
            Self::document(document)
        } else {
            let mut text = text(self.style);
            if !text.ends_with('\n') {
                text.push('\n');
            }
            print(text.as_bytes())
        }
    }

    /// Prints one JSON document.
    fn document<T: Serialize>(document: &T) -> Result<(), Failure> {
        let mut bytes = serde_json::to_vec_pretty(document)
            .map_err(|error| Failure::new(format!("writing the result as JSON: {error}")))?;
        bytes.push(b'\n');
        print(&bytes)
    }

    /// A line for people on stderr, beside the result.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }

    /// A line that shows what is going on, if somebody watches.
    pub(crate) fn progress(self) -> Progress {
        Progress::new(!self.quiet && !self.json && std::io::stderr().is_terminal())
    }
}

/// Writes to stdout. A reader that went away (`potluck nodes | head`) is no failure.
pub(crate) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("writing to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colours_text_stays_as_it_is() {
        assert_eq!(Style::PLAIN.paint(Tone::Bad, "failed"), "failed");
        assert_eq!(
            Style { colours: true }.paint(Tone::Bad, "failed"),
            "\x1b[31mfailed\x1b[0m"
        );
    }
}
