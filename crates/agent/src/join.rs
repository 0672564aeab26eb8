//! Joining a fleet: once, with a join string.

use std::net::IpAddr;

use potluck_model::api::{JoinAnswer, JoinRequest, Labels};
use potluck_model::join::JoinString;
use potluck_net::api::{ApiFault, Client};
use potluck_net::tls;
use tokio::time::Instant;

use crate::GIVE_UP;
use crate::home::{Home, HomeError, Joined};
use crate::outage::Outage;

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
    /// The server refused, or could not be reached.
    #[error("cannot join: {0}")]
    Server(#[from] ApiFault),
    /// The server's answer does not fit the join string.
    #[error("cannot join: {0}; the server is not the one that the join string was made on, or it was tampered with")]
    Untrusted(String),
    /// The identity cannot be kept.
    #[error(transparent)]
    Home(#[from] HomeError),
}

/// The identity in `home`, or a new one with the join string.
pub(crate) async fn identity(
    home: &Home,
    join: Option<&JoinString>,
    facts: &Labels,
    labels: &Labels,
    bind: Option<IpAddr>,
    once: bool,
) -> Result<Joined, JoinFault> {
    if let Some(mut joined) = home.joined()? {
        if let Some(join) = join {
            if join.ca != joined.ca_digest {
                return Err(JoinFault::OtherFleet {
                    known: joined.ca_digest.short(),
                    asked: join.ca.short(),
                    dir: home.path("").display().to_string(),
                });
            }
            // The same fleet: its server may have moved.
            if join.servers != joined.servers {
                joined.servers.clone_from(&join.servers);
                home.save_joined(&joined)?;
            }
        }
        return Ok(joined);
    }
    let join = join.ok_or(JoinFault::NoJoinString)?;
    let untrusted = |error: tls::TlsError| JoinFault::Untrusted(error.to_string());
    let (key, csr) = tls::generate_key_and_csr();
    let request = JoinRequest {
        token: join.token.to_hex(),
        csr,
        facts: facts.clone(),
        labels: labels.clone(),
    };
    let client = Client::for_joining(join).bound_to(bind);
    let answer = ask(&client, &request, once).await?;
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
    };
    tls::Identity::from_pem(&joined.certificate, &joined.key, &joined.ca).map_err(untrusted)?;
    home.save_joined(&joined)?;
    tracing::info!(node = %joined.node, "joined the fleet");
    Ok(joined)
}

/// Asks to be let in, again and again while the server cannot be reached.
async fn ask(client: &Client, request: &JoinRequest, once: bool) -> Result<JoinAnswer, ApiFault> {
    let give_up = Instant::now() + GIVE_UP;
    let mut outage = Outage::default();
    loop {
        match client.join(request).await {
            Ok(answer) => return Ok(answer),
            Err(fault) if !fault.is_passing() || (once && Instant::now() >= give_up) => return Err(fault),
            Err(fault) => outage.failed(&fault, Instant::now()),
        };
        tokio::time::sleep(outage.back_off()).await;
    }
}
