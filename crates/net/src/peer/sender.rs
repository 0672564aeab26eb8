//! The sending half of a connection: two bounded queues, and a task that writes what is in them in large pieces.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use potluck_proto::frame::{self, DATA_PREFIX_BYTES};
use potluck_proto::message::DATA_BYTES_MAX;
use potluck_proto::{DataHeader, Message};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::PeerFault;

/// The most bytes of messages that wait for the peer to take them; with more, the peer is given up.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// The most bytes of data that wait. Enough to fill large writes, little enough that messages and new streams need not
/// wait behind much.
const DATA_QUEUE_BYTES_MAX: usize = 512 << 10;
/// About how many bytes are written at once, if there are so many.
pub(super) const WRITE_BYTES: usize = 256 << 10;
/// The most pieces of one write: TLS looks at them one by one for each record.
const WRITE_PIECES_MAX: usize = 64;
/// A peer that takes nothing for this long is given up.
const STALL_MAX: Duration = Duration::from_secs(60);
/// For the last messages and the end of TLS, when a connection is closed.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// The sending half of a connection. Clones share it; it closes when all are dropped.
#[derive(Clone)]
pub struct PeerSender {
    handle: Arc<Handle>,
}

/// Keeps the connection open. The writing task holds what is inside, but not this.
pub(super) struct Handle(Arc<Outgoing>);

struct Outgoing {
    queues: Mutex<Queues>,
    /// Something is in a queue, or the connection is to be closed.
    wake: Notify,
    /// One permit for each byte of data that may still be queued.
    room: Arc<Semaphore>,
    /// Has no permits; closed with the connection.
    open: Semaphore,
}

#[derive(Default)]
struct Queues {
    messages: VecDeque<Bytes>,
    message_bytes: usize,
    /// What keeps its order: data, and the `End`s that follow it.
    ordered: VecDeque<Piece>,
    closed: bool,
}

enum Piece {
    Data {
        prefix: [u8; DATA_PREFIX_BYTES],
        bytes: Bytes,
        /// Makes room when the bytes are written.
        _room: OwnedSemaphorePermit,
    },
    Message(Bytes),
}

impl PeerSender {
    pub(super) fn new(handle: Arc<Handle>) -> Self {
        Self { handle }
    }

    /// Queues a message. It passes data that waits, but for an `End`, which stays behind the data that it ends. Fails if
    /// the connection is closed, or if the peer has not taken megabytes of messages, which closes it.
    pub fn message(&self, message: &Message) -> Result<(), PeerFault> {
        let bytes = Bytes::from(frame::encode_message(message));
        let outgoing = &self.handle.0;
        let mut queues = outgoing.queues();
        if queues.closed {
            return Err(PeerFault::Closed);
        }
        if queues.message_bytes + bytes.len() > MESSAGE_BYTES_MAX {
            drop(queues);
            self.handle.close();
            return Err(PeerFault::Overflow("too many messages wait to be sent"));
        }
        queues.message_bytes += bytes.len();
        if matches!(message, Message::End { .. }) {
            queues.ordered.push_back(Piece::Message(bytes));
        } else {
            queues.messages.push_back(bytes);
        }
        drop(queues);
        outgoing.wake.notify_one();
        Ok(())
    }

    /// Queues bytes of a chunk, at most `DATA_BYTES_MAX`, once there is room: streams get it in the order in which they
    /// ask, so none starves. If the future is dropped, either all was queued or nothing.
    pub async fn data(&self, header: DataHeader, bytes: Bytes) -> Result<(), PeerFault> {
        if bytes.len() > DATA_BYTES_MAX {
            return Err(PeerFault::TooLong(bytes.len()));
        }
        let outgoing = &self.handle.0;
        let permits = (DATA_PREFIX_BYTES + bytes.len()) as u32;
        let room = outgoing
            .room
            .clone()
            .acquire_many_owned(permits)
            .await
            .map_err(|_| PeerFault::Closed)?;
        let prefix = frame::encode_data_prefix(&header, bytes.len());
        let mut queues = outgoing.queues();
        if queues.closed {
            return Err(PeerFault::Closed);
        }
        queues.ordered.push_back(Piece::Data {
            prefix,
            bytes,
            _room: room,
        });
        drop(queues);
        outgoing.wake.notify_one();
        Ok(())
    }

