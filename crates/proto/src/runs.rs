//! Sets of indices as runs, and how they are written: as runs or as a bitmap, whichever is shorter.

use crate::message::Runs;
use crate::wire::{Reader, WireError, put_varint, varint_len};

/// The most runs of one set in a message.
pub const RUNS_MAX: usize = 120_000;
/// The most indices that a datagram may say a bitmap has: one that fills it.
const BITMAP_BYTES_MAX: usize = crate::datagram::DATAGRAM_BYTES_MAX;

impl Runs {
    /// The runs of indices that come in ascending order; repeated ones count once.
    pub fn of(indices: impl IntoIterator<Item = u32>) -> Self {
        let mut runs = Self::default();
        for index in indices {
            runs.push(index);
        }
        runs
    }

    /// `0 .. count`.
    pub fn all(count: u32) -> Self {
        if count == 0 {
            Self::default()
        } else {
            Self(vec![(0, count)])
        }
    }

    /// Appends an index that is not below the last one.
    pub fn push(&mut self, index: u32) {
        match self.0.last_mut() {
            Some((first, count)) if index < *first + *count => {}
            Some((first, count)) if index == *first + *count => *count += 1,
            _ => self.0.push((index, 1)),
        }
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many indices there are.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// One beyond the last index.
    pub fn end(&self) -> u64 {
        self.0
            .last()
            .map_or(0, |(first, count)| u64::from(*first) + u64::from(*count))
    }

    /// Whether all of them are among others.
    pub fn is_within(&self, others: &Self) -> bool {
        self.0.iter().all(|(first, count)| {
            let after = others.0.partition_point(|(other, _)| other <= first);
            after > 0 && {
                let (other, length) = others.0[after - 1];
                u64::from(*first) + u64::from(*count) <= u64::from(other) + u64::from(length)
            }
        })
    }

    /// The indices, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0
            .iter()
            .flat_map(|(first, count)| *first..first.saturating_add(*count))
    }

    /// Whether the runs are ascending, do not touch, are not empty and stay below 2^32 - 1.
    pub fn is_valid(&self) -> bool {
        let mut next = 0u64;
        self.0.iter().enumerate().all(|(n, (first, count))| {
            let fits = *count > 0 && (n == 0 || u64::from(*first) > next);
            next = u64::from(*first) + u64::from(*count);
            fits && u32::try_from(next).is_ok()
        })
    }

