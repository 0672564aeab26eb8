//! Content by digest, as ordinary tools and caches read it: whole, or a range of it.

use std::ops::Range;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use potluck_model::Digest;
use potluck_model::chunk_list::{Chunk, ChunkList, META_BYTES_MAX};

use super::chunks::send_span;
use crate::app::App;
use crate::blobs::Stored;
use crate::caller::Caller;
use crate::delivery::{Pieces, Place, streamed};
use crate::refusal::Refusal;
use crate::request::Segment;
use crate::stored::whole_chunk;

/// Content never changes under its digest.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");
/// Chunks that are looked up at once.
const LOOKUP_BATCH: usize = 256;

/// What is behind a digest.
enum Found {
    /// A chunk, or a content that is one.
    Chunk(Digest, Stored),
    /// A file of several chunks.
    File(Arc<ChunkList>),
}

impl Found {
    fn size(&self) -> u64 {
        match self {
            Self::Chunk(_, stored) => u64::from(stored.len),
            Self::File(chunks) => chunks.size(),
        }
    }
}

pub(super) async fn content(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Segment(digest): Segment<Digest>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if let Some(bytes) = app.signing.as_ref().and_then(|signing| signing.content(&digest)) {
        return Ok(([(header::CACHE_CONTROL, IMMUTABLE)], bytes).into_response());
    }
    let tag = format!("\"{digest}\"");
    let found = app.blocking(move |app| find(app, &digest)).await?;
    let mut response = if matches_tag(&headers, header::IF_NONE_MATCH.as_str(), &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let place = Place::take(&app, &caller.role).await?;
        answer(app, place, found, &method, &headers, &tag)
    };
    let out = response.headers_mut();
    out.insert(header::CACHE_CONTROL, IMMUTABLE);
    out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        out.insert(header::ETAG, tag);
    }
    Ok(response)
}

fn answer(app: Arc<App>, place: Place, found: Found, method: &Method, headers: &HeaderMap, tag: &str) -> Response {
    let size = found.size();
    let same = !headers.contains_key(header::IF_RANGE) || matches_tag(headers, header::IF_RANGE.as_str(), tag);
    let asked = headers.get(header::RANGE).filter(|_| same && method == Method::GET);
    let asked = asked.and_then(|text| text.to_str().ok());
    let (status, range) = match asked.map_or(Wanted::Whole, |text| parse_range(text, size)) {
        Wanted::Whole => (StatusCode::OK, 0..size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Outside => {
            let range = format!("bytes */{size}");
            return (StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, range)]).into_response();
        }
    };
    let mut response = (
        status,
        [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, (range.end - range.start).to_string()),
        ],
    )
        .into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        if let Ok(text) = HeaderValue::from_str(&text) {
            response.headers_mut().insert(header::CONTENT_RANGE, text);
        }
    }
    *response.body_mut() = if method == Method::HEAD || range.is_empty() {
        Body::empty()
    } else {
        match found {
            Found::Chunk(digest, stored) => streamed(place, |pieces| send_chunk(app, digest, stored, range, pieces)),
            Found::File(chunks) => streamed(place, |pieces| send_file(app, chunks, range, pieces)),
        }
    };
    response
}

fn find(app: &App, digest: &Digest) -> Result<Found, Refusal> {
    let unknown = || Refusal::not_found(format!("there is no content {digest} on this server"));
    if let Some(stored) = app.catalogue.chunks(&[*digest])?[0] {
        return Ok(Found::Chunk(*digest, stored));
    }
    let file = app.catalogue.file(digest)?.ok_or_else(unknown)?;
    let chunks = file.chunks.ok_or_else(unknown)?;
    let bytes = whole_chunk(app, &chunks, META_BYTES_MAX)?.ok_or_else(unknown)?;
    let chunks = ChunkList::from_bytes(&bytes).map_err(|fault| Refusal::internal(&fault))?;
    Ok(Found::File(Arc::new(chunks)))
}

async fn send_chunk(
    app: Arc<App>,
    digest: Digest,
    stored: Stored,
    range: Range<u64>,
    pieces: Pieces,
) -> Result<(), Refusal> {
    send_span(&app, digest, stored, range, &pieces).await.map(|_| ())
}

async fn send_file(app: Arc<App>, list: Arc<ChunkList>, range: Range<u64>, pieces: Pieces) -> Result<(), Refusal> {
    let mut start = 0;
    for batch in list.chunks().chunks(LOOKUP_BATCH) {
        let bytes: u64 = batch.iter().map(|chunk| u64::from(chunk.len)).sum();
        let batch_start = start;
        start += bytes;
        if start <= range.start {
            continue;
        }
        if batch_start >= range.end {
            break;
        }
        let digests: Vec<Digest> = batch.iter().map(|chunk| chunk.digest).collect();
        let found = app.blocking(move |app| Ok(app.catalogue.chunks(&digests)?)).await?;
        let mut at = batch_start;
        for (Chunk { len, digest }, stored) in batch.iter().zip(found) {
            let chunk = at..at + u64::from(*len);
            at = chunk.end;
            if chunk.end <= range.start || chunk.start >= range.end {
                continue;
            }
            let stored = stored
                .filter(|stored| stored.len == *len)
                .ok_or_else(|| Refusal::internal(&format!("chunk {digest} of a release is gone")))?;
            let from = range.start.max(chunk.start);
            let to = range.end.min(chunk.end);
            let part = from - chunk.start..to - chunk.start;
            if !send_span(&app, *digest, stored, part, &pieces).await? {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn matches_tag(headers: &HeaderMap, name: &str, tag: &str) -> bool {
    let tags = headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    tags.split(',')
        .map(str::trim)
        .any(|given| given.strip_prefix("W/").unwrap_or(given) == tag)
}

/// What of a content is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Wanted {
    Whole,
    Part(Range<u64>),
    /// A range that the content does not have.
    Outside,
}

/// RFC 9110, section 14. What is no range of bytes, or several, is ignored.
fn parse_range(text: &str, size: u64) -> Wanted {
    let range = || -> Option<Range<u64>> {
        let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
        if first.is_empty() {
            return Some(size.saturating_sub(number(last)?)..size);
        }
        let first = number(first)?;
        if last.is_empty() {
            return Some(first..size);
        }
        let last = number(last)?;
        (first <= last).then(|| first..last.saturating_add(1).min(size))
    };
    match range() {
        None => Wanted::Whole,
        Some(range) if range.start < range.end => Wanted::Part(range),
        Some(_) => Wanted::Outside,
    }
}

/// Digits only; a number that is too large is larger than any content.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (text, wanted) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=2-", Wanted::Part(2..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-30", Wanted::Part(0..10)),
            ("bytes=5-99999999999999999999999", Wanted::Part(5..10)),
            ("bytes=10-", Wanted::Outside),
            ("bytes=-0", Wanted::Outside),
            ("bytes=5-4", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("items=0-1", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
        ] {
            assert_eq!(parse_range(text, 10), wanted, "{text}");
        }
        assert_eq!(parse_range("bytes=0-0", 0), Wanted::Outside);
    }
}
