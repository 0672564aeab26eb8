//! Tokens, joining of nodes and operators, and renewing a node's certificate.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use potluck_model::api::{
    ErrorKind, JoinAnswer, JoinRequest, Labels, OperatorAnswer, RenewAnswer, RenewRequest, TokenAnswer, TokenRequest,
};
use potluck_model::assignment::Root;
use potluck_model::join::{JoinString, Token, fingerprint};
use potluck_model::{Digest, NodeId, UnixSeconds};
use schemars::JsonSchema;
use serde::Serialize;

use crate::app::App;
use crate::authority::{RequestedKey, random};
use crate::catalogue::{NODES_MAX, NewToken, Redeemed, RedeemedOperator, Redemption, TOKENS_MAX};
use crate::refusal::Refusal;
use crate::request::{CallingNode, CallingOperator, Input};
use crate::signing::Signing;

/// The most labels or facts of a node.
const LABELS_MAX: usize = 64;
/// The most bytes of the value of a label or fact.
const LABEL_BYTES_MAX: usize = 256;
const TOKEN_USES_MAX: u32 = 100_000;
const TOKEN_SECONDS_MAX: u64 = 366 * 86_400;
/// Ids that are tried until one is free; each is taken with a probability of less than 1 in 10^14.
const IDS_TRIED: usize = 4;

pub(super) async fn token(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
    Input(request): Input<TokenRequest>,
) -> Result<Json<TokenAnswer>, Refusal> {
    if request.uses == 0 || request.uses > TOKEN_USES_MAX {
        return Err(Refusal::bad(format!(
            "a join token has 1 to {TOKEN_USES_MAX} uses, not {}",
            request.uses
        )));
    }
    check_ttl(request.ttl_seconds)?;
    check_labels(&request.labels, "labels")?;
    let (uses, seconds) = (request.uses, request.ttl_seconds);
    let answer = make_token(
        &app,
        |hash, expires| NewToken {
            hash,
            uses,
            expires,
            labels: request.labels,
            approval: request.approval,
            operator: None,
        },
        seconds,
    )
    .await?;
    tracing::info!(%operator, uses, seconds, "join token made");
    Ok(answer)
}

/// Checks for how long a token is to be valid.
pub(super) fn check_ttl(seconds: u64) -> Result<(), Refusal> {
    if seconds == 0 || seconds > TOKEN_SECONDS_MAX {
        let days = TOKEN_SECONDS_MAX / 86_400;
        return Err(Refusal::bad(format!(
            "a join token is valid for 1 second to {days} days, not {seconds} seconds"
        )));
    }
    Ok(())
}

/// A new token, made of its hash and when it expires, and its join string.
pub(super) async fn make_token(
    app: &Arc<App>,
    make: impl FnOnce(Digest, UnixSeconds) -> NewToken,
    ttl_seconds: u64,
) -> Result<Json<TokenAnswer>, Refusal> {
    let mut secret = [0; 32];
    random(&mut secret).map_err(|fault| Refusal::internal(&fault))?;
    let token = Token(secret);
    let expires = UnixSeconds(UnixSeconds::now().0 + ttl_seconds);
    let new = make(token.hash(), expires);
    if !app.blocking(move |app| Ok(app.catalogue.add_token(new)?)).await? {
        return Err(Refusal::new(
            ErrorKind::Busy,
            format!("there are {TOKENS_MAX} join tokens already: wait until some expire"),
        ));
    }
    let join = JoinString {
        servers: app.advertised.clone(),
        ca: app.authority.fingerprint(),
        root: joining_root(app, None).digest(),
        token,
    };
    Ok(Json(TokenAnswer {
        join: join.to_string(),
        expires,
    }))
}

/// The trusted root for who joins: the one with this digest, else the one that pins the newest root of the publishers. So keys
/// that were replaced are of no use against nodes that join later.
fn joining_root(app: &App, wanted: Option<Digest>) -> Root {
    let roots = app.signing.as_ref().map(Signing::roots).unwrap_or_default();
    let mut root = app.authority.root().clone();
    for releases in roots {
        root = root.with_releases(releases);
        if Some(root.digest()) == wanted {
            break;
        }
    }
    root
}

/// Answer to a `JoinRequest`.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Joined {
    /// For a node.
    Node(JoinAnswer),
    /// For an operator.
    Operator(OperatorAnswer),
}

