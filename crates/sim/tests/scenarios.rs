//! Scenarios that every version must pass. A failure prints the one command that replays it.

use potluck_model::Time;
use potluck_sim::scenario::{Scenario, Setup};
use potluck_sim::{Check, World, mib};

fn setup(scenario: Scenario, nodes: usize, payload: u64) -> Setup {
    let seed = std::env::var("SEED")
        .ok()
        .map_or(1, |seed| seed.parse().expect("SEED is a number"));
    Setup {
        scenario,
        nodes,
        seed,
        payload,
        small: 60,
        keep_trace: false,
    }
}

/// Runs a scenario, and checks what must always hold and what else is given.
fn run(setup: &Setup, checks: &[Check]) -> World {
    let mut world = setup.build();
    world.run_until(Time::from_millis(600_000));
    for check in [Check::EveryFile, Check::BytesAdd].iter().chain(checks) {
        if let Err(broken) = world.check(*check) {
            panic!("{broken}\nreplay: {}", setup.command());
        }
    }
    world
}

#[test]
fn a_hundred_nodes_start_cold_and_all_get_every_file() {
    run(&setup(Scenario::Cold, 100, mib(24)), &[Check::OriginPercentAtMost(300)]);
}

#[test]
fn sixteen_nodes_that_start_cold_take_the_payload_over_the_uplink_about_once() {
    run(
        &setup(Scenario::Cold, 16, mib(64)),
        &[Check::OriginPercentAtMost(110), Check::TimePercentAtMost(120)],
    );
}

#[test]
fn two_nodes_share_out_a_cold_start() {
    run(&setup(Scenario::Cold, 2, mib(32)), &[Check::OriginPercentAtMost(110)]);
}

#[test]
fn a_node_alone_is_as_fast_as_its_uplink() {
    run(
        &setup(Scenario::Cold, 1, mib(64)),
        &[Check::OriginPercentAtMost(101), Check::TimePercentAtMost(105)],
    );
}

#[test]
fn those_who_join_a_warm_site_take_nothing_from_the_origin() {
    run(
        &setup(Scenario::Warm, 100, mib(16)),
        &[Check::OriginPercentAtMost(1), Check::TimePercentAtMost(100)],
    );
}

#[test]
fn a_cold_start_works_although_one_datagram_in_three_is_lost() {
    run(&setup(Scenario::Lossy, 16, mib(32)), &[Check::OriginPercentAtMost(130)]);
}

#[test]
fn a_cold_start_works_although_multicast_is_blocked() {
    run(
        &setup(Scenario::Unicast, 16, mib(32)),
        &[Check::OriginPercentAtMost(160)],
    );
}

#[test]
fn a_cold_start_works_although_peers_lie_stall_and_die() {
    run(
        &setup(Scenario::Faulty, 30, mib(32)),
        &[Check::OriginPercentAtMost(200)],
    );
}

#[test]
fn with_the_origin_away_one_holder_is_enough() {
    run(&setup(Scenario::Away, 16, mib(32)), &[Check::OriginPercentAtMost(0)]);
}

#[test]
fn many_seeds_finish() {
    for seed in 0..12 {
        for scenario in [Scenario::Cold, Scenario::Lossy, Scenario::Faulty, Scenario::Unicast] {
            let mut setup = setup(scenario, 12, mib(6));
            setup.seed = 1_000 + seed;
            run(&setup, &[]);
        }
    }
}

#[test]
fn one_seed_gives_one_trace_byte_for_byte() {
    let trace = |seed| {
        let mut setup = setup(Scenario::Faulty, 12, mib(8));
        setup.seed = seed;
        setup.keep_trace = true;
        let world = run(&setup, &[]);
        (world.trace.lines().to_owned(), world.trace.digest())
    };
    let (first, digest) = trace(7);
    assert!(first.lines().count() > 1_000);
    assert_eq!(trace(7), (first, digest.clone()));
    assert_ne!(trace(8).1, digest);
}
