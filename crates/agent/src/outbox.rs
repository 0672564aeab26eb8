//! Events on their way to the server: numbered, kept on disk until acknowledged, bounded.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use potluck_model::api::EVENTS_PER_REPORT_MAX;
use potluck_model::trace::{Event, What};
use potluck_model::{Digest, UnixMicros};
use tokio::sync::Notify;

/// The most events that wait for the server; beyond, the oldest are dropped, and their number is reported.
pub(crate) const EVENTS_MAX: usize = 100_000;
/// The file is written anew when this many acknowledged events stand in it.
const REWRITE_AFTER: usize = 10_000;

/// Events that the server has not acknowledged. Clones share them.
#[derive(Clone)]
pub(crate) struct Outbox {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
    acknowledged: Arc<Notify>,
    hurried: Arc<Notify>,
}

struct Inner {
    boot: u64,
    next_seq: u64,
    waiting: VecDeque<Event>,
    dropped: u64,
    acknowledged_in_file: usize,
    path: PathBuf,
    /// None if the file cannot be written: events are still reported from memory.
    file: Option<BufWriter<File>>,
    /// That was told.
    told: bool,
}

impl Outbox {
    /// Takes up what an earlier boot left at `path`.
    pub(crate) fn open(path: PathBuf, boot: u64) -> Self {
        let mut waiting: VecDeque<Event> = VecDeque::new();
        if let Ok(file) = File::open(&path) {
            // A line that was cut by a crash is left out, as is all behind it.
            let lines = BufReader::new(file).lines().map_while(Result::ok);
            waiting.extend(
                lines
                    .map_while(|line| serde_json::from_str(&line).ok())
                    .take(EVENTS_MAX),
            );
        }
        let mut inner = Inner {
            boot,
            next_seq: 1,
            waiting,
            dropped: 0,
            acknowledged_in_file: 0,
            path,
            file: None,
            told: false,
        };
        inner.rewrite();
        Self {
            inner: Arc::new(Mutex::new(inner)),
            changed: Arc::default(),
            acknowledged: Arc::default(),
            hurried: Arc::default(),
        }
    }

    /// Adds an event that happens now.
    pub(crate) fn record(&self, list: Option<Digest>, what: What) {
        self.record_at(UnixMicros::now(), list, what);
    }

    /// Adds an event that happened at `at`.
    pub(crate) fn record_at(&self, at: UnixMicros, list: Option<Digest>, what: What) {
        let mut inner = self.lock();
        if inner.waiting.len() >= EVENTS_MAX {
            inner.waiting.pop_front();
            inner.dropped += 1;
        }
        let event = Event {
            boot: inner.boot,
            seq: inner.next_seq,
            at,
            list,
            what,
        };
        inner.next_seq += 1;
        inner.append(&event);
        inner.waiting.push_back(event);
        drop(inner);
        self.changed.notify_one();
    }

    /// The oldest events, at most one report of them.
    pub(crate) fn batch(&self) -> Vec<Event> {
        let mut inner = self.lock();
        if let Some(file) = &mut inner.file {
            // What is sent is on disk: a server that has it and a node that lost it would count it twice.
            drop(file.flush());
        }
        inner.waiting.iter().take(EVENTS_PER_REPORT_MAX).cloned().collect()
    }

    /// The server has kept these.
    pub(crate) fn acknowledge(&self, events: &[Event]) {
        let mut inner = self.lock();
        for event in events {
            if inner
                .waiting
                .front()
                .is_some_and(|first| (first.boot, first.seq) == (event.boot, event.seq))
            {
                inner.waiting.pop_front();
                inner.acknowledged_in_file += 1;
            }
        }
        if inner.waiting.is_empty() || inner.acknowledged_in_file >= REWRITE_AFTER {
            inner.rewrite();
        }
        drop(inner);
        self.acknowledged.notify_one();
    }

    /// Waits until the server may have kept something.
    pub(crate) async fn acknowledged(&self) {
        self.acknowledged.notified().await;
    }

    /// What is on its way may never get there, since the network changed: it is to be sent again at once.
    pub(crate) fn hurry(&self) {
        self.hurried.notify_one();
    }

    /// Waits until it is to be sent again.
    pub(crate) async fn hurried(&self) {
        self.hurried.notified().await;
    }

    /// Events that had to be dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.lock().dropped)
    }

    /// Whether the server has everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Waits until something may have been recorded.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn append(&mut self, event: &Event) {
        let Some(file) = &mut self.file else { return };
        let mut line = serde_json::to_vec(event).expect("an event is plain data");
        line.push(b'\n');
        if let Err(error) = file.write_all(&line) {
            self.cannot_write(&error);
        }
    }

    /// Goes on without the file, and says so once.
    fn cannot_write(&mut self, error: &std::io::Error) {
        self.file = None;
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(path = %self.path.display(), %error, "cannot keep events on disk; they are reported from memory");
        }
    }

    /// Writes what still waits, and nothing else.
    fn rewrite(&mut self) {
        let temporary = self.path.with_extension("jsonl.tmp");
        let write = || -> std::io::Result<BufWriter<File>> {
            let file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&temporary)?;
            let mut file = BufWriter::new(file);
            for event in &self.waiting {
                serde_json::to_writer(&mut file, event)?;
                file.write_all(b"\n")?;
            }
            file.flush()?;
            std::fs::rename(&temporary, &self.path)?;
            Ok(file)
        };
        match write() {
            Ok(file) => (self.file, self.acknowledged_in_file, self.told) = (Some(file), 0, false),
            Err(error) => self.cannot_write(&error),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(file) = &mut self.file {
            drop(file.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(n: usize) -> What {
        What::Trouble { message: n.to_string() }
    }

    #[test]
    fn events_outlive_a_restart_until_they_are_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let outbox = Outbox::open(path.clone(), 1);
        for n in 0..3 {
            outbox.record(None, trouble(n));
        }
        let batch = outbox.batch();
        assert_eq!(batch.len(), 3);
        outbox.acknowledge(&batch[..1]);
        drop(outbox);
        let outbox = Outbox::open(path, 2);
        // The first one was acknowledged, but the file was not written anew: sent twice, the server counts it once.
        outbox.record(None, trouble(9));
        let batch = outbox.batch();
        let names: Vec<_> = batch.iter().map(|event| (event.boot, event.seq)).collect();
        assert_eq!(names, [(1, 1), (1, 2), (1, 3), (2, 1)]);
        outbox.acknowledge(&batch);
        assert!(outbox.is_empty());
        assert_eq!(std::fs::metadata(dir.path().join("events.jsonl")).unwrap().len(), 0);
    }

    #[test]
    fn a_line_that_a_crash_cut_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let outbox = Outbox::open(path.clone(), 1);
        outbox.record(None, trouble(1));
        drop(outbox);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"boot\":1,\"se").unwrap();
        assert_eq!(Outbox::open(path, 2).batch().len(), 1);
    }

    #[test]
    fn the_oldest_events_go_when_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(dir.path().join("events.jsonl"), 1);
        for n in 0..EVENTS_MAX + 5 {
            outbox.record(None, trouble(n));
        }
        assert_eq!(outbox.take_dropped(), 5);
        assert_eq!(outbox.batch()[0].seq, 6);
    }
}
