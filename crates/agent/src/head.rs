//! Asks the server for the node's list: because the node connected, and then whenever something changes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use potluck_model::Digest;
use potluck_model::api::{ErrorKind, Events, HeadQuery, Labels, POLL_SECONDS_MAX, Presence, ReleaseTrust};
use potluck_model::revocations::Edition;
use potluck_model::trace::{Cause, What};
use potluck_net::api::{ApiFault, Client};
use potluck_net::watch::{Change, Watcher};
use potluck_trust::{Role, Signed, Snapshot};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::driver::Event;
use crate::outage::Outage;
use crate::outbox::Outbox;

/// Back-off of reports: from, to.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// What the task works with.
pub(crate) struct HeadTask {
    pub(crate) client: Client,
    /// Told when the server says that the node's certificate has expired.
    pub(crate) expired: Arc<Notify>,
    pub(crate) outbox: Outbox,
    pub(crate) events: mpsc::Sender<Event>,
    /// The list of revoked nodes that the node has.
    pub(crate) edition: watch::Receiver<Edition>,
    /// Drawn by lot at the start.
    pub(crate) instance: u64,
    pub(crate) bind: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) facts: Labels,
}

impl HeadTask {
    /// Runs until the driver is gone.
    pub(crate) async fn run(self, mut watcher: Watcher) {
        let mut cause = Cause::Start;
        let mut outage = Outage::default();
        loop {
            let fault = tokio::select! {
                fault = self.follow(cause, &mut outage) => fault,
                change = watcher.next() => {
                    cause = self.network_changed(change).await;
                    outage.hurry();
                    continue;
                }
            };
            let Some(fault) = fault else { return };
            match fault.kind() {
                Some(ErrorKind::Expired) => self.expired.notify_one(),
                Some(ErrorKind::Revoked) => {
                    let message = fault.to_string();
                    if self.events.send(Event::Revoked { message }).await.is_err() {
                        return;
                    }
                }
                _ => {}
            }
            if outage.failed(&fault, Instant::now()) && self.events.send(Event::ServerUnreachable).await.is_err() {
                return;
            }
            cause = match cause {
                Cause::Notified => Cause::ServerBack,
                cause => cause,
            };
            tokio::select! {
                () = tokio::time::sleep(outage.back_off()) => {}
                change = watcher.next() => {
                    cause = self.network_changed(change).await;
                    outage.hurry();
                }
            }
        }
    }

    async fn network_changed(&self, change: Change) -> Cause {
        // Connections over the old network are of no use, even if nothing has said so yet.
        self.client.reset();
        self.outbox.hurry();
        drop(self.events.send(Event::NetworkChanged).await);
        let cause = match change {
            Change::LinkUp => Cause::LinkUp,
            Change::AddressChanged => Cause::AddressChanged,
        };
        tracing::info!(?cause, "the network changed: asking the server for the list again");
        cause
    }

    /// Gets the head because of `first`, then follows its changes; ends with a fault, or with none when nobody listens.
    async fn follow(&self, first: Cause, outage: &mut Outage) -> Option<ApiFault> {
        let mut cause = first;
        let mut cursor = 0;
        let mut targets = None;
        self.outbox.record(None, What::ListRequested { cause });
        loop {
            let wait = if cause == Cause::Notified { POLL_SECONDS_MAX } else { 0 };
            if cause != Cause::Notified
                && let Err(fault) = self.client.presence(&self.presence()).await
            {
                return Some(fault);
            }
            let query = HeadQuery {
                cursor,
                wait,
                revocations: *self.edition.borrow(),
                instance: self.instance,
            };
            let mut head = match self.client.head(&query).await {
                Ok(head) => head,
                Err(fault) => return Some(fault),
            };
            if let Some(trust) = &mut head.trust
                && let Err(fault) = self.fetch_targets(trust, &mut targets).await
            {
                return Some(fault);
            }
            outage.ended();
            if cause == Cause::Notified && head.cursor != cursor {
                self.outbox.record(None, What::ListRequested { cause });
            }
            cursor = head.cursor;
            if self
                .events
                .send(Event::Head {
                    head: Box::new(head),
                    cause,
                })
                .await
                .is_err()
            {
                return None;
            }
            cause = Cause::Notified;
        }
    }

    /// Adds the targets that the snapshot names. Whether they are to be believed is for the executing process to find out.
    async fn fetch_targets(
        &self,
        trust: &mut ReleaseTrust,
        known: &mut Option<(Digest, String)>,
    ) -> Result<(), ApiFault> {
        let Some((digest, size)) = named_targets(&trust.snapshot) else {
            return Ok(());
        };
        if known.as_ref().is_none_or(|(known, _)| *known != digest) {
            let bytes = self.client.content(&digest, size).await?;
            *known = String::from_utf8(bytes.to_vec()).ok().map(|text| (digest, text));
        }
        trust.targets = known.as_ref().map(|(_, text)| text.clone());
        Ok(())
    }

    fn presence(&self) -> Presence {
        let addresses = potluck_net::watch::addresses(self.bind);
        Presence {
            addresses: addresses
                .into_iter()
                .take(16)
                .map(|ip| (ip, self.port).into())
                .collect(),
            facts: self.facts.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            networks: potluck_net::watch::networks(self.bind)
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }
}

/// Digest and bytes of the targets that a snapshot names, if it can be read.
fn named_targets(snapshot: &str) -> Option<(Digest, usize)> {
    let snapshot = Signed::<Snapshot>::from_bytes(snapshot.as_bytes()).ok()?;
    let targets = snapshot.document.targets();
    let size = usize::try_from(targets.bytes_max(Role::Targets)).ok()?;
    Some((targets.blake3?, size))
}

/// Sends events as they come; ends when the driver is gone.
pub(crate) async fn report(client: Client, outbox: Outbox) {
    let mut back_off = BACK_OFF.0;
    loop {
        let events = outbox.batch();
        if events.is_empty() {
            outbox.changed().await;
            // What belongs together goes together.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        let report = Events { events };
        let sent = tokio::select! {
            sent = client.events(&report) => sent,
            () = outbox.hurried() => continue,
        };
        match sent {
            Ok(()) => {
                outbox.acknowledge(&report.events);
                back_off = BACK_OFF.0;
            }
            Err(fault) => {
                tracing::debug!(%fault, "the server does not take events now");
                if matches!(fault.kind(), Some(ErrorKind::BadRequest | ErrorKind::TooLarge)) {
                    // The server will never take these: going on without them beats reporting nothing for ever.
                    tracing::warn!(%fault, count = report.events.len(), "the server refuses events; they are dropped");
                    outbox.acknowledge(&report.events);
                }
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF.1);
            }
        }
        let dropped = outbox.take_dropped();
        if dropped > 0 {
            let message = format!("{dropped} events were dropped: the server could not be reached for too long");
            outbox.record(None, What::Trouble { message });
        }
    }
}
