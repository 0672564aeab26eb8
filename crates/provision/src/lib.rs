//! Executes a list: steps, guards and the journal, in a process of its own.
//!
//! # Goals
//! The executing process trusts nothing that it has not verified itself, opens no network socket, outlives the agent that
//! started it, and after kill -9 or power loss continues where it was. Executing a release twice changes nothing. It may be
//! started while a release is still being fetched: it copies ahead what has arrived, and ends with the agent until it executes.
//!
//! # Non-goals
//! It does not confine what a `run` step does, and what a script did it takes back only if the step says how.

mod accounts;
mod adopt;
mod archive;
mod bounds;
mod command;
mod content;
mod diff;
mod engine;
mod executor;
mod facts;
mod fail;
mod file;
mod health;
mod job;
mod journal;
mod keeper;
mod leftover;
mod limits;
mod lock;
mod look;
mod machine;
mod place;
mod placed;
mod plan;
mod private;
mod proc;
mod process;
mod releases;
mod restore;
mod root;
mod sandbox;
mod saved;
mod scope;
mod shim;
mod stage;
mod stager;
mod state;
mod steps;
mod strays;
mod tail;
mod trust;

pub use bounds::Bounds;
pub use content::damaged_content;
pub use executor::{Executor, ExecutorError, LastRun, RunState, halt, last_words, state};
pub use facts::facts;
pub use job::{Arrival, JOB_BYTES_MAX, Job, Part};
pub use journal::{JOURNAL_BYTES_MAX, JOURNAL_FORMAT, JournalError};
pub use keeper::{Keeper, Provisioner};
pub use lock::running;
pub use machine::{Machine, PackageManager, usable};
pub use plan::{PlanError, plan};
pub use process::{RunError, main};
pub use releases::ReleasesError;
pub use shim::shim_main;
pub use stage::discard_staged;
pub use tail::{Position, Record, Tail};
pub use trust::{RefusedError, TRUST_FORMAT};

#[cfg(test)]
mod bench;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
#[cfg(test)]
mod drawn;
