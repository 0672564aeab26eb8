//! What can be run by name.

use std::time::Duration;

use potluck_model::Time;

use crate::fault::Fault;
use crate::network::{Links, ORIGIN, Traits};
use crate::node::{Behaviour, NodeIx};
use crate::random::Random;
use crate::release::Release;
use crate::world::World;

/// A scenario by name. Unless it says otherwise, all nodes are switched on within a second, and nobody has anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Scenario {
    /// Nothing goes wrong.
    Cold,
    /// Four of each site hold everything; the others join.
    Warm,
    /// All but one hold everything, and one asks.
    Ask,
    /// One holds everything, the others have the list, and the origin is away.
    Away,
    /// Three lists, each for a third of the nodes, share one large file.
    Sharing,
    /// Nodes are switched on half a second after each other.
    Staggered,
    /// One datagram or segment in twenty is lost, some datagrams come twice, and some late.
    Lossy,
    /// Half of the nodes hear no multicast.
    Deaf,
    /// Half of the nodes have a twentieth of the rate.
    Slow,
    /// Half of the nodes cannot be dialled.
    Firewalled,
    /// A third of the nodes have disks that take 4 MiB/s.
    Disks,
    /// Three in ten lie, stall, send wrong bytes or die.
    Faulty,
    /// Nodes come and go all the time.
    Churn,
    /// Three in ten lose their power, and are switched on again with what they had stored.
    Crashes,
    /// A third of the nodes sleep for a while.
    Sleepers,
    /// Nodes fall into two halves that cannot reach each other for a while.
    Partition,
    /// The same, but one half hears the other.
    OneWay,
    /// The server is gone for a while in the middle of it.
    Outage,
    /// One in ten asks everybody for everything, again and again.
    Greedy,
    /// One machine enrolled as often as there are others, to sit in every seat: it takes shares and lets them lie.
    Sybils,
    /// Two nodes send nonsense, replays, and requests with others' addresses as their source.
    Flood,
    /// A mixture of all this that follows from the seed.
    Mixed,
}

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Setup {
    /// What happens.
    #[arg(long, value_enum, default_value = "cold")]
    pub scenario: Scenario,
    /// How many nodes a site has.
    #[arg(long, default_value_t = 100)]
    pub nodes: usize,
    /// How many sites there are, each with an uplink of its own.
    #[arg(long, default_value_t = 1)]
    pub sites: u16,
    /// What everything random follows from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// MiB of files.
    #[arg(long, default_value_t = 128)]
    pub payload_mib: u64,
    /// How many of the files are small.
    #[arg(long, default_value_t = 200)]
    pub small: usize,
    /// KiB of a chunk, on average.
    #[arg(long, default_value_t = 64)]
    pub chunk_kib: u32,
    /// Mbit/s of a site's uplink.
    #[arg(long, default_value_t = 100)]
    pub uplink_mbit: u64,
    /// Mbit/s of a node's link.
    #[arg(long, default_value_t = 1_000)]
    pub node_mbit: u64,
    /// Datagrams to groups do not arrive.
    #[arg(long)]
    pub no_multicast: bool,
    /// Seconds of the world's time after which it is given up. [default: what the trouble takes, and ten times the ideal]
    #[arg(long)]
    pub seconds: Option<u64>,
}

impl Setup {
    /// A scenario with a number of nodes at one site, and all else as by default.
    pub const fn new(scenario: Scenario, nodes: usize) -> Self {
        Self {
            scenario,
            nodes,
            sites: 1,
            seed: 1,
            payload_mib: 128,
            small: 200,
            chunk_kib: 64,
            uplink_mbit: 100,
            node_mbit: 1_000,
            no_multicast: false,
            seconds: None,
        }
    }

