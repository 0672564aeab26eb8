//! The table of figures: many worlds, one line each, several at a time.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::check::{ALWAYS, Check};
use crate::figures::Figures;
use crate::scenario::{Scenario, Setup};

/// From so many nodes on, a world takes so much memory that one is run at a time.
const HEAVY: usize = 3_000;
/// From so many nodes on, chunks are as large as stripes: 1,000 stripes are 1,000 chunks.
const MANY: usize = 500;

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it shows.
    pub name: String,
    /// What is run.
    pub setup: Setup,
    /// What is to be reached, beside what always holds.
    pub goals: Vec<Check>,
}

/// What came of a line.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The numbers.
    pub figures: Figures,
    /// Rules that did not hold.
    pub broken: Vec<String>,
    /// Goals that were not reached.
    pub missed: Vec<String>,
    /// Seconds that the run took.
    pub took: f64,
}

/// The lines of the table, up to a number of nodes in all: the sizes with and without multicast, sites, and hard cases. MiB
/// of payload are as given; the last node's time / ideal is to be 1.15 and the origin's share 1.02.
pub fn rows(up_to: usize, payload_mib: u64, seed: u64) -> Vec<Row> {
    let crowd = vec![Check::OriginPermilleAtMost(1_020), Check::TimePermilleAtMost(1_150)];
    let mut rows = Vec::new();
    for multicast in [true, false] {
        for (nodes, sites) in [(1, 1), (10, 1), (100, 1), (1_000, 1), (10_000, 1), (100, 100)] {
            let mut setup = sized(Scenario::Cold, nodes, sites, payload_mib, seed);
            setup.no_multicast = !multicast;
            let of = if sites > 1 {
                format!("{sites} sites of {nodes}")
            } else {
                format!("{nodes}")
            };
            let name = of + if multicast { "" } else { ", no multicast" };
            let goals = crowd.clone();
            rows.push(Row { name, setup, goals });
        }
    }
    let mut equal = sized(Scenario::Cold, 100, 1, payload_mib, seed);
    equal.uplink_mbit = equal.node_mbit;
    rows.push(Row {
        name: "100, uplink as fast as links".to_owned(),
        setup: equal,
        goals: vec![Check::TimePermilleAtMost(1_400)],
    });
    rows.push(Row {
        name: "100, 30 % lie, stall or die".to_owned(),
        setup: sized(Scenario::Faulty, 100, 1, payload_mib, seed),
        goals: vec![Check::TimePermilleAtMost(1_440)],
    });
    for nodes in [5, 1_000, 10_000] {
        rows.push(Row {
            name: format!("{} hold it, one asks", nodes - 1),
            setup: sized(Scenario::Ask, nodes, 1, payload_mib, seed),
            goals: vec![Check::AnswersAtMost(32), Check::OriginPermilleAtMost(0)],
        });
    }
    rows.retain(|row| row.size() <= up_to);
    rows
}

fn sized(scenario: Scenario, nodes: usize, sites: u16, payload_mib: u64, seed: u64) -> Setup {
    let many = nodes * usize::from(sites) >= MANY;
    Setup {
        sites,
        seed,
        payload_mib,
        small: if many { 0 } else { 200 },
        chunk_kib: if many { 1_024 } else { 64 },
        ..Setup::new(scenario, nodes)
    }
}

impl Row {
    fn size(&self) -> usize {
        self.setup.nodes * usize::from(self.setup.sites)
    }

    fn run(&self) -> Outcome {
        let start = std::time::Instant::now();
        let world = self.setup.run(false);
        let broken = ALWAYS.iter().filter_map(|check| world.check(*check).err());
        let missed = self.goals.iter().filter_map(|check| world.check(*check).err());
        Outcome {
            figures: world.figures(),
            broken: broken.collect(),
            missed: missed.collect(),
            took: start.elapsed().as_secs_f64(),
        }
    }

    fn line(&self, outcome: &Outcome) -> String {
        let figures = &outcome.figures;
        let verdict = match (outcome.broken.is_empty(), outcome.missed.is_empty()) {
            (false, _) => "BROKEN",
            (true, false) => "missed",
            (true, true) => "",
        };
        format!(
            "{:<30} {:>7.4} {:>7.4} {:>7.3} {:>7.3} {:>7.3} {:>7.0} {:>7.0} {:>9.0} {:>7.4} {:>7} {:>6.0} {verdict}",
            self.name,
            figures.copies,
            figures.wire_copies,
            figures.median,
            figures.most,
            figures.last,
            figures.datagrams.0,
            figures.datagrams.1,
            figures.control,
            figures.duplicates,
            figures.answers_max,
            outcome.took,
        )
    }
}

/// What stands above the lines.
pub fn head() -> String {
    format!(
        "{:<30} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>9} {:>7} {:>7} {:>6}\n{:<30} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>9} {:>7} {:>7} {:>6}",
        "nodes",
        "origin",
        "on the",
        "median",
        "99.9 %",
        "last",
        "sent",
        "heard",
        "control",
        "dupli-",
        "most",
        "took",
        "",
        "/ load",
        "wire",
        "/ ideal",
        "/ ideal",
        "/ ideal",
        "a node",
        "a node",
        "B a node",
        "cates",
        "answers",
        "s",
    )
}

/// Runs all lines, as many at a time as there are `jobs`, and the large ones one at a time; hands each line to `print` when
/// it is there. Returns the rules that did not hold, with the commands that replay them.
pub fn run(rows: &[Row], jobs: usize, print: impl Fn(&str) + Sync) -> String {
    let mut order: Vec<&Row> = rows.iter().collect();
    order.sort_by_key(|row| row.size());
    let next = AtomicUsize::new(0);
    let (heavy, broken) = (Mutex::new(()), Mutex::new(String::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, 64) {
            scope.spawn(|| {
                while let Some(row) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let alone = (row.size() >= HEAVY).then(|| heavy.lock().expect("no run panics with it"));
                    let outcome = row.run();
                    drop(alone);
                    print(&row.line(&outcome));
                    let mut broken = broken.lock().expect("no run panics with it");
                    for rule in &outcome.broken {
                        let command = row.setup.command();
                        writeln!(broken, "{}: {rule}\nreplay: {command}", row.name).expect("a string takes every line");
                    }
                }
            });
        }
    });
    broken.into_inner().expect("no run panics with it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_size_with_and_without_multicast() {
        let all = rows(10_000, 64, 1);
        assert_eq!(all.iter().filter(|row| row.setup.no_multicast).count(), 6);
        assert!(rows(100, 64, 1).iter().all(|row| row.size() <= 100));
    }

    #[test]
    fn a_line_says_which_goal_it_misses() {
        let mut row = rows(1, 32, 1).remove(0);
        assert_eq!(row.run().missed, Vec::<String>::new());
        row.goals = vec![Check::TimePermilleAtMost(10)];
        let outcome = row.run();
        assert_eq!(outcome.missed.len(), 1);
        assert!(row.line(&outcome).ends_with("missed"));
        assert!(outcome.broken.is_empty());
    }
}
