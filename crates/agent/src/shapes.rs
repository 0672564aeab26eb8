//! What is known of the contents that may be asked for or served: of how many bytes and chunks they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use potluck_model::Digest;
use potluck_model::chunk_list::{Chunk, ChunkList, META_BYTES_MAX};
use potluck_proto::Want;

/// How a content is made up.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    /// One chunk: a list or a small file (`exact` bytes), or a chunk list (at most that many bytes).
    One { bytes: u64, exact: bool },
    /// Several chunks, with the offset of each.
    Many(Arc<Layout>),
}

/// A chunk list with offsets.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) chunks: ChunkList,
    offsets: Vec<u64>,
}

impl Layout {
    pub(crate) fn new(chunks: ChunkList) -> Self {
        let offsets = chunks
            .chunks()
            .iter()
            .scan(0, |next, chunk| {
                let offset = *next;
                *next += u64::from(chunk.len);
                Some(offset)
            })
            .collect();
        Self { chunks, offsets }
    }

    fn chunk(&self, index: u32) -> Option<(Chunk, u64)> {
        let at = index as usize;
        Some((*self.chunks.chunks().get(at)?, self.offsets[at]))
    }
}

/// One chunk that is expected from a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// Index of the want that it belongs to.
    pub(crate) want: u16,
    pub(crate) content: Digest,
    pub(crate) chunk: u32,
    /// Digest of the chunk itself.
    pub(crate) digest: Digest,
    /// Bytes it has, or at most has.
    pub(crate) bytes: u64,
    pub(crate) exact: bool,
    /// Whether its content is of one chunk.
    pub(crate) whole: bool,
}

/// Shapes by digest.
#[derive(Default)]
pub(crate) struct Shapes(BTreeMap<Digest, Shape>);

impl Shapes {
    pub(crate) fn one(&mut self, content: Digest, bytes: u64) {
        self.0.insert(content, Shape::One { bytes, exact: true });
    }

    pub(crate) fn chunk_list(&mut self, digest: Digest) {
        self.0.entry(digest).or_insert(Shape::One {
            bytes: META_BYTES_MAX,
            exact: false,
        });
    }

    /// What was of unknown length has been stored: it has this many bytes.
    pub(crate) fn measured(&mut self, content: &Digest, len: u64) {
        if let Some(Shape::One { bytes, exact }) = self.0.get_mut(content)
            && !*exact
        {
            (*bytes, *exact) = (len, true);
        }
    }

    pub(crate) fn many(&mut self, content: Digest, chunks: ChunkList) -> Arc<Layout> {
        let layout = Arc::new(Layout::new(chunks));
        self.0.insert(content, Shape::Many(Arc::clone(&layout)));
        layout
    }

    /// The chunks of `wants`, in order; none if one of them is of unknown shape or out of range.
    pub(crate) fn parts(&self, wants: &[Want]) -> Option<Vec<Part>> {
        let mut parts = Vec::with_capacity(wants.len());
        for (index, want) in wants.iter().enumerate() {
            for chunk in want.first..want.first.checked_add(want.count)? {
                let (digest, bytes, exact, whole) = match self.0.get(&want.content)? {
                    Shape::One { bytes, exact } if chunk == 0 => (want.content, *bytes, *exact, true),
                    Shape::One { .. } => return None,
                    Shape::Many(layout) => {
                        let (chunk, _) = layout.chunk(chunk)?;
                        (chunk.digest, u64::from(chunk.len), true, false)
                    }
                };
                let want_index = u16::try_from(index).ok()?;
                parts.push(Part {
                    want: want_index,
                    content: want.content,
                    chunk,
                    digest,
                    bytes,
                    exact,
                    whole,
                });
            }
        }
        Some(parts)
    }

    /// Whether a content is known to be of one chunk.
    pub(crate) fn is_one(&self, content: &Digest) -> bool {
        matches!(self.0.get(content), Some(Shape::One { .. }))
    }

    /// Of how many chunks a content is, as far as is known; at least 1.
    pub(crate) fn chunks(&self, content: &Digest) -> u32 {
        match self.0.get(content) {
            Some(Shape::Many(layout)) => layout.chunks.chunks().len() as u32,
            Some(Shape::One { .. }) | None => 1,
        }
    }

    /// Where a chunk stands in its content: offset and bytes.
    pub(crate) fn place(&self, content: &Digest, chunk: u32) -> Option<(u64, u64)> {
        match self.0.get(content)? {
            Shape::One { bytes, .. } => Some((0, *bytes)),
            Shape::Many(layout) => layout
                .chunk(chunk)
                .map(|(chunk, offset)| (offset, u64::from(chunk.len))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_chunk_list_is_known_once_it_is_stored() {
        let (chunk_list, small) = (Digest::of(b"chunk list"), Digest::of(b"small"));
        let mut shapes = Shapes::default();
        shapes.chunk_list(chunk_list);
        shapes.one(small, 5);
        assert_eq!(shapes.place(&chunk_list, 0), Some((0, META_BYTES_MAX)));
        shapes.measured(&chunk_list, 84);
        shapes.measured(&small, 6);
        assert_eq!(shapes.place(&chunk_list, 0), Some((0, 84)));
        assert_eq!(shapes.place(&small, 0), Some((0, 5)), "what was known stays");
    }

    #[test]
    fn wants_become_parts_and_what_is_out_of_range_does_not() {
        let chunk = |n: u8| Chunk {
            digest: Digest::of(&[n]),
            len: 10 * u32::from(n),
        };
        let (big, small) = (Digest::of(b"big"), Digest::of(b"small"));
        let mut shapes = Shapes::default();
        shapes.many(big, ChunkList::new(vec![chunk(1), chunk(2), chunk(3)]).unwrap());
        shapes.one(small, 5);
        let want = |content, first, count| Want { content, first, count };
        let parts = shapes.parts(&[want(small, 0, 1), want(big, 1, 2)]).unwrap();
        let seen: Vec<_> = parts.iter().map(|part| (part.want, part.chunk, part.bytes)).collect();
        assert_eq!(seen, [(0, 0, 5), (1, 1, 20), (1, 2, 30)]);
        assert_eq!(shapes.place(&big, 2), Some((30, 30)));
        for bad in [
            want(small, 1, 1),
            want(big, 2, 2),
            want(big, u32::MAX, 2),
            want(Digest::of(b"?"), 0, 1),
        ] {
            assert_eq!(shapes.parts(&[bad]), None);
        }
    }
}
