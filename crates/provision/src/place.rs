//! Places files and links under a root: all of them are written beside their places first, and appear by renaming only once
//! all are good and on disk. Given up before that, nothing is changed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use potluck_model::Digest;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::look::Look;
use crate::root::{Directories, MachineRoot, join, split};
use crate::saved;
use crate::stage::Staged;

/// Up to so many files and directories are synced one by one; more by one sync of the file system.
const SYNC_EACH_MAX: usize = 8;

/// Something could not be placed.
#[derive(Debug, thiserror::Error)]
#[error("cannot place /{path}: {why}")]
pub(crate) struct PlaceError {
    path: String,
    why: String,
}

impl PlaceError {
    fn new(path: &str, why: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            why: why.into(),
        }
    }

    pub(crate) fn of(path: &str, error: &io::Error) -> Self {
        Self::new(path, explain(error))
    }

    fn io(path: &str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::new(path, explain(&error))
    }

    fn errno(path: &str) -> impl FnOnce(Errno) -> Self {
        move |error| Self::new(path, explain(&error.into()))
    }
}

/// Says what to do about the usual reasons.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotADirectory => "something above it is a file, not a directory: remove it".to_owned(),
        io::ErrorKind::NotFound => "a symbolic link above it leads nowhere, or out of the root".to_owned(),
        io::ErrorKind::StorageFull => format!("{error}: free some space, and the step will be done again"),
        _ => error.to_string(),
    }
}

/// Where a file is written until it gets its name. Known from the name alone, so that it is found again after a crash.
pub(crate) fn temp_name(path: &str) -> String {
    format!(".potluck-{}", &Digest::of(path.as_bytes()).to_string()[..24])
}

pub(crate) struct Placement<'r> {
    directories: Directories<'r>,
    /// For what is to survive a power loss: the list of what is staged, so that it can be cleaned up after a crash.
    staging: Option<Staging>,
    /// What waits under its temp name, in order.
    staged: Vec<String>,
    /// What waits elsewhere, with where it belongs.
    adopted: Vec<(String, Staged)>,
    /// Directories that were made, with the mode that they get in the end.
    made: Vec<(String, u32)>,
    /// One directory of each file system that is written to, and whether files there still need a sync.
    devices: BTreeMap<u64, (OwnedFd, bool)>,
    /// The last directory that was written to, and its device.
    last: Option<(String, u64)>,
    synced: usize,
    done: bool,
}

impl<'r> Placement<'r> {
    /// What is placed need not survive a power loss, and what is not good is found and replaced the next time.
    pub(crate) fn passing(root: &'r MachineRoot) -> Self {
        Self::new(root, None)
    }

    /// What is placed survives a power loss once `commit` returns. `dir` is where it notes what to clean up after a crash.
    pub(crate) fn durable(root: &'r MachineRoot, dir: &Path) -> Result<Self, PlaceError> {
        let staging = Staging::begin(root, dir).map_err(PlaceError::io(""))?;
        Ok(Self::new(root, Some(staging)))
    }

    fn new(root: &'r MachineRoot, staging: Option<Staging>) -> Self {
        Self {
            directories: Directories::new(root),
            staging,
            staged: Vec::new(),
            adopted: Vec::new(),
            made: Vec::new(),
            devices: BTreeMap::new(),
            last: None,
            synced: 0,
            done: false,
        }
    }

