//! The sans-I/O core: discovery and swarm as one deterministic state machine, and the encoding of what it sends.
//!
//! It opens no socket, reads no clock, draws no randomness of its own and spawns nothing. Inputs go in with the time,
//! actions come out, and `Swarm::deadline` says when to wake it. The same seed and inputs give the same actions.

mod bits;
pub mod datagram;
pub mod frame;
pub mod identifier;
pub mod interface;
pub mod message;
mod random;
pub mod runs;
mod swarm;
mod wire;

pub use datagram::DATAGRAM_BYTES_MAX;
pub use interface::{Action, Config, Input, ListContent, Neighbour, Path, PathId, TransferEnd, TransferId, Want};
pub use message::{DataHeader, End, HaveItem, Hello, Message, Runs};
pub use swarm::{Counters, Swarm};
pub use wire::WireError;
