//! Why the server did not start or stopped.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::blobs::BlobsError;
use crate::catalogue::CatalogueError;

/// Why the server did not start, or ended other than by being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// A file or directory of the data directory could not be used.
    #[error("{doing} {}: {source}. The server needs a data directory that it may write, with room in it", path.display())]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Another server uses the data directory.
    #[error(
        "the data directory {} is in use by another server: stop that one, or give this one another --data",
        .0.display()
    )]
    InUse(PathBuf),
    /// A restore into the data directory did not come to its end.
    #[error(
        "the data directory {} is half restored: empty it, and run `potluck restore` again",
        .0.display()
    )]
    HalfRestored(PathBuf),
    /// The data directory was written by a newer version.
    #[error(
        "the data directory {} has format {format}; this version of Potluck reads up to {known}: update it",
        path.display()
    )]
    Newer {
        /// The data directory.
        path: PathBuf,
        /// Its format.
        format: String,
        /// The newest format that is known here.
        known: u32,
    },
    /// A key or certificate in the data directory cannot be read.
    #[error("{} is damaged ({fault}): restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// It cannot listen at the address.
    #[error("listening on {address}: {source}. {}", listen_advice(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// What it was told makes no sense.
    #[error("{0}")]
    Config(String),
    /// The database failed.
    #[error("opening the server's database: {0}")]
    Catalogue(#[from] CatalogueError),
    /// The packs failed.
    #[error("the server's stored chunks: {0}")]
    Blobs(#[from] BlobsError),
    /// A certificate could not be made.
    #[error("making a certificate: {0}")]
    Certificate(String),
}

fn listen_advice(fault: &std::io::Error) -> &'static str {
    match fault.kind() {
        ErrorKind::AddrInUse => "Is another server running there? --listen takes another ADDR:PORT",
        ErrorKind::AddrNotAvailable => {
            "This machine has no such address: --listen takes one that it has, or [::] for all of them"
        }
        ErrorKind::PermissionDenied => "Ports below 1024 are for root: --listen takes another ADDR:PORT",
        _ => "--listen takes another ADDR:PORT",
    }
}
