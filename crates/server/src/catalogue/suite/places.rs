//! Where nodes are, and who their neighbours are.

use potluck_model::api::{Labels, Target};
use potluck_model::{Digest, NodeId, UnixSeconds, ring};

use super::{assign, join, publish};
use crate::catalogue::{Catalogue, PresenceRecord};
use crate::site::SiteKey;

pub(super) fn nodes_are_found(c: &dyn Catalogue) {
    for node in [0xab00_0000_0000_0001, 0xab00_0000_0000_0002, 0x0c00_0000_0000_0003] {
        join(c, node, Labels::new());
    }
    let find = |text: &str| {
        c.find_nodes(text)
            .unwrap()
            .iter()
            .map(|node| node.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(find("ab").len(), 2);
    assert_eq!(find("ab00000000000002"), [0xab00_0000_0000_0002]);
    assert_eq!(find("0"), [0x0c00_0000_0000_0003]);
    assert_eq!(
        find(&format!("host-{}", 0x0c00_0000_0000_0003_u64)),
        [0x0c00_0000_0000_0003]
    );
    assert!(find("").is_empty() && find("zz").is_empty() && find("ab000000000000000").is_empty());
    let ids: Vec<u64> = c.nodes().unwrap().iter().map(|node| node.node.0).collect();
    assert!(ids.is_sorted());
    assert!(!c.set_labels(NodeId(9), Labels::new()).unwrap());
}

pub(super) fn who_enrols_many_times_is_few_neighbours(c: &dyn Catalogue) {
    let here = |node: u64, address: String| {
        join(c, node, Labels::new());
        let record = PresenceRecord {
            addresses: vec![address.parse().unwrap()],
            facts: Labels::new(),
            version: "1".into(),
            sites: link("10.0.2.0/24"),
            now: UnixSeconds(5_000),
        };
        assert!(c.set_presence(NodeId(node), record).unwrap());
    };
    for node in 1..=40 {
        here(node, format!("10.0.2.99:{}", 7_000 + node));
    }
    for node in 41..=44 {
        here(node, format!("10.0.2.{node}:7443"));
    }
    let found = c.neighbours(NodeId(44), Vec::new(), UnixSeconds(4_500), 16).unwrap();
    let mut found: Vec<u64> = found.iter().map(|neighbour| neighbour.node.0).collect();
    found.sort_unstable();
    assert_eq!(found.len(), 4 + 3, "{found:?}");
    assert_eq!(found[4..], [41, 42, 43], "each other machine is heard of");
}

pub(super) fn neighbours_are_of_the_site(c: &dyn Catalogue) {
    let here = |node: u64, site: u8, now: u64| {
        join(c, node, Labels::new());
        let address = format!("10.0.{site}.{node}:7443");
        let record = PresenceRecord {
            addresses: vec![address.parse().unwrap()],
            facts: Labels::new(),
            version: "1".into(),
            sites: link(&format!("10.0.{site}.0/24")),
            now: UnixSeconds(now),
        };
        assert!(c.set_presence(NodeId(node), record).unwrap());
    };
    for node in 1..=20 {
        here(node, 1, 5_000);
    }
    for node in 21..=24 {
        here(node, 2, 5_000);
    }
    here(25, 2, 4_000);
    join(c, 26, Labels::new());
    let since = UnixSeconds(4_500);
    let of = |node: u64, limit| -> Vec<u64> {
        let found = c.neighbours(NodeId(node), Vec::new(), since, limit).unwrap();
        found.iter().map(|neighbour| neighbour.node.0).collect()
    };
    let first = of(1, 8);
    assert_eq!(first.len(), 8);
    assert!(first.iter().all(|node| (2..=20).contains(node)), "{first:?}");
    assert_eq!(first, of(1, 8), "the same question gets the same answer");
    let choices: std::collections::BTreeSet<Vec<u64>> = (1..=20).map(|node| of(node, 8)).collect();
    assert!(choices.len() > 5, "nodes get different neighbours");
    let mut second = of(21, 16);
    assert_eq!(second.pop(), Some(25), "who was not heard of lately comes last");
    second.sort_unstable();
    assert_eq!(second, [22, 23, 24], "the site alone, be it small");
    assert!(of(26, 40).is_empty(), "nobody knows where it is");
    let shared = link("10.0.1.0/24").into_iter().collect();
    let found = c.neighbours(NodeId(21), shared, since, 16).unwrap();
    assert_eq!(found.len(), 16);
    let own = |neighbour: &potluck_model::api::Neighbour| (22..=25).contains(&neighbour.node.0);
    assert!(
        found[..4].iter().all(own) && !found[4..].iter().any(own) && found[4..].iter().all(|one| one.shared),
        "the own site before those that share with it"
    );
    assert_eq!(
        c.node(NodeId(21)).unwrap().unwrap().site.as_deref(),
        Some("10.0.2.0/24")
    );
    assert_eq!(c.sites(NodeId(21)).unwrap(), link("10.0.2.0/24"));
    assert_eq!(c.population(NodeId(1)).unwrap(), 20);
    assert_eq!(c.population(NodeId(26)).unwrap(), 1);
    here_again(c, 1, "10.0.2.1:7443");
    assert_eq!(
        (c.population(NodeId(2)).unwrap(), c.population(NodeId(21)).unwrap()),
        (19, 6)
    );
    here_again(c, 1, "10.0.1.1:7443");
    assert_eq!(
        (c.population(NodeId(2)).unwrap(), c.population(NodeId(21)).unwrap()),
        (20, 5)
    );
    c.set_seen(vec![(NodeId(25), UnixSeconds(4_600)), (NodeId(24), UnixSeconds(1))])
        .unwrap();
    assert_eq!(c.node(NodeId(25)).unwrap().unwrap().seen, UnixSeconds(4_600));
    assert_eq!(
        c.node(NodeId(24)).unwrap().unwrap().seen,
        UnixSeconds(5_000),
        "never backwards"
    );
}

pub(super) fn those_nearest_have_the_list(c: &dyn Catalogue) {
    publish(c, "web", 1);
    assign(c, "web", Some(1), Target::All);
    let list = Digest::of(b"web 1");
    let place = ring::place(&list);
    let at = |distance: u64| place.0.wrapping_add(distance);
    let here = |node: u64, site: u8, now: u64| {
        join(c, node, Labels::new());
        let record = PresenceRecord {
            addresses: vec![format!("10.0.{site}.{}:7443", node % 251).parse().unwrap()],
            facts: Labels::new(),
            version: "1".into(),
            sites: link(&format!("10.0.{site}.0/24")),
            now: UnixSeconds(now),
        };
        assert!(c.set_presence(NodeId(node), record).unwrap());
    };
    // Beyond where ids change their sign, and round the ring.
    let distances = [3, 1 << 62, 1 << 63, u64::MAX - 5, 9];
    for distance in distances {
        here(at(distance), 1, 5_000);
    }
    here(at(1), 2, 5_000);
    here(at(2), 1, 4_000);
    let of = |node: u64, list: &Digest, limit: usize| -> Vec<u64> {
        let found = c.nearest(NodeId(node), *list, UnixSeconds(4_500), limit).unwrap();
        found.iter().map(|node| ring::distance(place, node.node)).collect()
    };
    assert_eq!(of(at(9), &list, 32), [3, 1 << 62, 1 << 63, u64::MAX - 5]);
    assert_eq!(of(at(3), &list, 2), [9, 1 << 62], "the nearest of them");
    assert!(of(at(1), &list, 32).is_empty(), "alone in its site");
    assert!(of(at(9), &Digest::of(b"other"), 32).is_empty());
}

fn link(text: &str) -> std::collections::BTreeSet<SiteKey> {
    std::collections::BTreeSet::from([SiteKey::Link(text.parse().unwrap())])
}

pub(super) fn another_site_map_makes_nodes_say_again_where_they_are(c: &dyn Catalogue) {
    assert!(c.use_site_map(u64::MAX).unwrap());
    join(c, 1, Labels::new());
    here_again(c, 1, "10.0.1.1:7443");
    assert!(!c.use_site_map(u64::MAX).unwrap());
    assert_eq!(c.population(NodeId(1)).unwrap(), 1);
    assert_eq!(c.sites(NodeId(1)).unwrap(), link("10.0.1.0/24"));
    assert!(c.use_site_map(7).unwrap());
    assert!(c.sites(NodeId(1)).unwrap().is_empty());
    here_again(c, 1, "10.0.1.1:7443");
    assert_eq!(c.sites(NodeId(1)).unwrap(), link("10.0.1.0/24"));
}

/// Moves a node to another address.
pub(super) fn here_again(c: &dyn Catalogue, node: u64, address: &str) {
    let address: std::net::SocketAddr = address.parse().unwrap();
    let record = PresenceRecord {
        addresses: vec![address],
        facts: Labels::new(),
        version: "1".into(),
        sites: link(&format!("{}/24", address.ip())),
        now: UnixSeconds(5_000),
    };
    assert!(c.set_presence(NodeId(node), record).unwrap());
}
