//! The journal: one line for each thing that happened, written before and after each step, and synced where it matters.
//!
//! `journal.N` holds lines `<16 hexadecimal digits of the BLAKE3 of the rest> <JSON>`. When it has grown past
//! `JOURNAL_BYTES_MAX`, what it adds up to goes into `state.json` and `journal.N+1` begins; the file before is kept so that a
//! reader can finish it. Guarantee: after kill -9 or power loss a line is there whole or not at all, and lines that were
//! synced are there. Limit: a step's output is not synced on its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use potluck_model::trace::What;
use potluck_model::{Digest, UnixMicros};
use serde::{Deserialize, Serialize};

use crate::fail;
use crate::file;
use crate::state::{Fact, Line, State};

/// The version of the journal and of `state.json` that this version writes and reads.
pub const JOURNAL_FORMAT: u32 = 1;
/// A journal that is larger is replaced by a fresh one before the next step.
pub const JOURNAL_BYTES_MAX: u64 = 16 << 20;
const CHECKSUM_DIGITS: usize = 16;
const STATE: &str = "state.json";

/// Why the journal cannot be read or written. The run stops: what is not noted may not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The disk.
    #[error("cannot use the journal {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Written by a newer version.
    #[error("{path} has format {format}; this version of Potluck reads up to {JOURNAL_FORMAT}: update it")]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        format: u64,
    },
    /// Not what was written there.
    #[error("{path} is damaged ({why}): restore it, or remove it and what was run once will be run again")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How.
        why: String,
    },
}

impl JournalError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// The writing end. One at a time, which the lock sees to.
pub(crate) struct Journal {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    generation: u64,
    len: u64,
    len_max: u64,
    dirty: bool,
    state: State,
}

#[derive(Serialize, Deserialize)]
struct Compacted {
    format: u32,
    /// The first journal that is not in it.
    generation: u64,
    state: State,
}

impl Journal {
    /// Opens the journal in `dir`, cutting off a last line that was not written whole.
    pub(crate) fn open(dir: &Path) -> Result<Self, JournalError> {
        let (generation, state, good) = load(dir)?;
        let path = path_of(dir, generation);
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(JournalError::io(&path))?;
        let len = file.metadata().map_err(JournalError::io(&path))?.len();
        if len != good {
            file.set_len(good).map_err(JournalError::io(&path))?;
        }
        file.sync_all()
            .and_then(|()| file::sync_dir(dir))
            .map_err(JournalError::io(&path))?;
        Ok(Self {
            dir: dir.to_owned(),
            path,
            file,
            generation,
            len: good,
            len_max: JOURNAL_BYTES_MAX,
            dirty: false,
            state,
        })
    }

