//! What every request has at hand.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use potluck_model::api::ErrorKind;
use potluck_model::revocations::REVOKED_MAX;
use potluck_model::{NodeId, UnixSeconds};
use tokio::sync::{Semaphore, watch};

use crate::authority::Authority;
use crate::blobs::Blobs;
use crate::catalogue::{Catalogue, CatalogueError, Revoked};
use crate::instances::Instances;
use crate::refusal::Refusal;
use crate::signing::Signing;
use crate::site::SiteMap;

/// Operations on the database or the disk at the same time; more wait for their turn.
const BLOCKING_MAX: usize = 64;
/// Uploads at the same time.
const UPLOADS_MAX: usize = 16;
/// KiB of content that has been read and not yet been taken by the network.
const OUTGOING_KIB_MAX: usize = 256 << 10;
/// Whoever waits longer than this for a turn is asked to come back later.
const TURN_WAIT_MAX: Duration = Duration::from_secs(30);
/// How often changes are looked for that another server made.
const CHANGE_POLL: Duration = Duration::from_millis(500);
/// How often it is written down when nodes were last heard of.
const SEEN_FLUSH: Duration = Duration::from_secs(2);

/// What every request has at hand. Nothing here is lost with the process that is not in the catalogue, but for when nodes
/// were last heard of.
pub(crate) struct App {
    /// What the server knows.
    pub(crate) catalogue: Arc<dyn Catalogue>,
    /// The bytes.
    pub(crate) blobs: Arc<dyn Blobs>,
    /// Certificates and assignments.
    pub(crate) authority: Authority,
    /// What publishers have signed. None in a fleet that was made before releases were signed.
    pub(crate) signing: Option<Signing>,
    /// `HOST:PORT` for join strings.
    pub(crate) advertised: Vec<String>,
    /// KiB of content between disk and network.
    pub(crate) outgoing: Arc<Semaphore>,
    /// Turns to upload.
    pub(crate) uploads: Semaphore,
    /// Places for answers with content.
    pub(crate) downloads: Arc<Semaphore>,
    /// The operator's site map.
    pub(crate) sites: SiteMap,
    /// For how long nodes do with the last list of revoked nodes; for ever if absent.
    pub(crate) offline_grace: Option<Duration>,
    /// Bytes of uploads under way, which will need room on the disk.
    pub(crate) uploading: AtomicU64,
    /// The file that whoever removes packs holds.
    pub(crate) upkeep: PathBuf,
    /// Starts of agents.
    pub(crate) instances: Instances,
    change: watch::Sender<u64>,
    revoked: watch::Sender<Arc<Revoked>>,
    stopping: watch::Sender<bool>,
    blocking: Semaphore,
    seen: Mutex<BTreeMap<NodeId, UnixSeconds>>,
}

impl App {
    /// Puts it together.
    pub(crate) fn new(
        catalogue: Arc<dyn Catalogue>,
        blobs: Arc<dyn Blobs>,
        authority: Authority,
        signing: Option<Signing>,
        advertised: Vec<String>,
        upkeep: PathBuf,
        downloads_max: usize,
        sites: SiteMap,
        offline_grace: Option<Duration>,
    ) -> Self {
        Self {
            catalogue,
            blobs,
            authority,
            signing,
            advertised,
            outgoing: Arc::new(Semaphore::new(OUTGOING_KIB_MAX)),
            uploads: Semaphore::new(UPLOADS_MAX),
            downloads: Arc::new(Semaphore::new(downloads_max.clamp(1, Semaphore::MAX_PERMITS))),
            sites,
            offline_grace,
            uploading: AtomicU64::new(0),
            upkeep,
            instances: Instances::default(),
            change: watch::Sender::new(0),
            revoked: watch::Sender::new(Arc::new(Revoked {
                number: 0,
                nodes: Vec::new(),
            })),
            stopping: watch::Sender::new(false),
            blocking: Semaphore::new(BLOCKING_MAX),
            seen: Mutex::default(),
        }
    }

    /// Does something that blocks, where that harms nobody.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let _turn = turn(&self.blocking).await?;
        let app = self.clone();
        match tokio::task::spawn_blocking(move || work(&app)).await {
            Ok(result) => result,
            Err(fault) => Err(Refusal::internal(&fault)),
        }
    }

    /// Does something that blocks and may have changed what nodes wait for.
    pub(crate) async fn changing<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (result, change) = self
            .blocking(move |app| {
                let result = work(app)?;
                app.cut_revoked()?;
                Ok((result, app.catalogue.change()?))
            })
            .await?;
        self.announce(change);
        Ok(result)
    }

    /// Wakes who waits for a change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.change.subscribe()
    }

    /// The nodes that were revoked while their certificates may be valid: their connections are cut.
    pub(crate) fn revoked(&self) -> watch::Receiver<Arc<Revoked>> {
        self.revoked.subscribe()
    }

    /// Cuts the connections of nodes that were revoked since the last time. To be called before a change is announced.
    pub(crate) fn cut_revoked(&self) -> Result<(), CatalogueError> {
        let since = UnixSeconds::now().0.saturating_sub(self.authority.longest_validity());
        let revoked = self.catalogue.revoked(UnixSeconds(since), REVOKED_MAX)?;
        self.revoked.send_if_modified(|known| {
            let newer = revoked.number > known.number;
            if newer {
                *known = Arc::new(revoked);
            }
            newer
        });
        Ok(())
    }

    /// Turns true when the server is being stopped.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Ends everything that waits.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Notes that a node was heard of.
    pub(crate) fn saw(&self, node: NodeId) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(node, UnixSeconds::now());
    }

    fn announce(&self, change: u64) {
        self.change.send_if_modified(|known| {
            let newer = change > *known;
            *known = change.max(*known);
            newer
        });
    }

    /// Looks for changes that another server on the same catalogue made, until the server stops.
    pub(crate) async fn watch_changes(self: Arc<Self>) {
        let mut stopping = self.stopping();
        loop {
            let known = *self.change.borrow();
            let looked = self.blocking(move |app| {
                let change = app.catalogue.change()?;
                if change != known {
                    app.cut_revoked()?;
                }
                Ok(change)
            });
            match looked.await {
                Ok(change) => self.announce(change),
                Err(_) => tokio::time::sleep(CHANGE_POLL).await,
            }
            tokio::select! {
                () = tokio::time::sleep(CHANGE_POLL) => {}
                () = stopped(&mut stopping) => return,
            }
        }
    }

    /// Writes down when nodes were last heard of, until the server stops, and then once more.
    pub(crate) async fn write_seen(self: Arc<Self>) {
        let mut stopping = self.stopping();
        loop {
            let last = tokio::select! {
                () = tokio::time::sleep(SEEN_FLUSH) => false,
                () = stopped(&mut stopping) => true,
            };
            let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
            if !seen.is_empty() {
                let seen = seen.into_iter().collect();
                // Already in the log; the next requests of these nodes make up for it.
                let _ = self.blocking(move |app| Ok(app.catalogue.set_seen(seen)?)).await;
            }
            if last {
                return;
            }
        }
    }
}

/// Waits until the server is being stopped.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // The sender lives as long as the server.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Waits for a turn, but not for ever.
pub(crate) async fn turn(semaphore: &Semaphore) -> Result<tokio::sync::SemaphorePermit<'_>, Refusal> {
    match tokio::time::timeout(TURN_WAIT_MAX, semaphore.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Refusal::new(
            ErrorKind::Busy,
            "the server has too much to do: come back in some seconds",
        )),
    }
}
