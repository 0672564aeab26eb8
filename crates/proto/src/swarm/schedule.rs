//! What is fetched from where: peers first, the rarest first, many at a time; the origin for what is this node's own.

use std::collections::BTreeMap;
use std::time::Duration;

use potluck_model::trace::{Source, Why};
use potluck_model::{NodeId, Time};

use super::items::{ItemIx, State};
use super::meter::Meter;
use super::peers::{Peer, Trust};
use super::transfers::Transfer;
use super::{LOOK_GAP, Swarm};
use crate::interface::TransferId;
use crate::message::WANTS_MAX;
use crate::random::mix;

/// About how many bytes one transfer asks for.
pub(super) const BUNDLE_BYTES: u64 = 1 << 20;
/// From an origin that is fast and not shared, at most.
const BUNDLE_BYTES_MAX: u64 = 4 << 20;
/// Bytes under way from the origin to all members of a crowd together: so many that a part takes `PART_QUICK` to
/// `PART_SLOW`. Fewer leave an uplink idle; more come late to each, and at the end all at once. The most keep an uplink of
/// 1 Gbit/s and 100 ms busy.
const CROWD_BYTES_FIRST: u64 = 5 << 20;
const CROWD_BYTES_MIN: u64 = 4 << 20;
const CROWD_BYTES_MAX: u64 = 12 << 20;
const CROWD_STEP: u64 = 256 << 10;
const PART_QUICK: Duration = Duration::from_millis(300);
const PART_SLOW: Duration = Duration::from_millis(500);
/// When little more than this of a transfer from the origin is to come, the next is looked for, so that the uplink is never
/// idle.
pub(super) const ENDING_BYTES: u64 = 192 << 10;
/// How long each heir of a part that its owner has not begun has before the next one.
const HEIR_EACH: Duration = Duration::from_millis(150);
/// When a node looks again that is no member of the crowd.
const NO_HEIR: Duration = Duration::from_secs(2);
/// Parts that are looked at each time for whether this node is to take them.
const HELP_LOOKS_MAX: usize = 64;
/// For so long nothing came: who failed before is asked for what nobody else has, too.
const STUCK: Duration = Duration::from_secs(3);
/// Items that are looked at for one that a peer on trial has.
const TRIAL_LOOKS_MAX: usize = 64;
/// A peer that sends so many times slower than the fastest is asked only for what none of the fast ones has.
const SLOW_TIMES: u64 = 4;
/// What is asked for and not yet here is what comes in so long, so that on a slow link peers leave room for the origin and
/// nothing waits behind much else; and so much at least.
const WINDOW: Duration = Duration::from_secs(1);
const WINDOW_BYTES_MIN: u64 = 6 << 20;
/// As long as nothing is known of the link.
const WINDOW_BYTES_FIRST: u64 = 16 << 20;
/// What one peer is asked for is what comes from it in so long, or one transfer.
const PEER_WINDOW: Duration = Duration::from_secs(1);
/// How long a transfer from the origin may be quiet at least, and how often that is doubled while nothing comes.
const QUIET_MIN: Duration = Duration::from_secs(1);
const QUIET_DOUBLINGS_MAX: u32 = 5;
/// What is taken for the throughput of a peer that was not measured yet, in bytes a second.
const RATE_UNKNOWN: u64 = 50 << 20;

/// The management server as a source of bytes.
#[derive(Debug, Default)]
pub(super) struct Origin {
    pub(super) transfers: usize,
    pub(super) meter: Meter,
    pub(super) failures: u32,
    pub(super) backoff_until: Time,
    /// Since when it is asked for nothing although something is lacking that nobody has.
    pub(super) idle_since: Option<Time>,
    /// Items should be looked through for ones to fetch.
    pub(super) scan_at: Option<Time>,
    scanned: Option<Time>,
    /// How long one item takes from the origin, to anybody.
    pace: Duration,
    /// Transfers that were begun again because nothing came, without anything having come since.
    pub(super) stalls: u32,
    /// What `CROWD_BYTES_FIRST` has become; 0: nothing was seen yet.
    crowd_bytes: u64,
}

impl Peer {
    /// How many transfers at a time it is good for.
    fn depth(&self) -> usize {
        self.meter
            .bytes_in(PEER_WINDOW)
            .map_or(usize::MAX, |bytes| (bytes / BUNDLE_BYTES).max(1) as usize)
    }
}

