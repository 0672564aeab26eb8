//! A guard that is asked for a plan: its view of the file system is read-only, it has no network, sees no other process, and has
//! no privileges. With the tools of util-linux, and user namespaces of the kernel; where those are not to be had, nobody is asked.

use std::process::{Command, Stdio};

use crate::limits;

/// How the sandbox says that it could not be made, as an exit code.
pub(crate) const NOT_MADE: i32 = 125;
/// Who a guard is if who asks is root: nobody, on every Linux.
const NOBODY: [&str; 5] = [
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--no-new-privs",
    "--",
];
const UNSHARE: [&str; 9] = [
    "--user",
    "--map-root-user",
    "--mount",
    "--net",
    "--ipc",
    "--uts",
    "--pid",
    "--fork",
    "--kill-child",
];
/// Every file system becomes read-only, and then all that could change that is given up.
const SCRIPT: &str = r#"
mount -t proc proc /proc 2>/dev/null
while read -r _ _ _ _ place _; do
  mount -o remount,bind,ro "$place" 2>/dev/null || exit 125
done < /proc/self/mountinfo
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
"#;

/// The command, in a sandbox.
pub(crate) fn wrap(command: &Command) -> Command {
    let mut args: Vec<&str> = UNSHARE.to_vec();
    args.extend(["--", "sh", "-c", SCRIPT, "sh"]);
    let inside = limits::wrap("unshare", &args, command);
    if rustix::process::geteuid().is_root() {
        limits::wrap("setpriv", &NOBODY, &inside)
    } else {
        inside
    }
}

/// Whether sandboxes can be made here. `search`: the `PATH` of the tools.
pub(crate) fn works(search: &std::ffi::OsStr) -> bool {
    let mut question = Command::new("true");
    question.env_clear().env("PATH", search).current_dir("/");
    wrap(&question)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEARCH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

    #[test]
    fn nothing_can_be_written_and_nobody_reached_from_inside() {
        if !works(SEARCH.as_ref()) {
            // Where user namespaces are forbidden, plans say so: see `plan`.
            let refused = Command::new("unshare").args(["--user", "true"]).status();
            assert!(
                !refused.is_ok_and(|status| status.success()),
                "unshare works, and sandboxes do not"
            );
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        for (script, good) in [
            ("true", true),
            ("echo x > /tmp/potluck-sandbox", false),
            ("mount -o remount,bind,rw /", false),
            (
                "test $(ls /sys/class/net 2>/dev/null | wc -l) -le 64 && ! grep -q ':' /proc/net/route",
                true,
            ),
            ("test $(ls -d /proc/[0-9]* | wc -l) -lt 6", true),
        ] {
            let mut command = Command::new("sh");
            command.args(["-c", script]).arg(&file).env_clear().env("PATH", SEARCH);
            let mut command = wrap(&command);
            let status = command.stderr(Stdio::null()).status().unwrap();
            assert_eq!(status.success(), good, "{script}: {status}");
        }
        assert!(!std::path::Path::new("/tmp/potluck-sandbox").exists());
    }
}
