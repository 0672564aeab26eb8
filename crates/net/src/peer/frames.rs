//! Cuts the bytes of a connection into frames.

use bytes::{Buf as _, Bytes, BytesMut};
use potluck_proto::WireError;
use potluck_proto::frame::LENGTH_BYTES;
use tokio::io::{AsyncReadExt as _, ReadHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::PeerFault;

/// Room for reading when no frame has begun: small, since most connections are idle most of the time.
const READ_BYTES: usize = 4 << 10;

/// Reads frames.
pub(super) struct Frames {
    stream: ReadHalf<TlsStream<TcpStream>>,
    buffer: BytesMut,
}

impl Frames {
    pub(super) fn new(stream: ReadHalf<TlsStream<TcpStream>>) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
        }
    }

    /// The next frame without its length, of at most `max` bytes. Safe to cancel.
    pub(super) async fn next(&mut self, max: usize) -> Result<Bytes, PeerFault> {
        loop {
            if let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length == 0 || length > max {
                    let fault = WireError::Limit {
                        what: "bytes of a frame",
                        value: length as u64,
                        max: max as u64,
                    };
                    return Err(fault.into());
                }
                let whole = LENGTH_BYTES + length;
                if self.buffer.len() >= whole {
                    let mut frame = self.buffer.split_to(whole);
                    frame.advance(LENGTH_BYTES);
                    return Ok(frame.freeze());
                }
                self.buffer.reserve(whole - self.buffer.len());
            } else {
                self.buffer.reserve(READ_BYTES);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Err(PeerFault::Closed)
                } else {
                    Err(WireError::Truncated.into())
                };
            }
        }
    }
}