impl Origin {
    pub(super) fn restart(&mut self, now: Time) {
        self.failures = 0;
        self.backoff_until = now;
        self.scan_now(now);
    }

    /// Looks at what is to be fetched, unless that was done just now; then in a moment.
    pub(super) fn scan_soon(&mut self, now: Time) {
        self.scan_now(self.scanned.map_or(now, |at| now.max(at + LOOK_GAP)));
    }

    pub(super) fn scan_now(&mut self, now: Time) {
        self.scan_at = Some(self.scan_at.map_or(now, |at| at.min(now)));
    }

    /// Somebody took so long to fetch so many bytes, an item or several.
    pub(super) fn observe(&mut self, span: Duration, fetched: u64) {
        self.pace = (self.pace * 4 / 5).max(span.min(Duration::from_secs(60)));
        if fetched < BUNDLE_BYTES / 2 {
            // Small things say nothing of an uplink.
            return;
        }
        let bytes = self.crowd_bytes();
        self.crowd_bytes = if span < PART_QUICK {
            (bytes + CROWD_STEP).min(CROWD_BYTES_MAX)
        } else if span > PART_SLOW {
            bytes.saturating_sub(CROWD_STEP).max(CROWD_BYTES_MIN)
        } else {
            bytes
        };
    }

    /// Bytes that all members of a crowd together have under way.
    pub(super) const fn crowd_bytes(&self) -> u64 {
        if self.crowd_bytes == 0 {
            CROWD_BYTES_FIRST
        } else {
            self.crowd_bytes
        }
    }

    /// How long a transfer may go without a byte before it is begun again over another connection: TCP waits ever longer for a
    /// connection that lost much in a full queue, long after the queue is empty. `None`: nothing is known of how quick it is.
    pub(super) fn quiet_max(&self) -> Option<Duration> {
        let quiet = (self.pace * 3 / 2).max(QUIET_MIN) * (1 << self.stalls.min(QUIET_DOUBLINGS_MAX));
        (!self.pace.is_zero()).then_some(quiet)
    }

    /// How long one item takes from the origin: what was seen, or more if it takes longer now.
    pub(super) fn pace(&self, now: Time, transfers: &BTreeMap<TransferId, Transfer>) -> Duration {
        transfers
            .values()
            .filter(|transfer| transfer.source == Source::Origin)
            .map(|transfer| transfer.age(now))
            .max()
            .unwrap_or_default()
            .max(self.pace)
    }
}

impl Swarm {
    /// Starts every transfer that should be under way.
    pub(super) fn schedule(&mut self, now: Time, tick: bool) {
        self.items.changed = false;
        if !self.is_lacking() {
            self.origin.scan_at = None;
            return;
        }
        let window = self.window();
        while self.in_flight_bytes < window {
            if self.items.held().next().is_none() {
                if tick {
                    self.hedge(now);
                }
                break;
            }
            let Some(node) = self.best_peer(now) else { break };
            let bundle = self.bundle(node);
            if bundle.is_empty() {
                if let Some(peer) = self.peers.table.get_mut(&node) {
                    peer.nothing = true;
                }
                continue;
            }
            let why = Why::Answered;
            self.start_transfer(now, Source::Peer(node), bundle, why);
        }
        if tick {
            self.try_again(now);
        }
        self.scan_origin(now);
    }

    /// Asks those who failed for one thing that others have as well; for anything while nothing else comes.
    fn try_again(&mut self, now: Time) {
        let on_trial: Vec<NodeId> = self
            .peers
            .up()
            .filter(|(_, peer)| peer.trust == Trust::Trial && peer.transfers == 0 && peer.rest_until <= now)
            .map(|(node, _)| node)
            .collect();
        let stuck = now.since(self.seats.moved) >= STUCK;
        for node in on_trial {
            let Some(peer) = self.peers.table.get(&node) else {
                continue;
            };
            let offered = |item: &ItemIx| {
                peer.offers(node, &self.contents, &self.items, *item)
                    && self.items.wants(&self.contents, *item).len() <= WANTS_MAX
            };
            let unheld = self.items.unheld().take_while(|_| stuck);
            let item = self.items.held().chain(unheld).take(TRIAL_LOOKS_MAX).find(offered);
            if let Some(item) = item {
                self.start_transfer(now, Source::Peer(node), vec![item], Why::Answered);
            }
        }
    }

    /// Bytes that may be asked for and not yet here.
    fn window(&self) -> u64 {
        self.arrivals
            .bytes_in(WINDOW)
            .map_or(WINDOW_BYTES_FIRST, |bytes| bytes.max(WINDOW_BYTES_MIN))
            .min(self.config.in_flight_bytes_max)
    }

