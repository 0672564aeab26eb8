//! Puts the data frames of one answer together to chunks.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use potluck_proto::DataHeader;

use crate::shapes::Part;

/// What arrives for one transfer from a peer.
pub(crate) struct Inbox {
    expected: VecDeque<Part>,
    current: Option<(Part, BytesMut)>,
}

/// The peer sent something that was not asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent data that was not asked for, out of order, or more than asked for")]
pub(crate) struct Unexpected;

impl Inbox {
    pub(crate) fn new(parts: Vec<Part>) -> Self {
        Self {
            expected: parts.into(),
            current: None,
        }
    }

    /// Takes a data frame; gives the chunks that are whole now (not verified yet), at most two.
    pub(crate) fn push(&mut self, header: &DataHeader, bytes: Bytes) -> Result<Vec<(Part, Bytes)>, Unexpected> {
        let mut whole = Vec::new();
        let is = |part: &Part| part.want == header.want && part.chunk == header.chunk;
        if !self.current.as_ref().is_some_and(|(part, _)| is(part)) {
            whole.extend(self.finish()?);
            // Chunks that the peer does not have are passed over; what it did send is in order.
            let part = loop {
                let part = self.expected.pop_front().ok_or(Unexpected)?;
                if is(&part) {
                    break part;
                }
            };
            if header.offset == 0 && part.exact && part.bytes == bytes.len() as u64 {
                whole.push((part, bytes));
                return Ok(whole);
            }
            self.current = Some((part, BytesMut::new()));
        }
        let (part, collected) = self.current.as_mut().ok_or(Unexpected)?;
        let after = collected.len() as u64 + bytes.len() as u64;
        if u64::from(header.offset) != collected.len() as u64 || after > part.bytes {
            return Err(Unexpected);
        }
        if collected.is_empty() && part.exact {
            collected.reserve(part.bytes as usize);
        }
        collected.extend_from_slice(&bytes);
        if part.exact && after == part.bytes {
            whole.extend(self.current.take().map(|(part, collected)| (part, collected.freeze())));
        }
        Ok(whole)
    }

    /// The answer has ended: gives the last chunk if its length was open.
    pub(crate) fn finish(&mut self) -> Result<Option<(Part, Bytes)>, Unexpected> {
        match self.current.take() {
            None => Ok(None),
            Some((part, _)) if part.exact => Err(Unexpected),
            Some((part, collected)) => Ok(Some((part, collected.freeze()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use potluck_model::Digest;

    use super::*;

    fn part(want: u16, bytes: u64, exact: bool) -> Part {
        let digest = Digest::of(&want.to_be_bytes());
        Part {
            want,
            content: digest,
            chunk: 0,
            digest,
            bytes,
            exact,
            whole: true,
        }
    }

    fn header(want: u16, offset: u32) -> DataHeader {
        DataHeader {
            stream: 1,
            want,
            chunk: 0,
            offset,
        }
    }

    fn arrived(result: Result<Vec<(Part, Bytes)>, Unexpected>) -> Vec<(u16, usize)> {
        result
            .unwrap()
            .iter()
            .map(|(part, bytes)| (part.want, bytes.len()))
            .collect()
    }

    #[test]
    fn frames_become_chunks_and_missing_ones_are_passed_over() {
        let mut inbox = Inbox::new(vec![
            part(0, 4, true),
            part(1, 4, true),
            part(2, 9, false),
            part(3, 2, true),
        ]);
        assert_eq!(arrived(inbox.push(&header(1, 0), Bytes::from_static(b"ab"))), []);
        assert_eq!(arrived(inbox.push(&header(1, 2), Bytes::from_static(b"cd"))), [(1, 4)]);
        assert_eq!(arrived(inbox.push(&header(2, 0), Bytes::from_static(b"abc"))), []);
        assert_eq!(
            arrived(inbox.push(&header(3, 0), Bytes::from_static(b"ab"))),
            [(2, 3), (3, 2)]
        );
        assert_eq!(inbox.finish(), Ok(None));
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        let frame = |bytes: usize| Bytes::from(vec![0; bytes]);
        let asked = || Inbox::new(vec![part(0, 4, true), part(1, 4, false)]);
        assert_eq!(asked().push(&header(2, 0), frame(1)), Err(Unexpected), "another want");
        assert_eq!(asked().push(&header(0, 1), frame(1)), Err(Unexpected), "a gap");
        assert_eq!(asked().push(&header(0, 0), frame(5)), Err(Unexpected), "too much");
        assert_eq!(
            asked().push(&header(1, 0), frame(5)),
            Err(Unexpected),
            "more than the most"
        );
        let mut inbox = asked();
        inbox.push(&header(1, 0), frame(1)).unwrap();
        assert_eq!(inbox.push(&header(0, 0), frame(4)), Err(Unexpected), "going back");
        let mut inbox = asked();
        inbox.push(&header(0, 0), frame(1)).unwrap();
        assert_eq!(inbox.finish(), Err(Unexpected), "half a chunk");
    }
}
