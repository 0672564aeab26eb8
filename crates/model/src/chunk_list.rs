//! The chunk list of a file: how it is cut, and the digest of each chunk.
//!
//! Binary form, version 1 (all integers big-endian): the four bytes `PLCL`, `u8` version, three zero bytes, `u32` number
//! of chunks, then for each chunk `u32` length in bytes and 32 bytes of digest. Chunks follow one another without gaps.

use crate::Digest;

/// One chunk of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Digest of the chunk's bytes.
    pub digest: Digest,
    /// Length in bytes, 1 to `CHUNK_BYTES_MAX`.
    pub len: u32,
}

/// The most bytes a chunk of a file may have.
pub const CHUNK_BYTES_MAX: u32 = 4 << 20;
/// The most bytes a list or a chunk list may have; it is one chunk of its own.
pub const META_BYTES_MAX: u64 = 64 << 20;
/// The most chunks of one file: with the average chunk at 1 MiB, a file of 1.7 TB.
pub const CHUNKS_MAX: usize = ((META_BYTES_MAX as usize) - HEADER_BYTES) / ENTRY_BYTES;
/// Files up to this size are one chunk, and have no chunk list.
pub const SINGLE_CHUNK_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a stripe, the unit of scheduling: chunks are added to it until it has at least this many.
pub const STRIPE_BYTES: u64 = 1 << 20;

const MAGIC: [u8; 4] = *b"PLCL";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 36;

/// The chunks of a file, in order. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkList(Vec<Chunk>);

/// Why bytes are not a chunk list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkListError {
    /// Too short, too long, or without the magic.
    #[error("not a chunk list")]
    Malformed,
    /// Written by a newer version of Potluck.
    #[error("chunk list of version {0}; this version of Potluck reads version {VERSION}")]
    Version(u8),
    /// A chunk is empty or larger than `CHUNK_BYTES_MAX`, or there are too many.
    #[error("chunk {index} has {len} bytes, outside 1 to {CHUNK_BYTES_MAX}")]
    Length {
        /// Index of the chunk.
        index: usize,
        /// Its length in bytes.
        len: u32,
    },
}

impl ChunkList {
    /// Checks the limits.
    pub fn new(chunks: Vec<Chunk>) -> Result<Self, ChunkListError> {
        if chunks.is_empty() || chunks.len() > CHUNKS_MAX {
            return Err(ChunkListError::Malformed);
        }
        for (index, chunk) in chunks.iter().enumerate() {
            if chunk.len == 0 || chunk.len > CHUNK_BYTES_MAX {
                return Err(ChunkListError::Length { index, len: chunk.len });
            }
        }
        Ok(Self(chunks))
    }

    /// The chunks.
    pub fn chunks(&self) -> &[Chunk] {
        &self.0
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.0.iter().map(|chunk| u64::from(chunk.len)).sum()
    }

    /// The runs of chunks that are scheduled together: for each stripe, the index of its first chunk and how many.
    pub fn stripes(&self) -> Vec<(u32, u32)> {
        stripes(self.0.iter().map(|chunk| chunk.len))
    }

    /// The binary form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.0.len() * ENTRY_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
        bytes.extend_from_slice(&(self.0.len() as u32).to_be_bytes());
        for chunk in &self.0 {
            bytes.extend_from_slice(&chunk.len.to_be_bytes());
            bytes.extend_from_slice(chunk.digest.as_bytes());
        }
        bytes
    }

    /// Parses the binary form; every byte of it must be accounted for.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ChunkListError> {
        let (header, entries) = bytes.split_at_checked(HEADER_BYTES).ok_or(ChunkListError::Malformed)?;
        if header[..4] != MAGIC {
            return Err(ChunkListError::Malformed);
        }
        if header[4] != VERSION {
            return Err(ChunkListError::Version(header[4]));
        }
        let count = u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
        if header[5..8] != [0; 3] || entries.len() % ENTRY_BYTES != 0 || entries.len() / ENTRY_BYTES != count {
            return Err(ChunkListError::Malformed);
        }
        let chunks = entries.chunks_exact(ENTRY_BYTES).map(|entry| {
            let (len, digest) = entry.split_at(4);
            Chunk {
                len: u32::from_be_bytes(len.try_into().expect("four bytes")),
                digest: Digest::from_bytes(digest.try_into().expect("32 bytes")),
            }
        });
        Self::new(chunks.collect())
    }
}

/// Cuts chunks of the given lengths into stripes: index of the first chunk, and how many.
pub fn stripes(lengths: impl IntoIterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut stripes = Vec::new();
    let (mut first, mut count, mut bytes) = (0, 0, 0);
    for len in lengths {
        count += 1;
        bytes += u64::from(len);
        if bytes >= STRIPE_BYTES {
            stripes.push((first, count));
            (first, count, bytes) = (first + count, 0, 0);
        }
    }
    if count > 0 {
        stripes.push((first, count));
    }
    stripes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ChunkList {
        let chunk = |n: u8, len| Chunk {
            digest: Digest::of(&[n]),
            len,
        };
        ChunkList::new(vec![chunk(1, 70_000), chunk(2, 1)]).unwrap()
    }

    #[test]
    fn bytes_of_version_1_stay_as_they_are() {
        let bytes = sample().to_bytes();
        assert_eq!(bytes.len(), 12 + 2 * 36);
        assert_eq!(&bytes[..12], b"PLCL\x01\0\0\0\0\0\0\x02");
        assert_eq!(
            Digest::of(&bytes).to_string(),
            "a4f227b6bd637f78fd24126af516228f528d2e705b4c8dd127c1f5e03efa71db"
        );
        assert_eq!(ChunkList::from_bytes(&bytes), Ok(sample()));
    }

    #[test]
    fn cut_or_padded_bytes_are_refused() {
        let bytes = sample().to_bytes();
        for end in 0..bytes.len() {
            assert!(ChunkList::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
        }
        let mut long = bytes.clone();
        long.push(0);
        assert_eq!(ChunkList::from_bytes(&long), Err(ChunkListError::Malformed));
        let mut newer = bytes;
        newer[4] = 2;
        assert_eq!(ChunkList::from_bytes(&newer), Err(ChunkListError::Version(2)));
    }

    #[test]
    fn stripes_cover_every_chunk_once() {
        let lengths = [300_000; 10];
        assert_eq!(stripes(lengths), [(0, 4), (4, 4), (8, 2)]);
        assert_eq!(stripes([]), []);
    }
}
