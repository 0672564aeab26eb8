//! What this machine is: which packages it takes, and so which contents of a list it needs.

use std::collections::BTreeSet;
use std::path::Path;

use potluck_model::Digest;
use potluck_model::list::{Action, Entry, List, is_under};

/// A package manager.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PackageManager {
    /// Debian and its relatives: `.deb`.
    Dpkg,
    /// Red Hat, SUSE and theirs: `.rpm`.
    Rpm,
}

impl PackageManager {
    /// The end of the names of its packages, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Dpkg => "deb",
            Self::Rpm => "rpm",
        }
    }

    /// The first of `sources` that it takes.
    pub fn choose(self, sources: &[String]) -> Option<&str> {
        sources
            .iter()
            .find(|source| {
                Path::new(source)
                    .extension()
                    .is_some_and(|extension| extension.eq_ignore_ascii_case(self.extension()))
            })
            .map(String::as_str)
    }
}

/// What this machine can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Machine {
    /// Its package manager, if it has one that is supported.
    pub packages: Option<PackageManager>,
    /// Whether systemd runs.
    pub systemd: bool,
}

impl Machine {
    /// Looks at this machine. A package manager is one whose database is here: `rpm` as a mere tool on Debian is not.
    pub fn detect() -> Self {
        let any = |paths: &[&str]| paths.iter().any(|path| Path::new(path).exists());
        let packages = if any(&["/var/lib/dpkg/status"]) && any(&["/usr/bin/dpkg", "/bin/dpkg"]) {
            Some(PackageManager::Dpkg)
        } else if any(&["/usr/lib/sysimage/rpm", "/var/lib/rpm"]) && any(&["/usr/bin/rpm", "/bin/rpm"]) {
            Some(PackageManager::Rpm)
        } else {
            None
        };
        Self {
            packages,
            // As sd_booted(3) finds out.
            systemd: any(&["/run/systemd/system"]),
        }
    }
}

/// The contents of `list` that `machine` needs: all but packages that it does not take and that no other step uses.
pub fn usable(list: &List, machine: &Machine) -> BTreeSet<Digest> {
    let mut not_taken = BTreeSet::new();
    for step in &list.steps {
        if let Action::Package { sources } = &step.action {
            not_taken.extend(sources.iter().map(String::as_str));
        }
    }
    // Most lists have no packages.
    if !not_taken.is_empty() {
        for step in &list.steps {
            let mut uses = |path: &str| not_taken.retain(|package| !is_under(package, path));
            match &step.action {
                Action::Package { sources } => {
                    if let Some(taken) = machine.packages.and_then(|manager| manager.choose(sources)) {
                        uses(taken);
                    }
                }
                Action::Run { source, inputs, .. } => {
                    uses(source);
                    for input in inputs {
                        uses(input);
                    }
                }
                Action::File { source, .. }
                | Action::Archive { source, .. }
                | Action::Template { source, .. }
                | Action::Ansible { source, .. }
                | Action::CloudInit { source, .. } => uses(source),
                Action::Directory { .. } | Action::Link { .. } | Action::Service { .. } | Action::User { .. } => {}
            }
        }
    }
    list.entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::File { path, digest, .. } if !not_taken.contains(path.as_str()) => Some(*digest),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use potluck_model::AudienceName;
    use potluck_model::list::{LIST_FORMAT, Settings, Step};

    use super::*;

    fn list(steps: Vec<Action>) -> List {
        let file = |path: &str| Entry::File {
            path: path.into(),
            mode: 0o644,
            size: 1,
            digest: Digest::of(path.as_bytes()),
            chunks: None,
        };
        let list = List {
            format: LIST_FORMAT,
            configuration: "web".parse().unwrap(),
            release: 1,
            version: None,
            audience: AudienceName::fleet(),
            entries: vec![file("a.deb"), file("a.rpm"), file("b.rpm"), file("notes")],
            steps: steps
                .into_iter()
                .enumerate()
                .map(|(index, action)| Step::new(format!("s{index}").parse().unwrap(), action, 1))
                .collect(),
            settings: Settings::default(),
        };
        list.check().unwrap();
        list
    }

    fn names(list: &List, packages: Option<PackageManager>) -> Vec<&'static str> {
        let usable = usable(
            list,
            &Machine {
                packages,
                ..Machine::default()
            },
        );
        ["a.deb", "a.rpm", "b.rpm", "notes"]
            .into_iter()
            .filter(|name| usable.contains(&Digest::of(name.as_bytes())))
            .collect()
    }

    fn package(sources: &[&str]) -> Action {
        Action::Package {
            sources: sources.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn packages_of_the_other_package_manager_are_not_needed() {
        let list = list(vec![package(&["a.deb", "a.rpm", "b.rpm"])]);
        assert_eq!(names(&list, Some(PackageManager::Dpkg)), ["a.deb", "notes"]);
        assert_eq!(names(&list, Some(PackageManager::Rpm)), ["a.rpm", "notes"]);
        assert_eq!(names(&list, None), ["notes"]);
    }

    #[test]
    fn a_package_that_another_step_uses_is_needed() {
        let list = list(vec![
            package(&["a.deb", "a.rpm"]),
            Action::File {
                source: "a.rpm".into(),
                dest: "/srv/a.rpm".into(),
                mode: None,
                keep: false,
                purge: false,
            },
        ]);
        assert_eq!(
            names(&list, Some(PackageManager::Dpkg)),
            ["a.deb", "a.rpm", "b.rpm", "notes"]
        );
    }
}
