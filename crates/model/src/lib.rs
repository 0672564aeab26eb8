//! Words of Potluck: ids, digests, lists, assignments, join strings, configurations, units and time.
//!
//! Pure data: no I/O, and apart from `UnixSeconds::now` and `rate::Throttle` no clock. Every other crate speaks in these types.

pub mod api;
pub mod assignment;
pub mod audit;
pub mod canonical;
pub mod chunk_list;
pub mod condition;
pub mod configuration;
mod digest;
pub mod facts;
mod id;
pub mod join;
pub mod list;
mod location;
mod network;
pub mod plan;
pub mod rate;
pub mod revocations;
pub mod ring;
pub mod selector;
pub mod template;
mod time;
pub mod trace;
pub mod units;

pub use digest::{Digest, DigestError};
pub use id::{AudienceName, ConfigurationName, LabelKey, NameError, NodeId, StepId, VersionName};
pub use location::Location;
pub use network::{Network, NetworkError};
pub use time::{Time, UnixMicros, UnixSeconds};
