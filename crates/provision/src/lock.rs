//! One executing process a directory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// `running` holds the lock for an instant; an executing process that starts just then tries again for so long.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Held as long as the executing process lives; the kernel gives it back however that ends.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Creates `dir` (0700) if it is not there. `None`: another process has it.
    pub(crate) fn take(dir: &Path) -> io::Result<Option<Self>> {
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        let file = open(dir)?;
        let start = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Self { _file: file })),
                Err(Errno::WOULDBLOCK) if start.elapsed() > LOCK_WAIT_MAX => return Ok(None),
                Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_RETRY),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether an executing process works in `dir`, such as one from before the agent was restarted.
pub fn running(dir: &Path) -> bool {
    let Ok(file) = File::open(path(dir)) else { return false };
    matches!(
        flock(&file, FlockOperation::NonBlockingLockShared),
        Err(Errno::WOULDBLOCK)
    )
}

fn open(dir: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path(dir))
}

fn path(dir: &Path) -> PathBuf {
    dir.join("lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_executing_process() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("execute");
        assert!(!running(&dir));
        let lock = Lock::take(&dir).unwrap().unwrap();
        assert!(running(&dir));
        assert!(Lock::take(&dir).unwrap().is_none());
        drop(lock);
        assert!(!running(&dir));
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
