//! The work: lists, chunk lists, small files and stripes that are wanted, one by one.

use std::collections::{BTreeMap, BTreeSet};

use potluck_model::{NodeId, Time};

use super::contents::{Contents, Ix, Kind};
use crate::bits::Bits;
use crate::interface::Want;
use crate::message::Runs;

/// How many owners an item waits for before the node fetches it itself.
pub(super) const LOST_MAX: usize = 3;
/// How many sources that failed with an item are remembered.
const FAILED_MAX: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ItemIx(pub(super) u32);

#[derive(Debug)]
pub(super) struct Item {
    pub(super) content: Ix,
    /// The file that it is the chunk list of.
    of: Option<Ix>,
    pub(super) first: u32,
    pub(super) count: u32,
    /// Of the chunks that are missing.
    pub(super) bytes: u64,
    /// Breaks ties, differently on each node.
    lot: u32,
    pub(super) state: State,
    /// Peers that it can be had from now. Kept only while it is idle.
    holders: u32,
    /// Peers that failed with it.
    pub(super) failed: Vec<NodeId>,
    /// Why the origin is asked: a peer failed with it.
    pub(super) peer_failed: bool,
    pub(super) hedged: bool,
    /// Not asked of the origin before.
    pub(super) origin_after: Time,
    pub(super) origin_failures: u32,
    /// Whose share it is by the last look, and since when it is waited for.
    pub(super) wait: Option<(NodeId, Time)>,
    /// Owners that missed their deadline with it.
    pub(super) lost: Vec<NodeId>,
    /// Those among them that had said they were fetching it: saying so again does not help.
    pub(super) broken: Vec<NodeId>,
    /// Who says that it is fetching it from the origin, and since when.
    pub(super) claim: Option<(NodeId, Time)>,
    /// This node has told others that it fetches it from the origin.
    pub(super) ours: bool,
    /// Owner, as of a version of the members.
    pub(super) owner: Option<(u64, NodeId)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Idle,
    /// In this many transfers.
    Busy(u32),
    Done,
}

/// An item as a run of chunks of its content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    first: u32,
    count: u32,
    pub(super) item: ItemIx,
}

/// All items of the designated list, in any state.
#[derive(Debug, Default)]
pub(super) struct Items {
    table: Vec<Item>,
    /// Of each content: its items, by first chunk.
    of: BTreeMap<Ix, Vec<Part>>,
    /// Idle ones, the rarest first.
    idle: BTreeSet<(u32, u32, ItemIx)>,
    /// Those not done.
    pub(super) open: usize,
    /// By content, or the file that it is the chunk list of: how many are not done.
    open_of: Vec<u32>,
    lacking: Bits,
    /// Those that some peer failed with.
    failed: BTreeSet<ItemIx>,
    /// Something may be had from a peer that could not be had before.
    pub(super) changed: bool,
}

impl Items {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Contents of which something is not done; for a chunk list, its file as well.
    pub(super) const fn lacking(&self) -> &Bits {
        &self.lacking
    }

    fn count_open(&mut self, ix: ItemIx, more: bool) {
        let Item { content, of, .. } = self.table[ix.0 as usize];
        for at in [Some(content), of].into_iter().flatten() {
            let place = at.0 as usize;
            if place >= self.open_of.len() {
                self.open_of.resize(place + 1, 0);
            }
            if more {
                self.open_of[place] += 1;
                self.lacking.set(at.0);
            } else {
                self.open_of[place] -= 1;
                if self.open_of[place] == 0 {
                    self.lacking.clear(at.0);
                }
            }
        }
        if more {
            self.open += 1;
        } else {
            self.open -= 1;
        }
    }

    pub(super) fn at(&self, item: ItemIx) -> &Item {
        &self.table[item.0 as usize]
    }

    /// For what does not touch state or holders.
    pub(super) fn at_mut(&mut self, item: ItemIx) -> &mut Item {
        &mut self.table[item.0 as usize]
    }

    pub(super) fn of(&self, content: Ix) -> &[Part] {
        self.of.get(&content).map_or(&[], Vec::as_slice)
    }

