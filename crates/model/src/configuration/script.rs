//! What is often wrong with scripts.

use std::collections::BTreeSet;

use super::{Tree, names};
use crate::list::{Action, Step};

/// A warning for each shell script that goes on after a command of it failed.
pub(super) fn warnings(steps: &[Step], tree: &Tree<'_>) -> Vec<String> {
    let scripts: BTreeSet<&str> = steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::Run { source, .. } => Some(source.as_str()),
            _ => None,
        })
        .collect();
    scripts
        .into_iter()
        .filter(|script| tree.text(script).is_some_and(|text| goes_on(script, &text)))
        .map(|script| {
            format!(
                "{script}:1:1: it goes on after a command of it failed, and the step may end well all the same: begin it with \
                 set -e"
            )
        })
        .collect()
}

/// Whether it is a script of a shell without `set -e`, and has more than one command.
fn goes_on(path: &str, text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    let interpreter = first.strip_prefix("#!").map(str::trim);
    let is_shell = match interpreter {
        Some(interpreter) => interpreter.split_whitespace().any(|word| {
            let name = word.rsplit('/').next().unwrap_or(word);
            matches!(name, "sh" | "bash" | "dash" | "ash" | "ksh" | "zsh")
        }),
        None => names::is_script(path),
    };
    let by_option = interpreter.is_some_and(|interpreter| {
        interpreter
            .split_whitespace()
            .skip(1)
            .any(|word| is_short_option(word, 'e'))
    });
    let sets = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some("set") && {
            let words: Vec<&str> = words.collect();
            words
                .iter()
                .any(|word| is_short_option(word, 'e') || *word == "errexit")
        }
    };
    let commands = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    is_shell
        && !by_option
        && commands.clone().count() > 1
        && !commands.flat_map(|line| line.split([';', '&'])).any(sets)
}

fn is_short_option(word: &str, option: char) -> bool {
    word.starts_with('-') && !word.starts_with("--") && word.contains(option)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shell_scripts_of_several_commands_are_warned_about() {
        for (path, text, expected) in [
            ("a.sh", "cd /srv\nrm x\n", true),
            ("a", "#!/usr/bin/env bash\ncd /srv\nrm x\n", true),
            ("a.sh", "set -eu\ncd /srv\nrm x\n", false),
            ("a.sh", "# why\nset -o errexit\ncd /srv\n", false),
            ("a.sh", "umask 022; set -e\ncd /srv\n", false),
            ("a", "#!/bin/sh -e\ncd /srv\nrm x\n", false),
            ("a.sh", "exec ./other\n", false),
            ("a", "#!/usr/bin/python3\nimport os\nos.sync()\n", false),
            ("a.sh", "set -x\ncd /srv\n", true),
        ] {
            assert_eq!(goes_on(path, text), expected, "{text}");
        }
    }
}
