//! Publishing: from a directory to a release.

mod changes;
mod cut;
mod include;
mod previous;
mod scan;
mod sign;
mod upload;

use std::collections::BTreeSet;
use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use potluck_model::api::{ErrorKind, Release};
use potluck_model::chunk_list::META_BYTES_MAX;
use potluck_model::configuration::{self, Resolved, Start, TEXT_BYTES_MAX, TreeEntry, TreeKind};
use potluck_model::list::{Entry, List, Settings, Step, format_of};
use potluck_model::{AudienceName, ConfigurationName, Digest, NodeId, VersionName};
use serde::Serialize;

use crate::exit::{Doing, Exit, Failure};
use crate::operator::Operator;
use crate::output::{Progress, bytes, count};
use crate::publisher::KeyPlace;
pub(crate) use changes::Changes;
use cut::{Cut, Reading, Source};
use include::Found;
use potluck_store::chunking::average_for;
use previous::Previous;
use scan::{Kind, Scan};
use sign::Unmade;
use upload::{Upload, Uploading};

pub(crate) use sign::{Minimum, Narrowing};

/// How often another publisher may be faster, or content vanish, before we give up.
const RACES_MAX: u32 = 10;
/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(100);

/// What is to be published.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    /// The directory.
    pub(crate) directory: PathBuf,
    /// The configuration's name, instead of what `configuration.toml` or the directory's name says.
    pub(crate) name: Option<ConfigurationName>,
    /// The release's name for people.
    pub(crate) version: Option<VersionName>,
    /// Where it may be executed.
    pub(crate) narrowing: Narrowing,
    /// Where publishers' keys are.
    pub(crate) place: KeyPlace,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Published {
    /// The configuration.
    pub(crate) configuration: ConfigurationName,
    /// Number of the release.
    pub(crate) release: u64,
    /// Its name for people.
    pub(crate) version: Option<VersionName>,
    /// Digest of its list.
    pub(crate) list: Digest,
    /// Whether the latest release was the same already, so that none was made.
    pub(crate) unchanged: bool,
    /// Files in it.
    pub(crate) files: u64,
    /// Bytes of its files.
    pub(crate) bytes: u64,
    /// Bytes that had to be uploaded.
    pub(crate) uploaded_bytes: u64,
    /// The nodes that may execute it; all, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) only: Option<BTreeSet<NodeId>>,
    /// The release below which nothing of the configuration is executed any more, if that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) minimum: Option<u64>,
    /// Signatures that it lacks; until it has them, no node hears of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) lacking: Vec<String>,
    /// What the publisher should know.
    pub(crate) warnings: Vec<String>,
    /// What differs from the release before, if there is one and it could be read.
    pub(crate) changes: Option<Changes>,
}

/// The directory as it will be in the list.
struct Content {
    name: ConfigurationName,
    steps: Vec<Step>,
    settings: Settings,
    entries: Vec<Entry>,
    uploads: Vec<Upload>,
    files: u64,
    bytes: u64,
}

/// Publishes a directory. What the server has is not uploaded again, so that an interrupted run is resumed by another.
pub(crate) async fn publish(
    operator: &Operator,
    publication: Publication,
    progress: &mut Progress,
) -> Result<Published, Failure> {
    let directory = publication.directory.clone();
    let scanned = directory.clone();
    let scan = blocking(move || scan_of(&scanned)).await?;
    let found = Found::by(operator, scan.configuration.as_deref()).await?;
    let (scan, resolved) = blocking(move || {
        let resolved = resolve(&publication.directory, &scan, publication.name.as_ref(), &found)?;
        Ok((scan, resolved))
    })
    .await?;
    let mut warnings = scan.warnings.clone();
    warnings.extend(resolved.warnings);
    let previous = Previous::of(operator, &resolved.name).await?;
    let directory_read = scan.directory.clone();
    let mut content = read(scan, resolved.name, (resolved.steps, resolved.settings), progress)
        .await
        .map_err(|failure| failure.while_doing(format!("publishing {}", directory.display())))?;
    content.include(resolved.included);
    let published = release(
        operator,
        &directory_read,
        content,
        (publication.version, publication.narrowing, publication.place),
        previous,
        progress,
    )
    .await?;
    Ok(Published { warnings, ..published })
}

