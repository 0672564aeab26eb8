//! Publishing: a release becomes visible whole or not at all.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use potluck_model::api::{Configuration, ErrorKind, PublishRequest, Release};
use potluck_model::chunk_list::{ChunkList, META_BYTES_MAX};
use potluck_model::list::{Content, Entry, List};
use potluck_model::{ConfigurationName, Digest, UnixSeconds};
use potluck_trust::Permission;

use crate::app::App;
use crate::catalogue::{NewRelease, Published};
use crate::near::near;
use crate::refusal::Refusal;
use crate::request::{CallingOperator, Input, Segment};
use crate::signing::{SigningError, Turn};
use crate::stored::whole_chunk;

/// Missing contents that are named; of more, the number.
const MISSING_NAMED_MAX: usize = 10;
/// How often content is checked again because chunks were removed meanwhile.
pub(super) const CHECKS_MAX: u32 = 5;
/// Chunks that are looked up at once.
const LOOKUP_BATCH: usize = 4_096;

pub(super) async fn publish(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
    Segment(name): Segment<ConfigurationName>,
    Input(request): Input<PublishRequest>,
) -> Result<Json<Release>, Refusal> {
    let published = app
        .changing(move |app| {
            for _ in 0..CHECKS_MAX {
                match publish_once(app, &name, &request)? {
                    Published::Swept => {}
                    published => return Ok(published),
                }
            }
            Ok(Published::Swept)
        })
        .await?;
    match published {
        Published::New(release) => {
            let (files, bytes) = (release.files, release.bytes);
            let configuration = &release.configuration;
            tracing::info!(%operator, %configuration, release = release.release, files, bytes, "release published");
            Ok(Json(release))
        }
        Published::Same(release) => Ok(Json(release)),
        Published::Swept => Err(swept()),
        Published::Conflict { newest } => Err(Refusal::new(
            ErrorKind::Conflict,
            format!(
                "the newest release is {newest}, so the next one must have number {}: publish again",
                newest + 1
            ),
        )),
        Published::VersionTaken { version, release } => Err(Refusal::new(
            ErrorKind::Conflict,
            format!("release {release} is called {version} already: choose another --version"),
        )),
    }
}

fn publish_once(app: &App, name: &ConfigurationName, request: &PublishRequest) -> Result<Published, Refusal> {
    let new = check(app, name, &request.list)?;
    let Some(signing) = &app.signing else {
        if request.only.is_some() || request.minimum.is_some() {
            let message =
                "this fleet was made before releases were signed: its nodes would not obey --only and --minimum";
            return Err(Refusal::bad(message));
        }
        return Ok(app.catalogue.publish(new)?);
    };
    let permission = Permission {
        list: request.list,
        only: request.only.clone(),
        minimum: request.minimum,
    };
    let known = app.catalogue.configuration(name)?;
    let newest = known.as_ref().and_then(|known| known.releases.first());
    let mut turn = signing.turn();
    // Signed before it is visible: no node hears of a release that it must refuse, or that is not narrowed yet. What would
    // be refused is not signed.
    let follows = newest.map_or(0, |newest| newest.release) + 1 == new.release.release;
    let narrows = newest.is_some_and(|newest| newest.list == request.list) && differs(&turn, &permission)?;
    if follows || narrows {
        let (bytes, list) = list(app, &request.list)?;
        turn.permit(&list, &bytes, permission)?;
    }
    let published = app.catalogue.publish(new)?;
    match published {
        Published::New(_) => {}
        Published::Same(_) => app.catalogue.announce()?,
        _ if follows => turn.reconcile(app.catalogue.as_ref(), app.blobs.as_ref())?,
        _ => {}
    }
    Ok(published)
}

/// Whether a release was signed with another permission than this one. A minimum that was signed before stays in any case.
fn differs(turn: &Turn<'_>, wanted: &Permission) -> Result<bool, Refusal> {
    let Some(known) = turn.permission(&wanted.list).map_err(SigningError::from)? else {
        return Ok(true);
    };
    Ok(known.only != wanted.only || wanted.minimum > known.minimum)
}

/// What to say if chunks vanished as often as somebody looked.
pub(super) fn swept() -> Refusal {
    Refusal::new(
        ErrorKind::Busy,
        "chunks that nobody needs are being removed: publish again in some seconds",
    )
}

pub(super) async fn configurations(State(app): State<Arc<App>>) -> Result<Json<Vec<Configuration>>, Refusal> {
    app.blocking(|app| Ok(app.catalogue.configurations()?)).await.map(Json)
}

pub(super) async fn configuration(
    State(app): State<Arc<App>>,
    Segment(name): Segment<ConfigurationName>,
) -> Result<Json<Configuration>, Refusal> {
    app.blocking(move |app| match app.catalogue.configuration(&name)? {
        Some(configuration) => Ok(Json(configuration)),
        None => Err(unknown_configuration(app, &name)?),
    })
    .await
}

/// 404 that names what is there and looks similar.
pub(super) fn unknown_configuration(app: &App, name: &ConfigurationName) -> Result<Refusal, Refusal> {
    let known: Vec<String> = app
        .catalogue
        .configurations()?
        .into_iter()
        .map(|configuration| configuration.name.to_string())
        .collect();
    let hint = match near(name.as_str(), &known).as_slice() {
        [] if known.is_empty() => "nothing has been published yet: `potluck publish DIR`".to_owned(),
        [] => format!("there are {}", listed(&known)),
        near => format!("did you mean {}?", near.join(" or ")),
    };
    Ok(Refusal::not_found(format!("there is no configuration {name}; {hint}")))
}

