//! Transfers under way: how they go, and how they end.

use std::time::Duration;

use potluck_model::trace::{Source, What, Why};
use potluck_model::{NodeId, Time};

use super::Swarm;
use super::items::{ItemIx, State};
use super::links::{SHUN_LONG, backoff};
use super::peers::Trust;
use super::schedule::ENDING_BYTES;
use crate::interface::{Action, TransferEnd, TransferId, Want};

/// A peer that sends nothing for so long is stalled.
const STALL_PEER: Duration = Duration::from_millis(2_500);
/// So is one that has not delivered anything before, or failed since, and sends nothing for so long.
const DOUBT: Duration = Duration::from_millis(800);
/// The origin may be slow, and there is nobody behind it.
const STALL_ORIGIN: Duration = Duration::from_secs(30);
/// Beside a multiple of what its bytes should take, a transfer from a peer gets so long.
const PEER_EXTRA: Duration = Duration::from_secs(15);
/// The slowest that a peer of unknown speed may be before it is given up, in bytes a second.
const PEER_RATE_MIN: u64 = 64 << 10;
/// How long a busy peer is left alone.
const BUSY: Duration = Duration::from_millis(60);
const BUSY_MAX: Duration = Duration::from_secs(1);
/// How long a peer may say that it is busy and give nothing at all.
const BUSY_PATIENCE: Duration = Duration::from_secs(5);
/// How long the origin is left alone after a failure, at first and at most.
const ORIGIN_BACKOFF: Duration = Duration::from_millis(200);
const ORIGIN_BACKOFF_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) source: Source,
    pub(super) items: Vec<ItemIx>,
    wants: Vec<(Want, ItemIx)>,
    pub(super) bytes: u64,
    received: u64,
    pub(super) started: Time,
    progress: Time,
    /// Chunks that were good.
    stored: u32,
    expected: Option<Duration>,
    pub(super) hedge: bool,
}

impl Transfer {
    pub(super) fn age(&self, now: Time) -> Duration {
        now.since(self.started)
    }

    /// Bytes that have not come yet.
    pub(super) const fn left(&self) -> u64 {
        self.bytes - self.received
    }

    /// Whether less than half of it has come.
    pub(super) const fn is_young(&self) -> bool {
        self.received < self.bytes / 2
    }

    /// Whether little of it is to come.
    const fn is_ending(&self) -> bool {
        self.left() <= ENDING_BYTES
    }

    /// Whether it takes more than twice as long as it should.
    pub(super) fn is_slow(&self, now: Time) -> bool {
        let expected = self.expected.unwrap_or(Duration::from_secs(1));
        self.age(now) > (expected * 2).max(Duration::from_millis(500))
    }
}

impl Swarm {
    /// Fetches items from a source.
    pub(super) fn start_transfer(&mut self, now: Time, source: Source, items: Vec<ItemIx>, why: Why) {
        let id = TransferId(self.next_transfer);
        self.next_transfer += 1;
        let mut wants = Vec::new();
        let mut bytes = 0;
        for item in &items {
            let entry = self.items.at(*item);
            bytes += entry.bytes;
            let transfers = match entry.state {
                State::Busy(n) => n + 1,
                State::Idle | State::Done => 1,
            };
            self.items.set_state(*item, State::Busy(transfers));
            wants.extend(
                self.items
                    .wants(&self.contents, *item)
                    .into_iter()
                    .map(|want| (want, *item)),
            );
        }
        let mut expected = None;
        if let Source::Peer(node) = source {
            if let Some(peer) = self.peers.table.get_mut(&node) {
                peer.meter.begin(now, peer.transfers == 0);
                if peer.transfers == 0 {
                    peer.delivered = now;
                }
                peer.transfers += 1;
                peer.used = now;
                expected = peer.meter.time_for(bytes * peer.transfers as u64);
            }
        } else {
            self.origin.meter.begin(now, self.origin.transfers == 0);
            self.origin.transfers += 1;
            self.claim(&items, None);
            for item in &items {
                self.items.at_mut(*item).ours = true;
            }
        }
        self.arrivals.begin(now, self.in_flight_bytes == 0);
        self.in_flight_bytes += bytes;
        self.actions.push_back(Action::Fetch {
            transfer: id,
            source,
            wants: wants.iter().map(|(want, _)| *want).collect(),
            why,
        });
        self.transfers.insert(
            id,
            Transfer {
                source,
                items,
                wants,
                bytes,
                received: 0,
                started: now,
                progress: now,
                stored: 0,
                expected,
                hedge: why == Why::Hedge,
            },
        );
    }

