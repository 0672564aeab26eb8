//! Fail points: named places at which tests let this program be killed, or its disk fail. Without the feature `fail-points`, which
//! no program that is shipped has, they are nothing.
//!
//! The file `fail-point` in the executing process's directory has a place and what happens there: `PLACE kill`, `PLACE enospc` or
//! `PLACE eio`. A place is `NAME#COUNT` in the executing process and `NAME@SHIM#COUNT` in shims. A disk that has failed goes on
//! failing in that process; for a shim it fails once. All places that are come by are noted in `fail-trace`.

#[cfg(feature = "fail-points")]
pub(crate) use compiled_in::{here, io, of_executing_process, of_shim, write};
#[cfg(not(feature = "fail-points"))]
pub(crate) use left_out::{here, io, of_executing_process, of_shim, write};

#[cfg(not(feature = "fail-points"))]
mod left_out {
    use std::fs::File;
    use std::io::{self, Write};
    use std::path::Path;

    /// Reads what is to happen in the executing process of `dir`.
    pub(crate) fn of_executing_process(_dir: &Path) {}

    /// Likewise in a shim.
    pub(crate) fn of_shim(_place: &Path) {}

    /// A place where this process may be killed.
    pub(crate) fn here(_name: &str) {}

    /// A place where the disk may fail, too.
    #[expect(clippy::unnecessary_wraps, reason = "with the feature it may fail")]
    pub(crate) fn io(_name: &str) -> io::Result<()> {
        Ok(())
    }

    /// Writes all of `bytes`; a fault leaves half of them written.
    pub(crate) fn write(_name: &str, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }
}

#[cfg(feature = "fail-points")]
mod compiled_in {
    use std::collections::BTreeMap;
    use std::fs::{self, File, OpenOptions};
    use std::io::{self, Write};
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, PoisonError};

    use rustix::io::Errno;
    use rustix::process::Signal;

    struct Plan {
        trace: PathBuf,
        /// `@SHIM`, or nothing.
        process: String,
        place: String,
        action: String,
        counts: BTreeMap<String, u32>,
        broken: Option<Errno>,
    }

    static PLAN: Mutex<Option<Plan>> = Mutex::new(None);

    enum Fault {
        Killed,
        Disk(Errno),
    }

    pub(crate) fn of_executing_process(dir: &Path) {
        begin(dir, String::new());
    }

    pub(crate) fn of_shim(place: &Path) {
        let number = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(dir) = place.parent().and_then(Path::parent) {
            begin(dir, format!("@{number}"));
        }
    }

    fn begin(dir: &Path, process: String) {
        let Ok(text) = fs::read_to_string(dir.join("fail-point")) else {
            return;
        };
        let (place, action) = text.trim().split_once(' ').unwrap_or_default();
        *PLAN.lock().unwrap_or_else(PoisonError::into_inner) = Some(Plan {
            trace: dir.join("fail-trace"),
            process,
            place: place.to_owned(),
            action: action.to_owned(),
            counts: BTreeMap::new(),
            broken: None,
        });
    }

    fn fault(name: &str, disk: bool) -> Option<Fault> {
        let mut plan = PLAN.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = plan.as_mut()?;
        let count = plan.counts.entry(name.to_owned()).or_default();
        *count += 1;
        let place = format!("{name}{}#{count}", plan.process);
        let kind = if disk { "disk" } else { "kill" };
        if let Ok(mut trace) = OpenOptions::new().append(true).create(true).open(&plan.trace) {
            let _ = trace.write_all(format!("{place} {kind}\n").as_bytes());
        }
        if place != plan.place {
            return plan.broken.filter(|_| disk).map(Fault::Disk);
        }
        let errno = match plan.action.as_str() {
            "kill" => return Some(Fault::Killed),
            "enospc" => Errno::NOSPC,
            _ => Errno::IO,
        };
        plan.broken = Some(errno).filter(|_| plan.process.is_empty());
        Some(Fault::Disk(errno))
    }

    fn die() -> ! {
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
        loop {
            std::thread::park();
        }
    }

    pub(crate) fn here(name: &str) {
        if let Some(Fault::Killed) = fault(name, false) {
            die();
        }
    }

    pub(crate) fn io(name: &str) -> io::Result<()> {
        match fault(name, true) {
            None => Ok(()),
            Some(Fault::Killed) => die(),
            Some(Fault::Disk(errno)) => Err(errno.into()),
        }
    }

    pub(crate) fn write(name: &str, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        let Some(fault) = fault(name, true) else {
            return file.write_all(bytes);
        };
        file.write_all(&bytes[..bytes.len() / 2])?;
        match fault {
            Fault::Killed => die(),
            Fault::Disk(errno) => Err(errno.into()),
        }
    }
}
