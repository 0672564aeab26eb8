//! What a target says of a release: which list it is, and where it may be executed.

use std::collections::{BTreeMap, BTreeSet};

use potluck_model::assignment::AssignedRelease;
use potluck_model::{ConfigurationName, Digest, NodeId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::metadata::{Target, Targets};
use crate::{Fault, TargetsEditor, Trusted};

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
        permission.check()?;
        Ok(permission)
    }

    /// Why `node` may not execute the release of `path`, if it may not.
    fn narrowed(&self, node: NodeId, path: &str, release: u64, minimum: Option<u64>) -> Option<Fault> {
        if self.only.as_ref().is_some_and(|only| !only.contains(&node)) {
            return Some(Fault::Narrowed(format!("{path} is not for node {node}")));
        }
        let minimum = minimum.filter(|minimum| release < *minimum)?;
        Some(Fault::Narrowed(format!(
            "{path} is older than release {minimum}, below which none is executed any more"
        )))
    }

    fn check(&self) -> Result<(), Fault> {
        if self.only.as_ref().is_some_and(|only| only.len() > ONLY_NODES_MAX) {
            return Err(Fault::TooLarge {
                what: "the nodes that a release is for".into(),
                max: ONLY_NODES_MAX as u64,
                unit: "entries",
            });
        }
        Ok(())
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

/// The configuration and the number of the release that a path is of.
fn release_of(path: &str) -> Option<(ConfigurationName, u64)> {
    let (name, release) = path.rsplit_once('/')?;
    Some((name.parse().ok()?, release.parse().ok()?))
}

impl Targets {
    /// The releases that are signed, with what publishers say of each, by path. Targets that are none are passed over.
    pub fn releases(&self) -> impl Iterator<Item = Result<(ConfigurationName, u64, Permission), Fault>> {
        self.targets.iter().filter_map(|(path, target)| {
            let (configuration, release) = release_of(path)?;
            Some(Permission::read(target).map(|permission| (configuration, release, permission)))
        })
    }

    /// Why publishers forbid `node` to execute a list, if they do. What they do not name, they do not forbid here.
    pub fn forbids(
        &self,
        node: NodeId,
        configuration: &ConfigurationName,
        list: &Digest,
    ) -> Result<Option<Fault>, Fault> {
        let minimum = self.minimum(configuration)?;
        for release in self.releases() {
            let (of, number, permission) = release?;
            if of == *configuration && permission.list == *list {
                return Ok(permission.narrowed(node, &target_path(configuration, number), number, minimum));
            }
        }
        Ok(None)
    }

    /// The release of a configuration below which none is executed any more.
    pub fn minimum(&self, configuration: &ConfigurationName) -> Result<Option<u64>, Fault> {
        let mut minimum = None;
        for release in self.releases() {
            let (of, _, permission) = release?;
            if of == *configuration {
                minimum = minimum.max(permission.minimum);
            }
        }
        Ok(minimum)
    }
}

impl TargetsEditor {
    /// Permits a release, whose list is `bytes`; if it is permitted already, in another way from now on. A minimum that was
    /// signed before stays.
    pub fn permit(
        &mut self,
        configuration: &ConfigurationName,
        release: u64,
        bytes: &[u8],
        mut permission: Permission,
    ) -> Result<&mut Self, Fault> {
        permission.minimum = permission.minimum.max(self.0.minimum(configuration)?);
        let path = target_path(configuration, release);
        if let Some(minimum) = permission.minimum.filter(|minimum| *minimum > release) {
            return Err(Fault::Narrowed(format!(
                "{path} is older than release {minimum}, below which none is executed any more"
            )));
        }
        permission.check()?;
        Ok(self.add(&path, bytes, Some(permission.to_value())))
    }

    /// Takes out the releases whose list `keep` does not want. Minimums stay: the newest release of the configuration that
    /// is left takes them over, and if none is left, the one stays that has it.
    pub fn keep_releases(&mut self, keep: impl Fn(&Digest) -> bool) -> Result<&mut Self, Fault> {
        let mut minimums = BTreeMap::new();
        let mut newest = BTreeMap::new();
        let mut gone = Vec::new();
        for release in self.0.releases() {
            let (configuration, release, permission) = release?;
            if keep(&permission.list) {
                let newest = newest.entry(configuration.clone()).or_insert(release);
                *newest = release.max(*newest);
            } else {
                gone.push((configuration.clone(), release));
            }
            if let Some(minimum) = permission.minimum {
                let highest = minimums.entry(configuration).or_insert((minimum, release));
                *highest = (minimum, release).max(*highest);
            }
        }
        for (configuration, release) in gone {
            let last = newest.contains_key(&configuration);
            let carries = minimums
                .get(&configuration)
                .is_some_and(|(_, carrier)| *carrier == release);
            if last || !carries {
                self.0.targets.remove(&target_path(&configuration, release));
            }
        }
        for (configuration, (minimum, _)) in minimums {
            let Some(target) = newest
                .get(&configuration)
                .and_then(|release| self.0.targets.get_mut(&target_path(&configuration, *release)))
            else {
                continue;
            };
            let mut permission = Permission::read(target)?;
            permission.minimum = permission.minimum.max(Some(minimum));
            target.custom = Some(permission.to_value());
        }
        Ok(self)
    }
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
        let minimum = match self.targets() {
            Some(targets) => targets.document.minimum(&release.configuration)?,
            None => None,
        };
        if let Some(narrowed) = permission.narrowed(node, &path, release.release, minimum) {
            return Err(narrowed);
        }
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use potluck_model::UnixSeconds;

    use super::*;

    fn web() -> ConfigurationName {
        "web".parse().unwrap()
    }

    fn editor(releases: &[(u64, Option<u64>)]) -> TargetsEditor {
        let mut editor = TargetsEditor::first(UnixSeconds(1_800_000_000));
        for (release, minimum) in releases {
            let bytes = release.to_be_bytes();
            let permission = Permission {
                minimum: *minimum,
                ..Permission::of(Digest::of(&bytes))
            };
            editor.permit(&web(), *release, &bytes, permission).unwrap();
        }
        editor
    }

    fn minimums(editor: &TargetsEditor) -> Vec<(u64, Option<u64>)> {
        let releases = editor.0.releases().map(Result::unwrap);
        releases
            .map(|(_, release, permission)| (release, permission.minimum))
            .collect()
    }

    #[test]
    fn a_minimum_stays_whatever_is_published_later() {
        let mut editor = editor(&[(1, None), (2, Some(2)), (3, None), (4, Some(1))]);
        assert_eq!(minimums(&editor), [(1, None), (2, Some(2)), (3, Some(2)), (4, Some(2))]);
        let refused = editor
            .permit(&web(), 1, b"", Permission::of(Digest::of(b"")))
            .unwrap_err();
        assert_eq!(refused.kind(), "narrowed");
    }

    #[test]
    fn a_minimum_outlives_the_release_that_it_came_with() {
        let list = |release: u64| Digest::of(&release.to_be_bytes());
        let mut editor = editor(&[(1, None), (2, Some(2))]);
        editor.keep_releases(|known| *known == list(1)).unwrap();
        assert_eq!(minimums(&editor), [(1, Some(2))]);
        editor.keep_releases(|_| false).unwrap();
        assert_eq!(
            minimums(&editor),
            [(1, Some(2))],
            "the last one stays, for what it says"
        );
        let mut plain = super::tests::editor(&[(1, None)]);
        plain.keep_releases(|_| false).unwrap();
        assert_eq!(minimums(&plain), []);
    }
}
