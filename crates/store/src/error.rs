//! Why the store could not do what it was asked.

use std::io;
use std::path::{Path, PathBuf};

use potluck_model::Digest;

/// Why the store could not do what it was asked. What was held before is held still, but for `Damaged`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the store open: end it, or use another data directory.
    #[error("the store {} is in use by another process: stop that one, or choose another data directory", dir.display())]
    InUse {
        /// The store's directory.
        dir: PathBuf,
    },
    /// A newer version of Potluck has written the store: update this one.
    #[error(
        "the store {} has format {found}; this version of Potluck reads up to {supported}: update Potluck, or choose \
         another data directory", dir.display()
    )]
    Newer {
        /// The store's directory.
        dir: PathBuf,
        /// Format of the store.
        found: u32,
        /// The newest format that is read.
        supported: u32,
    },
    /// Bytes on disk were no longer what they had been. They have been forgotten: fetch that chunk again.
    #[error("chunk {chunk} of content {content} in {} is damaged; it will be fetched again", path.display())]
    Damaged {
        /// The content.
        content: Digest,
        /// Index of the chunk.
        chunk: u32,
        /// The file that holds it.
        path: PathBuf,
    },
    /// Chunks came for a content for which there is no room made: call `prepare` first.
    #[error("the store was given chunks of content {content}, which has not been prepared or was removed meanwhile")]
    NotPrepared {
        /// The content.
        content: Digest,
    },
    /// The disk or the quota is full: free some room and try again.
    #[error("no room left while {doing} {}: free some space on that disk", path.display())]
    Full {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{doing} {} failed: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The index refused.
    #[error("{doing} in the store's index {} failed: {source}", path.display())]
    Index {
        /// What was being done.
        doing: &'static str,
        /// The index.
        path: PathBuf,
        /// Why it failed.
        source: rusqlite::Error,
    },
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { doing, path },
            _ => Self::Io { doing, path, source },
        }
    }

    pub(crate) fn index(doing: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full { doing, path },
            _ => Self::Index { doing, path, source },
        }
    }
}
