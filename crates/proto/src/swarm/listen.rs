//! What connected peers say of themselves: what they hold, and what they are fetching.

use potluck_model::{Digest, NodeId, Time};

use super::Swarm;
use super::contents::{Contents, Ix, Kind};
use super::crowd::CLAIM_BYTES_MAX;
use super::items::{ItemIx, Items, LOST_MAX, State};
use super::peers::{FOLLOWS_MAX, PARTIALS_MAX, Peer, Trust};
use crate::bits::Bits;
use crate::interface::Action;
use crate::message::{HaveItem, Message, Runs};
use crate::random::rank;

impl Peer {
    /// Whether it wants a content, or a part of what it follows.
    pub(super) fn cares_for(&self, contents: &Contents, ix: Ix) -> bool {
        let wants = |ix: Ix| self.wants.get(ix.0) || self.fetching.get(ix.0);
        if wants(ix) {
            return true;
        }
        let file = match contents.at(ix).kind {
            Kind::One { of: Some(of) } => of,
            _ => ix,
        };
        wants(file)
            || self.follows.iter().any(|list| {
                contents
                    .lists
                    .get(list)
                    .is_some_and(|list| contents.index_in(list, file).is_some())
            })
    }

    /// Whether an item can be had from it, by its own word, and its word is believed.
    pub(super) fn provides(&self, node: NodeId, contents: &Contents, items: &Items, ix: ItemIx) -> bool {
        self.trust != Trust::Trial && self.offers(node, contents, items, ix)
    }

    /// Whether an item can be had from it, by its own word.
    pub(super) fn offers(&self, node: NodeId, contents: &Contents, items: &Items, ix: ItemIx) -> bool {
        if !self.is_up() || self.shunned.is_some() || self.is_far() {
            return false;
        }
        let item = items.at(ix);
        if item.failed.contains(&node) {
            return false;
        }
        if self.holds.get(item.content.0) {
            return true;
        }
        match contents.at(item.content).kind {
            // Who has any of a file has its chunk list.
            Kind::One { of } => of.is_some_and(|of| self.holds.get(of.0) || self.partial.contains_key(&of)),
            Kind::Many { .. } => self.partial.get(&item.content).is_some_and(|chunks| {
                let content = contents.at(item.content);
                (item.first..item.first + item.count).all(|chunk| chunks.get(chunk) || content.has_chunk(chunk))
            }),
        }
    }
}

impl Swarm {
    pub(super) fn handle_message(&mut self, now: Time, node: NodeId, message: Message) {
        let Some(peer) = self.peers.table.get_mut(&node).filter(|peer| peer.is_up()) else {
            return;
        };
        peer.heard = now;
        peer.ping = None;
        if !matches!(message, Message::Ping { .. } | Message::Pong { .. }) {
            peer.used = now;
        }
        match message {
            Message::Get { stream, wants } => self.handle_get(now, node, stream, wants),
            Message::Cancel { stream } => self.handle_cancel(node, stream),
            Message::Follow { list } => self.handle_follow(now, node, list),
            Message::HaveOfList { list, contents } => self.handle_have_of_list(now, node, &list, &contents),
            Message::Have { items } => self.handle_have(now, node, &items),
            Message::Fetching { items } => self.handle_fetching(now, node, &items),
            Message::Crowd { list, lacks, members } => {
                self.handle_crowd(now, node, &list, lacks.as_ref(), &members);
            }
            Message::Ping { nonce } => self.actions.push_back(Action::Send {
                peer: node,
                message: Message::Pong { nonce },
            }),
            Message::Pong { nonce } => self.handle_pong(now, node, nonce),
            // Who belongs to the fleet is the shell's to know.
            Message::Hello(_) | Message::RevocationsKnown(_) | Message::Revocations { .. } => {}
            // The shell keeps the ends of what was asked.
            Message::End { .. } => self.at_fault(now, node, "ended a request that nobody made"),
        }
    }

