//! A deterministic world for the core: nodes, links, faults and checkers.
//!
//! The nodes run the very `Swarm` that the agent runs; around it stand a model of the shell (`node`, `start`, `shell`), of links and
//! datagrams (`network`, `flow`, `connection`, `datagrams`), of the server (`origin`), and of what goes wrong (`fault`,
//! `hostile`). Payload bytes do not exist, lengths and digests do. One seed gives one run, and a trace that is the same byte
//! for byte.
//!
//! Bytes count with all headers, control and handshakes among them. What the model leaves out: TCP's ramp-up and its
//! acknowledgements, CPU time, and reads from disks that are not slow. A link carries the flows over it in turns.

mod chart;
mod check;
mod connection;
mod cost;
mod datagrams;
mod fault;
mod figures;
mod flow;
mod history;
mod hostile;
mod mix;
mod network;
mod node;
mod origin;
mod queue;
mod random;
mod release;
pub mod scenario;
mod shell;
mod slab;
mod start;
mod store;
pub mod table;
mod tally;
#[cfg(test)]
mod tests;
mod trace;
mod world;

pub use check::{ALWAYS, Check};
pub use fault::Fault;
pub use figures::Figures;
pub use network::{Links, Traits};
pub use node::{Behaviour, NodeIx};
pub use random::Random;
pub use release::Release;
pub use scenario::{Scenario, Setup};
pub use tally::Tally;
pub use trace::Trace;
pub use world::World;

/// So many MiB in bytes.
pub const fn mib(n: u64) -> u64 {
    n << 20
}

/// So many Mbit/s in bytes a second.
pub const fn mbit(n: u64) -> u64 {
    n * 1_000_000 / 8
}
