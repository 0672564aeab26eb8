//! Descriptors that this process did not open: whoever started the agent may have left some open, and no step is to have them.

use std::fs;
use std::os::fd::RawFd;

/// Bit of `flags` in `/proc/PID/fdinfo/N` (proc(5)), octal.
const CLOSED_ON_EXEC: u32 = 0o2_000_000;

/// Closes all but the first three that would be handed on to other programs. This process's own never are.
pub(crate) fn close() {
    for number in handed_on() {
        let _ = nix::unistd::close(number);
    }
}

fn handed_on() -> Vec<RawFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fdinfo") else {
        return Vec::new();
    };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok());
    numbers
        .filter(|number| *number > 2)
        .filter(|number| {
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
            flags
                .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok())
                .is_some_and(|flags| flags & CLOSED_ON_EXEC == 0)
        })
        .collect()
}
