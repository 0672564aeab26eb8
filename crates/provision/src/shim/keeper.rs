//! The shim itself: a small process that stays with one command until its end, whatever becomes of who started it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};

use super::order::{End, Order, SHIM_FORMAT, Started, Status, name};
use super::output::Output;
use crate::command::{self, CommandError, Event, Reach};
use crate::fail;
use crate::file;
use crate::limits;
use crate::proc::{Stat, boot_id, descendants};
use crate::scope::{self, Scope};
use crate::state::Process;
use crate::strays;

/// What is kept free for `status.json`, so that a disk that was filled meanwhile does not keep the end from being noted.
const STATUS_BYTES_MAX: u64 = 16 << 10;
/// How often to try to note the end, and how long to wait in between.
const NOTE_TRIES: u32 = 30;
const NOTE_AGAIN: Duration = Duration::from_secs(1);

/// The shim's `main`: takes an order over stdin, runs it, and leaves in `dir` how it ended. Its stdout is the lock that says
/// that it lives.
pub fn shim_main(dir: &Path) -> ExitCode {
    // A session of its own, so that nothing that ends others' ends it. Fails if it is one already.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    strays::close();
    // What the command leaves without a parent comes to this process, and is found.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    match keep(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody else hears it; if that fails, nobody does.
            let _ = writeln!(io::stderr(), "cannot stay with a step in {}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn keep(dir: &Path) -> io::Result<()> {
    fail::of_shim(dir);
    let order = Order::read(&mut io::stdin().lock())?;
    fail::here("keeper.ordered");
    let own = std::process::id();
    let noted = Noted::reserve(dir)?;
    // What systemd manages it limits itself; grouping needs nobody's leave.
    let by_systemd = order.systemd && order.limits.is_some();
    let scope = Scope::create(own, order.limits.as_ref().filter(|_| !by_systemd));
    let unit = by_systemd.then(|| scope::unit(own));
    let made = scope.as_ref().map(|scope| scope.path().to_owned());
    let started = Started {
        format: SHIM_FORMAT,
        process: describe(own as i32).ok_or_else(|| io::Error::other("/proc does not show this process"))?,
        scopes: made
            .into_iter()
            .chain(unit.as_deref().and_then(scope::usual_place))
            .collect(),
    };
    file::replace(&dir.join(name::STARTED), &serde_json::to_vec(&started)?)?;
    fail::here("keeper.begin");
    let mut output = Output::create(&dir.join(name::OUTPUT))?;
    let mut command = order.command();
    if let Some(limits) = &order.limits
        && (by_systemd || !scope.as_ref().is_some_and(Scope::is_limiting))
    {
        let (limited, unkept) = limits::apply(command, limits, unit.as_deref());
        command = limited;
        if let Some(unkept) = unkept {
            output.add(unkept.to_owned());
        }
    }
    let all = Everything { own: own as i32, scope };
    let result = command::run_in(&all, command, order.timeout(), &mut |event| {
        if let Event::Line(line) = event {
            output.add(line);
        }
        Ok(())
    });
    let end = match result {
        Ok(ended) => End::Ended {
            exit: ended.exit,
            last_line: ended.last_line,
        },
        Err(CommandError::Start(error)) => End::NotStarted {
            code: error.raw_os_error(),
            why: error.to_string(),
        },
        Err(error) => End::Lost { why: error.to_string() },
    };
    fail::here("keeper.end");
    // The end is noted last: who sees it sees all of the output.
    output.close();
    if let Some(scope) = &all.scope {
        scope::remove(scope.path());
    }
    noted.note(&Status {
        format: SHIM_FORMAT,
        end,
    })
}

/// How this process is found when it is gone.
fn describe(own: i32) -> Option<Process> {
    let stat = Stat::of(own)?;
    Some(Process {
        group: None,
        session: stat.session,
        started: stat.started,
        boot: boot_id()?,
    })
}

/// Room for how it ended.
struct Noted {
    file: File,
    temp: PathBuf,
    path: PathBuf,
}

impl Noted {
    fn reserve(dir: &Path) -> io::Result<Self> {
        let path = dir.join(name::STATUS);
        let temp = path.with_extension("new");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temp)?;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, STATUS_BYTES_MAX) {
            // Where the file system cannot, it is taken when it is needed.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self { file, temp, path })
    }

    /// Old or new, and lasting.
    fn note(&self, status: &Status) -> io::Result<()> {
        let bytes = serde_json::to_vec(status)?;
        let write = || {
            self.file.write_all_at(&bytes, 0)?;
            self.file.set_len(bytes.len() as u64)?;
            fail::io("keeper.sync")?;
            self.file.sync_all()?;
            fail::io("keeper.rename")?;
            fs::rename(&self.temp, &self.path)?;
            fail::here("keeper.noted");
            self.path.parent().map_or(Ok(()), file::sync_dir)
        };
        let mut tries = 1;
        loop {
            match write() {
                Err(_) if tries < NOTE_TRIES => {
                    tries += 1;
                    std::thread::sleep(NOTE_AGAIN);
                }
                result => return result,
            }
        }
    }
}

/// All that the command started, in whatever group or session: what is below this process, and what is in its scope.
struct Everything {
    own: i32,
    scope: Option<Scope>,
}

impl Everything {
    /// The scope that was made, and the one that systemd made.
    fn scopes(&self, leader: Pid) -> Vec<PathBuf> {
        let made = self.scope.as_ref().map(|scope| scope.path().to_owned());
        let systemds = scope::of_systemd(leader, self.own as u32);
        made.into_iter().chain(systemds).collect()
    }

    /// All but this process.
    fn running(&self, leader: Pid) -> BTreeSet<i32> {
        let below = descendants(self.own).unwrap_or_default();
        let mut all: BTreeSet<i32> = self
            .scopes(leader)
            .iter()
            .flat_map(|path| scope::members(path))
            .collect();
        all.extend(
            below
                .iter()
                .filter(|(_, stat)| !stat.is_over())
                .map(|(number, _)| *number),
        );
        all.remove(&self.own);
        all
    }
}

impl Reach for Everything {
    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let Some(scope) = &self.scope else {
            return command::spawn(command);
        };
        let inside = scope.enter().is_ok();
        let child = command::spawn(command);
        if inside {
            // If that fails, this process is passed over when the others are ended.
            let _ = scope.leave();
        }
        child
    }

    fn signal(&self, leader: Pid, signal: Signal) {
        let others = self.running(leader);
        let _ = rustix::process::kill_process_group(leader, signal);
        for number in others {
            let in_group = Stat::of(number).is_none_or(|stat| stat.group == leader.as_raw_pid());
            if let Some(process) = Pid::from_raw(number).filter(|_| !in_group) {
                let _ = rustix::process::kill_process(process, signal);
            }
        }
    }

    fn is_busy(&self, leader: Pid) -> bool {
        !self.running(leader).is_empty()
    }

    /// Reaps what came to this process.
    fn tend(&self, leader: Pid) {
        for (number, stat) in descendants(self.own).unwrap_or_default() {
            let Some(process) = Pid::from_raw(number) else { continue };
            if stat.parent == self.own && stat.is_over() && process != leader {
                let _ = rustix::process::waitpid(Some(process), WaitOptions::NOHANG);
            }
        }
    }
}
