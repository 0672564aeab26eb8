//! What this node tells connected peers of itself: what it holds, and what it is fetching from the origin.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use potluck_model::{Digest, NodeId, Time};

use super::Swarm;
use super::contents::{Ix, Kind, KnownList};
use super::items::ItemIx;
use super::peers::Peer;
use crate::interface::Action;
use crate::message::{HaveItem, Message, Runs, WANTS_MAX};

/// How long news are collected before they are told: of something that others can fetch now,
pub(super) const SOON: Duration = Duration::from_millis(15);
/// of what so many connected peers have as well, and so others can have from them,
const COMMON: usize = 6;
const LATER: Duration = Duration::from_millis(250);
/// of progress with what comes from the origin, for which others wait,
pub(super) const PROGRESS: Duration = Duration::from_millis(200);
/// and of anything else.
pub(super) const REST: Duration = Duration::from_secs(1);
/// The most runs that are told in one message, so that it fits a frame.
const RUNS_PER_MESSAGE_MAX: usize = 16_384;

/// What was stored and not told yet.
#[derive(Debug, Default)]
pub(super) struct News {
    whole: BTreeSet<Ix>,
    chunks: BTreeMap<Ix, BTreeSet<u32>>,
    pub(super) flush_at: Option<Time>,
}

impl News {
    pub(super) fn drop_contents(&mut self, gone: &[Ix]) {
        for ix in gone {
            self.whole.remove(ix);
            self.chunks.remove(ix);
        }
    }
}

impl Swarm {
    /// A chunk of a content, or all of it, is here since now.
    pub(super) fn news_of(&mut self, now: Time, ix: Ix, chunk: Option<u32>, within: Duration) {
        if self.peers.links == 0 || !self.gives() {
            return;
        }
        match (chunk, &self.contents.at(ix).kind) {
            (Some(chunk), Kind::Many { .. }) => {
                self.news.chunks.entry(ix).or_default().insert(chunk);
            }
            // What is one chunk is told whole.
            (Some(_), Kind::One { .. }) => return,
            (None, _) => {
                self.news.whole.insert(ix);
            }
        }
        let at = now + within;
        self.news.flush_at = Some(self.news.flush_at.map_or(at, |other| other.min(at)));
    }

    /// How soon others are to hear of a part that is whole since now: at once what is rare.
    pub(super) fn pace_of_news(&self, ix: Ix, chunk: u32) -> Duration {
        let has = |peer: &Peer| peer.holds.get(ix.0) || peer.partial.get(&ix).is_some_and(|held| held.get(chunk));
        let holders = self.peers.up().filter(|(_, peer)| has(peer)).take(COMMON).count();
        if holders < COMMON { SOON } else { LATER }
    }

    /// Tells the news if it is time.
    pub(super) fn announce(&mut self, now: Time) {
        if self.news.flush_at.is_none_or(|at| at > now) {
            return;
        }
        self.news.flush_at = None;
        let whole = std::mem::take(&mut self.news.whole);
        let chunks: Vec<(Ix, HaveItem)> = std::mem::take(&mut self.news.chunks)
            .into_iter()
            .map(|(ix, chunks)| {
                let content = self.contents.at(ix).digest;
                let chunks = Runs::of(chunks);
                (ix, HaveItem { content, chunks })
            })
            .collect();
        // Which lists name what there is news of.
        let named: BTreeMap<Ix, Vec<Digest>> = chunks
            .iter()
            .map(|(ix, _)| *ix)
            .chain(whole.iter().flat_map(|ix| match self.contents.at(*ix).kind {
                Kind::One { of: Some(of) } => [*ix, of],
                _ => [*ix, *ix],
            }))
            .map(|ix| (ix, self.lists_with(ix)))
            .collect();
        let mut by_list: BTreeMap<Digest, Runs> = BTreeMap::new();
        for (digest, list) in &self.contents.lists {
            let mut indices: Vec<u32> = whole
                .iter()
                .filter_map(|ix| self.contents.index_in(list, *ix))
                .collect();
            indices.sort_unstable();
            if !indices.is_empty() {
                by_list.insert(*digest, Runs::of(indices));
            }
        }
        let nodes: Vec<NodeId> = self.peers.up().map(|(node, _)| node).collect();
        for node in nodes {
            self.announce_to(node, &whole, &chunks, &by_list, &named);
        }
    }

