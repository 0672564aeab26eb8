//! The body of a request: parts that are sent one after the other without being copied together.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// The most bytes handed over at once, so that `sent` grows as bytes leave.
const STEP_BYTES: usize = 128 << 10;

pub(super) struct Parts {
    waiting: VecDeque<Bytes>,
    left: u64,
    sent: Option<Arc<AtomicU64>>,
}

impl Parts {
    pub(super) fn new(parts: Vec<Bytes>, sent: Option<Arc<AtomicU64>>) -> Self {
        let waiting: VecDeque<Bytes> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let left = waiting.iter().map(|part| part.len() as u64).sum();
        Self { waiting, left, sent }
    }

    pub(super) fn len(&self) -> u64 {
        self.left
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(first) = self.waiting.front_mut() else {
            return Poll::Ready(None);
        };
        let part = first.split_to(first.len().min(STEP_BYTES));
        if first.is_empty() {
            self.waiting.pop_front();
        }
        self.left -= part.len() as u64;
        if let Some(sent) = &self.sent {
            sent.fetch_add(part.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
