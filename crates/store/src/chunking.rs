//! Cutting files into chunks by their content, with FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking for
//! Data Deduplication Based Storage Systems", IEEE TPDS 2020).
//!
//! Where a chunk ends depends on the bytes just before, so that what is the same in two versions of a file is cut the same,
//! wherever it has moved to. The cuts are part of no format: a reader takes any chunk list. But only files that were cut
//! with about the same average share chunks, so `average_for` holds on to the average of the previous release.

use std::io::{self, ErrorKind, Read};

use fastcdc::v2020::FastCDC;
use potluck_model::Digest;
use potluck_model::chunk_list::{CHUNK_BYTES_MAX, Chunk, SINGLE_CHUNK_BYTES_MAX};

/// The smallest average, in bytes: files of some 128 MiB and less.
pub const AVERAGE_BYTES_MIN: u32 = 32 << 10;
/// The largest average, in bytes: files of some 4 GiB and more.
pub const AVERAGE_BYTES_MAX: u32 = 1 << 20;
/// A file is cut into about as many chunks, as far as the limits for the average allow.
const CHUNKS_ABOUT: u64 = 4_096;
/// The average chunk, in bytes, of a file of `size` bytes.
///
/// It follows from the size alone, so that the same bytes are cut in the same way wherever they are published: nodes name
/// parts of a file by index. The price: a file that grows past a power of two shares no chunks with the release before.
pub fn average_for(size: u64) -> u32 {
    (size / CHUNKS_ABOUT)
        .clamp(u64::from(AVERAGE_BYTES_MIN), u64::from(AVERAGE_BYTES_MAX))
        .next_power_of_two() as u32
}

/// Cuts a stream into chunks. An iterator of chunks with their bytes; afterwards, `finish` gives the digest of the whole.
///
/// Memory is bounded: a buffer of twice the largest chunk (at most 8 MiB), and the chunk given out.
pub struct Chunker<R> {
    source: R,
    hasher: blake3::Hasher,
    size: u64,
    average: usize,
    max: usize,
    /// Bytes read and not given out: `buffer[from..]`.
    buffer: Vec<u8>,
    from: usize,
    /// The source has given its last byte.
    is_at_end: bool,
    /// Nothing more will be given out.
    is_done: bool,
}

/// What a stream came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Whole {
    /// Digest of all bytes.
    pub digest: Digest,
    /// How many there were.
    pub size: u64,
}

impl<R: Read> Chunker<R> {
    /// Cuts `source`. `average`, in bytes, is what `average_for` says. A stream of at most `SINGLE_CHUNK_BYTES_MAX` bytes is
    /// one chunk in any case, and a longer one at least two.
    pub fn new(source: R, average: u32) -> Self {
        let average = average.clamp(AVERAGE_BYTES_MIN, AVERAGE_BYTES_MAX).next_power_of_two();
        Self {
            source,
            hasher: blake3::Hasher::new(),
            size: 0,
            average: average as usize,
            max: (average * 4).min(CHUNK_BYTES_MAX) as usize,
            buffer: Vec::new(),
            from: 0,
            is_at_end: false,
            is_done: false,
        }
    }

    /// Digest and size of all bytes given out so far: of the whole, once the iterator has ended.
    pub fn finish(&self) -> Whole {
        Whole {
            digest: self.hasher.finalize().into(),
            size: self.size,
        }
    }

    /// Reads until the buffer holds a largest chunk and something more, or the source ends.
    fn fill(&mut self) -> io::Result<()> {
        if self.is_at_end || self.buffer.len() - self.from > self.max {
            return Ok(());
        }
        self.buffer.drain(..self.from);
        self.from = 0;
        while !self.is_at_end && self.buffer.len() < 2 * self.max {
            let len = self.buffer.len();
            // The buffer grows as bytes come in, so that small files need little of it.
            let step = len
                .clamp(SINGLE_CHUNK_BYTES_MAX as usize + 1, 1 << 20)
                .min(2 * self.max - len);
            self.buffer.reserve_exact(step);
            self.buffer.resize(len + step, 0);
            let read = loop {
                match self.source.read(&mut self.buffer[len..]) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    result => break result,
                }
            };
            self.buffer.truncate(len + *read.as_ref().unwrap_or(&0));
            self.is_at_end = read? == 0;
        }
        Ok(())
    }
}

