//! A release as the world knows it: digests and lengths, no bytes.

use std::collections::BTreeMap;

use potluck_model::Digest;
use potluck_model::chunk_list::SINGLE_CHUNK_BYTES_MAX;
use potluck_model::list::Content;

use crate::random::Random;

/// What is published: a list and its contents.
#[derive(Clone, Debug)]
pub struct Release {
    /// Digest of the list.
    pub list: Digest,
    /// Bytes of the list.
    pub list_size: u64,
    /// Its contents, by digest.
    pub contents: Vec<Content>,
    /// Length of each chunk of everything, lists and chunk lists included.
    pub(crate) chunks: BTreeMap<Digest, Vec<u32>>,
    /// Of each chunk list: its file.
    pub(crate) chunk_lists: BTreeMap<Digest, Digest>,
}

impl Release {
    /// A release of files of these sizes, cut into chunks of about `chunk` bytes. The same seed gives the same release.
    pub fn new(seed: u64, sizes: &[u64], chunk: u32) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let mut release = Self {
            list: Digest::of(&seed.to_be_bytes()),
            list_size: 400 + 180 * sizes.len() as u64,
            contents: Vec::new(),
            chunks: BTreeMap::new(),
            chunk_lists: BTreeMap::new(),
        };
        release.chunks.insert(release.list, vec![release.list_size as u32]);
        for size in sizes {
            release.add(&mut random, *size, chunk);
        }
        release.contents.sort_by_key(|content| content.digest);
        release
    }

    fn add(&mut self, random: &mut Random, size: u64, chunk: u32) {
        let digest = Digest::of(&random.u64().to_be_bytes());
        let mut lengths = Vec::new();
        let mut chunks = None;
        if size <= SINGLE_CHUNK_BYTES_MAX {
            lengths.push(size as u32);
        } else {
            let mut left = size;
            while left > 0 {
                let len = (u64::from(chunk) / 2 + random.below(u64::from(chunk))).min(left);
                lengths.push(len as u32);
                left -= len;
            }
            let list = Digest::of(digest.as_bytes());
            self.chunks.insert(list, vec![12 + 36 * lengths.len() as u32]);
            self.chunk_lists.insert(list, digest);
            chunks = Some(list);
        }
        self.chunks.insert(digest, lengths);
        self.contents.push(Content { digest, size, chunks });
    }

    /// Bytes of all files.
    pub fn payload(&self) -> u64 {
        self.contents.iter().map(|content| content.size).sum()
    }

    /// A mixture like that of real configurations: one large file, some of middling size, many small ones.
    pub fn mixed(seed: u64, bytes: u64, small: usize) -> Self {
        let mut random = Random::new(seed ^ 0x31ed);
        let mut sizes: Vec<u64> = (0..small).map(|_| 500 + random.below(16_000)).collect();
        let used: u64 = sizes.iter().sum();
        let rest = bytes.saturating_sub(used);
        sizes.push(rest / 2);
        sizes.extend([rest / 8; 4]);
        Self::new(seed, &sizes, 64 << 10)
    }
}