impl Content {
    /// Adds what releases have that are included. The server has all of it already.
    fn include(&mut self, entries: Vec<Entry>) {
        for entry in &entries {
            if let Entry::File { size, .. } = entry {
                self.files += 1;
                self.bytes += size;
            }
        }
        self.entries.extend(entries);
        self.entries
            .sort_by(|one, two| one.path().as_bytes().cmp(two.path().as_bytes()));
    }
}

fn refused(directory: &Path, what: &str) -> Failure {
    Failure::new(format!("publishing {}:\n{what}", directory.display())).exit(Exit::Data)
}

fn scan_of(directory: &Path) -> Result<Scan, Failure> {
    scan::scan(directory).map_err(|error| refused(directory, &error.to_string()))
}

/// Finds out what is to be done with what is in the directory, and in what it includes.
fn resolve(
    directory: &Path,
    scan: &Scan,
    name: Option<&ConfigurationName>,
    found: &Found,
) -> Result<Resolved, Failure> {
    let tree: Vec<TreeEntry> = scan.entries.iter().map(tree_entry).collect();
    let directory_name = scan
        .directory
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    configuration::resolve(
        directory_name,
        scan.configuration.as_deref(),
        &tree,
        name,
        &|path| text_of(scan, path),
        &|include| found.get(include),
    )
    .map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        refused(directory, &lines.join("\n"))
    })
}

/// A first `configuration.toml` for the directory.
pub(crate) fn start(directory: &Path) -> Result<Start, Failure> {
    let scan = scan::scan(directory)
        .map_err(|error| Failure::new(format!("looking at {}:\n{error}", directory.display())).exit(Exit::Data))?;
    let tree: Vec<TreeEntry> = scan.entries.iter().map(tree_entry).collect();
    let name = scan.directory.file_name().and_then(|name| name.to_str());
    Ok(configuration::start(name.unwrap_or_default(), &tree, &|path| {
        text_of(&scan, path)
    }))
}

/// The text of a file, if it is text and not too large to be looked at.
fn text_of(scan: &Scan, path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(scan.directory.join(path)).ok()?;
    let read = file.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    if read as u64 > TEXT_BYTES_MAX {
        return None;
    }
    String::from_utf8(bytes).ok()
}

fn tree_entry(entry: &scan::Scanned) -> TreeEntry {
    TreeEntry {
        path: entry.path.clone(),
        kind: match &entry.kind {
            Kind::Directory { .. } => TreeKind::Directory,
            Kind::File { mode, size, first, .. } => TreeKind::File {
                mode: *mode,
                size: *size,
                first: first.clone(),
            },
            Kind::Link { .. } => TreeKind::Link,
        },
    }
}

/// Reads all files: their digests and chunks.
async fn read(
    scan: Scan,
    name: ConfigurationName,
    steps: (Vec<Step>, Settings),
    progress: &mut Progress,
) -> Result<Content, Failure> {
    let reading = Arc::new(Reading::default());
    let (files, total) = files_and_bytes(&scan);
    let work = {
        let reading = Arc::clone(&reading);
        blocking(move || {
            let sources: Vec<Source<'_>> = scan
                .entries
                .iter()
                .filter_map(|entry| match &entry.kind {
                    Kind::File { size, stamp, .. } => Some((entry, *size, *stamp)),
                    _ => None,
                })
                .map(|(entry, size, stamp)| Source {
                    path: &entry.path,
                    stamp,
                    size,
                    average: average_for(size),
                })
                .collect();
            let cuts =
                cut::cut_all(&scan.directory, &sources, &reading).map_err(|error| Failure::new(error.to_string()))?;
            Ok((cuts, scan))
        })
    };
    let (cuts, scan) = watch(work, progress, || {
        format!(
            "reading {} of {}, {} of {}",
            reading.files.load(Ordering::Relaxed),
            count(files, "file"),
            bytes(reading.bytes.load(Ordering::Relaxed)),
            bytes(total)
        )
    })
    .await?;
    Ok(content(scan, cuts, name, steps, total))
}

