//! Unpacks an archive safely: tar, tar.gz, tar.zst or zip, told by the first bytes.
//!
//! Refused by name, with nothing unpacked: absolute names, `..`, names that are not UTF-8, links that lead out of the
//! destination, entries below a link or a file of the same archive, devices and pipes, names twice, and more than
//! `ENTRIES_MAX` entries or `unpacked_bytes_max` bytes. Owners, set-id bits and times are not taken over.

mod tar;
mod zip;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use potluck_model::list::PATH_BYTES_MAX;

use crate::place::{PlaceError, Placement};
use crate::root::join;

/// The most entries of an archive.
pub(crate) const ENTRIES_MAX: usize = 500_000;
/// An archive may always unpack to so many bytes.
const UNPACKED_BYTES_FREE: u64 = 64 << 20;
/// And to so many times its size: deflate itself reaches 1,032.
const UNPACKED_RATIO_MAX: u64 = 1_000;

/// The most bytes that an archive of `size` bytes may unpack to.
pub(crate) fn unpacked_bytes_max(size: u64) -> u64 {
    size.saturating_mul(UNPACKED_RATIO_MAX).max(UNPACKED_BYTES_FREE)
}

/// Why an archive was not unpacked. Nothing of it is there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("the archive holds {name:?}, {why}")]
    Refused { name: String, why: &'static str },
    #[error("the archive holds more than {ENTRIES_MAX} entries")]
    Entries,
    #[error(
        "the archive unpacks to more than {0} bytes, {UNPACKED_RATIO_MAX} times its size: \
         it would fill the disk; pack large empty files in another way"
    )]
    Bytes(u64),
    #[error("it is neither tar, tar.gz, tar.zst nor zip")]
    Unknown,
    #[error("the archive is damaged: {0}")]
    Damaged(String),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("cannot write {path:?}: {source}")]
    Write { path: String, source: io::Error },
}

/// Puts what `archive` holds under `dest` into a placement. Returns how many files and links that are.
pub(crate) fn unpack(
    mut archive: File,
    dest: &str,
    absolute_links: bool,
    placement: &mut Placement<'_>,
) -> Result<usize, ArchiveError> {
    let damaged = |error: io::Error| ArchiveError::Damaged(error.to_string());
    let size = archive.metadata().map_err(damaged)?.len();
    let mut head = [0; 264];
    let read = read_at_most(&mut archive, &mut head).map_err(damaged)?;
    archive.seek(SeekFrom::Start(0)).map_err(damaged)?;
    let mut sink = Sink {
        dest,
        absolute_links,
        seen: BTreeMap::new(),
        entries: 0,
        placed: 0,
        left: unpacked_bytes_max(size),
        limit: unpacked_bytes_max(size),
        placement,
    };
    let head = &head[..read];
    if head.starts_with(&[0x1f, 0x8b]) {
        tar::unpack(
            flate2::read::MultiGzDecoder::new(io::BufReader::new(archive)),
            &mut sink,
        )?;
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        tar::unpack(zstd::stream::read::Decoder::new(archive).map_err(damaged)?, &mut sink)?;
    } else if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        zip::unpack(archive, &mut sink)?;
    } else if head.get(257..262) == Some(b"ustar") || (size >= 512 && head.iter().all(|byte| *byte == 0)) {
        tar::unpack(io::BufReader::new(archive), &mut sink)?;
    } else {
        return Err(ArchiveError::Unknown);
    }
    Ok(sink.placed)
}

fn read_at_most(file: &mut File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read(&mut bytes[read..])? {
            0 => break,
            n => read += n,
        }
    }
    Ok(read)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Link,
}

/// What every format hands its entries to: the rules are here, once.
struct Sink<'a, 'r> {
    dest: &'a str,
    absolute_links: bool,
    /// Every name so far, and every directory that a name implies.
    seen: BTreeMap<String, Kind>,
    entries: usize,
    placed: usize,
    left: u64,
    limit: u64,
    placement: &'a mut Placement<'r>,
}

impl Sink<'_, '_> {
    fn directory(&mut self, name: &[u8], mode: u32) -> Result<(), ArchiveError> {
        // The destination itself is as it is.
        if let Some(path) = self.admit(name, Kind::Directory)? {
            self.placement.directory(&join(self.dest, &path), mode & 0o777)?;
        }
        Ok(())
    }

