//! The management server as nodes see it: heads, neighbours, content.

use std::collections::BTreeSet;
use std::time::Duration;

use potluck_model::ring;
use potluck_proto::{Input, Neighbour, TransferEnd, TransferId};

use crate::cost;
use crate::network::ORIGIN;
use crate::node::{Behaviour, NodeIx};
use crate::world::{Event, KEY, World};

/// How many are drawn at random to be neighbours in a head, beside those who come first.
const NEIGHBOURS_MAX: usize = 16;
/// How long the server keeps a question for the head open.
const POLL: Duration = Duration::from_secs(55);
/// After how long a node asks again that got no head.
const AGAIN: Duration = Duration::from_secs(1);
/// After how long one notices that nobody is there who could refuse.
const UNANSWERED: Duration = Duration::from_secs(10);

impl World {
    pub(crate) fn origin_is_away(&self) -> bool {
        self.origin_away
    }

    fn origin_is_cut_off(&self, ix: NodeIx) -> bool {
        self.cuts.between(ORIGIN, self.nodes[ix.at()].traits.place)
    }

    /// A node asks for its head.
    pub(crate) fn ask_head(&mut self, ix: NodeIx) {
        let boot = self.nodes[ix.at()].boot;
        if self.origin_is_away() || self.origin_is_cut_off(ix) {
            let again = AGAIN + Duration::from_millis(self.random.below(1_000));
            self.at(self.now + again, Event::AskHead { ix, boot });
            return;
        }
        let trips = self.reach_origin(ix);
        self.charge(ix, None, cost::of_stream(cost::HEAD_ASKED));
        let at = self.now + self.links.origin_latency * (2 * trips + 1);
        self.at(at, Event::HeadAsked { ix, boot });
    }

    /// Sets up a connection to the origin if there is none. How many round trips that takes.
    fn reach_origin(&mut self, ix: NodeIx) -> u32 {
        if self.nodes[ix.at()].origin_boot == Some(self.origin_boot) {
            return 0;
        }
        self.nodes[ix.at()].origin_boot = Some(self.origin_boot);
        self.charge(ix, None, cost::of_stream(cost::HANDSHAKE_DIALS));
        self.charge_from_origin(ix, cost::of_stream(cost::HANDSHAKE_DIALLED));
        cost::HANDSHAKE_TRIPS - 1
    }

    /// The origin answers with the head.
    pub(crate) fn head_asked(&mut self, ix: NodeIx, boot: u32) {
        let at = self.charge_from_origin(ix, cost::of_stream(cost::HEAD_SAID));
        self.at(at, Event::Head { ix, boot });
    }

    /// The head has come.
    pub(crate) fn head(&mut self, ix: NodeIx, boot: u32) {
        if !self.nodes[ix.at()].alive || self.nodes[ix.at()].boot != boot {
            return;
        }
        let (neighbours, population) = self.neighbours(ix);
        self.give(ix, Input::Audience { key: KEY });
        self.give(ix, Input::Neighbours { neighbours, population });
        self.designate(ix);
        self.at(self.now + POLL, Event::AskHead { ix, boot });
    }

    /// What the server suggests: those of the site with the same list who come first for it, some others at random; and how
    /// many are on.
    fn neighbours(&mut self, ix: NodeIx) -> (Vec<Neighbour>, u32) {
        let (id, traits) = (self.nodes[ix.at()].id, &self.nodes[ix.at()].traits);
        let (site, list) = (traits.site, traits.list);
        let digest = self.release.part(self.release.lists[list as usize].part).digest;
        let place = ring::place(&digest);
        let alike = |other: &NodeIx| {
            let node = &self.nodes[other.at()];
            *other != ix && node.alive && node.traits.site == site && node.traits.list == list
        };
        let round = self.by_id.range(place..).chain(self.by_id.range(..place));
        let nearest: Vec<NodeIx> = round
            .map(|(_, other)| *other)
            .filter(alike)
            .take(ring::SEATS_MAX)
            .collect();
        let first = ring::suggested(&digest, id, nearest, |other| self.nodes[other.at()].id);
        let mut chosen: BTreeSet<NodeIx> = first.into_iter().collect();
        let site = &self.sites[site as usize];
        for _ in 0..NEIGHBOURS_MAX {
            let other = NodeIx(site.nodes[self.random.below(site.nodes.len() as u64) as usize]);
            if other != ix && self.nodes[other.at()].alive {
                chosen.insert(other);
            }
        }
        let on = site.on;
        let neighbours = chosen
            .into_iter()
            .map(|other| Neighbour {
                node: self.nodes[other.at()].id,
                addresses: vec![self.nodes[other.at()].address],
            })
            .collect();
        (neighbours, on)
    }

    /// A node asks the origin for content.
    pub(crate) fn fetch_from_origin(&mut self, ix: NodeIx, transfer: TransferId, chunks: u64) {
        let boot = self.nodes[ix.at()].boot;
        if self.nodes[ix.at()].behaviour == Behaviour::Sitting {
            return;
        }
        let trips = if self.origin_is_away() || self.origin_is_cut_off(ix) {
            0
        } else {
            self.reach_origin(ix)
        };
        let out = self.charge(ix, None, cost::of_origin_request(chunks));
        let at = out + self.links.origin_latency * (2 * trips + 1);
        self.at(at, Event::OriginAsked { ix, boot, transfer });
    }

    /// A request for content has reached the origin, if it did.
    pub(crate) fn origin_asked(&mut self, ix: NodeIx, boot: u32, transfer: TransferId) {
        if self.nodes[ix.at()].boot != boot {
            return;
        }
        if self.origin_is_cut_off(ix) {
            let end = TransferEnd::Failed("no answer".into());
            self.end_at(self.now + UNANSWERED, ix, transfer, end);
        } else if self.origin_is_away() {
            let end = TransferEnd::Failed("connection refused".into());
            self.end_at(self.now + self.links.origin_latency, ix, transfer, end);
        } else {
            self.charge_from_origin(ix, cost::of_origin_response());
            self.serve_from_origin(ix, transfer);
        }
    }

    /// The server's process ends, or a new one begins.
    pub(crate) fn set_origin_away(&mut self, away: bool) {
        self.origin_away = away;
        if !away {
            self.origin_boot += 1;
            return;
        }
        let broken = self.drop_flows(|flow| flow.from.is_none());
        for (to, transfer) in broken {
            let end = TransferEnd::Failed("the connection broke".into());
            self.end_at(self.now + self.links.origin_latency, to, transfer, end);
        }
    }
}