fn files_and_bytes(scan: &Scan) -> (u64, u64) {
    let sizes = scan.entries.iter().filter_map(|entry| match entry.kind {
        Kind::File { size, .. } => Some(size),
        _ => None,
    });
    sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
}

fn content(
    scan: Scan,
    cuts: Vec<Cut>,
    name: ConfigurationName,
    (steps, settings): (Vec<Step>, Settings),
    bytes: u64,
) -> Content {
    let mut cuts = cuts.into_iter();
    let mut uploads = Vec::new();
    let mut entries = Vec::with_capacity(scan.entries.len());
    for scanned in scan.entries {
        let path = scanned.path;
        entries.push(match scanned.kind {
            Kind::Directory { mode } => Entry::Directory { path, mode },
            Kind::Link { target } => Entry::Link { path, target },
            Kind::File { mode, size, .. } => {
                let cut = cuts.next().expect("each file of the scan has been cut");
                let chunks = cut.chunks.as_ref().map(|chunks| Digest::of(&chunks.to_bytes()));
                uploads.push(Upload {
                    path: path.clone(),
                    size,
                    digest: cut.digest,
                    chunks: cut.chunks.map(Arc::new),
                });
                Entry::File {
                    path,
                    mode,
                    size,
                    digest: cut.digest,
                    chunks,
                }
            }
        });
    }
    Content {
        name,
        steps,
        settings,
        entries,
        files: uploads.len() as u64,
        uploads,
        bytes,
    }
}