    /// Makes sure that there is a directory; one that is there already stays as it is. True: it was made.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> Result<bool, PlaceError> {
        match self.directories.at(path) {
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(PlaceError::io(path)(error)),
        }
        self.make(path)?;
        if let Some(last) = self.made.last_mut().filter(|last| last.0 == path) {
            last.1 = mode;
        }
        Ok(true)
    }

    /// Writes a file of exactly this mode.
    pub(crate) fn file<E: From<PlaceError>>(
        &mut self,
        path: &str,
        mode: u32,
        write: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<(), E> {
        let directory = self.place_for(path)?;
        let mut file = match self.create_in_place(&directory, path) {
            Some(file) => file,
            None => {
                let file = over_left(&directory, path, |temp| create(&directory, temp));
                self.staged.push(path.to_owned());
                file.map_err(PlaceError::errno(path))?
            }
        };
        write(&mut file)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(PlaceError::errno(path))?;
        if self.sync_now() {
            file.sync_all().map_err(PlaceError::io(path))?;
        }
        Ok(())
    }

    /// A new file under its own name, where nobody looks before all is there and half a file is of no harm.
    fn create_in_place(&self, directory: &OwnedFd, path: &str) -> Option<File> {
        if self.staging.is_some() {
            return None;
        }
        create(directory, split(path).1).ok()
    }

    /// Places a file that was written elsewhere, with the mode that it has.
    pub(crate) fn adopt(&mut self, path: &str, staged: Staged) -> Result<(), PlaceError> {
        self.directory_for(path)?;
        if !staged.synced && self.sync_now() {
            match open(&staged) {
                Ok(file) => file.sync_all().map_err(PlaceError::io(path))?,
                // Its mode does not let even its owner read it.
                Err(Errno::ACCESS) => self.sync_later(),
                Err(error) => return Err(PlaceError::errno(path)(error)),
            }
        }
        self.adopted.push((path.to_owned(), staged));
        Ok(())
    }

    /// Says what will be written, so that it need not be noted one by one.
    pub(crate) fn announce<'p>(&mut self, paths: impl Iterator<Item = &'p str>) -> Result<(), PlaceError> {
        match &mut self.staging {
            Some(staging) => staging.note_all(paths).map_err(PlaceError::io("")),
            None => Ok(()),
        }
    }

    /// Whether a file in the directory that was opened last is to be synced by itself; else it will be with the others.
    fn sync_now(&mut self) -> bool {
        if self.staging.is_none() {
            return false;
        }
        if self.synced < SYNC_EACH_MAX {
            self.synced += 1;
            return true;
        }
        self.sync_later();
        false
    }

    fn sync_later(&mut self) {
        if let Some((_, device)) = &self.last
            && let Some(device) = self.devices.get_mut(device)
        {
            device.1 = true;
        }
    }

    /// Makes a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<(), PlaceError> {
        let directory = self.place_for(path)?;
        over_left(&directory, path, |temp| {
            rustix::fs::symlinkat(target, &*directory, temp)
        })
        .map_err(PlaceError::errno(path))?;
        self.staged.push(path.to_owned());
        Ok(())
    }

    /// Makes a second name for a file that was written before in this placement.
    pub(crate) fn hard_link(&mut self, path: &str, existing: &str) -> Result<(), PlaceError> {
        let directory = self.place_for(path)?;
        let from = self
            .directories
            .at(split(existing).0)
            .map_err(PlaceError::io(existing))?;
        over_left(&directory, path, |temp| {
            rustix::fs::linkat(&*from, temp_name(existing), &*directory, temp, AtFlags::empty())
        })
        .map_err(PlaceError::errno(path))?;
        self.staged.push(path.to_owned());
        Ok(())
    }

    /// Gives everything its name. Returns the directories that were made.
    pub(crate) fn commit(mut self) -> Result<Vec<String>, PlaceError> {
        for (device, dirty) in self.devices.values() {
            if *dirty {
                rustix::fs::syncfs(device).map_err(PlaceError::errno(""))?;
            }
        }
        for index in 0..self.staged.len() {
            let path = &self.staged[index];
            let (parent, name) = split(path);
            let directory = self.directories.at(parent).map_err(PlaceError::io(path))?;
            rustix::fs::renameat(&*directory, temp_name(path), &*directory, name).map_err(PlaceError::errno(path))?;
        }
        for (path, staged) in &self.adopted {
            let (parent, name) = split(path);
            let directory = self.directories.at(parent).map_err(PlaceError::io(path))?;
            match rustix::fs::renameat(&*staged.directory, &staged.name, &*directory, name) {
                // Another mount, or quota, of the same file system.
                Err(Errno::XDEV) => copy_over(staged, &directory, path).map_err(PlaceError::io(path))?,
                other => other.map_err(PlaceError::errno(path))?,
            }
        }
        // Deepest first: a directory that is not to be written to would hide what is in it.
        for index in (0..self.made.len()).rev() {
            let (path, mode) = &self.made[index];
            let (parent, name) = split(path);
            let directory = self.directories.at(parent).map_err(PlaceError::io(path))?;
            rustix::fs::chmodat(&*directory, name, Mode::from_raw_mode(*mode), AtFlags::empty())
                .map_err(PlaceError::errno(path))?;
        }
        if self.staging.is_some() {
            self.sync_names()?;
        }
        self.done = true;
        if let Some(staging) = self.staging.take() {
            staging.end();
        }
        Ok(std::mem::take(&mut self.made)
            .into_iter()
            .map(|(path, _)| path)
            .collect())
    }

    fn sync_names(&mut self) -> Result<(), PlaceError> {
        let made = self.made.iter().map(|(path, _)| path);
        let adopted = self.adopted.iter().map(|(path, _)| path);
        let all = self.staged.iter().chain(adopted).chain(made);
        let mut parents: Vec<&str> = all.map(|path| split(path).0).collect();
        parents.sort_unstable();
        parents.dedup();
        if parents.len() > SYNC_EACH_MAX {
            for (device, _) in self.devices.values() {
                rustix::fs::syncfs(device).map_err(PlaceError::errno(""))?;
            }
            return Ok(());
        }
        for parent in parents {
            let directory = self.directories.at(parent).map_err(PlaceError::io(parent))?;
            // Who may write to a directory but not read it cannot sync it either; the file system does in its own time.
            if let Ok(readable) = readable(&*directory) {
                rustix::fs::fsync(readable).map_err(PlaceError::errno(parent))?;
            }
        }
        Ok(())
    }

    fn make(&mut self, path: &str) -> Result<std::rc::Rc<OwnedFd>, PlaceError> {
        let mut made = Vec::new();
        let result = self.directories.make(path, &mut made);
        self.made.extend(made.into_iter().map(|path| (path, 0o755)));
        result.map_err(PlaceError::io(path))
    }

    /// The directory for `path`, noted so that its temp name is cleaned up after a crash.
    fn place_for(&mut self, path: &str) -> Result<std::rc::Rc<OwnedFd>, PlaceError> {
        let directory = self.directory_for(path)?;
        if let Some(staging) = &mut self.staging {
            staging.note(path).map_err(PlaceError::io(path))?;
        }
        Ok(directory)
    }

    /// The directory for `path`, whose place is not taken by a directory.
    fn directory_for(&mut self, path: &str) -> Result<std::rc::Rc<OwnedFd>, PlaceError> {
        let (parent, name) = split(path);
        if name.is_empty() {
            return Err(PlaceError::new(path, "that is the root itself"));
        }
        let directory = self.make(parent)?;
        if kind_at(&directory, name).map_err(PlaceError::errno(path))? == Some(FileType::Directory) {
            return Err(PlaceError::new(path, "a directory is in its place: remove it"));
        }
        if self.staging.is_some() && self.last.as_ref().is_none_or(|last| last.0 != parent) {
            let device = rustix::fs::fstat(&*directory).map_err(PlaceError::errno(path))?.st_dev;
            if let std::collections::btree_map::Entry::Vacant(entry) = self.devices.entry(device)
                && let Ok(readable) = readable(&*directory)
            {
                entry.insert((readable, false));
            }
            self.last = Some((parent.to_owned(), device));
        }
        Ok(directory)
    }
}

