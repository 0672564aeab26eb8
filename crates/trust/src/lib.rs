//! Metadata of The Update Framework (specification 1.0): reading, verifying, keeping and signing it.
//!
//! *Goals.* Files that other implementations read and write. Nothing is believed that the root does not vouch for; what is
//! believed is on disk before it is used; time and bytes come from the caller, so that the process that executes can use
//! this without a clock of its own making, a socket or a thread.
//!
//! *Non-goals.* Delegations: a fleet's publishers sign one list of targets. Transport: see `Source`.

mod canonical;
mod change;
mod client;
mod editor;
mod fault;
mod key;
mod keyfile;
mod metadata;
mod permission;
mod trusted;

pub use change::{Change, Lacking};
pub use client::{Client, ClientError, ROOTS_PER_REFRESH_MAX, Source};
pub use editor::{RootEditor, TargetsEditor, lifetime, next_online, snapshot, timestamp};
pub use fault::Fault;
pub use key::{KeyError, PublicKey, PublicKeyError, SecretKey, sha256};
pub use keyfile::{KEY_FILE_BYTES_MAX, KEY_FILE_FORMAT, KeyFile, KeyFileError};
pub use metadata::{
    Common, Document, FileMeta, KEYS_MAX, Moment, ROOT_BYTES_MAX, Role, RoleKeys, Root, SIGNATURES_MAX,
    SNAPSHOT_BYTES_MAX, SPEC_VERSION, Signed, Snapshot, TARGETS_BYTES_MAX, TARGETS_MAX, TIMESTAMP_BYTES_MAX, Target,
    Targets, Timestamp,
};
pub use permission::{ONLY_NODES_MAX, Permission, target_path};
pub use trusted::{Trusted, Update};