    fn handle_follow(&mut self, now: Time, node: NodeId, list: Digest) {
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        if peer.follows.len() >= FOLLOWS_MAX && !peer.follows.contains(&list) {
            return;
        }
        peer.follows.insert(list);
        self.tell_all(now, node, &list);
        let items = self.origin_items();
        self.claim(&items, Some(node));
    }

    fn handle_have_of_list(&mut self, now: Time, node: NodeId, digest: &Digest, indices: &Runs) {
        let Some(list) = self.contents.lists.get(digest) else {
            return;
        };
        if indices.end() > list.contents.len() as u64 {
            self.at_fault(now, node, "holds more of a list than the list has");
            return;
        }
        let gained: Vec<Ix> = indices.iter().map(|index| list.contents[index as usize]).collect();
        for ix in gained {
            self.gains_whole(now, node, ix);
        }
        self.synced(now, node);
    }

    /// A peer has said on this connection what it holds or is fetching: nobody waits for it to do so.
    fn synced(&mut self, now: Time, node: NodeId) {
        if let Some(peer) = self.peers.table.get_mut(&node)
            && !peer.synced
        {
            peer.synced = true;
            peer.seat_progress = now;
            self.origin.scan_now(now);
        }
    }

    /// A peer holds a content whole.
    pub(super) fn gains_whole(&mut self, now: Time, node: NodeId, ix: Ix) {
        self.gains(now, node, ix, None, |peer| {
            peer.holds.set(ix.0);
            peer.wants.clear(ix.0);
            peer.fetching.clear(ix.0);
            peer.partial.remove(&ix);
        });
        self.peers.gives(node);
    }

    fn handle_have(&mut self, now: Time, node: NodeId, items: &[HaveItem]) {
        for item in items {
            let Some(ix) = self.contents.find(&item.content) else {
                continue;
            };
            let content = self.contents.at(ix);
            let chunks_max = u64::from(content.chunks_max());
            if item.chunks.is_empty() || item.chunks.end() > chunks_max {
                continue;
            }
            let one = matches!(content.kind, Kind::One { .. });
            let exact = matches!(content.kind, Kind::Many { chunks: Some(_), .. });
            if one {
                self.gains_whole(now, node, ix);
                continue;
            }
            let mut whole = false;
            self.gains(now, node, ix, Some(&item.chunks), |peer| {
                if peer.holds.get(ix.0) || (peer.partial.len() >= PARTIALS_MAX && !peer.partial.contains_key(&ix)) {
                    return;
                }
                let chunks: &mut Bits = peer.partial.entry(ix).or_default();
                for chunk in item.chunks.iter() {
                    chunks.set(chunk);
                }
                whole = exact && chunks.count() as u64 == chunks_max;
            });
            if whole {
                self.gains_whole(now, node, ix);
            }
        }
        self.synced(now, node);
    }

    /// Changes what a peer holds of a content, and counts it among the holders of the items that this concerns.
    fn gains(&mut self, now: Time, node: NodeId, ix: Ix, chunks: Option<&Runs>, change: impl FnOnce(&mut Peer)) {
        let open = |item: &ItemIx| self.items.at(*item).state != State::Done;
        let mut affected: Vec<ItemIx> = match chunks {
            None => self.items.of(ix).iter().map(|part| part.item).filter(open).collect(),
            Some(chunks) => chunks
                .0
                .iter()
                .flat_map(|(first, count)| self.items.overlapping(ix, *first, *count))
                .filter(open)
                .collect(),
        };
        affected.dedup();
        if let Kind::Many { chunk_list, .. } = self.contents.at(ix).kind {
            let parts = self.items.of(chunk_list).iter();
            affected.extend(parts.map(|part| part.item).filter(open));
        }
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        let before: Vec<bool> = affected
            .iter()
            .map(|item| peer.provides(node, &self.contents, &self.items, *item))
            .collect();
        change(peer);
        for (item, before) in affected.into_iter().zip(before) {
            let after = peer.provides(node, &self.contents, &self.items, item);
            let (waited, claimed) = {
                let item = self.items.at(item);
                (
                    item.wait.is_some_and(|(owner, _)| owner == node),
                    item.claim.filter(|(owner, _)| *owner == node),
                )
            };
            if waited || claimed.is_some() {
                peer.seat_progress = now;
            }
            if before || !after {
                continue;
            }
            peer.nothing = false;
            if let Some((_, since)) = claimed {
                self.origin.observe(now.since(since), self.items.at(item).bytes);
                peer.claims = peer.claims.saturating_sub(1);
                self.items.at_mut(item).claim = None;
                self.origin.scan_now(now);
            }
            if self.items.at(item).state == State::Idle {
                let holders = self.items.holders(item);
                self.items.set_holders(item, holders + 1);
            }
        }
    }

