//! Writes down what operators do, before it is done.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::middleware::Next;
use axum::response::Response;
use potluck_model::audit::AUDIT_BODY_BYTES_MAX;
use potluck_model::{Digest, UnixSeconds};

use crate::app::App;
use crate::catalogue::NewAuditEntry;
use crate::refusal::Refusal;
use crate::request::Incoming;

/// Carries the request out once it is in the log. One that is not carried out gets a second entry that says so.
pub(crate) async fn run(app: &Arc<App>, operator: String, request: Request, next: Next) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let incoming = Incoming::from_request(Request::from_parts(parts.clone(), body), app).await?;
    let bytes = incoming.whole().await?;
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let asked = NewAuditEntry {
        operator,
        request: format!("{} {path}", parts.method),
        body: described(&bytes),
        refused: None,
        now: UnixSeconds::now(),
    };
    let entry = asked.clone();
    let number = app.blocking(move |app| Ok(app.catalogue.audit(entry)?)).await?;
    let response = next.run(Request::from_parts(parts, Body::from(bytes))).await;
    if !response.status().is_success() {
        let refused = NewAuditEntry {
            body: format!("refused: {}", response.status()),
            refused: Some(number),
            now: UnixSeconds::now(),
            ..asked
        };
        app.blocking(move |app| Ok(app.catalogue.audit(refused)?)).await?;
    }
    Ok(response)
}

/// A body as it stands in the log.
fn described(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return String::new();
    }
    match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(value) if bytes.len() <= AUDIT_BODY_BYTES_MAX => value.to_string(),
        _ => format!("blake3:{}", Digest::of(bytes)),
    }
}
