//! What publishers permit, as the executing process itself has verified it. Its floors are in `releases/` of its directory.

use std::convert::Infallible;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use potluck_model::api::ReleaseTrust;
use potluck_model::assignment::AssignedRelease;
use potluck_model::{Digest, UnixSeconds};
use potluck_trust::{Client, ClientError, Fault, Role, Source, Target, lifetime};

use crate::file;
use crate::job::Job;

/// A file with the digest of the root that it began with.
const BEGAN: &str = "began";

/// Why a release is not one that publishers permit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleasesError {
    /// The server gave no metadata, or not the root that is pinned.
    #[error(
        "[root] none of the publishers' roots has the digest {0} that this node's trusted root names: \
         the server was tampered with, or this node belongs to another fleet"
    )]
    Root(Digest),
    /// The metadata, or what it says. The word in brackets is its kind (docs/trust.md).
    #[error("[{kind}] {0}", kind = .0.kind())]
    Fault(#[from] Fault),
    /// What is believed cannot be kept.
    #[error("{0}")]
    Keep(String),
}

impl ReleasesError {
    /// Whether a publisher excludes this release or this node: that ends what was adopted, too.
    pub(crate) fn is_narrowed(&self) -> bool {
        matches!(self, Self::Fault(Fault::Narrowed(_)))
    }
}

impl From<ClientError<Infallible>> for ReleasesError {
    fn from(error: ClientError<Infallible>) -> Self {
        match error {
            ClientError::Fault(fault) => Self::Fault(fault),
            other => Self::Keep(other.to_string()),
        }
    }
}

/// The metadata of a job.
struct Bundle<'a>(&'a ReleaseTrust);

impl Source for Bundle<'_> {
    type Error = Infallible;

    fn fetch(&mut self, role: Role, version: Option<u64>, _: u64) -> Result<Option<Vec<u8>>, Infallible> {
        let text = match role {
            Role::Root => version
                .and_then(|version| usize::try_from(version).ok()?.checked_sub(1))
                .and_then(|index| self.0.roots.get(index)),
            Role::Timestamp => Some(&self.0.timestamp),
            Role::Snapshot => Some(&self.0.snapshot),
            Role::Targets => self.0.targets.as_ref(),
        };
        Ok(text.map(|text| text.clone().into_bytes()))
    }
}

/// What publishers have signed, with the floors of this process.
pub(crate) struct Releases(Client);

impl Releases {
    /// Opens what is believed, or begins with the pinned root. With `unpinned`, the machine may have become a node of another
    /// fleet: what belongs to another root is not believed then.
    pub(crate) fn open(dir: &Path, pinned: Digest, job: &Job, unpinned: bool) -> Result<Self, ReleasesError> {
        let trust = job.trust.as_ref().ok_or(ReleasesError::Root(pinned))?;
        let dir = dir.join("releases");
        let keep = |error: std::io::Error| ReleasesError::Keep(format!("cannot use {}: {error}", dir.display()));
        let began = dir.join(BEGAN);
        let other = fs::read_to_string(&began).is_ok_and(|known| known != pinned.to_string());
        if unpinned && other {
            fs::remove_dir_all(&dir).map_err(keep)?;
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(keep)?;
        if let Some(client) = Client::open::<Infallible>(&dir)? {
            return Ok(Self(client));
        }
        // The first one, or the one that was the newest when the node joined.
        let mut roots = trust.roots.iter();
        let first = roots.find(|root| Digest::of(root.as_bytes()) == pinned);
        let first = first.ok_or(ReleasesError::Root(pinned))?;
        file::replace(&began, pinned.to_string().as_bytes()).map_err(keep)?;
        Ok(Self(Client::begin::<Infallible>(&dir, first.as_bytes())?))
    }

    /// When the timestamp was signed that was believed last: it is not earlier than that, whatever the clock says.
    pub(crate) fn last_signed(&self) -> Result<UnixSeconds, ReleasesError> {
        let known = self.0.last_timestamp::<Infallible>()?;
        Ok(known.map_or(UnixSeconds(0), |known| {
            UnixSeconds(known.expires().0.saturating_sub(lifetime(Role::Timestamp)))
        }))
    }

    /// The target of the release that a job is about, if publishers permit this node to execute it.
    pub(crate) fn permitted(
        &mut self,
        job: &Job,
        release: &AssignedRelease,
        now: UnixSeconds,
    ) -> Result<Target, ReleasesError> {
        let trust = job.trust.as_ref().ok_or_else(|| Fault::Missing("metadata".into()))?;
        if let Err(error) = self.0.refresh(&mut Bundle(trust), now) {
            // What publishers have forbidden stays forbidden, whatever comes after it.
            if let Some(known) = self.0.last_targets::<Infallible>()?
                && let Some(forbidden) = known
                    .document
                    .forbids(job.node, &release.configuration, &release.list)?
            {
                return Err(forbidden.into());
            }
            return Err(error.into());
        }
        Ok(self.0.trusted().permitted(job.node, release)?.clone())
    }
}

#[cfg(test)]
mod tests;