    fn file(&mut self, name: &[u8], mode: u32, bytes: &mut impl Read) -> Result<(), ArchiveError> {
        let path = self.admit_named(name, Kind::File)?;
        let path = join(self.dest, &path);
        let (left, limit) = (&mut self.left, self.limit);
        self.placement.file(&path, mode & 0o777, |file| {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let read = match bytes.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(damage(&error, limit)),
                };
                *left = left.checked_sub(read as u64).ok_or(ArchiveError::Bytes(limit))?;
                file.write_all(&buffer[..read]).map_err(|source| ArchiveError::Write {
                    path: path.clone(),
                    source,
                })?;
            }
        })?;
        self.placed += 1;
        Ok(())
    }

    fn link(&mut self, name: &[u8], target: &[u8]) -> Result<(), ArchiveError> {
        let path = self.admit_named(name, Kind::Link)?;
        let target = std::str::from_utf8(target)
            .ok()
            .filter(|target| target.len() <= PATH_BYTES_MAX && !target.is_empty() && !target.contains('\0'))
            .ok_or_else(|| refused(name, "a link whose target is no clean path"))?;
        if !stays(self.dest, self.absolute_links, &path, target) {
            return Err(refused(name, "a link that leads out of the destination"));
        }
        self.placement.link(&join(self.dest, &path), target)?;
        self.placed += 1;
        Ok(())
    }

    fn hard_link(&mut self, name: &[u8], target: &[u8]) -> Result<(), ArchiveError> {
        let path = self.admit_named(name, Kind::File)?;
        let existing = clean(target).map_err(|why| refused(target, why))?;
        if existing == path || self.seen.get(&existing) != Some(&Kind::File) {
            return Err(refused(name, "a hard link to what is no file before it in the archive"));
        }
        self.placement
            .hard_link(&join(self.dest, &path), &join(self.dest, &existing))?;
        self.placed += 1;
        Ok(())
    }

    fn admit_named(&mut self, name: &[u8], kind: Kind) -> Result<String, ArchiveError> {
        self.admit(name, kind)?
            .ok_or_else(|| refused(name, "which is no name of a file"))
    }

    /// Checks a name against the rules and all names before it. `None`: it is the destination itself.
    fn admit(&mut self, name: &[u8], kind: Kind) -> Result<Option<String>, ArchiveError> {
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(ArchiveError::Entries);
        }
        let path = clean(name).map_err(|why| refused(name, why))?;
        if path.is_empty() {
            return Ok(None);
        }
        let mut end = 0;
        while let Some(slash) = path[end..].find('/') {
            end += slash;
            match self.seen.get(&path[..end]) {
                None => {
                    self.seen.insert(path[..end].to_owned(), Kind::Directory);
                }
                Some(Kind::Directory) => {}
                Some(Kind::File | Kind::Link) => {
                    return Err(refused(name, "which lies below a link or a file of the archive"));
                }
            }
            end += 1;
        }
        match self.seen.insert(path.clone(), kind) {
            None => {}
            Some(Kind::Directory) if kind == Kind::Directory => {}
            Some(_) => return Err(refused(name, "and something else of that name")),
        }
        Ok(Some(path))
    }
}

/// Whether a link's target lies under the destination.
///
/// `..` may only stand at its beginning: behind a name, which may be a link, its meaning is not known from the text.
fn stays(dest: &str, absolute_links: bool, path: &str, target: &str) -> bool {
    let (target, mut depth) = match target.strip_prefix('/') {
        None => (target, path.matches('/').count()),
        Some(absolute) => {
            let below = absolute.trim_matches('/');
            let inside = dest.is_empty()
                || below
                    .strip_prefix(dest)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            if !absolute_links || !inside {
                return false;
            }
            (below, 0)
        }
    };
    let mut named = false;
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." if named || depth == 0 => return false,
            ".." => depth -= 1,
            _ => named = true,
        }
    }
    true
}

/// Turns a name into a path under the destination, empty for the destination itself.
fn clean(name: &[u8]) -> Result<String, &'static str> {
    let text = std::str::from_utf8(name).map_err(|_| "a name that is not UTF-8")?;
    if text.starts_with('/') {
        return Err("an absolute name");
    }
    if text.len() > PATH_BYTES_MAX || text.contains(['\0', '\\']) {
        return Err("which is too long a name, or has a backslash or a zero byte in it");
    }
    let mut names = Vec::new();
    for name in text.split('/') {
        match name {
            "" | "." => {}
            ".." => return Err("a name that leads out of the destination"),
            _ => names.push(name),
        }
    }
    Ok(names.join("/"))
}

fn refused(name: &[u8], why: &'static str) -> ArchiveError {
    ArchiveError::Refused {
        name: String::from_utf8_lossy(name).chars().take(200).collect(),
        why,
    }
}

/// The error that `Limited` gives when there is more than the limit.
#[derive(Debug, thiserror::Error)]
#[error("too many bytes")]
struct TooMany;

fn damage(error: &io::Error, limit: u64) -> ArchiveError {
    let too_many = error
        .get_ref()
        .is_some_and(<dyn std::error::Error + Send + Sync>::is::<TooMany>);
    if too_many {
        ArchiveError::Bytes(limit)
    } else {
        ArchiveError::Damaged(error.to_string())
    }
}

/// Reads at most so many bytes, and fails on more.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other(TooMany))?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