impl<R: Read> Iterator for Chunker<R> {
    /// A chunk and its bytes. An empty stream is one empty chunk. After an error nothing follows.
    type Item = io::Result<(Chunk, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        if let Err(error) = self.fill() {
            self.is_done = true;
            return Some(Err(error));
        }
        let ready = &self.buffer[self.from..];
        let is_first = self.size == 0;
        let is_whole = is_first && self.is_at_end;
        let len = if is_whole && ready.len() as u64 <= SINGLE_CHUNK_BYTES_MAX {
            ready.len()
        } else {
            let cutter = FastCDC::new(ready, self.average / 4, self.average, self.max);
            let len = cutter.cut(0, ready.len()).1;
            // Lists tell by the size which files have a chunk list, so what is larger must not be one chunk by chance.
            if is_whole && len == ready.len() { len / 2 } else { len }
        };
        if len == 0 && !is_first {
            self.is_done = true;
            return None;
        }
        let bytes = ready[..len].to_vec();
        self.from += len;
        self.is_done = self.is_at_end && self.from == self.buffer.len();
        self.size += len as u64;
        self.hasher.update(&bytes);
        let chunk = Chunk {
            digest: Digest::of(&bytes),
            len: len as u32,
        };
        Some(Ok((chunk, bytes)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn random(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_be_bytes());
        hasher.finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cut(bytes: &[u8], average: u32) -> Vec<Chunk> {
        Chunker::new(bytes, average).map(|item| item.unwrap().0).collect()
    }

    /// Gives a few bytes at a time, as a pipe does.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = self.1.min(buffer.len());
            self.0.read(&mut buffer[..len])
        }
    }

    #[test]
    fn averages_grow_with_the_file_and_stay_within_limits() {
        let mib = 1 << 20;
        assert_eq!(average_for(0), 32 << 10);
        assert_eq!(average_for(128 * mib), 32 << 10);
        assert_eq!(average_for(129 * mib), 64 << 10);
        assert_eq!(average_for(512 * mib), 128 << 10);
        assert_eq!(average_for(u64::MAX), 1 << 20);
    }

    #[test]
    fn up_to_the_limit_a_file_is_one_chunk_and_an_empty_one_too() {
        for len in [0, 1, SINGLE_CHUNK_BYTES_MAX as usize] {
            let bytes = random(1, len);
            let chunks = cut(&bytes, AVERAGE_BYTES_MIN);
            assert_eq!(
                chunks,
                [Chunk {
                    digest: Digest::of(&bytes),
                    len: len as u32
                }]
            );
        }
    }

    #[test]
    fn what_is_larger_is_at_least_two_chunks() {
        for average in [AVERAGE_BYTES_MIN, AVERAGE_BYTES_MAX] {
            for len in [65_537, 70_000, 131_072] {
                for bytes in [random(2, len), vec![0; len]] {
                    assert!(cut(&bytes, average).len() > 1, "{len} bytes");
                }
            }
        }
    }

    #[test]
    fn the_cuts_stay_where_they_were() {
        // If they moved, the same bytes would be cut differently by different versions, and the server would refuse them.
        let lengths: Vec<u32> = cut(&random(7, 400_000), AVERAGE_BYTES_MIN)
            .iter()
            .map(|chunk| chunk.len)
            .collect();
        assert_eq!(
            lengths,
            [
                22_123, 59_717, 40_777, 42_358, 64_766, 37_504, 26_819, 18_269, 80_998, 6_669
            ]
        );
    }

    #[test]
    fn an_error_while_reading_ends_the_chunks() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        let bytes = random(1, 200_000);
        let mut chunker = Chunker::new(bytes.as_slice().chain(Failing), AVERAGE_BYTES_MIN);
        assert!(chunker.any(|item| item.is_err()));
        assert!(chunker.next().is_none());
    }

    #[test]
    fn memory_is_bounded_however_long_the_stream() {
        let mut chunker = Chunker::new(io::repeat(0).take(64 << 20), AVERAGE_BYTES_MAX);
        while let Some(item) = chunker.next() {
            item.unwrap();
            assert!(chunker.buffer.capacity() <= 2 * chunker.max);
        }
        assert_eq!(chunker.finish().size, 64 << 20);
    }

    #[test]
    fn what_is_inserted_changes_only_the_chunks_around_it() {
        for seed in 0..8_usize {
            let old = random(seed as u64, 8 << 20);
            let at = seed * 1_000_003;
            let new = [&old[..at], b"inserted", &old[at..]].concat();
            let held: BTreeSet<Digest> = cut(&old, AVERAGE_BYTES_MIN).iter().map(|chunk| chunk.digest).collect();
            let fetched: u64 = cut(&new, AVERAGE_BYTES_MIN)
                .iter()
                .filter(|chunk| !held.contains(&chunk.digest))
                .map(|chunk| u64::from(chunk.len))
                .sum();
            assert!(
                fetched <= 4 * u64::from(AVERAGE_BYTES_MIN) * 4,
                "{fetched} bytes at {at}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn chunks_put_together_are_the_file(
            seed: u64,
            len in prop_oneof![0_usize..3_000_000, 60_000_usize..200_000],
            average in prop::sample::select(vec![32_u32 << 10, 64 << 10, 128 << 10]),
            step in 1_000_usize..300_000,
        ) {
            let bytes = random(seed, len);
            let mut chunker = Chunker::new(Trickle(&bytes, step), average);
            let mut together = Vec::new();
            let mut chunks = Vec::new();
            for item in &mut chunker {
                let (chunk, bytes) = item.unwrap();
                prop_assert_eq!(chunk.len as usize, bytes.len());
                prop_assert_eq!(chunk.digest, Digest::of(&bytes));
                prop_assert!(chunk.len <= average * 4);
                together.extend_from_slice(&bytes);
                chunks.push(chunk);
            }
            prop_assert!(together == bytes);
            prop_assert_eq!(chunker.finish(), Whole { digest: Digest::of(&bytes), size: len as u64 });
            prop_assert_eq!(chunks.len() == 1, len as u64 <= SINGLE_CHUNK_BYTES_MAX);
            // However the bytes come in, the cuts are the same.
            prop_assert_eq!(chunks, cut(&bytes, average));
        }
    }
}
