//! Which chunks have arrived for the designated list. One can come twice, from a source that was given up too early and
//! from the next; the trace names the first.

use std::collections::BTreeMap;

use potluck_model::Digest;

/// One bit for each chunk that arrived, by content.
#[derive(Default)]
pub(crate) struct Arrived(BTreeMap<Digest, Vec<u64>>);

impl Arrived {
    /// Notes a chunk; whether it is the first time.
    pub(crate) fn note(&mut self, content: Digest, chunk: u32) -> bool {
        let words = self.0.entry(content).or_default();
        let (word, bit) = place(chunk);
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        let first = words[word] & bit == 0;
        words[word] |= bit;
        first
    }

    /// The chunk is gone: when it comes again, that counts.
    pub(crate) fn forget(&mut self, content: &Digest, chunk: u32) {
        let (word, bit) = place(chunk);
        if let Some(word) = self.0.get_mut(content).and_then(|words| words.get_mut(word)) {
            *word &= !bit;
        }
    }
}

fn place(chunk: u32) -> (usize, u64) {
    ((chunk / 64) as usize, 1 << (chunk % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_arrives_once_until_it_is_lost() {
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let mut arrived = Arrived::default();
        assert!(arrived.note(one, 0) && arrived.note(one, 64) && arrived.note(one, 63) && arrived.note(other, 0));
        assert!(!arrived.note(one, 64));
        arrived.forget(&one, 64);
        arrived.forget(&one, 1_000_000);
        assert!(arrived.note(one, 64));
        assert!(!arrived.note(one, 63));
    }
}
