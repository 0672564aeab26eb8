//! A release as the world knows it: digests and lengths, no bytes.

use std::collections::BTreeMap;

use potluck_model::Digest;
use potluck_model::chunk_list::SINGLE_CHUNK_BYTES_MAX;
use potluck_model::list::Content;

use crate::random::Random;

/// What is published: one or more lists, and their contents.
#[derive(Clone, Debug)]
pub struct Release {
    pub(crate) lists: Vec<Published>,
    pub(crate) parts: Vec<Part>,
    by_digest: BTreeMap<Digest, PartIx>,
    /// Chunks of all parts.
    pub(crate) chunks: usize,
}

/// A list with its contents, by digest.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) part: PartIx,
    pub(crate) contents: Vec<Content>,
}

/// What is fetched by a digest: a list, a chunk list or a file.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) digest: Digest,
    /// Length of each chunk.
    pub(crate) lengths: Vec<u32>,
    /// Number of its first chunk among all chunks of the release.
    pub(crate) first: u32,
    pub(crate) role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    List,
    ChunkListOf(PartIx),
    File,
}

/// Number of a part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct PartIx(pub(crate) u32);

impl Release {
    /// A release of files of these sizes, cut into chunks of about `chunk` bytes. The same seed gives the same release.
    pub fn new(seed: u64, sizes: &[u64], chunk: u32) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let mut release = Self::empty();
        let contents = sizes
            .iter()
            .map(|size| release.add_file(&mut random, *size, chunk))
            .collect();
        release.publish(Digest::of(&seed.to_be_bytes()), contents);
        release
    }

    /// A mixture like that of real configurations: one large file, some of middling size, many small ones.
    pub fn mixed(seed: u64, bytes: u64, small: usize, chunk: u32) -> Self {
        Self::new(seed, &mixture(seed, bytes, small), chunk)
    }

    /// Several lists that share one large file, each with small files of its own.
    pub fn sharing(seed: u64, lists: usize, bytes: u64, small: usize, chunk: u32) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let mut release = Self::empty();
        let image = release.add_file(&mut random, bytes, chunk);
        for n in 0..lists as u64 {
            let mut contents = vec![image];
            for _ in 0..small {
                let size = 500 + random.below(16_000);
                contents.push(release.add_file(&mut random, size, chunk));
            }
            release.publish(Digest::of(&[seed, n].map(u64::to_be_bytes).concat()), contents);
        }
        release
    }

    const fn empty() -> Self {
        Self {
            lists: Vec::new(),
            parts: Vec::new(),
            by_digest: BTreeMap::new(),
            chunks: 0,
        }
    }

    fn publish(&mut self, digest: Digest, mut contents: Vec<Content>) {
        contents.sort_by_key(|content| content.digest);
        let size = 400 + 180 * contents.len() as u32;
        let part = self.add_part(digest, vec![size], Role::List);
        self.lists.push(Published { part, contents });
    }

    fn add_file(&mut self, random: &mut Random, size: u64, chunk: u32) -> Content {
        let digest = Digest::of(&random.u64().to_be_bytes());
        if size <= SINGLE_CHUNK_BYTES_MAX {
            self.add_part(digest, vec![size as u32], Role::File);
            let chunks = None;
            return Content { digest, size, chunks };
        }
        let mut lengths = Vec::new();
        let mut left = size;
        while left > 0 {
            let len = (u64::from(chunk) / 2 + random.below(u64::from(chunk))).min(left);
            lengths.push(len as u32);
            left -= len;
        }
        let list = Digest::of(digest.as_bytes());
        let list_bytes = 12 + 36 * lengths.len() as u32;
        let file = self.add_part(digest, lengths, Role::File);
        self.add_part(list, vec![list_bytes], Role::ChunkListOf(file));
        let chunks = Some(list);
        Content { digest, size, chunks }
    }

    fn add_part(&mut self, digest: Digest, lengths: Vec<u32>, role: Role) -> PartIx {
        let ix = PartIx(self.parts.len() as u32);
        let first = self.chunks as u32;
        self.chunks += lengths.len();
        self.by_digest.insert(digest, ix);
        self.parts.push(Part {
            digest,
            lengths,
            first,
            role,
        });
        ix
    }

    /// Bytes of all files, each once.
    pub fn payload(&self) -> u64 {
        self.files().map(Part::bytes).sum()
    }

    /// Bytes of the files of the largest list.
    pub fn largest(&self) -> u64 {
        let sizes = self.lists.iter().map(|list| {
            let contents = list.contents.iter();
            contents.map(|content| content.size).sum()
        });
        sizes.max().unwrap_or(0)
    }

    fn files(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.role == Role::File)
    }

    pub(crate) fn find(&self, digest: &Digest) -> Option<PartIx> {
        self.by_digest.get(digest).copied()
    }

    pub(crate) fn part(&self, ix: PartIx) -> &Part {
        &self.parts[ix.0 as usize]
    }

    /// The chunk with a number: of which part, and which of it.
    pub(crate) fn chunk(&self, number: u32) -> (PartIx, u32) {
        let after = self.parts.partition_point(|part| part.first <= number);
        let ix = PartIx(after as u32 - 1);
        (ix, number - self.part(ix).first)
    }
}

impl Part {
    pub(crate) fn bytes(&self) -> u64 {
        self.lengths.iter().map(|len| u64::from(*len)).sum()
    }

    /// Numbers of its chunks among all.
    pub(crate) fn numbers(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.lengths.len() as u32
    }
}

fn mixture(seed: u64, bytes: u64, small: usize) -> Vec<u64> {
    let mut random = Random::new(seed ^ 0x31ed);
    let mut sizes: Vec<u64> = (0..small).map(|_| 500 + random.below(16_000)).collect();
    let used: u64 = sizes.iter().sum();
    let rest = bytes.saturating_sub(used);
    sizes.push(rest / 2);
    sizes.extend([rest / 8; 4]);
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_has_one_number() {
        let release = Release::sharing(3, 3, 1 << 20, 5, 64 << 10);
        let mut next = 0;
        for (n, part) in release.parts.iter().enumerate() {
            for (index, number) in part.numbers().enumerate() {
                assert_eq!(number, next);
                assert_eq!(release.chunk(number), (PartIx(n as u32), index as u32));
                next += 1;
            }
        }
        assert_eq!(next as usize, release.chunks);
        assert_eq!(release.lists.len(), 3);
        assert!(release.payload() < 2 << 20, "what is shared counts once");
    }
}
