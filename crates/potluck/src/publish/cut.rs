//! Reading files: their digests, and how they are cut into chunks.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use potluck_model::Digest;
use potluck_model::chunk_list::{Chunk, ChunkList};
use potluck_store::chunking::Chunker;

use super::scan::Stamp;

/// The most files that are read at a time: each may need 12 MiB for its chunks.
const WORKERS_MAX: usize = 4;

/// A file that is to be read.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    /// Relative to the directory.
    pub(crate) path: &'a str,
    /// What it was when the directory was scanned.
    pub(crate) stamp: Stamp,
    /// Bytes, as scanned.
    pub(crate) size: u64,
    /// The average chunk, in bytes.
    pub(crate) average: u32,
}

/// What a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Digest of all bytes.
    pub(crate) digest: Digest,
    /// How it is cut, if it is more than one chunk.
    pub(crate) chunks: Option<ChunkList>,
}

/// How far it is. Written by the workers, read by whoever shows it.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Files that are read.
    pub(crate) files: AtomicU64,
    /// Bytes that are read.
    pub(crate) bytes: AtomicU64,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CutError {
    /// It changed under our hands: a release of it would be of no state that it ever had.
    #[error("{0} changed while it was read; publish again when nothing writes to it")]
    Changed(String),
    /// The file system says no.
    #[error("reading {path}: {source}")]
    Read {
        /// Relative to the directory.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Reads all files below `directory`, several at a time, and gives what they are, in the same order.
pub(crate) fn cut_all(directory: &Path, sources: &[Source<'_>], reading: &Reading) -> Result<Vec<Cut>, CutError> {
    // The largest first: it takes longest and is read by one worker.
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(sources[index].size));
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let done: Mutex<Vec<(usize, Result<Cut, CutError>)>> = Mutex::new(Vec::with_capacity(sources.len()));
    let work = || {
        while !failed.load(Ordering::Relaxed)
            && let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let result = cut(directory, &sources[index], reading);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((index, result));
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
    thread::scope(|scope| {
        for _ in 1..workers.min(sources.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

fn cut(directory: &Path, source: &Source<'_>, reading: &Reading) -> Result<Cut, CutError> {
    let read = |error| CutError::Read {
        path: source.path.to_owned(),
        source: error,
    };
    let changed = || CutError::Changed(source.path.to_owned());
    let file = File::open(directory.join(source.path)).map_err(read)?;
    let unchanged = || Ok::<_, CutError>(Stamp::of(&file.metadata().map_err(read)?) == source.stamp);
    if !unchanged()? {
        return Err(changed());
    }
    let mut chunker = Chunker::new(&file, source.average);
    let mut chunks: Vec<Chunk> = Vec::new();
    for item in &mut chunker {
        let (chunk, bytes) = item.map_err(read)?;
        reading.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        chunks.push(chunk);
    }
    let whole = chunker.finish();
    if whole.size != source.size || !unchanged()? {
        return Err(changed());
    }
    reading.files.fetch_add(1, Ordering::Relaxed);
    let chunks = if chunks.len() > 1 {
        let list = ChunkList::new(chunks).map_err(|error| read(io::Error::new(io::ErrorKind::FileTooLarge, error)))?;
        Some(list)
    } else {
        None
    };
    Ok(Cut {
        digest: whole.digest,
        chunks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::scan::{Kind, Scan, scan};

    fn sources(scan: &Scan) -> Vec<Source<'_>> {
        scan.entries
            .iter()
            .filter_map(|entry| match &entry.kind {
                Kind::File { size, stamp, .. } => Some(Source {
                    path: &entry.path,
                    stamp: *stamp,
                    size: *size,
                    average: 32 << 10,
                }),
                _ => None,
            })
            .collect()
    }

    fn directory(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn small_files_are_one_chunk_and_large_ones_have_a_chunk_list() {
        let dir = directory(&[("a", b"abc".to_vec()), ("b", noise(400_000)), ("c", Vec::new())]);
        let scan = scan(dir.path()).unwrap();
        let reading = Reading::default();
        let cuts = cut_all(dir.path(), &sources(&scan), &reading).unwrap();
        assert_eq!(cuts[0].digest, Digest::of(b"abc"));
        assert_eq!(cuts[0].chunks, None);
        assert_eq!(cuts[1].digest, Digest::of(&noise(400_000)));
        assert_eq!(cuts[1].chunks.as_ref().unwrap().size(), 400_000);
        assert_eq!(cuts[2].digest, Digest::of(b""));
        assert_eq!(reading.files.into_inner(), 3);
        assert_eq!(reading.bytes.into_inner(), 400_003);
    }

    #[test]
    fn a_file_that_changed_since_it_was_scanned_is_named() {
        let dir = directory(&[("a", b"abc".to_vec()), ("b", b"abc".to_vec())]);
        let scan = scan(dir.path()).unwrap();
        std::fs::write(dir.path().join("b"), "abcd").unwrap();
        let fault = cut_all(dir.path(), &sources(&scan), &Reading::default()).unwrap_err();
        assert!(matches!(&fault, CutError::Changed(path) if path == "b"), "{fault}");
    }

    #[test]
    fn a_file_that_is_gone_is_named() {
        let dir = directory(&[("a", b"abc".to_vec())]);
        let scan = scan(dir.path()).unwrap();
        std::fs::remove_file(dir.path().join("a")).unwrap();
        let fault = cut_all(dir.path(), &sources(&scan), &Reading::default()).unwrap_err();
        assert!(fault.to_string().starts_with("reading a: "), "{fault}");
    }
}
