//! What was published before: for the number of the next release.

use potluck_model::api::{Configuration, ErrorKind, Release};
use potluck_model::{ConfigurationName, VersionName};

use crate::exit::Failure;
use crate::operator::Operator;

/// The releases of a configuration so far.
pub(crate) struct Previous {
    /// Newest first.
    releases: Vec<Release>,
}

impl Previous {
    /// Asks the server.
    pub(crate) async fn of(operator: &Operator, name: &ConfigurationName) -> Result<Self, Failure> {
        let path = format!("/v1/configurations/{name}");
        let releases = match operator.client.get::<Configuration>(&path).await {
            Ok(configuration) => configuration.releases,
            Err(fault) if fault.kind() == Some(ErrorKind::NotFound) => Vec::new(),
            Err(fault) => return Err(fault.into()),
        };
        Ok(Self { releases })
    }

    /// The latest release.
    pub(crate) fn latest(&self) -> Option<&Release> {
        self.releases.iter().max_by_key(|release| release.release)
    }

    /// The release that is called so already.
    pub(crate) fn named(&self, version: &VersionName) -> Option<&Release> {
        self.releases
            .iter()
            .find(|release| release.version.as_ref() == Some(version))
    }
}
