//! Where bytes lie on this node's disk.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a whole content lies in the store, for a process that reads it there and verifies it for itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// The file that holds it, absolute.
    pub path: PathBuf,
    /// Bytes of that file before the content.
    pub offset: u64,
    /// Bytes of the content.
    pub len: u64,
}