    /// The peer with most throughput to spare that may have something.
    fn best_peer(&mut self, now: Time) -> Option<NodeId> {
        let salt = self.next_transfer;
        self.peers
            .up()
            .filter(|(_, peer)| {
                !peer.nothing
                    && peer.trust != Trust::Trial
                    && peer.shunned.is_none()
                    && peer.rest_until <= now
                    && peer.transfers < peer.depth().min(self.config.transfers_per_peer_max)
            })
            .max_by_key(|(node, peer)| {
                let rate = peer.meter.rate().unwrap_or(RATE_UNKNOWN);
                (rate / (peer.transfers as u64 + 1), mix(node.0 ^ salt))
            })
            .map(|(node, _)| node)
    }

    /// Peers that send so much faster that they are asked instead.
    fn much_faster_than(&self, peer: &Peer) -> Vec<(NodeId, &Peer)> {
        let Some(rate) = peer.meter.rate() else {
            return Vec::new();
        };
        self.peers
            .up()
            .filter(|(_, other)| other.meter.rate().is_some_and(|other| other / SLOW_TIMES > rate))
            .collect()
    }

    /// Idle items that a peer has, as many as make up one transfer.
    fn bundle(&self, node: NodeId) -> Vec<ItemIx> {
        let Some(peer) = self.peers.table.get(&node) else {
            return Vec::new();
        };
        let fast = self.much_faster_than(peer);
        let mut bundle = Vec::new();
        let (mut bytes, mut wants) = (0, 0);
        for item in self.items.held() {
            if !peer.provides(node, &self.contents, &self.items, item) {
                continue;
            }
            let faster = |(node, peer): &(NodeId, &Peer)| peer.provides(*node, &self.contents, &self.items, item);
            if fast.iter().any(faster) {
                continue;
            }
            let more = self.items.wants(&self.contents, item).len();
            let size = self.items.at(item).bytes;
            if !bundle.is_empty() && (wants + more > WANTS_MAX || bytes + size > BUNDLE_BYTES * 5 / 4) {
                break;
            }
            if more > WANTS_MAX {
                continue;
            }
            bundle.push(item);
            bytes += size;
            wants += more;
            if bytes >= BUNDLE_BYTES {
                break;
            }
        }
        bundle
    }

    /// Towards the end, what is slow is asked of another holder as well.
    fn hedge(&mut self, now: Time) {
        let slow: Vec<(ItemIx, NodeId)> = self
            .transfers
            .values()
            .filter(|transfer| !transfer.hedge && transfer.is_slow(now))
            .filter_map(|transfer| match transfer.source {
                Source::Peer(node) => Some((transfer, node)),
                _ => None,
            })
            .flat_map(|(transfer, node)| transfer.items.iter().map(move |item| (*item, node)))
            .filter(|(item, _)| {
                let item = self.items.at(*item);
                item.state == State::Busy(1) && !item.hedged
            })
            .collect();
        let mut by_peer: BTreeMap<NodeId, Vec<ItemIx>> = BTreeMap::new();
        for (item, slow) in slow {
            let other = self
                .peers
                .up()
                .filter(|(node, peer)| {
                    *node != slow
                        && peer.transfers == 0
                        && peer.rest_until <= now
                        && peer.provides(*node, &self.contents, &self.items, item)
                })
                .max_by_key(|(node, peer)| {
                    let bundle = by_peer.get(node).map_or(0, Vec::len) as u64;
                    (peer.meter.rate().unwrap_or(RATE_UNKNOWN) / (1 + bundle), node.0)
                })
                .map(|(node, _)| node);
            if let Some(node) = other {
                let bundle = by_peer.entry(node).or_default();
                if bundle.len() < 64 {
                    bundle.push(item);
                    self.items.at_mut(item).hedged = true;
                }
            }
        }
        for (node, mut items) in by_peer {
            let mut wants = 0;
            items.retain(|item| {
                wants += self.items.wants(&self.contents, *item).len();
                wants <= WANTS_MAX
            });
            if !items.is_empty() {
                self.start_transfer(now, Source::Peer(node), items, Why::Hedge);
            }
        }
    }

