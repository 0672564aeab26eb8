//! What a release would do on a machine, found out without doing it.

use serde::{Deserialize, Serialize};

use crate::{ConfigurationName, Digest, StepId};

/// The most bytes of all the differences that a plan shows; those behind are named only.
pub const DIFFS_BYTES_MAX: usize = 1 << 20;

/// What each step of a release would do, in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Plan {
    /// The configuration.
    pub configuration: ConfigurationName,
    /// Number of the release.
    pub release: u64,
    /// Digest of its list.
    pub list: Digest,
    /// Its steps, and behind them what it would remove of steps that it does not have any more.
    pub steps: Vec<PlannedStep>,
}

/// What a step would do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PlannedStep {
    /// Which.
    pub step: StepId,
    /// What.
    pub forecast: Forecast,
    /// What it would change, or why it would not, or why nobody knows.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How files would change, as far as they are text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diffs: Vec<Diff>,
}

/// How a file would change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Diff {
    /// Where it is, absolute, under the root.
    pub path: String,
    /// A unified diff, or in parentheses why none is shown.
    pub text: String,
}

/// What would become of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Forecast {
    /// Nothing is to be changed.
    Unchanged,
    /// It would change something.
    Change,
    /// It would be run; whether it changes anything, only it knows.
    Run,
    /// Its guard says that nothing is to be done.
    Skip,
    /// It would fail.
    Fail,
    /// A step before it would fail.
    Block,
    /// That cannot be found out without doing it.
    Unknown,
}

impl Plan {
    /// Whether something would be done, or may be.
    pub fn differs(&self) -> bool {
        self.steps
            .iter()
            .any(|step| !matches!(step.forecast, Forecast::Unchanged | Forecast::Skip))
    }

    /// How many steps have this forecast.
    pub fn count(&self, forecast: Forecast) -> usize {
        self.steps.iter().filter(|step| step.forecast == forecast).count()
    }
}

impl std::fmt::Display for Forecast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Unchanged => "unchanged",
            Self::Change => "change",
            Self::Run => "run",
            Self::Skip => "skip",
            Self::Fail => "fail",
            Self::Block => "block",
            Self::Unknown => "unknown",
        })
    }
}