/// Uploads what is missing and makes the release; if another publisher is faster, the next one.
async fn release(
    operator: &Operator,
    directory: &Path,
    content: Content,
    (version, narrowing, place): (Option<VersionName>, Narrowing, KeyPlace),
    mut previous: Previous,
    progress: &mut Progress,
) -> Result<Published, Failure> {
    let name = content.name;
    let files = content.files;
    let bytes = content.bytes;
    let published = |release: &Release, unchanged, uploaded_bytes| Published {
        configuration: name.clone(),
        release: release.release,
        version: release.version.clone(),
        list: release.list,
        unchanged,
        files,
        bytes,
        uploaded_bytes,
        only: narrowing.only.clone(),
        minimum: narrowing.minimum(release.release),
        lacking: Vec::new(),
        warnings: Vec::new(),
        changes: None,
    };
    let mut list = List {
        format: format_of(&content.steps, &content.settings),
        configuration: name.clone(),
        release: 1,
        version: None,
        audience: AudienceName::fleet(),
        entries: content.entries,
        steps: content.steps,
        settings: content.settings,
    };
    let all = content.uploads;
    let mut uploads = Some(all.clone());
    let uploading = Uploading::default();
    let mut refused = None;
    for _ in 0..RACES_MAX {
        if let Some(latest) = previous.latest() {
            list.release = latest.release;
            // Without --version, the latest release's name is as good as any.
            list.version = version.clone().or_else(|| latest.version.clone());
            if list.digest() == latest.list {
                let unchanged = published(latest, true, uploading.uploaded.load(Ordering::Relaxed));
                if narrowing.is_empty() {
                    return Ok(unchanged);
                }
                let document = list.to_bytes();
                return match sign::make(operator, &place, (&list, &document), &narrowing, Some(latest)).await {
                    Ok(made) => Ok(Published {
                        lacking: made.lacking,
                        ..unchanged
                    }),
                    Err(unmade) => Err(unmade.into_failure(&name)),
                };
            }
            list.release += 1;
        }
        list.version.clone_from(&version);
        if let Some(taken) = version.as_ref().and_then(|version| previous.named(version)) {
            return Err(Failure::new(format!(
                "publishing {name}: release {} is called {} already, and it is another",
                taken.release,
                list.version.as_ref().map_or("", VersionName::as_str)
            ))
            .advice("Choose another --version."));
        }
        list.check()
            .doing(|| format!("publishing {name}"))
            .map_err(|failure| failure.exit(Exit::Data))?;
        let document = Bytes::from(list.to_bytes());
        if document.len() as u64 > META_BYTES_MAX {
            return Err(Failure::new(format!(
                "publishing {name}: its list would have {}, more than {}; publish fewer files, for instance as an archive",
                crate::output::bytes(document.len() as u64),
                crate::output::bytes(META_BYTES_MAX)
            ))
            .exit(Exit::Data));
        }
        let began = Instant::now();
        let work = upload::upload(
            &operator.client,
            directory,
            uploads.take().unwrap_or_default(),
            document.clone(),
            &uploading,
        );
        watch(work, progress, || upload_line(&uploading, bytes, began.elapsed())).await?;
        let made = sign::make(operator, &place, (&list, &document), &narrowing, None).await;
        match made {
            Ok(made) => {
                let changes = match previous.latest() {
                    // That it cannot be read any more takes nothing from what was published.
                    Some(latest) => operator.list(&latest.list).await.ok(),
                    None => None,
                }
                .map(|old| Changes::between(&old, &list));
                let uploaded = uploading.uploaded.load(Ordering::Relaxed);
                return Ok(Published {
                    lacking: made.lacking,
                    changes,
                    ..published(&made.release, false, uploaded)
                });
            }
            Err(Unmade::Failed(failure)) => return Err(failure.while_doing(format!("publishing {name}"))),
            Err(Unmade::Refused(fault)) if fault.kind() == Some(ErrorKind::ContentMissing) => {
                // It was there when we asked: `potluck gc` removed it since.
                tracing::info!(%fault, "some content is uploaded again");
                refused = Some(fault);
                uploads = Some(all.clone());
            }
            Err(Unmade::Refused(fault)) if fault.kind() == Some(ErrorKind::Conflict) => {
                let now = Previous::of(operator, &name).await?;
                let faster = |previous: &Previous| previous.latest().map(|latest| latest.release);
                if faster(&now) == faster(&previous) {
                    return Err(Failure::from(fault).while_doing(format!("publishing {name}")));
                }
                previous = now;
            }
            Err(unmade) => return Err(unmade.into_failure(&name)),
        }
    }
    Err(match refused {
        Some(fault) => Failure::from(fault).while_doing(format!("publishing {name}")),
        None => Failure::new(format!(
            "publishing {name}: {RACES_MAX} times another publisher was faster; publish again"
        )),
    })
}

fn upload_line(uploading: &Uploading, total: u64, elapsed: Duration) -> String {
    let uploaded = uploading.uploaded.load(Ordering::Relaxed);
    let settled = uploading.settled.load(Ordering::Relaxed);
    let rate = uploaded as f64 / elapsed.as_secs_f64().max(0.1);
    format!(
        "uploading: {} of {} are there, {} uploaded, {}/s",
        bytes(settled),
        bytes(total),
        bytes(uploaded),
        bytes(rate as u64)
    )
}

/// Waits for `work` and shows how far it is.
async fn watch<T>(
    work: impl Future<Output = Result<T, Failure>>,
    progress: &mut Progress,
    line: impl Fn() -> String,
) -> Result<T, Failure> {
    let mut work = std::pin::pin!(work);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = tick.tick() => progress.show(&line),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new(format!("a worker ended early: {error}")))?
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) mod tests_only {
    use super::*;

    /// Number of entries, ids of the steps, and warnings.
    pub(crate) fn look(directory: &Path) -> Result<(usize, Vec<String>, Vec<String>), Failure> {
        let scan = scan_of(directory)?;
        let resolved = resolve(directory, &scan, None, &Found::default())?;
        let steps = resolved.steps.iter().map(|step| step.id.to_string()).collect();
        let warnings = scan.warnings.into_iter().chain(resolved.warnings).collect();
        Ok((scan.entries.len(), steps, warnings))
    }
}
