//! What a list says of all its steps together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ConfigurationName, Digest, StepId};

/// The most bytes of a list's variables, as canonical JSON.
pub const VARS_BYTES_MAX: usize = 256 << 10;

/// What concerns all steps. Nothing of it was in the first format.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Variables of templates and playbooks: text, integers, true and false, arrays and tables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vars: BTreeMap<String, serde_json::Value>,
    /// What must succeed when all steps have ended well, one after the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health: Vec<HealthCheck>,
    /// Releases of other configurations that are part of this one, those that they include too, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub includes: Vec<IncludedRelease>,
}

/// The most releases that are part of another.
pub const INCLUDED_MAX: usize = 4_096;

/// A release that is part of another. All that it says is in the list that includes it; this says only where it came from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IncludedRelease {
    /// The configuration.
    pub configuration: ConfigurationName,
    /// Number of the release.
    pub release: u64,
    /// Digest of its list.
    pub list: Digest,
}

/// The most health checks of a list.
pub const HEALTH_CHECKS_MAX: usize = 100;
/// The longest that a health check may take, in seconds: a day.
pub const HEALTH_SECONDS_MAX: u64 = 86_400;

/// A command that succeeds on a machine that does what it is there for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// The command, as of a guard; exit status 0 means that all is well.
    pub run: Vec<String>,
    /// Seconds in which it must succeed for the first time; it is tried until then.
    pub within_seconds: u64,
    /// Seconds for which it must go on succeeding.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stable_for_seconds: u64,
}

impl HealthCheck {
    /// What the check is called in reports; `number` is from 1.
    pub fn id(number: usize) -> StepId {
        format!("health.{number}").parse().expect("letters, a dot and digits")
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Settings {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