    /// Closes the connection. Messages that wait are still sent, if the peer takes them within moments; data is not.
    pub fn close(&self) {
        self.handle.close();
    }

    /// Waits until the connection is closed, by whichever end.
    pub async fn closed(&self) {
        self.handle.closed().await;
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.handle.0.open.is_closed()
    }
}

impl Handle {
    pub(super) fn close(&self) {
        self.0.close();
    }

    pub(super) async fn closed(&self) {
        // There are no permits: this ends only when the semaphore is closed.
        let _ = self.0.open.acquire().await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Outgoing {
    fn queues(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.queues().closed = true;
        self.open.close();
        self.room.close();
        self.wake.notify_one();
    }

    /// Takes about `WRITE_BYTES` out of the queues, messages first.
    fn take(&self, batch: &mut Vec<Piece>) {
        let mut queues = self.queues();
        let mut bytes = 0;
        while bytes < WRITE_BYTES
            && batch.len() < WRITE_PIECES_MAX
            && let Some(message) = queues.messages.pop_front()
        {
            queues.message_bytes -= message.len();
            bytes += message.len();
            batch.push(Piece::Message(message));
        }
        while bytes < WRITE_BYTES
            && batch.len() < WRITE_PIECES_MAX
            && let Some(piece) = queues.ordered.pop_front()
        {
            match &piece {
                Piece::Message(message) => {
                    queues.message_bytes -= message.len();
                    bytes += message.len();
                }
                Piece::Data { bytes: data, .. } => bytes += DATA_PREFIX_BYTES + data.len(),
            }
            batch.push(piece);
        }
    }
}

/// Starts the task that writes to `stream`. It ends when the connection is closed.
pub(super) fn start(stream: impl AsyncWrite + Unpin + Send + 'static) -> Arc<Handle> {
    let outgoing = Arc::new(Outgoing {
        queues: Mutex::default(),
        wake: Notify::new(),
        room: Arc::new(Semaphore::new(DATA_QUEUE_BYTES_MAX)),
        open: Semaphore::new(0),
    });
    tokio::spawn(write(stream, outgoing.clone()));
    Arc::new(Handle(outgoing))
}

async fn write(mut stream: impl AsyncWrite + Unpin, outgoing: Arc<Outgoing>) {
    let result = tokio::select! {
        result = write_queues(&mut stream, &outgoing) => result,
        // What is being written when the connection is closed may have been written in part: only the end can follow.
        () = closed_while_stuck(&outgoing) => Ok(()),
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection to a peer broke");
    }
    outgoing.close();
    let _ = tokio::time::timeout(CLOSE_MAX, stream.shutdown()).await;
    // Nobody will send what is left; its room and memory go with it.
    *outgoing.queues() = Queues {
        closed: true,
        ..Queues::default()
    };
}

async fn closed_while_stuck(outgoing: &Outgoing) {
    let _ = outgoing.open.acquire().await;
    tokio::time::sleep(CLOSE_MAX).await;
}

async fn write_queues(stream: &mut (impl AsyncWrite + Unpin), outgoing: &Outgoing) -> io::Result<()> {
    let mut batch = Vec::new();
    let mut unflushed = false;
    loop {
        let closed = {
            let mut queues = outgoing.queues();
            if queues.closed {
                queues.ordered.clear();
            }
            queues.closed
        };
        outgoing.take(&mut batch);
        if !batch.is_empty() {
            write_batch(stream, &batch).await?;
            batch.clear();
            unflushed = true;
        } else if unflushed {
            // TLS may still hold some of it.
            unless_stalled(stream.flush()).await?;
            unflushed = false;
        } else if closed {
            return Ok(());
        } else {
            // Without work, nothing is kept.
            batch = Vec::new();
            outgoing.wake.notified().await;
        }
    }
}

async fn write_batch(stream: &mut (impl AsyncWrite + Unpin), batch: &[Piece]) -> io::Result<()> {
    let mut slices = Vec::with_capacity(2 * batch.len());
    for piece in batch {
        match piece {
            Piece::Message(bytes) => slices.push(IoSlice::new(bytes)),
            Piece::Data { prefix, bytes, .. } => {
                slices.push(IoSlice::new(prefix));
                if !bytes.is_empty() {
                    slices.push(IoSlice::new(bytes));
                }
            }
        }
    }
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        let written = unless_stalled(stream.write_vectored(left)).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

async fn unless_stalled<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(STALL_MAX, future).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")),
    }
}
