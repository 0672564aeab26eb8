//! What was on the machine before steps changed it, so that it can be put back.
//!
//! `DIR/undo/N.json` is a record, written and synced before the change that it is about; `DIR/undo/N.M` is a file that was there: a
//! second name of it or, on another file system, a copy. Records are kept from the first change after the machine was last as a
//! release says, until it is so again.
//!
//! Limits: of files on another file system than `DIR`, `COPIED_BYTES_MAX` are kept; of what is neither file, link nor directory,
//! nothing. A record says so, and putting back as well.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use potluck_model::{ConfigurationName, Digest, StepId};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::file;
use crate::look::{Found, Look};
use crate::place::{PlaceError, Placement};
use crate::placed::{Placed, PlacedFiles};
use crate::root::{MachineRoot, split};
use crate::stage::Staged;

/// The version of a record that this version writes and reads.
const RECORD_FORMAT: u32 = 1;
/// Bytes of files that are kept as copies, at most.
const COPIED_BYTES_MAX: u64 = 1 << 30;
/// The most records.
const RECORDS_MAX: usize = 20_000;

/// What one step was about to change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    /// Digest of the list whose step it is.
    pub(crate) list: Digest,
    pub(crate) configuration: ConfigurationName,
    pub(crate) step: StepId,
    /// The directory under which the paths are.
    root: PathBuf,
    /// What was there, what is above before what is in it.
    before: Vec<Before>,
    /// The step says how what it did is taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) command: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Before {
    /// Under the root.
    path: String,
    was: Was,
    /// What was known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    placed: Option<Placed>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Was {
    Nothing,
    /// Its name in `DIR/undo`.
    File(String),
    Link(String),
    /// Its permission bits.
    Directory(u32),
    /// As it is to be: only what was known of it changes.
    Same,
    /// Why it was not kept.
    Lost(String),
}

/// The writing and reading end.
pub(crate) struct Saved {
    dir: PathBuf,
    next: u64,
    copied_bytes: u64,
}

