//! `purge`: removes what is in a directory and no step places.
//!
//! The directory is opened once, links followed inside the root only; from there on every name is opened as what it is, so that
//! whoever can write there, and puts a link in the place of a directory meanwhile, has nothing removed elsewhere.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;

use crate::root::{MachineRoot, join, split};

/// How deep directories that are purged may be nested.
const DEPTH_MAX: usize = 256;

/// Something in the directory that no step places.
pub(super) struct Unwanted {
    /// As seen from the directory.
    rest: String,
    /// As seen from the root.
    pub(super) path: String,
    is_directory: bool,
}

pub(super) struct Purge {
    directory: OwnedFd,
}

impl Purge {
    /// `None`: the directory is not there.
    pub(super) fn open(root: &MachineRoot, dest: &str) -> io::Result<Option<Self>> {
        match root.directory(dest) {
            Ok(directory) => Ok(Some(Self { directory })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is in the `directories` (as seen from `dest`) and is none of `wanted`, nor holds any of them. A directory that is a
    /// link, or is not there, holds nothing.
    pub(super) fn unwanted<'d>(
        &self,
        dest: &str,
        directories: impl Iterator<Item = &'d str>,
        wanted: &BTreeSet<String>,
    ) -> io::Result<Vec<Unwanted>> {
        let mut unwanted = Vec::new();
        for rest in directories {
            let Some(directory) = below(&self.directory, rest)? else {
                continue;
            };
            for (name, is_directory) in entries(&directory)? {
                let rest = join(rest, &name);
                let path = join(dest, &rest);
                // What another step places may lie deeper.
                let below = format!("{path}/");
                let holds_wanted = wanted
                    .range(below.clone()..)
                    .next()
                    .is_some_and(|next| next.starts_with(&below));
                if !wanted.contains(&path) && !holds_wanted {
                    unwanted.push(Unwanted {
                        rest,
                        path,
                        is_directory,
                    });
                }
            }
        }
        Ok(unwanted)
    }

    /// The path of it and of all that is in it, as seen from the root.
    pub(super) fn below(&self, unwanted: &Unwanted, paths: &mut Vec<String>) -> io::Result<()> {
        paths.push(unwanted.path.clone());
        match below(&self.directory, &unwanted.rest)? {
            Some(directory) if unwanted.is_directory => all(&directory, &unwanted.path, paths, 0),
            _ => Ok(()),
        }
    }

    /// Removes it, with all that is in it.
    pub(super) fn remove(&self, unwanted: &Unwanted) -> io::Result<()> {
        let (parent, name) = split(&unwanted.rest);
        let Some(parent) = below(&self.directory, parent)? else {
            return Ok(());
        };
        remove(&parent, name, unwanted.is_directory, 0)
    }
}

/// The directory at `rest` below `directory`, if it is one; no link is followed.
fn below(directory: &OwnedFd, rest: &str) -> io::Result<Option<OwnedFd>> {
    let mut found = directory.try_clone()?;
    for name in rest.split('/').filter(|name| !name.is_empty()) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        found = match openat(&found, name, flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
    }
    Ok(Some(found))
}

/// The names in a directory, and whether each is a directory itself. Names that are not UTF-8 are left alone.
fn entries(directory: impl AsFd) -> io::Result<Vec<(String, bool)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = openat(directory, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&readable)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name != "." && name != ".." {
            let stat = statat(&readable, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            names.push((name.to_owned(), is_directory));
        }
    }
    names.sort();
    Ok(names)
}

/// The paths of all that is in a directory.
fn all(directory: &OwnedFd, path: &str, paths: &mut Vec<String>, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other(format!("it is nested deeper than {DEPTH_MAX}")));
    }
    for (name, is_directory) in entries(directory)? {
        let inner = join(path, &name);
        paths.push(inner.clone());
        if is_directory && let Some(directory) = below(directory, &name)? {
            all(&directory, &inner, paths, depth + 1)?;
        }
    }
    Ok(())
}

/// Removes what `name` is in `parent`; a directory with all that is in it. What is gone already is as well.
fn remove(parent: &OwnedFd, name: &str, is_directory: bool, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other(format!("it is nested deeper than {DEPTH_MAX}")));
    }
    let mut flags = AtFlags::empty();
    if is_directory && let Some(directory) = below(parent, name)? {
        for (name, is_directory) in entries(&directory)? {
            remove(&directory, &name, is_directory, depth + 1)?;
        }
        flags = AtFlags::REMOVEDIR;
    }
    match unlinkat(parent, name, flags) {
        // A name that is not UTF-8 keeps its directory.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_that_is_put_in_the_place_of_a_directory_meanwhile_has_nothing_removed_elsewhere() {
        let temp = tempfile::tempdir().unwrap();
        let inside = temp.path().join("root");
        fs::create_dir_all(inside.join("srv/a/old")).unwrap();
        fs::create_dir_all(inside.join("etc/old")).unwrap();
        fs::write(inside.join("srv/a/old/file"), "").unwrap();
        fs::write(inside.join("etc/old/precious"), "").unwrap();
        let root = MachineRoot::open(&inside).unwrap();
        let purge = Purge::open(&root, "srv").unwrap().unwrap();
        let wanted = BTreeSet::from(["srv/a".to_owned()]);
        let unwanted = purge.unwanted("srv", ["", "a"].into_iter(), &wanted).unwrap();
        let paths: Vec<&str> = unwanted.iter().map(|unwanted| unwanted.path.as_str()).collect();
        assert_eq!(paths, ["srv/a/old"]);
        // Between the look and the removing, somebody who may write to /srv is quick.
        fs::rename(inside.join("srv/a"), inside.join("srv/b")).unwrap();
        symlink("/etc", inside.join("srv/a")).unwrap();
        purge.remove(&unwanted[0]).unwrap();
        assert!(inside.join("etc/old/precious").exists());
        fs::remove_file(inside.join("srv/a")).unwrap();
        fs::rename(inside.join("srv/b"), inside.join("srv/a")).unwrap();
        fs::rename(inside.join("srv/a/old"), inside.join("srv/a/older")).unwrap();
        symlink("/etc/old", inside.join("srv/a/old")).unwrap();
        purge.remove(&unwanted[0]).unwrap();
        assert!(inside.join("etc/old/precious").exists() && !inside.join("srv/a/old").exists());
        // A link is no directory to look into either.
        fs::remove_dir_all(inside.join("srv/a")).unwrap();
        symlink("/etc", inside.join("srv/a")).unwrap();
        assert!(purge.unwanted("srv", ["a"].into_iter(), &wanted).unwrap().is_empty());
    }
}
