//! Chunks in bulk: downloads for nodes, uploads for operators.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use potluck_model::{Digest, UnixSeconds};
use tokio::sync::mpsc;

use crate::app::{App, turn};
use crate::blobs::{Intake, Stored};
use crate::caller::Role;
use crate::delivery::{Pieces, Place, streamed};
use crate::refusal::Refusal;
use crate::request::{CallingNode, CallingOperator, Incoming};
use crate::room::Room;
use crate::stored::{GROUP_BYTES, VERIFIED_BYTES_MAX, framed, outgoing, part, room};

/// Chunks that are looked up at once.
const LOOKUP_BATCH: usize = 512;
/// Pieces of an upload between the network and the disk.
const UPLOAD_QUEUE: usize = 16;
const OCTETS: (header::HeaderName, &str) = (header::CONTENT_TYPE, "application/octet-stream");

pub(super) async fn missing(State(app): State<Arc<App>>, body: Incoming) -> Result<Response, Refusal> {
    let digests = digests(&body.whole().await?)?;
    let found = app
        .blocking(move |app| Ok(app.catalogue.rely(&digests, UnixSeconds::now())?))
        .await?;
    let answer: Vec<u8> = found.iter().map(|stored| u8::from(stored.is_none())).collect();
    Ok(([OCTETS], answer).into_response())
}

pub(super) async fn upload(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
    mut body: Incoming,
) -> Result<StatusCode, Refusal> {
    let _turn = turn(&app.uploads).await?;
    let length = body.length();
    let (sender, mut pieces) = mpsc::channel::<Bytes>(UPLOAD_QUEUE);
    let keeper = app.clone();
    // Holds its thread for the whole upload: there are few of them.
    let kept = tokio::task::spawn_blocking(move || -> Result<(usize, u64), Refusal> {
        let _room = Room::take(keeper.blobs.as_ref(), &keeper.uploading, length)?;
        let mut intake = Intake::new(keeper.catalogue.as_ref(), keeper.blobs.as_ref());
        loop {
            match pieces.blocking_recv() {
                Some(bytes) if bytes.is_empty() => return Ok(intake.finish()?),
                Some(bytes) => intake.feed(&bytes)?,
                None => return Err(Refusal::bad("the upload broke off")),
            }
        }
    });
    let sent = send_pieces(&mut body, sender).await;
    let (count, bytes) = match kept.await {
        Ok(Ok(kept)) => kept,
        Ok(Err(refusal)) => {
            // Read to its end, so that the sender gets to hear why.
            while sent.is_ok() && body.next().await?.is_some() {}
            return Err(sent.err().unwrap_or(refusal));
        }
        Err(fault) => return Err(Refusal::internal(&fault)),
    };
    if count > 0 {
        tracing::debug!(%operator, count, bytes, "chunks uploaded");
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Hands the body over, piece by piece, until it ends or nobody takes it. An empty piece says that it was whole: if it
/// breaks off, the channel closes without one.
async fn send_pieces(body: &mut Incoming, sender: mpsc::Sender<Bytes>) -> Result<(), Refusal> {
    while let Some(piece) = body.next().await? {
        if !piece.is_empty() && sender.send(piece).await.is_err() {
            return Ok(());
        }
    }
    // Whoever is gone has said why.
    let _ = sender.send(Bytes::new()).await;
    Ok(())
}

pub(super) async fn download(
    State(app): State<Arc<App>>,
    CallingNode(node): CallingNode,
    body: Incoming,
) -> Result<Response, Refusal> {
    let digests = digests(&body.whole().await?)?;
    let place = Place::take(&app, &Role::Node(node)).await?;
    Ok(([OCTETS], streamed(place, |pieces| send_chunks(app, digests, pieces))).into_response())
}

async fn send_chunks(app: Arc<App>, digests: Vec<Digest>, pieces: Pieces) -> Result<(), Refusal> {
    for batch in digests.chunks(LOOKUP_BATCH) {
        let batch = batch.to_vec();
        let found: Vec<(Digest, Option<Stored>)> = app
            .blocking(move |app| {
                let found = app.catalogue.chunks(&batch)?;
                Ok(batch.into_iter().zip(found).collect())
            })
            .await?;
        let mut rest = found.as_slice();
        while !rest.is_empty() {
            let (count, bytes) = group(rest);
            let (now, later) = rest.split_at(count);
            rest = later;
            if let [(digest, Some(stored))] = now
                && stored.len > VERIFIED_BYTES_MAX
            {
                let length = Bytes::copy_from_slice(&stored.len.to_be_bytes());
                if !pieces.send(length).await {
                    return Ok(());
                }
                let whole = 0..u64::from(stored.len);
                if !send_span(&app, *digest, *stored, whole, &pieces).await? {
                    tracing::debug!(%digest, "a receiver went away");
                    return Ok(());
                }
                continue;
            }
            let room = room(&app, bytes).await?;
            let now = now.to_vec();
            let bytes = app.blocking(move |app| Ok(framed(app, &now))).await?;
            if !pieces.send(outgoing(bytes, room)).await {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// How many chunks are read together, and their bytes; one that is sent in pieces stands alone.
fn group(chunks: &[(Digest, Option<Stored>)]) -> (usize, u64) {
    let mut bytes = 0;
    for (index, (_, stored)) in chunks.iter().enumerate() {
        let len = stored.map_or(0, |stored| stored.len);
        if index > 0 && (bytes >= GROUP_BYTES || len > VERIFIED_BYTES_MAX) {
            return (index, bytes);
        }
        bytes += u64::from(len) + 4;
        if len > VERIFIED_BYTES_MAX {
            return (1, bytes);
        }
    }
    (chunks.len(), bytes)
}

/// Sends a range of a chunk. `false`: nobody takes it.
pub(super) async fn send_span(
    app: &Arc<App>,
    digest: Digest,
    mut stored: Stored,
    range: Range<u64>,
    pieces: &Pieces,
) -> Result<bool, Refusal> {
    let mut at = range.start;
    while at < range.end {
        let now = (range.end - at).min(4 * GROUP_BYTES);
        let room = room(app, now).await?;
        let (bytes, found) = app
            .blocking(move |app| part(app, &digest, stored, at, now as usize))
            .await?;
        stored = found;
        if !pieces.send(outgoing(bytes, room)).await {
            return Ok(false);
        }
        at += now;
    }
    Ok(true)
}

fn digests(body: &[u8]) -> Result<Vec<Digest>, Refusal> {
    let (digests, rest) = body.as_chunks::<{ Digest::BYTES }>();
    if rest.is_empty() {
        Ok(digests.iter().map(|bytes| Digest::from_bytes(*bytes)).collect())
    } else {
        Err(Refusal::bad("the body is not a sequence of digests of 32 bytes each"))
    }
}
