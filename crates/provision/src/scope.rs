//! A control group (cgroups v2) of a step's command: all that the command starts is in it, daemons too, and can be limited and
//! ended together. Made directly below the group of this process, or beside it; needs root, or a group that was delegated.
//!
//! Limits: where no cgroup v2 file system is mounted, or this process may not make groups, there is no scope. Where the
//! controllers of memory and processor time cannot be had, a scope groups but does not limit.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use potluck_model::list::Limits;
use rustix::process::{Pid, Signal};

/// What the names of all scopes begin with.
const NAME: &str = "potluck-step-";
/// How long killed processes may take to be gone.
const END_MAX: Duration = Duration::from_secs(10);
/// One period of the processor's time, in microseconds, in which a share of it may be used.
const PERIOD_MICROS: u64 = 100_000;

/// A control group that was made for one command.
pub(crate) struct Scope {
    path: PathBuf,
    /// The group that this process is in otherwise.
    home: PathBuf,
    /// The limits that were asked for hold in it.
    limiting: bool,
}

impl Scope {
    /// A new scope; `None` if there cannot be one here. `id` is this process's own.
    pub(crate) fn create(id: u32, limits: Option<&Limits>) -> Option<Self> {
        let home = own_group()?;
        let name = format!("{NAME}{id}");
        if let Some(limits) = limits {
            let beside = home.parent().map(Path::to_owned);
            for parent in [Some(home.clone()), beside].into_iter().flatten() {
                let path = parent.join(&name);
                if is_group(&parent) && make(&path).is_ok() {
                    if limit(&parent, &path, limits).is_ok() {
                        return Some(Self {
                            path,
                            home,
                            limiting: true,
                        });
                    }
                    let _ = fs::remove_dir(&path);
                }
            }
        }
        let path = home.join(name);
        make(&path).ok()?;
        Some(Self {
            path,
            home,
            limiting: limits.is_none(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the limits that were asked for hold in it.
    pub(crate) fn is_limiting(&self) -> bool {
        self.limiting
    }

    /// Puts this process into the scope; what it starts from then on is in it.
    pub(crate) fn enter(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), "0")
    }

    /// Takes this process out again.
    pub(crate) fn leave(&self) -> io::Result<()> {
        fs::write(self.home.join("cgroup.procs"), "0")
    }
}

/// What systemd is to call the scope of a command with limits.
pub(crate) fn unit(id: u32) -> String {
    format!("{NAME}{id}.scope")
}

/// Where systemd makes the scope of a service of the machine.
pub(crate) fn usual_place(unit: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    Some(group_dir(&mounts, "0::/system.slice")?.join(unit))
}

/// The scope that systemd made for a process, which an `id` asked for.
pub(crate) fn of_systemd(process: Pid, id: u32) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", process.as_raw_pid())).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    group_dir(&mounts, &groups).filter(|path| path.file_name() == Some(OsStr::new(&unit(id))))
}

/// The processes in a scope.
pub(crate) fn members(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Kills all that is in a scope whose maker is gone, and removes it. True if there was anything.
pub(crate) fn end(path: &Path) -> io::Result<bool> {
    let named = path
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(NAME));
    if !named || !is_group(path) {
        return Ok(false);
    }
    let any = !members(path).is_empty();
    let start = Instant::now();
    loop {
        let left = members(path);
        if left.is_empty() {
            break;
        }
        // Since Linux 5.14, all at once.
        if fs::write(path.join("cgroup.kill"), "1").is_err() {
            for process in left.into_iter().filter_map(Pid::from_raw) {
                let _ = rustix::process::kill_process(process, Signal::KILL);
            }
        }
        if start.elapsed() > END_MAX {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "the processes in {} do not end even when they are killed",
                    path.display()
                ),
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    remove(path);
    Ok(any)
}

/// Removes a scope, unless something still runs in it, such as a daemon that a step has started.
pub(crate) fn remove(path: &Path) {
    let _ = fs::remove_dir(path);
}

/// Removes the scopes of earlier commands that nothing runs in any more.
pub(crate) fn remove_empty() {
    let Some(home) = own_group() else { return };
    for parent in [Some(home.as_path()), home.parent()].into_iter().flatten() {
        let Ok(entries) = fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(NAME)) {
                remove(&entry.path());
            }
        }
    }
}

/// Makes a group; one of the same name is of a process that is long gone, as numbers of processes come again.
fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_dir(path)?;
            fs::create_dir(path)
        }
        other => other,
    }
}

fn is_group(path: &Path) -> bool {
    path.join("cgroup.procs").exists()
}

fn limit(parent: &Path, path: &Path, limits: &Limits) -> io::Result<()> {
    let mut lines: Vec<(&str, String)> = Vec::new();
    let mut controllers = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        controllers.push("memory");
        lines.push(("memory.max", bytes.to_string()));
        // All of it or nothing, so that no half of a step goes on.
        lines.push(("memory.oom.group", "1".to_owned()));
        // Not there without swap.
        if path.join("memory.swap.max").exists() {
            lines.push(("memory.swap.max", "0".to_owned()));
        }
    }
    if let Some(percent) = limits.cpu_percent {
        controllers.push("cpu");
        let micros = u64::from(percent) * PERIOD_MICROS / 100;
        lines.push(("cpu.max", format!("{micros} {PERIOD_MICROS}")));
    }
    let had = fs::read_to_string(path.join("cgroup.controllers"))?;
    for controller in controllers {
        if !had.split_whitespace().any(|name| name == controller) {
            fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"))?;
        }
    }
    for (file, text) in lines {
        fs::write(path.join(file), text)?;
    }
    Ok(())
}

/// The directory of the group that this process is in.
fn own_group() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    group_dir(&mounts, &groups).filter(|path| is_group(path))
}

/// Likewise, from `mountinfo` and `cgroup` of proc(5).
fn group_dir(mounts: &str, groups: &str) -> Option<PathBuf> {
    let (root, point) = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        (after.split(' ').next() == Some("cgroup2")).then_some((fields.next()?, fields.next()?))
    })?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let below = Path::new(own).strip_prefix(root).ok()?;
    Some(Path::new(point).join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_below_its_mount() {
        let mounts = "\
            24 30 0:22 / /proc rw,nosuid - proc proc rw\n\
            31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let groups = "4:memory:/x\n0::/system.slice/potluck.service\n";
        assert_eq!(
            group_dir(mounts, groups).unwrap(),
            Path::new("/sys/fs/cgroup/unified/system.slice/potluck.service")
        );
        // As in a container that sees only its own part.
        let part = mounts.replace("0:26 /", "0:26 /docker/1");
        assert_eq!(
            group_dir(&part, "0::/docker/1/a\n").unwrap(),
            Path::new("/sys/fs/cgroup/unified/a")
        );
        assert_eq!(group_dir(&part, "0::/elsewhere\n"), None);
        assert_eq!(group_dir("", groups), None);
    }

    #[test]
    fn only_groups_of_steps_are_ended() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other.service");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("cgroup.procs"), format!("{}\n", std::process::id() + 1)).unwrap();
        assert!(!end(&other).unwrap());
        assert!(other.exists());
    }
}
