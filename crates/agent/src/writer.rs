//! The thread that verifies and stores what arrives: many chunks at a time, in the order in which they came.

use std::collections::BTreeMap;

use bytes::Bytes;
use potluck_model::Digest;
use potluck_proto::{TransferEnd, TransferId};
use potluck_store::{Store, StoreError};
use tokio::sync::mpsc;

use crate::driver::Event;
use crate::shapes::Part;

/// Chunks that wait for the writer, at most; with chunks of 4 MiB at worst.
const QUEUE: usize = 64;
/// Chunks that are stored together, at most.
const BATCH_ITEMS: usize = 1_024;
/// Bytes that are stored together, about.
const BATCH_BYTES: usize = 8 << 20;

/// Something for the writer.
pub(crate) enum Write {
    /// A chunk that arrived, not verified.
    Chunk {
        transfer: TransferId,
        part: Part,
        bytes: Bytes,
    },
    /// Nothing more comes for this transfer.
    End { transfer: TransferId, end: TransferEnd },
    /// Make what was stored durable, then say so.
    Flush,
}

/// Place in the batch, index of the chunk, bytes.
type Item<'a> = (usize, u32, &'a [u8]);

/// Starts the thread; it ends when all senders are gone.
pub(crate) fn start(store: Store, events: mpsc::Sender<Event>) -> std::io::Result<mpsc::Sender<Write>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    std::thread::Builder::new()
        .name("writer".into())
        .spawn(move || run(&store, receiver, &events))?;
    Ok(sender)
}

fn run(store: &Store, mut receiver: mpsc::Receiver<Write>, events: &mpsc::Sender<Event>) {
    let mut batch = Vec::new();
    while let Some(first) = receiver.blocking_recv() {
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(write) = next {
            if let Write::Chunk { bytes: chunk, .. } = &write {
                bytes += chunk.len();
            }
            batch.push(write);
            next = if batch.len() < BATCH_ITEMS && bytes < BATCH_BYTES {
                receiver.try_recv().ok()
            } else {
                None
            };
        }
        for event in store_batch(store, &mut batch) {
            if events.blocking_send(event).is_err() {
                return;
            }
        }
    }
}

/// Stores the chunks of a batch; what it tells is in the order of the batch.
fn store_batch(store: &Store, batch: &mut Vec<Write>) -> Vec<Event> {
    let mut good = vec![false; batch.len()];
    let mut fault = None;
    let mut small: Vec<(usize, Digest, &[u8])> = Vec::new();
    let mut big: BTreeMap<Digest, Vec<Item<'_>>> = BTreeMap::new();
    for (index, write) in batch.iter().enumerate() {
        if let Write::Chunk { part, bytes, .. } = write {
            if part.whole {
                small.push((index, part.digest, bytes));
            } else {
                big.entry(part.content).or_default().push((index, part.chunk, bytes));
            }
        }
    }
    let mut note = |indices: Vec<usize>, result: Result<Vec<bool>, StoreError>| match result {
        Ok(verdicts) => indices
            .iter()
            .zip(verdicts)
            .for_each(|(index, verdict)| good[*index] = verdict),
        Err(error) => fault = Some(error),
    };
    if !small.is_empty() {
        let items: Vec<(Digest, &[u8])> = small.iter().map(|(_, digest, bytes)| (*digest, *bytes)).collect();
        note(small.iter().map(|item| item.0).collect(), store.put_small(&items));
    }
    for (content, items) in &big {
        let chunks: Vec<(u32, &[u8])> = items.iter().map(|(_, chunk, bytes)| (*chunk, *bytes)).collect();
        note(
            items.iter().map(|item| item.0).collect(),
            store.put_chunks(content, &chunks),
        );
    }
    let flush = batch.iter().any(|write| matches!(write, Write::Flush));
    if flush && let Err(error) = store.flush() {
        fault = Some(error);
    }
    let failed = fault.is_some();
    let mut events: Vec<Event> = fault.map(|error| Event::StoreFailed { error }).into_iter().collect();
    for (write, good) in batch.drain(..).zip(good) {
        match write {
            Write::Chunk { transfer, part, bytes } if good => {
                events.push(Event::Stored {
                    transfer,
                    content: part.content,
                    chunk: part.chunk,
                    bytes: bytes.len() as u64,
                });
            }
            Write::Chunk { .. } | Write::Flush if failed => {}
            Write::Chunk { transfer, part, .. } => {
                events.push(Event::Corrupt {
                    transfer,
                    content: part.content,
                    chunk: part.chunk,
                });
            }
            Write::End { transfer, end } => events.push(Event::TransferEnded { transfer, end }),
            Write::Flush => events.push(Event::Flushed),
        }
    }
    events
}
