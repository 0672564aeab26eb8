//! Walls between the process that talks to the network and all else on the machine.
//!
//! `potluck agent` is two processes. The **keeper**, which is the one that was started, reads settings and the join string,
//! prepares the data directory, and starts executing processes when it is asked to (`potluck_provision::Keeper`); it opens no
//! network socket. It starts the **network process**, which is the agent proper: that one gives up what it does not need
//! (`confine`) before it says a word to anybody.
//!
//! Where the keeper is root, the network process has a user of its own, and the data directory is laid out so that this user
//! can write in it and still neither read, replace nor move `execute/`: the directory is root's, writable for the user's group,
//! and sticky.

mod confinement;
mod own_user;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, fchmod, fchown, fstat, openat};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
pub use confinement::{Confinement, confine};
pub use own_user::OwnUser;

/// Writable for the group, sticky, nothing for others.
const SHARED_MODE: u32 = 0o1770;
/// Directories below the data directory, at most: the store has three.
const DEPTH_MAX: usize = 16;
/// Documents of the agent that were in the executing process's directory up to version 0.1.
const MOVED: [&str; 2] = ["recent.json", "reported.json"];

/// Why the data directory cannot be prepared.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {source}")]
pub struct WallError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What the keeper hands to the network process, over the socket that is its standard input.
#[derive(Serialize, Deserialize)]
pub struct Handover {
    /// Process id of the keeper.
    pub keeper: u32,
    /// The text of the settings file, which the network process may not be able to read.
    pub settings: Option<String>,
    /// The join string (secret).
    pub join: Option<String>,
    /// The data directory, absolute.
    pub data: PathBuf,
    /// The machine's root, absolute.
    pub root: PathBuf,
    /// Marks of this machine; some are only for root to read.
    pub machine: Machine,
    /// The user to become; none: why there is none stands in `without`.
    pub user: Option<OwnUser>,
    /// Why there is no user of its own, for people.
    pub without: Option<String>,
}

/// A data directory that is prepared for two processes.
#[derive(Debug)]
pub struct Walls {
    /// It, absolute and without symbolic links.
    pub data: PathBuf,
    /// The network process's own user, or why there is none.
    pub user: Result<OwnUser, String>,
}

impl Walls {
    /// Prepares the data directory: makes it if it is not there, and gives the network process's user what is its.
    pub fn prepare(data: &Path) -> Result<Self, WallError> {
        let fault = |doing, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| WallError { doing, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data)
            .map_err(fault("create the data directory", data))?;
        let data = data.canonicalize().map_err(fault("open the data directory", data))?;
        let execute = data.join("execute");
        match fs::DirBuilder::new().mode(0o700).create(&execute) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(fault("create", &execute)(error));
            }
            _ => {}
        }
        for name in MOVED {
            let (from, to) = (execute.join(name), data.join(name));
            if fs::symlink_metadata(&to).is_err() {
                match fs::rename(&from, &to) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault("move", &from)(error)),
                    _ => {}
                }
            }
        }
        let user = OwnUser::choose(&data);
        match &user {
            Ok(user) => user.take(&data).map_err(fault("give its own user what is in", &data))?,
            // Root without privileges reads only what is its own.
            Err(_) if rustix::process::geteuid().is_root() => {
                OwnUser::root()
                    .take(&data)
                    .map_err(fault("take back for root what is in", &data))?;
            }
            Err(_) => {}
        }
        Ok(Self { data, user })
    }
}