    pub(super) fn handle_progress(&mut self, now: Time, id: TransferId, bytes: u64) {
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return;
        };
        transfer.progress = now;
        let counted = bytes.min(transfer.bytes - transfer.received);
        let ended = transfer.is_ending();
        transfer.received += counted;
        self.in_flight_bytes -= counted;
        self.arrivals.count(now, bytes);
        if transfer.source == Source::Origin && transfer.is_ending() && !ended {
            self.origin.scan_now(now);
        }
        match transfer.source {
            Source::Peer(node) => {
                if let Some(peer) = self.peers.table.get_mut(&node) {
                    peer.delivered = now;
                    peer.used = now;
                    peer.busy_since = None;
                    peer.meter.count(now, bytes);
                }
            }
            _ => {
                self.origin.meter.count(now, bytes);
                self.origin.stalls = 0;
            }
        }
    }

    pub(super) fn transfer_stored(&mut self, now: Time, id: TransferId, item: Option<ItemIx>) {
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return;
        };
        transfer.stored += 1;
        transfer.progress = now;
        if transfer.source == Source::Origin
            && let Some(item) = item
        {
            // However often it breaks off, it gets on.
            self.items.at_mut(item).origin_failures = 0;
        }
    }

    /// Every chunk of an item is stored: whoever else was fetching it need not.
    pub(super) fn item_done(&mut self, now: Time, item: ItemIx) {
        let doubled = matches!(self.items.at(item).state, State::Busy(n) if n > 1);
        self.items.set_state(item, State::Done);
        self.put_claim(item, None);
        if !doubled {
            return;
        }
        let vain: Vec<TransferId> = self
            .transfers
            .iter()
            .filter(|(_, transfer)| {
                transfer.items.contains(&item)
                    && transfer
                        .items
                        .iter()
                        .all(|item| self.items.at(*item).state == State::Done)
                    && transfer.received < transfer.bytes
            })
            .map(|(id, _)| *id)
            .collect();
        for id in vain {
            self.cancel_transfer(now, id);
        }
    }

    pub(super) fn cancel_transfer(&mut self, now: Time, id: TransferId) {
        self.actions.push_back(Action::Cancel { transfer: id });
        self.take_transfer(now, id);
    }

    /// Takes a transfer out of the books; what it did not deliver is idle again.
    fn take_transfer(&mut self, now: Time, id: TransferId) -> Option<(Transfer, Vec<ItemIx>)> {
        let transfer = self.transfers.remove(&id)?;
        self.in_flight_bytes -= transfer.bytes - transfer.received;
        match transfer.source {
            Source::Peer(node) => {
                if let Some(peer) = self.peers.table.get_mut(&node) {
                    peer.transfers = peer.transfers.saturating_sub(1);
                    peer.nothing = false;
                }
            }
            _ => {
                self.origin.transfers -= 1;
            }
        }
        let mut left = Vec::new();
        for item in &transfer.items {
            match self.items.at(*item).state {
                State::Busy(n) if n > 1 => self.items.set_state(*item, State::Busy(n - 1)),
                State::Busy(_) => {
                    self.items.set_state(*item, State::Idle);
                    self.recount(*item);
                    left.push(*item);
                }
                State::Idle | State::Done => {}
            }
        }
        self.origin.scan_now(now);
        // There is room for another.
        self.items.changed = true;
        Some((transfer, left))
    }

    pub(super) fn handle_transfer_ended(&mut self, now: Time, id: TransferId, end: TransferEnd) {
        let Some((transfer, left)) = self.take_transfer(now, id) else {
            return;
        };
        if !left.is_empty() {
            // What comes back may be had from others.
            self.peers_changed();
        }
        match transfer.source {
            Source::Peer(node) => self.peer_ended(now, node, &transfer, &left, end),
            _ => self.origin_ended(now, &transfer, &left, end),
        }
    }

    fn peer_ended(&mut self, now: Time, node: NodeId, transfer: &Transfer, left: &[ItemIx], end: TransferEnd) {
        match end {
            TransferEnd::Busy { instead, retry_after } => {
                let jitter = Duration::from_millis(self.random.below(40));
                let mut barren = false;
                if let Some(peer) = self.peers.table.get_mut(&node) {
                    peer.busy += 1;
                    barren = now.since(*peer.busy_since.get_or_insert(now)) >= BUSY_PATIENCE;
                    peer.rest_until = now + retry_after.unwrap_or_else(|| backoff(peer.busy, BUSY, BUSY_MAX)) + jitter;
                    let rested = peer.rest_until;
                    self.tick_at = Some(self.tick_at.map_or(rested, |at| at.min(rested)));
                }
                for other in instead.into_iter().take(crate::message::INSTEAD_MAX) {
                    self.hint(other, transfer);
                }
                self.dial_soon(now);
                if barren {
                    // Whoever has something else to do for ever is as good as one that has nothing.
                    self.blame(node, left);
                    self.source_failed(now, node, "was busy for 5 s and gave nothing", Duration::ZERO);
                }
            }
            TransferEnd::Missing(indices) => {
                let lied: Vec<ItemIx> = indices
                    .iter()
                    .filter_map(|index| transfer.wants.get(*index as usize))
                    .map(|(_, item)| *item)
                    .collect();
                self.blame(node, &lied);
                self.blame(node, left);
                if transfer.stored == 0 {
                    self.source_failed(now, node, "does not have what it said it has", Duration::ZERO);
                }
            }
            TransferEnd::Done => {
                self.blame(node, left);
                if left.is_empty() {
                    if let Some(peer) = self.peers.table.get_mut(&node) {
                        peer.failures = 0;
                        peer.busy = 0;
                    }
                    if transfer.stored > 0 {
                        self.prove_good(node);
                    }
                } else {
                    self.source_failed(now, node, "sent less than it said", Duration::ZERO);
                }
            }
            TransferEnd::Corrupt => {
                self.blame(node, left);
                self.source_failed(now, node, "sent bytes that do not have their digest", SHUN_LONG);
                self.actions.push_back(Action::Disconnect { peer: node });
            }
            TransferEnd::Failed(fault) => {
                self.blame(node, left);
                self.source_failed(now, node, &fault, Duration::ZERO);
            }
        }
    }

    /// A peer delivered what it was asked for: its word counts again.
    fn prove_good(&mut self, node: NodeId) {
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        if std::mem::replace(&mut peer.trust, Trust::Good) == Trust::Trial {
            self.add_to_holders(node);
        }
    }

    fn blame(&mut self, node: NodeId, items: &[ItemIx]) {
        for item in items {
            self.items.fail(*item, node);
            self.recount(*item);
        }
    }

    /// A busy peer says that another has what was asked of it.
    fn hint(&mut self, node: NodeId, transfer: &Transfer) {
        let contents: Vec<_> = transfer.items.iter().map(|item| self.items.at(*item).content).collect();
        if let Some(peer) = self.peers.table.get_mut(&node)
            && !peer.is_up()
        {
            for ix in contents {
                peer.fetching.set(ix.0);
            }
        }
    }

    fn origin_ended(&mut self, now: Time, transfer: &Transfer, left: &[ItemIx], end: TransferEnd) {
        let jitter = |this: &mut Self, span: Duration| {
            let half = (span.as_micros() as u64 / 2).max(1);
            span / 2 + Duration::from_micros(this.random.below(half))
        };
        // What was at fault may be one content: the others go on. Where it broke off after something had come, all but the
        // first of what was still to come had no part in it.
        let suspects = match &end {
            TransferEnd::Failed(_) if transfer.stored > 0 => left.get(..1).unwrap_or_default(),
            _ => left,
        };
        let fault = match end {
            TransferEnd::Done if left.is_empty() => {
                self.origin.failures = 0;
                self.origin.observe(transfer.age(now), transfer.bytes);
                return;
            }
            TransferEnd::Busy { retry_after, .. } => {
                self.origin.failures += 1;
                let span = retry_after
                    .unwrap_or_else(|| backoff(self.origin.failures, ORIGIN_BACKOFF, ORIGIN_BACKOFF_MAX))
                    .min(ORIGIN_BACKOFF_MAX);
                self.origin.backoff_until = now + span + jitter(self, span);
                return;
            }
            TransferEnd::Failed(fault) => {
                if transfer.stored > 0 {
                    // It works, by and large.
                    self.origin.failures = 0;
                }
                self.origin.failures += 1;
                let span = backoff(self.origin.failures, ORIGIN_BACKOFF, ORIGIN_BACKOFF_MAX);
                self.origin.backoff_until = now + jitter(self, span * 2);
                fault
            }
            TransferEnd::Done => "sent less than was asked for".to_owned(),
            TransferEnd::Missing(_) => "does not have what the list names".to_owned(),
            TransferEnd::Corrupt => "sent bytes that do not have their digest".to_owned(),
        };
        for item in suspects {
            let failures = self.items.at(*item).origin_failures + 1;
            let span = jitter(self, backoff(failures, ORIGIN_BACKOFF, ORIGIN_BACKOFF_MAX) * 2);
            let entry = self.items.at_mut(*item);
            entry.origin_failures = failures;
            entry.origin_after = now + span;
        }
        self.trace(What::SourceFailed {
            source: Source::Origin,
            fault,
        });
    }

    /// Ends what takes too long.
    pub(super) fn tick_transfers(&mut self, now: Time) {
        let mut late: Vec<(TransferId, &'static str)> = Vec::new();
        let mut quiet: Vec<TransferId> = Vec::new();
        let quiet_max = self.origin.quiet_max();
        for (id, transfer) in &self.transfers {
            match transfer.source {
                Source::Peer(node) => {
                    let delivered = self
                        .peers
                        .table
                        .get(&node)
                        .map_or(transfer.progress, |peer| peer.delivered.max(transfer.progress));
                    let floor = Duration::from_micros(transfer.bytes.saturating_mul(1_000_000) / PEER_RATE_MIN);
                    let most = PEER_EXTRA + transfer.expected.map_or(floor, |expected| expected * 4);
                    let trust = self.peers.table.get(&node).map(|peer| peer.trust);
                    let unproven = trust != Some(Trust::Good) && transfer.received == 0;
                    if unproven && transfer.age(now) >= DOUBT {
                        late.push((*id, "sent nothing for 0.8 s, and nothing before"));
                    } else if now.since(delivered) >= STALL_PEER {
                        late.push((*id, "sent nothing for 2.5 s"));
                    } else if transfer.age(now) >= most {
                        late.push((*id, "is too slow"));
                    }
                }
                _ => {
                    if now.since(transfer.progress) >= STALL_ORIGIN {
                        late.push((*id, "sent nothing for 30 s"));
                    } else if quiet_max.is_some_and(|max| now.since(transfer.progress) >= max) {
                        quiet.push(*id);
                    }
                }
            }
        }
        if !quiet.is_empty() {
            self.origin.stalls += 1;
        }
        for id in quiet {
            // What has come of it stays, and it is still this node's to fetch.
            self.cancel_transfer(now, id);
        }
        for (id, fault) in late {
            self.actions.push_back(Action::Cancel { transfer: id });
            self.handle_transfer_ended(now, id, TransferEnd::Failed(fault.to_owned()));
        }
    }

    /// Ends what is fetched from the origin although peers have it by now, if much of it is still to come.
    pub(super) fn leave_to_peers(&mut self, now: Time) {
        let vain: Vec<TransferId> = self
            .transfers
            .iter()
            .filter(|(_, transfer)| transfer.source == Source::Origin && !transfer.is_ending())
            .filter(|(_, transfer)| {
                transfer.items.iter().all(|item| {
                    self.items.at(*item).state == State::Done
                        || self
                            .peers
                            .up()
                            .any(|(node, peer)| peer.provides(node, &self.contents, &self.items, *item))
                })
            })
            .map(|(id, _)| *id)
            .collect();
        for id in vain {
            self.cancel_transfer(now, id);
        }
    }

    /// Takes those out of the books that delivered everything and have only to say so.
    pub(super) fn drop_finished(&mut self) {
        let finished: Vec<TransferId> = self
            .transfers
            .iter()
            .filter(|(_, transfer)| {
                transfer
                    .items
                    .iter()
                    .all(|item| self.items.at(*item).state == State::Done)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in finished {
            self.take_transfer(Time::ZERO, id);
        }
    }

    pub(super) fn cancel_all(&mut self) {
        let now = Time::ZERO;
        for id in self.transfers.keys().copied().collect::<Vec<_>>() {
            self.cancel_transfer(now, id);
        }
    }

    /// A peer is gone.
    pub(super) fn end_transfers_of(&mut self, now: Time, node: NodeId) {
        let ids: Vec<TransferId> = self
            .transfers
            .iter()
            .filter(|(_, transfer)| transfer.source == Source::Peer(node))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.handle_transfer_ended(now, id, TransferEnd::Failed("the connection is gone".to_owned()));
        }
    }

    /// Items that this node is fetching from the origin.
    pub(super) fn origin_items(&self) -> Vec<ItemIx> {
        self.transfers
            .values()
            .filter(|transfer| transfer.source == Source::Origin)
            .flat_map(|transfer| transfer.items.iter().copied())
            .filter(|item| self.items.at(*item).state != State::Done)
            .collect()
    }
}
