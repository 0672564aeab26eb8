//! What has arrived of a release that is being fetched, on its way to the executing process that copies it ahead.
//!
//! Whatever goes wrong here costs time only: what the executing process was not told of it copies when it executes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use potluck_model::{Digest, Location};
use potluck_provision::{Arrival, Part};
use potluck_store::{Store, StoreError};

use crate::execution::Order;

/// How long more is waited for, so that much is told at once.
const GATHER: Duration = Duration::from_millis(10);

/// The driver's end. Dropping it ends the staging, unless it was told to execute.
pub(crate) struct Staging {
    pub(crate) list: Digest,
    shared: Arc<Shared>,
}

#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    news: News,
    order: Option<Order>,
    abandoned: bool,
}

/// What has arrived since it was last taken: at most what the list names.
#[derive(Default)]
pub(crate) struct News {
    /// Contents of one chunk.
    whole: Vec<Digest>,
    /// Others: digest of the chunk list, and runs `(first, count)` of chunks.
    parts: BTreeMap<Digest, (Digest, Vec<(u32, u32)>)>,
}

/// What is to be done next.
pub(crate) enum Next {
    /// Tell of this.
    Tell(News),
    /// Everything is there.
    Execute(Box<Order>),
    /// It is not wanted any more.
    Abandoned,
}

impl Staging {
    /// Its two ends.
    pub(crate) fn new(list: Digest) -> (Self, Arc<Shared>) {
        let shared = Arc::<Shared>::default();
        let driver = Self {
            list,
            shared: Arc::clone(&shared),
        };
        (driver, shared)
    }

    /// A run of chunks of a needed content is stored; `chunk_list`: of a content that has one.
    pub(crate) fn arrived(&self, content: Digest, chunk_list: Option<Digest>, first: u32, count: u32) {
        let mut state = self.shared.lock();
        match chunk_list {
            None => state.news.whole.push(content),
            Some(chunk_list) => {
                let (_, runs) = state.news.parts.entry(content).or_insert((chunk_list, Vec::new()));
                match runs.last_mut() {
                    Some(last) if last.0 + last.1 == first => last.1 += count,
                    _ => runs.push((first, count)),
                }
            }
        }
        self.shared.changed.notify_one();
    }

    /// Everything is here and durable.
    pub(crate) fn execute(self, order: Order) {
        self.shared.lock().order = Some(order);
        self.shared.changed.notify_one();
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.shared.lock().abandoned = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for what is to be done next. An order comes before what has arrived: it tells of that as well.
    pub(crate) fn next(&self) -> Next {
        let mut state = self.lock();
        let quiet = |state: &mut State| state.order.is_none() && !state.abandoned;
        while quiet(&mut state) && state.news.is_empty() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let waited = self.changed.wait_timeout_while(state, GATHER, quiet);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        match state.order.take() {
            Some(order) => Next::Execute(Box::new(order)),
            None if state.abandoned => Next::Abandoned,
            None => Next::Tell(std::mem::take(&mut state.news)),
        }
    }
}

impl News {
    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.parts.is_empty()
    }
}

/// Finds out where what has arrived lies.
#[derive(Default)]
pub(crate) struct Places {
    /// Of contents in part: their own, and that of their chunk list.
    parts: BTreeMap<Digest, (Location, Location)>,
}

impl Places {
    /// Arrivals to tell of. What is gone again is left out.
    pub(crate) fn find(&mut self, store: &Store, news: News) -> Result<Vec<Arrival>, StoreError> {
        let found = store.locate_all(&news.whole)?;
        let mut arrivals: Vec<Arrival> = news
            .whole
            .into_iter()
            .zip(found)
            .filter_map(|(digest, at)| {
                Some(Arrival {
                    digest,
                    at: at?,
                    part: None,
                })
            })
            .collect();
        for (digest, (chunk_list, chunks)) in news.parts {
            let (own, of_list) = match self.parts.entry(digest) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(entry) => match (store.locate_part(&digest)?, store.locate(&chunk_list)?) {
                    (Some(own), Some(of_list)) => entry.insert((own, of_list)),
                    _ => continue,
                },
            };
            arrivals.push(Arrival {
                digest,
                at: own.clone(),
                part: Some(Part {
                    chunk_list: of_list.clone(),
                    chunks,
                }),
            });
        }
        Ok(arrivals)
    }
}
