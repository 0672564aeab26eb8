//! Files in `keys/` that have to do with releases.

use std::path::{Path, PathBuf};

use potluck_trust::{Document, Role, SecretKey, Signed};

use crate::{ServerError, data};

/// A root, by its version.
pub(super) fn root_path(keys: &Path, version: u64) -> PathBuf {
    keys.join(format!("{version}.root.json"))
}

/// The key of a role.
pub(super) fn key_path(keys: &Path, role: Role) -> PathBuf {
    keys.join(format!("{role}.key"))
}

/// A key of a role that was made for the next root to name.
pub(super) fn next_key_path(keys: &Path, role: Role) -> PathBuf {
    keys.join(format!("{role}.next.key"))
}

/// A change that has not enough signatures, or that was not carried out to its end.
pub(super) fn waiting_path(keys: &Path) -> PathBuf {
    keys.join("waiting.json")
}

/// A file that is there until a server that was restored from a backup has signed anew.
pub(crate) fn restored_path(keys: &Path) -> PathBuf {
    keys.join("restored")
}

/// What a role has signed last.
pub(super) fn read<T: Document>(keys: &Path) -> Result<Option<Signed<T>>, ServerError> {
    let path = file_path(keys, T::ROLE);
    let bytes = data::read(&path)?;
    let file = bytes.map(|bytes| Signed::from_bytes(&bytes)).transpose();
    file.map_err(|fault| damaged(&path, &fault))
}

/// Keeps what a role has signed.
pub(super) fn keep<T: Document>(keys: &Path, file: &Signed<T>) -> Result<(), ServerError> {
    data::replace(&file_path(keys, T::ROLE), &file.to_bytes())
}

/// A key, if it is there.
pub(super) fn read_key(path: &Path) -> Result<Option<SecretKey>, ServerError> {
    let Some(bytes) = data::read(path)? else {
        return Ok(None);
    };
    SecretKey::from_pkcs8(&bytes)
        .map(Some)
        .map_err(|fault| damaged(path, &fault))
}

/// Says that a file cannot be used.
pub(super) fn damaged(path: &Path, fault: &dyn std::fmt::Display) -> ServerError {
    ServerError::Damaged {
        path: path.to_owned(),
        fault: fault.to_string(),
    }
}

fn file_path(keys: &Path, role: Role) -> PathBuf {
    keys.join(format!("{role}.json"))
}
