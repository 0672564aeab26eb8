//! A deterministic world for the core: nodes, links, faults and checkers.
//!
//! The nodes run the very `Swarm` that the agent runs; around it stand a model of the shell (`node`), of the links
//! (`network`) and of the origin. Payload bytes do not exist, lengths and digests do. One seed gives one run, and a trace
//! that is the same byte for byte.
//!
//! What the model leaves out: TCP's ramp-up and fairness within a round trip, CPU time, disks, and bytes of control
//! messages. A link carries the flows over it in turns, a chunk at a time.

mod check;
mod network;
mod node;
mod random;
mod release;
pub mod scenario;
mod trace;
mod world;

pub use check::Check;
pub use network::{Faults, Links};
pub use node::Behaviour;
pub use random::Random;
pub use release::Release;
pub use scenario::Scenario;
pub use trace::Trace;
pub use world::{NodeIx, World};

/// So many MiB in bytes.
pub const fn mib(n: u64) -> u64 {
    n << 20
}

/// So many Mbit/s in bytes a second.
pub const fn mbit(n: u64) -> u64 {
    n * 1_000_000 / 8
}
