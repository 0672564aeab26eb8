//! Whether the server works, and how the fleet is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use potluck_model::UnixSeconds;
use potluck_model::api::Status;
use schemars::JsonSchema;
use serde::Serialize;

use super::{assignments, nodes};
use crate::app::App;
use crate::refusal::Refusal;
use crate::signing::Signing;

/// Who decides what may be executed in a fleet that was made before releases were signed.
const TRUST: &str = "This fleet was made before releases were signed: whoever controls the server controls the fleet.";

/// `GET /v1/health`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Health {
    /// `ok`; what does not work is an error instead.
    status: &'static str,
    /// Version of the server.
    version: &'static str,
    /// The server's clock.
    time: UnixSeconds,
}

pub(super) async fn health(State(app): State<Arc<App>>) -> Result<Json<Health>, Refusal> {
    app.blocking(|app| Ok(app.catalogue.change()?)).await?;
    Ok(Json(Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        time: UnixSeconds::now(),
    }))
}

pub(super) async fn status(State(app): State<Arc<App>>) -> Result<Json<Status>, Refusal> {
    app.blocking(|app| {
        let records = app.catalogue.nodes()?;
        Ok(Json(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time: UnixSeconds::now(),
            halted: app.catalogue.halted()?,
            trust: app.signing.as_ref().map_or_else(|| TRUST.to_owned(), Signing::sentence),
            assignments: assignments::infos(app, &records)?,
            nodes: nodes::infos(records),
            stored_bytes: app.catalogue.stored_bytes()?,
        }))
    })
    .await
}
