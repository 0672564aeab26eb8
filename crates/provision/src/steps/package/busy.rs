//! dpkg's locks: a package manager that somebody else uses is waited for.
//!
//! rpm waits by itself.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use potluck_model::list::Step;
use rustix::process::{Flock, FlockType, Pid, fcntl_getlk};

use crate::engine::{Engine, Fault, failed};

/// What apt and dpkg lock, one after the other.
pub(super) const LOCKS: [&str; 2] = ["/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock"];
/// How often to look whether it is free.
const LOOK: Duration = Duration::from_millis(500);

/// Who uses the package manager.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Holder {
    process: i32,
    program: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process {})", self.program, self.process)
    }
}

/// Who holds one of these locks; nobody, if they cannot be looked at.
pub(super) fn holder(locks: &[&Path]) -> Option<Holder> {
    locks.iter().find_map(|path| {
        let process = locked_by(path).ok().flatten()?;
        let program = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        let program = match program.trim() {
            "" => "a program that is not seen from here",
            program => program,
        };
        Some(Holder {
            process,
            program: program.to_owned(),
        })
    })
}

fn locked_by(path: &Path) -> io::Result<Option<i32>> {
    let file = File::open(path)?;
    let found = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock))?;
    Ok(found.map(|lock| lock.pid.map_or(0, Pid::as_raw_pid)))
}

/// Waits within the step's time until nobody uses it, and says who does.
pub(super) fn wait(engine: &mut Engine<'_>, step: &Step) -> Result<(), Fault> {
    let locks = LOCKS.map(Path::new);
    let mut told = None;
    while let Some(holder) = holder(&locks) {
        if engine.time_left().is_zero() {
            return Err(failed(format!(
                "the package manager is busy: {holder} has held dpkg's lock for the whole time of the step ({} s)",
                step.timeout_seconds
            )));
        }
        if engine.halted() {
            return Err(failed(format!(
                "the package manager is busy: {holder} holds dpkg's lock, and the fleet is halted"
            )));
        }
        if told.as_ref() != Some(&holder) {
            engine.say(&step.id, format!("(waiting: {holder} holds dpkg's lock)"))?;
            told = Some(holder);
        }
        std::thread::sleep(LOOK.min(engine.time_left()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use rustix::fs::FlockOperation;

    use super::*;

    /// The variable that makes a test somebody who holds a lock.
    const LOCK: &str = "POTLUCK_TEST_LOCK";

    /// Not a rule, but what the other test starts.
    #[test]
    fn holds_a_lock_if_it_is_told_which() {
        if let Some(path) = std::env::var_os(LOCK) {
            let file = File::options().write(true).open(path).unwrap();
            rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
            eprintln!("locked");
            // Until its standard input ends.
            let _ = io::stdin().read_line(&mut String::new());
        }
    }

    #[test]
    fn who_holds_a_lock_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(holder(&[&path]), None, "nobody, where there is no dpkg");
        fs::write(&path, "").unwrap();
        assert_eq!(holder(&[&path]), None);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "steps::package::busy::tests::holds_a_lock_if_it_is_told_which",
                "--nocapture",
            ])
            .env(LOCK, &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "locked");
        let found = holder(&[&path]).unwrap();
        assert_eq!(found.process, child.id() as i32);
        assert!(found.to_string().contains("potluck"), "{found}");
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(holder(&[&path]), None);
    }
}