impl Saved {
    /// Opens `DIR/undo`; what was being written when an earlier process died is removed.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("undo");
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut saved = Self {
            dir,
            next: 1,
            copied_bytes: 0,
        };
        let numbers = saved.numbers()?;
        saved.next = numbers.last().map_or(1, |last| last + 1);
        for entry in fs::read_dir(&saved.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.split('.').next()?.parse::<u64>().ok());
            match number {
                Some(number) if numbers.binary_search(&number).is_ok() => {
                    let data = entry.metadata()?;
                    saved.copied_bytes += data.len();
                }
                _ => fs::remove_file(entry.path())?,
            }
        }
        Ok(saved)
    }

    /// Numbers of the records, the oldest first.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_suffix(".json")?.parse::<u64>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Keeps what is at `paths` under `root`, and what of the directories above them is not there yet; and what is known of `same`,
    /// which are not changed. Synced when this returns.
    pub(crate) fn keep(
        &mut self,
        root: &MachineRoot,
        placed: &PlacedFiles,
        mut record: Record,
        paths: impl Iterator<Item = String>,
        same: impl Iterator<Item = String>,
    ) -> io::Result<()> {
        let number = self.next;
        let mut look = Look::new(root);
        let mut all = BTreeSet::new();
        for path in paths {
            let mut above = split(&path).0;
            while !above.is_empty() && !all.contains(above) && !look.is_directory(above).unwrap_or(true) {
                all.insert(above.to_owned());
                above = split(above).0;
            }
            all.insert(path);
        }
        record.before.extend(same.map(|path| Before {
            placed: placed.files().get(&path).cloned(),
            path,
            was: Was::Same,
        }));
        let fd = self.fd()?;
        // Sorted: what is above comes first.
        for (index, path) in all.into_iter().enumerate() {
            let was = self.was(&mut look, &fd, &path, &format!("{number}.{index}"))?;
            record.before.push(Before {
                placed: placed.files().get(&path).cloned(),
                path,
                was,
            });
        }
        self.write(&record)
    }

    /// Notes that a step is about to do what its `undo` takes back.
    pub(crate) fn note(&mut self, record: Record) -> io::Result<()> {
        self.write(&Record {
            command: true,
            ..record
        })
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        if self.numbers()?.len() >= RECORDS_MAX {
            return Err(io::Error::other(format!("there are {RECORDS_MAX} records already")));
        }
        let path = self.path(self.next);
        serde_json::to_vec(record)
            .map_err(io::Error::from)
            .and_then(|bytes| file::replace(&path, &bytes))?;
        self.next += 1;
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number}.json"))
    }

    fn fd(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.dir, flags, Mode::empty())?)
    }

    fn was(&mut self, look: &mut Look<'_>, fd: &OwnedFd, path: &str, name: &str) -> io::Result<Was> {
        Ok(match look.at(path)? {
            Found::Nothing => Was::Nothing,
            Found::Link(target) => Was::Link(target),
            Found::Directory => Was::Directory(look.mode(path)?),
            Found::Other => Was::Lost("it is neither a file nor a link nor a directory".to_owned()),
            Found::File { size, .. } => {
                if look.link(path, fd, name).is_ok() {
                    Was::File(name.to_owned())
                } else if self.copied_bytes + size > COPIED_BYTES_MAX {
                    Was::Lost(format!(
                        "it is on another file system, and copies have {COPIED_BYTES_MAX} bytes at most"
                    ))
                } else {
                    match look.copy(path, fd, name) {
                        Ok(()) => {
                            self.copied_bytes += size;
                            Was::File(name.to_owned())
                        }
                        Err(error) => Was::Lost(format!("it could not be copied: {error}")),
                    }
                }
            }
        })
    }

    /// The last record, with its number.
    pub(crate) fn last(&self) -> io::Result<Option<(u64, Record)>> {
        let Some(number) = self.numbers()?.pop() else {
            return Ok(None);
        };
        let record: Record = serde_json::from_slice(&fs::read(self.path(number))?)?;
        if record.format > RECORD_FORMAT {
            return Err(io::Error::other(format!(
                "{} has format {}; this version of Potluck reads up to {RECORD_FORMAT}: update it",
                self.path(number).display(),
                record.format
            )));
        }
        Ok(Some((number, record)))
    }

    /// Puts back what a record says was there, as far as it was kept: what was not is returned. Done again after it was cut off, it
    /// comes to the same.
    pub(crate) fn put_back(
        &self,
        root: &MachineRoot,
        dir: &Path,
        placed: &mut PlacedFiles,
        record: &Record,
    ) -> Result<Vec<String>, PlaceError> {
        if record.root != root.path() {
            return Ok(vec![format!("what is under {}", record.root.display())]);
        }
        let io = |path: &str| {
            let path = path.to_owned();
            move |error: io::Error| PlaceError::of(&path, &error)
        };
        let fd = Arc::new(self.fd().map_err(io(""))?);
        let mut lost = Vec::new();
        let mut look = Look::new(root);
        // What was made is removed first: it may stand where something else was.
        for before in record.before.iter().rev() {
            if before.was == Was::Nothing {
                match look.at(&before.path).map_err(io(&before.path))? {
                    Found::Nothing => {}
                    Found::Directory => drop(look.remove_empty(&before.path).map_err(io(&before.path))?),
                    _ => drop(look.remove(&before.path).map_err(io(&before.path))?),
                }
            }
        }
        let mut placement = Placement::durable(root, dir)?;
        for before in &record.before {
            match &before.was {
                Was::Nothing | Was::Same => {}
                Was::Link(target) => placement.link(&before.path, target)?,
                Was::Directory(mode) => drop(placement.directory(&before.path, *mode)?),
                Was::Lost(why) => lost.push(format!("/{} ({why})", before.path)),
                // Without its name it is in its place already.
                Was::File(name) if !self.dir.join(name).exists() => {}
                Was::File(name) => {
                    let staged = Staged {
                        directory: Arc::clone(&fd),
                        name: name.clone(),
                        synced: true,
                    };
                    placement.adopt(&before.path, staged)?;
                }
            }
        }
        placement.commit()?;
        for before in &record.before {
            placed.set(&before.path, before.placed.clone());
        }
        placed.save().map_err(io(""))?;
        Ok(lost)
    }

    /// Forgets a record.
    pub(crate) fn forget(&self, number: u64) -> io::Result<()> {
        fs::remove_file(self.path(number))?;
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let of_record = |name: &str| name.split_once('.').is_some_and(|(of, _)| of == number.to_string());
            if entry.file_name().to_str().is_some_and(of_record) {
                fs::remove_file(entry.path())?;
            }
        }
        file::sync_dir(&self.dir)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        let numbers = self.numbers()?;
        if numbers.is_empty() {
            return Ok(());
        }
        // Records first: one without its files would put back less than it says.
        for number in numbers {
            fs::remove_file(self.path(number))?;
        }
        file::sync_dir(&self.dir)?;
        for entry in fs::read_dir(&self.dir)? {
            fs::remove_file(entry?.path())?;
        }
        (self.next, self.copied_bytes) = (1, 0);
        Ok(())
    }
}

impl Record {
    /// An empty one.
    pub(crate) fn new(list: Digest, configuration: &ConfigurationName, step: &StepId, root: &MachineRoot) -> Self {
        Self {
            format: RECORD_FORMAT,
            list,
            configuration: configuration.clone(),
            step: step.clone(),
            root: root.path().to_owned(),
            before: Vec::new(),
            command: false,
        }
    }
}

/// Copies a file with its mode and owner; synced.
pub(crate) fn copy(from: &mut File, to: &mut File) -> io::Result<()> {
    io::copy(from, to)?;
    let stat = rustix::fs::fstat(&*from)?;
    let own = rustix::fs::fstat(&*to)?;
    if (stat.st_uid, stat.st_gid) != (own.st_uid, own.st_gid) {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(stat.st_uid),
            rustix::fs::Gid::from_raw(stat.st_gid),
        );
        rustix::fs::fchown(&*to, Some(uid), Some(gid))?;
    }
    // A change of owner takes special bits away.
    rustix::fs::fchmod(&*to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    to.sync_all()
}

#[cfg(test)]
mod tests;
