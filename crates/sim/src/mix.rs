//! Mixtures of faults that follow from a seed. Each kind is there in about half of the worlds.

use std::time::Duration;

use potluck_model::Time;

use crate::fault::Fault;
use crate::network::{Links, Traits};
use crate::node::{Behaviour, NodeIx};
use crate::random::Random;
use crate::world::World;

/// Draws what the network does.
pub(crate) fn links(links: &mut Links, random: &mut Random) {
    let mut sometimes = |most: u64| {
        if random.chance((1, 2)) { random.below(most) } else { 0 }
    };
    links.loss = sometimes(100);
    links.duplicated = sometimes(200);
    links.reordered = sometimes(300);
    links.jitter = Duration::from_micros(100 + sometimes(20_000));
    links.origin_latency = Duration::from_millis(2 + sometimes(300));
    links.multicast = sometimes(4) != 1;
}

/// Draws what a node is like. The first of a site is always as it should be.
pub(crate) fn node(traits: &mut Traits, random: &mut Random, n: usize) -> Behaviour {
    traits.place = 1 + random.below(3) as u8;
    traits.hears_multicast = !random.chance((1, 5));
    traits.firewalled = n > 0 && random.chance((1, 6));
    if random.chance((1, 10)) {
        let rate = crate::mbit(5 + random.below(100));
        traits.rates = Some((rate, rate));
    }
    if random.chance((1, 10)) {
        traits.disk_rate = Some((2 + random.below(30)) << 20);
    }
    if n == 0 {
        return Behaviour::Honest;
    }
    match random.below(20) {
        0 => Behaviour::Sitting,
        1 => Behaviour::Greedy,
        2 if n == 1 => Behaviour::Flooding,
        3..=5 => {
            traits.full = true;
            [Behaviour::Empty, Behaviour::Corrupt, Behaviour::Stalling][random.below(3) as usize]
        }
        6 => {
            traits.full = true;
            Behaviour::Honest
        }
        _ => Behaviour::Honest,
    }
}

/// Draws what goes wrong on the way, within about twice `ideal` microseconds.
pub(crate) fn disturb(world: &mut World, random: &mut Random, ideal: u64, origin: u8) {
    let when = |random: &mut Random| Time(random.below(ideal * 2 + 1));
    let span = |random: &mut Random| Duration::from_millis(100 + random.below(12_000));
    for ix in (1..world.nodes.len() as u32).map(NodeIx) {
        let fault = match random.below(20) {
            0 => Fault::Kill(ix),
            1 | 2 => Fault::Crash(ix, span(random)),
            3 => Fault::Sleep(ix, span(random)),
            _ => continue,
        };
        world.fault(when(random), fault);
    }
    for _ in 0..random.below(4) {
        let (a, b) = (1 + random.below(3) as u8, random.below(4) as u8);
        if random.chance((1, 2)) {
            world.cut_one_way(when(random), span(random), a, b);
        } else {
            world.cut_both_ways(when(random), span(random), a, if b == a { origin } else { b });
        }
    }
    if random.chance((1, 2)) {
        let at = when(random);
        world.fault(at, Fault::OriginDown);
        world.fault(at + span(random), Fault::OriginUp);
    }
}
