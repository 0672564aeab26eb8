//! What a list says of all its steps together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The most bytes of a list's variables, as canonical JSON.
pub const VARS_BYTES_MAX: usize = 256 << 10;

/// What concerns all steps. Nothing of it was in the first format.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Variables of templates and playbooks: text, integers, true and false, arrays and tables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vars: BTreeMap<String, serde_json::Value>,
}

impl Settings {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