/// Up to ten names, and how many more.
pub(super) fn listed(names: &[String]) -> String {
    let shown = names.len().min(10);
    let text = names[..shown].join(", ");
    match names.len() - shown {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// Checks that the list is one of this configuration, and that everything that it names is here.
fn check(app: &App, name: &ConfigurationName, digest: &Digest) -> Result<NewRelease, Refusal> {
    let release = check_any(app, digest)?;
    let configuration = &release.release.configuration;
    if configuration != name {
        return Err(Refusal::bad(format!(
            "the list is one of configuration {configuration}, not of {name}"
        )));
    }
    Ok(release)
}

/// A list that has been uploaded.
fn list(app: &App, digest: &Digest) -> Result<(Vec<u8>, List), Refusal> {
    let Some(bytes) = whole_chunk(app, digest, META_BYTES_MAX)? else {
        let message = format!("the list {digest} has not been uploaded");
        return Err(Refusal::new(ErrorKind::ContentMissing, message));
    };
    let list = List::from_bytes(&bytes).map_err(|fault| Refusal::bad(format!("the list {digest}: {fault}")))?;
    Ok((bytes, list))
}

/// Checks that everything that a list names is here.
pub(super) fn check_any(app: &App, digest: &Digest) -> Result<NewRelease, Refusal> {
    let sweeps = app.catalogue.sweeps()?;
    let (bytes, list) = list(app, digest)?;
    let contents = list.contents();
    let missing = missing(app, &contents)?;
    if !missing.is_empty() {
        return Err(content_missing(&list, &missing));
    }
    let files = list.entries.iter().filter(|entry| matches!(entry, Entry::File { .. }));
    let mut release = Release {
        configuration: list.configuration.clone(),
        release: list.release,
        version: list.version.clone(),
        list: *digest,
        list_size: bytes.len() as u64,
        files: 0,
        bytes: 0,
        published: UnixSeconds::now(),
    };
    for file in files {
        if let Entry::File { size, .. } = file {
            release.files += 1;
            release.bytes = release.bytes.saturating_add(*size);
        }
    }
    Ok(NewRelease {
        release,
        files: contents
            .into_iter()
            .filter(|content| content.chunks.is_some())
            .collect(),
        sweeps,
    })
}

/// Contents of which not every byte is here, or whose chunk list does not describe them.
fn missing(app: &App, contents: &[Content]) -> Result<Vec<Digest>, Refusal> {
    let mut missing = Vec::new();
    let (single, several): (Vec<&Content>, Vec<&Content>) =
        contents.iter().partition(|content| content.chunks.is_none());
    for batch in single.chunks(LOOKUP_BATCH) {
        let digests: Vec<Digest> = batch.iter().map(|content| content.digest).collect();
        for (content, stored) in batch.iter().zip(app.catalogue.chunks(&digests)?) {
            if stored.is_none_or(|stored| u64::from(stored.len) != content.size) {
                missing.push(content.digest);
            }
        }
    }
    for content in several {
        same_cuts(app, content)?;
        if !has_all_chunks(app, content)? {
            missing.push(content.digest);
        }
    }
    Ok(missing)
}

/// Nodes name parts of a file by index, whatever release it is in: the same bytes must be cut in the same way.
fn same_cuts(app: &App, content: &Content) -> Result<(), Refusal> {
    match app.catalogue.file(&content.digest)? {
        Some(known) if known.chunks != content.chunks => Err(Refusal::bad(format!(
            "the file with digest {} was published before, cut into other chunks: publish with the version of Potluck that \
             published it first",
            content.digest
        ))),
        _ => Ok(()),
    }
}

fn has_all_chunks(app: &App, content: &Content) -> Result<bool, Refusal> {
    let Some(digest) = &content.chunks else {
        return Ok(true);
    };
    let Some(bytes) = whole_chunk(app, digest, META_BYTES_MAX)? else {
        return Ok(false);
    };
    let chunks =
        ChunkList::from_bytes(&bytes).map_err(|fault| Refusal::bad(format!("chunk list {digest}: {fault}")))?;
    if chunks.size() != content.size {
        return Err(Refusal::bad(format!(
            "chunk list {digest} describes {} bytes, and the list says {}",
            chunks.size(),
            content.size
        )));
    }
    for batch in chunks.chunks().chunks(LOOKUP_BATCH) {
        let digests: Vec<Digest> = batch.iter().map(|chunk| chunk.digest).collect();
        for (chunk, stored) in batch.iter().zip(app.catalogue.chunks(&digests)?) {
            if stored.is_none_or(|stored| stored.len != chunk.len) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn content_missing(list: &List, missing: &[Digest]) -> Refusal {
    let mut paths: Vec<String> = list
        .entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::File { path, digest, .. } if missing.contains(digest) => Some(path.clone()),
            _ => None,
        })
        .take(MISSING_NAMED_MAX)
        .collect();
    if missing.len() > paths.len() {
        paths.push(format!("and {} more", missing.len() - paths.len()));
    }
    let message = format!("content has not been uploaded: {}. Publish again", paths.join(", "));
    Refusal::new(ErrorKind::ContentMissing, message)
}
