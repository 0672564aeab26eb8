//! The streamed answer to a request for chunks: for each chunk asked for, in order, `u32` big-endian length and the bytes,
//! or `CHUNK_ABSENT`.

use bytes::{Buf as _, Bytes, BytesMut};
use potluck_model::api::CHUNK_ABSENT;

use super::ApiFault;
use super::connection::Answer;

/// What comes in while chunks are fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChunkEvent {
    /// This many bytes have arrived since the last time.
    Progress(u64),
    /// The chunk with this index in the request is here, whole, not yet verified.
    Chunk(usize, Bytes),
    /// The server does not have the chunk with this index in the request.
    Absent(usize),
}

/// The answer to a request for chunks.
pub struct ChunkAnswer {
    answer: Answer,
    count: usize,
    /// The chunk that is awaited.
    index: usize,
    /// Bytes that have come and belong to no chunk yet.
    here: Bytes,
    part: Part,
}

enum Part {
    Length { have: usize, bytes: [u8; 4] },
    Body { len: usize, bytes: BytesMut },
}

const NO_LENGTH: Part = Part::Length { have: 0, bytes: [0; 4] };

impl ChunkAnswer {
    pub(super) fn new(answer: Answer, count: usize) -> Self {
        Self {
            answer,
            count,
            index: 0,
            here: Bytes::new(),
            part: NO_LENGTH,
        }
    }

    /// What comes next; `None` once every chunk has been given or found absent. `max_len` is the most bytes that the
    /// chunk with this index may have. Safe to cancel and call again; after an error, of no more use.
    pub async fn next(
        &mut self,
        max_len: &(dyn Fn(usize) -> u64 + Send + Sync),
    ) -> Result<Option<ChunkEvent>, ApiFault> {
        if let Some(event) = self.take(max_len)? {
            return Ok(Some(event));
        }
        match self.answer.bytes().await? {
            Some(_) if self.index == self.count => {
                let what = "bytes follow the last chunk".to_owned();
                Err(ApiFault::protocol(&self.answer.path, what))
            }
            Some(bytes) => {
                let progress = bytes.len() as u64;
                self.here = bytes;
                Ok(Some(ChunkEvent::Progress(progress)))
            }
            None if self.index == self.count => Ok(None),
            None => {
                let what = format!("the answer ended after {} of {} chunks", self.index, self.count);
                Err(self.answer.cut_short(what))
            }
        }
    }

    /// Consumes bytes that are here until they make an event, or are used up.
    fn take(&mut self, max_len: &(dyn Fn(usize) -> u64 + Send + Sync)) -> Result<Option<ChunkEvent>, ApiFault> {
        while self.index < self.count {
            match &mut self.part {
                Part::Length { have, bytes } => {
                    let step = (4 - *have).min(self.here.len());
                    self.here.copy_to_slice(&mut bytes[*have..*have + step]);
                    *have += step;
                    if *have < 4 {
                        return Ok(None);
                    }
                    let len = u32::from_be_bytes(*bytes);
                    if len == CHUNK_ABSENT {
                        self.part = NO_LENGTH;
                        self.index += 1;
                        return Ok(Some(ChunkEvent::Absent(self.index - 1)));
                    }
                    let max = max_len(self.index);
                    if u64::from(len) > max {
                        let what = format!("chunk {} has {len} bytes, and at most {max} were to come", self.index);
                        return Err(ApiFault::protocol(&self.answer.path, what));
                    }
                    self.part = Part::Body {
                        len: len as usize,
                        bytes: BytesMut::new(),
                    };
                }
                Part::Body { len, bytes } => {
                    if bytes.is_empty() && self.here.len() >= *len {
                        // It came in one piece: no copy.
                        let chunk = self.here.split_to(*len);
                        return Ok(Some(self.whole(chunk)));
                    }
                    if self.here.is_empty() {
                        return Ok(None);
                    }
                    bytes.reserve(*len - bytes.len());
                    let step = (*len - bytes.len()).min(self.here.len());
                    bytes.extend_from_slice(&self.here.split_to(step));
                    if bytes.len() == *len {
                        let chunk = std::mem::take(bytes).freeze();
                        return Ok(Some(self.whole(chunk)));
                    }
                }
            }
        }
        if self.here.is_empty() {
            Ok(None)
        } else {
            let what = "bytes follow the last chunk".to_owned();
            Err(ApiFault::protocol(&self.answer.path, what))
        }
    }

    fn whole(&mut self, chunk: Bytes) -> ChunkEvent {
        self.part = NO_LENGTH;
        self.index += 1;
        ChunkEvent::Chunk(self.index - 1, chunk)
    }
}
