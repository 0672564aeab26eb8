//! The data directory: who may use it, what version wrote it, and how files in it are replaced.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::ServerError;

/// The version of the data directory that this version writes, and the newest it reads.
pub(crate) const DATA_FORMAT: u32 = 1;

/// A file that is there while a data directory is being restored.
pub(crate) const RESTORING: &str = "restoring";

/// A data directory that nobody else uses while this lives.
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes what does not exist, takes the lock, and checks the version.
    pub(crate) fn open(path: &Path) -> Result<Self, ServerError> {
        private_dir(path)?;
        let lock_path = path.join("lock");
        let lock = open_lock(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ServerError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(disk("locking", &lock_path)(source)),
        }
        let dir = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        let restoring = path.join(RESTORING);
        if restoring.exists() {
            return Err(ServerError::HalfRestored(path.to_owned()));
        }
        dir.check_version()?;
        private_dir(&dir.keys())?;
        private_dir(&dir.packs())?;
        Ok(dir)
    }

    /// The database.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("server.db")
    }

    /// The directory of packs.
    pub(crate) fn packs(&self) -> PathBuf {
        self.path.join("packs")
    }

    /// The directory of keys.
    pub(crate) fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    /// Held by whoever removes packs or makes a backup.
    pub(crate) fn upkeep(&self) -> PathBuf {
        self.path.join("upkeep.lock")
    }

    /// The credential of the local operator.
    pub(crate) fn operator(&self) -> PathBuf {
        self.path.join("operator.json")
    }

    fn check_version(&self) -> Result<(), ServerError> {
        if !check_version(&self.path)? {
            replace(
                &self.path.join("version"),
                format!("format = {DATA_FORMAT}\n").as_bytes(),
            )?;
        }
        Ok(())
    }
}

/// Whether the directory holds the data of a server; an error if this version cannot read it.
pub(crate) fn check_version(directory: &Path) -> Result<bool, ServerError> {
    let path = directory.join("version");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(disk("reading", &path)(source)),
    };
    let format = text.trim().strip_prefix("format = ").unwrap_or(text.trim());
    match format.parse::<u32>() {
        Ok(format) if (1..=DATA_FORMAT).contains(&format) => Ok(true),
        Ok(_) => Err(ServerError::Newer {
            path: directory.to_owned(),
            format: format.to_owned(),
            known: DATA_FORMAT,
        }),
        Err(_) => Err(ServerError::Damaged {
            path,
            fault: "expected a line like `format = 1`".into(),
        }),
    }
}

/// Nobody else removes packs or makes a backup while this lives.
pub(crate) struct Upkeep {
    _lock: File,
}

impl Upkeep {
    /// Takes the lock, a file that is made if it does not exist. `None`: somebody else has it.
    pub(crate) fn begin(path: &Path) -> Result<Option<Self>, ServerError> {
        let lock = open_lock(path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(disk("locking", path)(source)),
        }
    }
}

fn open_lock(path: &Path) -> Result<File, ServerError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(disk("opening", path))
}

/// Reads a file; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, ServerError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(disk("reading", path)(source)),
    }
}

/// Writes a file that only its owner may read: the old one or the new one is there, never half of one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), ServerError> {
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        // A left-over of a crash may have other permissions.
        match fs::remove_file(&temporary) {
            Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(fault),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_dir(path.parent().unwrap_or(path))
    };
    write().map_err(disk("writing", path))
}

/// Removes a file for good, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), ServerError> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(path.parent().unwrap_or(path)).map_err(disk("writing", path)),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(disk("removing", path)(source)),
    }
}

/// Makes the directory's entries durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Names the operation and the file in an error.
pub(crate) fn disk(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServerError {
    let path = path.to_owned();
    move |source| ServerError::Disk { doing, path, source }
}

/// Makes a directory for its owner alone, if it does not exist.
pub(crate) fn private_dir(path: &Path) -> Result<(), ServerError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(disk("making the directory", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_on_the_same_data_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(ServerError::InUse(_))));
        drop(first);
        assert!(DataDir::open(dir.path()).is_ok());
    }

    #[test]
    fn data_of_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        fs::write(dir.path().join("version"), "format = 2\n").unwrap();
        let fault = DataDir::open(dir.path()).err().unwrap();
        assert!(fault.to_string().contains("update it"), "{fault}");
        fs::write(dir.path().join("version"), "rubbish").unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(ServerError::Damaged { .. })));
    }

    #[test]
    fn only_its_owner_may_look_into_the_data_directory() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("server");
        let _open = DataDir::open(&data).unwrap();
        for (name, mode) in [("", 0o700), ("keys", 0o700), ("packs", 0o700), ("version", 0o600)] {
            let found = fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{name:?}");
        }
    }
}
