//! Assigning, taking back, halting.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use potluck_model::api::{AssignRequest, AssignmentInfo, ErrorKind, HaltRequest, Target};
use potluck_model::selector::{Selector, SelectorError};
use potluck_model::{ConfigurationName, UnixSeconds};
use serde::Deserialize;

use super::releases::{listed, unknown_configuration};
use crate::app::App;
use crate::catalogue::{
    ASSIGNMENTS_MAX, Assigned, AssignmentRecord, CatalogueError, NewAssignment, NodeRecord, Unassign,
};
use crate::near::near;
use crate::refusal::Refusal;
use crate::request::{Arguments, CallingOperator, Input, Segment};
use crate::target::Matcher;

pub(super) async fn assign(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
    Input(request): Input<AssignRequest>,
) -> Result<Json<AssignmentInfo>, Refusal> {
    let info = app
        .changing(move |app| {
            let target = target(app, request.target)?;
            let release = match &request.version {
                Some(version) => Some(release(app, &request.configuration, version)?),
                None if app.catalogue.configuration(&request.configuration)?.is_some() => None,
                None => return Err(unknown_configuration(app, &request.configuration)?),
            };
            let new = NewAssignment {
                configuration: request.configuration.clone(),
                release,
                target,
                now: UnixSeconds::now(),
            };
            match app.catalogue.assign(new)? {
                Assigned::Made(record) => describe(record, &app.catalogue.nodes()?),
                Assigned::TooMany => {
                    let message = format!(
                        "there are {ASSIGNMENTS_MAX} assignments already: take some back with `potluck unassign`"
                    );
                    Err(Refusal::new(ErrorKind::Busy, message))
                }
                Assigned::NoRelease => Err(Refusal::not_found(format!(
                    "that release of {} has just been removed; `potluck gc` was run",
                    request.configuration
                ))),
            }
        })
        .await?;
    let AssignmentInfo {
        id,
        configuration,
        release,
        target,
        matches,
        ..
    } = &info;
    tracing::info!(%operator, id, %configuration, release, ?target, nodes = matches, "assigned");
    Ok(Json(info))
}

pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Vec<AssignmentInfo>>, Refusal> {
    app.blocking(|app| infos(app, &app.catalogue.nodes()?)).await.map(Json)
}

pub(super) async fn unassign(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
    Segment(id): Segment<u64>,
) -> Result<StatusCode, Refusal> {
    let removed = app
        .changing(move |app| Ok(app.catalogue.unassign(Unassign::Id(id))?))
        .await?;
    if removed.is_empty() {
        return Err(Refusal::not_found(format!(
            "there is no assignment {id}; `potluck status` lists those in force"
        )));
    }
    tracing::info!(%operator, id, "assignment taken back");
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(super) struct Which {
    configuration: ConfigurationName,
}

pub(super) async fn unassign_configuration(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
    Arguments(Which { configuration }): Arguments<Which>,
) -> Result<StatusCode, Refusal> {
    let name = configuration.clone();
    let removed = app
        .changing(move |app| {
            let removed = app.catalogue.unassign(Unassign::Configuration(name.clone()))?;
            if removed.is_empty() {
                if app.catalogue.configuration(&name)?.is_none() {
                    return Err(unknown_configuration(app, &name)?);
                }
                let message =
                    format!("configuration {name} is not assigned to anybody; `potluck status` lists what is");
                return Err(Refusal::not_found(message));
            }
            Ok(removed)
        })
        .await?;
    tracing::info!(%operator, %configuration, assignments = removed.len(), "assignments taken back");
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn halt(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
    Input(HaltRequest { halted }): Input<HaltRequest>,
) -> Result<StatusCode, Refusal> {
    app.changing(move |app| Ok(app.catalogue.set_halted(halted)?)).await?;
    let what = if halted { "fleet halted" } else { "fleet goes on" };
    tracing::info!(%operator, "{what}");
    Ok(StatusCode::NO_CONTENT)
}

/// The assignments in force, as they are told.
pub(super) fn infos(app: &App, nodes: &[NodeRecord]) -> Result<Vec<AssignmentInfo>, Refusal> {
    let records = app.catalogue.assignments()?;
    records.into_iter().map(|record| describe(record, nodes)).collect()
}

fn describe(record: AssignmentRecord, nodes: &[NodeRecord]) -> Result<AssignmentInfo, Refusal> {
    let matcher = Matcher::new(&record.target).map_err(|fault| CatalogueError::Damaged(fault.to_string()))?;
    let matches = nodes
        .iter()
        .filter(|node| node.standing.is_admitted() && matcher.matches(node.node, &node.labels));
    Ok(AssignmentInfo {
        matches: matches.count() as u32,
        id: record.id,
        configuration: record.configuration,
        release: record.release,
        target: record.target,
        made: record.made,
        waves: record.waves,
        halted: record.halted,
    })
}

fn target(app: &App, target: Target) -> Result<Target, Refusal> {
    match target {
        Target::Node(node) if app.catalogue.node(node)?.is_none() => Err(Refusal::not_found(format!(
            "there is no node {node}; `potluck nodes` lists all"
        ))),
        Target::All | Target::Node(_) => Ok(target),
        Target::Where(text) => {
            // In the one way in which it is written, so that the same selector is recognised as the same target.
            let selector: Selector = text
                .parse()
                .map_err(|fault: SelectorError| Refusal::bad(fault.to_string()))?;
            Ok(Target::Where(selector.to_string()))
        }
    }
}

fn release(app: &App, configuration: &ConfigurationName, version: &str) -> Result<u64, Refusal> {
    let found = app.catalogue.releases(configuration, version)?;
    match found.as_slice() {
        [one] => Ok(one.release),
        [] => {
            let Some(known) = app.catalogue.configuration(configuration)? else {
                return Err(unknown_configuration(app, configuration)?);
            };
            let mut names = Vec::new();
            for release in &known.releases {
                names.push(release.release.to_string());
                names.extend(release.version.as_ref().map(ToString::to_string));
            }
            let near = near(version, &names);
            let hint = if near.is_empty() {
                format!("there are {}", listed(&names))
            } else {
                format!("did you mean {}?", near.join(" or "))
            };
            let message = format!("configuration {configuration} has no release {version:?}; {hint}");
            Err(Refusal::not_found(message))
        }
        several => {
            let numbers: Vec<String> = several.iter().map(|release| release.release.to_string()).collect();
            let message = format!(
                "{configuration}@{version} is the number of one release and the name of another ({})",
                numbers.join(" and ")
            );
            Err(Refusal::new(ErrorKind::Conflict, message))
        }
    }
}
