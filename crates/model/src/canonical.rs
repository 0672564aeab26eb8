//! RFC 8785 canonical JSON, for documents whose digest is their name or that are signed.
//!
//! Documents of Potluck hold integers only and have ASCII keys, so that canonical form is: keys sorted, no white space,
//! the shortest escapes. `serde_json` writes that once keys are sorted, which a `Value` sees to.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes are not a canonical document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CanonicalError {
    /// Not JSON, or not of the wanted shape.
    #[error("not a valid document: {0}")]
    Shape(#[from] serde_json::Error),
    /// A valid document, but not written in the one canonical way.
    #[error("the document is not in canonical form (RFC 8785): its digest would not be its own")]
    NotCanonical,
}

/// The canonical bytes of `document`.
///
/// # Panics
/// If `document` cannot be written as JSON (a map with keys that are not strings).
pub fn to_bytes<T: Serialize>(document: &T) -> Vec<u8> {
    let value = serde_json::to_value(document).expect("documents of this crate are plain data");
    serde_json::to_vec(&value).expect("a value can be written")
}

/// Parses `bytes`, and refuses anything that `to_bytes` would have written differently.
pub fn from_bytes<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, CanonicalError> {
    let document: T = serde_json::from_slice(bytes)?;
    if to_bytes(&document) == bytes {
        Ok(document)
    } else {
        Err(CanonicalError::NotCanonical)
    }
}
