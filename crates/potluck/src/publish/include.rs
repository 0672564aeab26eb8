//! The releases that a configuration includes: which they are is found out when it is published.

use std::collections::BTreeMap;

use potluck_model::api::{Configuration, ErrorKind};
use potluck_model::configuration::{Include, IncludeFault, includes, nearest};
use potluck_model::list::List;

use crate::exit::Failure;
use crate::operator::Operator;

/// The lists of what is included, or why there is none.
#[derive(Default)]
pub(super) struct Found {
    lists: BTreeMap<Include, Result<List, IncludeFault>>,
}

impl Found {
    /// Asks the server for all that `toml` includes.
    pub(super) async fn by(operator: &Operator, toml: Option<&str>) -> Result<Self, Failure> {
        let mut lists = BTreeMap::new();
        for include in toml.map(includes).unwrap_or_default() {
            let found = find(operator, &include)
                .await
                .map_err(|failure| failure.while_doing(format!("looking for {include}, which is included")))?;
            lists.insert(include, found);
        }
        Ok(Self { lists })
    }

    pub(super) fn get(&self, include: &Include) -> Result<List, IncludeFault> {
        self.lists.get(include).cloned().unwrap_or_else(|| {
            Err(IncludeFault {
                message: format!(
                    "{include} was not looked for: configuration.toml was changed meanwhile; publish again"
                ),
                suggestion: None,
            })
        })
    }
}

async fn find(operator: &Operator, include: &Include) -> Result<Result<List, IncludeFault>, Failure> {
    let name = &include.configuration;
    let releases = match operator
        .client
        .get::<Configuration>(&format!("/v1/configurations/{name}"))
        .await
    {
        Ok(configuration) => configuration.releases,
        Err(fault) if fault.kind() == Some(ErrorKind::NotFound) => {
            let known: Vec<Configuration> = operator.client.get("/v1/configurations").await?;
            let names = known.iter().map(|configuration| configuration.name.as_str());
            return Ok(Err(IncludeFault {
                message: format!("the server has no configuration {:?} to include", name.as_str()),
                suggestion: nearest(name.as_str(), names),
            }));
        }
        Err(fault) => return Err(fault.into()),
    };
    let numbered = releases
        .iter()
        .map(|release| (release.release, release.version.as_ref()));
    let chosen = include.wanted.of(numbered);
    let Some(release) = releases.iter().find(|release| Some(release.release) == chosen) else {
        let newest = releases.iter().map(|release| release.release).max();
        let newest = newest.map_or_else(
            || "it has none".to_owned(),
            |newest| format!("its newest is release {newest}"),
        );
        return Ok(Err(IncludeFault {
            message: format!("{name} has no release that {:?} means; {newest}", include.to_string()),
            suggestion: None,
        }));
    };
    Ok(Ok(operator.list(&release.list).await?))
}
