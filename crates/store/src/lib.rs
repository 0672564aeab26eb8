//! Content-addressed files and chunks on a node's disk, and the cutting of files into chunks by their content.
//!
//! A store is a directory:
//!
//! ```text
//! lock            held while a process has the store open
//! index.db        SQLite: which contents and chunks are held, and where
//! packs/NUMBER    small contents, one after another
//! files/DIGEST    one content of several chunks each, sparse while it is being fetched
//! ```
//!
//! Data is synced before the index says that it is held, a batch at a time. The index may know less than is on disk (what a
//! kill left is looked through again) and, on a disk that lies or rots, more: so every chunk is checked again when it is
//! read, and forgotten if it is not what it was.

pub mod chunking;
mod disk;
mod error;
mod files;
mod index;
mod known;
mod packs;
mod pending;
mod store;

pub use error::StoreError;
pub use store::{Removed, State, Store};
