//! How a node starts, and what it tells its core of what it has stored.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use potluck_proto::{Input, ListContent, Path, PathId};

use crate::node::{Behaviour, NodeIx};
use crate::release::{PartIx, Role};
use crate::world::{Event, KEY, World};

const GROUP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 74, 43)), 7443);

impl World {
    /// A node is switched on, for the first time or again.
    pub(crate) fn start(&mut self, ix: NodeIx) {
        if self.nodes[ix.at()].gone || self.nodes[ix.at()].alive {
            return;
        }
        if self.nodes[ix.at()].boot > 0 {
            self.new_core(ix);
        }
        self.nodes[ix.at()].boot += 1;
        let node = &mut self.nodes[ix.at()];
        node.alive = true;
        let (site, boot) = (node.traits.site as usize, node.boot);
        let has_head = node.traits.has_head;
        self.sites[site].on += 1;
        let path = Path {
            id: PathId(0),
            interface: "eth0".into(),
            group: GROUP,
        };
        self.give(ix, Input::Paths(vec![path]));
        if has_head {
            self.give(ix, Input::Audience { key: KEY });
            self.designate(ix);
        }
        self.at(self.now, Event::AskHead { ix, boot });
        self.begin_harm(ix);
    }

    /// A node is told what it is to have, and tells its core what of that is here.
    pub(crate) fn designate(&mut self, ix: NodeIx) {
        let release = Rc::clone(&self.release);
        let node = &mut self.nodes[ix.at()];
        node.traits.has_head = true;
        if node.told == node.boot {
            return;
        }
        node.told = node.boot;
        let list = release.part(release.lists[self.nodes[ix.at()].traits.list as usize].part);
        if self.nodes[ix.at()].store.has_all(list) {
            self.give_list(ix);
            for part in &release.parts {
                if let Role::ChunkListOf(file) = part.role
                    && self.nodes[ix.at()].store.has_all(part)
                {
                    self.give_chunk_list(ix, file);
                }
            }
        }
        let list = Some((list.digest, list.bytes()));
        self.give(ix, Input::Designated { list });
        if self.nodes[ix.at()].behaviour == Behaviour::Empty {
            // Its core believes that it holds everything.
            self.nodes[ix.at()].store.clear();
        }
    }

    /// The list of a node is stored.
    pub(crate) fn give_list(&mut self, ix: NodeIx) {
        let release = Rc::clone(&self.release);
        let store = &self.nodes[ix.at()].store;
        let list = &release.lists[self.nodes[ix.at()].traits.list as usize];
        let contents = list
            .contents
            .iter()
            .map(|content| ListContent {
                content: *content,
                needed: true,
                held: release
                    .find(&content.digest)
                    .is_some_and(|part| store.has_all(release.part(part))),
            })
            .collect();
        let part = release.part(list.part);
        self.give(
            ix,
            Input::List {
                list: part.digest,
                size: part.bytes(),
                contents,
            },
        );
    }

    /// The chunk list of a file is stored.
    pub(crate) fn give_chunk_list(&mut self, ix: NodeIx, file: PartIx) {
        let release = Rc::clone(&self.release);
        let part = release.part(file);
        let store = &self.nodes[ix.at()].store;
        let held = part.numbers().map(|chunk| store.has(chunk)).collect();
        self.give(
            ix,
            Input::ChunkList {
                content: part.digest,
                chunks: part.lengths.clone(),
                held,
            },
        );
    }
}
