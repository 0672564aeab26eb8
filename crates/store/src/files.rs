//! The files that hold contents, of which only a few are open at a time.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use potluck_model::Digest;

/// The most files that are kept open: a process with a limit of 64 descriptors has room for connections beside them.
const OPEN_FILES_MAX: usize = 12;

/// A file that holds contents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Container {
    /// `files/DIGEST`: one content. Ids are never used twice, so a file that was removed is not taken for its successor.
    File { id: i64, digest: Digest },
    /// `packs/NUMBER`: many small contents.
    Pack(i64),
}

/// Opens files and keeps those open that were used last.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    /// Most recently used last.
    open: Mutex<VecDeque<(Container, Arc<File>)>>,
}

impl Files {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            open: Mutex::default(),
        }
    }

    pub(crate) fn path(&self, container: Container) -> PathBuf {
        match container {
            Container::File { digest, .. } => self.files_dir().join(digest.to_string()),
            Container::Pack(number) => self.packs_dir().join(format!("{number:08}")),
        }
    }

    pub(crate) fn files_dir(&self) -> PathBuf {
        self.dir.join("files")
    }

    pub(crate) fn packs_dir(&self) -> PathBuf {
        self.dir.join("packs")
    }

    /// The file, for reading and writing; created if `create` and it is not there.
    pub(crate) fn open(&self, container: Container, create: bool) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().position(|(of, _)| *of == container)
            && let Some(entry) = open.remove(at)
        {
            let file = Arc::clone(&entry.1);
            open.push_back(entry);
            return Ok(file);
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .open(self.path(container))?;
        let file = Arc::new(file);
        if open.len() == OPEN_FILES_MAX {
            open.pop_front();
        }
        open.push_back((container, Arc::clone(&file)));
        Ok(file)
    }

    /// Closes the file, so that the next `open` looks at the disk again.
    pub(crate) fn close(&self, container: Container) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(of, _)| *of != container);
    }
}
