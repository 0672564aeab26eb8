//! Small files of the executing process's own directory: old or new, never half.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::fail;

/// Replaces `path` by `bytes`: temp file, sync, rename, sync of the directory. Mode 0600.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = path.with_extension("new");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)?;
    fail::write("file.write", &file, bytes)?;
    fail::io("file.sync")?;
    file.sync_all()?;
    fail::io("file.rename")?;
    fs::rename(&temp, path)?;
    fail::io("file.renamed")?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes the names in `dir` last.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
