//! The management server: catalogue, assignments, joining, reports and the origin.
//!
//! `RunningServer::start` or `run` with a `ServerConfig`. One HTTPS port serves nodes and operators; `table` says who may
//! call what, `routes` answers. `catalogue` (what is known) and `blobs` (the bytes) are narrow interfaces; embedded, SQLite
//! and a directory stand behind them. No state is in memory only, but for when nodes were last heard of.

mod app;
mod audit;
mod authority;
mod backup;
mod blobs;
mod caller;
mod catalogue;
mod config;
mod data;
mod delivery;
mod error;
mod gc;
mod instances;
mod listener;
mod near;
mod progress;
mod refusal;
mod request;
mod room;
mod routes;
mod server;
mod signing;
mod site;
mod stored;
mod table;
mod target;
#[cfg(test)]
mod tests;
mod uplink;
mod verifier;

pub use backup::{BackupError, Copied, backup, restore};
pub use blobs::BlobsError;
pub use catalogue::CatalogueError;
pub use config::{CONNECTIONS_MAX, DEFAULT_PORT, NODE_CERTIFICATE_LIFE, NODE_CERTIFICATE_LIVES, ServerConfig};
pub use error::ServerError;
pub use server::{RunningServer, run};
pub use site::{SITE_NETWORKS_MAX, SITES_MAX, Site};
