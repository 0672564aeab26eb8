//! Every checker fails on a world that breaks its rule, and every kind of fault does what it says.

use std::time::Duration;

use potluck_model::Time;

use crate::check::{ALWAYS, Check, Echo};
use crate::fault::Fault;
use crate::network::{Links, ORIGIN, Traits};
use crate::node::{Behaviour, NodeIx};
use crate::release::Release;
use crate::scenario::{Scenario, Setup};
use crate::world::World;

const FIRST: NodeIx = NodeIx(0);
const SECOND: NodeIx = NodeIx(1);

fn small(scenario: Scenario, nodes: usize) -> Setup {
    Setup {
        payload_mib: 4,
        small: 10,
        ..Setup::new(scenario, nodes)
    }
}

/// A world of one site whose nodes are all like this, not run yet.
fn alike(nodes: usize, links: Links, behaviour: Behaviour, traits: &Traits) -> World {
    let release = Release::mixed(3, 4 << 20, 10, 64 << 10);
    let mut world = World::new(3, links, release, false);
    for n in 0..nodes as u64 {
        world.add_node(Time::from_millis(n * 10), behaviour, traits.clone());
    }
    world
}

fn plain(nodes: usize) -> World {
    alike(nodes, Links::branch_office(), Behaviour::Honest, &Traits::plain())
}

fn finish(world: &mut World) {
    world.run_until(Time::from_millis(300_000));
    for check in ALWAYS {
        world.check(check).unwrap();
    }
}

fn fails(world: &World, check: Check) -> String {
    world.check(check).expect_err("the rule is broken")
}

#[test]
fn a_file_that_lacks_a_chunk_is_found() {
    let mut world = small(Scenario::Cold, 3).run(false);
    world.check(Check::EveryFile).unwrap();
    world.nodes[0].store.clear();
    assert!(fails(&world, Check::EveryFile).contains("lacks"));
}

#[test]
fn a_node_that_holds_everything_and_does_not_say_so_is_found() {
    let mut world = small(Scenario::Cold, 3).run(false);
    world.nodes[1].complete = None;
    assert!(fails(&world, Check::EveryFile).contains("does not say so"));
}

#[test]
fn a_chunk_that_nobody_delivered_is_found() {
    let mut world = small(Scenario::Cold, 3).run(false);
    world.check(Check::NothingUnverified).unwrap();
    world.nodes[2].delivered.clear();
    assert!(fails(&world, Check::NothingUnverified).contains("nobody delivered"));
}

#[test]
fn bytes_from_nowhere_and_bytes_that_vanish_are_found() {
    let run = || small(Scenario::Cold, 3).run(false);
    let mut world = run();
    world.check(Check::BytesAdd).unwrap();
    world.nodes[0].tally.peer_bytes += 1;
    fails(&world, Check::BytesAdd);
    let mut world = run();
    world.ledger.sent += 1;
    fails(&world, Check::BytesAdd);
    let mut world = run();
    world.sites[0].origin_payload -= 1;
    fails(&world, Check::BytesAdd);
    let mut world = run();
    world.nodes[1].store.clear();
    assert!(fails(&world, Check::BytesAdd).contains("holds 0"));
}

#[test]
fn whoever_goes_beyond_a_limit_is_found() {
    let broken = |change: fn(&mut World)| {
        let mut world = small(Scenario::Cold, 16).build(false);
        change(&mut world);
        world.run_until(Time::from_millis(60_000));
        fails(&world, Check::Limits)
    };
    assert!(broken(|world| world.nodes.iter_mut().for_each(|node| node.limits.connections = 0)).contains("dials"));
    assert!(broken(|world| world.nodes.iter_mut().for_each(|node| node.limits.serving = 0)).contains("answers"));
    assert!(
        broken(|world| world.nodes.iter_mut().for_each(|node| node.limits.in_flight_bytes = 0)).contains("asked for")
    );
}

