//! The executing process: takes a job from its pipe, verifies it, and executes it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use potluck_model::list::{List, ListError};
use potluck_model::trace::{Recap, What};
use potluck_model::{Digest, UnixSeconds};

use crate::bounds::Bounds;
use crate::content::{self, Contents};
use crate::engine::Setting;
use crate::executor::halt_path;
use crate::fail;
use crate::job::{self, Job, Received};
use crate::journal::{Journal, JournalError};
use crate::lock::Lock;
use crate::machine::Machine;
use crate::placed::PlacedFiles;
use crate::plan;
use crate::restore;
use crate::root::MachineRoot;
use crate::stage;
use crate::stager::{self, Prepared};
use crate::strays;
use crate::trust::{self, RefusedError};

/// The most bytes of a list.
const LIST_BYTES_MAX: u64 = 256 << 20;
/// `PATH` of steps.
pub(crate) const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a job was not done. Where there is a journal, it says so there, too.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// No second process in a directory.
    #[error("another process executes in {0} already")]
    Running(PathBuf),
    /// The pipe brought no job.
    #[error("cannot read the job: {0}")]
    Job(io::Error),
    /// The directory cannot be used.
    #[error("cannot use {path}: {source}")]
    Dir {
        /// Which directory or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The job is not to be believed.
    #[error("the assignment was refused, and nothing was executed: {0}")]
    Refused(#[from] RefusedError),
    /// The list's bytes are not those that are assigned.
    #[error("the list that is assigned cannot be read, and nothing was executed: {0}")]
    List(String),
    /// The root is not there.
    #[error("cannot use the root {path} (--root), and nothing was executed: {source}")]
    Root {
        /// The root.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is not noted may not be done.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The executing process's `main`: `dir` is its own directory, the job comes over stdin.
///
/// Success means that the run is over, however its steps ended: the records say how (see `Tail`). Otherwise the reason is on
/// stderr and, where that is possible, in the journal as trouble.
pub fn main(dir: &Path, bounds: &Bounds) -> ExitCode {
    match process(dir, bounds) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody else hears it; if that fails, nobody does.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// How the run went; `None`: it was never told to execute.
fn process(dir: &Path, bounds: &Bounds) -> Result<Option<Recap>, RunError> {
    // Fails if this is a session of its own already, which is as well.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    strays::close();
    let dir_error = |source| RunError::Dir {
        path: dir.to_owned(),
        source,
    };
    let lock = Lock::take(dir).map_err(dir_error)?;
    let _lock = lock.ok_or_else(|| RunError::Running(dir.to_owned()))?;
    let dir = dir.canonicalize().map_err(dir_error)?;
    fail::of_executing_process(&dir);
    stage::remove_left(&dir).map_err(|source| RunError::Dir {
        path: dir.clone(),
        source,
    })?;
    plan::remove_left(&dir).map_err(|source| RunError::Dir {
        path: dir.clone(),
        source,
    })?;
    let machine = Machine::detect();
    let first = job::read_order(&mut io::stdin().lock()).map_err(RunError::Job)?;
    let (mut job, prepared) = match first {
        Some(Received::Execute(job)) => (job, None),
        Some(Received::Stage(mut job)) => {
            bounds.apply(&mut job, &dir).map_err(RunError::Job)?;
            let told = stager::until_complete(&dir, &job, bounds, machine, &mut io::stdin().lock());
            match told.map_err(RunError::Job)? {
                Some(told) => told,
                None => return Ok(None),
            }
        }
        Some(Received::Verify(mut job)) => {
            bounds.apply(&mut job, &dir).map_err(RunError::Job)?;
            return reconsider(&dir, &job).map(|()| None);
        }
        Some(Received::Arrived(_)) => return Err(RunError::Job(io::ErrorKind::InvalidData.into())),
        None => return Err(RunError::Job(io::ErrorKind::UnexpectedEof.into())),
    };
    bounds.apply(&mut job, &dir).map_err(RunError::Job)?;
    let halted = Arc::new(AtomicBool::new(job.halted));
    {
        let halted = Arc::clone(&halted);
        std::thread::spawn(move || {
            // The end of the pipe is the end of the agent, not of the run.
            while let Ok(Some(control)) = job::read_control(&mut io::stdin().lock()) {
                if control.halt {
                    halted.store(true, Ordering::Relaxed);
                }
            }
        });
    }
    run(&dir, &job, prepared, &halted, machine, SEARCH.into()).map(Some)
}

/// Finds out whether what publishers have signed is believed, and says so in the journal if not.
fn reconsider(dir: &Path, job: &Job) -> Result<(), RunError> {
    let refused = match trust::admit(dir, job, UnixSeconds::now()) {
        Ok(admitted) => admitted.refused,
        Err(refused) => Some(refused),
    };
    match refused {
        None => Ok(()),
        Some(refused) => {
            note_trouble(dir, &refused)?;
            Err(refused.into())
        }
    }
}

fn note_trouble(dir: &Path, refused: &RefusedError) -> Result<(), RunError> {
    let message = refused.to_string();
    let mut journal = Journal::open(dir)?;
    journal.append(None, Some(What::Trouble { message }), None)?;
    Ok(journal.sync()?)
}

/// Executes a job in `dir`, which the caller has locked.
pub(crate) fn run(
    dir: &Path,
    job: &Job,
    prepared: Option<Prepared>,
    halted: &AtomicBool,
    machine: Machine,
    search: OsString,
) -> Result<Recap, RunError> {
    match fs::remove_file(halt_path(dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(RunError::Dir {
                path: halt_path(dir),
                source: error,
            });
        }
        _ => {}
    }
    let mut journal = Journal::open(dir)?;
    journal.rotate_if_large()?;
    let Verified { list, staged, refused } = match verify(dir, job, prepared) {
        Ok(verified) => verified,
        Err((about, error)) => {
            let what = What::Trouble {
                message: error.to_string(),
            };
            journal.append(about, Some(what), None)?;
            journal.sync()?;
            return Err(error);
        }
    };
    let digest = list.digest();
    plan::keep(dir, job).map_err(|source| RunError::Dir {
        path: dir.to_owned(),
        source,
    })?;
    let prepared = MachineRoot::open(&job.machine_root)
        .map_err(|source| RunError::Root {
            path: job.machine_root.clone(),
            source,
        })
        .and_then(|root| {
            let placed = PlacedFiles::open(dir, root.path()).map_err(|source| RunError::Dir {
                path: dir.join("placed.json"),
                source,
            })?;
            Ok((root, placed))
        });
    let (root, placed) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let what = What::Trouble {
                message: error.to_string(),
            };
            journal.append(Some(digest), Some(what), None)?;
            journal.sync()?;
            return Err(error);
        }
    };
    let setting = Setting {
        dir,
        list: &list,
        digest,
        node: job.node,
        root,
        machine,
        search,
        halted,
    };
    let mut staged = staged.filter(|staged| staged.is_for(setting.root.path()));
    let mut contents = staged
        .as_mut()
        .map_or_else(|| Contents::new(&[]), stage::Stage::take_contents);
    contents.add(job.contents.iter().cloned());
    let recap = restore::execute(&setting, journal, contents, placed, staged, job)?;
    if let Some(refused) = refused {
        // After the run, or its good end would be the last word.
        note_trouble(dir, &refused)?;
    }
    Ok(recap)
}

/// What may be executed.
pub(crate) struct Verified {
    pub(crate) list: List,
    /// What is staged of it.
    pub(crate) staged: Option<stage::Stage>,
    /// Why the metadata of today is not believed, though the release was adopted before.
    pub(crate) refused: Option<RefusedError>,
}

/// The list, if all that leads to it is signed, pinned and of the right digest, and what is staged of it. Else why not, and
/// which list it is about.
pub(crate) fn verify(
    dir: &Path,
    job: &Job,
    prepared: Option<Prepared>,
) -> Result<Verified, (Option<Digest>, RunError)> {
    let admitted = trust::admit(dir, job, UnixSeconds::now()).map_err(|error| (None, error.into()))?;
    let release = admitted.release;
    if let Some(prepared) = prepared.filter(|prepared| prepared.digest == release.list) {
        return Ok(Verified {
            list: prepared.list,
            staged: prepared.stage,
            refused: admitted.refused,
        });
    }
    let about = |why: String| (Some(release.list), RunError::List(why));
    let bytes = content::read(&job.list, LIST_BYTES_MAX)
        .map_err(|error| about(format!("{}: {error}", job.list.path.display())))?;
    if Digest::of(&bytes) != release.list || bytes.len() as u64 != release.list_size {
        return Err(about(format!(
            "the bytes in the store ({}) are not those that are assigned",
            job.list.path.display()
        )));
    }
    if let Some(target) = &admitted.target {
        let path = potluck_trust::target_path(&release.configuration, release.release);
        target.check(&path, &bytes).map_err(|fault| about(fault.to_string()))?;
    }
    let list = List::from_bytes(&bytes).map_err(|error: ListError| about(error.to_string()))?;
    if list.configuration != release.configuration || list.release != release.release {
        return Err(about(format!(
            "it is release {} of {}, but release {} of {} is assigned",
            list.release, list.configuration, release.release, release.configuration
        )));
    }
    Ok(Verified {
        list,
        staged: None,
        refused: admitted.refused,
    })
}
