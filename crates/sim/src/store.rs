//! What a node keeps: a bit for each chunk of the release.

use crate::release::{Part, Release};

/// Chunks by their number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Store(Vec<u64>);

impl Store {
    pub(crate) fn new(release: &Release) -> Self {
        Self(vec![0; release.chunks.div_ceil(64)])
    }

    pub(crate) fn has(&self, chunk: u32) -> bool {
        self.0[chunk as usize / 64] >> (chunk % 64) & 1 == 1
    }

    /// Returns whether it was not there before.
    pub(crate) fn add(&mut self, chunk: u32) -> bool {
        let word = &mut self.0[chunk as usize / 64];
        let bit = 1 << (chunk % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    pub(crate) fn clear(&mut self) {
        self.0.fill(0);
    }

    pub(crate) fn has_all(&self, part: &Part) -> bool {
        part.numbers().all(|chunk| self.has(chunk))
    }

    /// Chunks that are here and not in `other`.
    pub(crate) fn beyond(&self, other: &Self) -> usize {
        let words = self.0.iter().zip(&other.0);
        words.map(|(a, b)| (a & !b).count_ones() as usize).sum()
    }

    /// Bytes of all that is here.
    pub(crate) fn bytes(&self, release: &Release) -> u64 {
        let chunks = |part: &Part| -> u64 {
            let held = part
                .lengths
                .iter()
                .zip(part.numbers())
                .filter(|(_, chunk)| self.has(*chunk));
            held.map(|(len, _)| u64::from(*len)).sum()
        };
        release.parts.iter().map(chunks).sum()
    }
}
