//! What must hold of every run, whatever happens in it.
//!
//! Safety is watched while a run goes on (`Watch`) and looked at in the end; progress is looked at in the end. Neither
//! asks the nodes' cores: what was sent and what arrived is counted by the network.

use std::collections::{BTreeMap, BTreeSet};

use potluck_model::Time;
use potluck_model::trace::Source;
use potluck_proto::message::WANTS_MAX;
use potluck_proto::{Action, DATAGRAM_BYTES_MAX};

use crate::node::{Node, NodeIx};
use crate::world::World;

/// A rule.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// Progress: every honest node that lives holds every chunk of every file of its list, and says so.
    EveryFile,
    /// Safety: nothing is kept that did not arrive unharmed.
    NothingUnverified,
    /// Safety: what was put on links arrived, was lost or is under way, and what is held arrived.
    BytesAdd,
    /// Safety: nobody sent, asked or connected more than the protocol and its configuration allow, and an address that no
    /// connection has proven got no more answers than it sent.
    Limits,
    /// The origin sent at most so many thousandths of the payload, on average over the sites.
    OriginPermilleAtMost(u64),
    /// The last node had everything within so many thousandths of payload / uplink rate after it was switched on.
    TimePermilleAtMost(u64),
    /// Chunks that came although they were here make at most so many thousandths of what peers and origin delivered.
    DuplicatesPermilleAtMost(u64),
    /// No node heard more answers to its existence requests than so many.
    AnswersAtMost(u64),
    /// No payload went from site to site.
    NothingBetweenSites,
}

/// What always holds.
pub const ALWAYS: [Check; 4] = [
    Check::EveryFile,
    Check::NothingUnverified,
    Check::BytesAdd,
    Check::Limits,
];

/// Watches a run while it goes on.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// What was broken first.
    broken: Option<String>,
    /// Only in worlds where somebody gives a false address as his own: it takes memory for each pair of nodes.
    pub(crate) echo: Option<Echo>,
}

/// Bytes of datagrams that came from an address, and of answers that went there.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    bytes: BTreeMap<(NodeIx, NodeIx), (usize, usize)>,
    proven: BTreeSet<(NodeIx, NodeIx)>,
    broken: Option<String>,
}

impl Echo {
    pub(crate) fn prove(&mut self, a: NodeIx, b: NodeIx) {
        self.proven.insert((a, b));
        self.proven.insert((b, a));
    }

    pub(crate) fn heard(&mut self, node: NodeIx, from: NodeIx, bytes: usize) {
        self.bytes.entry((node, from)).or_default().0 += bytes;
    }

    pub(crate) fn answered(&mut self, node: NodeIx, to: NodeIx, bytes: usize) {
        if self.proven.contains(&(node, to)) {
            return;
        }
        let (heard, answered) = self.bytes.entry((node, to)).or_default();
        *answered += bytes;
        if answered > heard {
            self.broken.get_or_insert_with(|| {
                format!(
                    "node {} answered {answered} bytes to the address of node {}, from which {heard} came",
                    node.0, to.0
                )
            });
        }
    }
}

impl Watch {
    fn breaks(&mut self, now: Time, node: &Node, rule: impl FnOnce() -> String) {
        self.broken
            .get_or_insert_with(|| format!("at {} us, node {} {}", now.0, node.id, rule()));
    }

    /// An action before it is carried out.
    pub(crate) fn look(&mut self, now: Time, node: &Node, action: &Action) {
        let limits = &node.limits;
        match action {
            Action::Datagram { bytes, .. } | Action::Multicast { bytes, .. } if bytes.len() > DATAGRAM_BYTES_MAX => {
                self.breaks(now, node, || format!("sent a datagram of {} bytes", bytes.len()));
            }
            Action::Fetch {
                transfer,
                source,
                wants,
                ..
            } => {
                if wants.is_empty() || wants.len() > WANTS_MAX {
                    self.breaks(now, node, || format!("wanted {} things at once", wants.len()));
                }
                if node.transfers.contains_key(transfer) {
                    self.breaks(now, node, || {
                        format!("used the number of transfer {} twice", transfer.0)
                    });
                }
                let living = || node.transfers.values().filter(|transfer| !transfer.cancelled);
                let others = living().filter(|transfer| transfer.source == *source).count();
                let most = match source {
                    Source::Peer(_) => limits.per_peer,
                    _ => limits.from_origin,
                };
                // A hedge, and one that delivered everything and has only to say so, are beyond the number.
                if others > most + 2 {
                    self.breaks(now, node, || format!("has {others} transfers from {source:?}"));
                }
                let in_flight: u64 = living().map(|transfer| transfer.bytes).sum();
                if in_flight > limits.in_flight_bytes * 2 {
                    self.breaks(now, node, || format!("asked for {in_flight} bytes that are not here"));
                }
            }
            Action::Serve { .. } if node.serving.len() >= limits.serving => {
                self.breaks(now, node, || {
                    format!("answers more than {} requests at a time", limits.serving)
                });
            }
            Action::Connect { .. } if node.links.len() > limits.connections => {
                self.breaks(now, node, || format!("dials with {} connections", node.links.len()));
            }
            _ => {}
        }
    }

