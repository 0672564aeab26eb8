//! The private directory: the release's files at their names, copied while they were verified, for `run` steps and guards.
//!
//! Made when the first command of a run is to be run, and kept for the next run of the same list. A new executing process brings it
//! back to what the list says before it uses it, and removes what steps left in it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use potluck_model::Digest;
use potluck_model::list::{Action, Entry, List};

use crate::content::Contents;
use crate::engine::{Engine, Fault, Setting, failed};
use crate::look::{Found, Look};
use crate::machine::usable;
use crate::place::{PlaceError, Placement};
use crate::root::MachineRoot;
use crate::stage::Stage;
use crate::state::State;
use crate::steps;

/// Where private directories are, by the digest of their list.
const FILES: &str = "files";

pub(crate) struct Private {
    root: Arc<MachineRoot>,
}

impl Private {
    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// Whether the directory still stands where it was made.
    fn is_there(&self) -> bool {
        let here = fs::metadata(self.path());
        let made = rustix::fs::fstat(self.root.fd());
        matches!((here, made), (Ok(here), Ok(made)) if here.ino() == made.st_ino && here.dev() == made.st_dev)
    }
}

/// The directory, made if it is not there yet.
pub(crate) fn of<'e>(engine: &'e mut Engine<'_>) -> Result<&'e Private, Fault> {
    // A step may have removed it, or what is in it.
    if engine.private.as_ref().is_some_and(|private| !private.is_there()) {
        engine.private = None;
    }
    if engine.private.is_none() {
        let setting = engine.setting;
        let staged = engine.stage.as_ref().and_then(Stage::private);
        let root = prepare(setting, staged).map_err(|error| {
            failed(format!(
                "cannot make the private directory for the release's files: {error}"
            ))
        })?;
        let usable = usable(setting.list, &setting.machine);
        let needed = |entry: &&Entry| match entry {
            // The other package manager's packages.
            Entry::File { digest, .. } => usable.contains(digest) || engine.contents.has(digest),
            _ => true,
        };
        let mut lacking = |entry: &&Entry| match (entry, engine.stage.as_mut()) {
            (Entry::File { path, digest, .. }, Some(stage)) => !stage.is_private(&engine.contents, path, *digest),
            _ => true,
        };
        let entries: Vec<&Entry> = setting
            .list
            .entries
            .iter()
            .filter(|entry| needed(entry) && lacking(entry))
            .collect();
        if let Some(stage) = &mut engine.stage {
            stage.leave_private();
        }
        bring_back(&root, &entries, &mut engine.contents)?;
        engine.private = Some(Private { root });
    }
    Ok(engine.private.as_ref().expect("it was just made"))
}

/// Makes sure that one file is what the list says, however steps before have changed it. Returns where it is.
pub(crate) fn file(engine: &mut Engine<'_>, entry: &Entry) -> Result<PathBuf, Fault> {
    let path = of(engine)?.path().join(entry.path());
    let private = engine.private.as_ref().expect("it was just made");
    bring_back(&private.root, &[entry], &mut engine.contents)?;
    Ok(path)
}

/// Whether steps of the list will most probably want the directory: there are guards, or scripts that have not run yet.
pub(crate) fn is_wanted(list: &List, state: &State, root: &Path) -> bool {
    !list.settings.health.is_empty()
        || list.steps.iter().any(|step| {
            let ran = || steps::run::once(list, step, root).is_some_and(|key| state.ran.contains_key(&key));
            step.unless.is_some()
                || match step.action {
                    Action::Run { .. } | Action::CloudInit { .. } => !ran(),
                    Action::Ansible { .. } => true,
                    _ => false,
                }
        })
}

/// `staged`, or an empty or earlier directory, for this list; those of other lists are removed.
fn prepare(setting: &Setting<'_>, staged: Option<Arc<MachineRoot>>) -> io::Result<Arc<MachineRoot>> {
    let root = match staged {
        Some(staged) => staged,
        None => Arc::new(open(setting.dir, setting.list, setting.digest)?.0),
    };
    let name = setting.digest.to_string();
    for entry in fs::read_dir(setting.dir.join(FILES))? {
        let entry = entry?;
        if entry.file_name().to_str() != Some(&name) {
            remove(&entry.path())?;
        }
    }
    Ok(root)
}

/// A new or earlier directory for this list, without anything that the list does not have; and whether it is new, and empty.
pub(crate) fn open(dir: &Path, list: &List, digest: Digest) -> io::Result<(MachineRoot, bool)> {
    let releases = dir.join(FILES);
    fs::create_dir_all(&releases)?;
    let path = releases.join(digest.to_string());
    let new = match fs::create_dir(&path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    if !new {
        purge(&path, list)?;
    }
    Ok((MachineRoot::open(&path)?, new))
}

/// Removes what the list does not have, or has as something else.
fn purge(dir: &Path, list: &List) -> io::Result<()> {
    let known: BTreeSet<&str> = list.entries.iter().map(Entry::path).collect();
    let mut todo = vec![(dir.to_owned(), String::new())];
    while let Some((dir, prefix)) = todo.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let path = name.to_str().map(|name| format!("{prefix}{name}"));
            let wanted = path
                .as_deref()
                .filter(|path| known.contains(path))
                .and_then(|path| list.entry(path));
            let kind = entry.file_type()?;
            let fits = match wanted {
                Some(Entry::Directory { .. }) => kind.is_dir(),
                Some(Entry::File { .. }) => kind.is_file(),
                Some(Entry::Link { .. }) => kind.is_symlink(),
                None => false,
            };
            if !fits {
                remove(&entry.path())?;
            } else if kind.is_dir()
                && let Some(path) = path
            {
                todo.push((entry.path(), format!("{path}/")));
            }
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// Places those entries that are not as the list says.
fn bring_back(root: &MachineRoot, entries: &[&Entry], contents: &mut Contents) -> Result<(), Fault> {
    let mut look = Look::new(root);
    let mut placement = Placement::passing(root);
    let unreadable = |path: &str, error: &io::Error| failed(format!("cannot read the private copy of {path}: {error}"));
    for entry in entries {
        match entry {
            Entry::Directory { path, mode } => {
                placement.directory(path, mode | 0o700)?;
            }
            Entry::Link { path, target } => {
                let found = look.at(path).map_err(|error| unreadable(path, &error))?;
                if found != Found::Link(target.clone()) {
                    placement.link(path, target)?;
                }
            }
            Entry::File {
                path,
                mode,
                size,
                digest,
                ..
            } => {
                let found = look.at(path).map_err(|error| unreadable(path, &error))?;
                let same = matches!(found, Found::File { size: s, mode: m, ours: true } if s == *size && m == *mode)
                    && look.digest(path) == Some(*digest);
                if !same {
                    placement.file::<CopyError>(path, *mode, |file| {
                        contents
                            .copy(*digest, *size, file)
                            .map_err(|error| CopyError(format!("{path}: {error}")))
                    })?;
                }
            }
        }
    }
    placement.commit()?;
    Ok(())
}

/// What goes wrong between the store and a place.
pub(crate) struct CopyError(pub(crate) String);

impl From<PlaceError> for CopyError {
    fn from(error: PlaceError) -> Self {
        Self(error.to_string())
    }
}

impl From<CopyError> for Fault {
    fn from(error: CopyError) -> Self {
        Self::Failed(error.0)
    }
}
