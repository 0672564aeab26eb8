//! Remembers what `file` steps placed, so that what a later release no longer lists can be removed if nobody changed it.
//!
//! Noted (synced) before anything is placed: whatever a crash leaves behind is known.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use potluck_model::{ConfigurationName, Digest, StepId};
use serde::{Deserialize, Serialize};

use crate::file;

/// The version of `placed.json` that this version writes and reads.
pub(crate) const PLACED_FORMAT: u32 = 1;

/// Something that was placed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Thing {
    File(Digest),
    Link(String),
    /// A directory that was made: one that was there before is nobody's.
    Directory,
}

/// Who placed what.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) configuration: ConfigurationName,
    pub(crate) step: StepId,
    pub(crate) thing: Thing,
    /// What was placed there before, while it is not certain which of the two it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<Thing>,
    /// It stays when it is no longer listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) keep: bool,
}

/// All that was placed under one root, by path under it.
pub(crate) struct PlacedFiles {
    path: PathBuf,
    root: PathBuf,
    files: BTreeMap<String, Placed>,
    /// The paths of each step of a configuration: a release of a thousand steps asks a thousand times.
    by_step: BTreeMap<(ConfigurationName, StepId), BTreeSet<String>>,
    dirty: bool,
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    root: PathBuf,
    files: BTreeMap<String, Placed>,
}

impl PlacedFiles {
    pub(crate) fn open(dir: &Path, root: &Path) -> io::Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: u64,
        }
        let path = dir.join("placed.json");
        let files = match fs::read(&path) {
            Ok(bytes) => {
                let format = serde_json::from_slice::<Format>(&bytes)?.format;
                if format > u64::from(PLACED_FORMAT) {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!(
                            "it has format {format}; this version of Potluck reads up to {PLACED_FORMAT}: update it"
                        ),
                    ));
                }
                let document: Document = serde_json::from_slice(&bytes)?;
                // Under another root, nothing was placed yet.
                if document.root == root {
                    document.files
                } else {
                    BTreeMap::new()
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        let mut placed = Self {
            path,
            root: root.to_owned(),
            files: BTreeMap::new(),
            by_step: BTreeMap::new(),
            dirty: false,
        };
        for (path, thing) in files {
            placed.insert(path, thing);
        }
        Ok(placed)
    }

    fn insert(&mut self, path: String, placed: Placed) {
        self.remove(&path);
        let step = (placed.configuration.clone(), placed.step.clone());
        self.by_step.entry(step).or_default().insert(path.clone());
        self.files.insert(path, placed);
    }

    fn remove(&mut self, path: &str) -> bool {
        let Some(placed) = self.files.remove(path) else {
            return false;
        };
        let step = (placed.configuration, placed.step);
        if let Some(paths) = self.by_step.get_mut(&step) {
            paths.remove(path);
            if paths.is_empty() {
                self.by_step.remove(&step);
            }
        }
        true
    }

    /// What a step placed, by path.
    pub(crate) fn of_step(
        &self,
        configuration: &ConfigurationName,
        step: &StepId,
    ) -> impl DoubleEndedIterator<Item = (&String, &Placed)> {
        let paths = self.by_step.get(&(configuration.clone(), step.clone()));
        paths
            .into_iter()
            .flatten()
            .filter_map(|path| self.files.get_key_value(path))
    }

    pub(crate) fn files(&self) -> &BTreeMap<String, Placed> {
        &self.files
    }

    /// Notes that a step is about to place something. A directory counts only if it was made.
    pub(crate) fn intend(&mut self, path: &str, mut placed: Placed) {
        if let Some(known) = self.files.get(path) {
            if known.thing != placed.thing {
                placed.before = Some(known.thing.clone());
            } else if known.before.is_some() {
                placed.before.clone_from(&known.before);
            }
            if *known == placed {
                return;
            }
        }
        self.insert(path.to_owned(), placed);
        self.dirty = true;
    }

    /// Notes that a thing is what is there now.
    pub(crate) fn certain(&mut self, path: &str) {
        if let Some(placed) = self.files.get_mut(path)
            && placed.before.take().is_some()
        {
            self.dirty = true;
        }
    }

    /// Notes what is known of a path, whatever was known before.
    pub(crate) fn set(&mut self, path: &str, placed: Option<Placed>) {
        match placed {
            Some(placed) => {
                self.dirty |= self.files.get(path) != Some(&placed);
                self.insert(path.to_owned(), placed);
            }
            None => self.forget(path),
        }
    }

    pub(crate) fn forget(&mut self, path: &str) {
        self.dirty |= self.remove(path);
    }

    /// Makes it last, if anything changed.
    pub(crate) fn save(&mut self) -> io::Result<()> {
        if !self.dirty {
            return Ok(());
        }
        let document = Document {
            format: PLACED_FORMAT,
            root: self.root.clone(),
            files: std::mem::take(&mut self.files),
        };
        let result = serde_json::to_vec(&document)
            .map_err(io::Error::from)
            .and_then(|bytes| file::replace(&self.path, &bytes));
        self.files = document.files;
        self.dirty = result.is_err();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> Placed {
        Placed {
            configuration: "web".parse().unwrap(),
            step: "site".parse().unwrap(),
            thing: Thing::File(Digest::of(bytes)),
            before: None,
            keep: false,
        }
    }

    #[test]
    fn what_is_intended_does_not_forget_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut placed = PlacedFiles::open(dir.path(), Path::new("/r")).unwrap();
        placed.intend("a", file(b"1"));
        placed.save().unwrap();
        let mut placed = PlacedFiles::open(dir.path(), Path::new("/r")).unwrap();
        placed.intend("a", file(b"2"));
        placed.intend("a", file(b"2"));
        assert_eq!(placed.files()["a"].before, Some(Thing::File(Digest::of(b"1"))));
        placed.certain("a");
        assert_eq!(placed.files()["a"], file(b"2"));
    }

    #[test]
    fn nothing_is_written_when_nothing_changed() {
        let dir = tempfile::tempdir().unwrap();
        let mut placed = PlacedFiles::open(dir.path(), Path::new("/r")).unwrap();
        placed.save().unwrap();
        assert!(!dir.path().join("placed.json").exists());
        placed.intend("a", file(b"1"));
        placed.save().unwrap();
        fs::remove_file(dir.path().join("placed.json")).unwrap();
        placed.intend("a", file(b"1"));
        placed.certain("a");
        placed.save().unwrap();
        assert!(!dir.path().join("placed.json").exists());
    }

    #[test]
    fn what_was_placed_under_another_root_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let mut placed = PlacedFiles::open(dir.path(), Path::new("/r")).unwrap();
        placed.intend("a", file(b"1"));
        placed.save().unwrap();
        assert!(
            PlacedFiles::open(dir.path(), Path::new("/other"))
                .unwrap()
                .files()
                .is_empty()
        );
    }
}
