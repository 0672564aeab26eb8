//! What is stored here, and what is not any more.

use potluck_model::trace::Source;
use potluck_model::{Digest, NodeId, Time};

use super::contents::{Chunks, Ix, Kind, LISTS_MAX};
use super::items::State;
use super::{Swarm, announce};
use crate::bits::Bits;
use crate::interface::{ListContent, TransferId};

impl Swarm {
    pub(super) fn handle_list(&mut self, now: Time, list: Digest, size: u64, contents: &[ListContent]) {
        if self.contents.lists.len() >= LISTS_MAX && !self.contents.lists.contains_key(&list) {
            return;
        }
        let gone = self.contents.put_list(self.key.as_ref(), list, size, contents);
        self.drop_contents(&gone);
        self.look_at_waiting();
        if self
            .designated
            .as_ref()
            .is_some_and(|designated| designated.list == list)
        {
            self.adopt_list(now);
        }
        // Who asked to be told of it before it was here is told now.
        let followers: Vec<NodeId> = self
            .peers
            .up()
            .filter(|(_, peer)| peer.follows.contains(&list))
            .map(|(node, _)| node)
            .collect();
        for node in followers {
            self.tell_all(now, node, &list);
        }
    }

    pub(super) fn handle_chunk_list(&mut self, now: Time, content: &Digest, lengths: Vec<u32>, held: &[bool]) {
        let Some(ix) = self.contents.find(content) else { return };
        let entry = self.contents.at_mut(ix);
        let Kind::Many { chunks, chunk_list } = &mut entry.kind else {
            return;
        };
        let chunk_list = *chunk_list;
        if entry.held || chunks.is_some() {
            return;
        }
        let mut bits = Bits::default();
        for index in 0..lengths.len() {
            if held.get(index) == Some(&true) {
                bits.set(index as u32);
            }
        }
        let missing = (lengths.len() - bits.count()) as u32;
        *chunks = Some(Chunks {
            lengths,
            held: bits,
            missing,
        });
        self.contents.at_mut(chunk_list).held = true;
        self.look_at_waiting();
        // An item for the chunk list that came some other way is done.
        if let Some(item) = self.items.of(chunk_list).first().map(|part| part.item) {
            self.items.set_state(item, State::Done);
            self.put_claim(item, None);
        }
        if let Some(partial) = self.contents.at(ix).partial() {
            for chunk in partial.iter() {
                self.news_of(now, ix, Some(chunk), announce::SOON);
            }
        }
        let wanted = self.is_wanted(ix);
        if missing == 0 {
            self.content_whole(now, ix);
        } else if wanted {
            self.want_content(ix);
            self.take_early_claims(now, ix);
            self.origin.scan_now(now);
            self.peers_changed();
        }
    }

    pub(super) fn handle_stored(&mut self, now: Time, transfer: TransferId, content: &Digest, chunk: u32) {
        let Some(ix) = self.contents.find(content) else { return };
        let open = self
            .items
            .covering(ix, chunk)
            .is_some_and(|item| self.items.at(item).state != State::Done);
        let entry = self.contents.at_mut(ix);
        let len = entry.chunk_len(chunk);
        let whole = match &mut entry.kind {
            Kind::One { .. } => {
                if entry.held && !open {
                    return;
                }
                true
            }
            Kind::Many {
                chunks: Some(chunks), ..
            } => {
                if entry.held || chunk as usize >= chunks.lengths.len() || !chunks.held.set(chunk) {
                    return;
                }
                chunks.missing -= 1;
                chunks.missing == 0
            }
            Kind::Many { chunks: None, .. } => return,
        };
        self.seats.moved = now;
        self.look_at_waiting();
        let item = self.items.covering(ix, chunk);
        self.transfer_stored(now, transfer, item);
        let mut done = whole;
        if let Some(item) = item {
            let left = self.items.at(item).bytes.saturating_sub(len);
            self.items.at_mut(item).bytes = left;
            if whole || self.items.wants(&self.contents, item).is_empty() {
                done = true;
                self.item_done(now, item);
            } else if self.items.at(item).state == State::Idle {
                self.recount(item);
            }
        }
        let pace = if done {
            self.pace_of_news(ix, chunk)
        } else if self
            .transfers
            .get(&transfer)
            .is_some_and(|transfer| transfer.source == Source::Origin)
        {
            announce::PROGRESS
        } else {
            announce::REST
        };
        self.news_of(now, ix, Some(chunk), pace);
        if whole {
            self.content_whole(now, ix);
        }
    }

