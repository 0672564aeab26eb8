//! Reads the journal while it is written: by the agent, which outlives the executing process or is outlived by it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use potluck_model::trace::What;
use potluck_model::{Digest, UnixMicros};
use serde::{Deserialize, Serialize};

use crate::journal::{self, JournalError};

/// The most bytes that one `poll` reads. Longer than any line.
const POLL_BYTES_MAX: usize = 1 << 20;

/// Something that happened, for the agent to report.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// When.
    pub at: UnixMicros,
    /// In the run of which list; none: before a list was verified.
    pub list: Option<Digest>,
    /// What: a step's start, output or end, the end of the run, or trouble.
    pub what: What,
}

/// How far a reader has come. The default is the oldest that there is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    /// Number of the journal's file.
    pub generation: u64,
    /// Bytes of it.
    pub offset: u64,
}

/// A reader of the journal in a directory that need not exist yet.
pub struct Tail {
    dir: PathBuf,
    position: Position,
    file: Option<File>,
}

impl Tail {
    /// Reads on from `position`, which an earlier reader of the same directory had reached.
    pub fn new(dir: &Path, position: Position) -> Self {
        Self {
            dir: dir.to_owned(),
            position,
            file: None,
        }
    }

    /// How far it has come: what `poll` returned last is before it.
    pub fn position(&self) -> Position {
        self.position
    }

    /// What is new, about a mebibyte of it at most; empty if there is nothing. Does not wait.
    pub fn poll(&mut self) -> Result<Vec<Record>, JournalError> {
        let mut records = Vec::new();
        loop {
            let last = !journal::path_of(&self.dir, self.position.generation + 1).exists();
            let more = self.read(&mut records)?;
            if !records.is_empty() || more {
                return Ok(records);
            }
            // The next file is begun only after the last line of this one.
            if last && !self.skip_to_oldest()? {
                return Ok(records);
            }
            if !last {
                self.file = None;
                self.position = Position {
                    generation: self.position.generation + 1,
                    offset: 0,
                };
            }
        }
    }

    /// Reads some lines. True: it got on although there was nothing to report.
    fn read(&mut self, records: &mut Vec<Record>) -> Result<bool, JournalError> {
        let path = journal::path_of(&self.dir, self.position.generation);
        if self.file.is_none() {
            self.file = match File::open(&path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(JournalError::io(&path)(error)),
            };
            self.resync(&path)?;
        }
        let Some(file) = &self.file else { return Ok(false) };
        let len = file.metadata().map_err(JournalError::io(&path))?.len();
        let start = self.position.offset;
        if len <= start {
            return Ok(false);
        }
        let mut bytes = vec![0; (len - start).min(POLL_BYTES_MAX as u64) as usize];
        let read = read_at_most(file, &mut bytes, start).map_err(JournalError::io(&path))?;
        bytes.truncate(read);
        let (lines, mut good) = journal::decode_all(&bytes);
        if good == 0 && bytes.len() == POLL_BYTES_MAX {
            // A mebibyte without one good line is damage, not a line being written.
            good = bytes.len();
        }
        self.position.offset += good as u64;
        records.extend(lines.into_iter().filter_map(|line| {
            Some(Record {
                at: line.at,
                list: line.list,
                what: line.what?,
            })
        }));
        Ok(good > 0 && len > self.position.offset)
    }

    /// After a power loss the journal may be shorter than what was read of it: find the start of a line again.
    fn resync(&mut self, path: &Path) -> Result<(), JournalError> {
        let Some(file) = &self.file else { return Ok(()) };
        let len = file.metadata().map_err(JournalError::io(path))?.len();
        self.position.offset = self.position.offset.min(len);
        if self.position.offset == 0 {
            return Ok(());
        }
        let mut bytes = vec![0; POLL_BYTES_MAX];
        let from = self.position.offset - 1;
        let read = read_at_most(file, &mut bytes, from).map_err(JournalError::io(path))?;
        if let Some(end) = bytes[..read].iter().position(|byte| *byte == b'\n') {
            self.position.offset = from + end as u64 + 1;
        }
        Ok(())
    }

    /// The journal that the position names may have been removed long ago. True: it got on.
    fn skip_to_oldest(&mut self) -> Result<bool, JournalError> {
        if self.file.is_some() {
            return Ok(false);
        }
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(JournalError::io(&self.dir)(error)),
        };
        let oldest = entries
            .filter_map(|entry| {
                entry
                    .ok()?
                    .file_name()
                    .to_str()?
                    .strip_prefix("journal.")?
                    .parse::<u64>()
                    .ok()
            })
            .min();
        match oldest {
            Some(generation) if generation != self.position.generation => {
                self.position = Position { generation, offset: 0 };
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

fn read_at_most(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;

    fn trouble(text: &str) -> What {
        What::Trouble { message: text.into() }
    }

    #[test]
    fn a_directory_that_does_not_exist_yet_has_nothing_new() {
        let dir = tempfile::tempdir().unwrap();
        let mut tail = Tail::new(&dir.path().join("later"), Position::default());
        assert_eq!(tail.poll().unwrap(), []);
        assert_eq!(tail.position(), Position::default());
    }

    #[test]
    fn a_line_that_is_being_written_waits_for_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.append(None, Some(trouble("one")), None).unwrap();
        let path = journal::path_of(dir.path(), 0);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let mut tail = Tail::new(dir.path(), Position::default());
        assert_eq!(tail.poll().unwrap(), []);
        fs::write(&path, &whole).unwrap();
        assert_eq!(tail.poll().unwrap().len(), 1);
        assert_eq!(tail.poll().unwrap(), []);
    }

    #[test]
    fn a_position_past_a_journal_that_lost_its_end_finds_the_next_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        for _ in 0..3 {
            journal.append(None, Some(trouble("long ago")), None).unwrap();
        }
        let mut tail = Tail::new(
            dir.path(),
            Position {
                generation: 0,
                offset: 10,
            },
        );
        assert_eq!(tail.poll().unwrap().len(), 2);
        let far = Position {
            generation: 0,
            offset: 1 << 40,
        };
        let mut tail = Tail::new(dir.path(), far);
        assert_eq!(tail.poll().unwrap(), []);
        journal.append(None, Some(trouble("new")), None).unwrap();
        assert_eq!(tail.poll().unwrap().len(), 1);
    }
}
