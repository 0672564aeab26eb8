//! Joining a fleet: once, with a join string.

use std::net::IpAddr;
use std::time::Duration;

use potluck_model::NodeId;
use potluck_model::api::{ErrorKind, JoinAnswer, JoinRequest, Labels};
use potluck_model::join::{JoinString, fingerprint};
use potluck_net::api::{ApiFault, Client};
use potluck_net::tls;
use potluck_provision::Provisioner;
use tokio::time::Instant;

use crate::GIVE_UP;
use crate::home::{Home, HomeError, Joined, Joining};
use crate::machine::Machine;
use crate::outage::Outage;

/// How often a node that waits for approval asks.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// Why the node could not join. Nothing has been kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinFault {
    /// No join string, and no identity from before.
    #[error(
        "this node has not joined a fleet: make a join string on the server with `potluck join-token`, and give it with --join or --join-file"
    )]
    NoJoinString,
    /// The node belongs to another fleet.
    #[error(
        "this node has joined another fleet already (CA {known}, the join string is for CA {asked}): use another --data, or remove {dir} to leave the old fleet"
    )]
    OtherFleet {
        /// Fingerprint of the CA that is known.
        known: String,
        /// Fingerprint of the CA of the join string.
        asked: String,
        /// The data directory.
        dir: String,
    },
    /// The data directory was copied from another machine.
    #[error(
        "this data directory is that of node {node}, which joined on another machine (its {mark} differs): one identity must not be \
         in two places. Give a join string with --join-file to join this machine as a node of its own, which an operator \
         approves; or, if the machine itself was changed, revoke {node} and remove {dir}"
    )]
    OtherMachine {
        /// The node.
        node: NodeId,
        /// What differs.
        mark: String,
        /// The data directory.
        dir: String,
    },
    /// The server refused, or could not be reached.
    #[error("cannot join: {0}")]
    Server(#[from] ApiFault),
    /// The server's answer does not fit the join string.
    #[error("cannot join: {0}; the server is not the one that the join string was made on, or it was tampered with")]
    Untrusted(String),
    /// The executing process would go on to believe that this machine is the old node.
    #[error("cannot make this machine another node than before: {0}")]
    Forget(std::io::Error),
    /// The identity cannot be kept.
    #[error(transparent)]
    Home(#[from] HomeError),
}

/// What the node says when it joins.
pub(crate) struct Applicant<'a> {
    /// The join string, if there is one.
    pub(crate) join: Option<&'a JoinString>,
    pub(crate) facts: &'a Labels,
    pub(crate) labels: &'a Labels,
    pub(crate) machine: &'a Machine,
    pub(crate) provisioner: &'a Provisioner,
    pub(crate) bind: Option<IpAddr>,
    pub(crate) once: bool,
}

/// The identity in `home`, or a new one with the join string.
pub(crate) async fn identity(home: &Home, applicant: &Applicant<'_>) -> Result<Joined, JoinFault> {
    let Some(mut joined) = home.joined()? else {
        let join = applicant.join.ok_or(JoinFault::NoJoinString)?;
        return admit(home, applicant, join, None).await;
    };
    if let Some(join) = applicant.join
        && join.ca != joined.ca_digest
    {
        return Err(JoinFault::OtherFleet {
            known: joined.ca_digest.short(),
            asked: join.ca.short(),
            dir: home.path("").display().to_string(),
        });
    }
    if let Some(mark) = joined.machine.differs_in(applicant.machine) {
        let Some(join) = applicant.join else {
            return Err(JoinFault::OtherMachine {
                node: joined.node,
                mark: mark.to_owned(),
                dir: home.path("").display().to_string(),
            });
        };
        tracing::warn!(
            node = %joined.node,
            mark,
            "the data directory is that of a node that joined on another machine: joining as a node of its own"
        );
        return admit(home, applicant, join, Some(&joined)).await;
    }
    let mut changed = joined.machine.learn(applicant.machine);
    // The same fleet: its server may have moved.
    if let Some(join) = applicant.join
        && join.servers != joined.servers
    {
        joined.servers.clone_from(&join.servers);
        changed = true;
    }
    if changed {
        home.save_joined(&joined)?;
    }
    Ok(joined)
}

/// Joins, as another node than `replaces`.
async fn admit(
    home: &Home,
    applicant: &Applicant<'_>,
    join: &JoinString,
    replaces: Option<&Joined>,
) -> Result<Joined, JoinFault> {
    let untrusted = |error: tls::TlsError| JoinFault::Untrusted(error.to_string());
    let token = join.token.hash();
    let key = match home.joining() {
        // It has asked before. Not so a copy of who has.
        Some(joining)
            if joining.token == token
                && joining.machine.differs_in(applicant.machine).is_none()
                && replaces.is_none_or(|old| old.key != joining.key) =>
        {
            joining.key
        }
        _ => {
            let (key, _) = tls::generate_key_and_csr();
            home.save_joining(&Joining {
                token,
                key: key.clone(),
                machine: applicant.machine.clone(),
            })?;
            key
        }
    };
    let request = JoinRequest {
        token: join.token.to_hex(),
        csr: tls::csr_of_key(&key).map_err(untrusted)?,
        facts: applicant.facts.clone(),
        labels: applicant.labels.clone(),
        replaces: replaces.map(|old| old.node),
        operator: false,
        root: Some(join.root),
    };
    let fingerprint = fingerprint(&tls::key_digest(&key).map_err(untrusted)?);
    let client = Client::for_joining(join).bound_to(applicant.bind);
    let answer = ask(&client, &request, &fingerprint, applicant.once).await?;
    if answer.root.digest() != join.root {
        return Err(JoinFault::Untrusted(
            "the trusted root does not have the digest that the join string names".into(),
        ));
    }
    tls::ca_from_pem(&answer.ca, join.ca).map_err(untrusted)?;
    let joined = Joined {
        node: answer.node,
        servers: join.servers.clone(),
        ca: answer.ca,
        ca_digest: join.ca,
        certificate: answer.certificate,
        key,
        root: answer.root,
        machine: applicant.machine.clone(),
    };
    tls::Identity::from_pem(&joined.certificate, &joined.key, &joined.ca).map_err(untrusted)?;
    if replaces.is_some() {
        home.forget_node()?;
        applicant.provisioner.forget().map_err(JoinFault::Forget)?;
    }
    home.save_joined(&joined)?;
    home.forget_joining()?;
    tracing::info!(node = %joined.node, fingerprint, "joined the fleet");
    Ok(joined)
}

/// Asks to be let in, again and again while the server cannot be reached, or an operator has to decide.
async fn ask(client: &Client, request: &JoinRequest, fingerprint: &str, once: bool) -> Result<JoinAnswer, ApiFault> {
    let mut give_up = Instant::now() + GIVE_UP;
    let mut outage = Outage::default();
    let mut said = false;
    loop {
        match client.join(request).await {
            Ok(answer) => return Ok(answer),
            Err(fault) if fault.kind() == Some(ErrorKind::Pending) => {
                outage.ended();
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(
                        fingerprint,
                        "{fault}; `potluck nodes` there must show the same fingerprint. Waiting"
                    );
                }
                tokio::time::sleep(ASK_AGAIN).await;
                give_up = Instant::now() + GIVE_UP;
                continue;
            }
            Err(fault) if !fault.is_passing() || (once && Instant::now() >= give_up) => return Err(fault),
            Err(fault) => outage.failed(&fault, Instant::now()),
        };
        tokio::time::sleep(outage.back_off()).await;
    }
}
