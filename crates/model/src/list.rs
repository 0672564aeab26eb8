//! The list: the configuration files of one release, with their steps. Canonical JSON, named by its digest.

use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};
use crate::{AudienceName, ConfigurationName, Digest, StepId, VersionName};

/// The version of the list's format that this version writes, and the newest it reads.
pub const LIST_FORMAT: u32 = 1;
/// The most entries of one list.
pub const ENTRIES_MAX: usize = 200_000;
/// The most steps of one list.
pub const STEPS_MAX: usize = 10_000;
/// The most bytes of a path in a list.
pub const PATH_BYTES_MAX: usize = 4_096;

/// One immutable release of a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// `LIST_FORMAT`.
    pub format: u32,
    /// The configuration it is a release of.
    pub configuration: ConfigurationName,
    /// Number of the release: 1, 2, 3…
    pub release: u64,
    /// Name for people, beside the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionName>,
    /// Who may know what is in it.
    pub audience: AudienceName,
    /// What the release holds, sorted by the bytes of the path, no path twice.
    pub entries: Vec<Entry>,
    /// What is done with it, in the order in which it is done.
    pub steps: Vec<Step>,
}

/// One entry of the published directory. Paths are relative, with `/` between names, none of them `.` or `..`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Entry {
    /// A directory.
    Directory {
        /// Where it is.
        path: String,
        /// Permission bits, at most 0o777.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Where it is.
        path: String,
        /// Permission bits, at most 0o777.
        mode: u32,
        /// Bytes.
        size: u64,
        /// Digest of the bytes.
        digest: Digest,
        /// Digest of the chunk list, for files of more than one chunk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chunks: Option<Digest>,
    },
    /// A symbolic link that stays inside the directory.
    Link {
        /// Where it is.
        path: String,
        /// What it says, relative.
        target: String,
    },
}

impl Entry {
    /// Where it is, relative to the published directory.
    pub fn path(&self) -> &str {
        match self {
            Self::Directory { path, .. } | Self::File { path, .. } | Self::Link { path, .. } => path,
        }
    }
}

/// Something that is done on the node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name, unique in the list.
    pub id: StepId,
    /// What it does.
    pub action: Action,
    /// Steps that must not have failed or been blocked before it starts; they stand before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<StepId>,
    /// A command; exit status 0 means that nothing is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless: Option<Vec<String>>,
    /// An absolute path under the root; if it exists, nothing is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creates: Option<String>,
    /// Seconds after which the step's whole process group is ended.
    pub timeout_seconds: u64,
}

/// What a step does. Paths called `source` are those of entries; `dest` is absolute, under the root.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Runs a file of the release in a private directory that holds the release's files.
    Run {
        /// The script: executed itself if it is executable or begins with `#!`, else handed to `sh`.
        source: String,
        /// Its arguments.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        /// Environment variables beside the standard ones, sorted by name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        env: Vec<EnvVar>,
        /// What exit codes mean beside 0 = changed, sorted by code; all others mean failed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exit: Vec<ExitMeaning>,
        /// Entries (a directory stands for all in it) whose change makes a step without guard run again, beside the script.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        inputs: Vec<String>,
    },
    /// Places a file, or what is in a directory, at `dest`.
    File {
        /// A file, a link or a directory of the release.
        source: String,
        /// The final path; a directory's contents land in it.
        dest: String,
        /// Permission bits of every file placed; else those of the entry. At most 0o7777.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
        /// Leave the files when a later release no longer lists them.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keep: bool,
    },
    /// Unpacks a tar, tar.gz, tar.zst or zip archive into `dest`.
    Archive {
        /// The archive.
        source: String,
        /// The directory that its contents land in.
        dest: String,
    },
    /// Installs the first package that this machine's package manager takes.
    Package {
        /// Packages, .deb or .rpm, of which one is used.
        sources: Vec<String>,
    },
}

/// An environment variable of a `run` step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvVar {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// What one exit code of a `run` step means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExitMeaning {
    /// Exit code, 0 to 255.
    pub code: u8,
    /// Its meaning.
    pub means: ExitOutcome,
}

