//! Runs one command: its own process group, its output line by line and bounded, a timeout for all that it started, as far as
//! its `Reach` goes.
//!
//! Limit: what stays behind in the background after the command itself ended in time is left running, but its output is not
//! read any more.

use std::io::{self, PipeReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use potluck_model::trace::LINE_BYTES_MAX;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

use crate::engine::{Fault, clip, failed};
use crate::journal::JournalError;
use crate::leftover;
use crate::state::Process;

/// Bytes of a command's output that are kept.
pub(crate) const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Lines of a command's output that are kept.
pub(crate) const OUTPUT_LINES_MAX: usize = 10_000;
/// From SIGTERM to SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(5);
/// How long output is awaited from processes that outlive the command and hold its pipe.
const DRAIN: Duration = Duration::from_secs(1);
/// How long a killed process may take to be gone.
const REAP_MAX: Duration = Duration::from_secs(10);
/// How often `Reach::tend` is called at least.
const TEND: Duration = Duration::from_secs(10);
/// How often to look where the kernel does not tell of a process's end.
const LOOK: Duration = Duration::from_millis(50);
/// A script that was just written may be held open for an instant by a child that another thread started.
const BUSY_RETRIES: usize = 50;

/// What happens while a command runs.
pub(crate) enum Event {
    Spawned(Process),
    Line(String),
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
    TimedOut,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("{0}")]
    Start(io::Error),
    #[error("{0}")]
    Wait(io::Error),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// How the processes of a command are started and found.
pub(crate) trait Reach {
    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        spawn(command)
    }

    /// Sends a signal to all that `leader` started, and to itself. It has not been reaped.
    fn signal(&self, leader: Pid, signal: Signal);

    /// Whether anything of it still runs, as far as that is known.
    fn is_busy(&self, leader: Pid) -> bool;

    /// Called now and then.
    fn tend(&self, _leader: Pid) {}
}

/// The process group. Who leaves it, such as a daemon, is not reached.
pub(crate) struct Group;

impl Reach for Group {
    fn signal(&self, leader: Pid, signal: Signal) {
        let _ = rustix::process::kill_process_group(leader, signal);
    }

    fn is_busy(&self, _leader: Pid) -> bool {
        false
    }
}

/// How a command ended, and the last line that was not empty.
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    pub(crate) last_line: String,
}

impl Ended {
    /// Nothing, if it ended with exit code 0; else that `what` did not.
    pub(crate) fn ok(&self, what: &str) -> Result<(), Fault> {
        let said = if self.last_line.is_empty() {
            String::new()
        } else {
            format!(": {}", clip(&self.last_line))
        };
        match self.exit {
            Exit::Code(0) => Ok(()),
            Exit::Code(code) => Err(failed(format!("{what} ended with exit code {code}{said}"))),
            Exit::Signal(signal) => Err(failed(format!("{what} was ended by {}{said}", signal_name(signal)))),
            Exit::TimedOut => Err(failed(format!(
                "{what} took longer than the step may, and was ended{said}"
            ))),
        }
    }
}

/// Runs a command that ends with this process, or is found by the next one and ended: a guard or a question.
pub(crate) fn run(
    command: Command,
    timeout: Duration,
    sink: &mut dyn FnMut(Event) -> Result<(), JournalError>,
) -> Result<Ended, CommandError> {
    run_in(&Group, command, timeout, sink)
}

pub(crate) fn run_in(
    reach: &dyn Reach,
    mut command: Command,
    timeout: Duration,
    sink: &mut dyn FnMut(Event) -> Result<(), JournalError>,
) -> Result<Ended, CommandError> {
    let (reader, writer) = io::pipe().map_err(CommandError::Start)?;
    rustix::io::ioctl_fionbio(&reader, true).map_err(|error| CommandError::Start(error.into()))?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(CommandError::Start)?)
        .stderr(writer)
        .process_group(0);
    // Noted before, too: between its start and the second note this process may be killed.
    if let Some(process) = leftover::about_to_start() {
        sink(Event::Spawned(process))?;
    }
    let child = reach.spawn(&mut command).map_err(CommandError::Start)?;
    // It holds the writing end of the pipe.
    drop(command);
    let mut running = Running::new(reach, child, reader, timeout);
    let result = running.until_end(sink);
    if result.is_err() {
        running.kill();
    }
    let exit = running.reap().map_err(CommandError::Wait)?;
    result?;
    running.lines.flush(sink)?;
    Ok(Ended {
        exit,
        last_line: running.lines.last,
    })
}

pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut tries = 0;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_RETRIES => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

struct Running<'a> {
    reach: &'a dyn Reach,
    child: Child,
    pid: Pid,
    pidfd: Option<rustix::fd::OwnedFd>,
    /// Gone when the last writer closed it.
    pipe: Option<PipeReader>,
    lines: Lines,
    deadline: Option<Instant>,
    tended_at: Instant,
    /// When SIGTERM was sent.
    ended_at: Option<Instant>,
    /// When it was seen to have ended; it is not reaped, so that its number stays its own.
    exited_at: Option<Instant>,
}

impl<'a> Running<'a> {
    fn new(reach: &'a dyn Reach, child: Child, pipe: PipeReader, timeout: Duration) -> Self {
        let pid = Pid::from_child(&child);
        Self {
            reach,
            pid,
            pidfd: rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok(),
            child,
            pipe: Some(pipe),
            lines: Lines::default(),
            deadline: Instant::now().checked_add(timeout),
            tended_at: Instant::now(),
            ended_at: None,
            exited_at: None,
        }
    }

    fn until_end(&mut self, sink: &mut dyn FnMut(Event) -> Result<(), JournalError>) -> Result<(), CommandError> {
        if let Some(process) = leftover::describe(self.pid) {
            sink(Event::Spawned(process))?;
        }
        loop {
            let now = Instant::now();
            if now.saturating_duration_since(self.tended_at) >= TEND {
                self.tended_at = now;
                self.reach.tend(self.pid);
            }
            let over = self.exited_at.is_some() && self.pipe.is_none();
            let wake = match (self.ended_at, self.exited_at) {
                (Some(since), _) => since.checked_add(TERM_GRACE),
                (None, Some(since)) => since.checked_add(DRAIN),
                (None, None) => self.deadline,
            };
            let due = wake.is_some_and(|wake| wake <= now);
            match self.ended_at {
                // What has left the group may hold no pipe, and still be ending.
                Some(_) if (over && !self.reach.is_busy(self.pid)) || due => {
                    self.kill();
                    return Ok(());
                }
                None if over || (due && self.exited_at.is_some()) => return Ok(()),
                None if due => {
                    self.ended_at = Some(now);
                    self.reach.signal(self.pid, Signal::TERM);
                    continue;
                }
                _ => {}
            }
            let wake = if over { Some(now + LOOK) } else { wake };
            self.wait(wake.map(|wake| wake.saturating_duration_since(now)))?;
            self.read(sink)?;
            self.look()?;
        }
    }

    /// Until there is output, or it ended, or the time is over.
    fn wait(&self, most: Option<Duration>) -> Result<(), CommandError> {
        let mut fds = Vec::with_capacity(2);
        if let Some(pipe) = &self.pipe {
            fds.push(PollFd::new(pipe, PollFlags::IN));
        }
        let mut most = most.unwrap_or(TEND).min(TEND);
        if self.exited_at.is_none() {
            match &self.pidfd {
                Some(pidfd) => fds.push(PollFd::new(pidfd, PollFlags::IN)),
                None => most = most.min(LOOK),
            }
        }
        let most = Timespec {
            tv_sec: most.as_secs() as i64,
            tv_nsec: i64::from(most.subsec_nanos()),
        };
        match poll(&mut fds, Some(&most)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(CommandError::Wait(error.into())),
        }
    }

