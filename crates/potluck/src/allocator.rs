//! The C library's memory allocator, told to give memory back.
//!
//! glibc keeps an arena for each thread that ever allocated, and learns to keep large buffers as well: a node that had
//! fetched 100 MiB idled with 20 MiB that it did not need. How it behaves can be set through the environment alone (or
//! with `unsafe`, which this program does without), so services start themselves once more. docs/adr/ has the figures.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// See mallopt(3): one arena; buffers of chunks and frames are mapped, and unmapped when they are freed.
const SETTINGS: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "65536"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
];

/// Replaces this process by itself with an allocator that gives memory back, unless somebody has set up the allocator. If
/// that cannot be done, it goes on as it is. To be called before anything is opened or started.
pub(crate) fn tune() {
    if !cfg!(target_env = "gnu") {
        return;
    }
    let is_set = |name: &str| std::env::var_os(name).is_some();
    if is_set("GLIBC_TUNABLES") || SETTINGS.iter().any(|(name, _)| is_set(name)) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // It returns only if it did not work.
    let _ = command.args(arguments).envs(SETTINGS).exec();
}
