//! Runs one scenario and prints what came of it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use potluck_model::Time;
use potluck_sim::scenario::{self, Scenario, Setup};
use potluck_sim::{Check, mib};

/// Runs the nodes' core in a deterministic world.
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    /// What happens.
    #[arg(long, value_enum, default_value = "cold")]
    scenario: Scenario,
    /// How many nodes.
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// What everything random follows from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// MiB of files.
    #[arg(long, default_value_t = 128)]
    payload_mib: u64,
    /// How many of the files are small.
    #[arg(long, default_value_t = 200)]
    small: usize,
    /// Where to write what every node did.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Seconds of the world's time after which it is given up.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let setup = Setup {
        scenario: arguments.scenario,
        nodes: arguments.nodes,
        seed: arguments.seed,
        payload: mib(arguments.payload_mib),
        small: arguments.small,
        keep_trace: arguments.trace.is_some(),
    };
    let mut world = setup.build();
    world.run_until(Time::from_millis(arguments.seconds * 1_000));
    let mut out = std::io::stdout();
    let mut text = scenario::summary(&world);
    let mut code = ExitCode::SUCCESS;
    for check in [Check::EveryFile, Check::BytesAdd] {
        if let Err(broken) = world.check(check) {
            let command = setup.command();
            let _ = writeln!(text, "broken            {broken}\nreplay            {command}");
            code = ExitCode::FAILURE;
        }
    }
    if let Some(path) = arguments.trace
        && let Err(error) = std::fs::write(&path, world.trace.lines())
    {
        let _ = writeln!(text, "cannot write the trace to {}: {error}", path.display());
        code = ExitCode::FAILURE;
    }
    // Nobody may be reading any more.
    let _ = out.write_all(text.as_bytes());
    code
}