    fn read(&mut self, sink: &mut dyn FnMut(Event) -> Result<(), JournalError>) -> Result<(), CommandError> {
        let mut buffer = [0; 16 << 10];
        // Not for ever: a flood must not keep the timeout from being seen.
        for _ in 0..16 {
            let Some(pipe) = &mut self.pipe else { return Ok(()) };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(read) => self.lines.feed(&buffer[..read], sink)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CommandError::Wait(error)),
            }
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), CommandError> {
        if self.exited_at.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            match rustix::process::waitid(WaitId::Pid(self.pid), options) {
                Ok(Some(_)) => self.exited_at = Some(Instant::now()),
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(CommandError::Wait(error.into())),
            }
        }
        Ok(())
    }

    fn kill(&self) {
        let start = Instant::now();
        loop {
            // Its number is still its own: it has not been reaped.
            self.reach.signal(self.pid, Signal::KILL);
            self.reach.tend(self.pid);
            if !self.reach.is_busy(self.pid) || start.elapsed() > REAP_MAX {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn reap(&mut self) -> io::Result<Exit> {
        let start = Instant::now();
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if start.elapsed() > REAP_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the process does not end even when it is killed: a disk or a network file system may hang",
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Ok(match (self.ended_at, status.code(), status.signal()) {
            (Some(_), _, _) => Exit::TimedOut,
            (None, Some(code), _) => Exit::Code(code),
            (None, None, signal) => Exit::Signal(signal.unwrap_or_default()),
        })
    }
}

/// Cuts output into lines, and stops passing them on at a limit.
#[derive(Default)]
struct Lines {
    /// As much of the line as is kept.
    line: Vec<u8>,
    passed_on: usize,
    bytes: usize,
    last: String,
}

impl Lines {
    fn feed(
        &mut self,
        mut bytes: &[u8],
        sink: &mut dyn FnMut(Event) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        if self.passed_on > OUTPUT_LINES_MAX {
            self.skim(bytes);
            return Ok(());
        }
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.add(&bytes[..end]);
            self.end(sink)?;
            bytes = &bytes[end + 1..];
        }
        self.add(bytes);
        Ok(())
    }

    /// Of what is not kept, only the last line that says something matters: a flood is read as fast as it comes.
    fn skim(&mut self, bytes: &[u8]) {
        let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
            return self.add(bytes);
        };
        let mut rest = &bytes[..end];
        loop {
            let start = rest.iter().rposition(|byte| *byte == b'\n');
            if start.is_none() {
                self.add(rest);
            }
            let line = start.map_or(self.line.as_slice(), |start| &rest[start + 1..]);
            if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                self.last = text_of(line);
                break;
            }
            match start {
                Some(start) => rest = &rest[..start],
                None => break,
            }
        }
        self.line.clear();
        self.add(&bytes[end + 1..]);
    }

    /// Passes on a last line without an end.
    fn flush(&mut self, sink: &mut dyn FnMut(Event) -> Result<(), JournalError>) -> Result<(), JournalError> {
        if self.line.is_empty() { Ok(()) } else { self.end(sink) }
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX - self.line.len();
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end(&mut self, sink: &mut dyn FnMut(Event) -> Result<(), JournalError>) -> Result<(), JournalError> {
        let text = text_of(&self.line);
        self.line.clear();
        if !text.trim().is_empty() {
            self.last.clone_from(&text);
        }
        if self.passed_on > OUTPUT_LINES_MAX {
            return Ok(());
        }
        self.passed_on += 1;
        self.bytes += text.len();
        if self.passed_on > OUTPUT_LINES_MAX || self.bytes > OUTPUT_BYTES_MAX {
            self.passed_on = OUTPUT_LINES_MAX + 1;
            return sink(Event::Line(format!(
                "(more output, which is not kept: the limit is {OUTPUT_LINES_MAX} lines and {OUTPUT_BYTES_MAX} bytes a step)"
            )));
        }
        sink(Event::Line(text))
    }
}

/// A line, as it is kept.
fn text_of(line: &[u8]) -> String {
    let line = &line[..line.len().min(LINE_BYTES_MAX)];
    let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
    let mut cut = text.len().min(LINE_BYTES_MAX);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    text[..cut].to_owned()
}

