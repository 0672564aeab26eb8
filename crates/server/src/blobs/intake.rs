//! Taking in chunks as a stream: each is verified before it counts, and at most one pack is made of them.

use std::collections::BTreeMap;

use potluck_model::chunk_list::META_BYTES_MAX;
use potluck_model::{Digest, UnixSeconds};

use super::{Blobs, BlobsError, PACK_HEADER, PackId, PackWriter, Stored};
use crate::catalogue::{Catalogue, CatalogueError};

const HEADER_BYTES: usize = 4 + Digest::BYTES;
/// Bytes that are read at once from a pack that is adopted.
const ADOPT_READ_BYTES: u64 = 1 << 20;

/// Why a stream of chunks was not taken in. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IntakeError {
    /// The sender broke the format, or a limit of it.
    #[error("{0}")]
    Malformed(String),
    /// The bytes of a chunk are not what its digest says.
    #[error(
        "the bytes sent for chunk {0} have another digest: they were damaged on the way or changed while being read"
    )]
    Damaged(Digest),
    /// The catalogue failed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The packs failed.
    #[error(transparent)]
    Blobs(#[from] BlobsError),
}

/// A stream of chunks (`u32` BE length, digest, bytes) that is being taken in. Needs memory for one header only.
pub(crate) struct Intake<'a> {
    catalogue: &'a dyn Catalogue,
    blobs: &'a dyn Blobs,
    pack: Option<Box<dyn PackWriter>>,
    /// Bytes of the pack so far.
    offset: u64,
    new: BTreeMap<Digest, Stored>,
    header: Vec<u8>,
    chunk: Option<Incoming>,
}

/// The chunk whose bytes are coming in.
struct Incoming {
    digest: Digest,
    len: u32,
    left: usize,
    hasher: blake3::Hasher,
    /// Whether it is written into the pack; not if it is known already.
    kept: bool,
}

impl<'a> Intake<'a> {
    /// Begins.
    pub(crate) fn new(catalogue: &'a dyn Catalogue, blobs: &'a dyn Blobs) -> Self {
        Self {
            catalogue,
            blobs,
            pack: None,
            offset: 0,
            new: BTreeMap::new(),
            header: Vec::with_capacity(HEADER_BYTES),
            chunk: None,
        }
    }

    /// Takes the next bytes of the stream, however they are cut.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), IntakeError> {
        while !bytes.is_empty() {
            if let Some(chunk) = &mut self.chunk {
                let (now, rest) = bytes.split_at(chunk.left.min(bytes.len()));
                bytes = rest;
                chunk.hasher.update(now);
                chunk.left -= now.len();
                if let Some(pack) = &mut self.pack
                    && chunk.kept
                {
                    pack.write(now)?;
                }
            } else {
                let (now, rest) = bytes.split_at((HEADER_BYTES - self.header.len()).min(bytes.len()));
                bytes = rest;
                self.header.extend_from_slice(now);
                if self.header.len() == HEADER_BYTES {
                    self.begin_chunk()?;
                }
            }
            self.end_chunk()?;
        }
        Ok(())
    }

    /// Ends the stream: what is new is durable and known when this returns. Returns how many chunks and bytes were new.
    pub(crate) fn finish(mut self) -> Result<(usize, u64), IntakeError> {
        if self.chunk.is_some() || !self.header.is_empty() {
            return Err(IntakeError::Malformed("the body ends in the middle of a chunk".into()));
        }
        let Some(pack) = self.pack.take() else {
            return Ok((0, 0));
        };
        let id = pack.id();
        pack.finish()?;
        let count = self.new.len();
        let bytes = self.new.values().map(|stored| u64::from(stored.len)).sum();
        self.catalogue.add_pack(id, self.new.into_iter().collect())?;
        Ok((count, bytes))
    }

    fn begin_chunk(&mut self) -> Result<(), IntakeError> {
        let (len, digest) = parse_header(&self.header);
        if u64::from(len) > META_BYTES_MAX {
            return Err(IntakeError::Malformed(format!(
                "chunk {digest} is said to have {len} bytes, more than {META_BYTES_MAX}"
            )));
        }
        // Who uploads it counts on it from now on, also if it was there already.
        let known = self.new.contains_key(&digest) || self.catalogue.rely(&[digest], UnixSeconds::now())?[0].is_some();
        if !known {
            if self.pack.is_none() {
                let mut pack = self.blobs.create()?;
                pack.write(&PACK_HEADER)?;
                self.offset = PACK_HEADER.len() as u64;
                self.pack = Some(pack);
            }
            if let Some(pack) = &mut self.pack {
                pack.write(&self.header)?;
            }
            self.offset += HEADER_BYTES as u64;
        }
        self.header.clear();
        self.chunk = Some(Incoming {
            digest,
            len,
            left: len as usize,
            hasher: blake3::Hasher::new(),
            kept: !known,
        });
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), IntakeError> {
        if self.chunk.as_ref().is_none_or(|chunk| chunk.left > 0) {
            return Ok(());
        }
        let Some(chunk) = self.chunk.take() else {
            return Ok(());
        };
        if Digest::from(chunk.hasher.finalize()) != chunk.digest {
            return Err(IntakeError::Damaged(chunk.digest));
        }
        if let Some(pack) = &self.pack
            && chunk.kept
        {
            let stored = Stored {
                pack: pack.id(),
                offset: self.offset,
                len: chunk.len,
            };
            self.new.insert(chunk.digest, stored);
            self.offset += u64::from(chunk.len);
        }
        Ok(())
    }
}

