//! Finds and ends what is left of a step whose executing process died: two of it must not run at a time. Linux (`/proc`).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::proc::{Stat, boot_id, each_running};
use crate::state::Process;

/// How long killed processes may take to be gone.
const END_MAX: Duration = Duration::from_secs(10);

/// Clock ticks in a second, as `/proc` counts them: the same on every Linux.
const TICKS: f64 = 100.0;
/// What every process of a step has in its environment, unless it took pains.
const MARK: &[u8] = b"POTLUCK_NODE=";

/// What is needed to find a process group that is about to be started. `None`: this process has no session of its own, so that
/// others' process groups could be taken for it.
pub(crate) fn about_to_start() -> Option<Process> {
    let own = rustix::process::getpid().as_raw_pid();
    // Not from getsid(2): it says 0 where the session was made outside the PID namespace, which is no process id.
    let session = Stat::of(own)?.session;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    (own == session).then_some(Process {
        group: None,
        session,
        started: (seconds * TICKS) as u64,
        boot: boot_id()?,
    })
}

/// What is needed to find a process group that was just started by its first process.
pub(crate) fn describe(leader: Pid) -> Option<Process> {
    let number = leader.as_raw_pid();
    let stat = Stat::of(number)?;
    Some(Process {
        group: Some(number),
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
    let groups = match process.group {
        // The number belongs to somebody else by now.
        Some(group) if Stat::of(group).is_some_and(|leader| leader.started != process.started) => vec![],
        Some(group) => vec![group],
        None => started_since(process)?,
    };
    let mut any = false;
    for group in groups {
        any |= end_group(process, group)?;
    }
    Ok(any)
}

/// Groups of the session whose first process was started since, and is one of a step.
fn started_since(process: &Process) -> io::Result<Vec<i32>> {
    let mut groups = Vec::new();
    each_running(|number, stat| {
        let ours = stat.group == number && stat.session == process.session && stat.started >= process.started;
        let marked = || {
            fs::read(format!("/proc/{number}/environ")).is_ok_and(|environ| {
                environ
                    .split(|byte| *byte == 0)
                    .any(|variable| variable.starts_with(MARK))
            })
        };
        if ours && marked() {
            groups.push(number);
        }
    })?;
    Ok(groups)
}

/// Kills all that is left of a session whose first process is gone. True if there was anything.
pub(crate) fn end_session(process: &Process) -> io::Result<bool> {
    let same_boot = boot_id().as_deref() == Some(&process.boot);
    // Else the number belongs to somebody else by now.
    let own = Stat::of(process.session).is_none_or(|leader| leader.started == process.started);
    if !same_boot || !own {
        return Ok(false);
    }
    let mut groups = BTreeSet::new();
    each_running(|_, stat| {
        if stat.session == process.session && stat.started >= process.started {
            groups.insert(stat.group);
        }
    })?;
    for group in &groups {
        end_group(process, *group)?;
    }
    Ok(!groups.is_empty())
}

fn end_group(process: &Process, group: i32) -> io::Result<bool> {
    let any_left = || {
        let mut any = false;
        each_running(|_, stat| {
            any |= stat.group == group && stat.session == process.session && stat.started >= process.started;
        })
        .map(|()| any)
    };
    let Some(number) = Pid::from_raw(group) else {
        return Ok(false);
    };
    if !any_left()? {
        return Ok(false);
    }
    let _ = rustix::process::kill_process_group(number, Signal::KILL);
    let start = Instant::now();
    while any_left()? {
        if start.elapsed() > END_MAX {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("process group {group} does not end even when it is killed"),
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

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
