//! Fetches chunks from the management server.

use std::sync::Arc;

use potluck_model::Digest;
use potluck_net::api::{ApiFault, ChunkEvent, Client};
use potluck_proto::{TransferEnd, TransferId};
use tokio::sync::mpsc;

use crate::driver::Event;
use crate::manners::Limits;
use crate::progress::{Pace, Progress};
use crate::shapes::Part;
use crate::writer::Write;

/// Fetches `parts` in one request; the end is told through the writer, behind the last chunk.
pub(crate) async fn fetch(
    client: Client,
    transfer: TransferId,
    parts: Vec<Part>,
    limits: Arc<Limits>,
    writer: mpsc::Sender<Write>,
    events: mpsc::Sender<Event>,
) {
    let end = match receive(&client, transfer, &parts, &limits, &writer, &events).await {
        Ok(missing) if missing.is_empty() => TransferEnd::Done,
        Ok(missing) => TransferEnd::Missing(missing),
        Err(ApiFault::Busy { retry_after }) => TransferEnd::Busy {
            instead: Vec::new(),
            retry_after,
        },
        Err(fault) => TransferEnd::Failed(fault.to_string()),
    };
    drop(writer.send(Write::End { transfer, end }).await);
}

/// Gives the wants of which something is absent.
async fn receive(
    client: &Client,
    transfer: TransferId,
    parts: &[Part],
    limits: &Limits,
    writer: &mpsc::Sender<Write>,
    events: &mpsc::Sender<Event>,
) -> Result<Vec<u16>, ApiFault> {
    let digests: Vec<Digest> = parts.iter().map(|part| part.digest).collect();
    let mut answer = client.open_chunks(&digests).await?;
    let max_len = |index: usize| parts[index].bytes;
    let mut missing = Vec::new();
    let mut progress = Progress::default();
    let mut pace = Pace::default();
    while let Some(event) = answer.next(&max_len).await? {
        match event {
            // What is not taken for a while is not sent: TCP holds the server back.
            ChunkEvent::Progress(mut left) => {
                if !pace.add(left) {
                    return Err(trickle(client));
                }
                while left > 0 {
                    let passed = limits.download(left).await;
                    left -= passed;
                    if let Some(bytes) = progress.add(passed) {
                        drop(events.send(Event::Progress { transfer, bytes }).await);
                    }
                }
            }
            ChunkEvent::Chunk(index, bytes) => {
                drop(
                    writer
                        .send(Write::Chunk {
                            transfer,
                            part: parts[index],
                            bytes,
                        })
                        .await,
                );
            }
            ChunkEvent::Absent(index) => missing.push(parts[index].want),
        }
    }
    missing.dedup();
    Ok(missing)
}

/// So little comes that it is better asked for again.
fn trickle(client: &Client) -> ApiFault {
    ApiFault::Broken {
        address: client.servers().join(", "),
        path: "/v1/node/chunks".into(),
        why: "less than a KiB a second came over it".into(),
    }
}
