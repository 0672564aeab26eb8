//! The time before a release is complete: reads what the agent says has arrived, and has it staged meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use potluck_model::Digest;
use potluck_model::list::List;

use crate::bounds::Bounds;
use crate::job::{self, Arrival, Job, Received};
use crate::journal;
use crate::machine::Machine;
use crate::placed::PlacedFiles;
use crate::process;
use crate::root::MachineRoot;
use crate::shim;
use crate::stage::Stage;

/// How much the copying steps back behind the fetching and giving of others on this machine.
const NICENESS: i32 = 10;
/// Runs of chunks of one content that wait to be copied, at most; the others are copied when the release is complete.
const RUNS_MAX: usize = 65_536;

/// A list that was verified before it was to be executed, and what is staged of it.
pub(crate) struct Prepared {
    pub(crate) list: List,
    pub(crate) digest: Digest,
    pub(crate) stage: Option<Stage>,
}

/// What has arrived and is not staged yet.
#[derive(Default)]
struct Inbox {
    waiting: Mutex<Waiting>,
    news: Condvar,
}

#[derive(Default)]
struct Waiting {
    arrivals: BTreeMap<Digest, Arrival>,
    /// No more is to be staged.
    closed: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, arrivals: impl Iterator<Item = Arrival>) {
        let mut waiting = self.lock();
        for arrival in arrivals {
            match waiting.arrivals.get_mut(&arrival.digest) {
                Some(known) => {
                    if let (Some(known), Some(more)) = (&mut known.part, arrival.part)
                        && known.chunks.len() + more.chunks.len() <= RUNS_MAX
                    {
                        known.chunks.extend(more.chunks);
                    }
                }
                None => {
                    waiting.arrivals.insert(arrival.digest, arrival);
                }
            }
        }
        self.news.notify_one();
    }

    /// The next to be staged; waits for it. `None` once closed.
    fn take(&self) -> Option<Arrival> {
        let mut waiting = self.lock();
        loop {
            if waiting.closed {
                return None;
            }
            if let Some((_, arrival)) = waiting.arrivals.pop_first() {
                return Some(arrival);
            }
            waiting = self.news.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends `take`. What still waits is not staged any more.
    fn close(&self) -> BTreeMap<Digest, Arrival> {
        let mut waiting = self.lock();
        waiting.closed = true;
        self.news.notify_one();
        std::mem::take(&mut waiting.arrivals)
    }
}

/// Stages what arrives until the job to execute comes; `None`: the pipe ended before that, and nothing is left behind.
///
/// Whatever goes wrong with staging is noted on stderr: the release is executed all the same, or fails as it would have.
pub(crate) fn until_complete(
    dir: &Path,
    job: &Job,
    bounds: &Bounds,
    machine: Machine,
    input: &mut impl BufRead,
) -> io::Result<Option<(Box<Job>, Option<Prepared>)>> {
    let begun = begin(dir, job, machine).unwrap_or_else(|why| {
        // Nobody else hears it.
        let _ = writeln!(io::stderr(), "cannot copy ahead what arrives: {why}");
        None
    });
    let Some((list, digest, mut stage)) = begun else {
        return Ok(read(input, bounds, |_| {})?.map(|job| (job, None)));
    };
    stage.learn(job.contents.iter().cloned());
    let known: BTreeSet<Digest> = list.contents().iter().map(|content| content.digest).collect();
    let inbox = Inbox::default();
    let held = job.contents.iter().map(|(digest, at)| Arrival {
        digest: *digest,
        at: at.clone(),
        part: None,
    });
    inbox.put(held.filter(|arrival| known.contains(&arrival.digest)));
    let (told, mut stage, left) = std::thread::scope(|scope| {
        let copying = scope.spawn(|| {
            // Of this thread alone. If it is refused, the copying is just not as modest.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            while let Some(arrival) = inbox.take() {
                stage.take_in(&arrival);
            }
            stage
        });
        let told = read(input, bounds, |arrivals| {
            inbox.put(arrivals.into_iter().filter(|arrival| known.contains(&arrival.digest)));
        });
        let left = inbox.close();
        match copying.join() {
            Ok(stage) => (told, stage, left),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    let whole = left.into_values().filter(|arrival| arrival.part.is_none());
    stage.learn(whole.map(|arrival| (arrival.digest, arrival.at)));
    match told? {
        Some(job) => {
            let prepared = Prepared {
                list,
                digest,
                stage: Some(stage),
            };
            Ok(Some((job, Some(prepared))))
        }
        None => Ok(None),
    }
}

/// Passes on what has arrived until the job to execute comes; `None` at the end of the pipe.
fn read(
    input: &mut impl BufRead,
    bounds: &Bounds,
    mut arrived: impl FnMut(Vec<Arrival>),
) -> io::Result<Option<Box<Job>>> {
    loop {
        match job::read_order(input)? {
            Some(Received::Arrived(arrivals)) => {
                for arrival in &arrivals {
                    let chunk_list = arrival.part.as_ref().map(|part| &part.chunk_list);
                    bounds.check(chunk_list.into_iter().chain([&arrival.at]))?;
                }
                arrived(arrivals);
            }
            Some(Received::Execute(job)) => return Ok(Some(job)),
            Some(Received::Stage(_) | Received::Verify(_)) => return Err(io::ErrorKind::InvalidData.into()),
            None => return Ok(None),
        }
    }
}

fn begin(dir: &Path, job: &Job, machine: Machine) -> Result<Option<(List, Digest, Stage)>, String> {
    if shim::any_lives(dir) {
        // A step from before still runs in the private directory.
        return Ok(None);
    }
    let process::Verified { list, .. } = process::verify(dir, job, None).map_err(|(_, error)| error.to_string())?;
    let digest = list.digest();
    let root = MachineRoot::open(&job.machine_root).map_err(|error| error.to_string())?;
    let placed = PlacedFiles::open(dir, root.path()).map_err(|error| error.to_string())?;
    let (_, state, _) = journal::load(dir).map_err(|error| error.to_string())?;
    let stage = Stage::begin(dir, &list, digest, &root, machine, &placed, &state).map_err(|error| error.to_string())?;
    Ok(Some((list, digest, stage)))
}
