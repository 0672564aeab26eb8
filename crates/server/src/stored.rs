//! Reading stored chunks: whole and verified, or in groups for the network.

use bytes::Bytes;
use potluck_model::Digest;
use potluck_model::api::{CHUNK_ABSENT, ErrorKind};
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::blobs::Stored;
use crate::refusal::Refusal;

/// Bytes that are read at once, at least; a chunk that is larger is read whole.
pub(crate) const GROUP_BYTES: u64 = 256 << 10;
/// Chunks up to this many bytes are verified before they are sent. Larger ones (lists and chunk lists) are sent in pieces.
pub(crate) const VERIFIED_BYTES_MAX: u32 = potluck_model::chunk_list::CHUNK_BYTES_MAX;
/// In a pack, this many bytes lie between one chunk and the next.
const GAP_BYTES: u64 = 36;

/// Bytes on their way out. While they live, they count against the limit for all of these.
struct Outgoing {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Outgoing {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Waits until `len` bytes may be read.
pub(crate) async fn room(app: &App, len: u64) -> Result<OwnedSemaphorePermit, Refusal> {
    let kib = u32::try_from(len.div_ceil(1024)).unwrap_or(u32::MAX).max(1);
    let gone = |_| Refusal::new(ErrorKind::Busy, "the server is being stopped");
    app.outgoing.clone().acquire_many_owned(kib).await.map_err(gone)
}

/// Bytes that give their room back when they have been sent.
pub(crate) fn outgoing(bytes: Vec<u8>, room: OwnedSemaphorePermit) -> Bytes {
    Bytes::from_owner(Outgoing { bytes, _room: room })
}

/// A whole chunk of at most `max` bytes, verified; `None` if it is not there.
pub(crate) fn whole_chunk(app: &App, digest: &Digest, max: u64) -> Result<Option<Vec<u8>>, Refusal> {
    let Some(stored) = app.catalogue.chunks(&[*digest])?[0] else {
        return Ok(None);
    };
    if u64::from(stored.len) > max {
        return Err(Refusal::bad(format!(
            "{digest} has {} bytes, more than {max}",
            stored.len
        )));
    }
    let (bytes, stored) = part(app, digest, stored, 0, stored.len as usize)?;
    if Digest::of(&bytes) != *digest {
        damaged(digest, &stored);
        return Ok(None);
    }
    Ok(Some(bytes))
}

/// `len` bytes of a chunk from its byte `at` on, and where the chunk is: it may have been moved since it was looked up.
pub(crate) fn part(
    app: &App,
    digest: &Digest,
    stored: Stored,
    at: u64,
    len: usize,
) -> Result<(Vec<u8>, Stored), Refusal> {
    let fault = match app.blobs.read(stored.pack, stored.offset + at, len) {
        Ok(bytes) => return Ok((bytes, stored)),
        Err(fault) => fault,
    };
    match app.catalogue.chunks(&[*digest])?[0] {
        Some(now) if now.pack != stored.pack && now.len == stored.len => {
            Ok((app.blobs.read(now.pack, now.offset + at, len)?, now))
        }
        _ => Err(fault.into()),
    }
}

/// Chunks as `POST /v1/node/chunks` sends them: each with its length before it, or `CHUNK_ABSENT`. Verified: what is
/// damaged or cannot be read is absent.
pub(crate) fn framed(app: &App, group: &[(Digest, Option<Stored>)]) -> Vec<u8> {
    let bytes: usize = group
        .iter()
        .flat_map(|(_, stored)| stored)
        .map(|stored| stored.len as usize)
        .sum();
    let mut out = Vec::with_capacity(bytes + 4 * group.len());
    let mut rest = group;
    while let Some((_, first)) = rest.first() {
        let run = first.map_or(1, |first| run(first, rest));
        let (now, later) = rest.split_at(run);
        rest = later;
        let Some(first) = first else {
            out.extend_from_slice(&CHUNK_ABSENT.to_be_bytes());
            continue;
        };
        let last = now.last().and_then(|(_, stored)| *stored).unwrap_or(*first);
        let span = last.offset + u64::from(last.len) - first.offset;
        let Ok(read) = app.blobs.read(first.pack, first.offset, span as usize) else {
            // They may have been moved since they were looked up.
            for (digest, stored) in now.iter().filter_map(|(digest, stored)| Some((digest, (*stored)?))) {
                let chunk = part(app, digest, stored, 0, stored.len as usize);
                frame(
                    &mut out,
                    digest,
                    chunk.ok().as_ref().map(|(bytes, stored)| (&bytes[..], *stored)),
                );
            }
            continue;
        };
        for (digest, stored) in now.iter().filter_map(|(digest, stored)| Some((digest, (*stored)?))) {
            let start = (stored.offset - first.offset) as usize;
            frame(
                &mut out,
                digest,
                Some((&read[start..start + stored.len as usize], stored)),
            );
        }
    }
    out
}

/// Adds a chunk, or that it is absent.
fn frame(out: &mut Vec<u8>, digest: &Digest, chunk: Option<(&[u8], Stored)>) {
    match chunk {
        Some((bytes, stored)) if Digest::of(bytes) == *digest => {
            out.extend_from_slice(&stored.len.to_be_bytes());
            out.extend_from_slice(bytes);
        }
        other => {
            if let Some((_, stored)) = other {
                damaged(digest, &stored);
            }
            out.extend_from_slice(&CHUNK_ABSENT.to_be_bytes());
        }
    }
}

/// How many of the chunks lie one after another in one pack, so that one read gets them.
fn run(first: Stored, group: &[(Digest, Option<Stored>)]) -> usize {
    let mut end = first.offset;
    let follows = |(_, stored): &&(Digest, Option<Stored>)| {
        let good = stored.is_some_and(|stored| stored.pack == first.pack && stored.offset == end);
        end = stored.map_or(0, |stored| stored.offset + u64::from(stored.len) + GAP_BYTES);
        good
    };
    group.iter().take_while(follows).count().max(1)
}

fn damaged(digest: &Digest, stored: &Stored) {
    tracing::error!(
        "chunk {digest} in pack {} is damaged on disk and is not served; restore the pack from a backup",
        stored.pack
    );
}
