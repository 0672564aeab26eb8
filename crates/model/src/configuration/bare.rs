//! A directory without `configuration.toml`: the names of its entries say what is done with them.

use std::collections::{BTreeMap, BTreeSet};

use super::fault::ConfigurationError;
use super::{TIMEOUT_SECONDS, Tree, TreeEntry, TreeKind, names};
use crate::list::{Action, Step};

/// What is under it is placed at the same path under the root.
const FILES: &str = "files";

/// The steps, in order; what is not recognised is noted in `errors`.
pub(super) fn read(tree: &Tree<'_>, errors: &mut Vec<ConfigurationError>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut numbered: Vec<(u64, &str, Kind)> = Vec::new();
    for entry in tree.entries.iter().filter(|entry| !entry.path.contains('/')) {
        if entry.path == FILES && matches!(entry.kind, TreeKind::Directory) {
            let action = Action::File {
                source: FILES.to_owned(),
                dest: "/".to_owned(),
                mode: None,
                keep: false,
                purge: false,
            };
            steps.push(step(FILES, action));
            continue;
        }
        match recognise(entry) {
            Ok((number, kind)) => numbered.push((number, &entry.path, kind)),
            Err(message) => errors.push(ConfigurationError {
                text: Some(entry.path.chars().take(80).collect()),
                ..ConfigurationError::new(&entry.path, message)
            }),
        }
    }
    if tree.entries.is_empty() {
        let message = "the directory is empty: there is nothing to publish".to_owned();
        errors.push(ConfigurationError::new(".", message));
    }
    numbered.sort_unstable();
    steps.extend(group(&numbered));
    keep_ids_apart(&mut steps);
    steps
}

/// Gives steps of one id, such as those of `10-app.sh` and `10-app.tar`, the names of their files, or else a number.
fn keep_ids_apart(steps: &mut [Step]) {
    let mut count = BTreeMap::<_, usize>::new();
    for step in &*steps {
        *count.entry(step.id.clone()).or_default() += 1;
    }
    let mut taken = BTreeSet::new();
    for step in steps {
        if count[&step.id] > 1
            && let Some(source) = source(&step.action)
        {
            step.id = names::to_id(source);
        }
        let name: String = step.id.as_str().chars().take(50).collect();
        let mut number = 2;
        while !taken.insert(step.id.clone()) {
            step.id = names::to_id(&format!("{name}-{number}"));
            number += 1;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Script,
    Archive,
    Package,
}

/// The number and type of an entry, or what to do about it.
fn recognise(entry: &TreeEntry) -> Result<(u64, Kind), String> {
    const ELSE: &str = "move it below files/ to place it, take it out of the directory, or write a configuration.toml that \
                        says what to do with it";
    let path = &entry.path;
    if path.starts_with('.') {
        return Err(format!("hidden entries are not taken along: {ELSE}"));
    }
    let (mode, first) = match &entry.kind {
        TreeKind::Directory => return Err(format!("of directories, only files/ is recognised: {ELSE}")),
        TreeKind::Link => return Err(format!("symbolic links are recognised only below files/: {ELSE}")),
        TreeKind::File { mode, first, .. } => (*mode, first),
    };
    let kind = if names::is_package(path) {
        Kind::Package
    } else if names::is_archive(path) {
        Kind::Archive
    } else if names::is_other_archive(path) {
        return Err(format!(
            "archives of this type cannot be unpacked, only {}: pack it again",
            names::ARCHIVES.join(", ")
        ));
    } else if names::is_script(path) || mode & 0o111 != 0 || first.starts_with(b"#!") {
        Kind::Script
    } else {
        return Err(format!(
            "it is neither a script (.sh, executable, or beginning with #!) nor an archive nor a package: {ELSE}"
        ));
    };
    match number(path) {
        Some(number) => Ok((number, kind)),
        None => Err(format!(
            "its name does not begin with a number that says when its turn is: rename it, for example to 10-{path}"
        )),
    }
}

/// The number before the first `-`, `_` or `.` of a name.
fn number(path: &str) -> Option<u64> {
    let (number, rest) = path.split_once(['-', '_', '.'])?;
    let digits = (1..=9).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    if digits && !rest.is_empty() {
        number.parse().ok()
    } else {
        None
    }
}

/// Steps of numbered entries. Packages of the same software with the same number, a .deb and a .rpm, are alternatives.
fn group(numbered: &[(u64, &str, Kind)]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut package_steps = BTreeMap::<(u64, &str, &str), usize>::new();
    for (number, path, kind) in numbered {
        match kind {
            Kind::Script => {
                let action = Action::Run {
                    source: (*path).to_owned(),
                    args: Vec::new(),
                    env: Vec::new(),
                    exit: Vec::new(),
                    inputs: Vec::new(),
                    user: None,
                };
                steps.push(step(names::of_script(path), action));
            }
            Kind::Archive => {
                let action = Action::Archive {
                    source: (*path).to_owned(),
                    dest: "/".to_owned(),
                };
                steps.push(step(names::of_archive(path), action));
            }
            Kind::Package => {
                // The number is no part of the software's name, though it looks like a version.
                let at = path.find(['-', '_', '.']).map_or(0, |at| at + 1);
                let software = names::of_package(&path[at..]);
                let (own, other) = if path.to_ascii_lowercase().ends_with(".deb") {
                    (".deb", ".rpm")
                } else {
                    (".rpm", ".deb")
                };
                let waiting = package_steps.remove(&(*number, software, other));
                if let Some(index) = waiting
                    && let Action::Package { sources } = &mut steps[index].action
                {
                    sources.push((*path).to_owned());
                } else {
                    package_steps.insert((*number, software, own), steps.len());
                    let action = Action::Package {
                        sources: vec![(*path).to_owned()],
                    };
                    steps.push(step(&path[..at + software.len()], action));
                }
            }
        }
    }
    steps
}

fn source(action: &Action) -> Option<&str> {
    match action {
        Action::Run { source, .. } | Action::File { source, .. } | Action::Archive { source, .. } => Some(source),
        Action::Package { sources } => sources.first().map(String::as_str),
        // A bare directory makes no others.
        _ => None,
    }
}

fn step(name: &str, action: Action) -> Step {
    Step::new(names::to_id(name), action, TIMEOUT_SECONDS)
}