    /// Every chunk of a content is stored.
    pub(super) fn content_whole(&mut self, now: Time, ix: Ix) {
        let wanted = self.is_wanted(ix);
        let entry = self.contents.at_mut(ix);
        let before = std::mem::replace(&mut entry.held, true);
        let is_meta = matches!(entry.kind, Kind::One { of: Some(_) });
        self.news_of(now, ix, None, announce::SOON);
        let counts = wanted && !before && (!is_meta || self.is_listed(ix));
        if counts
            && let Some(designated) = &mut self.designated
            && designated.known
        {
            designated.lacking = designated.lacking.saturating_sub(1);
            self.check_complete();
        }
    }

    pub(super) fn handle_lost(&mut self, now: Time, content: &Digest, chunk: u32) {
        let Some(ix) = self.contents.find(content) else { return };
        let wanted = self.is_listed(ix) && self.is_wanted(ix);
        let entry = self.contents.at_mut(ix);
        let was_whole = std::mem::replace(&mut entry.held, false);
        let len = entry.chunk_len(chunk);
        let chunk_list = match &mut entry.kind {
            Kind::One { .. } => {
                if !was_whole {
                    return;
                }
                None
            }
            Kind::Many {
                chunks: Some(chunks), ..
            } => {
                if chunk as usize >= chunks.lengths.len() || !chunks.held.get(chunk) {
                    entry.held = was_whole;
                    return;
                }
                chunks.held.clear(chunk);
                chunks.missing += 1;
                None
            }
            // It was whole before this process began: what else is left is known again with the chunk list.
            Kind::Many {
                chunks: None,
                chunk_list,
            } => Some(*chunk_list),
        };
        if let Some(chunk_list) = chunk_list {
            self.contents.at_mut(chunk_list).held = false;
        }
        if !wanted {
            return;
        }
        if was_whole && let Some(designated) = &mut self.designated {
            designated.lacking += 1;
            designated.complete = false;
        }
        if let Some(item) = self.items.covering(ix, chunk) {
            let bytes = self.items.at(item).bytes;
            let item_mut = self.items.at_mut(item);
            item_mut.bytes = bytes + len;
            if item_mut.state == State::Done {
                item_mut.lost.clear();
                item_mut.broken.clear();
                item_mut.ours = false;
                self.items.forgive(item);
                self.items.set_state(item, State::Idle);
            }
            self.recount(item);
        } else {
            self.want_content(ix);
        }
        self.origin.scan_now(now);
        self.peers_changed();
        self.ask_soon(now);
    }

    pub(super) fn handle_forget(&mut self, list: &Digest) {
        if self
            .designated
            .as_ref()
            .is_some_and(|designated| designated.list == *list)
        {
            return;
        }
        let gone = self.contents.forget_list(list);
        self.drop_contents(&gone);
    }

    /// Contents are gone from the table: nothing may name them any more, since their places are used again.
    pub(super) fn drop_contents(&mut self, gone: &[Ix]) {
        if gone.is_empty() {
            return;
        }
        for peer in self.peers.table.values_mut() {
            for ix in gone {
                peer.drop_content(*ix);
            }
        }
        self.news.drop_contents(gone);
        self.discovery.drop_contents(gone);
    }
}
