//! Finds and ends what is left of a step whose executing process died: two of it must not run at a time. Linux (`/proc`).

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::state::Process;

/// How long killed processes may take to be gone.
const END_MAX: Duration = Duration::from_secs(10);

/// What is needed to find a process group that was just started by its first process.
pub(crate) fn describe(leader: Pid) -> Option<Process> {
    let number = leader.as_raw_pid();
    let stat = Stat::of(number)?;
    Some(Process {
        group: number,
        session: stat.session,
        started: stat.started,
        boot: boot_id()?,
    })
}

/// Kills all that is left of a group. True if there was anything.
pub(crate) fn end(process: &Process) -> io::Result<bool> {
    if boot_id().as_deref() != Some(&process.boot) {
        return Ok(false);
    }
    let Some(group) = Pid::from_raw(process.group) else {
        return Ok(false);
    };
    // The number belongs to somebody else by now.
    if Stat::of(process.group).is_some_and(|leader| leader.started != process.started) {
        return Ok(false);
    }
    if !any_left(process)? {
        return Ok(false);
    }
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    let start = Instant::now();
    while any_left(process)? {
        if start.elapsed() > END_MAX {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("process group {} does not end even when it is killed", process.group),
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}

fn any_left(process: &Process) -> io::Result<bool> {
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(stat) = Stat::of(number)
            && stat.group == process.group
            && stat.session == process.session
            && stat.started >= process.started
            && stat.state != 'Z'
            && stat.state != 'X'
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn boot_id() -> Option<String> {
    Some(
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()?
            .trim()
            .to_owned(),
    )
}

/// Some fields of `/proc/PID/stat`, see proc(5).
struct Stat {
    state: char,
    group: i32,
    session: i32,
    /// Clock ticks since boot.
    started: u64,
}

impl Stat {
    fn of(number: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{number}/stat")).ok()?)
    }

    /// The second field is a name in parentheses that may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            group: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = "12 (a) b) S 1 12 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.group, stat.session, stat.started), ('S', 12, 7, 4242));
    }

    #[test]
    fn only_the_same_group_of_the_same_boot_is_ended() {
        let mut child = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let process = describe(Pid::from_child(&child)).unwrap();
        let older = Process {
            started: process.started - 1,
            ..process.clone()
        };
        assert!(!end(&older).unwrap());
        let other = Process {
            boot: "another".into(),
            ..process.clone()
        };
        assert!(!end(&other).unwrap());
        assert!(child.try_wait().unwrap().is_none());
        assert!(end(&process).unwrap());
        child.wait().unwrap();
        assert!(!end(&process).unwrap());
    }
}
