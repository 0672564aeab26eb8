//! A first `configuration.toml` for a directory that has none: guessed from the names, with the reason beside each guess.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::{CONFIGURATION_FILE, Tree, TreeEntry, TreeKind, cloud_config, names};
use crate::ConfigurationName;
use crate::template;

/// Directories of a machine that a directory of that name is taken for.
const MACHINE_DIRECTORIES: [&str; 6] = ["etc", "home", "opt", "srv", "usr", "var"];
/// Ends of names of systemd's units.
const UNITS: [&str; 5] = [".service", ".timer", ".socket", ".path", ".mount"];

/// What was guessed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// The text of a `configuration.toml`.
    pub text: String,
    /// An entry, and what is done with it and why; in the order of the text.
    pub guesses: Vec<(String, String)>,
    /// Entries of which nothing could be guessed.
    pub unused: Vec<String>,
}

/// A step that was guessed. The order is that in which steps come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Package,
    Place,
    Unpack,
    FirstBoot,
    Run,
    Play,
    Service,
}

struct Guess {
    stage: Stage,
    /// Entries with a number come in its order.
    number: u64,
    path: String,
    why: String,
    keys: Vec<(&'static str, String)>,
}

/// Guesses what is to be done with the entries of `tree`, sorted by the bytes of the path. `text_of` is as in `resolve`. The text
/// that comes out can be published as it is, unless nothing could be guessed.
pub fn start(directory_name: &str, tree: &[TreeEntry], text_of: &dyn Fn(&str) -> Option<String>) -> Start {
    let tree = Tree { entries: tree, text_of };
    let top = tree
        .entries
        .iter()
        .filter(|entry| !entry.path.contains('/') && entry.path != CONFIGURATION_FILE);
    let mut guesses = Vec::new();
    let mut unused = Vec::new();
    let mut packages: BTreeMap<(u64, String), Vec<String>> = BTreeMap::new();
    for entry in top {
        let path = &entry.path;
        let (number, rest) = numbered(path);
        if matches!(entry.kind, TreeKind::File { .. }) && names::is_package(path) {
            let software = names::of_package(rest).to_owned();
            packages.entry((number, software)).or_default().push(path.clone());
            continue;
        }
        match guess(entry, rest, &tree) {
            Some((stage, why, keys)) => guesses.push(Guess {
                stage,
                number,
                path: path.clone(),
                why,
                keys,
            }),
            None => unused.push(path.clone()),
        }
    }
    for ((number, _), paths) in packages {
        let list: Vec<String> = paths.iter().map(|path| quoted(path)).collect();
        let why = if paths.len() > 1 {
            "packages of the same software: each machine takes its own kind"
        } else {
            "a package"
        };
        guesses.push(Guess {
            stage: Stage::Package,
            number,
            path: paths.join(", "),
            why: why.to_owned(),
            keys: vec![("package", format!("[{}]", list.join(", ")))],
        });
    }
    // Two entries may come to one place, such as 10-app.service and app.service: the second is left to its owner.
    let mut taken = BTreeSet::new();
    guesses.retain(|guess| {
        let dest = guess.keys.iter().find(|(key, _)| *key == "dest");
        let fits = guess.stage != Stage::Place || dest.is_none_or(|(_, dest)| taken.insert(dest.clone()));
        if !fits {
            unused.push(guess.path.clone());
        }
        fits
    });
    services(&mut guesses);
    guesses.sort_by(|a, b| (a.stage, a.number, &a.path).cmp(&(b.stage, b.number, &b.path)));
    Start {
        text: text(directory_name, &guesses, &unused),
        guesses: guesses.into_iter().map(|guess| (guess.path, guess.why)).collect(),
        unused,
    }
}

/// The number that a name begins with, and the name behind it; what has none comes last.
fn numbered(path: &str) -> (u64, &str) {
    let number = path.split_once(['-', '_', '.']).filter(|(number, rest)| {
        !rest.is_empty() && number.len() <= 9 && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    match number.and_then(|(number, rest)| Some((number.parse().ok()?, rest))) {
        Some(found) => found,
        None => (u64::MAX, path),
    }
}

type Found = (Stage, String, Vec<(&'static str, String)>);

fn guess(entry: &TreeEntry, name: &str, tree: &Tree<'_>) -> Option<Found> {
    let path = &entry.path;
    let own = quoted(path);
    let place = |why: &str, dest: &str| {
        Some((
            Stage::Place,
            why.to_owned(),
            vec![("file", own.clone()), ("dest", quoted(dest))],
        ))
    };
    let (mode, first) = match &entry.kind {
        TreeKind::Directory if path == "files" => {
            return place("what is in it is placed at the same path under the root", "/");
        }
        TreeKind::Directory if MACHINE_DIRECTORIES.contains(&path.as_str()) => {
            let dest = format!("/{path}");
            return place(
                &format!("it is called like {dest}, and what is in it is placed there"),
                &dest,
            );
        }
        TreeKind::Directory | TreeKind::Link => return None,
        TreeKind::File { mode, first, .. } => (*mode, first),
    };
    let text = tree.text(path);
    if names::is_archive(path) {
        let dest = format!("/opt/{}", names::of_archive(name));
        let why = "an archive; where to unpack it, you know better".to_owned();
        return Some((Stage::Unpack, why, vec![("archive", own), ("dest", quoted(&dest))]));
    }
    if names::of_template(path) != path && text.as_ref().is_some_and(|text| template::check(text).is_ok()) {
        let dest = format!("/etc/{}", names::of_template(name));
        let why = "a template; where to place it, you know better".to_owned();
        return Some((Stage::Place, why, vec![("template", own), ("dest", quoted(&dest))]));
    }
    if UNITS.iter().any(|end| path.ends_with(end)) {
        return place("a unit of systemd", &format!("/etc/systemd/system/{name}"));
    }
    if text.as_ref().is_some_and(|text| cloud_config::modules(text).is_ok()) {
        let why = "user-data of cloud-init: its first line says so".to_owned();
        return Some((Stage::FirstBoot, why, vec![("cloud-init", own)]));
    }
    let is_play = |text: &String| {
        let mut lines = text.lines().map(|line| line.trim_start_matches("- ").trim_start());
        lines.any(|line| line.starts_with("hosts:"))
    };
    if names::is_yaml(path) && text.as_ref().is_some_and(is_play) {
        let why = "a playbook: it says for which hosts it is".to_owned();
        return Some((Stage::Play, why, vec![("ansible", own)]));
    }
    if names::is_script(path) || mode & 0o111 != 0 || first.starts_with(b"#!") {
        let why = "a script: it runs once, and again when it changes".to_owned();
        return Some((Stage::Run, why, vec![("run", own)]));
    }
    None
}

/// Units that are placed are enabled and started at the end, and restarted when they change.
fn services(guesses: &mut Vec<Guess>) {
    let mut more = Vec::new();
    for guess in &*guesses {
        let (_, name) = numbered(&guess.path);
        let starts = [".service", ".timer", ".socket"].iter().any(|end| name.ends_with(end));
        // A template of units stands for none.
        let is_name = name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\'));
        if !starts
            || !is_name
            || name.starts_with('-')
            || guess.stage != Stage::Place
            || guess.keys.len() != 2
            || guess.keys[0].0 != "file"
        {
            continue;
        }
        more.push(Guess {
            stage: Stage::Service,
            number: guess.number,
            path: guess.path.clone(),
            why: "the unit is enabled and started".to_owned(),
            keys: vec![
                ("service", quoted(name)),
                ("state", quoted("started")),
                ("enabled", "true".to_owned()),
            ],
        });
    }
    guesses.extend(more);
}

fn text(directory_name: &str, guesses: &[Guess], unused: &[String]) -> String {
    let mut text = String::from(
        "# Guessed from what lies in this directory: look it over before it is published. With this file, nothing is done that\n\
         # is not in it. All that can stand here is in docs/configuration.md.\n",
    );
    if directory_name.parse::<ConfigurationName>().is_ok() {
        let _ = writeln!(text, "\nname = {}", quoted(directory_name));
    } else {
        let _ = writeln!(text, "\nname = \"unnamed\"  # the directory's name cannot be one");
    }
    for (guess, id) in guesses.iter().zip(ids(guesses)) {
        let _ = writeln!(text, "\n# {}: {}.", comment(&guess.path), guess.why);
        let _ = writeln!(text, "[[step]]\nid = \"{id}\"");
        for (key, value) in &guess.keys {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
    if !unused.is_empty() {
        let _ = writeln!(
            text,
            "\n# Nothing is done with these; a script may read them (then name them in its inputs):"
        );
        for path in unused {
            let _ = writeln!(text, "#   {}", comment(path));
        }
    }
    text
}

/// Ids of their own: made of the first entry's name, with a number if another has it.
fn ids(guesses: &[Guess]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut ids = Vec::with_capacity(guesses.len());
    for guess in guesses {
        let (_, rest) = numbered(guess.path.split(", ").next().unwrap_or_default());
        let name = match guess.stage {
            Stage::Package => names::of_package(rest).to_owned(),
            Stage::Unpack => names::of_archive(rest).to_owned(),
            Stage::Run | Stage::Play | Stage::FirstBoot => names::of_script(rest).to_owned(),
            Stage::Place => rest.to_owned(),
            Stage::Service => format!("start-{rest}"),
        };
        let mut id = names::to_id(&name).as_str().to_owned();
        let short: String = id.chars().take(50).collect();
        let mut number = 2;
        while !taken.insert(id.clone()) {
            id = format!("{short}.{number}");
            number += 1;
        }
        ids.push(id);
    }
    ids
}

/// As TOML writes text.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// What can stand behind `#`.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::configuration::{Include, IncludeFault, resolve};
    use crate::list::List;

    fn nothing(include: &Include) -> Result<List, IncludeFault> {
        panic!("{include} was not written")
    }

    fn entry(path: &str, mode: u32) -> TreeEntry {
        TreeEntry {
            path: path.into(),
            kind: if path.ends_with('/') {
                TreeKind::Directory
            } else {
                TreeKind::File {
                    mode,
                    size: 1,
                    first: Vec::new(),
                }
            },
        }
    }

    fn tree(paths: &[&str]) -> Vec<TreeEntry> {
        let mut tree: Vec<TreeEntry> = paths.iter().map(|path| entry(path, 0o644)).collect();
        for entry in &mut tree {
            entry.path = entry.path.trim_end_matches('/').to_owned();
        }
        tree.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        tree.dedup_by(|a, b| a.path == b.path);
        tree
    }

    fn text_of(path: &str) -> Option<String> {
        let text = match path {
            "user-data" => "#cloud-config\nruncmd: [true]\n",
            "site.yml" => "- hosts: all\n  tasks: []\n",
            "other.yml" => "a: b\n",
            "broken.j2" => "{{",
            "app.tar.gz" => return None,
            _ => "text\n",
        };
        Some(text.to_owned())
    }

    #[test]
    fn what_lies_there_is_taken_for_what_it_looks_like() {
        let tree = tree(&[
            "20-tune.sh",
            "app.conf.j2",
            "app.service",
            "app.tar.gz",
            "broken.j2",
            "etc/",
            "etc/motd",
            "nginx-1.26.x86_64.rpm",
            "nginx_1.26_amd64.deb",
            "other.yml",
            "README.md",
            "site.yml",
            "user-data",
        ]);
        let start = start("web-edge", &tree, &text_of);
        let resolved = resolve("web-edge", Some(&start.text), &tree, None, &text_of, &nothing).unwrap();
        let ids: Vec<&str> = resolved.steps.iter().map(|step| step.id.as_str()).collect();
        assert_eq!(
            ids,
            [
                "nginx",
                "app.conf.j2",
                "app.service",
                "etc",
                "app",
                "user-data",
                "tune",
                "site",
                "start-app.service"
            ]
        );
        assert_eq!(start.unused, ["README.md", "broken.j2", "other.yml"]);
        assert_eq!(start.guesses.len(), 9);
        assert!(
            start
                .text
                .contains("# app.tar.gz: an archive; where to unpack it, you know better.\n"),
            "{}",
            start.text
        );
    }

    proptest! {
        #[test]
        fn whatever_is_guessed_can_be_published(
            names in prop::collection::btree_set(
                "(10-|2_|)(etc/|files/|srv/|[ab\"#\\\\é]{1,3}|app)(\\.sh|\\.deb|_1\\.deb|-1\\.rpm|\\.tar|\\.j2|\\.service|@\\.service|\\.timer|\\.yml|)",
                0..8,
            )
        ) {
            let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.trim_end_matches('/').contains('/')).collect();
            let tree = tree(&names);
            let start = start("web", &tree, &text_of);
            match resolve("web", Some(&start.text), &tree, None, &text_of, &nothing) {
                Ok(resolved) => prop_assert_eq!(resolved.steps.len(), start.guesses.len()),
                Err(errors) => prop_assert!(start.guesses.is_empty(), "{:?}\n{}", errors, start.text),
            }
        }
    }
}