impl Drop for Placement<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        for path in std::mem::take(&mut self.staged) {
            if let Ok(directory) = self.directories.at(split(&path).0) {
                let _ = rustix::fs::unlinkat(&*directory, temp_name(&path), AtFlags::empty());
            }
        }
        for (path, _) in std::mem::take(&mut self.made).into_iter().rev() {
            let (parent, name) = split(&path);
            if let Ok(directory) = self.directories.at(parent) {
                let _ = rustix::fs::unlinkat(&*directory, name, AtFlags::REMOVEDIR);
            }
        }
        if let Some(staging) = self.staging.take() {
            staging.end();
        }
    }
}

/// The file that says what is staged: the root and then each path, all ended by a zero byte.
///
/// Not synced: after a power loss a temp file may stay, and is written over when its path is placed again.
struct Staging {
    path: PathBuf,
    file: File,
    /// Everything was noted.
    announced: bool,
}

impl Staging {
    fn begin(root: &MachineRoot, dir: &Path) -> io::Result<Self> {
        let path = dir.join("staging");
        let mut file = File::create(&path)?;
        file.write_all(root.path().as_os_str().as_bytes())?;
        file.write_all(&[0])?;
        Ok(Self {
            path,
            file,
            announced: false,
        })
    }

    fn note(&mut self, path: &str) -> io::Result<()> {
        if self.announced {
            return Ok(());
        }
        self.write([path].into_iter())
    }