#[test]
fn an_address_that_gets_more_answers_than_it_asked_for_is_found() {
    let mut echo = Echo::default();
    echo.heard(FIRST, SECOND, 100);
    echo.answered(FIRST, SECOND, 100);
    let mut world = plain(2);
    world.watch.echo = Some(echo);
    world.check(Check::Limits).unwrap();
    let echo = world.watch.echo.as_mut().unwrap();
    echo.answered(FIRST, SECOND, 1);
    assert!(fails(&world, Check::Limits).contains("101 bytes"));
    let mut echo = Echo::default();
    echo.prove(FIRST, SECOND);
    echo.answered(SECOND, FIRST, 9_999);
    world.watch.echo = Some(echo);
    world.check(Check::Limits).unwrap();
}

#[test]
fn whoever_says_too_early_that_it_is_complete_is_found() {
    let mut world = plain(1);
    let lacking = world.lacking(&world.nodes[0]);
    assert!(lacking.is_some());
    world.watch.complete(world.now, &world.nodes[0], lacking);
    assert!(fails(&world, Check::Limits).contains("says that it has everything"));
}

#[test]
fn figures_beyond_their_limits_are_found() {
    let mut world = small(Scenario::Cold, 4).run(false);
    fails(&world, Check::OriginPermilleAtMost(900));
    fails(&world, Check::TimePermilleAtMost(900));
    fails(&world, Check::AnswersAtMost(0));
    world.check(Check::DuplicatesPermilleAtMost(0)).unwrap();
    world.nodes[0].tally.wasted_bytes += 1 << 20;
    fails(&world, Check::DuplicatesPermilleAtMost(10));
    world.check(Check::NothingBetweenSites).unwrap();
    world.sites[0].foreign_payload = 1;
    fails(&world, Check::NothingBetweenSites);
}

#[test]
fn a_node_that_is_killed_stays_off_and_the_others_finish() {
    let mut world = plain(4);
    world.fault(Time::from_millis(200), Fault::Kill(SECOND));
    finish(&mut world);
    assert_eq!(world.completed(SECOND), None);
    assert_eq!(world.figures().complete, 3);
}

#[test]
fn a_node_that_crashes_goes_on_with_what_it_had_stored() {
    let mut world = plain(1);
    world.fault(Time::from_millis(300), Fault::Crash(FIRST, Duration::from_secs(2)));
    finish(&mut world);
    assert_eq!(world.nodes[0].boot, 2);
    assert!(world.completed(FIRST).unwrap() > Time::from_millis(2_300));
    assert_eq!(world.tally(FIRST).wasted_bytes, 0, "nothing was fetched twice");
}

#[test]
fn a_node_that_sleeps_hears_nothing_until_it_wakes() {
    let mut world = plain(3);
    world.fault(Time::from_millis(100), Fault::Sleep(SECOND, Duration::from_secs(9)));
    finish(&mut world);
    assert!(world.completed(SECOND).unwrap() >= Time::from_millis(9_100));
    assert!(world.completed(FIRST).unwrap() < Time::from_millis(9_100));
}

#[test]
fn nothing_comes_from_the_origin_while_it_is_away_or_cut_off() {
    let away = |world: &mut World| {
        world.fault(Time::ZERO, Fault::OriginDown);
        world.fault(Time::from_millis(20_000), Fault::OriginUp);
    };
    let cut = |world: &mut World| world.cut_one_way(Time::ZERO, Duration::from_secs(20), ORIGIN, 1);
    for fault in [away as fn(&mut World), cut] {
        let mut world = plain(3);
        fault(&mut world);
        finish(&mut world);
        assert!(
            world
                .nodes
                .iter()
                .all(|node| node.complete > Some(Time::from_millis(20_000)))
        );
    }
}

#[test]
fn two_places_that_are_cut_off_from_each_other_fetch_for_themselves() {
    let mut world = plain(2);
    world.nodes[1].traits.place = 2;
    world.cut_both_ways(Time::ZERO, Duration::from_secs(100), 1, 2);
    finish(&mut world);
    assert_eq!(world.tally(FIRST).peer_bytes + world.tally(SECOND).peer_bytes, 0);
}

