//! The work: lists, chunk lists, small files and stripes that are wanted, one by one.

use std::collections::{BTreeMap, BTreeSet};

use potluck_model::{NodeId, Time};

use super::contents::{Contents, Ix, Kind};
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

/// All items of the designated list, in any state.
#[derive(Debug, Default)]
pub(super) struct Items {
    table: Vec<Item>,
    /// Of each content: its items, by first chunk.
    of: BTreeMap<Ix, Vec<ItemIx>>,
    /// Idle ones, the rarest first.
    idle: BTreeSet<(u32, u32, ItemIx)>,
    /// Those not done.
    pub(super) open: usize,
}

impl Items {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn at(&self, item: ItemIx) -> &Item {
        &self.table[item.0 as usize]
    }

    /// For what does not touch state or holders.
    pub(super) fn at_mut(&mut self, item: ItemIx) -> &mut Item {
        &mut self.table[item.0 as usize]
    }

    pub(super) fn of(&self, content: Ix) -> &[ItemIx] {
        self.of.get(&content).map_or(&[], Vec::as_slice)
    }

    pub(super) fn add(&mut self, content: Ix, first: u32, count: u32, bytes: u64, lot: u32) -> ItemIx {
        let ix = ItemIx(self.table.len() as u32);
        self.table.push(Item {
            content,
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
            claim: None,
            ours: false,
            owner: None,
        });
        self.of.entry(content).or_default().push(ix);
        self.idle.insert((0, lot, ix));
        self.open += 1;
        ix
    }

    /// The item that a chunk belongs to.
    pub(super) fn covering(&self, content: Ix, chunk: u32) -> Option<ItemIx> {
        let items = self.of.get(&content)?;
        let after = items.partition_point(|item| self.at(*item).first <= chunk);
        let item = *items.get(after.checked_sub(1)?)?;
        (chunk - self.at(item).first < self.at(item).count).then_some(item)
    }

    /// The items that share a chunk with these.
    pub(super) fn overlapping(&self, content: Ix, first: u32, count: u32) -> &[ItemIx] {
        let items = self.of(content);
        let end = first.saturating_add(count);
        let begin = items.partition_point(|item| self.at(*item).first + self.at(*item).count <= first);
        let until = items.partition_point(|item| self.at(*item).first < end);
        items.get(begin..until).unwrap_or(&[])
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
            self.idle.insert((item.holders, item.lot, ix));
        }
        if before == State::Done {
            self.open += 1;
        } else if state == State::Done {
            self.open -= 1;
        }
    }

    pub(super) fn set_holders(&mut self, ix: ItemIx, holders: u32) {
        let item = &mut self.table[ix.0 as usize];
        if item.state == State::Idle && item.holders != holders {
            self.idle.remove(&(item.holders, item.lot, ix));
            self.idle.insert((holders, item.lot, ix));
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
        }
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
