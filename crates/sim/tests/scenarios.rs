//! Scenarios that every version must pass. A failure prints the one command that replays it.

use potluck_sim::{ALWAYS, Check, Scenario, Setup, World};

fn setup(scenario: Scenario, nodes: usize, payload_mib: u64) -> Setup {
    let seed = std::env::var("SEED")
        .ok()
        .map_or(1, |seed| seed.parse().expect("SEED is a number"));
    Setup {
        seed,
        payload_mib,
        small: 60,
        ..Setup::new(scenario, nodes)
    }
}

/// Runs a scenario, and checks what must always hold and what else is given.
fn run(setup: &Setup, checks: &[Check]) -> World {
    run_with(setup, checks, false)
}

fn run_with(setup: &Setup, checks: &[Check], keep_trace: bool) -> World {
    let world = setup.run(keep_trace);
    for check in ALWAYS.iter().chain(checks) {
        if let Err(broken) = world.check(*check) {
            panic!("{broken}\nreplay: {}", setup.command());
        }
    }
    world
}

#[test]
fn a_hundred_nodes_start_cold_and_all_get_every_file() {
    run(&setup(Scenario::Cold, 100, 24), &[Check::OriginPermilleAtMost(3_000)]);
}

#[test]
fn sixteen_nodes_that_start_cold_take_the_payload_over_the_uplink_about_once() {
    run(
        &setup(Scenario::Cold, 16, 64),
        &[Check::OriginPermilleAtMost(1_050), Check::TimePermilleAtMost(1_250)],
    );
}

#[test]
fn two_nodes_share_out_a_cold_start() {
    run(&setup(Scenario::Cold, 2, 32), &[Check::OriginPermilleAtMost(1_100)]);
}

#[test]
fn a_node_alone_is_as_fast_as_its_uplink() {
    run(
        &setup(Scenario::Cold, 1, 64),
        &[Check::OriginPermilleAtMost(1_010), Check::TimePermilleAtMost(1_100)],
    );
}

#[test]
fn those_who_join_a_warm_site_take_nothing_from_the_origin() {
    run(
        &setup(Scenario::Warm, 100, 16),
        &[Check::OriginPermilleAtMost(10), Check::TimePermilleAtMost(1_000)],
    );
}

#[test]
fn three_configurations_that_share_an_image_fetch_it_once() {
    run(&setup(Scenario::Sharing, 12, 32), &[Check::OriginPermilleAtMost(1_300)]);
}

#[test]
fn two_sites_take_the_payload_once_each_and_nothing_from_each_other() {
    let mut setup = setup(Scenario::Cold, 12, 32);
    setup.sites = 2;
    run(
        &setup,
        &[Check::OriginPermilleAtMost(1_100), Check::NothingBetweenSites],
    );
}

#[test]
fn a_cold_start_works_although_datagrams_and_segments_are_lost() {
    run(&setup(Scenario::Lossy, 16, 32), &[Check::OriginPermilleAtMost(1_300)]);
}

#[test]
fn a_cold_start_works_although_multicast_is_blocked() {
    let mut setup = setup(Scenario::Cold, 16, 32);
    setup.no_multicast = true;
    run(&setup, &[Check::OriginPermilleAtMost(1_600)]);
}

#[test]
fn a_cold_start_works_although_peers_lie_stall_and_die() {
    run(&setup(Scenario::Faulty, 30, 32), &[Check::OriginPermilleAtMost(2_000)]);
}

#[test]
fn with_the_origin_away_one_holder_is_enough() {
    run(&setup(Scenario::Away, 16, 32), &[Check::OriginPermilleAtMost(0)]);
}

#[test]
fn every_kind_of_fault_is_survived() {
    for scenario in [
        Scenario::Staggered,
        Scenario::Deaf,
        Scenario::Slow,
        Scenario::Firewalled,
        Scenario::Disks,
        Scenario::Churn,
        Scenario::Crashes,
        Scenario::Sleepers,
        Scenario::Partition,
        Scenario::OneWay,
        Scenario::Outage,
        Scenario::Greedy,
        Scenario::Sybils,
        Scenario::Flood,
    ] {
        run(&setup(scenario, 20, 12), &[]);
    }
}

#[test]
fn many_seeds_finish() {
    for seed in 0..6 {
        for scenario in [Scenario::Cold, Scenario::Lossy, Scenario::Faulty, Scenario::Mixed] {
            let mut setup = setup(scenario, 12, 6);
            setup.seed = 1_000 + seed;
            run(&setup, &[]);
        }
    }
}

#[test]
fn one_seed_gives_one_trace_byte_for_byte() {
    let trace = |seed| {
        let mut setup = setup(Scenario::Mixed, 12, 8);
        setup.seed = seed;
        let world = run_with(&setup, &[], true);
        (world.trace.lines().to_owned(), world.trace.fingerprint())
    };
    let (first, fingerprint) = trace(7);
    assert!(first.lines().count() > 1_000);
    assert_eq!(trace(7), (first, fingerprint.clone()));
    assert_ne!(trace(8).1, fingerprint);
}
