//! Packs as files of one directory.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Blobs, BlobsError, PackId, PackWriter, Space};
use crate::data::sync_dir;

/// Packs that are kept open for reading.
const OPEN_PACKS_MAX: usize = 64;
const SUFFIX: &str = ".pack";
const TEMPORARY_SUFFIX: &str = ".tmp";
const WRITE_BUFFER_BYTES: usize = 256 << 10;

/// Packs as files of one directory.
pub(crate) struct DirectoryBlobs {
    path: PathBuf,
    /// Packs that are open, the one used last at the end.
    open: Mutex<VecDeque<(PackId, Arc<File>)>>,
}

impl DirectoryBlobs {
    /// Uses a directory that exists; what a crash left half written is removed.
    pub(crate) fn open(path: &Path) -> Result<Self, BlobsError> {
        let clean = || -> io::Result<()> {
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().ends_with(TEMPORARY_SUFFIX) {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        clean().map_err(|source| fault("cleaning up", path.display(), source))?;
        Ok(Self {
            path: path.to_owned(),
            open: Mutex::default(),
        })
    }

    fn file(&self, pack: PackId) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = open.iter().position(|(id, _)| *id == pack)
            && let Some(entry) = open.remove(index)
        {
            let file = entry.1.clone();
            open.push_back(entry);
            return Ok(file);
        }
        let file = Arc::new(File::open(self.path.join(format!("{pack}{SUFFIX}")))?);
        if open.len() >= OPEN_PACKS_MAX {
            open.pop_front();
        }
        open.push_back((pack, file.clone()));
        Ok(file)
    }
}

impl Blobs for DirectoryBlobs {
    fn create(&self) -> Result<Box<dyn PackWriter>, BlobsError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|source| {
            fault(
                "naming a pack in",
                self.path.display(),
                io::Error::other(source.to_string()),
            )
        })?;
        let id = PackId(u64::from_be_bytes(random));
        let temporary = self.path.join(format!("{id}{TEMPORARY_SUFFIX}"));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|source| fault("creating", temporary.display(), source))?;
        Ok(Box::new(Writer {
            id,
            file: Some(BufWriter::with_capacity(WRITE_BUFFER_BYTES, file)),
            directory: self.path.clone(),
            temporary,
        }))
    }

    fn read(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, BlobsError> {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; len];
            self.file(pack)?.read_exact_at(&mut bytes, offset)?;
            Ok(bytes)
        };
        read().map_err(|source| fault("reading pack", pack, source))
    }

    fn len(&self, pack: PackId) -> Result<u64, BlobsError> {
        let len = || -> io::Result<u64> { Ok(self.file(pack)?.metadata()?.len()) };
        len().map_err(|source| fault("reading pack", pack, source))
    }

    fn packs(&self) -> Result<Vec<PackId>, BlobsError> {
        let list = || -> io::Result<Vec<PackId>> {
            let mut packs = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                let name = entry?.file_name();
                let id = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
                if let Some(id) = id.and_then(|id| u64::from_str_radix(id, 16).ok()) {
                    packs.push(PackId(id));
                }
            }
            packs.sort();
            Ok(packs)
        };
        list().map_err(|source| fault("listing", self.path.display(), source))
    }

    fn remove(&self, pack: PackId) -> Result<(), BlobsError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(id, _)| *id != pack);
        drop(open);
        match fs::remove_file(self.path.join(format!("{pack}{SUFFIX}"))) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(fault("removing pack", pack, source)),
            _ => Ok(()),
        }
    }

    fn space(&self) -> Result<Option<Space>, BlobsError> {
        let stat = rustix::fs::statvfs(&self.path)
            .map_err(|source| fault("asking for the room on the disk of", self.path.display(), source.into()))?;
        Ok(Some(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        }))
    }
}

struct Writer {
    id: PackId,
    /// `None` once it is finished.
    file: Option<BufWriter<File>>,
    directory: PathBuf,
    temporary: PathBuf,
}

impl PackWriter for Writer {
    fn id(&self) -> PackId {
        self.id
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobsError> {
        match &mut self.file {
            Some(file) => file
                .write_all(bytes)
                .map_err(|source| fault("writing", self.temporary.display(), source)),
            None => Ok(()),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<(), BlobsError> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        let finish = || -> io::Result<()> {
            let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_data()?;
            fs::rename(&self.temporary, self.directory.join(format!("{}{SUFFIX}", self.id)))?;
            sync_dir(&self.directory)
        };
        finish().map_err(|source| fault("finishing", self.temporary.display(), source))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Without its buffer being written first.
        if let Some(file) = self.file.take() {
            drop(file.into_parts());
        }
        // After a rename there is nothing by this name; a left-over is removed at the next start.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn fault(doing: &'static str, what: impl std::fmt::Display, source: io::Error) -> BlobsError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlobsError::Full,
        _ => BlobsError::Disk {
            doing,
            what: what.to_string(),
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::blobs_suite;

    #[test]
    fn a_directory_gives_what_blobs_promise() {
        let dir = tempfile::tempdir().unwrap();
        blobs_suite(&DirectoryBlobs::open(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_crash_left_half_written_is_removed_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(dir.path()).unwrap();
        let writer = blobs.create().unwrap();
        std::mem::forget(writer);
        DirectoryBlobs::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn no_more_than_so_many_packs_are_open() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(dir.path()).unwrap();
        let mut ids = Vec::new();
        for _ in 0..OPEN_PACKS_MAX + 3 {
            let mut writer = blobs.create().unwrap();
            writer.write(b"x").unwrap();
            ids.push(writer.id());
            writer.finish().unwrap();
        }
        for id in &ids {
            assert_eq!(blobs.read(*id, 0, 1).unwrap(), b"x");
        }
        assert_eq!(blobs.open.lock().unwrap().len(), OPEN_PACKS_MAX);
    }
}
