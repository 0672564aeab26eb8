//! Who signs a release: the server, or this machine with a publisher's key.

use std::collections::BTreeSet;

use potluck_model::api::{ErrorKind, PublishRequest, Release, TrustAnswer};
use potluck_model::list::List;
use potluck_model::{ConfigurationName, Digest, NodeId, UnixSeconds};
use potluck_net::api::ApiFault;
use potluck_trust::{Change, Permission};

use crate::exit::{Doing, Failure};
use crate::operator::Operator;
use crate::publisher::{Fleet, KeyPlace};

/// A release below which nothing of its configuration is executed any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Minimum {
    /// The one that is published.
    This,
    /// The one with this number.
    Release(u64),
}

impl std::str::FromStr for Minimum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "this" => Ok(Self::This),
            number => number
                .parse()
                .map(Self::Release)
                .map_err(|_| "expected the number of a release, or \"this\" for the one that is published".to_owned()),
        }
    }
}

/// Where a release may be executed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Narrowing {
    /// By these nodes alone.
    pub(crate) only: Option<BTreeSet<NodeId>>,
    /// And nothing below.
    pub(crate) minimum: Option<Minimum>,
}

impl Narrowing {
    /// Whether nothing is said.
    pub(crate) fn is_empty(&self) -> bool {
        self.only.is_none() && self.minimum.is_none()
    }

    /// The number of the minimum, for a release with this number.
    pub(crate) fn minimum(&self, release: u64) -> Option<u64> {
        self.minimum.map(|minimum| match minimum {
            Minimum::This => release,
            Minimum::Release(number) => number,
        })
    }

    /// From what a person wrote: full ids are taken as they are, all else is for the server to find.
    pub(crate) async fn find(operator: &Operator, only: &[String], minimum: Option<Minimum>) -> Result<Self, Failure> {
        let mut nodes = BTreeSet::new();
        for text in only {
            nodes.insert(match text.parse() {
                Ok(node) => node,
                Err(_) => operator.node(text).await?.node,
            });
        }
        Ok(Self {
            only: (!nodes.is_empty()).then_some(nodes),
            minimum,
        })
    }
}

/// Why no release was made.
pub(super) enum Unmade {
    /// The server refused.
    Refused(ApiFault),
    /// It could not be signed.
    Failed(Failure),
}

impl Unmade {
    /// For people.
    pub(super) fn into_failure(self, name: &ConfigurationName) -> Failure {
        let failure = match self {
            Self::Refused(fault) => Failure::from(fault),
            Self::Failed(failure) => failure,
        };
        failure.while_doing(format!("publishing {name}"))
    }
}

impl From<ApiFault> for Unmade {
    fn from(fault: ApiFault) -> Self {
        Self::Refused(fault)
    }
}

impl From<Failure> for Unmade {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A release that was made, or that waits for signatures: those that it lacks.
pub(super) struct Made {
    pub(super) release: Release,
    pub(super) lacking: Vec<String>,
}

/// Makes a release of a list that has been uploaded. `known` is that release if it is there already, and only what may be
/// done with it changes.
pub(super) async fn make(
    operator: &Operator,
    place: &KeyPlace,
    (list, document): (&List, &[u8]),
    narrowing: &Narrowing,
    known: Option<&Release>,
) -> Result<Made, Unmade> {
    let digest = Digest::of(document);
    let path = format!("/v1/configurations/{}/releases", list.configuration);
    let request = PublishRequest {
        list: digest,
        only: narrowing.only.clone(),
        minimum: narrowing.minimum(list.release),
    };
    let fault = match operator.client.post::<_, Release>(&path, &request).await {
        Ok(release) => {
            return Ok(Made {
                release,
                lacking: Vec::new(),
            });
        }
        Err(fault) if fault.kind() == Some(ErrorKind::Forbidden) => fault,
        Err(fault) => return Err(fault.into()),
    };
    let ring = place.open()?;
    let fleet = Fleet::of(operator, &ring).await?;
    if fleet.is_signed_by_server() {
        return Err(fault.into());
    }
    let permission = Permission {
        list: digest,
        only: request.only,
        minimum: request.minimum,
    };
    let signing = || format!("signing release {} of {}", list.release, list.configuration);
    let mut editor = fleet.next_targets(UnixSeconds::now())?;
    editor
        .permit(&list.configuration, list.release, document, permission)
        .doing(signing)?;
    let mut change = Change {
        root: None,
        targets: Some(editor.finish().doing(signing)?),
    };
    fleet.sign(&ring, &mut change)?;
    let releases: &[Digest] = if known.is_some() { &[] } else { &[digest] };
    let answer: TrustAnswer = fleet.submit(operator, &ring, &change, releases).await?;
    let release = answer.releases.into_iter().next().or_else(|| known.cloned());
    let release = release.ok_or_else(|| Failure::new(format!("{}: the server names no release", signing())))?;
    Ok(Made {
        release,
        lacking: answer.lacking,
    })
}
