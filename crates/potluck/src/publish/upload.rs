//! Uploading the chunks that the server lacks, a window of chunks after the other, so that memory is bounded.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use potluck_model::Digest;
use potluck_model::api::{CHUNKS_PER_REQUEST_MAX, ErrorKind};
use potluck_model::chunk_list::ChunkList;
use potluck_net::api::{ApiFault, Client};
use tokio::task::{JoinError, JoinSet};

use super::cut::CutError;
use crate::exit::Failure;

/// An upload is sent once it has this many bytes.
const BATCH_BYTES: u64 = 8 << 20;
/// Uploads under way at a time.
const UPLOADS_MAX: usize = 3;
/// How often an upload is tried before publishing fails.
const TRIES: u32 = 5;
/// The pause after the first try; it doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// A file whose chunks the server may lack.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    /// Relative to the directory.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Digest of all bytes.
    pub(crate) digest: Digest,
    /// How it is cut, if it is more than one chunk.
    pub(crate) chunks: Option<Arc<ChunkList>>,
}

/// How far it is. Written here, read by whoever shows it.
#[derive(Debug, Default)]
pub(crate) struct Uploading {
    /// Bytes of files that the server has or had.
    pub(crate) settled: AtomicU64,
    /// Bytes that were uploaded.
    pub(crate) uploaded: AtomicU64,
}

/// A chunk, and where its bytes are.
#[derive(Debug, Clone)]
struct Piece {
    digest: Digest,
    len: u64,
    from: From,
}

#[derive(Debug, Clone)]
enum From {
    File { path: Arc<str>, offset: u64 },
    ChunkList(Arc<ChunkList>),
    Memory(Bytes),
}

/// Uploads what the server lacks of the files below `directory`, with their chunk lists, and then the list.
pub(crate) async fn upload(
    client: &Client,
    directory: &Path,
    files: Vec<Upload>,
    list: Bytes,
    progress: &Uploading,
) -> Result<(), Failure> {
    let last = Piece {
        digest: Digest::of(&list),
        len: list.len() as u64,
        from: From::Memory(list),
    };
    let mut pieces = files
        .into_iter()
        .flat_map(pieces)
        .chain(std::iter::once(last))
        .peekable();
    let mut uploads = JoinSet::new();
    let directory: Arc<Path> = directory.into();
    while pieces.peek().is_some() {
        let window: Vec<Piece> = pieces.by_ref().take(CHUNKS_PER_REQUEST_MAX).collect();
        let digests: Vec<Digest> = window.iter().map(|piece| piece.digest).collect();
        let missing = retry(|| client.missing_chunks(&digests)).await?;
        let mut seen = HashSet::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (piece, missing) in window.into_iter().zip(missing) {
            if !missing || !seen.insert(piece.digest) {
                progress.settled.fetch_add(piece.payload(), Ordering::Relaxed);
                continue;
            }
            bytes += piece.len;
            batch.push(piece);
            if bytes >= BATCH_BYTES {
                start(&mut uploads, client, &directory, std::mem::take(&mut batch), progress).await?;
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            start(&mut uploads, client, &directory, batch, progress).await?;
        }
    }
    while let Some(done) = uploads.join_next().await {
        finish(done, progress)?;
    }
    Ok(())
}

/// The chunks of a file and its chunk list.
fn pieces(file: Upload) -> Box<dyn Iterator<Item = Piece> + Send> {
    let path: Arc<str> = file.path.into();
    let Some(chunks) = file.chunks else {
        return Box::new(std::iter::once(Piece {
            digest: file.digest,
            len: file.size,
            from: From::File { path, offset: 0 },
        }));
    };
    let encoded = chunks.to_bytes();
    let list = Piece {
        digest: Digest::of(&encoded),
        len: encoded.len() as u64,
        from: From::ChunkList(Arc::clone(&chunks)),
    };
    drop(encoded);
    let mut index = 0;
    let mut offset = 0;
    let each = std::iter::from_fn(move || {
        let chunk = chunks.chunks().get(index)?;
        let piece = Piece {
            digest: chunk.digest,
            len: chunk.len.into(),
            from: From::File {
                path: Arc::clone(&path),
                offset,
            },
        };
        index += 1;
        offset += u64::from(chunk.len);
        Some(piece)
    });
    Box::new(each.chain(std::iter::once(list)))
}

/// Bytes that an upload carried, and how many of them were of files.
type Sums = (u64, u64);

/// Starts an upload; waits for another to end if there are enough.
async fn start(
    uploads: &mut JoinSet<Result<Sums, Failure>>,
    client: &Client,
    directory: &Arc<Path>,
    batch: Vec<Piece>,
    progress: &Uploading,
) -> Result<(), Failure> {
    while uploads.len() >= UPLOADS_MAX
        && let Some(done) = uploads.join_next().await
    {
        finish(done, progress)?;
    }
    let (client, directory) = (client.clone(), Arc::clone(directory));
    uploads.spawn(async move {
        let total = batch.iter().map(|piece| piece.len).sum();
        let payload = batch.iter().map(Piece::payload).sum();
        let chunks = tokio::task::spawn_blocking(move || read(&directory, &batch))
            .await
            .map_err(|error| Failure::new(format!("reading chunks: {error}")))??;
        retry(|| client.upload_chunks(&chunks, None)).await?;
        Ok((total, payload))
    });
    Ok(())
}

fn finish(done: Result<Result<Sums, Failure>, JoinError>, progress: &Uploading) -> Result<(), Failure> {
    let (total, payload) = done.map_err(|error| Failure::new(format!("uploading chunks: {error}")))??;
    progress.uploaded.fetch_add(total, Ordering::Relaxed);
    progress.settled.fetch_add(payload, Ordering::Relaxed);
    Ok(())
}

/// Sends a request again while that may help.
async fn retry<T, F: Future<Output = Result<T, ApiFault>>>(send: impl Fn() -> F) -> Result<T, Failure> {
    let mut tries = 1;
    let mut pause = PAUSE;
    loop {
        match send().await {
            Ok(answer) => return Ok(answer),
            // A full disk does not pass within seconds: whoever waits learns of it at once.
            Err(fault) if fault.is_passing() && fault.kind() != Some(ErrorKind::NoSpace) && tries < TRIES => {
                tracing::info!(%fault, "the upload is tried again");
                let asked = match &fault {
                    ApiFault::Busy { retry_after } => *retry_after,
                    _ => None,
                };
                tokio::time::sleep(asked.unwrap_or(pause)).await;
                tries += 1;
                pause *= 2;
            }
            Err(fault) => {
                return Err(Failure::from(fault)
                    .while_doing("uploading chunks")
                    .advice("What was uploaded is kept: publish again to go on from there."));
            }
        }
    }
}

impl Piece {
    /// Bytes of files in it: lists are none.
    fn payload(&self) -> u64 {
        match self.from {
            From::File { .. } => self.len,
            From::ChunkList(_) | From::Memory(_) => 0,
        }
    }
}

/// Reads the bytes of chunks, and checks that they still are what they were.
fn read(directory: &Path, pieces: &[Piece]) -> Result<Vec<(Digest, Bytes)>, Failure> {
    let mut open: Option<(Arc<str>, File)> = None;
    let mut chunks = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let bytes = match &piece.from {
            From::Memory(bytes) => bytes.clone(),
            From::ChunkList(list) => list.to_bytes().into(),
            From::File { path, offset } => {
                let fault = |source| CutError::Read {
                    path: path.to_string(),
                    source,
                };
                let result = read_at(&mut open, directory, path, *offset, piece.len);
                let bytes = match result {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                    result => Some(result.map_err(fault).map_err(|error| Failure::new(error.to_string()))?),
                };
                match bytes.filter(|bytes| Digest::of(bytes) == piece.digest) {
                    Some(bytes) => bytes.into(),
                    None => return Err(Failure::new(CutError::Changed(path.to_string()).to_string())),
                }
            }
        };
        chunks.push((piece.digest, bytes));
    }
    Ok(chunks)
}