#[test]
fn datagrams_are_lost_or_come_twice_as_often_as_is_said() {
    let heard = |change: fn(&mut Links)| {
        let mut links = Links::branch_office();
        change(&mut links);
        let mut world = alike(4, links, Behaviour::Honest, &Traits::plain());
        finish(&mut world);
        world.figures().datagrams.1
    };
    let usual = heard(|_| ());
    assert!(heard(|links| links.duplicated = 1_000) > usual * 1.7);
    assert!(heard(|links| links.loss = 1_000) < 0.5);
}

#[test]
fn what_is_lost_of_a_connection_is_sent_again_and_takes_the_link() {
    let mut links = Links::branch_office();
    links.loss = 200;
    let mut world = alike(1, links, Behaviour::Honest, &Traits::plain());
    finish(&mut world);
    let figures = world.figures();
    assert!((1.15..1.40).contains(&figures.wire_copies), "{figures:?}");
    assert!(figures.last > 1.15);
}

#[test]
fn nobody_dials_through_a_firewall_and_who_is_behind_it_dials_out() {
    let mut walled = Traits::plain();
    walled.firewalled = true;
    let mut world = alike(3, Links::branch_office(), Behaviour::Honest, &walled);
    finish(&mut world);
    let copies = world.figures().copies;
    assert!((2.5..3.5).contains(&copies), "each fetches for itself: {copies}");
    let mut world = plain(1);
    world.add_node(Time::ZERO, Behaviour::Honest, walled);
    finish(&mut world);
    assert!(world.tally(SECOND).dials > 0);
    assert!(world.tally(FIRST).peer_bytes + world.tally(SECOND).peer_bytes > 0);
}

#[test]
fn a_slow_disk_holds_back_its_node() {
    let mut slow = Traits::plain();
    slow.disk_rate = Some(1 << 20);
    let mut world = plain(2);
    world.add_node(Time::ZERO, Behaviour::Honest, slow);
    finish(&mut world);
    assert!(world.completed(NodeIx(2)).unwrap() > Time::from_millis(3_900));
}

#[test]
fn lying_nodes_have_nothing_and_stalling_ones_send_nothing() {
    for (behaviour, bad) in [
        (Behaviour::Empty, false),
        (Behaviour::Corrupt, true),
        (Behaviour::Stalling, false),
        (Behaviour::Sitting, false),
    ] {
        let mut world = plain(4);
        let full = behaviour != Behaviour::Sitting;
        let traits = Traits {
            full,
            ..Traits::plain()
        };
        let liar = world.add_node(Time::ZERO, behaviour, traits);
        finish(&mut world);
        assert_eq!(world.figures().complete, 4);
        let sent_bad = world.nodes.iter().any(|node| node.tally.bad_bytes > 0);
        assert_eq!(sent_bad, bad, "{behaviour:?}");
        if !bad {
            assert_eq!(world.tally(liar).served_bytes, 0, "{behaviour:?}");
        }
    }
}

#[test]
fn a_greedy_node_gets_more_than_it_can_use_and_the_others_finish() {
    let mut world = plain(6);
    let greedy = world.add_node(Time::ZERO, Behaviour::Greedy, Traits::plain());
    finish(&mut world);
    assert!(world.tally(greedy).ignored_bytes > 0, "it asks again and again");
}

#[test]
fn a_flood_is_heard_and_the_others_finish() {
    let mut world = plain(6);
    world.add_node(Time::ZERO, Behaviour::Flooding, Traits::plain());
    finish(&mut world);
    let flooded = world.figures().datagrams_max;
    assert!(flooded > 30, "{flooded} datagrams");
    assert!(!world.overheard.is_empty(), "replays are of what was heard");
}

#[test]
fn a_chart_has_axes_a_legend_and_both_lines() {
    let setup = small(Scenario::Cold, 4);
    let svg = setup.run(false).chart(&setup.title());
    for what in [
        "Mbit/s",
        "nodes complete",
        "payload / uplink rate",
        "class=\"rate\"",
        "prefers-color-scheme:dark",
    ] {
        assert!(svg.contains(what), "{what}");
    }
    assert!(svg.ends_with("</svg>\n"));
}
