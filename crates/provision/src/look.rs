//! What stands under the root.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use potluck_model::Digest;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::content;
use crate::diff::{DIFF_BYTES_MAX, Version};
use crate::root::{Directories, MachineRoot, split};
use crate::saved;

/// What stands at a place, as far as it matters.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Found {
    Nothing,
    Directory,
    File {
        size: u64,
        mode: u32,
        /// Whether it belongs to who executes this.
        ours: bool,
    },
    Link(String),
    Other,
}

/// Looks at what stands under a root, without following the last name. For a time in which no directories are made there.
pub(crate) struct Look<'r> {
    directories: Directories<'r>,
    /// The last directory that was not there: what would be in it comes in a row.
    missing: Option<String>,
    buffer: Vec<u8>,
    uid: u32,
}

impl<'r> Look<'r> {
    pub(crate) fn new(root: &'r MachineRoot) -> Self {
        Self {
            directories: Directories::new(root),
            missing: None,
            buffer: Vec::new(),
            uid: rustix::process::geteuid().as_raw(),
        }
    }

    pub(crate) fn at(&mut self, path: &str) -> io::Result<Found> {
        let (parent, name) = split(path);
        if name.is_empty() {
            return Ok(Found::Directory);
        }
        if self.missing.as_deref() == Some(parent) {
            return Ok(Found::Nothing);
        }
        let directory = match self.directories.at(parent) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.missing = Some(parent.to_owned());
                return Ok(Found::Nothing);
            }
            Err(error) => return Err(error),
        };
        let stat = match rustix::fs::statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(error) => return Err(error.into()),
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Found::Directory,
            FileType::RegularFile => Found::File {
                size: stat.st_size as u64,
                mode: stat.st_mode & 0o7777,
                ours: stat.st_uid == self.uid,
            },
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&*directory, name, Vec::new())?;
                target.into_string().map_or(Found::Other, Found::Link)
            }
            _ => Found::Other,
        })
    }

    /// Whether there is a directory, symbolic links followed inside the root.
    pub(crate) fn is_directory(&mut self, path: &str) -> io::Result<bool> {
        match self.directories.at(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The digest of the file at `path`; `None` if it cannot be read.
    pub(crate) fn digest(&mut self, path: &str) -> Option<Digest> {
        let mut file = self.open(path)?;
        content::digest_of(&mut file, &mut self.buffer).ok()
    }

    /// Bytes and mode of the file at `path`, to be shown; `None`: there is no file.
    pub(crate) fn version(&mut self, path: &str) -> Option<Version> {
        let Found::File { size, mode, .. } = self.at(path).ok()? else {
            return None;
        };
        let bytes = self.open(path).filter(|_| size <= DIFF_BYTES_MAX).and_then(|file| {
            let mut bytes = Vec::new();
            // It may grow meanwhile.
            file.take(DIFF_BYTES_MAX).read_to_end(&mut bytes).ok().map(|_| bytes)
        });
        Some(Version { bytes, mode })
    }

    fn open(&mut self, path: &str) -> Option<File> {
        let (parent, name) = split(path);
        let directory = self.directories.at(parent).ok()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&*directory, name, flags, Mode::empty())
            .ok()
            .map(File::from)
    }

    /// Permission bits of what is at `path`.
    pub(crate) fn mode(&mut self, path: &str) -> io::Result<u32> {
        let (parent, name) = split(path);
        let directory = self.directories.at(parent)?;
        let stat = rustix::fs::statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(stat.st_mode & 0o7777)
    }

    /// Gives the file at `path` another name, in `to`, which is on the same file system.
    pub(crate) fn link(&mut self, path: &str, to: &OwnedFd, name: &str) -> io::Result<()> {
        let (parent, from) = split(path);
        let directory = self.directories.at(parent)?;
        Ok(rustix::fs::linkat(&*directory, from, to, name, AtFlags::empty())?)
    }

    /// Copies the file at `path`, with mode and owner; synced.
    pub(crate) fn copy(&mut self, path: &str, to: &OwnedFd, name: &str) -> io::Result<()> {
        let mut from = self
            .open(path)
            .ok_or_else(|| io::Error::other("it cannot be opened to be kept"))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
        saved::copy(&mut from, &mut File::from(to))
    }

    /// Removes a file or a link; true if it was there.
    pub(crate) fn remove(&mut self, path: &str) -> io::Result<bool> {
        self.unlink(path, AtFlags::empty())
    }

    /// Removes a directory if it is empty; true if it was.
    pub(crate) fn remove_empty(&mut self, path: &str) -> io::Result<bool> {
        match self.unlink(path, AtFlags::REMOVEDIR) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            other => other,
        }
    }

    fn unlink(&mut self, path: &str, flags: AtFlags) -> io::Result<bool> {
        let (parent, name) = split(path);
        let directory = match self.directories.at(parent) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match rustix::fs::unlinkat(&*directory, name, flags) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
