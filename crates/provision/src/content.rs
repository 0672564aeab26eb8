//! Bytes of the list's files: read where the agent says that they lie, and verified while they are copied.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use potluck_model::{Digest, Location};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;
/// Files of the store kept open at a time: many small contents lie in few of them.
const OPEN_MAX: usize = 4;

/// Why bytes could not be copied. What was written of them is not to be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    #[error("the agent did not hand over its bytes (digest {0})")]
    Absent(Digest),
    #[error(
        "the bytes in the store ({path}) are not those that the list names: expected {size} bytes with digest {digest}"
    )]
    Mismatch { path: PathBuf, size: u64, digest: Digest },
    #[error("cannot read the bytes with digest {digest} from the store ({path}): {source}")]
    Read {
        path: PathBuf,
        digest: Digest,
        source: io::Error,
    },
    #[error("{0}")]
    Write(io::Error),
}

/// The content that was not to be had from the store, if that is why a step failed or a run could not begin: from the
/// message of its `StepEnded` or `Trouble`. It is a hint: whoever acts on it looks at the content first.
pub fn damaged_content(message: &str) -> Option<Digest> {
    let (_, rest) = message.rsplit_once("digest ")?;
    rest.get(..2 * Digest::BYTES)?.parse().ok()
}

pub(crate) struct Contents {
    at: BTreeMap<Digest, Location>,
    open: VecDeque<(PathBuf, File)>,
    buffer: Vec<u8>,
}

impl Contents {
    pub(crate) fn new(contents: &[(Digest, Location)]) -> Self {
        Self {
            at: contents.iter().cloned().collect(),
            open: VecDeque::new(),
            buffer: Vec::new(),
        }
    }

    /// Contents lie there as well; what was known of them before is forgotten.
    pub(crate) fn add(&mut self, contents: impl IntoIterator<Item = (Digest, Location)>) {
        self.at.extend(contents);
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.at.contains_key(digest)
    }

    /// Where a content lies, if the agent said so.
    pub(crate) fn location(&self, digest: &Digest) -> Option<Location> {
        self.at.get(digest).cloned()
    }

    /// `len` bytes of a file of the store, verified: a chunk, or a small content. `len` is at most some MiB.
    pub(crate) fn piece(&mut self, path: &Path, offset: u64, len: u64, digest: Digest) -> Result<&[u8], ContentError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(buffer.len().max(len as usize), 0);
        let bytes = &mut buffer[..len as usize];
        let read = self.file(path).and_then(|file| file.read_exact_at(bytes, offset));
        let good = read.map(|()| Digest::of(bytes) == digest);
        self.buffer = buffer;
        match good {
            Ok(true) => Ok(&self.buffer[..len as usize]),
            Ok(false) => Err(ContentError::Mismatch {
                path: path.to_owned(),
                size: len,
                digest,
            }),
            Err(source) => Err(ContentError::Read {
                path: path.to_owned(),
                digest,
                source,
            }),
        }
    }

    /// Copies a content to `out`. Only if this returns `Ok` are they the right bytes, all of them.
    pub(crate) fn copy(&mut self, digest: Digest, size: u64, out: &mut impl Write) -> Result<(), ContentError> {
        let location = self.at.get(&digest).cloned().ok_or(ContentError::Absent(digest))?;
        let mismatch = || ContentError::Mismatch {
            path: location.path.clone(),
            size,
            digest,
        };
        if location.len != size {
            return Err(mismatch());
        }
        let read_error = |source| ContentError::Read {
            path: location.path.clone(),
            digest,
            source,
        };
        self.buffer.resize(self.buffer.len().max(READ_BYTES), 0);
        let mut buffer = std::mem::take(&mut self.buffer);
        let file = self.file(&location.path).map_err(read_error)?;
        let mut hasher = blake3::Hasher::new();
        let mut done = 0;
        while done < size {
            let want = (size - done).min(READ_BYTES as u64) as usize;
            let read = match file.read_at(&mut buffer[..want], location.offset + done) {
                Ok(0) => return Err(mismatch()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_error(error)),
            };
            hasher.update(&buffer[..read]);
            out.write_all(&buffer[..read]).map_err(ContentError::Write)?;
            done += read as u64;
        }
        self.buffer = buffer;
        if Digest::from(hasher.finalize()) == digest {
            Ok(())
        } else {
            Err(mismatch())
        }
    }

    fn file(&mut self, path: &Path) -> io::Result<&File> {
        // Bytes are compared before components: most names differ at their end only, and most often it is the same file.
        let path_bytes = path.as_os_str();
        if let Some(index) = self.open.iter().position(|(open, _)| open.as_os_str() == path_bytes) {
            self.open.swap(0, index);
        } else {
            let file = open_regular(path)?;
            self.open.push_front((path.to_owned(), file));
            self.open.truncate(OPEN_MAX);
        }
        Ok(&self.open[0].1)
    }
}