/// What an exit code says of a step. (Reboots come with a later format.)
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExitOutcome {
    /// Something was changed.
    Changed,
    /// All was well already.
    Unchanged,
    /// It did not work.
    Failed,
}

/// Why bytes are not a list that this version may use. Nothing of it has been used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// Not canonical JSON of the list's shape.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// Written by a newer version of Potluck.
    #[error("the list has format {0}; this version of Potluck reads up to {LIST_FORMAT}: update it")]
    Format(u64),
    /// A rule of the format is broken.
    #[error("the list breaks a rule: {0}")]
    Rule(String),
}

impl List {
    /// The canonical bytes; their digest names the list.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical::to_bytes(self)
    }

    /// The digest of the canonical bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// Parses canonical bytes and checks every rule that does not need the content.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ListError> {
        #[derive(Deserialize)]
        struct Format {
            format: u64,
        }
        let format = serde_json::from_slice::<Format>(bytes)
            .map_err(CanonicalError::from)?
            .format;
        if format != u64::from(LIST_FORMAT) {
            return Err(ListError::Format(format));
        }
        let list: Self = canonical::from_bytes(bytes)?;
        list.check()?;
        Ok(list)
    }

    /// The entry at `path`.
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        let index = self
            .entries
            .binary_search_by(|entry| entry.path().as_bytes().cmp(path.as_bytes()))
            .ok()?;
        Some(&self.entries[index])
    }

    /// The entry at `path` and, if that is a directory, all below it, in order of path.
    pub fn entries_under<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| is_under(entry.path(), path))
    }

    /// The different contents of its files, in the order in which the datagrams' bits stand for them: by digest.
    pub fn contents(&self) -> Vec<Content> {
        let mut contents: Vec<Content> = self
            .entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::File {
                    size, digest, chunks, ..
                } => Some(Content {
                    digest: *digest,
                    size: *size,
                    chunks: *chunks,
                }),
                _ => None,
            })
            .collect();
        contents.sort_by_key(|content| content.digest);
        contents.dedup_by_key(|content| content.digest);
        contents
    }

    /// Checks the rules of the format: what a publisher calls before publishing, and everybody else after parsing.
    pub fn check(&self) -> Result<(), ListError> {
        check::list(self).map_err(ListError::Rule)
    }
}

/// Content that a list names: a file's bytes, wherever it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    /// Digest of the bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Digest of the chunk list, if it is more than one chunk.
    pub chunks: Option<Digest>,
}