    /// Fetches from the origin what nobody has and what is this node's own.
    fn scan_origin(&mut self, now: Time) {
        if self.origin.scan_at.is_none_or(|at| at > now) {
            return;
        }
        self.origin.scan_at = None;
        self.origin.scanned = Some(now);
        if self.items.unheld().next().is_none() {
            return;
        }
        if self.origin.backoff_until > now {
            self.origin.scan_at = Some(self.origin.backoff_until);
            return;
        }
        if let Some(until) = self.stands_back(now) {
            self.origin.scan_at = Some(until);
            return;
        }
        // Small enough that what a node has under way alone is little when others come.
        let fast = self.origin.meter.rate().map_or(BUNDLE_BYTES, |rate| rate / 16);
        let mut next: Option<Time> = None;
        let mut bundle = Bundle::default();
        let arriving = self.arriving(now);
        let under_way = !arriving.is_empty() && self.is_under_way();
        let unheld: Vec<ItemIx> = self.items.unheld().collect();
        let room = self.room_at_origin(now, &unheld);
        for item in unheld {
            if self.origin.transfers >= self.config.origin_transfers_max
                || self.in_flight_bytes + bundle.bytes >= self.config.in_flight_bytes_max
            {
                break;
            }
            let why = match self.turn(now, item, &arriving, under_way) {
                Ok(why) => why,
                Err(at) => {
                    next = Some(next.map_or(at, |next| next.min(at)));
                    continue;
                }
            };
            // What others were told to be fetched here waits for nobody.
            let room = room.max(usize::from(self.items.at(item).ours));
            if why == Why::MyShare && self.origin.transfers >= room {
                // What others said that they fetch is looked after all the same.
                continue;
            }
            let wants = self.items.wants(&self.contents, item).len();
            let target = if why == Why::NobodyAnswered {
                fast.clamp(BUNDLE_BYTES, BUNDLE_BYTES_MAX)
            } else {
                BUNDLE_BYTES
            };
            if bundle.why.is_some_and(|other| other != why) || bundle.wants + wants > WANTS_MAX {
                self.start_bundle(now, &mut bundle);
                if self.origin.transfers >= self.config.origin_transfers_max {
                    break;
                }
            }
            bundle.why = Some(why);
            bundle.bytes += self.items.at(item).bytes;
            bundle.wants += wants;
            bundle.items.push(item);
            if bundle.bytes >= target {
                self.start_bundle(now, &mut bundle);
            }
        }
        self.start_bundle(now, &mut bundle);
        if self.origin.transfers > 0 {
            self.origin.idle_since = None;
        } else if let Some(at) = self.help_out(now, room) {
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        // With no transfer free there is nothing to look for before one ends, which looks again.
        self.origin.scan_at = next;
    }

    /// With nothing of its own to fetch from the origin, a node takes what slower owners have not begun, its heirs one after
    /// another. Gives when to look again.
    fn help_out(&mut self, now: Time, room: usize) -> Option<Time> {
        if room == 0 || !self.gives() {
            return None;
        }
        let idle_since = *self.origin.idle_since.get_or_insert(now);
        let mut bundle = Bundle::default();
        let mut soonest: Option<Time> = None;
        let left: Vec<ItemIx> = self
            .items
            .unheld()
            .filter(|item| self.is_left_lying(now, *item))
            .take(HELP_LOOKS_MAX)
            .collect();
        for item in left {
            let turn = self
                .heirs_before(now, item)
                .map_or(now + NO_HEIR, |before| idle_since + HEIR_EACH * before);
            if turn > now {
                soonest = Some(soonest.map_or(turn, |other| other.min(turn)));
                continue;
            }
            let wants = self.items.wants(&self.contents, item).len();
            if !bundle.items.is_empty() && bundle.wants + wants > WANTS_MAX {
                break;
            }
            bundle.why = Some(Why::MyShare);
            bundle.bytes += self.items.at(item).bytes;
            bundle.wants += wants;
            bundle.items.push(item);
            if bundle.bytes >= BUNDLE_BYTES {
                break;
            }
        }
        if bundle.why.is_some() {
            self.origin.idle_since = None;
            self.start_bundle(now, &mut bundle);
            return None;
        }
        soonest
    }

    fn start_bundle(&mut self, now: Time, bundle: &mut Bundle) {
        let Bundle { items, why, .. } = std::mem::take(bundle);
        if let Some(why) = why {
            self.start_transfer(now, Source::Origin, items, why);
        }
    }
}

#[derive(Default)]
struct Bundle {
    items: Vec<ItemIx>,
    bytes: u64,
    wants: usize,
    why: Option<Why>,
}
