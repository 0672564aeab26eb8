//! What operator commands share: the connection to the server, and what its refusals mean for the exit code.

use std::fmt::Write;
use std::future::Future;

use potluck_model::api::{NodeEvents, NodeInfo};
use potluck_model::chunk_list::META_BYTES_MAX;
use potluck_model::list::List;
use potluck_model::trace::Event;
use potluck_model::{Digest, NodeId};
use potluck_net::api::{ApiFault, Client};
use potluck_net::tls::{self, Identity};

use crate::arguments::Global;
use crate::credential::Credential;
use crate::exit::{Doing, Exit, Failure, chain};

/// How many events one request asks for.
const EVENTS_PER_REQUEST: u32 = 5_000;

/// A connection to the server with the operator's credential.
#[derive(Clone)]
pub(crate) struct Operator {
    /// The client.
    pub(crate) client: Client,
    /// Digest of the publishers' root that the operator's join string vouched for.
    pub(crate) releases: Option<Digest>,
}

impl From<ApiFault> for Failure {
    fn from(fault: ApiFault) -> Self {
        let exit = match fault {
            ApiFault::Unreachable { .. } | ApiFault::Silent { .. } | ApiFault::Broken { .. } => Exit::Unreachable,
            _ => Exit::Failure,
        };
        Self::new(chain(&fault)).exit(exit)
    }
}

impl Operator {
    /// With the credential that `--data` or the environment leads to.
    pub(crate) fn find(global: &Global) -> Result<Self, Failure> {
        Self::with(Credential::find(global.data.as_deref())?)
    }

    /// With this credential.
    pub(crate) fn with(credential: Credential) -> Result<Self, Failure> {
        let doing = || "using the operator's credential".to_owned();
        let identity = Identity::from_pem(&credential.certificate, &credential.key, &credential.ca).doing(doing)?;
        let tls = tls::client_config(Some(&identity), &identity.ca).doing(doing)?;
        Ok(Self {
            client: Client::new(credential.servers, tls),
            releases: credential.releases,
        })
    }

    /// The server's address, for people.
    pub(crate) fn server(&self) -> &str {
        self.client.servers().first().map_or("", String::as_str)
    }

    /// A node by its id, by the beginning of its id, or by its host name.
    pub(crate) async fn node(&self, node: &str) -> Result<NodeInfo, Failure> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if node.is_empty() || !node.chars().all(good) {
            return Err(Failure::new(format!(
                "{node:?} is neither a node id, nor the beginning of one, nor a host name; see `potluck nodes`"
            ))
            .exit(Exit::Usage));
        }
        Ok(self.client.get(&format!("/v1/nodes/{node}")).await?)
    }

    /// All events of a node that the server keeps, in the order in which it got them.
    pub(crate) async fn events(&self, node: NodeId, list: Option<Digest>) -> Result<Vec<Event>, Failure> {
        Ok(self.events_after(node, list, None).await?.0)
    }

    /// Likewise, those that came after the event with the number `after`; and the number of the last.
    pub(crate) async fn events_after(
        &self,
        node: NodeId,
        list: Option<Digest>,
        mut after: Option<u64>,
    ) -> Result<(Vec<Event>, Option<u64>), ApiFault> {
        let mut events = Vec::new();
        loop {
            let mut path = format!("/v1/nodes/{node}/events?limit={EVENTS_PER_REQUEST}");
            if let Some(after) = after {
                let _ = write!(path, "&after={after}");
            }
            if let Some(list) = list {
                let _ = write!(path, "&list={list}");
            }
            let page: NodeEvents = self.client.get(&path).await?;
            events.extend(page.events);
            match page.next {
                // A server that does not get on must not keep us here.
                Some(next) if Some(next) > after => after = Some(next),
                _ => return Ok((events, page.last.or(after))),
            }
        }
    }

    /// A list by its digest.
    pub(crate) async fn list(&self, digest: &Digest) -> Result<List, Failure> {
        let bytes = self
            .client
            .content(digest, META_BYTES_MAX as usize)
            .await
            .map_err(|fault| Failure::from(fault).while_doing(format!("reading the list {digest}")))?;
        List::from_bytes(&bytes).doing(|| format!("reading the list {digest}"))
    }
}

/// Runs one operator command to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "starting the asynchronous runtime".into())?
        .block_on(future)
}