    fn note_all<'p>(&mut self, paths: impl Iterator<Item = &'p str>) -> io::Result<()> {
        self.announced = true;
        self.write(paths)
    }

    fn write<'p>(&mut self, paths: impl Iterator<Item = &'p str>) -> io::Result<()> {
        let mut lines = Vec::new();
        for path in paths {
            lines.extend_from_slice(path.as_bytes());
            lines.push(0);
        }
        self.file.write_all(&lines)
    }

    fn end(self) {
        // If it stays, the next run finds nothing of what it names.
        let _ = fs::remove_file(self.path);
    }
}

/// Removes what a placement that was cut off left beside its places.
pub(crate) fn clean_up(root: &MachineRoot, dir: &Path) -> io::Result<()> {
    let path = dir.join("staging");
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut parts = bytes.split(|byte| *byte == 0);
    if parts.next() == Some(root.path().as_os_str().as_bytes()) {
        let mut look = Look::new(root);
        for staged in parts.filter_map(|part| std::str::from_utf8(part).ok()) {
            // What cannot be removed now is written over later.
            let _ = look.remove(&join(split(staged).0, &temp_name(staged)));
        }
    }
    fs::remove_file(path)
}

fn create(directory: &OwnedFd, name: &str) -> rustix::io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600)).map(File::from)
}

/// Makes something at the temp name of `path`, in place of what a run that was cut off may have left there.
fn over_left<T>(
    directory: &OwnedFd,
    path: &str,
    make: impl Fn(&str) -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    let temp = temp_name(path);
    match make(&temp) {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(directory, &temp, AtFlags::empty())?;
            make(&temp)
        }
        other => other,
    }
}

fn open(staged: &Staged) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&*staged.directory, &staged.name, flags, Mode::empty()).map(File::from)
}

/// Places a copy of a staged file that cannot be renamed.
fn copy_over(staged: &Staged, directory: &OwnedFd, path: &str) -> io::Result<()> {
    let mut from = open(staged)?;
    let mut to = over_left(directory, path, |temp| create(directory, temp))?;
    let temp = temp_name(path);
    let copied = saved::copy(&mut from, &mut to)
        .and_then(|()| Ok(rustix::fs::renameat(directory, &temp, directory, split(path).1)?));
    if copied.is_err() {
        let _ = rustix::fs::unlinkat(directory, &temp, AtFlags::empty());
    }
    copied
}

fn readable(directory: impl AsFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, ".", flags, Mode::empty())
}

fn kind_at(directory: &OwnedFd, name: &str) -> rustix::io::Result<Option<FileType>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
