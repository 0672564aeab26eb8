//! Answers what peers ask for, from the store, verified as it is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use potluck_model::NodeId;
use potluck_net::peer::PeerSender;
use potluck_proto::message::DATA_BYTES_MAX;
use potluck_proto::{DataHeader, End, Message};
use potluck_store::{Store, StoreError};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::driver::Event;
use crate::manners::Limits;
use crate::shapes::Part;

/// About how many bytes are read at a time.
const READ_BYTES: u64 = 1 << 20;

/// The answers that are being sent.
pub(crate) struct Serving {
    store: Store,
    events: mpsc::Sender<Event>,
    limits: Arc<Limits>,
    running: BTreeMap<(NodeId, u32), AbortHandle>,
}

impl Serving {
    pub(crate) fn new(store: Store, events: mpsc::Sender<Event>, limits: Arc<Limits>) -> Self {
        Self {
            store,
            events,
            limits,
            running: BTreeMap::new(),
        }
    }

    pub(crate) fn start(&mut self, peer: NodeId, stream: u32, sender: PeerSender, parts: Vec<Part>, wants: usize) {
        let (store, events, limits) = (self.store.clone(), self.events.clone(), Arc::clone(&self.limits));
        let task = tokio::spawn(async move {
            let to = Asker {
                sender: &sender,
                stream,
                limits: &limits,
            };
            let bytes = answer(&store, &events, &to, parts, wants).await;
            drop(events.send(Event::Served { peer, stream, bytes }).await);
        });
        self.running.insert((peer, stream), task.abort_handle());
    }

    pub(crate) fn ended(&mut self, peer: NodeId, stream: u32) {
        self.running.remove(&(peer, stream));
    }

    /// Stops an answer: `Served` is told all the same, the asker learns of it by `End`.
    pub(crate) fn stop(&mut self, peer: NodeId, stream: u32) -> bool {
        self.running.remove(&(peer, stream)).is_some_and(|task| {
            task.abort();
            true
        })
    }

    /// The connection is gone, and with it whom to answer.
    pub(crate) fn peer_gone(&mut self, peer: NodeId) {
        let streams: Vec<u32> = self
            .running
            .range((peer, 0)..=(peer, u32::MAX))
            .map(|((_, stream), _)| *stream)
            .collect();
        for stream in streams {
            self.stop(peer, stream);
        }
    }
}

/// Whom an answer goes to.
struct Asker<'a> {
    sender: &'a PeerSender,
    stream: u32,
    limits: &'a Limits,
}

/// Sends data and `End`; gives the bytes of payload sent.
async fn answer(store: &Store, events: &mpsc::Sender<Event>, to: &Asker<'_>, parts: Vec<Part>, wants: usize) -> u64 {
    let mut sent = 0;
    let mut missing = vec![false; wants];
    let mut rest = parts.into_iter().peekable();
    while rest.peek().is_some() {
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(part) = rest.next_if(|_| bytes < READ_BYTES) {
            bytes += part.bytes.min(READ_BYTES);
            group.push(part);
        }
        to.limits.read(bytes).await;
        let from = store.clone();
        let read = tokio::task::spawn_blocking(move || {
            let read = |part: Part| (part, from.read_chunk(&part.content, part.chunk));
            group.into_iter().map(read).collect::<Vec<_>>()
        });
        let Ok(read) = read.await else { break };
        for (part, result) in read {
            match result {
                Ok(Some(chunk)) => {
                    sent += chunk.len() as u64;
                    if send(to, &part, Bytes::from(chunk)).await.is_err() {
                        return sent;
                    }
                }
                Ok(None) => missing[usize::from(part.want)] = true,
                Err(error) => {
                    missing[usize::from(part.want)] = true;
                    if matches!(error, StoreError::Damaged { .. }) {
                        drop(
                            events
                                .send(Event::Lost {
                                    content: part.content,
                                    chunk: part.chunk,
                                })
                                .await,
                        );
                    } else {
                        tracing::warn!(%error, "cannot read what a peer asked for");
                    }
                }
            }
        }
    }
    let missing: Vec<u16> = (0u16..)
        .zip(&missing)
        .filter(|(_, missing)| **missing)
        .map(|(want, _)| want)
        .collect();
    let end = if missing.is_empty() {
        End::Done
    } else {
        End::Missing(missing)
    };
    drop(to.sender.message(&Message::End { stream: to.stream, end }));
    sent
}

async fn send(to: &Asker<'_>, part: &Part, mut chunk: Bytes) -> Result<(), potluck_net::peer::PeerFault> {
    let mut offset = 0;
    loop {
        let frame = chunk.split_to(chunk.len().min(to.limits.upload_piece(DATA_BYTES_MAX)));
        let header = DataHeader {
            stream: to.stream,
            want: part.want,
            chunk: part.chunk,
            offset,
        };
        offset += frame.len() as u32;
        to.limits.upload(frame.len()).await;
        to.sender.data(header, frame).await?;
        if chunk.is_empty() {
            return Ok(());
        }
    }
}