    /// Number of runs, then for each how far it is from the end of the one before, and how long it is.
    pub(crate) fn put(&self, bytes: &mut Vec<u8>) {
        put_varint(bytes, self.0.len() as u64);
        let mut end = 0;
        for (first, count) in &self.0 {
            put_varint(bytes, u64::from(first - end));
            put_varint(bytes, u64::from(*count));
            end = first + count;
        }
    }

    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = reader.count("runs", RUNS_MAX, 2)?;
        let mut runs = Vec::with_capacity(count);
        let mut end = 0u64;
        for n in 0..count {
            let (gap, len) = (reader.varint()?, reader.varint()?);
            if len == 0 || (gap == 0 && n > 0) {
                return Err(WireError::Malformed("runs are empty or touch"));
            }
            let first = end.saturating_add(gap);
            end = first.saturating_add(len);
            if end > u64::from(u32::MAX) {
                return Err(WireError::Malformed("a run is beyond 32 bits"));
            }
            runs.push((first as u32, len as u32));
        }
        Ok(Self(runs))
    }

    /// Writes as many of the indices from `from` on as fit into `room` bytes, and returns where to go on: `end()` if all
    /// are written. `room` is at least 16.
    ///
    /// First byte 0: nothing. 1: runs as in messages. 2: a bitmap: varint index of the first bit, varint number of bytes,
    /// bytes, the lowest bit first.
    pub(crate) fn put_set(&self, bytes: &mut Vec<u8>, from: u64, room: usize) -> u64 {
        let start = self
            .0
            .partition_point(|(first, count)| u64::from(*first) + u64::from(*count) <= from);
        let rest = &self.0[start..];
        let Some((first, _)) = rest.first() else {
            bytes.push(0);
            return self.end();
        };
        let base = u64::from(*first).max(from);

        // How far runs reach.
        let mut as_runs = Self::default();
        let (mut length, mut end) = (4, 0u64); // one byte of kind, three for their number
        for (first, count) in rest {
            let until = u64::from(*first) + u64::from(*count);
            let first = u64::from(*first).max(base);
            let count = until - first;
            let more = varint_len(first - end) + varint_len(count);
            if length + more > room {
                break;
            }
            length += more;
            end = first + count;
            as_runs.0.push((first as u32, count as u32));
        }

        // How far a bitmap reaches in the same room.
        let header = 1 + varint_len(base) + 2;
        let bits_max = (room - header) as u64 * 8;
        let wide = (self.end() - base).min(bits_max);
        let bitmap_reaches = base + wide;
        let bitmap_len = 1 + varint_len(base) + varint_len(wide.div_ceil(8)) + wide.div_ceil(8) as usize;
        let runs_len = length - 3 + varint_len(as_runs.0.len() as u64);
        if (end >= self.end() && runs_len <= bitmap_len) || (end > bitmap_reaches) {
            bytes.push(1);
            as_runs.put(bytes);
            return end;
        }
        let mut bits = vec![0u8; wide.div_ceil(8) as usize];
        for (first, count) in rest {
            let begin = u64::from(*first).max(base);
            let until = (u64::from(*first) + u64::from(*count)).min(bitmap_reaches);
            if begin >= bitmap_reaches {
                break;
            }
            for index in begin..until {
                let bit = (index - base) as usize;
                bits[bit / 8] |= 1 << (bit % 8);
            }
        }
        bytes.push(2);
        put_varint(bytes, base);
        put_varint(bytes, bits.len() as u64);
        bytes.extend_from_slice(&bits);
        bitmap_reaches
    }

    pub(crate) fn take_set(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match reader.u8()? {
            0 => Ok(Self::default()),
            1 => Self::take(reader),
            2 => {
                let base = reader.varint32()?;
                let len = reader.count("bytes of a bitmap", BITMAP_BYTES_MAX, 1)?;
                if u64::from(base) + len as u64 * 8 > u64::from(u32::MAX) {
                    return Err(WireError::Malformed("a bitmap is beyond 32 bits"));
                }
                let bits = reader.take(len)?;
                Ok(Self::of((0..len as u32 * 8).filter_map(|bit| {
                    (bits[bit as usize / 8] >> (bit % 8) & 1 == 1).then_some(base + bit)
                })))
            }
            _ => Err(WireError::Malformed("a set is written in no known way")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pieces(runs: &Runs, room: usize) -> Vec<Runs> {
        let (mut from, mut pieces) = (0, Vec::new());
        loop {
            let mut bytes = Vec::new();
            let next = runs.put_set(&mut bytes, from, room);
            assert!(bytes.len() <= room, "{} bytes in {room}", bytes.len());
            assert!(next > from || runs.is_empty());
            let mut reader = Reader::new(&bytes);
            let piece = Runs::take_set(&mut reader).unwrap();
            reader.end().unwrap();
            assert!(piece.is_valid());
            pieces.push(piece);
            from = next;
            if from >= runs.end() {
                return pieces;
            }
        }
    }

    proptest! {
        #[test]
        fn sets_round_trip_in_pieces_of_any_size(
            indices in prop::collection::btree_set(0u32..5_000, 0..400),
            dense in any::<bool>(),
            room in 16usize..200,
        ) {
            let indices: BTreeSet<u32> = if dense { indices.iter().map(|i| i / 8).collect() } else { indices };
            let runs = Runs::of(indices.iter().copied());
            prop_assert!(runs.is_valid());
            let back: Vec<u32> = pieces(&runs, room).iter().flat_map(|piece| piece.iter().collect::<Vec<_>>()).collect();
            prop_assert_eq!(back, indices.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn random_bytes_are_no_set_or_a_valid_one(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(set) = Runs::take_set(&mut Reader::new(&bytes)) {
                prop_assert!(set.is_valid());
            }
        }
    }

    #[test]
    fn ten_thousand_scattered_indices_fit_one_datagram() {
        let runs = Runs::of((0..10_000).filter(|i| i % 3 != 0));
        let mut bytes = Vec::new();
        assert_eq!(runs.put_set(&mut bytes, 0, 1_260), runs.end());
        assert!(bytes.len() <= 1_256, "{}", bytes.len());
    }

    #[test]
    fn everything_of_a_list_takes_a_few_bytes() {
        let mut bytes = Vec::new();
        Runs::all(200_000).put_set(&mut bytes, 0, 64);
        assert_eq!(bytes, [1, 1, 0, 0xc0, 0x9a, 0x0c]);
    }

    #[test]
    fn runs_that_touch_overlap_or_are_empty_are_refused() {
        for bytes in [&[1, 0, 0][..], &[2, 0, 1, 0, 1], &[1, 0xff, 0xff, 0xff, 0xff, 0x0f, 1]] {
            assert!(Runs::take(&mut Reader::new(bytes)).is_err(), "{bytes:?}");
        }
        assert!(!Runs(vec![(0, 1), (1, 1)]).is_valid());
        assert!(!Runs(vec![(3, 1), (1, 1)]).is_valid());
    }
}