/// Whether `path` is `directory` or stands below it.
pub fn is_under(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

mod check {
    use std::collections::BTreeSet;

    use super::{Action, ENTRIES_MAX, Entry, List, PATH_BYTES_MAX, STEPS_MAX};
    use crate::chunk_list::SINGLE_CHUNK_BYTES_MAX;

    pub(super) fn list(list: &List) -> Result<(), String> {
        if list.release == 0 {
            return Err("release numbers begin with 1".into());
        }
        if list.entries.len() > ENTRIES_MAX || list.steps.len() > STEPS_MAX {
            return Err(format!("more than {ENTRIES_MAX} entries or {STEPS_MAX} steps"));
        }
        entries(list)?;
        let mut before = BTreeSet::new();
        for step in &list.steps {
            if let Some(need) = step.needs.iter().find(|need| !before.contains(*need)) {
                return Err(format!("step {} needs {need}, which does not stand before it", step.id));
            }
            if !before.insert(step.id.clone()) {
                return Err(format!("two steps are called {}", step.id));
            }
            if step.timeout_seconds == 0 {
                return Err(format!("step {} has no time", step.id));
            }
            if let Some(creates) = &step.creates {
                absolute(creates)?;
            }
            if step.unless.as_ref().is_some_and(Vec::is_empty) {
                return Err(format!("step {} has an empty guard", step.id));
            }
            action(list, &step.action)?;
        }
        Ok(())
    }

    fn entries(list: &List) -> Result<(), String> {
        for pair in list.entries.windows(2) {
            if pair[0].path().as_bytes() >= pair[1].path().as_bytes() {
                return Err(format!("{:?} is out of order or there twice", pair[1].path()));
            }
        }
        for entry in &list.entries {
            relative(entry.path())?;
            if let Some((parent, _)) = entry.path().rsplit_once('/')
                && !matches!(list.entry(parent), Some(Entry::Directory { .. }))
            {
                return Err(format!("{:?} is not in a directory of the list", entry.path()));
            }
            match entry {
                Entry::Directory { mode, path } | Entry::File { mode, path, .. } if *mode > 0o777 => {
                    return Err(format!("{path:?} has mode {mode:o}, beyond 777"));
                }
                Entry::File {
                    size,
                    chunks: None,
                    path,
                    ..
                } if *size > SINGLE_CHUNK_BYTES_MAX => {
                    return Err(format!("{path:?} has {size} bytes and no chunk list"));
                }
                Entry::File {
                    size,
                    chunks: Some(_),
                    path,
                    ..
                } if *size <= SINGLE_CHUNK_BYTES_MAX => {
                    return Err(format!("{path:?} has only {size} bytes and a chunk list"));
                }
                Entry::Link { path, target } => link(path, target)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn action(list: &List, action: &Action) -> Result<(), String> {
        let known = |source: &String| {
            list.entry(source)
                .map(|_| ())
                .ok_or_else(|| format!("a step uses {source:?}, which is no entry"))
        };
        let file = |source: &String| match list.entry(source) {
            Some(Entry::File { .. }) => Ok(()),
            _ => Err(format!("a step uses {source:?}, which is no file of the list")),
        };
        match action {
            Action::Run {
                source, inputs, env, ..
            } => {
                if let Some(bad) = env
                    .iter()
                    .find(|var| var.name.is_empty() || var.name.contains(['=', '\0']))
                {
                    return Err(format!("{:?} is no name of an environment variable", bad.name));
                }
                inputs.iter().try_for_each(known)?;
                file(source)
            }
            Action::File { source, dest, mode, .. } => {
                if mode.is_some_and(|mode| mode > 0o7777) {
                    return Err(format!("mode of {dest:?}"));
                }
                absolute(dest)?;
                known(source)
            }
            Action::Archive { source, dest } => {
                absolute(dest)?;
                file(source)
            }
            Action::Package { sources } if sources.is_empty() => Err("a package step without packages".into()),
            Action::Package { sources } => sources.iter().try_for_each(file),
        }
    }

    fn names(path: &str) -> Result<(), String> {
        let good = |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains('\0');
        if path.len() <= PATH_BYTES_MAX && path.split('/').all(good) {
            Ok(())
        } else {
            Err(format!(
                "{:?} is no clean path",
                path.chars().take(200).collect::<String>()
            ))
        }
    }

    fn relative(path: &str) -> Result<(), String> {
        names(path)
    }

    fn absolute(path: &str) -> Result<(), String> {
        match path.strip_prefix('/') {
            Some("") => Ok(()),
            Some(rest) => names(rest),
            None => Err(format!("{path:?} is not absolute")),
        }
    }

    /// A link's target, followed from where the link is, must stay in the directory.
    fn link(path: &str, target: &str) -> Result<(), String> {
        let mut depth = path.matches('/').count();
        let leaves = || format!("the link {path:?} leads out of the directory, to {target:?}");
        if target.is_empty() || target.starts_with('/') || target.contains('\0') || target.len() > PATH_BYTES_MAX {
            return Err(leaves());
        }
        for name in target.split('/') {
            match name {
                "" | "." => {}
                ".." => depth = depth.checked_sub(1).ok_or_else(leaves)?,
                _ => depth += 1,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> List {
        List {
            format: LIST_FORMAT,
            configuration: "web-edge".parse().unwrap(),
            release: 7,
            version: Some("2026.1".parse().unwrap()),
            audience: AudienceName::fleet(),
            entries: vec![
                Entry::File {
                    path: "big.img".into(),
                    mode: 0o644,
                    size: 1 << 20,
                    digest: Digest::of(b"big"),
                    chunks: Some(Digest::of(b"chunk list")),
                },
                Entry::Directory {
                    path: "site".into(),
                    mode: 0o755,
                },
                Entry::File {
                    path: "site/é".into(),
                    mode: 0o644,
                    size: 3,
                    digest: Digest::of(b"abc"),
                    chunks: None,
                },
                Entry::Link {
                    path: "site/latest".into(),
                    target: "../big.img".into(),
                },
                Entry::File {
                    path: "tune.sh".into(),
                    mode: 0o755,
                    size: 3,
                    digest: Digest::of(b"abc"),
                    chunks: None,
                },
            ],
            steps: vec![
                Step {
                    id: "site".parse().unwrap(),
                    action: Action::File {
                        source: "site".into(),
                        dest: "/srv/www".into(),
                        mode: Some(0o644),
                        keep: false,
                    },
                    needs: vec![],
                    unless: None,
                    creates: None,
                    timeout_seconds: 600,
                },
                Step {
                    id: "tune".parse().unwrap(),
                    action: Action::Run {
                        source: "tune.sh".into(),
                        args: vec!["--now".into()],
                        env: vec![EnvVar {
                            name: "A".into(),
                            value: "1".into(),
                        }],
                        exit: vec![ExitMeaning {
                            code: 2,
                            means: ExitOutcome::Unchanged,
                        }],
                        inputs: vec!["site".into()],
                    },
                    needs: vec!["site".parse().unwrap()],
                    unless: Some(vec!["./tune.sh".into(), "--check".into()]),
                    creates: None,
                    timeout_seconds: 1800,
                },
            ],
        }
    }

    fn sorted(mut list: List) -> List {
        list.entries
            .sort_by(|a, b| a.path().as_bytes().cmp(b.path().as_bytes()));
        list
    }

    #[test]
    fn bytes_of_format_1_stay_as_they_are() {
        let list = sorted(sample());
        assert_eq!(
            list.digest().to_string(),
            "0030cd80866c73c573c1203a536392daa48c89337cbdf48d65b882e757783126"
        );
        assert_eq!(List::from_bytes(&list.to_bytes()).unwrap(), list);
    }

    #[test]
    fn a_list_that_is_not_canonical_is_refused() {
        let mut bytes = sorted(sample()).to_bytes();
        bytes.push(b'\n');
        assert!(matches!(
            List::from_bytes(&bytes),
            Err(ListError::Canonical(CanonicalError::NotCanonical))
        ));
    }

    #[test]
    fn a_list_of_a_newer_format_says_so() {
        let list = List {
            format: 2,
            ..sorted(sample())
        };
        assert!(matches!(List::from_bytes(&list.to_bytes()), Err(ListError::Format(2))));
    }

    #[test]
    fn rules_that_protect_the_node_are_checked() {
        let broken: [fn(&mut List); 9] = [
            |list| list.entries.swap(0, 1),
            |list| list.release = 0,
            |list| list.entries.retain(|entry| entry.path() != "site"),
            |list| list.steps.swap(0, 1),
            |list| list.steps[1].id = "site".parse().unwrap(),
            |list| {
                list.steps[0].action = Action::Archive {
                    source: "site".into(),
                    dest: "/a".into(),
                }
            },
            |list| {
                list.steps[0].action = Action::Archive {
                    source: "big.img".into(),
                    dest: "/a/../b".into(),
                }
            },
            |list| {
                list.entries[2] = Entry::Link {
                    path: "site/latest".into(),
                    target: "../../etc".into(),
                }
            },
            |list| {
                list.entries[0] = Entry::Directory {
                    path: "..".into(),
                    mode: 0o755,
                }
            },
        ];
        for (index, damage) in broken.iter().enumerate() {
            let mut list = sorted(sample());
            assert!(list.check().is_ok());
            damage(&mut list);
            assert!(list.check().is_err(), "rule {index}");
        }
    }

    #[test]
    fn contents_are_unique_and_sorted_by_digest() {
        let contents = sorted(sample()).contents();
        assert_eq!(contents.len(), 2);
        assert!(contents[0].digest < contents[1].digest);
    }
}
