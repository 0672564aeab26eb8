//! Operators, and the log of what they did.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use potluck_model::UnixSeconds;
use potluck_model::api::{
    ErrorKind, Labels, OPERATOR_NAME_MAX, OperatorInfo, OperatorRequest, TokenAnswer, is_operator_name,
};
use potluck_model::audit::{AUDIT_ENTRIES_MAX, AuditLog};
use potluck_model::join::fingerprint;
use serde::Deserialize;

use super::join::{check_ttl, make_token};
use crate::app::App;
use crate::catalogue::NewToken;
use crate::refusal::Refusal;
use crate::request::{Arguments, CallingOperator, Input, Segment};
use crate::server::LOCAL_OPERATOR;

pub(super) async fn add(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
    Input(OperatorRequest { name, ttl_seconds }): Input<OperatorRequest>,
) -> Result<Json<TokenAnswer>, Refusal> {
    if !is_operator_name(&name) {
        return Err(Refusal::bad(format!(
            "{name:?} is no name for an operator: 1 to {OPERATOR_NAME_MAX} lower-case letters, digits and -"
        )));
    }
    refuse_local(&name)?;
    check_ttl(ttl_seconds)?;
    let answer = make_token(
        &app,
        |hash, expires| NewToken {
            hash,
            uses: 1,
            expires,
            labels: Labels::new(),
            approval: false,
            operator: Some(name.clone()),
        },
        ttl_seconds,
    )
    .await?;
    tracing::info!(%operator, name, "join string for an operator made");
    Ok(answer)
}

pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Vec<OperatorInfo>>, Refusal> {
    let records = app.blocking(|app| Ok(app.catalogue.operators()?)).await?;
    let infos = records.into_iter().map(|record| OperatorInfo {
        fingerprint: fingerprint(&record.key),
        name: record.name,
        added: record.added,
        removed: record.removed,
    });
    Ok(Json(infos.collect()))
}

pub(super) async fn remove(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
    Segment(name): Segment<String>,
) -> Result<StatusCode, Refusal> {
    refuse_local(&name)?;
    let removed = name.clone();
    let known = app
        .blocking(move |app| Ok(app.catalogue.remove_operator(&removed, UnixSeconds::now())?))
        .await?;
    if !known {
        let name: String = name.chars().take(80).collect();
        return Err(Refusal::not_found(format!(
            "there is no operator {name:?}; `potluck operator list` lists all"
        )));
    }
    tracing::warn!(%operator, name, "operator removed");
    Ok(StatusCode::NO_CONTENT)
}

/// The operator at the server is whoever can read its data directory.
fn refuse_local(name: &str) -> Result<(), Refusal> {
    if name == LOCAL_OPERATOR {
        let message = format!(
            "{LOCAL_OPERATOR} is the operator at the server itself: its credential is in the server's data directory, and made \
             anew at a start without it"
        );
        return Err(Refusal::new(ErrorKind::Conflict, message));
    }
    Ok(())
}

#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

pub(super) async fn audit(
    State(app): State<Arc<App>>,
    Arguments(page): Arguments<Page>,
) -> Result<Json<AuditLog>, Refusal> {
    let limit = page.limit.unwrap_or(AUDIT_ENTRIES_MAX).clamp(1, AUDIT_ENTRIES_MAX);
    app.blocking(move |app| Ok(app.catalogue.audit_log(page.after, limit)?))
        .await
        .map(Json)
}
