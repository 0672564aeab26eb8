//! `potluck new`: a first `configuration.toml` for a directory.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use potluck_model::configuration::{CONFIGURATION_FILE, Start};
use serde::Serialize;

use crate::exit::{Doing, Exit, Failure};
use crate::output::{Output, count};
use crate::publish;

/// Writes a first configuration.toml for a directory, guessed from what lies there
///
/// Each guess is explained, here and in the file. Nothing else is written, and a configuration.toml
/// that is there already is not replaced.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck new ./web-edge
  potluck new ./web-edge --print        only shows it"
)]
pub(crate) struct Args {
    /// The directory with the scripts, packages, archives, playbooks and files
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Print the configuration.toml instead of writing it
    #[arg(long)]
    print: bool,
}

/// What was written, and why.
#[derive(Debug, Serialize)]
struct Written {
    /// The file; none: it was only printed.
    file: Option<PathBuf>,
    /// Its text.
    text: String,
    /// Entries, and what they were taken for.
    guesses: Vec<(String, String)>,
    /// Entries of which nothing could be guessed.
    unused: Vec<String>,
}

pub(crate) fn run(args: &Args, output: Output) -> Result<Exit, Failure> {
    let Start { text, guesses, unused } = publish::start(&args.directory)?;
    if guesses.is_empty() {
        return Err(Failure::new(format!(
            "nothing that lies in {} says what is to be done with it",
            args.directory.display()
        ))
        .advice("docs/configuration.md describes how to write a configuration.toml.")
        .exit(Exit::Data));
    }
    let path = args.directory.join(CONFIGURATION_FILE);
    let file = if args.print {
        None
    } else {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .doing(|| format!("writing {}", path.display()))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .doing(|| format!("writing {}", path.display()))?;
        Some(path)
    };
    let written = Written {
        file,
        text,
        guesses,
        unused,
    };
    output.result(&written, |_| explain(&written))?;
    Ok(Exit::Ok)
}

fn explain(written: &Written) -> String {
    let Some(file) = &written.file else {
        return written.text.trim_end().to_owned();
    };
    let mut text = String::new();
    for (path, why) in &written.guesses {
        let _ = writeln!(text, "{path}: {why}");
    }
    for path in &written.unused {
        let _ = writeln!(text, "{path}: nothing is done with it");
    }
    let _ = write!(
        text,
        "wrote {} with {}: look it over, then potluck publish",
        file.display(),
        count(written.guesses.len() as u64, "step")
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guess_is_explained_and_what_is_left_is_named() {
        let written = Written {
            file: Some("web/configuration.toml".into()),
            text: String::new(),
            guesses: vec![("a.sh".into(), "a script".into())],
            unused: vec!["README".into()],
        };
        assert_eq!(
            explain(&written),
            "a.sh: a script\nREADME: nothing is done with it\n\
             wrote web/configuration.toml with 1 step: look it over, then potluck publish"
        );
    }
}
