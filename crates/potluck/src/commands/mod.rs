//! One file for each command.

use crate::arguments::{Command, Global};
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Runs the command.
pub(crate) fn run(command: Command, global: &Global, output: Output) -> Result<Exit, Failure> {
    match command {}
}
