//! Removing what nobody needs: releases, then the chunks that no release names.
//!
//! Publishers and servers go on meanwhile. What keeps a chunk from vanishing under a publisher:
//! - Uploading a chunk, or telling a publisher that it is there, is a use of its pack. Packs that were used lately stay.
//! - A release that became visible after the chunks in use had been collected makes the removal start over.
//! - A publisher whose check overlapped a removal has to check again before its release becomes visible.
//!
//! So a publish may have to upload something again, but no visible release ever lacks a chunk.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use potluck_model::api::{GcReport, ReleaseName};
use potluck_model::chunk_list::{ChunkList, META_BYTES_MAX};
use potluck_model::list::List;
use potluck_model::{Digest, UnixSeconds};

use crate::blobs::{Blobs, BlobsError, PACK_HEADER, PackId, PackWriter, Stored, chunk_header};
use crate::catalogue::{Catalogue, CatalogueError, Moved, Sweep};

/// Chunks that are looked at together; each takes some 50 bytes of memory.
const BATCH_CHUNKS: u64 = 400_000;
/// A pack that moved chunks fill is finished once it has this many bytes.
const PACK_BYTES: u64 = 64 << 20;
/// How often releases may become visible in between until somebody is told to come again.
const ROUNDS_MAX: u32 = 20;

/// Why the removal ended early. What had been removed until then was not needed by anybody.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GcError {
    /// Without its list, nobody knows what a release needs.
    #[error(
        "what is in use cannot be told: the {what} {digest} of a release is missing or damaged. Nothing was removed but \
         releases; restore the packs from a backup"
    )]
    Unreadable {
        /// List or chunk list.
        what: &'static str,
        /// Its digest.
        digest: Digest,
    },
    /// Releases kept coming.
    #[error("releases are being published too fast to tell what is in use: try again later")]
    Overtaken,
    /// The catalogue failed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The packs failed.
    #[error(transparent)]
    Blobs(#[from] BlobsError),
}

/// What releases name. Digests are cut at 64 bits: two that begin alike keep each other, which does no harm.
#[derive(Default)]
pub(crate) struct Used(HashSet<u64>);

impl Used {
    fn insert(&mut self, digest: &Digest) {
        self.0.insert(beginning(digest));
    }

    /// Whether some release names it.
    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.0.contains(&beginning(digest))
    }
}