    fn announce_to(
        &mut self,
        node: NodeId,
        whole: &BTreeSet<Ix>,
        chunks: &[(Ix, HaveItem)],
        by_list: &BTreeMap<Digest, Runs>,
        named: &BTreeMap<Ix, Vec<Digest>>,
    ) {
        let peer = &self.peers.table[&node];
        // What it has already, it need not be told.
        let mut messages: Vec<Message> = Vec::new();
        for (digest, indices) in by_list.iter().filter(|(list, _)| peer.follows.contains(*list)) {
            let Some(list) = self.contents.lists.get(digest) else {
                continue;
            };
            let lacked = indices
                .iter()
                .filter(|index| !peer.holds.get(list.contents[*index as usize].0));
            let contents = Runs::of(lacked);
            if !contents.is_empty() {
                messages.push(Message::HaveOfList {
                    list: *digest,
                    contents,
                });
            }
        }
        let followed = |ix: Ix| {
            named
                .get(&ix)
                .is_some_and(|lists| lists.iter().any(|list| peer.follows.contains(list)))
        };
        let mut items: Vec<HaveItem> = Vec::new();
        for ix in whole {
            let content = self.contents.at(*ix);
            match content.kind {
                // Many chunks and all of them: its chunks were told one by one, and the list says the rest.
                Kind::Many { .. } | Kind::One { of: None } if followed(*ix) => {}
                Kind::One { of: Some(of) } if !(peer.wants.get(of.0) || followed(of) || peer.wants.get(ix.0)) => {}
                Kind::One { of: None } | Kind::Many { .. } if !peer.wants.get(ix.0) => {}
                Kind::Many { .. } => items.push(HaveItem {
                    content: content.digest,
                    chunks: Runs::all(content.chunks_max()),
                }),
                Kind::One { .. } => items.push(HaveItem {
                    content: content.digest,
                    chunks: Runs::all(1),
                }),
            }
        }
        for (ix, item) in chunks {
            let has = peer.holds.get(ix.0)
                || peer
                    .partial
                    .get(ix)
                    .is_some_and(|held| item.chunks.iter().all(|chunk| held.get(chunk)));
            if has {
                continue;
            }
            if peer.wants.get(ix.0) || followed(*ix) {
                items.push(item.clone());
            }
        }
        messages.extend(have_messages(items));
        for message in messages {
            self.actions.push_back(Action::Send { peer: node, message });
        }
    }

    /// The lists that name a content.
    fn lists_with(&self, ix: Ix) -> Vec<Digest> {
        let names = |list: &KnownList| self.contents.index_in(list, ix).is_some();
        let lists = self.contents.lists.iter();
        lists
            .filter(|(_, list)| names(list))
            .map(|(digest, _)| *digest)
            .collect()
    }

    /// Tells a peer all that this node holds of a list.
    pub(super) fn tell_all(&mut self, _now: Time, node: NodeId, digest: &Digest) {
        let Some(list) = self.contents.lists.get(digest) else {
            return;
        };
        let held = list
            .contents
            .iter()
            .enumerate()
            .filter(|(_, ix)| self.contents.at(**ix).held)
            .map(|(index, _)| index as u32);
        // Who takes only says that it has nothing, so that nobody waits for it to say so.
        let contents = if self.gives() { Runs::of(held) } else { Runs::default() };
        let mut items = Vec::new();
        // Who does not know the list yet cannot read the rest, but can fetch the list.
        if self.gives() && self.contents.at(list.ix).held {
            items.push(HaveItem {
                content: *digest,
                chunks: Runs::all(1),
            });
        }
        for ix in list.contents.iter().filter(|_| self.gives()) {
            let content = self.contents.at(*ix);
            let Kind::Many { chunk_list, .. } = content.kind else {
                continue;
            };
            if let Some(chunks) = content.partial() {
                items.push(HaveItem {
                    content: content.digest,
                    chunks,
                });
            }
            if !content.held && self.contents.at(chunk_list).held {
                items.push(HaveItem {
                    content: self.contents.at(chunk_list).digest,
                    chunks: Runs::all(1),
                });
            }
        }
        self.actions.push_back(Action::Send {
            peer: node,
            message: Message::HaveOfList {
                list: *digest,
                contents,
            },
        });
        for message in have_messages(items) {
            self.actions.push_back(Action::Send { peer: node, message });
        }
    }

    /// Tells connected peers that want them what this node begins to fetch from the origin.
    pub(super) fn claim(&mut self, items: &[ItemIx], only: Option<NodeId>) {
        if items.is_empty() || !self.gives() {
            return;
        }
        let nodes: Vec<NodeId> = self
            .peers
            .up()
            .map(|(node, _)| node)
            .filter(|node| only.is_none_or(|only| only == *node))
            .collect();
        for node in nodes {
            let peer = &self.peers.table[&node];
            let mut parts: BTreeMap<Ix, Vec<u32>> = BTreeMap::new();
            for item in items {
                let item = self.items.at(*item);
                if peer.cares_for(&self.contents, item.content) {
                    parts
                        .entry(item.content)
                        .or_default()
                        .extend(item.first..item.first + item.count);
                }
            }
            let items = parts
                .into_iter()
                .map(|(ix, mut chunks)| {
                    chunks.sort_unstable();
                    HaveItem {
                        content: self.contents.at(ix).digest,
                        chunks: Runs::of(chunks),
                    }
                })
                .collect();
            for message in split(items) {
                self.actions.push_back(Action::Send {
                    peer: node,
                    message: Message::Fetching { items: message },
                });
            }
        }
    }
}

fn have_messages(items: Vec<HaveItem>) -> impl Iterator<Item = Message> {
    split(items).into_iter().map(|items| Message::Have { items })
}

/// Splits items into as many messages as their limits ask for.
fn split(items: Vec<HaveItem>) -> Vec<Vec<HaveItem>> {
    let mut messages: Vec<Vec<HaveItem>> = Vec::new();
    let mut runs = RUNS_PER_MESSAGE_MAX;
    for item in items {
        for part in item.chunks.0.chunks(RUNS_PER_MESSAGE_MAX) {
            let full = messages.last().is_none_or(|message| message.len() >= WANTS_MAX);
            if full || runs + part.len() > RUNS_PER_MESSAGE_MAX {
                messages.push(Vec::new());
                runs = 0;
            }
            runs += part.len();
            if let Some(message) = messages.last_mut() {
                message.push(HaveItem {
                    content: item.content,
                    chunks: Runs(part.to_vec()),
                });
            }
        }
    }
    messages
}
