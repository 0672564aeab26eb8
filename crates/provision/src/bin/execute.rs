//! The executing process and its shims alone: what `potluck execute --dir DIR` and `potluck shim --dir DIR` are, for tests.

use std::path::Path;
use std::process::ExitCode;

use potluck_provision::Bounds;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match args.as_slice() {
        [option, dir] if option == "--dir" => potluck_provision::main(Path::new(dir), &Bounds::default()),
        [shim, option, dir] if shim == "shim" && option == "--dir" => potluck_provision::shim_main(Path::new(dir)),
        _ => ExitCode::from(64),
    }
}
