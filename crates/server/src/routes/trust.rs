//! What publishers sign on machines of their own.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use potluck_model::Digest;
use potluck_model::api::{ErrorKind, OnlineKeys, Release, TrustAnswer, TrustChange, TrustInfo};

use super::releases::{CHECKS_MAX, check_any, swept};
use crate::app::App;
use crate::catalogue::Published;
use crate::refusal::Refusal;
use crate::request::{CallingOperator, Input};
use crate::signing::{Signing, SigningError, sentences};

/// The most releases that become visible with one change.
const RELEASES_PER_CHANGE_MAX: usize = 100;

pub(super) async fn info(State(app): State<Arc<App>>) -> Result<Json<TrustInfo>, Refusal> {
    app.blocking(|app| {
        let (_, lists) = app.catalogue.lists()?;
        Ok(Json(signing(app)?.turn().info(lists)))
    })
    .await
}

pub(super) async fn change(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
    Input(proposal): Input<TrustChange>,
) -> Result<Json<TrustAnswer>, Refusal> {
    if proposal.releases.len() > RELEASES_PER_CHANGE_MAX {
        return Err(Refusal::bad(format!(
            "{} releases in one change, at most {RELEASES_PER_CHANGE_MAX} are taken",
            proposal.releases.len()
        )));
    }
    let answer = app.changing(move |app| take_in(app, &proposal)).await?;
    let (applied, releases) = (answer.applied, answer.releases.len());
    tracing::info!(%operator, applied, releases, "publishers have signed a change");
    Ok(Json(answer))
}

fn take_in(app: &App, proposal: &TrustChange) -> Result<TrustAnswer, Refusal> {
    let mut turn = signing(app)?.turn();
    let mut releases = Vec::new();
    for list in &proposal.releases {
        let release = check_any(app, list)?.release;
        let known = app.catalogue.configuration(&release.configuration)?;
        let newest = known.and_then(|known| known.releases.first().map(|release| release.release));
        if release.release != newest.unwrap_or(0) + 1 {
            return Err(overtaken(&release));
        }
        releases.push(release);
    }
    let (_, lists) = app.catalogue.lists()?;
    let lacking = turn.propose(proposal, |list| {
        lists.contains(list) || proposal.releases.contains(list)
    })?;
    let applied = lacking.is_empty();
    if applied {
        // First signed, then visible: no node hears of a release that it must refuse.
        turn.carry_out()?;
        let visible: Result<(), Refusal> = proposal.releases.iter().try_for_each(|list| show(app, list));
        // Whoever published hears of what went wrong, and publishes again; what was signed does no harm.
        turn.finish()?;
        visible?;
        app.catalogue.announce()?;
    }
    Ok(TrustAnswer {
        applied,
        lacking: sentences(&lacking),
        releases,
    })
}

/// Makes a release visible that has been signed.
fn show(app: &App, list: &Digest) -> Result<(), Refusal> {
    for _ in 0..CHECKS_MAX {
        let new = check_any(app, list)?;
        let release = new.release.clone();
        match app.catalogue.publish(new)? {
            Published::Swept => {}
            Published::New(_) | Published::Same(_) => {
                let (files, bytes) = (release.files, release.bytes);
                let configuration = &release.configuration;
                tracing::info!(%configuration, release = release.release, files, bytes, "release published");
                return Ok(());
            }
            Published::Conflict { .. } | Published::VersionTaken { .. } => return Err(overtaken(&release)),
        }
    }
    Err(swept())
}

fn overtaken(release: &Release) -> Refusal {
    let name = &release.configuration;
    let message = format!("another release of {name} with this number or name was made meanwhile: publish again");
    Refusal::new(ErrorKind::Conflict, message)
}

pub(super) async fn drop_waiting(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
) -> Result<StatusCode, Refusal> {
    let dropped = app.changing(|app| Ok(signing(app)?.turn().finish()?)).await?;
    if !dropped {
        return Err(Refusal::not_found("no change waits for signatures"));
    }
    tracing::info!(%operator, "the change that waited for signatures was dropped");
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn online(State(app): State<Arc<App>>) -> Result<Json<OnlineKeys>, Refusal> {
    let made = app.blocking(|app| Ok(signing(app)?.turn().make_online_keys()?)).await?;
    Ok(Json(made))
}

fn signing(app: &App) -> Result<&Signing, Refusal> {
    app.signing.as_ref().ok_or_else(|| {
        Refusal::not_found(
            "this fleet was made before releases were signed: to have signed releases, set up a new server and join again",
        )
    })
}

impl From<SigningError> for Refusal {
    fn from(fault: SigningError) -> Self {
        match fault {
            SigningError::Content(fault) => fault.into(),
            SigningError::Data(_) => Self::internal(&fault),
            SigningError::Metadata(_) | SigningError::Refused(_) => Self::bad(fault.to_string()),
            SigningError::Elsewhere => Self::new(ErrorKind::Forbidden, fault.to_string()),
            SigningError::Conflict(_) => Self::new(ErrorKind::Conflict, fault.to_string()),
        }
    }
}
