//! The connections to one SQLite database: many readers, and one writer that commits for many callers at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::catalogue::{CatalogueError, Result};

/// Readers that are kept open while nobody uses them.
const IDLE_READERS_MAX: usize = 8;
/// Changes that one commit makes durable at the most, and that wait for it; more callers wait to get into the queue.
const GROUP_MAX: usize = 256;
/// How long one process waits for another that is writing.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a change on the writer's connection, and returns what delivers its result once the group is committed or not.
type Job = Box<dyn FnOnce(&Connection) -> Deliver + Send>;
type Deliver = Box<dyn FnOnce(std::result::Result<(), &CatalogueError>) + Send>;

/// One SQLite database in WAL mode.
pub(super) struct Database {
    path: PathBuf,
    readers: Mutex<Vec<Connection>>,
    /// `None` once it is being dropped.
    queue: Option<SyncSender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl Database {
    /// Opens or creates it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let writer = Connection::open(path)?;
        writer.busy_timeout(BUSY_TIMEOUT)?;
        writer.execute_batch(
            // FULL: what was acknowledged survives a power cut.
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;
             PRAGMA journal_size_limit = 67108864; PRAGMA temp_store = MEMORY;",
        )?;
        writer.set_prepared_statement_cache_capacity(64);
        let (queue, jobs) = sync_channel(GROUP_MAX);
        let thread = std::thread::Builder::new()
            .name("catalogue".into())
            .spawn(move || write_groups(&writer, &jobs, || {}))
            .map_err(|fault| CatalogueError::Database(format!("starting a thread: {fault}")))?;
        Ok(Self {
            path: path.to_owned(),
            readers: Mutex::default(),
            queue: Some(queue),
            writer: Some(thread),
        })
    }

    /// Reads from one consistent state.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = lock(&self.readers).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.open_reader()?,
        };
        connection.execute_batch("BEGIN")?;
        let result = read(&connection);
        connection.execute_batch("COMMIT")?;
        let mut readers = lock(&self.readers);
        if readers.len() < IDLE_READERS_MAX {
            readers.push(connection);
        }
        result
    }

    /// Makes a change, durable when this returns; an error undoes all of it, and only it.
    ///
    /// Changes that wait while others are being committed share the next commit: one sync serves all of them.
    pub(super) fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, result) = sync_channel(1);
        let job: Job = Box::new(move |connection| {
            let outcome = in_savepoint(connection, change);
            Box::new(move |commit| {
                // A caller that is gone does not want it.
                let _ = sender.send(match commit {
                    Ok(()) => outcome,
                    Err(fault) => Err(fault.copy()),
                });
            })
        });
        let abandoned = || CatalogueError::Database("the change was abandoned".into());
        let queue = self.queue.as_ref().ok_or_else(abandoned)?;
        queue.send(job).map_err(|_| abandoned())?;
        // Without a result, the change panicked.
        result.recv().unwrap_or_else(|_| Err(abandoned()))
    }

    fn open_reader(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(&self.path, flags)?;
        reader.busy_timeout(BUSY_TIMEOUT)?;
        reader.execute_batch("PRAGMA query_only = 1; PRAGMA cache_size = -4096;")?;
        reader.set_prepared_statement_cache_capacity(64);
        Ok(reader)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            // So that whoever opens the file next finds it closed.
            let _ = writer.join();
        }
    }
}

/// Commits what is waiting, group by group, until nobody can send any more.
fn write_groups(connection: &Connection, jobs: &Receiver<Job>, mut on_commit: impl FnMut()) {
    while let Ok(first) = jobs.recv() {
        let group = std::iter::once(first).chain(jobs.try_iter()).take(GROUP_MAX);
        let mut deliveries = Vec::new();
        let outcome = commit(connection, group, &mut deliveries);
        on_commit();
        for deliver in deliveries {
            match &outcome {
                Ok(()) => deliver(Ok(())),
                Err(fault) => deliver(Err(fault)),
            }
        }
    }
}

