//! Packs: files to which small contents are appended, so that thousands of them cost few system calls and one sync.
//!
//! A record is the four bytes `PLSM`, `u32` big-endian length, 32 bytes of digest, and the content. After a kill, what was
//! appended but not indexed is found by its records.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use potluck_model::Digest;
use potluck_model::chunk_list::META_BYTES_MAX;

use crate::disk;
use crate::error::StoreError;
use crate::files::{Container, Files};
use crate::index::Index;
use crate::pending::Small;

/// Bytes after which a pack gets no more records.
const PACK_BYTES_MAX: u64 = 64 << 20;
/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 1 << 20;

const MAGIC: [u8; 4] = *b"PLSM";
const HEADER_BYTES: usize = 4 + 4 + Digest::BYTES;

/// The pack that is appended to.
#[derive(Debug)]
pub(crate) struct Packs {
    number: i64,
    len: u64,
    /// Whether the pack's file has been made.
    made: bool,
}

impl Packs {
    /// Looks through what was appended to packs without being indexed, and adopts what is good of it.
    pub(crate) fn open(files: &Files, index: &mut Index) -> Result<Self, StoreError> {
        let dir = files.packs_dir();
        let known = index.packs()?;
        let mut last = Self {
            number: known.keys().last().copied().unwrap_or(0) + 1,
            len: 0,
            made: false,
        };
        let entries = std::fs::read_dir(&dir).map_err(|error| StoreError::io("reading the directory", &dir, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| StoreError::io("reading the directory", &dir, error))?;
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<i64>().ok()) else {
                continue;
            };
            let container = Container::Pack(number);
            let from = known.get(&number).copied().unwrap_or(0);
            let (found, end) = files
                .open(container, false)
                .and_then(|file| scan(&file, number, from))
                .map_err(|error| StoreError::io("reading", &files.path(container), error))?;
            if !found.is_empty() {
                tracing::debug!(
                    pack = number,
                    contents = found.len(),
                    "contents found that the index did not know"
                );
                index.adopt(&found)?;
            }
            if number >= last.number || (number + 1 == last.number && end < PACK_BYTES_MAX) {
                last = Self {
                    number,
                    len: end,
                    made: true,
                };
            }
        }
        Ok(last)
    }

    /// Appends contents; returns where each is. Whether a file was made is added to `made`.
    pub(crate) fn append(
        &mut self,
        files: &Files,
        items: &[(Digest, &[u8])],
        made: &mut bool,
    ) -> Result<Vec<Small>, StoreError> {
        let mut places = Vec::with_capacity(items.len());
        let mut buffer = Vec::new();
        for (digest, bytes) in items {
            if self.len + buffer.len() as u64 >= PACK_BYTES_MAX {
                self.write(files, &mut buffer, made)?;
                *self = Self {
                    number: self.number + 1,
                    len: 0,
                    made: false,
                };
            }
            buffer.extend_from_slice(&MAGIC);
            buffer.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            buffer.extend_from_slice(digest.as_bytes());
            places.push(Small {
                pack: self.number,
                start: self.len + buffer.len() as u64,
                size: bytes.len() as u64,
            });
            buffer.extend_from_slice(bytes);
            if buffer.len() >= WRITE_BYTES {
                self.write(files, &mut buffer, made)?;
            }
        }
        self.write(files, &mut buffer, made)?;
        Ok(places)
    }

    fn write(&mut self, files: &Files, buffer: &mut Vec<u8>, made: &mut bool) -> Result<(), StoreError> {
        if buffer.is_empty() {
            return Ok(());
        }
        let container = Container::Pack(self.number);
        let result = files
            .open(container, true)
            .and_then(|file| file.write_all_at(buffer, self.len));
        // What was written of a failed write is overwritten by the next one.
        result.map_err(|error| StoreError::io("writing small files to", &files.path(container), error))?;
        self.len += buffer.len() as u64;
        *made |= !self.made;
        self.made = true;
        buffer.clear();
        Ok(())
    }

    /// Gives back the room of a pack's removed contents; the pack itself, if nothing is left in it.
    pub(crate) fn reclaim(&mut self, files: &Files, index: &Index, pack: i64) -> Result<(), StoreError> {
        let container = Container::Pack(pack);
        let path = files.path(container);
        let living = index.living(pack)?;
        if living.is_empty() {
            files.close(container);
            if pack == self.number {
                *self = Self {
                    number: pack + 1,
                    len: 0,
                    made: false,
                };
            }
            return match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io("removing", &path, error)),
                _ => index.remove_pack(pack),
            };
        }
        let punch = || -> io::Result<()> {
            let file = files.open(container, false)?;
            let mut end = 0;
            for (start, size) in living {
                // A hole takes the header before a living content along: it is only needed until that is indexed.
                if start > end {
                    disk::punch_hole(&file, end, start - end)?;
                }
                end = end.max(start + size);
            }
            Ok(())
        };
        match punch() {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(StoreError::io("giving back room of", &path, error))
            }
            _ => Ok(()),
        }
    }
}

/// The good records of a pack from byte `from` on, and where they end.
fn scan(file: &Arc<File>, pack: i64, from: u64) -> io::Result<(Vec<(Digest, Small)>, u64)> {
    let len = file.metadata()?.len();
    let mut found = Vec::new();
    let mut end = from;
    if len <= from {
        return Ok((found, end));
    }
    let mut reader = BufReader::new(&**file);
    reader.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    while len - end >= HEADER_BYTES as u64 {
        let mut header = [0; HEADER_BYTES];
        reader.read_exact(&mut header)?;
        let size = u64::from(u32::from_be_bytes(header[4..8].try_into().expect("four bytes")));
        let start = end + HEADER_BYTES as u64;
        if header[..4] != MAGIC || size > META_BYTES_MAX || len - start < size {
            break;
        }
        bytes.resize(size as usize, 0);
        reader.read_exact(&mut bytes)?;
        let digest = Digest::from_bytes(header[8..].try_into().expect("32 bytes"));
        if Digest::of(&bytes) != digest {
            break;
        }
        found.push((digest, Small { pack, start, size }));
        end = start + size;
    }
    Ok((found, end))
}
