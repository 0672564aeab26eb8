//! Runs one scenario, or the table of figures, and prints what came of it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use potluck_sim::{ALWAYS, Check, Setup, table};

/// Runs the nodes' core in a deterministic world.
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    #[command(flatten)]
    setup: Setup,
    /// Where to write what every node did.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Where to draw the run: bytes over the uplink and nodes complete, over time.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Fail if the origin sends more than so many thousandths of the payload.
    #[arg(long)]
    origin_permille_max: Option<u64>,
    /// Fail if the last node takes more than so many thousandths of payload / uplink rate.
    #[arg(long)]
    time_permille_max: Option<u64>,
    /// Run the table of figures instead of one scenario, with `--seed` and `--payload-mib`.
    #[arg(long)]
    table: bool,
    /// Lines of the table with more nodes are left out.
    #[arg(long, default_value_t = 10_000)]
    up_to: usize,
    /// How many lines of the table are run at a time. [default: one for each processor]
    #[arg(long)]
    jobs: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.table {
        return run_table(&arguments);
    }
    let setup = &arguments.setup;
    let world = setup.run(arguments.trace.is_some());
    let mut text = world.summary();
    let mut code = ExitCode::SUCCESS;
    let limits = [
        arguments.origin_permille_max.map(Check::OriginPermilleAtMost),
        arguments.time_permille_max.map(Check::TimePermilleAtMost),
    ];
    for check in ALWAYS.into_iter().chain(limits.into_iter().flatten()) {
        if let Err(broken) = world.check(check) {
            let command = setup.command();
            let _ = writeln!(text, "broken            {broken}\nreplay            {command}");
            code = ExitCode::FAILURE;
        }
    }
    let mut write = |path: &Path, what: &str| {
        if let Err(error) = std::fs::write(path, what) {
            let _ = writeln!(text, "cannot write to {}: {error}", path.display());
            code = ExitCode::FAILURE;
        }
    };
    if let Some(path) = &arguments.trace {
        write(path, world.trace.lines());
    }
    if let Some(path) = &arguments.svg {
        write(path, &world.chart(&setup.title()));
    }
    print(&text);
    code
}

fn run_table(arguments: &Arguments) -> ExitCode {
    let setup = &arguments.setup;
    let jobs = arguments
        .jobs
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let rows = table::rows(arguments.up_to, setup.payload_mib, setup.seed);
    print(&(table::head() + "\n"));
    let broken = table::run(&rows, jobs, |line| print(&format!("{line}\n")));
    print(&broken);
    if broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Nobody may be reading any more.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