    /// A node says that it has everything.
    pub(crate) fn complete(&mut self, now: Time, node: &Node, lacking: Option<String>) {
        if let Some(lacking) = lacking {
            self.breaks(now, node, || format!("says that it has everything and lacks {lacking}"));
        }
    }
}

impl World {
    /// Checks a rule.
    pub fn check(&self, check: Check) -> Result<(), String> {
        let figures = || self.figures();
        let at_most = |what: &str, value: f64, permille: u64| {
            let most = permille as f64 / 1_000.0;
            if value > most {
                return Err(format!("{what} is {value:.4}, more than {most}"));
            }
            Ok(())
        };
        match check {
            Check::EveryFile => self.every_file(),
            Check::NothingUnverified => self.nothing_unverified(),
            Check::BytesAdd => self.bytes_add(),
            Check::Limits => self.limits(),
            Check::OriginPermilleAtMost(most) => at_most("origin bytes / payload", figures().copies, most),
            Check::TimePermilleAtMost(most) => at_most("the last node's time / ideal", figures().last, most),
            Check::DuplicatesPermilleAtMost(most) => at_most("duplicates / payload", figures().duplicates, most),
            Check::AnswersAtMost(most) => self.answers_at_most(most),
            Check::NothingBetweenSites => {
                let foreign: u64 = self.sites.iter().map(|site| site.foreign_payload).sum();
                if foreign > 0 {
                    return Err(format!("{foreign} bytes of payload went from site to site"));
                }
                Ok(())
            }
        }
    }

    fn every_file(&self) -> Result<(), String> {
        for node in self.nodes.iter().filter(|node| node.is_honest()) {
            if let Some(lacking) = self.lacking(node) {
                return Err(format!("node {} lacks {lacking}", node.id));
            }
            if node.complete.is_none() {
                return Err(format!("node {} holds everything and does not say so", node.id));
            }
        }
        Ok(())
    }

    /// What a node lacks of its list.
    pub(crate) fn lacking(&self, node: &Node) -> Option<String> {
        let list = &self.release.lists[node.traits.list as usize];
        list.contents.iter().find_map(|content| {
            let part = self.release.part(self.release.find(&content.digest)?);
            let held = part.numbers().filter(|chunk| node.store.has(*chunk)).count();
            let chunks = part.lengths.len();
            (held < chunks).then(|| format!("{} of {chunks} chunks of {}", chunks - held, content.digest))
        })
    }

    fn nothing_unverified(&self) -> Result<(), String> {
        for node in &self.nodes {
            let beyond = node.store.beyond(&node.delivered);
            if beyond > 0 {
                return Err(format!(
                    "node {} keeps {beyond} chunks that nobody delivered unharmed",
                    node.id
                ));
            }
        }
        Ok(())
    }

    fn bytes_add(&self) -> Result<(), String> {
        let mut came = 0;
        for node in &self.nodes {
            let tally = &node.tally;
            let stored = tally.origin_bytes + tally.peer_bytes;
            came += stored + tally.bad_bytes + tally.ignored_bytes;
            // What a disk lost with the power, or was taken from it, is held no more.
            let held = node.store.bytes(&self.release);
            let new = stored - tally.wasted_bytes;
            if held > new + node.held_first {
                return Err(format!(
                    "node {} received {new} bytes that it had not, beside {} that it held, and holds {held}",
                    node.id, node.held_first
                ));
            }
            let whole = node.is_honest() && node.boot == 1 && node.traits.disk_rate.is_none();
            if whole && held < new + node.held_first {
                return Err(format!("node {} received {new} bytes and holds {held}", node.id));
            }
        }
        let partial: u64 = self.flows.iter().map(|(_, flow)| flow.partial()).sum();
        let ledger = &self.ledger;
        if ledger.sent != came + partial + ledger.under_way + ledger.lost {
            return Err(format!(
                "{} bytes were sent; {came} came, {partial} more of chunks that are not whole, {} are under way, {} were lost",
                ledger.sent, ledger.under_way, ledger.lost
            ));
        }
        let served: u64 = self.nodes.iter().map(|node| node.tally.served_bytes).sum();
        let origin: u64 = self.sites.iter().map(|site| site.origin_payload).sum();
        if served + origin != ledger.sent {
            return Err(format!(
                "peers sent {served} bytes and the origin {origin}, and {} went over links",
                ledger.sent
            ));
        }
        Ok(())
    }

    fn limits(&self) -> Result<(), String> {
        let echo = self.watch.echo.as_ref().and_then(|echo| echo.broken.as_ref());
        if let Some(broken) = self.watch.broken.as_ref().or(echo) {
            return Err(broken.clone());
        }
        Ok(())
    }

    fn answers_at_most(&self, most: u64) -> Result<(), String> {
        let heard = self
            .nodes
            .iter()
            .map(|node| node.tally.answers_heard)
            .max()
            .unwrap_or(0);
        if heard > most {
            return Err(format!("a node heard {heard} answers, more than {most}"));
        }
        Ok(())
    }
}
