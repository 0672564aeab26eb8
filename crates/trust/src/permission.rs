//! What a target says of a release: which list it is, and where it may be executed.

use std::collections::BTreeSet;

use potluck_model::assignment::AssignedRelease;
use potluck_model::{ConfigurationName, Digest, NodeId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::metadata::Target;
use crate::{Fault, Trusted};

/// The most nodes that a target can name.
pub const ONLY_NODES_MAX: usize = 10_000;

/// `custom` of a target that is the list of a release.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Permission {
    /// Digest of the list, by which nodes know it.
    pub list: Digest,
    /// Executed by these nodes alone; by all, if absent. At most `ONLY_NODES_MAX`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<BTreeSet<NodeId>>,
    /// No release of this configuration with a lower number is executed any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<u64>,
}

impl Permission {
    /// For all nodes.
    pub fn of(list: Digest) -> Self {
        Self {
            list,
            only: None,
            minimum: None,
        }
    }

    /// What a target carries, if it is a list of a release.
    pub fn read(target: &Target) -> Result<Self, Fault> {
        let custom = target.custom.clone().unwrap_or_default();
        let permission: Self = serde_json::from_value(custom)
            .map_err(|error| Fault::Malformed(format!("what the publisher says of a release: {error}")))?;
        if permission.only.as_ref().is_some_and(|only| only.len() > ONLY_NODES_MAX) {
            return Err(Fault::TooLarge {
                what: "the nodes that a release is for".into(),
                max: ONLY_NODES_MAX as u64,
                unit: "entries",
            });
        }
        Ok(permission)
    }

    /// For a target's `custom`.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("a permission is plain data")
    }
}

/// The path of a release among the targets.
pub fn target_path(configuration: &ConfigurationName, release: u64) -> String {
    format!("{configuration}/{release}")
}

impl Trusted {
    /// The target of a release, if publishers permit `node` to execute it. The caller checks the list's bytes against it.
    pub fn permitted(&self, node: NodeId, release: &AssignedRelease) -> Result<&Target, Fault> {
        let path = target_path(&release.configuration, release.release);
        let target = self.target(&path)?;
        let permission = Permission::read(target)?;
        if permission.list != release.list {
            return Err(Fault::NotListed(format!("the list {} as {path}", release.list)));
        }
        if permission.only.is_some_and(|only| !only.contains(&node)) {
            return Err(Fault::Narrowed(format!("{path} is not for node {node}")));
        }
        let of_configuration = format!("{}/", release.configuration);
        let targets = self.targets().map(|targets| &targets.document.targets);
        for (other, target) in targets.into_iter().flatten() {
            if !other.starts_with(&of_configuration) {
                continue;
            }
            if let Some(minimum) = Permission::read(target)?
                .minimum
                .filter(|minimum| release.release < *minimum)
            {
                return Err(Fault::Narrowed(format!(
                    "{path} is older than release {minimum}, below which none is executed any more"
                )));
            }
        }
        Ok(target)
    }
}