/// The name of a signal, for people.
pub(crate) fn signal_name(number: i32) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return format!("signal {number}"),
    };
    format!("{name} ({number})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout: Duration) -> (Ended, Vec<String>, Option<Process>) {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        let mut lines = Vec::new();
        let mut process = None;
        let ended = run(command, timeout, &mut |event| {
            match event {
                Event::Line(line) => lines.push(line),
                Event::Spawned(spawned) => process = Some(spawned),
            }
            Ok(())
        })
        .unwrap();
        (ended, lines, process)
    }

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn both_outputs_come_line_by_line_in_order() {
        let (ended, lines, _) = sh("echo one; echo two >&2; printf three", LONG);
        assert_eq!(ended.exit, Exit::Code(0));
        assert_eq!(lines, ["one", "two", "three"]);
        assert_eq!(ended.last_line, "three");
    }

    #[test]
    fn codes_and_signals_are_told_apart() {
        assert_eq!(sh("exit 7", LONG).0.exit, Exit::Code(7));
        assert_eq!(sh("kill -SEGV $$", LONG).0.exit, Exit::Signal(11));
        assert_eq!(signal_name(11), "SIGSEGV (11)");
    }

    #[test]
    fn a_timeout_ends_the_whole_group() {
        // The grandchild ignores SIGTERM, and says what it is.
        let script = "sh -c 'trap \"\" TERM; echo $$; while :; do sleep 100; done' & wait";
        let (ended, lines, process) = sh(script, Duration::from_millis(300));
        assert_eq!(ended.exit, Exit::TimedOut);
        let grandchild: i32 = lines[0].parse().unwrap();
        let process = process.unwrap();
        leftover::end(&process).unwrap();
        let gone =
            std::fs::read_to_string(format!("/proc/{grandchild}/stat")).map_or(true, |stat| stat.contains(") Z "));
        assert!(gone, "process {grandchild} still runs");
    }

    #[test]
    fn a_background_process_that_holds_the_pipe_does_not_hold_up_the_run() {
        let start = Instant::now();
        let (ended, lines, process) = sh("sleep 1000 & echo $!", LONG);
        assert_eq!(ended.exit, Exit::Code(0));
        assert_eq!(lines.len(), 1);
        assert!(start.elapsed() < Duration::from_secs(300));
        // It was left running, and is found by its group.
        assert!(leftover::end(&process.unwrap()).unwrap());
    }

    #[test]
    fn a_flood_is_cut_and_does_not_block() {
        let (ended, lines, _) = sh("yes | head -c 30000000; echo last", LONG);
        assert_eq!(ended.exit, Exit::Code(0));
        assert_eq!(lines.len(), OUTPUT_LINES_MAX + 1);
        assert!(lines.last().unwrap().contains("not kept"));
        assert_eq!(ended.last_line, "last");
        let (ended, _, _) = sh(
            "yes | head -c 3000000; printf 'the last\\n\\n  \\n'; sleep 0.1; echo",
            LONG,
        );
        assert_eq!(ended.last_line, "the last");
        let (_, lines, _) = sh("head -c 3000000 /dev/zero | tr '\\0' 'x'", LONG);
        assert_eq!(lines, ["x".repeat(LINE_BYTES_MAX)]);
    }

    #[test]
    fn bytes_that_are_not_text_are_replaced_within_the_limit() {
        let (_, lines, _) = sh(
            "head -c 3000 /dev/zero | tr '\\0' '\\377'; echo; printf 'a\\r\\nb\\n'",
            LONG,
        );
        assert!(lines[0].len() <= LINE_BYTES_MAX && lines[0].starts_with('\u{fffd}'));
        assert_eq!(lines[1..], ["a", "b"]);
    }

    #[test]
    fn a_command_that_closes_its_output_is_still_awaited() {
        let (ended, _, _) = sh("exec >&- 2>&-; sleep 0.2; exit 3", LONG);
        assert_eq!(ended.exit, Exit::Code(3));
    }

    #[test]
    fn what_does_not_start_says_so() {
        let result = run(Command::new("/nowhere/at/all"), LONG, &mut |_| Ok(()));
        assert!(matches!(result, Err(CommandError::Start(error)) if error.kind() == io::ErrorKind::NotFound));
    }
}