pub(super) async fn join(
    State(app): State<Arc<App>>,
    Input(request): Input<JoinRequest>,
) -> Result<Json<Joined>, Refusal> {
    let refused = |message: &str| Refusal::new(ErrorKind::Token, message);
    let token = Token::from_hex(&request.token).ok_or_else(|| refused("the join token is malformed"))?;
    check_labels(&request.facts, "facts")?;
    check_labels(&request.labels, "labels")?;
    // Before the token is used: a request that cannot succeed does not cost one of its uses.
    let key = RequestedKey::parse(&request.csr).map_err(Refusal::bad)?;
    if request.operator {
        return join_operator(&app, token.hash(), &key, request.root).await.map(Json);
    }
    let mut ids = Vec::new();
    while ids.len() < IDS_TRIED {
        let mut id = [0; 8];
        random(&mut id).map_err(|fault| Refusal::internal(&fault))?;
        ids.push(NodeId(u64::from_be_bytes(id)));
    }
    let redemption = Redemption {
        token: token.hash(),
        key: key.digest(),
        ids,
        facts: request.facts.clone(),
        labels: request.labels,
        replaces: request.replaces,
        now: UnixSeconds::now(),
    };
    let redeemed = app.blocking(move |app| Ok(app.catalogue.redeem(redemption)?)).await?;
    let (node, labels) = match redeemed {
        Redeemed::Admitted { node, labels } => (node, labels),
        Redeemed::Pending { node } => {
            let refusal = Refusal::pending(node, &key.digest());
            tracing::info!(%node, fingerprint = fingerprint(&key.digest()), "a node waits for approval");
            return Err(refusal);
        }
        Redeemed::Revoked => {
            return Err(Refusal::new(
                ErrorKind::Revoked,
                "the node that joined with this key was revoked: remove its data directory and join with a new join string",
            ));
        }
        Redeemed::Unknown => {
            return Err(refused(
                "this server does not know the join token: make one with `potluck join-token`",
            ));
        }
        Redeemed::Expired => {
            return Err(refused(
                "the join token has expired: make a new one with `potluck join-token`",
            ));
        }
        Redeemed::UsedUp => {
            return Err(refused(
                "the join token has been used up: make a new one with `potluck join-token`, with --uses for several nodes",
            ));
        }
        Redeemed::FleetFull => {
            let message = format!("this server has {NODES_MAX} nodes already, and takes no more");
            return Err(Refusal::new(ErrorKind::Busy, message));
        }
    };
    let certificate = app
        .authority
        .node(node, &key, UnixSeconds::now())
        .map_err(|fault| Refusal::internal(&fault))?;
    let hostname = request.facts.iter().find(|(key, _)| key.as_str() == "hostname");
    let hostname = hostname.map_or("", |(_, name)| name.as_str());
    tracing::info!(%node, hostname, labels = %label_text(&labels), "node joined");
    Ok(Json(Joined::Node(JoinAnswer {
        node,
        certificate,
        ca: app.authority.ca_pem().to_owned(),
        root: joining_root(&app, request.root),
    })))
}

async fn join_operator(
    app: &Arc<App>,
    token: Digest,
    key: &RequestedKey,
    wanted: Option<Digest>,
) -> Result<Joined, Refusal> {
    let (digest, now) = (key.digest(), UnixSeconds::now());
    let redeemed = app
        .blocking(move |app| Ok(app.catalogue.redeem_operator(token, digest, now)?))
        .await?;
    let again = "make another with `potluck operator add`";
    let operator = match redeemed {
        RedeemedOperator::Added(name) => name,
        RedeemedOperator::Unknown => {
            let message = format!("this server does not know the join string as one for an operator: {again}");
            return Err(Refusal::new(ErrorKind::Token, message));
        }
        RedeemedOperator::Expired => {
            return Err(Refusal::new(
                ErrorKind::Token,
                format!("the join string has expired: {again}"),
            ));
        }
        RedeemedOperator::UsedUp => {
            return Err(Refusal::new(
                ErrorKind::Token,
                format!("the join string has been used: {again}"),
            ));
        }
    };
    let certificate = app
        .authority
        .operator(&operator, key, now)
        .map_err(|fault| Refusal::internal(&fault))?;
    tracing::info!(operator, fingerprint = fingerprint(&digest), "operator added");
    Ok(Joined::Operator(OperatorAnswer {
        operator,
        certificate,
        ca: app.authority.ca_pem().to_owned(),
        root: joining_root(app, wanted),
    }))
}

pub(super) async fn renew(
    State(app): State<Arc<App>>,
    CallingNode(node): CallingNode,
    Input(request): Input<RenewRequest>,
) -> Result<Json<RenewAnswer>, Refusal> {
    let key = RequestedKey::parse(&request.csr).map_err(Refusal::bad)?;
    let known = app.blocking(move |app| Ok(app.catalogue.standing(node)?)).await?;
    if known.is_none_or(|(joined_with, _)| joined_with != key.digest()) {
        let message = "the certificate signing request is for another key than the node joined with";
        return Err(Refusal::new(ErrorKind::Forbidden, message));
    }
    let certificate = app
        .authority
        .node(node, &key, UnixSeconds::now())
        .map_err(|fault| Refusal::internal(&fault))?;
    tracing::info!(%node, "certificate renewed");
    Ok(Json(RenewAnswer { certificate }))
}

/// Checks the limits of labels or facts.
pub(super) fn check_labels(labels: &Labels, what: &str) -> Result<(), Refusal> {
    if labels.len() > LABELS_MAX {
        return Err(Refusal::bad(format!(
            "{} {what}, at most {LABELS_MAX} are kept",
            labels.len()
        )));
    }
    match labels.iter().find(|(_, value)| value.len() > LABEL_BYTES_MAX) {
        Some((key, value)) => Err(Refusal::bad(format!(
            "the value of {key} in {what} has {} bytes, at most {LABEL_BYTES_MAX} are kept",
            value.len()
        ))),
        None => Ok(()),
    }
}

/// Labels on one line.
pub(super) fn label_text(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}
