//! What was published before: for the number of the next release, and so that files are cut as they were.

use std::collections::HashMap;

use potluck_model::api::{Configuration, ErrorKind, Release};
use potluck_model::chunk_list::{ChunkList, META_BYTES_MAX};
use potluck_model::list::{Entry, List};
use potluck_model::{ConfigurationName, VersionName};
use potluck_store::chunking::{average_for, average_of};

use super::scan::{Kind, Scan};
use crate::exit::{Doing, Failure};
use crate::operator::Operator;

/// The releases of a configuration so far.
pub(crate) struct Previous {
    /// Newest first.
    releases: Vec<Release>,
    /// The list of the latest.
    list: Option<List>,
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
        let list = match releases.iter().max_by_key(|release| release.release) {
            Some(latest) => Some(operator.list(&latest.list).await?),
            None => None,
        };
        Ok(Self { releases, list })
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

    /// The average chunk, in bytes, for each file of the scan, in order: that of the previous release if it still fits, so
    /// that the two share chunks.
    pub(crate) async fn averages(&self, operator: &Operator, scan: &Scan) -> Result<Vec<u32>, Failure> {
        let entries = self.list.iter().flat_map(|list| &list.entries);
        let before: HashMap<&str, _> = entries
            .filter_map(|entry| match entry {
                Entry::File {
                    path,
                    size,
                    chunks: Some(chunks),
                    ..
                } => Some((path.as_str(), (*size, *chunks))),
                _ => None,
            })
            .collect();
        let mut averages = Vec::new();
        for entry in &scan.entries {
            let Kind::File { size, .. } = entry.kind else { continue };
            let natural = average_for(size, None);
            let average = match before.get(entry.path.as_str()) {
                // Files of the smallest average were cut with it already, unless they have shrunk a lot: no need to ask.
                Some((old, chunks)) if average_for(*old, None).max(natural) > average_for(0, None) => {
                    let bytes = operator.client.content(chunks, META_BYTES_MAX as usize).await?;
                    let chunks = ChunkList::from_bytes(&bytes)
                        .doing(|| format!("reading how {} was cut in the latest release", entry.path))?;
                    average_for(size, average_of(chunks.chunks().iter().map(|chunk| chunk.len)))
                }
                _ => natural,
            };
            averages.push(average);
        }
        Ok(averages)
    }
}
