//! The executing process alone: what `potluck execute --dir DIR` is, for tests.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match (args.next(), args.next(), args.next()) {
        (Some(option), Some(dir), None) if option == "--dir" => potluck_provision::main(Path::new(&dir)),
        _ => ExitCode::from(64),
    }
}
