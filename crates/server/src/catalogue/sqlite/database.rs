//! The connections to one SQLite database: many readers, and one writer that commits for many callers at once.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::catalogue::{CatalogueError, Result};

/// Readers that are kept open while nobody uses them.
const IDLE_READERS_MAX: usize = 8;
/// Changes that one commit makes durable at the most.
const GROUP_MAX: usize = 256;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a change on the writer, and returns what delivers its result once the group is committed or not.
type Job = Box<dyn FnOnce(&Connection) -> Deliver + Send>;
type Deliver = Box<dyn FnOnce(std::result::Result<(), &CatalogueError>) + Send>;

/// One SQLite database in WAL mode.
pub(super) struct Database {
    path: PathBuf,
    readers: Mutex<Vec<Connection>>,
    writer: Mutex<Connection>,
    queue: Mutex<VecDeque<Job>>,
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
        Ok(Self {
            path: path.to_owned(),
            readers: Mutex::default(),
            writer: Mutex::new(writer),
            queue: Mutex::default(),
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
    /// Changes that wait while another is being committed share the next commit: one sync serves all of them.
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
        lock(&self.queue).push_back(job);
        let connection = lock(&self.writer);
        loop {
            if let Some(outcome) = received(&result) {
                return outcome;
            }
            self.commit_group(&connection);
        }
    }

    fn commit_group(&self, connection: &Connection) {
        let group: Vec<Job> = {
            let mut queue = lock(&self.queue);
            let count = queue.len().min(GROUP_MAX);
            queue.drain(..count).collect()
        };
        let mut deliveries = Vec::with_capacity(group.len());
        let run = || -> Result<()> {
            if !connection.is_autocommit() {
                // A panic left a transaction behind; nobody was told that it succeeded.
                connection.execute_batch("ROLLBACK")?;
            }
            connection.execute_batch("BEGIN IMMEDIATE")?;
            for job in group {
                deliveries.push(job(connection));
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
            // If this fails as well, the next group tries again.
            let _ = connection.execute_batch("ROLLBACK");
        }
        for deliver in deliveries {
            deliver(match &outcome {
                Ok(()) => Ok(()),
                Err(fault) => Err(fault),
            });
        }
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

fn received<T>(result: &Receiver<Result<T>>) -> Option<Result<T>> {
    match result.try_recv() {
        Ok(outcome) => Some(outcome),
        Err(TryRecvError::Empty) => None,
        // The group that held it did not come to its end.
        Err(TryRecvError::Disconnected) => Some(Err(CatalogueError::Database("the change was abandoned".into()))),
    }
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
        let dir = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(&dir.path().join("db")).unwrap());
        let held = lock(&database.writer);
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let database = database.clone();
                std::thread::spawn(move || database.write(|c| Ok(c.total_changes())))
            })
            .collect();
        while lock(&database.queue).len() < 8 {
            std::thread::yield_now();
        }
        database.commit_group(&held);
        assert_eq!(lock(&database.queue).len(), 0, "one group took all of them");
        drop(held);
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
    }

    #[test]
    fn after_a_panic_in_a_change_the_next_one_works() {
        let dir = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(&dir.path().join("db")).unwrap());
        let other = database.clone();
        let panicked = std::thread::spawn(move || {
            other.write(|c| -> Result<()> {
                c.execute_batch("CREATE TABLE half(n)")?;
                panic!("on purpose")
            })
        });
        assert!(panicked.join().is_err());
        database
            .write(|c| Ok(c.execute_batch("CREATE TABLE half(n)")?))
            .unwrap();
    }
}
