//! `potluck shim --dir DIR`: the process that stays with a command of a step. The executing process starts it; it is not for people.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// Is the shim, if that is what this process was started as.
///
/// Looked at before the command line is parsed: there may be one for weeks, and it is to stay small.
pub(crate) fn run(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let (command, option, dir) = (args.nth(1)?, args.next()?, args.next()?);
    (command == "shim" && option == "--dir").then(|| potluck_provision::shim_main(Path::new(&dir)))
}