fn beginning(digest: &Digest) -> u64 {
    u64::from_be_bytes(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

/// What is in a pack.
#[derive(Clone, Copy, Default)]
struct Usage {
    used_bytes: u64,
    unused_bytes: u64,
    used_chunks: u64,
    chunks: u64,
}

/// Removes releases but the newest `keep` of each configuration and those that are assigned, then what no release names.
/// Chunks of packs that were used since `cutoff` stay, and what `waiting` lists name, which are to be published yet.
pub(crate) fn collect(
    catalogue: &dyn Catalogue,
    blobs: &dyn Blobs,
    keep: u64,
    cutoff: UnixSeconds,
    waiting: &[Digest],
) -> Result<GcReport, GcError> {
    let mut report = GcReport::default();
    let removed = catalogue.remove_releases(keep)?;
    report.releases = removed
        .into_iter()
        .map(|release| ReleaseName {
            configuration: release.configuration,
            release: release.release,
        })
        .collect();
    for _ in 0..ROUNDS_MAX {
        if sweep(catalogue, blobs, cutoff, waiting, &mut report)? {
            return Ok(report);
        }
    }
    Err(GcError::Overtaken)
}

/// `false`: a release became visible meanwhile, and the rest waits for another round.
fn sweep(
    catalogue: &dyn Catalogue,
    blobs: &dyn Blobs,
    cutoff: UnixSeconds,
    waiting: &[Digest],
    report: &mut GcReport,
) -> Result<bool, GcError> {
    let (published, lists) = catalogue.lists()?;
    let mut used = Used::default();
    for list in &lists {
        mark(catalogue, blobs, list, &mut used)?;
    }
    for list in waiting {
        // If some of it is gone already, its publisher has to upload it again: no reason to keep all else.
        if let Err(fault) = mark(catalogue, blobs, list, &mut used) {
            tracing::warn!("of a release that waits for signatures: {fault}");
        }
    }
    let used = Arc::new(used);
    match catalogue.retain_files(published, used.clone())? {
        Some(files) => report.files += files,
        None => return Ok(false),
    }
    let mut packs: BTreeMap<PackId, Usage> = BTreeMap::new();
    catalogue.each_chunk(&mut |digest, stored| {
        let usage = packs.entry(stored.pack).or_default();
        usage.chunks += 1;
        if used.contains(digest) {
            usage.used_chunks += 1;
            usage.used_bytes += u64::from(stored.len);
        } else {
            usage.unused_bytes += u64::from(stored.len);
        }
    })?;
    report.bytes_left = packs.values().map(|usage| usage.unused_bytes).sum();
    let old = catalogue.packs_unused_since(cutoff)?;
    // A pack without chunks has nothing that anybody could miss.
    let worthwhile = |usage: &Usage| usage.used_chunks == 0 || usage.unused_bytes > usage.used_bytes;
    let mut chosen: Vec<(PackId, Usage)> = old
        .into_iter()
        .map(|pack| (pack, packs.get(&pack).copied().unwrap_or_default()))
        .filter(|(_, usage)| worthwhile(usage))
        .collect();
    // What needs no room comes first, and makes some.
    chosen.sort_by_key(|(pack, usage)| (usage.used_bytes, *pack));
    let mut rest = chosen.as_slice();
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(batch(rest));
        rest = later;
        let batch: BTreeMap<PackId, Usage> = batch.iter().copied().collect();
        if !sweep_batch(catalogue, blobs, (published, cutoff), &used, &batch, report)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Says that a list of a release cannot be used.
pub(crate) fn unreadable_list(digest: &Digest) -> GcError {
    GcError::Unreadable {
        what: "list",
        digest: *digest,
    }
}

/// The bytes of a list that a release has.
pub(crate) fn list_bytes(catalogue: &dyn Catalogue, blobs: &dyn Blobs, digest: &Digest) -> Result<Vec<u8>, GcError> {
    read(catalogue, blobs, digest)?.ok_or_else(|| unreadable_list(digest))
}

/// Adds what a list names, and itself.
fn mark(catalogue: &dyn Catalogue, blobs: &dyn Blobs, digest: &Digest, used: &mut Used) -> Result<(), GcError> {
    let bytes = list_bytes(catalogue, blobs, digest)?;
    let list = List::from_bytes(&bytes).map_err(|_| unreadable_list(digest))?;
    used.insert(digest);
    for content in list.contents() {
        used.insert(&content.digest);
        let Some(digest) = content.chunks else { continue };
        if used.contains(&digest) {
            continue;
        }
        let unreadable = || GcError::Unreadable {
            what: "chunk list",
            digest,
        };
        let bytes = read(catalogue, blobs, &digest)?.ok_or_else(unreadable)?;
        let chunks = ChunkList::from_bytes(&bytes).map_err(|_| unreadable())?;
        used.insert(&digest);
        for chunk in chunks.chunks() {
            used.insert(&chunk.digest);
        }
    }
    Ok(())
}

fn read(catalogue: &dyn Catalogue, blobs: &dyn Blobs, digest: &Digest) -> Result<Option<Vec<u8>>, GcError> {
    let Some(stored) = catalogue.chunks(&[*digest])?[0] else {
        return Ok(None);
    };
    if u64::from(stored.len) > META_BYTES_MAX {
        return Ok(None);
    }
    let bytes = blobs.read(stored.pack, stored.offset, stored.len as usize)?;
    Ok((Digest::of(&bytes) == *digest).then_some(bytes))
}

/// How many packs are dealt with together: chunks of all of them are held in memory, and bytes of some in one new pack.
fn batch(packs: &[(PackId, Usage)]) -> usize {
    let (mut chunks, mut bytes) = (0, 0);
    let fits = packs.iter().take_while(|(_, usage)| {
        let room = chunks < BATCH_CHUNKS && bytes < PACK_BYTES;
        chunks += usage.chunks;
        bytes += usage.used_bytes;
        room
    });
    fits.count().max(1)
}

/// Removes packs, after their chunks in use were moved into a new one. `false`: a release became visible meanwhile.
fn sweep_batch(
    catalogue: &dyn Catalogue,
    blobs: &dyn Blobs,
    (published, cutoff): (u64, UnixSeconds),
    used: &Used,
    batch: &BTreeMap<PackId, Usage>,
    report: &mut GcReport,
) -> Result<bool, GcError> {
    let mut packs: BTreeMap<PackId, Vec<(Digest, Stored)>> = batch.keys().map(|pack| (*pack, Vec::new())).collect();
    catalogue.each_chunk(&mut |digest, stored| {
        if let Some(chunks) = packs.get_mut(&stored.pack) {
            chunks.push((*digest, stored));
        }
    })?;
    let mut sweep = Sweep {
        published,
        cutoff,
        now: UnixSeconds::now(),
        packs: Vec::new(),
        moved: Vec::new(),
        unused: Vec::new(),
    };
    let mut mover = Mover::default();
    for (pack, mut chunks) in packs {
        chunks.sort_by_key(|(_, stored)| stored.offset);
        let (needed, unused): (Vec<_>, Vec<_>) = chunks.into_iter().partition(|(digest, _)| used.contains(digest));
        if let Some(moved) = mover.take(blobs, &needed)? {
            sweep.packs.push(pack);
            sweep.moved.extend(moved);
            sweep.unused.extend(unused);
        } else {
            tracing::error!(
                "a chunk in use in pack {pack} is damaged: the pack is left as it is; restore it from a backup"
            );
        }
    }
    mover.finish()?;
    let unused: BTreeMap<PackId, (u64, u64)> = sweep.unused.iter().fold(BTreeMap::new(), |mut sums, (_, stored)| {
        let (chunks, bytes) = sums.entry(stored.pack).or_default();
        *chunks += 1;
        *bytes += u64::from(stored.len);
        sums
    });
    let new_pack = sweep.moved.first().map(|moved| moved.to.pack);
    let swept = catalogue.sweep(sweep)?;
    let rewritten = |pack: &PackId| batch.get(pack).is_some_and(|usage| usage.used_chunks > 0);
    if let Some(new_pack) = new_pack
        && !swept.iter().flatten().any(rewritten)
    {
        // Nobody knows of it.
        blobs.remove(new_pack)?;
    }
    let Some(gone) = swept else { return Ok(false) };
    for pack in gone {
        // Nothing names it any more. If this fails, its chunks are known again after a restart, and removed the next time.
        blobs.remove(pack)?;
        let (chunks, bytes) = unused.get(&pack).copied().unwrap_or_default();
        report.packs += 1;
        report.packs_rewritten += u64::from(rewritten(&pack));
        report.chunks += chunks;
        report.bytes += bytes;
        report.bytes_left = report.bytes_left.saturating_sub(bytes);
    }
    Ok(true)
}

/// Copies chunks into one new pack.
#[derive(Default)]
struct Mover {
    pack: Option<Box<dyn PackWriter>>,
    offset: u64,
}

impl Mover {
    /// Copies the chunks of a pack, and says where each is now. `None`, and nothing is copied, if one is damaged.
    fn take(&mut self, blobs: &dyn Blobs, chunks: &[(Digest, Stored)]) -> Result<Option<Vec<Moved>>, BlobsError> {
        // Read twice rather than held in memory: a damaged one must not be found when half of them have been written.
        for (digest, stored) in chunks {
            match blobs.read(stored.pack, stored.offset, stored.len as usize) {
                Ok(bytes) if Digest::of(&bytes) == *digest => {}
                Ok(_) | Err(BlobsError::Disk { .. }) => return Ok(None),
                Err(fault @ BlobsError::Full) => return Err(fault),
            }
        }
        let mut moved = Vec::with_capacity(chunks.len());
        for (digest, from) in chunks {
            let bytes = blobs.read(from.pack, from.offset, from.len as usize)?;
            let pack = match &mut self.pack {
                Some(pack) => pack,
                None => {
                    let mut pack = blobs.create()?;
                    pack.write(&PACK_HEADER)?;
                    self.offset = PACK_HEADER.len() as u64;
                    self.pack.insert(pack)
                }
            };
            let header = chunk_header(from.len, digest);
            pack.write(&header)?;
            pack.write(&bytes)?;
            self.offset += header.len() as u64;
            moved.push(Moved {
                digest: *digest,
                from: *from,
                to: Stored {
                    pack: pack.id(),
                    offset: self.offset,
                    len: from.len,
                },
            });
            self.offset += u64::from(from.len);
        }
        Ok(Some(moved))
    }

    /// Makes the new pack durable, if there is one.
    fn finish(self) -> Result<(), BlobsError> {
        self.pack.map_or(Ok(()), PackWriter::finish)
    }
}
