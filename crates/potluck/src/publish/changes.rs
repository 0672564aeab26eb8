//! What a release changes, compared with the one before it.

use std::collections::BTreeMap;

use potluck_model::list::{Entry, IncludedRelease, List, Step};
use serde::Serialize;

/// The most lines about files, and about steps, that are shown.
const SHOWN_MAX: usize = 20;

/// Names of what differs, sorted; steps in their order.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Changes {
    /// The release before.
    pub(crate) since: u64,
    /// Releases that are included: those that were added, and those that were before.
    pub(crate) includes: Difference,
    /// Steps, by their ids.
    pub(crate) steps: Difference,
    /// Files and links, by their paths.
    pub(crate) files: Difference,
    /// Variables, health checks or the order of steps are not as they were.
    pub(crate) settings: bool,
}

/// What one has that the other does not.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    /// Only the new release has it.
    pub(crate) added: Vec<String>,
    /// Both have it, and it is not the same.
    pub(crate) changed: Vec<String>,
    /// Only the release before has it.
    pub(crate) removed: Vec<String>,
}

impl Difference {
    fn of<T: PartialEq>(old: &[(String, T)], new: &[(String, T)]) -> Self {
        let before: BTreeMap<&str, &T> = old.iter().map(|(name, item)| (name.as_str(), item)).collect();
        let after: BTreeMap<&str, &T> = new.iter().map(|(name, item)| (name.as_str(), item)).collect();
        let mut difference = Self::default();
        for (name, item) in new {
            match before.get(name.as_str()) {
                None => difference.added.push(name.clone()),
                Some(was) if *was != item => difference.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        let gone = old.iter().filter(|(name, _)| !after.contains_key(name.as_str()));
        difference.removed = gone.map(|(name, _)| name.clone()).collect();
        difference
    }

    fn lines(&self, what: &str) -> Vec<String> {
        let marked = |mark: &'static str, names: &[String]| -> Vec<String> {
            names.iter().map(|name| format!("  {mark} {what} {name}")).collect()
        };
        let mut lines = marked("+", &self.added);
        lines.extend(marked("~", &self.changed));
        lines.extend(marked("-", &self.removed));
        if lines.len() > SHOWN_MAX {
            let more = lines.len() - SHOWN_MAX;
            lines.truncate(SHOWN_MAX);
            lines.push(format!("    and {more} more, which --json names"));
        }
        lines
    }
}

impl Changes {
    pub(crate) fn between(old: &List, new: &List) -> Self {
        let includes = |list: &List| -> Vec<(String, IncludedRelease)> {
            let named = list.settings.includes.iter();
            named
                .map(|of| (format!("{} release {}", of.configuration, of.release), of.clone()))
                .collect()
        };
        let steps = |list: &List| -> Vec<(String, Step)> {
            list.steps
                .iter()
                .map(|step| (step.id.to_string(), step.clone()))
                .collect()
        };
        let files = |list: &List| -> Vec<(String, Entry)> {
            let all = list
                .entries
                .iter()
                .filter(|entry| !matches!(entry, Entry::Directory { .. }));
            all.map(|entry| (entry.path().to_owned(), entry.clone())).collect()
        };
        let common = |list: &List, other: &List| -> Vec<String> {
            let ids = list.steps.iter().map(|step| step.id.to_string());
            ids.filter(|id| other.steps.iter().any(|step| step.id.as_str() == id))
                .collect()
        };
        Self {
            since: old.release,
            includes: Difference::of(&includes(old), &includes(new)),
            steps: Difference::of(&steps(old), &steps(new)),
            files: Difference::of(&files(old), &files(new)),
            settings: old.settings.vars != new.settings.vars
                || old.settings.health != new.settings.health
                || common(old, new) != common(new, old),
        }
    }

    /// For people, line by line.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("compared with release {}:", self.since)];
        lines.extend(self.includes.lines("include"));
        lines.extend(self.steps.lines("step"));
        lines.extend(self.files.lines("file"));
        if self.settings {
            lines.push("  ~ variables, health checks or the order of steps".to_owned());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_added_changed_or_removed_and_many_are_counted() {
        let items = |items: &[(&str, u32)]| -> Vec<(String, u32)> {
            items.iter().map(|(name, item)| ((*name).to_owned(), *item)).collect()
        };
        let difference = Difference::of(
            &items(&[("gone", 1), ("same", 1), ("other", 1)]),
            &items(&[("same", 1), ("other", 2), ("new", 1)]),
        );
        assert_eq!(
            difference.lines("file"),
            ["  + file new", "  ~ file other", "  - file gone"]
        );
        let many: Vec<(String, u32)> = (0..25).map(|number| (format!("{number:02}"), 1)).collect();
        let lines = Difference::of(&[], &many).lines("step");
        assert_eq!(lines.len(), 21);
        assert_eq!(lines[20], "    and 5 more, which --json names");
    }
}