    pub(super) fn add(
        &mut self,
        (content, of): (Ix, Option<Ix>),
        (first, count): (u32, u32),
        bytes: u64,
        lot: u32,
    ) -> ItemIx {
        let ix = ItemIx(self.table.len() as u32);
        self.table.push(Item {
            content,
            of,
            first,
            count,
            bytes,
            lot,
            state: State::Idle,
            holders: 0,
            failed: Vec::new(),
            peer_failed: false,
            hedged: false,
            origin_after: Time::ZERO,
            origin_failures: 0,
            wait: None,
            lost: Vec::new(),
            broken: Vec::new(),
            claim: None,
            ours: false,
            owner: None,
        });
        let part = Part { first, count, item: ix };
        self.of.entry(content).or_default().push(part);
        self.idle.insert((0, lot, ix));
        self.count_open(ix, true);
        ix
    }

    /// The item that a chunk belongs to.
    pub(super) fn covering(&self, content: Ix, chunk: u32) -> Option<ItemIx> {
        let parts = self.of.get(&content)?;
        let after = parts.partition_point(|part| part.first <= chunk);
        let part = parts.get(after.checked_sub(1)?)?;
        (chunk - part.first < part.count).then_some(part.item)
    }

    /// The items that share a chunk with these.
    pub(super) fn overlapping(&self, content: Ix, first: u32, count: u32) -> impl Iterator<Item = ItemIx> {
        let parts = self.of(content);
        let end = first.saturating_add(count);
        let begin = parts.partition_point(|part| part.first + part.count <= first);
        let touched = parts[begin..].iter().take_while(move |part| part.first < end);
        touched.map(|part| part.item)
    }

    pub(super) fn set_state(&mut self, ix: ItemIx, state: State) {
        let item = &mut self.table[ix.0 as usize];
        let before = item.state;
        if before == state {
            return;
        }
        item.state = state;
        if before == State::Idle {
            self.idle.remove(&(item.holders, item.lot, ix));
        }
        if state == State::Idle {
            self.changed |= item.holders > 0;
            self.idle.insert((item.holders, item.lot, ix));
        }
        if before == State::Done {
            self.count_open(ix, true);
        } else if state == State::Done {
            self.count_open(ix, false);
        }
    }

    pub(super) fn set_holders(&mut self, ix: ItemIx, holders: u32) {
        let item = &mut self.table[ix.0 as usize];
        if item.state == State::Idle && item.holders != holders {
            self.idle.remove(&(item.holders, item.lot, ix));
            self.idle.insert((holders, item.lot, ix));
            self.changed |= holders > item.holders;
        }
        item.holders = holders;
    }

    pub(super) fn holders(&self, ix: ItemIx) -> u32 {
        self.at(ix).holders
    }

    /// Idle items that some peer has, the rarest first.
    pub(super) fn held(&self) -> impl Iterator<Item = ItemIx> {
        self.idle.range((1, 0, ItemIx(0))..).map(|(_, _, item)| *item)
    }

    /// Idle items that no peer has.
    pub(super) fn unheld(&self) -> impl Iterator<Item = ItemIx> {
        self.idle.range(..(1, 0, ItemIx(0))).map(|(_, _, item)| *item)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = ItemIx> + use<> {
        (0..self.table.len() as u32).map(ItemIx)
    }

    /// Remembers that a peer failed with an item.
    pub(super) fn fail(&mut self, ix: ItemIx, node: NodeId) {
        let item = self.at_mut(ix);
        item.peer_failed = true;
        if !item.failed.contains(&node) && item.failed.len() < FAILED_MAX {
            item.failed.push(node);
            self.failed.insert(ix);
        }
    }

    /// Those that nobody has, and some peer failed with.
    pub(super) fn failed(&self) -> impl Iterator<Item = ItemIx> {
        let unheld = |item: &Item| item.state == State::Idle && item.holders == 0;
        self.failed.iter().copied().filter(move |ix| unheld(self.at(*ix)))
    }

    /// What peers failed with before is asked of them again.
    pub(super) fn forgive(&mut self, ix: ItemIx) {
        self.at_mut(ix).failed.clear();
        self.failed.remove(&ix);
    }

    /// The missing chunks, as wants.
    pub(super) fn wants(&self, contents: &Contents, ix: ItemIx) -> Vec<Want> {
        let item = self.at(ix);
        let content = contents.at(item.content);
        match &content.kind {
            Kind::One { .. } => vec![Want {
                content: content.digest,
                first: 0,
                count: 1,
            }],
            Kind::Many { .. } => {
                let missing = (item.first..item.first + item.count).filter(|chunk| !content.has_chunk(*chunk));
                Runs::of(missing)
                    .0
                    .into_iter()
                    .map(|(first, count)| Want {
                        content: content.digest,
                        first,
                        count,
                    })
                    .collect()
            }
        }
    }
}
