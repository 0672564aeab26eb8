//! Potluck: server, agent and command line in one binary.

mod allocator;
mod arguments;
mod commands;
mod credential;
mod demo;
mod exit;
mod fleet;
mod logging;
mod operator;
mod output;
mod publish;
mod publisher;
mod settings;
mod shutdown;
mod trace;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use arguments::Cli;
use exit::{Exit, Failure};
use output::{Output, Style, Tone};

fn main() -> ExitCode {
    if let Some(exit) = commands::shim::run(std::env::args_os()) {
        return exit;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok,
                _ => Exit::Usage,
            }
            .into();
        }
    };
    match run(cli) {
        Ok(exit) => exit,
        Err(failure) => {
            report(&failure);
            failure.exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { global, command } = cli;
    if command.is_service() {
        allocator::tune();
    }
    logging::start(
        global.log_format,
        logging::level(command.usual_level(), global.verbose, global.quiet),
    )?;
    let output = Output {
        json: global.json,
        style: Style::of_stdout(),
        quiet: global.quiet,
    };
    commands::run(command, &global, output)
}

fn report(failure: &Failure) {
    let style = Style::of_stderr();
    let _ = writeln!(
        std::io::stderr().lock(),
        "{} {failure}",
        style.paint(Tone::Bad, "error:")
    );
}
