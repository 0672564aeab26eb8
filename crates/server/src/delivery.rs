//! Answers with content: how many at a time, and how fast where a site's uplink is limited.

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures_util::stream;
use potluck_model::api::ErrorKind;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::app::App;
use crate::caller::Role;
use crate::refusal::Refusal;
use crate::uplink::Uplink;

/// A place among the answers with content, held until the answer has ended.
pub(crate) struct Place {
    uplink: Option<Arc<Uplink>>,
    _of_all: Option<OwnedSemaphorePermit>,
    _of_site: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// A place for whoever calls. Nodes are sent away while there is none, to come back: waiting here would only cost memory,
    /// and they may have it from a peer meanwhile. Operators are few.
    pub(crate) async fn take(app: &Arc<App>, role: &Role) -> Result<Self, Refusal> {
        let &Role::Node(node) = role else {
            return Ok(Self {
                uplink: None,
                _of_all: None,
                _of_site: None,
            });
        };
        let busy = |what: &str| Refusal::new(ErrorKind::Busy, what);
        let uplink = if app.sites.has_limits() {
            let sites = app.blocking(move |app| Ok(app.catalogue.sites(node)?)).await?;
            app.sites.uplink(&sites)
        } else {
            None
        };
        let of_site = match &uplink {
            Some(uplink) => uplink
                .place()
                .map_err(|_| busy("the uplink of this site is in use to its limit: come back in some seconds"))?,
            None => None,
        };
        let of_all = app.downloads.clone().try_acquire_owned();
        Ok(Self {
            uplink,
            _of_all: Some(of_all.map_err(|_| busy("the server sends as much as it can: come back in some seconds"))?),
            _of_site: of_site,
        })
    }
}

/// Where a producer puts what is to be sent.
pub(crate) struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    place: Place,
}

impl Pieces {
    /// Hands bytes over as fast as they may pass. `false`: nobody takes them.
    pub(crate) async fn send(&self, mut bytes: Bytes) -> bool {
        if let Some(uplink) = &self.place.uplink {
            while uplink.limits() && !bytes.is_empty() {
                let piece = bytes.split_to(bytes.len().min(uplink.piece()));
                tokio::time::sleep(uplink.take(piece.len())).await;
                if self.sender.send(Ok(piece)).await.is_err() {
                    return false;
                }
            }
            if bytes.is_empty() {
                return true;
            }
        }
        self.sender.send(Ok(bytes)).await.is_ok()
    }
}

/// A body that `produce` fills while it is being sent; it waits for the network, and ends when the receiver is gone.
pub(crate) fn streamed<F>(place: Place, produce: impl FnOnce(Pieces) -> F) -> Body
where
    F: Future<Output = Result<(), Refusal>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(1);
    let last = sender.clone();
    let producer = produce(Pieces { sender, place });
    tokio::spawn(async move {
        if producer.await.is_err() {
            // Too late for a status: cutting the body short is what says that it is not whole.
            let _ = last.send(Err(io::Error::other("the server could not read on"))).await;
        }
    });
    Body::from_stream(stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    }))
}
