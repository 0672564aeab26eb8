//! What a node did for one release, put together from its events: the evidence behind `potluck trace`.

mod report;
mod show;

pub(crate) use report::{Shares, Totals, TraceReport, last_list};
pub(crate) use show::{outcome, show};

#[cfg(test)]
pub(crate) mod sample;
