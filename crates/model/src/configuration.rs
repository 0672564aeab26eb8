//! A configuration as its owner writes it: a directory, with or without a `configuration.toml`, resolved into the steps of
//! a list. docs/configuration.md describes the format.

mod action;
mod bare;
mod cloud_config;
mod conduct;
mod fault;
mod health;
mod include;
mod keys;
mod names;
mod order;
mod places;
mod schema;
mod script;
mod start;
mod step;
mod value;
mod variables;
mod written;

use crate::ConfigurationName;
use crate::list::{Entry, STEPS_MAX, Settings, Step};

pub use fault::{ConfigurationError, Position, nearest};
pub use include::{Find, INCLUDES_MAX, Include, IncludeFault, Wanted, includes};
pub use schema::schema;
pub use start::{Start, start};

/// The file that says how the others are used. It is no entry of the list.
pub const CONFIGURATION_FILE: &str = "configuration.toml";
/// Seconds after which a step is ended if it does not say otherwise.
pub const TIMEOUT_SECONDS: u64 = 3_600;
/// The most seconds that a step may take: a year.
pub const TIMEOUT_SECONDS_MAX: u64 = 366 * 24 * 3_600;

/// The most bytes of a file whose text is looked at when it is published.
pub const TEXT_BYTES_MAX: u64 = crate::template::TEMPLATE_BYTES_MAX as u64;

/// One entry of the directory, but for `configuration.toml` itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TreeEntry {
    /// Relative to the directory, with `/` between names.
    pub path: String,
    /// What it is.
    pub kind: TreeKind,
}

/// Kinds of entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TreeKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// Bytes.
        size: u64,
        /// Its first bytes; two are enough.
        first: Vec<u8>,
    },
    /// A symbolic link.
    Link,
}

/// What a configuration comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// Its name.
    pub name: ConfigurationName,
    /// What is done, in the order in which it is done.
    pub steps: Vec<Step>,
    /// What concerns all of them.
    pub settings: Settings,
    /// Entries of releases that it includes and that the directory does not have, in no order.
    pub included: Vec<Entry>,
    /// What its owner should know, though it can be published.
    pub warnings: Vec<String>,
}

/// Resolves the directory `directory_name` that holds `tree`, sorted by the bytes of the path, and `toml`, the text of its
/// `configuration.toml`, if it has one. `name` goes before the name in there, which goes before the directory's. `text_of` gives
/// the text of a file, if it is text of at most `TEXT_BYTES_MAX`. `find` gives the lists of what it includes (see `includes`).
///
/// # Errors
/// All that is wrong at once, in the order in which it is written.
pub fn resolve(
    directory_name: &str,
    toml: Option<&str>,
    tree: &[TreeEntry],
    name: Option<&ConfigurationName>,
    text_of: &dyn Fn(&str) -> Option<String>,
    find: Find<'_>,
) -> Result<Resolved, Vec<ConfigurationError>> {
    let tree = Tree { entries: tree, text_of };
    let mut errors = Vec::new();
    let written = match toml {
        Some(text) => {
            let names = written::Names {
                given: name,
                directory: directory_name,
            };
            written::read(text, tree, names, find, &mut errors)
        }
        None => written::Written {
            steps: bare::read(&tree, &mut errors),
            ..written::Written::default()
        },
    };
    let steps = written.steps;
    if steps.len() > STEPS_MAX {
        errors.push(ConfigurationError::new(
            CONFIGURATION_FILE,
            format!("it has {} steps; at most {STEPS_MAX} are possible", steps.len()),
        ));
    }
    let name = name.cloned().or(written.name).or_else(|| {
        directory_name
            .parse()
            .map_err(|fault| {
                let message = format!("its name cannot be the configuration's: {fault}; give one with --name");
                errors.push(ConfigurationError::new(directory_name, message));
            })
            .ok()
    });
    match name {
        Some(name) if errors.is_empty() => Ok(Resolved {
            name,
            warnings: script::warnings(&steps, &tree)
                .into_iter()
                .chain(places::warnings(&steps, &written.settings, &tree))
                .collect(),
            steps,
            settings: written.settings,
            included: written.included,
        }),
        _ => {
            // What has no position concerns the whole and comes last.
            errors.sort_by_key(|error| error.at.map_or((1, Position::default()), |at| (0, at)));
            Err(errors)
        }
    }
}

/// What is published.
#[derive(Clone, Copy)]
struct Tree<'a> {
    /// Sorted by the bytes of the path.
    entries: &'a [TreeEntry],
    text_of: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Tree<'a> {
    fn find(&self, path: &str) -> Option<&'a TreeEntry> {
        let index = self
            .entries
            .binary_search_by(|entry| entry.path.as_bytes().cmp(path.as_bytes()))
            .ok()?;
        Some(&self.entries[index])
    }

    /// The text of the file at `path`.
    fn text(&self, path: &str) -> Option<String> {
        (self.text_of)(path)
    }

    /// The entry at `path` and all below it.
    fn under(&self, path: &str) -> impl Iterator<Item = &'a TreeEntry> {
        // What is below comes after, but not at once: "a-b" stands between "a" and "a/b".
        let from = self
            .entries
            .partition_point(|entry| entry.path.as_bytes() < path.as_bytes());
        self.entries[from..]
            .iter()
            .take_while({
                let path = path.to_owned();
                move |entry| entry.path.starts_with(&path)
            })
            .filter({
                let path = path.to_owned();
                move |entry| crate::list::is_under(&entry.path, &path)
            })
    }
}

#[cfg(test)]
mod tests;
