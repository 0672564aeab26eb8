//! What the node is to have: the designated list, and the work that it makes.

use potluck_model::{Digest, Time};

use super::Swarm;
use super::contents::{Ix, Kind};
use crate::interface::Action;

/// What the node is to have.
#[derive(Debug)]
pub(super) struct Designated {
    pub(super) list: Digest,
    /// The list as a content; it holds a reference.
    pub(super) ix: Ix,
    /// Its contents are known.
    pub(super) known: bool,
    /// Needed contents that are not stored whole.
    pub(super) lacking: usize,
    /// `Complete` was said.
    pub(super) complete: bool,
}

impl Swarm {
    pub(super) fn handle_designated(&mut self, now: Time, list: Option<(Digest, u64)>) {
        if let (Some(designated), Some((digest, _))) = (&self.designated, &list)
            && designated.list == *digest
        {
            return;
        }
        self.cancel_all();
        self.clear_items();
        self.origin.restart(now);
        self.discovery.restart();
        self.leave_seats(now);
        self.members_changed(now);
        let before = self.designated.take();
        if let Some((digest, size)) = list {
            let ix = self.contents.refer_one(digest, size, None);
            self.designated = Some(Designated {
                list: digest,
                ix,
                known: false,
                lacking: 0,
                complete: false,
            });
            if self.contents.lists.contains_key(&digest) {
                self.adopt_list(now);
            } else {
                self.add_item(ix, 0, 1, size);
            }
            self.ask_soon(now);
        }
        if let Some(before) = before {
            let gone = self.contents.release(before.ix);
            self.drop_contents(&gone);
        }
        self.peers_changed();
    }

    /// The designated list is known: makes work of what it needs.
    pub(super) fn adopt_list(&mut self, now: Time) {
        let Some(designated) = &mut self.designated else { return };
        let Some(list) = self.contents.lists.get(&designated.list) else {
            return;
        };
        let digest = designated.list;
        let first_time = !designated.known;
        designated.known = true;
        let needed: Vec<Ix> = list.needed.iter().map(|index| list.contents[index as usize]).collect();
        let everything: Vec<Ix> = list.contents.clone();
        let lacking: Vec<Ix> = needed.into_iter().filter(|ix| !self.contents.at(*ix).held).collect();
        designated.lacking = lacking.len();
        designated.complete = false;
        self.drop_finished();
        self.cancel_all();
        self.clear_items();
        // What peers said while the list was not known here.
        for peer in self.peers.table.values_mut() {
            if peer.wants_all_of == Some(digest) {
                peer.wants_all_of = None;
                for ix in &everything {
                    peer.wants.set(ix.0);
                }
                peer.wants.remove(&peer.holds);
            }
        }
        for ix in lacking {
            self.want_content(ix);
        }
        self.members_changed(now);
        self.peers_changed();
        if first_time {
            self.follow_everybody(now, digest);
        }
        if !self.check_complete() {
            self.ask_soon(now);
        }
    }

    pub(super) fn clear_items(&mut self) {
        self.items.clear();
        for peer in self.peers.table.values_mut() {
            peer.claims = 0;
        }
    }

    /// Makes work of a content of the designated list that is not stored whole.
    pub(super) fn want_content(&mut self, ix: Ix) {
        let content = self.contents.at(ix);
        match &content.kind {
            Kind::One { .. } => {
                let size = content.size;
                self.add_item(ix, 0, 1, size);
            }
            Kind::Many {
                chunks: None,
                chunk_list,
            } => {
                let (chunk_list, size) = (*chunk_list, content.size);
                // How large it is, is only known by whoever has it.
                let about = 64 + size / 2_048;
                // It may be stored already; what it says was not told, so it is fetched again, small as it is.
                if self.items.of(chunk_list).is_empty() {
                    self.add_item(chunk_list, 0, 1, about);
                }
            }
            Kind::Many {
                chunks: Some(chunks), ..
            } => {
                let stripes = potluck_model::chunk_list::stripes(chunks.lengths.iter().copied());
                let lacked: Vec<(u32, u32, u64)> = stripes
                    .into_iter()
                    .map(|(first, count)| {
                        let bytes = (first..first + count)
                            .filter(|chunk| !chunks.held.get(*chunk))
                            .map(|chunk| u64::from(chunks.lengths[chunk as usize]))
                            .sum();
                        (first, count, bytes)
                    })
                    .filter(|(_, _, bytes)| *bytes > 0)
                    .collect();
                for (first, count, bytes) in lacked {
                    self.add_item(ix, first, count, bytes);
                }
            }
        }
    }

    pub(super) fn add_item(&mut self, content: Ix, first: u32, count: u32, bytes: u64) {
        let lot = self.random.u64() as u32;
        let of = match self.contents.at(content).kind {
            Kind::One { of } => of,
            Kind::Many { .. } => None,
        };
        let item = self.items.add((content, of), (first, count), bytes, lot);
        self.recount(item);
    }

    /// Whether the designated list needs it.
    pub(super) fn is_wanted(&self, ix: Ix) -> bool {
        let Some(designated) = &self.designated else {
            return false;
        };
        if designated.ix == ix {
            return !designated.known;
        }
        let Some(list) = self.contents.lists.get(&designated.list) else {
            return false;
        };
        let needs = |ix| {
            self.contents
                .index_in(list, ix)
                .is_some_and(|index| list.needed.get(index))
        };
        if needs(ix) {
            return true;
        }
        matches!(self.contents.at(ix).kind, Kind::One { of: Some(of) } if needs(of))
    }

    /// Whether this node lacks a content and wants it.
    pub(super) fn lacks(&self, ix: Ix) -> bool {
        !self.contents.at(ix).held && self.is_wanted(ix)
    }

    /// Whether the designated list names it as a file's content.
    pub(super) fn is_listed(&self, ix: Ix) -> bool {
        self.designated
            .as_ref()
            .and_then(|designated| self.contents.lists.get(&designated.list))
            .is_some_and(|list| self.contents.index_in(list, ix).is_some())
    }

    /// Whether something that is needed is not here.
    pub(super) fn is_lacking(&self) -> bool {
        self.designated.as_ref().is_some_and(|designated| !designated.complete)
    }

    pub(super) fn check_complete(&mut self) -> bool {
        let Some(designated) = &mut self.designated else {
            return true;
        };
        if !designated.known || designated.lacking > 0 || designated.complete {
            return designated.complete;
        }
        designated.complete = true;
        let list = designated.list;
        self.discovery.rest();
        self.actions.push_back(Action::Complete { list });
        true
    }
}