fn commit(connection: &Connection, group: impl Iterator<Item = Job>, deliveries: &mut Vec<Deliver>) -> Result<()> {
    let run = || -> Result<()> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for job in group {
            match catch_unwind(AssertUnwindSafe(|| job(connection))) {
                Ok(deliver) => deliveries.push(deliver),
                // It may have left half of itself behind: nothing of this group is kept.
                Err(_) => return Err(CatalogueError::Database("another change failed badly".into())),
            }
            if connection.is_autocommit() {
                // A full disk makes SQLite roll back everything at once.
                return Err(CatalogueError::Full);
            }
        }
        connection.execute_batch("COMMIT")?;
        Ok(())
    };
    let outcome = run();
    if outcome.is_err() && !connection.is_autocommit() {
        // If this fails as well, so will the next `BEGIN`, and its callers hear of it.
        let _ = connection.execute_batch("ROLLBACK");
    }
    outcome
}

fn in_savepoint<T>(connection: &Connection, change: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    connection.execute_batch("SAVEPOINT change")?;
    let outcome = change(connection);
    if outcome.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK TO change")?;
    }
    if !connection.is_autocommit() {
        connection.execute_batch("RELEASE change")?;
    }
    outcome
}

/// What is behind these locks is put right by whoever takes them next, so a panic does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<rusqlite::Error> for CatalogueError {
    fn from(fault: rusqlite::Error) -> Self {
        match fault.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(fault.to_string()),
            _ => Self::Database(fault.to_string()),
        }
    }
}

impl CatalogueError {
    fn copy(&self) -> Self {
        match self {
            Self::Full => Self::Full,
            Self::Newer(format) => Self::Newer(*format),
            Self::Damaged(text) => Self::Damaged(text.clone()),
            Self::Database(text) => Self::Database(text.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_change_that_fails_undoes_only_itself_although_it_shares_a_commit() {
        let dir = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(&dir.path().join("db")).unwrap());
        database
            .write(|c| Ok(c.execute_batch("CREATE TABLE t(n INTEGER PRIMARY KEY)")?))
            .unwrap();
        let threads: Vec<_> = (0..32)
            .map(|n| {
                let database = database.clone();
                std::thread::spawn(move || {
                    database.write(move |c| {
                        c.execute("INSERT INTO t VALUES (?)", [n])?;
                        if n % 2 == 0 {
                            return Err(CatalogueError::Damaged("even".into()));
                        }
                        Ok(n)
                    })
                })
            })
            .collect();
        for (n, thread) in threads.into_iter().enumerate() {
            assert_eq!(thread.join().unwrap().is_ok(), n % 2 == 1);
        }
        let count = database
            .read(|c| Ok(c.query_row("SELECT COUNT(*) FROM t", [], |row| row.get::<_, u32>(0))?))
            .unwrap();
        assert_eq!(count, 16);
    }

    #[test]
    fn changes_that_wait_share_a_commit() {
        let connection = Connection::open_in_memory().unwrap();
        let (queue, jobs) = sync_channel(GROUP_MAX);
        let (sender, results) = sync_channel(8);
        for _ in 0..8 {
            let sender = sender.clone();
            let job: Job = Box::new(move |_| Box::new(move |commit| sender.send(commit.is_ok()).unwrap()));
            queue.send(job).unwrap();
        }
        drop((queue, sender));
        let mut commits = 0;
        write_groups(&connection, &jobs, || commits += 1);
        assert_eq!(commits, 1);
        assert_eq!(results.iter().collect::<Vec<_>>(), [true; 8]);
    }

    #[test]
    fn after_a_panic_in_a_change_the_next_one_works() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("db")).unwrap();
        let half = database.write(|c| -> Result<()> {
            c.execute_batch("CREATE TABLE half(n)")?;
            panic!("on purpose")
        });
        assert!(half.is_err());
        database
            .write(|c| Ok(c.execute_batch("CREATE TABLE half(n)")?))
            .unwrap();
    }
}
