//! What has been written to the containers but is not in the index yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use potluck_model::Digest;

use crate::files::Container;

/// Bytes after which a batch is committed.
const BATCH_BYTES_MAX: u64 = 32 << 20;
/// Chunks and small contents after which a batch is committed: they are kept in memory until then.
const BATCH_ROWS_MAX: usize = 4_096;
/// Age at which a batch is committed, with the next `put`.
const BATCH_AGE_MAX: Duration = Duration::from_secs(1);

/// A small content in a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Small {
    pub(crate) pack: i64,
    /// Bytes of the pack before it.
    pub(crate) start: u64,
    pub(crate) size: u64,
}

/// One batch. Numbers tell a chunk that was put again while its batch was being committed from the one before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    /// By id of the content and index of the chunk.
    pub(crate) chunks: BTreeMap<i64, BTreeMap<u32, u64>>,
    pub(crate) smalls: BTreeMap<Digest, Small>,
    /// What has to be synced before the index may say so.
    pub(crate) dirty: BTreeSet<Container>,
    /// Whether containers have been made, so that their directories have to be synced.
    pub(crate) made: bool,
}

/// What is held but not yet in the index.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    batch: Batch,
    rows: usize,
    bytes: u64,
    since: Option<Instant>,
    puts: u64,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Whether it is time to commit.
    pub(crate) fn is_due(&self) -> bool {
        self.bytes >= BATCH_BYTES_MAX
            || self.rows >= BATCH_ROWS_MAX
            || self.since.is_some_and(|since| since.elapsed() >= BATCH_AGE_MAX)
    }

    pub(crate) fn add_chunk(&mut self, container: Container, content: i64, chunk: u32, len: u64) {
        self.puts += 1;
        self.batch.chunks.entry(content).or_default().insert(chunk, self.puts);
        self.added(container, len);
    }

    pub(crate) fn add_small(&mut self, digest: Digest, small: Small) {
        self.batch.smalls.insert(digest, small);
        self.added(Container::Pack(small.pack), small.size);
    }

    /// A container has been made; its directory has to be synced with the next batch.
    pub(crate) fn container_made(&mut self) {
        self.batch.made = true;
    }

    fn added(&mut self, container: Container, len: u64) {
        self.batch.dirty.insert(container);
        self.rows += 1;
        self.bytes += len;
        self.since.get_or_insert_with(Instant::now);
    }

    pub(crate) fn has_chunk(&self, content: i64, chunk: u32) -> bool {
        self.batch
            .chunks
            .get(&content)
            .is_some_and(|chunks| chunks.contains_key(&chunk))
    }

    /// How many chunks of `content` wait.
    pub(crate) fn chunks_of(&self, content: i64) -> u32 {
        self.batch.chunks.get(&content).map_or(0, |chunks| chunks.len() as u32)
    }

    pub(crate) fn small(&self, digest: &Digest) -> Option<Small> {
        self.batch.smalls.get(digest).copied()
    }

    pub(crate) fn smalls(&self) -> impl Iterator<Item = (&Digest, &Small)> {
        self.batch.smalls.iter()
    }

    /// Forgets one chunk; whether it waited.
    pub(crate) fn forget_chunk(&mut self, content: i64, chunk: u32) -> bool {
        self.batch
            .chunks
            .get_mut(&content)
            .is_some_and(|chunks| chunks.remove(&chunk).is_some())
    }

    pub(crate) fn forget_content(&mut self, content: i64) {
        self.batch.chunks.remove(&content);
    }

    pub(crate) fn forget_small(&mut self, digest: &Digest) -> bool {
        self.batch.smalls.remove(digest).is_some()
    }

    pub(crate) fn retain_smalls(&mut self, mut keep: impl FnMut(&Digest, &Small) -> bool) {
        self.batch.smalls.retain(|digest, small| keep(digest, small));
    }

    /// A copy of everything, to be synced and committed; it stays held meanwhile.
    pub(crate) fn snapshot(&mut self) -> Batch {
        let snapshot = self.batch.clone();
        self.batch.dirty.clear();
        self.batch.made = false;
        (self.rows, self.bytes, self.since) = (0, 0, None);
        snapshot
    }

    /// The snapshot could not be synced or committed: it waits for the next batch.
    pub(crate) fn put_back(&mut self, snapshot: Batch) {
        self.batch.dirty.extend(snapshot.dirty);
        self.batch.made |= snapshot.made;
        self.rows += snapshot.smalls.len() + snapshot.chunks.values().map(BTreeMap::len).sum::<usize>();
        self.since.get_or_insert_with(Instant::now);
    }

    /// Narrows a snapshot that has been synced to what is still as it was then.
    pub(crate) fn unchanged_since(&self, mut snapshot: Batch) -> Batch {
        snapshot
            .smalls
            .retain(|digest, small| self.small(digest) == Some(*small));
        snapshot.chunks.retain(|content, chunks| {
            let now = self.batch.chunks.get(content);
            chunks.retain(|chunk, put| now.is_some_and(|now| now.get(chunk) == Some(put)));
            !chunks.is_empty()
        });
        snapshot
    }

    /// The batch is in the index: it does not wait any more.
    pub(crate) fn committed(&mut self, batch: &Batch) {
        for digest in batch.smalls.keys() {
            self.batch.smalls.remove(digest);
        }
        for (content, chunks) in &batch.chunks {
            if let Some(waiting) = self.batch.chunks.get_mut(content) {
                waiting.retain(|chunk, _| !chunks.contains_key(chunk));
                if waiting.is_empty() {
                    self.batch.chunks.remove(content);
                }
            }
        }
    }
}
