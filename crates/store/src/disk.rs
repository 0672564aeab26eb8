//! What is particular to the operating system's files: holes, syncs of a whole file system.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, SeekFrom};

/// Gives the bytes `offset .. offset + len` back to the file system; they read as zeros. A file system that cannot do that
/// keeps them.
pub(crate) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(
        file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        offset,
        len,
    ) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        result => Ok(result?),
    }
}

/// The first byte at or after `offset` that was ever written; `None`: only a hole is left.
pub(crate) fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => Ok(Some(data)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        // A file system without holes: all of it is data.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(Some(offset)),
        Err(error) => Err(error.into()),
    }
}

/// Syncs everything on the file system that `directory` is on: cheaper than hundreds of files one by one.
pub(crate) fn sync_file_system(directory: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(directory)?)
}