fn parse_header(header: &[u8]) -> (u32, Digest) {
    let (len, digest) = header.split_first_chunk::<4>().expect("a header has 36 bytes");
    let digest = digest.first_chunk::<32>().expect("a header has 36 bytes");
    (u32::from_be_bytes(*len), Digest::from_bytes(*digest))
}

/// Makes the chunks of a pack known that a crash kept the catalogue from hearing of. Returns how many there were.
///
/// Bytes are verified: what is damaged stays unknown, and the rest of the pack is used.
pub(crate) fn adopt(catalogue: &dyn Catalogue, blobs: &dyn Blobs, pack: PackId) -> Result<usize, IntakeError> {
    let end = blobs.len(pack)?;
    let start = PACK_HEADER.len() as u64;
    if end < start || blobs.read(pack, 0, PACK_HEADER.len())? != PACK_HEADER {
        return Err(IntakeError::Malformed(format!("{pack} is not a pack of this version")));
    }
    let mut chunks = Vec::new();
    let mut offset = start;
    while offset + HEADER_BYTES as u64 <= end {
        let (len, digest) = parse_header(&blobs.read(pack, offset, HEADER_BYTES)?);
        offset += HEADER_BYTES as u64;
        if offset + u64::from(len) > end {
            break;
        }
        let mut hasher = blake3::Hasher::new();
        let mut left = u64::from(len);
        while left > 0 {
            let now = left.min(ADOPT_READ_BYTES);
            hasher.update(&blobs.read(pack, offset + u64::from(len) - left, now as usize)?);
            left -= now;
        }
        if Digest::from(hasher.finalize()) == digest {
            chunks.push((digest, Stored { pack, offset, len }));
        }
        offset += u64::from(len);
    }
    let count = chunks.len();
    catalogue.add_pack(pack, chunks)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::DirectoryBlobs;
    use crate::catalogue::SqliteCatalogue;

    fn world() -> (tempfile::TempDir, SqliteCatalogue, DirectoryBlobs) {
        let dir = tempfile::tempdir().unwrap();
        let catalogue = SqliteCatalogue::open(&dir.path().join("db")).unwrap();
        std::fs::create_dir(dir.path().join("packs")).unwrap();
        let blobs = DirectoryBlobs::open(&dir.path().join("packs")).unwrap();
        (dir, catalogue, blobs)
    }

    fn stream(chunks: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        for chunk in chunks {
            body.extend_from_slice(&(chunk.len() as u32).to_be_bytes());
            body.extend_from_slice(Digest::of(chunk).as_bytes());
            body.extend_from_slice(chunk);
        }
        body
    }

    fn take(
        catalogue: &SqliteCatalogue,
        blobs: &DirectoryBlobs,
        body: &[u8],
        cut: usize,
    ) -> Result<usize, IntakeError> {
        let mut intake = Intake::new(catalogue, blobs);
        for part in body.chunks(cut) {
            intake.feed(part)?;
        }
        intake.finish().map(|(count, _)| count)
    }

    #[test]
    fn chunks_are_found_again_however_the_stream_was_cut() {
        for cut in [1, 7, 36, 4096] {
            let (_dir, catalogue, blobs) = world();
            let chunks: [&[u8]; 4] = [b"one", b"", b"three", b"one"];
            assert_eq!(take(&catalogue, &blobs, &stream(&chunks), cut).unwrap(), 3);
            for chunk in chunks {
                let stored = catalogue.chunks(&[Digest::of(chunk)]).unwrap()[0].unwrap();
                assert_eq!(
                    blobs.read(stored.pack, stored.offset, stored.len as usize).unwrap(),
                    chunk
                );
            }
            assert_eq!(catalogue.stored_bytes().unwrap(), 8);
            assert_eq!(
                take(&catalogue, &blobs, &stream(&chunks), cut).unwrap(),
                0,
                "known already"
            );
            assert_eq!(blobs.packs().unwrap().len(), 1);
        }
    }

    #[test]
    fn a_stream_with_one_damaged_chunk_leaves_nothing() {
        let (dir, catalogue, blobs) = world();
        let mut body = stream(&[b"good", b"bad"]);
        *body.last_mut().unwrap() ^= 1;
        assert!(matches!(
            take(&catalogue, &blobs, &body, 5),
            Err(IntakeError::Damaged(_))
        ));
        assert!(matches!(
            take(&catalogue, &blobs, &body[..body.len() - 1], 5),
            Err(IntakeError::Malformed(_))
        ));
        assert_eq!(catalogue.chunks(&[Digest::of(b"good")]).unwrap(), [None]);
        assert_eq!(std::fs::read_dir(dir.path().join("packs")).unwrap().count(), 0);
    }

    #[test]
    fn a_chunk_that_is_said_to_be_enormous_is_refused_at_once() {
        let (_dir, catalogue, blobs) = world();
        let mut body = stream(&[b"x"]);
        body[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        let mut intake = Intake::new(&catalogue, &blobs);
        assert!(matches!(intake.feed(&body), Err(IntakeError::Malformed(_))));
    }

    #[test]
    fn a_pack_that_the_catalogue_never_heard_of_is_adopted_but_for_what_is_damaged() {
        let (dir, catalogue, blobs) = world();
        take(&catalogue, &blobs, &stream(&[b"one", b"two"]), 64).unwrap();
        let pack = blobs.packs().unwrap()[0];
        let path = dir.path().join("packs").join(format!("{pack}.pack"));
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let other = SqliteCatalogue::open(&dir.path().join("other")).unwrap();
        assert_eq!(adopt(&other, &blobs, pack).unwrap(), 1);
        let found = other.chunks(&[Digest::of(b"one"), Digest::of(b"two")]).unwrap();
        assert!(found[0].is_some() && found[1].is_none());
    }
}