/// The whole content at `location`, at most `bytes_max`; not verified.
pub(crate) fn read(location: &Location, bytes_max: u64) -> io::Result<Vec<u8>> {
    if location.len > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} bytes, more than {bytes_max}", location.len),
        ));
    }
    let file = open_regular(&location.path)?;
    let mut bytes = vec![0; location.len as usize];
    file.read_exact_at(&mut bytes, location.offset)?;
    Ok(bytes)
}

/// The digest of all that `file` still holds.
pub(crate) fn digest_of(file: &mut File, buffer: &mut Vec<u8>) -> io::Result<Digest> {
    buffer.resize(READ_BYTES, 0);
    let mut hasher = blake3::Hasher::new();
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(Digest::from(hasher.finalize())),
            Ok(read) => {
                hasher.update(&buffer[..read]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Opens what is to be a regular file, without being held up by what is not, or led elsewhere by a symbolic link.
fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Kernels before 5.6, and sandboxes that do not know it.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::open(path, flags, Mode::empty())?,
        other => other?,
    };
    let file = File::from(file);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_the_right_bytes_are_passed_on_as_good() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pack");
        fs::write(&path, b"..hello..").unwrap();
        let digest = Digest::of(b"hello");
        let at = |offset, len| {
            vec![(
                digest,
                Location {
                    path: path.clone(),
                    offset,
                    len,
                },
            )]
        };
        let mut out = Vec::new();
        Contents::new(&at(2, 5)).copy(digest, 5, &mut out).unwrap();
        assert_eq!(out, b"hello");
        for (offset, len, size) in [(1, 5, 5), (2, 4, 5), (2, 5, 4), (8, 5, 5)] {
            let result = Contents::new(&at(offset, len)).copy(digest, size, &mut Vec::new());
            assert!(matches!(result, Err(ContentError::Mismatch { .. })), "{offset} {len}");
        }
        assert!(matches!(
            Contents::new(&[]).copy(digest, 5, &mut Vec::new()),
            Err(ContentError::Absent(_))
        ));
    }

    #[test]
    fn the_message_of_every_fault_of_the_store_names_the_content() {
        let digest = Digest::of(b"hello");
        let path = PathBuf::from("/store/packs/00000001");
        let faults = [
            ContentError::Absent(digest),
            ContentError::Mismatch {
                path: path.clone(),
                size: 5,
                digest,
            },
            ContentError::Read {
                path,
                digest,
                source: io::ErrorKind::NotFound.into(),
            },
        ];
        for fault in faults {
            let message = format!("srv/index.html: {fault}");
            assert_eq!(damaged_content(&message), Some(digest), "{message}");
        }
        let full = ContentError::Write(io::ErrorKind::StorageFull.into()).to_string();
        for other in [&full, "exit code 1; its last line: digest", "digest é", ""] {
            assert_eq!(damaged_content(other), None, "{other}");
        }
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        let digest = Digest::of(b"");
        let location = Location {
            path,
            offset: 0,
            len: 0,
        };
        assert!(matches!(
            Contents::new(&[(digest, location)]).copy(digest, 0, &mut Vec::new()),
            Err(ContentError::Read { .. })
        ));
    }
}
