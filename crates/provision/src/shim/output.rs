//! What a command printed, as lines with their time in a file: written by a shim, read by executing processes while it grows.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use potluck_model::UnixMicros;
use serde::{Deserialize, Serialize};

/// Bytes that are read at once. Longer than any line.
const READ_BYTES_MAX: usize = 64 << 10;

/// A line of the file: JSON.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Printed {
    pub(super) at: UnixMicros,
    pub(super) line: String,
}

/// The writing end.
pub(super) struct Output {
    file: File,
    len: u64,
    /// Lines that could not be written, and why not.
    lost: Option<(u64, io::Error)>,
}

impl Output {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self {
            file,
            len: 0,
            lost: None,
        })
    }

    /// A line that cannot be kept, as on a disk that is full, is counted: the command goes on.
    pub(super) fn add(&mut self, line: String) {
        let printed = Printed {
            at: UnixMicros::now(),
            line,
        };
        if let Err(error) = self.write(&printed) {
            self.lost.get_or_insert((0, error)).0 += 1;
        }
    }

    fn write(&mut self, printed: &Printed) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(printed)?;
        bytes.push(b'\n');
        // Where the last whole line ended: half a line is written over.
        self.file.write_all_at(&bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Says what was lost, and makes the rest last.
    pub(super) fn close(mut self) {
        if let Some((count, error)) = self.lost.take() {
            self.add(format!("({count} lines of output could not be kept: {error})"));
        }
        let _ = self.file.sync_data();
    }
}

/// The reading end.
pub(super) struct Reader {
    file: Option<File>,
    offset: u64,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { file: None, offset: 0 }
    }

    /// Lines that are new, some of them if they are many. A line that is not whole yet waits.
    pub(super) fn poll(&mut self, path: &Path) -> io::Result<Vec<Printed>> {
        if self.file.is_none() {
            self.file = match File::open(path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
        }
        let Some(file) = &self.file else { return Ok(Vec::new()) };
        let mut bytes = vec![0; READ_BYTES_MAX];
        let read = file.read_at(&mut bytes, self.offset)?;
        bytes.truncate(read);
        let mut lines = Vec::new();
        let mut at = 0;
        while let Some(end) = bytes[at..].iter().position(|byte| *byte == b'\n') {
            // A line that is damaged is passed over.
            lines.extend(serde_json::from_slice(&bytes[at..at + end]).ok());
            at += end + 1;
        }
        self.offset += at as u64;
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(printed: Vec<Printed>) -> Vec<String> {
        printed.into_iter().map(|printed| printed.line).collect()
    }

    #[test]
    fn lines_are_read_while_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output");
        let mut reader = Reader::new();
        assert_eq!(reader.poll(&path).unwrap(), []);
        let mut output = Output::create(&path).unwrap();
        output.add("one".into());
        assert_eq!(texts(reader.poll(&path).unwrap()), ["one"]);
        output.add("two \n \u{1b}".into());
        output.add("three".into());
        assert_eq!(texts(reader.poll(&path).unwrap()), ["two \n \u{1b}", "three"]);
        assert_eq!(reader.poll(&path).unwrap(), []);
        output.close();
    }

    #[test]
    fn a_line_that_is_not_whole_waits_for_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output");
        let mut reader = Reader::new();
        std::fs::write(&path, r#"{"at":1,"line":"a"#).unwrap();
        assert_eq!(reader.poll(&path).unwrap(), []);
        std::fs::write(&path, "{\"at\":1,\"line\":\"a\"}\nrot\n{\"at\":2,\"line\":\"b\"}\n").unwrap();
        assert_eq!(texts(reader.poll(&path).unwrap()), ["a", "b"]);
    }

    #[test]
    fn a_full_disk_costs_lines_and_is_said() {
        let mut output = Output::create(Path::new("/dev/full")).unwrap();
        output.add("one".into());
        output.add("two".into());
        let (count, error) = output.lost.unwrap();
        assert_eq!((count, error.raw_os_error()), (2, Some(28)));
    }
}
