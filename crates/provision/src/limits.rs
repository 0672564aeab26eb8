//! Limits of a step's command where it has no control group that keeps them: a scope of systemd's where that runs, else what a
//! shell can set (setrlimit(2)).

use std::ffi::OsStr;
use std::process::Command;

use potluck_model::list::Limits;

/// What `command` becomes under limits, and what of them cannot be kept here. `unit`: what systemd is to call its scope.
pub(crate) fn apply(command: Command, limits: &Limits, unit: Option<&str>) -> (Command, Option<&'static str>) {
    if let Some(unit) = unit {
        let mut args = vec!["--scope".to_owned(), "--collect".to_owned(), "--quiet".to_owned()];
        args.push(format!("--unit={unit}"));
        if let Some(bytes) = limits.memory_bytes {
            args.push(format!("--property=MemoryMax={bytes}"));
            args.push("--property=MemorySwapMax=0".to_owned());
        }
        if let Some(percent) = limits.cpu_percent {
            args.push(format!("--property=CPUQuota={percent}%"));
        }
        args.push("--".to_owned());
        return (wrap("systemd-run", &args, &command), None);
    }
    let unkept = limits
        .cpu_percent
        .map(|_| "(the limit of processor time is not kept: it takes systemd, or a control group (cgroups v2) that may be used)");
    match limits.memory_bytes {
        None => (command, unkept),
        Some(bytes) => {
            let kib = bytes.div_ceil(1 << 10);
            let script = format!("ulimit -v {kib} && exec \"$@\"");
            (
                wrap("sh", &["-c".to_owned(), script, "sh".to_owned()], &command),
                unkept,
            )
        }
    }
}

/// `program ARGS… COMMAND…`, with the command's environment and directory.
pub(crate) fn wrap<S: AsRef<OsStr>>(program: &str, args: &[S], command: &Command) -> Command {
    let mut wrapped = Command::new(program);
    wrapped.args(args).arg(command.get_program()).args(command.get_args());
    // What was cleared is not seen from outside; each command of a step has a whole environment of its own.
    wrapped.env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(name, value);
        }
    }
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &Command) -> Vec<String> {
        std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    fn both() -> Limits {
        Limits {
            memory_bytes: Some(64 << 20),
            cpu_percent: Some(50),
        }
    }

    #[test]
    fn where_systemd_runs_a_scope_keeps_the_limits() {
        let mut command = Command::new("./tune.sh");
        command.arg("--now").env_clear().env("A", "1").current_dir("/tmp");
        let (command, unkept) = apply(command, &both(), Some("step.scope"));
        assert_eq!(
            words(&command),
            [
                "systemd-run",
                "--scope",
                "--collect",
                "--quiet",
                "--unit=step.scope",
                "--property=MemoryMax=67108864",
                "--property=MemorySwapMax=0",
                "--property=CPUQuota=50%",
                "--",
                "./tune.sh",
                "--now"
            ]
        );
        assert_eq!(unkept, None);
        assert_eq!(command.get_current_dir(), Some(std::path::Path::new("/tmp")));
        assert_eq!(command.get_envs().count(), 1);
    }

    #[test]
    fn elsewhere_memory_is_limited_and_what_is_not_kept_is_said() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -v"])
            .env_clear()
            .env("PATH", "/usr/bin:/bin");
        let (mut command, unkept) = apply(command, &both(), None);
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "65536");
        assert!(unkept.unwrap().contains("not kept"));
    }
}
