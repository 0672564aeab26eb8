//! What came of a run, as numbers.

use std::fmt::Write;

use crate::tally::Tally;
use crate::world::World;

/// Numbers of a run; those of time count from when a node was switched on, for nodes that are as they should be.
#[derive(Clone, Copy, Default, Debug)]
pub struct Figures {
    /// How many nodes should have everything, and how many have.
    pub nodes: usize,
    /// See `nodes`.
    pub complete: usize,
    /// Payload, lists and chunk lists that the origin sent / payload, on average over the sites.
    pub copies: f64,
    /// Everything that came over the uplinks with all headers / payload, on average over the sites.
    pub wire_copies: f64,
    /// Seconds of payload / uplink rate.
    pub ideal: f64,
    /// The time in which half of the nodes had everything / ideal.
    pub median: f64,
    /// The 99.9th percentile / ideal.
    pub most: f64,
    /// The last node's / ideal; infinite if one has not got everything.
    pub last: f64,
    /// Datagrams that a node sent and heard, on average.
    pub datagrams: (f64, f64),
    /// The most datagrams that one node heard.
    pub datagrams_max: u64,
    /// Messages that a node sent, on average.
    pub messages: f64,
    /// Wire bytes of control that a node sent, on average.
    pub control: f64,
    /// Payload that came although it was here / payload that came.
    pub duplicates: f64,
    /// The most answers to existence requests that one node heard.
    pub answers_max: u64,
}

impl World {
    /// Numbers of the run so far.
    pub fn figures(&self) -> Figures {
        let payload = self.release.largest().max(1) as f64;
        let ideal = payload / self.links.origin_rate as f64;
        let honest: Vec<_> = self.nodes.iter().filter(|node| node.is_honest()).collect();
        let mut times: Vec<f64> = honest
            .iter()
            .map(|node| {
                node.complete
                    .map_or(f64::INFINITY, |at| at.since(node.started).as_secs_f64() / ideal)
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let part = |permille: usize| {
            let last = times.len().saturating_sub(1);
            times
                .get((last * permille).div_ceil(1_000))
                .copied()
                .unwrap_or_default()
        };
        let count = self.nodes.len().max(1) as f64;
        let total = |of: fn(&Tally) -> u64| self.nodes.iter().map(|node| of(&node.tally)).sum::<u64>() as f64;
        let largest = |of: fn(&Tally) -> u64| self.nodes.iter().map(|node| of(&node.tally)).max().unwrap_or(0);
        let sites = self.sites.len() as f64 * self.release.payload().max(1) as f64;
        let origin: u64 = self.sites.iter().map(|site| site.origin_payload).sum();
        let wire: u64 = self.sites.iter().map(|site| site.wire_down).sum();
        let came = total(|tally| tally.origin_bytes + tally.peer_bytes);
        Figures {
            nodes: honest.len(),
            complete: honest.iter().filter(|node| node.complete.is_some()).count(),
            copies: origin as f64 / sites,
            wire_copies: wire as f64 / sites,
            ideal,
            median: part(500),
            most: part(999),
            last: part(1_000),
            datagrams: (
                total(|tally| tally.datagrams_sent) / count,
                total(|tally| tally.datagrams_heard) / count,
            ),
            datagrams_max: largest(|tally| tally.datagrams_heard),
            messages: total(|tally| tally.messages_sent) / count,
            control: total(|tally| tally.control_sent) / count,
            duplicates: total(|tally| tally.wasted_bytes) / came.max(1.0),
            answers_max: largest(|tally| tally.answers_heard),
        }
    }

    /// What came of the run, for people.
    pub fn summary(&self) -> String {
        let figures = self.figures();
        let total = |of: fn(&Tally) -> u64| -> u64 { self.nodes.iter().map(|node| of(&node.tally)).sum() };
        let mut text = String::new();
        let lines = [
            format!("complete          {} of {} nodes", figures.complete, figures.nodes),
            format!(
                "payload           {} bytes, {:.2} s over an uplink",
                self.release.payload(),
                figures.ideal
            ),
            format!(
                "origin            {:.4} of the payload, {:.4} with all headers and control",
                figures.copies, figures.wire_copies
            ),
            format!("from peers        {} bytes", total(|tally| tally.peer_bytes)),
            format!(
                "came to nothing   {} bytes twice, {} bad, {} of broken transfers",
                total(|tally| tally.wasted_bytes),
                total(|tally| tally.bad_bytes),
                total(|tally| tally.ignored_bytes)
            ),
            format!(
                "time / ideal      median {:.3}, 99.9 % {:.3}, last {:.3}",
                figures.median, figures.most, figures.last
            ),
            format!(
                "datagrams a node  {:.0} sent, {:.0} heard (at most {}, {} of them answers)",
                figures.datagrams.0, figures.datagrams.1, figures.datagrams_max, figures.answers_max
            ),
            format!(
                "control a node    {:.0} messages, {:.0} wire bytes",
                figures.messages, figures.control
            ),
            format!("trace             {}", self.trace.fingerprint()),
        ];
        for line in lines {
            writeln!(text, "{line}").expect("a string takes every line");
        }
        text
    }
}
