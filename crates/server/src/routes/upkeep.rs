//! Removing what nobody needs.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use potluck_model::UnixSeconds;
use potluck_model::api::{ErrorKind, GcReport, GcRequest};

use crate::app::App;
use crate::data::Upkeep;
use crate::gc::{GcError, collect};
use crate::refusal::Refusal;
use crate::request::{CallingOperator, Input};

pub(super) async fn gc(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
    Input(request): Input<GcRequest>,
) -> Result<Json<GcReport>, Refusal> {
    if request.keep == 0 {
        return Err(Refusal::bad(
            "at least the newest release of each configuration stays: --keep must be 1 or more",
        ));
    }
    // Not one of the turns for short operations: this may take minutes.
    let removed = tokio::task::spawn_blocking(move || -> Result<GcReport, Refusal> {
        let Some(_alone) = Upkeep::begin(&app.upkeep).map_err(|fault| Refusal::internal(&fault))? else {
            return Err(Refusal::new(
                ErrorKind::Busy,
                "a backup is being made, or something is being removed already: try again when that is done",
            ));
        };
        let cutoff = UnixSeconds(UnixSeconds::now().0.saturating_sub(request.grace_seconds));
        let waiting = app
            .signing
            .as_ref()
            .map_or_else(Vec::new, |signing| signing.turn().waiting());
        let report = collect(
            app.catalogue.as_ref(),
            app.blobs.as_ref(),
            request.keep,
            cutoff,
            &waiting,
        )?;
        if let Some(signing) = &app.signing {
            signing.turn().reconcile(app.catalogue.as_ref(), app.blobs.as_ref())?;
        }
        Ok(report)
    });
    let report = removed.await.map_err(|fault| Refusal::internal(&fault))??;
    let (releases, chunks, bytes) = (report.releases.len(), report.chunks, report.bytes);
    tracing::info!(%operator, releases, chunks, bytes, "removed what nobody needs");
    Ok(Json(report))
}

impl From<GcError> for Refusal {
    fn from(fault: GcError) -> Self {
        match fault {
            GcError::Catalogue(fault) => fault.into(),
            GcError::Blobs(fault) => fault.into(),
            GcError::Overtaken => Self::new(ErrorKind::Busy, fault.to_string()),
            GcError::Unreadable { .. } => {
                tracing::error!("{fault}");
                Self::new(ErrorKind::Internal, fault.to_string())
            }
        }
    }
}
