//! What can be run by name.

use std::fmt::Write;
use std::time::Duration;

use potluck_model::Time;

use crate::network::{Faults, Links};
use crate::node::Behaviour;
use crate::random::Random;
use crate::release::Release;
use crate::world::{NodeIx, World};

/// A scenario by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Scenario {
    /// All are switched on within a second, and nobody has anything.
    Cold,
    /// Four hold everything; the others join.
    Warm,
    /// Cold, and one datagram in three is lost.
    Lossy,
    /// Cold, and multicast is blocked.
    Unicast,
    /// Cold, and three in ten lie, stall, send wrong bytes or die.
    Faulty,
    /// One holds everything, the others have the list, and the origin is away.
    Away,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which scenario.
    pub scenario: Scenario,
    /// How many nodes.
    pub nodes: usize,
    /// What everything random follows from.
    pub seed: u64,
    /// Bytes of the files.
    pub payload: u64,
    /// How many of them are small.
    pub small: usize,
    /// Keep every line of the trace.
    pub keep_trace: bool,
}

impl Setup {
    /// The world before its first event.
    pub fn build(&self) -> World {
        let mut links = Links::branch_office();
        let mut faults = Faults::none();
        match self.scenario {
            Scenario::Lossy => faults.loss = (1, 3),
            Scenario::Unicast => links.multicast = false,
            Scenario::Away => faults.origin_away = Some((Time::ZERO, Time(u64::MAX))),
            Scenario::Cold | Scenario::Warm | Scenario::Faulty => {}
        }
        let release = Release::mixed(self.seed, self.payload, self.small);
        let mut world = World::new(self.seed, links, faults, release, self.keep_trace);
        let mut random = Random::new(self.seed ^ 0xfeed);
        for n in 0..self.nodes {
            let at = Time(random.below(1_000_000));
            match self.scenario {
                Scenario::Warm if n < 4 => {
                    world.add_node(Time::ZERO, true, Behaviour::Honest);
                }
                Scenario::Away if n == 0 => {
                    world.add_node(Time::ZERO, true, Behaviour::Honest);
                }
                Scenario::Warm | Scenario::Away => {
                    world.add_node(at + Duration::from_secs(1), false, Behaviour::Honest);
                }
                Scenario::Faulty => self.add_faulty(&mut world, &mut random, n, at),
                Scenario::Cold | Scenario::Lossy | Scenario::Unicast => {
                    world.add_node(at, false, Behaviour::Honest);
                }
            }
        }
        world
    }

    /// Of ten nodes, one has nothing of what it says, or sends wrong bytes, or stalls; two die halfway.
    fn add_faulty(&self, world: &mut World, random: &mut Random, n: usize, at: Time) {
        let lie = [Behaviour::Empty, Behaviour::Corrupt, Behaviour::Stalling][(n / 10) % 3];
        match n % 10 {
            3 => {
                // Its core believes that it holds everything.
                let ix = world.add_node(at, true, lie);
                if lie == Behaviour::Empty {
                    world.forget_store_at(at + Duration::from_micros(1), ix);
                }
            }
            6 | 9 => {
                let ix = world.add_node(at, false, Behaviour::Honest);
                let ideal = self.payload * 1_000_000 / world.links().origin_rate;
                world.kill(at + Duration::from_micros(random.below(ideal.max(1))), ix);
            }
            _ => {
                world.add_node(at, false, Behaviour::Honest);
            }
        }
    }

    /// The command that runs this again.
    pub fn command(&self) -> String {
        let scenario = format!("{:?}", self.scenario).to_lowercase();
        format!(
            "cargo run -p potluck-sim -- --scenario {scenario} --nodes {} --seed {} --payload-mib {} --small {}",
            self.nodes,
            self.seed,
            self.payload >> 20,
            self.small
        )
    }
}

/// What came of a run, for people.
pub fn summary(world: &World) -> String {
    let mut text = String::new();
    let payload = world.release.payload();
    let mut times: Vec<(Duration, NodeIx)> = Vec::new();
    for n in 0..world.nodes.len() {
        let node = &world.nodes[n];
        if node.behaviour == Behaviour::Honest
            && let Some(at) = node.complete
        {
            times.push((at.since(node.started), NodeIx(n)));
        }
    }
    times.sort_unstable();
    let ideal = payload as f64 / world.links().origin_rate as f64;
    let at = |part: usize| {
        times
            .get((times.len().saturating_sub(1)) * part / 100)
            .map_or(0.0, |(span, _)| span.as_secs_f64())
    };
    let total = |of: fn(&crate::node::Node) -> u64| -> u64 { world.nodes.iter().map(of).sum() };
    let lines = [
        format!("complete          {} of {} nodes", times.len(), world.nodes.len()),
        format!("payload           {payload} bytes, {ideal:.2} s over the uplink"),
        format!(
            "origin            {} bytes, {:.3} of the payload",
            world.origin_sent,
            world.origin_sent as f64 / payload as f64
        ),
        format!("from peers        {} bytes", total(|node| node.peer_bytes)),
        format!("wasted            {} bytes", total(|node| node.wasted_bytes)),
        format!(
            "time              median {:.2} s, last {:.2} s, {:.3} of ideal",
            at(50),
            at(100),
            world.time_ratio()
        ),
        format!(
            "datagrams         {}, messages {}",
            total(|node| node.datagrams),
            total(|node| node.messages)
        ),
        format!("trace             {}", world.trace.digest()),
    ];
    for line in lines {
        writeln!(text, "{line}").expect("a string takes every line");
    }
    text
}