    /// The command that runs this again.
    pub fn command(&self) -> String {
        let scenario = self.name();
        let command = format!(
            "cargo run --release -p potluck-sim -- --scenario {scenario} --nodes {} --sites {} --seed {} --payload-mib {} \
             --small {} --chunk-kib {} --uplink-mbit {} --node-mbit {}",
            self.nodes,
            self.sites,
            self.seed,
            self.payload_mib,
            self.small,
            self.chunk_kib,
            self.uplink_mbit,
            self.node_mbit
        );
        let multicast = if self.no_multicast { " --no-multicast" } else { "" };
        let seconds = self
            .seconds
            .map_or_else(String::new, |seconds| format!(" --seconds {seconds}"));
        command + multicast + &seconds
    }

    /// What is run, in a few words.
    pub fn title(&self) -> String {
        let (scenario, multicast) = (self.name(), if self.no_multicast { ", no multicast" } else { "" });
        format!(
            "{scenario}: {} sites of {} nodes, {} MiB over {} Mbit/s{multicast}, seed {}",
            self.sites, self.nodes, self.payload_mib, self.uplink_mbit, self.seed
        )
    }

    fn name(&self) -> String {
        clap::ValueEnum::to_possible_value(&self.scenario).map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// How long payload / uplink rate is.
    pub fn ideal(&self) -> Duration {
        Duration::from_micros((self.payload_mib << 20) * 1_000_000 / crate::mbit(self.uplink_mbit).max(1))
    }

    /// When the run is given up: `seconds`, or ten times the ideal and two minutes after everything has gone wrong.
    pub fn end(&self, world: &World) -> Time {
        self.seconds.map_or_else(
            || world.trouble_ends() + self.ideal() * 10 + Duration::from_secs(120),
            |seconds| Time::from_millis(seconds * 1_000),
        )
    }

    /// Builds the world and runs it.
    pub fn run(&self, keep_trace: bool) -> World {
        let mut world = self.build(keep_trace);
        let end = self.end(&world);
        world.run_until(end);
        world
    }

    /// The world before its first event.
    pub fn build(&self, keep_trace: bool) -> World {
        let mut links = Links {
            origin_rate: crate::mbit(self.uplink_mbit),
            node_rate: crate::mbit(self.node_mbit),
            multicast: !self.no_multicast,
            sites: self.sites.max(1),
            ..Links::branch_office()
        };
        if self.nodes * usize::from(links.sites) >= 2_000 {
            // A whole chunk at a time: so many nodes make enough events.
            links.turn_bytes = 1 << 20;
        }
        let (payload, chunk) = (self.payload_mib << 20, self.chunk_kib << 10);
        let mut random = Random::new(self.seed ^ 0xfeed);
        if self.scenario == Scenario::Lossy {
            (links.loss, links.duplicated, links.reordered) = (50, 20, 50);
        }
        if self.scenario == Scenario::Mixed {
            crate::mix::links(&mut links, &mut random);
        }
        let release = match self.scenario {
            Scenario::Sharing => Release::sharing(self.seed, 3, payload, self.small, chunk),
            _ => Release::mixed(self.seed, payload, self.small, chunk),
        };
        let mut world = World::new(self.seed, links, release, keep_trace);
        for site in 0..self.sites.max(1) {
            for n in 0..self.nodes {
                self.add(&mut world, &mut random, site, n);
            }
        }
        self.disturb(&mut world, &mut random);
        world
    }

    fn add(&self, world: &mut World, random: &mut Random, site: u16, n: usize) {
        let mut traits = Traits {
            site,
            ..Traits::plain()
        };
        let mut behaviour = Behaviour::Honest;
        let mut at = Time(random.below(1_000_000));
        let later = at + Duration::from_secs(1);
        match self.scenario {
            Scenario::Warm if n < 4 => (at, traits.full) = (Time::ZERO, true),
            Scenario::Away if n == 0 => (at, traits.full, traits.has_head) = (Time::ZERO, true, true),
            Scenario::Ask if n + 1 < self.nodes => {
                traits.full = true;
                traits.has_head = true;
            }
            Scenario::Warm => at = later,
            Scenario::Away => (at, traits.has_head) = (later, true),
            Scenario::Ask => at = Time(5_000_000),
            Scenario::Sharing => traits.list = (n % 3) as u8,
            Scenario::Staggered => at = Time(n as u64 * 500_000),
            Scenario::Deaf => traits.hears_multicast = n.is_multiple_of(2),
            Scenario::Slow if n % 2 == 1 => {
                let rate = crate::mbit(self.node_mbit) / 20;
                traits.rates = Some((rate, rate));
            }
            Scenario::Firewalled => traits.firewalled = n % 2 == 1,
            Scenario::Disks if n % 3 == 1 => traits.disk_rate = Some(4 << 20),
            Scenario::Partition | Scenario::OneWay => traits.place = 1 + (n % 2) as u8,
            Scenario::Greedy if n % 10 == 5 => behaviour = Behaviour::Greedy,
            Scenario::Sybils if n * 2 >= self.nodes => {
                behaviour = Behaviour::Sitting;
                traits.shared = (n - self.nodes.div_ceil(2)) as u16;
            }
            Scenario::Flood if n == 3 || n == 7 => behaviour = Behaviour::Flooding,
            Scenario::Faulty if n % 10 == 3 => {
                behaviour = [Behaviour::Empty, Behaviour::Corrupt, Behaviour::Stalling][(n / 10) % 3];
                traits.full = true;
            }
            Scenario::Mixed => behaviour = crate::mix::node(&mut traits, random, n),
            _ => {}
        }
        world.add_node(at, behaviour, traits);
    }

    /// What goes wrong on the way.
    fn disturb(&self, world: &mut World, random: &mut Random) {
        let ideal = self.ideal().as_micros() as u64;
        let early = |random: &mut Random| Time(1_000_000 + random.below(ideal.max(1)));
        let all: Vec<NodeIx> = (0..world.nodes.len() as u32).map(NodeIx).collect();
        match self.scenario {
            Scenario::Away => world.fault(Time::ZERO, Fault::OriginDown),
            Scenario::Faulty => {
                for ix in all.iter().filter(|ix| matches!(ix.0 % 10, 6 | 9)) {
                    let at = Time(random.below(ideal.max(1)));
                    world.fault(at, Fault::Kill(*ix));
                }
            }
            Scenario::Churn => {
                for ix in all.iter().filter(|ix| ix.0 % 3 == 1) {
                    let at = early(random);
                    world.fault(at, Fault::Kill(*ix));
                    let site = world.nodes[ix.at()].traits.site;
                    let traits = Traits {
                        site,
                        ..Traits::plain()
                    };
                    let at = early(random);
                    world.add_node(at, Behaviour::Honest, traits);
                }
            }
            Scenario::Crashes => {
                for ix in all.iter().filter(|ix| ix.0 % 10 < 3) {
                    let span = Duration::from_millis(200 + random.below(8_000));
                    world.fault(early(random), Fault::Crash(*ix, span));
                }
            }
            Scenario::Sleepers => {
                for ix in all.iter().filter(|ix| ix.0 % 3 == 1) {
                    let span = Duration::from_millis(500 + random.below(15_000));
                    world.fault(early(random), Fault::Sleep(*ix, span));
                }
            }
            Scenario::Partition => world.cut_both_ways(Time(ideal / 4), Duration::from_micros(ideal / 2), 1, 2),
            Scenario::OneWay => world.cut_one_way(Time(ideal / 4), Duration::from_micros(ideal / 2), 1, 2),
            Scenario::Outage => {
                world.fault(Time(ideal / 3), Fault::OriginDown);
                world.fault(Time(ideal / 3 + 10_000_000), Fault::OriginUp);
            }
            Scenario::Mixed => crate::mix::disturb(world, random, ideal, ORIGIN),
            _ => {}
        }
    }
}
