//! Fetches chunks from the management server.

use potluck_model::Digest;
use potluck_net::api::{ApiFault, ChunkEvent, Client};
use potluck_proto::{TransferEnd, TransferId};
use tokio::sync::mpsc;

use crate::driver::Event;
use crate::progress::Progress;
use crate::shapes::Part;
use crate::writer::Write;

/// Fetches `parts` in one request; the end is told through the writer, behind the last chunk.
pub(crate) async fn fetch(
    client: Client,
    transfer: TransferId,
    parts: Vec<Part>,
    writer: mpsc::Sender<Write>,
    events: mpsc::Sender<Event>,
) {
    let end = match receive(&client, transfer, &parts, &writer, &events).await {
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
    writer: &mpsc::Sender<Write>,
    events: &mpsc::Sender<Event>,
) -> Result<Vec<u16>, ApiFault> {
    let digests: Vec<Digest> = parts.iter().map(|part| part.digest).collect();
    let mut answer = client.open_chunks(&digests).await?;
    let max_len = |index: usize| parts[index].bytes;
    let mut missing = Vec::new();
    let mut progress = Progress::default();
    while let Some(event) = answer.next(&max_len).await? {
        match event {
            ChunkEvent::Progress(bytes) => {
                if let Some(bytes) = progress.add(bytes) {
                    drop(events.send(Event::Progress { transfer, bytes }).await);
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
