//! What the program logs: to stderr, for people or as JSON.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::exit::{Exit, Failure};
use crate::output::colours_are_wanted;

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum LogFormat {
    // Lines for people.
    #[default]
    Human,
    // One JSON object a line.
    Json,
}

/// Variables that set the filter, the first that is set wins.
const FILTERS: [&str; 2] = ["POTLUCK_LOG", "RUST_LOG"];

/// Starts logging: at `level` and above, unless the environment names a filter.
pub(crate) fn start(format: LogFormat, level: LevelFilter) -> Result<(), Failure> {
    let filter = match FILTERS
        .iter()
        .find_map(|name| Some((name, std::env::var(name).ok().filter(|value| !value.is_empty())?)))
    {
        Some((name, value)) => EnvFilter::try_new(&value)
            .map_err(|error| Failure::new(format!("{name}={value:?} is no log filter: {error}")).exit(Exit::Usage))?,
        None => EnvFilter::default().add_directive(level.into()),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    let started = match format {
        LogFormat::Human => registry
            .with(layer.with_ansi(std::io::stderr().is_terminal() && colours_are_wanted()))
            .try_init(),
        LogFormat::Json => registry
            .with(layer.json().flatten_event(true).with_current_span(false))
            .try_init(),
    };
    started.map_err(|error| Failure::new(format!("starting the log: {error}")))
}

/// `usual` raised by each `-v` and lowered by `-q`.
pub(crate) fn level(usual: LevelFilter, verbose: u8, quiet: bool) -> LevelFilter {
    const LEVELS: [LevelFilter; 5] = [
        LevelFilter::ERROR,
        LevelFilter::WARN,
        LevelFilter::INFO,
        LevelFilter::DEBUG,
        LevelFilter::TRACE,
    ];
    let at = LEVELS.iter().position(|level| *level == usual).unwrap_or(1);
    let at = at.saturating_sub(usize::from(quiet)) + usize::from(verbose);
    LEVELS[at.min(LEVELS.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbose_raises_and_quiet_lowers_the_level() {
        assert_eq!(level(LevelFilter::INFO, 0, false), LevelFilter::INFO);
        assert_eq!(level(LevelFilter::INFO, 9, false), LevelFilter::TRACE);
        assert_eq!(level(LevelFilter::WARN, 0, true), LevelFilter::ERROR);
        assert_eq!(level(LevelFilter::ERROR, 0, true), LevelFilter::ERROR);
    }
}