impl OwnUser {
    /// Gives the user the data directory but for `execute`.
    fn take(&self, data: &Path) -> io::Result<()> {
        let dir = open_directory(CWD, data)?;
        let execute = openat(
            &dir,
            "execute",
            OFlags::NOFOLLOW | OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let found = fstat(&execute)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory || found.st_uid != 0 {
            return Err(io::Error::other(
                "execute in it is not a directory of root's: somebody tampered with it; move it away",
            ));
        }
        let found = File::from(dir.try_clone()?).metadata()?;
        let is_shared = found.permissions().mode() & 0o7777 == SHARED_MODE;
        let (mine, mode) = if self.uid == 0 {
            (!is_shared, 0o700)
        } else {
            (is_shared && (found.uid(), found.gid()) == (0, self.gid), SHARED_MODE)
        };
        // Written at each start: an agent without a user of its own may have run here since.
        let last = fs::symlink_metadata(data.join("boot")).map(|boot| boot.uid());
        if !(mine && last.map_or(true, |uid| uid == self.uid)) {
            self.take_tree(&dir, true, DEPTH_MAX)?;
        }
        if !mine {
            fchown(&dir, Some(Uid::ROOT), Some(Gid::from_raw(self.gid)))?;
            fchmod(&dir, Mode::from_raw_mode(mode))?;
        }
        Ok(())
    }

    /// What has more than one name is left alone: another name of it may be anywhere. So are symbolic links.
    fn take_tree(&self, dir: &OwnedFd, top: bool, depth: usize) -> io::Result<()> {
        let entries = rustix::fs::Dir::read_from(dir)?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") || (top && name.to_bytes() == b"execute") {
                continue;
            }
            let file = openat(
                dir,
                name,
                OFlags::NOFOLLOW | OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let found = fstat(&file)?;
            match FileType::from_raw_mode(found.st_mode) {
                FileType::Directory if depth > 0 => {
                    self.own(&file)?;
                    self.take_tree(&open_directory(dir, name)?, false, depth - 1)?;
                }
                FileType::RegularFile if found.st_nlink == 1 => self.own(&file)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn own(&self, file: &OwnedFd) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        Ok(chownat(file, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
    }
}

fn open_directory(dir: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_version_0_1_are_found_where_they_are_now() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("execute")).unwrap();
        fs::write(dir.path().join("execute/reported.json"), "old").unwrap();
        fs::write(dir.path().join("execute/recent.json"), "old").unwrap();
        fs::write(dir.path().join("recent.json"), "new").unwrap();
        Walls::prepare(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("reported.json")).unwrap(), "old");
        assert_eq!(fs::read_to_string(dir.path().join("recent.json")).unwrap(), "new");
    }

    /// Needs root, as in CI; elsewhere there is no user to give anything to.
    #[test]
    fn what_was_roots_becomes_its_own_users_but_for_what_executes() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("not root: nothing to give away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("store/packs")).unwrap();
        fs::create_dir(path("execute")).unwrap();
        for name in ["node.json", "boot", "store/packs/1", "execute/trust.json", "elsewhere"] {
            fs::write(path(name), "x").unwrap();
        }
        fs::hard_link(path("elsewhere"), path("store/linked")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path("store/led")).unwrap();
        let user = OwnUser {
            name: "of the test".into(),
            uid: 60_800,
            gid: 60_801,
        };
        let owner = |name: &str| {
            let found = fs::symlink_metadata(path(name)).unwrap();
            (found.uid(), found.gid())
        };
        user.take(dir.path()).unwrap();
        for name in ["node.json", "boot", "store", "store/packs/1"] {
            assert_eq!(owner(name), (60_800, 60_801), "{name}");
        }
        for name in ["execute", "execute/trust.json", "store/linked", "store/led"] {
            assert_eq!(owner(name), (0, 0), "{name}");
        }
        assert_eq!(fs::metadata("/etc/passwd").unwrap().uid(), 0);
        let top = fs::metadata(dir.path()).unwrap();
        assert_eq!((top.uid(), top.gid(), top.mode() & 0o7777), (0, 60_801, SHARED_MODE));
        // A second start has nothing to do; after one as root without walls it has.
        fs::write(path("store/new"), "x").unwrap();
        user.take(dir.path()).unwrap();
        assert_eq!(owner("store/new"), (0, 0));
        fs::remove_file(path("boot")).unwrap();
        fs::write(path("boot"), "x").unwrap();
        user.take(dir.path()).unwrap();
        assert_eq!(owner("store/new"), (60_800, 60_801));
        fs::remove_dir_all(path("execute")).unwrap();
        std::os::unix::fs::symlink("/etc", path("execute")).unwrap();
        assert!(user.take(dir.path()).is_err());
    }
}
