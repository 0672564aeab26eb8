//! Where steps put entries, and which entries no step uses.

use std::collections::{BTreeMap, BTreeSet};

use super::{Tree, TreeKind, health};
use crate::list::{Action, Settings, Step, is_under};

/// The most warnings about files that no step uses.
const UNUSED_MAX: usize = 20;

/// Two steps that put something at the same path.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Conflict {
    /// The path, the first if there are several.
    pub(super) path: String,
    /// The steps, by index.
    pub(super) steps: (usize, usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Link,
}

/// Conflicts between steps, one for each pair of them. That two of them put something into one directory is none.
pub(super) fn conflicts<'a>(steps: impl Iterator<Item = Option<&'a Step>>, tree: &Tree<'_>) -> Vec<Conflict> {
    let mut placed: BTreeMap<String, (usize, Kind)> = BTreeMap::new();
    let mut pairs: BTreeMap<(usize, usize), String> = BTreeMap::new();
    for (index, step) in steps.enumerate() {
        for (path, kind) in step.into_iter().flat_map(|step| placed_by(step, tree)) {
            match placed.get(&path) {
                Some((_, Kind::Directory)) if kind == Kind::Directory => {}
                Some((other, _)) => {
                    pairs.entry((*other, index)).or_insert(path);
                }
                None => {
                    placed.insert(path, (index, kind));
                }
            }
        }
    }
    // A file cannot stand where something else needs a directory.
    for (path, (index, _)) in &placed {
        let mut parent = path.as_str();
        while let Some((next, _)) = parent.rsplit_once('/') {
            parent = next;
            if let Some((other, Kind::File)) = placed.get(parent) {
                let pair = (*other.min(index), *other.max(index));
                pairs.entry(pair).or_insert_with(|| parent.to_owned());
            }
        }
    }
    pairs
        .into_iter()
        .map(|(steps, path)| Conflict { path, steps })
        .collect()
}

fn placed_by(step: &Step, tree: &Tree<'_>) -> Vec<(String, Kind)> {
    let (source, dest) = match &step.action {
        Action::File { source, dest, .. } => (source, dest),
        Action::Template { dest, .. } => return vec![(dest.clone(), Kind::File)],
        Action::Link { dest, .. } => return vec![(dest.clone(), Kind::Link)],
        Action::Directory { dest, .. } => return vec![(dest.clone(), Kind::Directory)],
        _ => return Vec::new(),
    };
    let dest = dest.trim_end_matches('/');
    tree.under(source)
        .map(|entry| {
            let kind = match entry.kind {
                TreeKind::Directory => Kind::Directory,
                TreeKind::File { .. } => Kind::File,
                TreeKind::Link => Kind::Link,
            };
            (format!("{dest}{}", &entry.path[source.len()..]), kind)
        })
        .collect()
}

/// A warning for each file, or directory of files, that no step names.
pub(super) fn warnings(steps: &[Step], settings: &Settings, tree: &Tree<'_>) -> Vec<String> {
    let used = used(steps, settings, tree);
    let uses_below = |directory: &str| {
        used.range(directory..)
            .take_while(|path| path.starts_with(directory))
            .any(|path| is_under(path, directory))
    };
    let mut unused: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in tree.entries {
        if matches!(entry.kind, TreeKind::Directory) || used.contains(entry.path.as_str()) {
            continue;
        }
        // Of a directory of which nothing is used, one warning is enough.
        let whole = entry
            .path
            .match_indices('/')
            .map(|(at, _)| &entry.path[..at])
            .find(|directory| !uses_below(directory))
            .unwrap_or(&entry.path);
        *unused.entry(whole).or_default() += 1;
    }
    let has_run = steps.iter().any(|step| matches!(step.action, Action::Run { .. }));
    let advice = if has_run {
        " (if a script reads it, name it in the inputs of that step)"
    } else {
        ""
    };
    let mut warnings: Vec<String> = unused
        .iter()
        .take(UNUSED_MAX)
        .map(|(path, count)| {
            let is_directory = tree
                .find(path)
                .is_some_and(|entry| matches!(entry.kind, TreeKind::Directory));
            if is_directory {
                let files = if *count == 1 { "file" } else { "files" };
                format!("{path}/ ({count} {files}) is used by no step{advice}")
            } else {
                format!("{path} is used by no step{advice}")
            }
        })
        .collect();
    if unused.len() > UNUSED_MAX {
        warnings.push(format!("{} more are used by no step", unused.len() - UNUSED_MAX));
    }
    warnings
}

/// Paths of the files and links that a step names, or that stand below a directory that it names.
fn used<'a>(steps: &[Step], settings: &Settings, tree: &Tree<'a>) -> BTreeSet<&'a str> {
    let mut named = BTreeSet::new();
    for word in health::named(&settings.health, tree) {
        named.insert(word.strip_prefix("./").unwrap_or(word).to_owned());
    }
    for step in steps {
        // Guards and arguments may name files as a shell does.
        let words = step.unless.iter().chain(&step.undo).flatten();
        let words: Vec<&String> = match &step.action {
            Action::Run {
                source, args, inputs, ..
            } => words.chain([source]).chain(args).chain(inputs).collect(),
            Action::Ansible { source, args, .. } => words.chain([source]).chain(args).collect(),
            Action::File { source, .. }
            | Action::Archive { source, .. }
            | Action::Template { source, .. }
            | Action::CloudInit { source, .. } => words.chain([source]).collect(),
            Action::Package { sources } => words.chain(sources).collect(),
            Action::Directory { .. } | Action::Link { .. } | Action::Service { .. } | Action::User { .. } => {
                words.collect()
            }
        };
        named.extend(words.into_iter().map(|word| {
            let word = word.strip_prefix("./").unwrap_or(word);
            word.trim_end_matches('/').to_owned()
        }));
    }
    named
        .iter()
        .filter(|path| !path.is_empty())
        .flat_map(|path| tree.under(path))
        .filter(|entry| !matches!(entry.kind, TreeKind::Directory))
        .map(|entry| entry.path.as_str())
        .collect()
}
