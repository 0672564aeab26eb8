//! The list: the configuration files of one release, with their steps. Canonical JSON, named by its digest.

use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};
use crate::{AudienceName, ConfigurationName, Digest, VersionName};

mod check;
mod settings;
mod step;

pub use settings::{
    HEALTH_CHECKS_MAX, HEALTH_SECONDS_MAX, HealthCheck, INCLUDED_MAX, IncludedRelease, Settings, VARS_BYTES_MAX,
};
pub use step::{
    Action, EnvVar, ExitMeaning, ExitOutcome, Limits, OnFailure, OnInterrupt, RETRIES_MAX, RETRY_DELAY_SECONDS_MAX,
    Retry, ServiceState, Step,
};

/// The newest version of the list's format that this version reads and writes. A list has the oldest that can say what is in
/// it (see `format_of`), so that nodes of earlier versions take whatever they can do.
pub const LIST_FORMAT: u32 = 2;
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
    /// The oldest format that can say what is in it, at most `LIST_FORMAT`.
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
    /// What concerns all steps.
    #[serde(default, skip_serializing_if = "Settings::is_empty")]
    pub settings: Settings,
}

/// The oldest format that can say this.
pub fn format_of(steps: &[Step], settings: &Settings) -> u32 {
    if settings.is_empty() && steps.iter().all(Step::is_of_format_1) {
        1
    } else {
        LIST_FORMAT
    }
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
        if !(1..=u64::from(LIST_FORMAT)).contains(&format) {
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
    pub fn entries_under<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a Entry> + use<'a> {
        let bytes = path.as_bytes();
        let end = self.entries.partition_point(|entry| {
            let entry = entry.path().as_bytes();
            entry < bytes || entry.starts_with(bytes)
        });
        let begins = &self.entries[..end];
        let from = begins.partition_point(|entry| entry.path().as_bytes() < bytes);
        let len = path.len();
        // "a-b" stands between "a" and "a/b".
        begins[from..]
            .iter()
            .filter(move |entry| matches!(entry.path().as_bytes().get(len), None | Some(b'/')))
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

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> List {
        List {
            format: 1,
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
                Step::new(
                    "site".parse().unwrap(),
                    Action::File {
                        source: "site".into(),
                        dest: "/srv/www".into(),
                        mode: Some(0o644),
                        keep: false,
                        purge: false,
                    },
                    600,
                ),
                Step {
                    needs: vec!["site".parse().unwrap()],
                    unless: Some(vec!["./tune.sh".into(), "--check".into()]),
                    ..Step::new(
                        "tune".parse().unwrap(),
                        Action::Run {
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
                            user: None,
                        },
                        1800,
                    )
                },
            ],
            settings: Settings::default(),
        }
    }

    /// One step of each kind that format 2 brought.
    fn every_action() -> List {
        let mut list = List {
            format: 2,
            ..sorted(sample())
        };
        let add = |list: &mut List, id: &str, action| {
            list.steps.push(Step::new(id.parse().unwrap(), action, 60));
        };
        let text = |text: &str| Some(text.to_owned());
        add(
            &mut list,
            "dir",
            Action::Directory {
                dest: "/var/lib/app".into(),
                mode: Some(0o750),
                owner: text("app"),
                group: text("app"),
            },
        );
        add(
            &mut list,
            "link",
            Action::Link {
                dest: "/opt/current".into(),
                target: "/opt/app-1".into(),
            },
        );
        add(
            &mut list,
            "template",
            Action::Template {
                source: "tune.sh".into(),
                dest: "/etc/app.conf".into(),
                mode: Some(0o640),
                keep: true,
            },
        );
        add(
            &mut list,
            "service",
            Action::Service {
                name: "nginx.service".into(),
                state: Some(ServiceState::Reloaded),
                enabled: Some(true),
            },
        );
        add(
            &mut list,
            "user",
            Action::User {
                name: "app".into(),
                uid: Some(900),
                groups: vec!["adm".into()],
                home: text("/var/lib/app"),
                shell: text("/bin/bash"),
                ssh_keys: vec!["ssh-ed25519 AAAA ops".into()],
                system: true,
            },
        );
        add(
            &mut list,
            "play",
            Action::Ansible {
                source: "tune.sh".into(),
                args: vec!["--diff".into()],
                env: vec![],
            },
        );
        add(
            &mut list,
            "first-boot",
            Action::CloudInit {
                source: "tune.sh".into(),
                modules: vec!["write_files".into()],
            },
        );
        let last = list.steps.last_mut().unwrap();
        last.retry = Some(Retry {
            times: 3,
            delay_seconds: 10,
        });
        last.on_failure = OnFailure::Continue;
        last.on_interrupt = OnInterrupt::Fail;
        last.limits = Some(Limits {
            memory_bytes: Some(1 << 29),
            cpu_percent: Some(50),
        });
        add(
            &mut list,
            "reload",
            Action::Service {
                name: "app.service".into(),
                state: Some(ServiceState::Reloaded),
                enabled: None,
            },
        );
        list.steps[4].notify = vec!["reload".parse().unwrap()];
        list.settings
            .vars
            .insert("workers".into(), serde_json::json!({"count": 4, "names": ["a", "b"]}));
        list
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
            format: 3,
            ..sorted(sample())
        };
        assert!(matches!(List::from_bytes(&list.to_bytes()), Err(ListError::Format(3))));
    }

    #[test]
    fn a_list_has_the_oldest_format_that_can_say_what_is_in_it() {
        let mut list = sorted(sample());
        assert_eq!(format_of(&list.steps, &list.settings), 1);
        list.steps[0].when = Some("facts.memory_mb >= 2048".into());
        assert_eq!(format_of(&list.steps, &list.settings), 2);
        assert!(list.check().is_err(), "format 1 knows no condition");
        list.format = 2;
        assert!(list.check().is_ok());
        assert_eq!(List::from_bytes(&list.to_bytes()).unwrap(), list);
        list.steps[0].when = Some("facts.memory_mb >=".into());
        assert!(list.check().is_err());
    }

    #[test]
    fn bytes_of_format_2_stay_as_they_are() {
        let list = every_action();
        list.check().unwrap();
        assert_eq!(List::from_bytes(&list.to_bytes()).unwrap(), list);
        assert_eq!(
            list.digest().to_string(),
            "6861dedaf1f56d68ace961349d21460434a49f8bf83314854801a53929ba678e"
        );
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