    fn handle_fetching(&mut self, now: Time, node: NodeId, claims: &[HaveItem]) {
        for claim in claims {
            let Some(ix) = self.contents.find(&claim.content) else {
                continue;
            };
            let Some(peer) = self.peers.table.get_mut(&node) else {
                return;
            };
            peer.fetching.set(ix.0);
            let content = self.contents.at(ix);
            let parts_unknown = matches!(content.kind, Kind::Many { chunks: None, .. });
            let fits = claim.chunks.end() <= u64::from(content.chunks_max());
            let room = peer.claimed.len() < PARTIALS_MAX || peer.claimed.contains_key(&ix);
            if parts_unknown && fits && room {
                let claimed = peer.claimed.entry(ix).or_default();
                for chunk in claim.chunks.iter() {
                    claimed.set(chunk);
                }
            }
            self.take_claim(now, node, ix, &claim.chunks);
        }
        self.yield_shares(now);
        self.synced(now, node);
    }

    /// A peer says that it is fetching parts of a content.
    fn take_claim(&mut self, now: Time, node: NodeId, ix: Ix, chunks: &Runs) {
        let digest = self.contents.at(ix).digest;
        let items: Vec<ItemIx> = chunks
            .0
            .iter()
            .flat_map(|(first, count)| self.items.overlapping(ix, *first, *count))
            .collect();
        for item in items {
            let entry = self.items.at(item);
            if entry.state == State::Done || entry.broken.contains(&node) || entry.broken.len() >= LOST_MAX {
                continue;
            }
            // Of several, the one that ranks highest keeps it: the others give up when they hear of it.
            let part = |node| rank(&digest, entry.first, node);
            let before = entry.claim.map(|(other, _)| other);
            if before.is_some_and(|other| part(other) >= part(node)) {
                continue;
            }
            let claims = self.peers.table.get(&node).map_or(0, |peer| u64::from(peer.claims));
            if claims * entry.bytes > CLAIM_BYTES_MAX {
                continue;
            }
            self.put_claim(item, Some((node, now)));
        }
    }

    /// The parts of a content are known now: so is what peers said that they are fetching of it.
    pub(super) fn take_early_claims(&mut self, now: Time, ix: Ix) {
        let claims: Vec<(NodeId, Runs)> = self
            .peers
            .table
            .iter_mut()
            .filter_map(|(node, peer)| Some((*node, Runs::of(peer.claimed.remove(&ix)?.iter()))))
            .collect();
        for (node, chunks) in claims {
            self.take_claim(now, node, ix, &chunks);
        }
    }

    /// Counts anew how many peers an idle item can be had from.
    pub(super) fn recount(&mut self, item: ItemIx) {
        if self.items.at(item).state != State::Idle {
            return;
        }
        let holders = self
            .peers
            .up()
            .filter(|(node, peer)| peer.provides(*node, &self.contents, &self.items, item))
            .count();
        self.items.set_holders(item, holders as u32);
    }

    /// A peer broke the protocol.
    pub(super) fn at_fault(&mut self, now: Time, node: NodeId, fault: &str) {
        self.counters.peers_at_fault += 1;
        self.source_failed(now, node, fault, super::links::SHUN_LONG);
        self.actions.push_back(Action::Disconnect { peer: node });
    }
}