    /// A new journal that goes on from `state`, in a directory that has none.
    pub(crate) fn of_state(dir: &Path, state: State) -> Result<Self, JournalError> {
        let mut journal = Self::open(dir)?;
        journal.state = state;
        Ok(journal)
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Adds one line; `sync` makes it last.
    pub(crate) fn append(
        &mut self,
        list: Option<Digest>,
        what: Option<What>,
        fact: Option<Fact>,
    ) -> Result<(), JournalError> {
        self.append_at(UnixMicros::now(), list, what, fact)
    }

    /// Likewise, of something that happened at another time.
    pub(crate) fn append_at(
        &mut self,
        at: UnixMicros,
        list: Option<Digest>,
        what: Option<What>,
        fact: Option<Fact>,
    ) -> Result<(), JournalError> {
        let line = Line { at, list, what, fact };
        let bytes = encode(&line);
        fail::write("journal.append", &self.file, &bytes).map_err(|source| {
            // A half-written line would spoil the next one.
            let _ = self.file.set_len(self.len);
            JournalError::Io {
                path: self.path.clone(),
                source,
            }
        })?;
        self.len += bytes.len() as u64;
        self.dirty = true;
        fail::here("journal.appended");
        self.state.apply(&line);
        Ok(())
    }

    /// Everything appended so far is on disk.
    pub(crate) fn sync(&mut self) -> Result<(), JournalError> {
        if self.dirty {
            fail::io("journal.sync")
                .and_then(|()| self.file.sync_data())
                .map_err(JournalError::io(&self.path))?;
            self.dirty = false;
            fail::here("journal.synced");
        }
        Ok(())
    }

    /// Begins a fresh journal if this one has grown too large. For between steps.
    pub(crate) fn rotate_if_large(&mut self) -> Result<(), JournalError> {
        if self.len <= self.len_max {
            return Ok(());
        }
        self.sync()?;
        let next = self.generation + 1;
        let compacted = Compacted {
            format: JOURNAL_FORMAT,
            generation: next,
            state: self.state.clone(),
        };
        let state = self.dir.join(STATE);
        serde_json::to_vec(&compacted)
            .map_err(io::Error::from)
            .and_then(|bytes| file::replace(&state, &bytes))
            .map_err(JournalError::io(&state))?;
        fail::io("journal.rotate").map_err(JournalError::io(&state))?;
        let path = path_of(&self.dir, next);
        self.file = OpenOptions::new()
            .append(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .and_then(|file| file::sync_dir(&self.dir).map(|()| file))
            .map_err(JournalError::io(&path))?;
        self.path = path;
        self.len = 0;
        if let Some(old) = self.generation.checked_sub(1) {
            // Readers had a whole generation's time.
            let _ = fs::remove_file(path_of(&self.dir, old));
        }
        self.generation = next;
        Ok(())
    }

    #[cfg(test)]
    fn limit(&mut self, len_max: u64) {
        self.len_max = len_max;
    }
}

pub(crate) fn path_of(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("journal.{generation}"))
}

/// Generation of the journal that is written, what all adds up to, and how many bytes of that journal are good.
pub(crate) fn load(dir: &Path) -> Result<(u64, State, u64), JournalError> {
    let path = dir.join(STATE);
    let (generation, mut state) = match fs::read(&path) {
        Ok(bytes) => {
            let compacted = parse_compacted(&path, &bytes)?;
            (compacted.generation, compacted.state)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (0, State::default()),
        Err(error) => return Err(JournalError::io(&path)(error)),
    };
    let path = path_of(dir, generation);
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(JournalError::io(&path)(error)),
    }
    let (lines, good) = decode_all(&bytes);
    for line in &lines {
        state.apply(line);
    }
    Ok((generation, state, good as u64))
}

fn parse_compacted(path: &Path, bytes: &[u8]) -> Result<Compacted, JournalError> {
    #[derive(Deserialize)]
    struct Format {
        format: u64,
    }
    let damaged = |error: serde_json::Error| JournalError::Damaged {
        path: path.to_owned(),
        why: error.to_string(),
    };
    let format = serde_json::from_slice::<Format>(bytes).map_err(damaged)?.format;
    if format > u64::from(JOURNAL_FORMAT) {
        return Err(JournalError::Newer {
            path: path.to_owned(),
            format,
        });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

pub(crate) fn encode(line: &Line) -> Vec<u8> {
    let json = serde_json::to_vec(line).expect("a line is plain data");
    let mut bytes = Vec::with_capacity(CHECKSUM_DIGITS + json.len() + 2);
    bytes.extend_from_slice(&checksum(&json));
    bytes.push(b' ');
    bytes.extend_from_slice(&json);
    bytes.push(b'\n');
    bytes
}

/// One line without its end.
pub(crate) fn decode(bytes: &[u8]) -> Option<Line> {
    let (sum, rest) = bytes.split_at_checked(CHECKSUM_DIGITS)?;
    let json = rest.strip_prefix(b" ")?;
    if sum != checksum(json) {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// The good lines, and where the last of them ends. Damage between good lines is passed over; at the end it is a torn write.
pub(crate) fn decode_all(bytes: &[u8]) -> (Vec<Line>, usize) {
    let mut lines = Vec::new();
    let (mut at, mut good) = (0, 0);
    while let Some(end) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        if let Some(line) = decode(&bytes[at..at + end]) {
            lines.push(line);
            good = at + end + 1;
        }
        at += end + 1;
    }
    (lines, good)
}

fn checksum(json: &[u8]) -> [u8; CHECKSUM_DIGITS] {
    let mut digits = [0; CHECKSUM_DIGITS];
    let text = Digest::of(json).to_string();
    digits.copy_from_slice(&text.as_bytes()[..CHECKSUM_DIGITS]);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tail::{Position, Tail};

    fn trouble(text: &str) -> What {
        What::Trouble { message: text.into() }
    }

    fn texts(dir: &Path, tail: &mut Tail) -> Vec<String> {
        tail.poll()
            .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
            .into_iter()
            .map(|record| match record.what {
                What::Trouble { message } => message,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn bytes_of_a_line_stay_as_they_are() {
        let line = Line {
            at: UnixMicros(1),
            list: None,
            what: Some(trouble("x")),
            fact: None,
        };
        let bytes = encode(&line);
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            "a351f14d1c3ab928 {\"at\":1,\"what\":{\"event\":\"trouble\",\"message\":\"x\"}}\n"
        );
        assert_eq!(decode_all(&bytes), (vec![line], bytes.len()));
    }

    #[test]
    fn a_torn_last_line_is_cut_off_wherever_it_was_torn() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.append(None, Some(trouble("one")), None).unwrap();
        let good = journal.len;
        journal.append(None, Some(trouble("two")), None).unwrap();
        journal.sync().unwrap();
        let whole = fs::read(path_of(dir.path(), 0)).unwrap();
        for cut in good as usize..whole.len() {
            fs::write(path_of(dir.path(), 0), &whole[..cut]).unwrap();
            let mut journal = Journal::open(dir.path()).unwrap();
            assert_eq!(journal.len, good);
            journal.append(None, Some(trouble("three")), None).unwrap();
            let mut tail = Tail::new(dir.path(), Position::default());
            assert_eq!(texts(dir.path(), &mut tail), ["one", "three"]);
        }
    }

    #[test]
    fn damage_in_the_middle_costs_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        for text in ["one", "two", "three"] {
            journal.append(None, Some(trouble(text)), None).unwrap();
        }
        let path = path_of(dir.path(), 0);
        let text = fs::read_to_string(&path).unwrap().replace("two", "twO");
        fs::write(&path, text).unwrap();
        drop(journal);
        Journal::open(dir.path()).unwrap();
        let mut tail = Tail::new(dir.path(), Position::default());
        assert_eq!(texts(dir.path(), &mut tail), ["one", "three"]);
    }

    #[test]
    fn a_reader_misses_nothing_when_the_journal_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.limit(200);
        let mut tail = Tail::new(dir.path(), Position::default());
        let mut seen = Vec::new();
        for number in 0..40 {
            journal.append(None, Some(trouble(&number.to_string())), None).unwrap();
            journal.rotate_if_large().unwrap();
            if number % 2 == 0 {
                // A reader that starts anew from its position.
                tail = Tail::new(dir.path(), tail.position());
                seen.extend(texts(dir.path(), &mut tail));
            }
        }
        seen.extend(texts(dir.path(), &mut tail));
        assert_eq!(seen, (0..40).map(|number| number.to_string()).collect::<Vec<_>>());
        assert!(journal.generation > 5);
        let files = fs::read_dir(dir.path()).unwrap().count();
        assert!(files <= 3, "{files} files");
    }

    #[test]
    fn what_was_noted_survives_the_replacing_of_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.limit(0);
        let key = Digest::of(b"key");
        journal.append(None, None, Some(Fact::Ran(key))).unwrap();
        journal.rotate_if_large().unwrap();
        journal
            .append(None, None, Some(Fact::Ran(Digest::of(b"other"))))
            .unwrap();
        drop(journal);
        let journal = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.state().ran.len(), 2);
        assert!(journal.state().ran.contains_key(&key));
    }

    #[test]
    fn a_newer_state_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(STATE), br#"{"format":2,"shape":"unknown"}"#).unwrap();
        assert!(matches!(
            Journal::open(dir.path()),
            Err(JournalError::Newer { format: 2, .. })
        ));
    }
}
