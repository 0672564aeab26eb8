//! The bytes of chunks: packs behind a narrow interface that a directory stands behind now, an object store later.
//!
//! A pack is written once, whole or not at all, and never changed. It says itself what is in it, so that an index of it can
//! be made anew. Format, version 1 (integers big-endian): the four bytes `PLPK`, `u8` version, three zero bytes, then for
//! each chunk `u32` length in bytes, 32 bytes of digest, and the bytes.

mod directory;
mod intake;

use std::fmt;

use potluck_model::Digest;

pub(crate) use directory::DirectoryBlobs;
pub(crate) use intake::{Intake, IntakeError, adopt};

/// What a pack begins with.
pub(crate) const PACK_HEADER: [u8; 8] = *b"PLPK\x01\0\0\0";

/// Name of a pack: a random number, so that servers that share a store do not choose the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PackId(pub(crate) u64);

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the bytes of a chunk are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    /// In which pack.
    pub(crate) pack: PackId,
    /// From which byte of the pack on.
    pub(crate) offset: u64,
    /// How many bytes.
    pub(crate) len: u32,
}

/// Why packs could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobsError {
    /// No room on the disk.
    #[error("no room left on the disk of the server")]
    Full,
    /// The disk failed, or a pack is gone or cut.
    #[error("{doing} {what}: {source}")]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// With which pack or directory.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Packs. Methods block: call them where blocking is allowed.
pub(crate) trait Blobs: Send + Sync {
    /// Begins a pack.
    fn create(&self) -> Result<Box<dyn PackWriter>, BlobsError>;
    /// Reads `len` bytes of a pack from `offset` on; fewer bytes in the pack are an error.
    fn read(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, BlobsError>;
    /// Bytes of a pack.
    fn len(&self, pack: PackId) -> Result<u64, BlobsError>;
    /// The packs that are there.
    fn packs(&self) -> Result<Vec<PackId>, BlobsError>;
    /// Removes a pack; it may be gone already. Whoever is reading it may still end that.
    fn remove(&self, pack: PackId) -> Result<(), BlobsError>;
    /// Room for more bytes and in all; `None` where nobody knows.
    fn space(&self) -> Result<Option<Space>, BlobsError>;
}

/// Room for packs, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Space {
    /// That can be written.
    pub(crate) free: u64,
    /// Of the whole disk.
    pub(crate) total: u64,
}

/// What stands before the bytes of a chunk in a pack: how many, and their digest.
pub(crate) fn chunk_header(len: u32, digest: &Digest) -> [u8; 36] {
    let mut header = [0; 36];
    header[..4].copy_from_slice(&len.to_be_bytes());
    header[4..].copy_from_slice(digest.as_bytes());
    header
}

/// A pack that is being written; dropped before `finish`, nothing of it stays.
pub(crate) trait PackWriter: Send {
    /// The pack's name.
    fn id(&self) -> PackId;
    /// Appends.
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobsError>;
    /// Makes the pack durable and visible.
    fn finish(self: Box<Self>) -> Result<(), BlobsError>;
}

/// The tests that every implementation must pass.
#[cfg(test)]
pub(crate) fn blobs_suite(blobs: &dyn Blobs) {
    let mut writer = blobs.create().unwrap();
    let id = writer.id();
    writer.write(b"some ").unwrap();
    writer.write(b"bytes").unwrap();
    assert_eq!(blobs.packs().unwrap(), [], "a pack is not visible before it is whole");
    writer.finish().unwrap();
    assert_eq!(blobs.packs().unwrap(), [id]);
    assert_eq!(blobs.len(id).unwrap(), 10);
    assert_eq!(blobs.read(id, 3, 4).unwrap(), b"e by");
    assert!(blobs.read(id, 8, 4).is_err(), "bytes beyond the end are an error");
    assert!(blobs.read(PackId(id.0 ^ 1), 0, 1).is_err());
    let mut dropped = blobs.create().unwrap();
    dropped.write(b"half").unwrap();
    drop(dropped);
    assert_eq!(blobs.packs().unwrap(), [id], "a pack that was given up leaves nothing");
    assert!(blobs.space().unwrap().is_none_or(|space| space.free <= space.total));
    blobs.remove(id).unwrap();
    assert_eq!(blobs.packs().unwrap(), []);
    assert!(blobs.read(id, 0, 1).is_err(), "a removed pack is gone for new readers");
    blobs.remove(id).unwrap();
}
