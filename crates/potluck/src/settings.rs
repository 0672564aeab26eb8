//! Files of settings for the services: TOML with the names of the flags. Flags win.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::exit::{Exit, Failure};

/// Reads the file at `path`. A key that no flag has is an error that names the nearest.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    parse(path, &text(path)?)
}

/// The text of the file at `path`.
pub(crate) fn text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("reading settings from {}: {error}", path.display())).exit(Exit::Data))
}

/// What stands in the file at `path`, of which this is the text.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, Failure> {
    toml::from_str(text).map_err(|error| {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        let message = explain(error.message());
        Failure::new(format!("{}:{line}:{column}: {message}", path.display())).exit(Exit::Data)
    })
}

/// Line and column, from 1, of a byte offset.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// Makes serde's "unknown field `a`, expected one of `b`, `c`" something for people.
fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(key) = message.strip_prefix("unknown field ").and_then(|_| quoted.next()) else {
        return message.to_owned();
    };
    let known: Vec<&str> = quoted.collect();
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("unknown key {key:?}; did you mean {near:?}?"),
        None => format!("unknown key {key:?}; known are {}", known.join(", ")),
    }
}

/// The candidate that is most like `word`, if one is.
fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (distance(word, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .map(|(_, candidate)| candidate)
}

/// How many letters are to be inserted, deleted or replaced (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Where a service keeps its state when `--data` does not say: under /var/lib for root, else in the user's state directory.
pub(crate) fn default_data(service: &str) -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/var/lib/potluck").join(service));
    }
    let state = directory("XDG_STATE_HOME", ".local/state").ok_or_else(|| {
        Failure::new(format!(
            "finding a place for the state of the {service}: neither XDG_STATE_HOME nor HOME is set"
        ))
        .advice("Name a directory with --data.")
    })?;
    Ok(state.join("potluck").join(service))
}

/// A directory of the user: what the variable says if that is absolute, else below the home directory.
pub(crate) fn directory(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "only its name counts")]
        join_file: Option<PathBuf>,
        #[expect(dead_code, reason = "only its name counts")]
        listen: Option<u16>,
    }

    fn fault(text: &str) -> String {
        parse::<Sample>(Path::new("agent.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_nearest() {
        assert_eq!(
            fault("listen = 1\njoin_file = 'x'\n"),
            "agent.toml:2:1: unknown key \"join_file\"; did you mean \"join-file\"?"
        );
        assert_eq!(
            fault("colour = 1\n"),
            "agent.toml:1:1: unknown key \"colour\"; known are join-file, listen"
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_is_an_error_at_its_place() {
        let fault = fault("\nlisten = 'x'\n");
        assert!(fault.starts_with("agent.toml:2:10: invalid type"), "{fault}");
    }
}