fn read_at(
    open: &mut Option<(Arc<str>, File)>,
    directory: &Path,
    path: &Arc<str>,
    offset: u64,
    len: u64,
) -> io::Result<Vec<u8>> {
    let file = match open {
        Some((opened, file)) if opened == path => file,
        _ => {
            let real: PathBuf = directory.join(&**path);
            &mut open.insert((Arc::clone(path), File::open(real)?)).1
        }
    };
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use potluck_model::chunk_list::Chunk;

    use super::*;

    fn file() -> (tempfile::TempDir, Upload) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "aaabb").unwrap();
        let chunk = |bytes: &[u8]| Chunk {
            digest: Digest::of(bytes),
            len: bytes.len() as u32,
        };
        let chunks = ChunkList::new(vec![chunk(b"aaa"), chunk(b"bb")]).unwrap();
        let upload = Upload {
            path: "f".into(),
            size: 5,
            digest: Digest::of(b"aaabb"),
            chunks: Some(Arc::new(chunks)),
        };
        (dir, upload)
    }

    #[test]
    fn a_file_is_uploaded_as_its_chunks_and_its_chunk_list() {
        let (dir, upload) = file();
        let list = upload.chunks.clone().unwrap().to_bytes();
        let read = read(dir.path(), &pieces(upload).collect::<Vec<_>>()).unwrap();
        let bytes: Vec<&[u8]> = read.iter().map(|(_, bytes)| &bytes[..]).collect();
        assert_eq!(bytes, [b"aaa", &b"bb"[..], &list[..]]);
        assert!(read.iter().all(|(digest, bytes)| Digest::of(bytes) == *digest));
    }

    #[test]
    fn a_file_that_changes_before_it_is_uploaded_is_named() {
        for changed in ["aaabX", "aaa"] {
            let (dir, upload) = file();
            std::fs::write(dir.path().join("f"), changed).unwrap();
            let fault = read(dir.path(), &pieces(upload).collect::<Vec<_>>()).unwrap_err();
            assert!(fault.to_string().starts_with("f changed while"), "{fault}");
        }
    }
}
