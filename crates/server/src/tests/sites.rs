//! Sites: who is whose neighbour, and what the server sends to a site.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use potluck_model::Digest;
use potluck_model::api::ErrorKind;
use potluck_model::rate::{Limit, Schedule};

use super::World;
use super::world::{Node, noise};
use crate::Site;

fn site(name: &str, networks: &[&str]) -> Site {
    Site {
        name: name.to_owned(),
        networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
        ..Site::default()
    }
}

async fn at(world: &World, address: &str) -> Node {
    let node = world.node(&[]).await;
    // Requests come from a loopback address, so one has to be among its own for there to be no NAT in between.
    let answer = node.presence(&["127.0.0.1:7000", address]).await;
    answer.expect(StatusCode::NO_CONTENT);
    node
}

#[tokio::test]
async fn neighbours_are_of_the_site_or_of_one_that_shares_with_it_never_of_others() {
    let world = World::with(|config| {
        config.sites = vec![
            site("hq", &["10.1.0.0/16"]),
            site("lab", &["10.2.0.0/16"]),
            site("ship", &["10.3.0.0/16"]),
        ];
        config.sites[0].share_with = vec!["lab".into()];
    })
    .await;
    let hq = [at(&world, "10.1.0.1:7443").await, at(&world, "10.1.9.2:7443").await];
    let lab = at(&world, "10.2.0.1:7443").await;
    let ship = at(&world, "10.3.0.1:7443").await;
    let head = hq[0].head(0, 0).await;
    let neighbours: Vec<_> = head.neighbours.iter().map(|neighbour| neighbour.node).collect();
    assert_eq!(neighbours, [hq[1].id, lab.id]);
    assert_eq!((head.population, head.site.as_deref()), (2, Some("hq")));
    let head = lab.head(0, 0).await;
    assert_eq!((head.neighbours.len(), head.population), (2, 1));
    let head = ship.head(0, 0).await;
    assert_eq!((head.neighbours.len(), head.population), (0, 1));
    assert_eq!(world.info(ship.id).await.site.as_deref(), Some("ship"));
}

#[tokio::test]
async fn a_node_that_the_map_does_not_name_is_told_so() {
    let world = World::with(|config| config.sites = vec![site("hq", &["10.1.0.0/16"])]).await;
    let node = world.node(&[]).await;
    node.presence(&["127.0.0.1:7000"]).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(node.head(0, 0).await.site, None);
    assert_eq!(world.info(node.id).await.site.as_deref(), Some("127.0.0.0/24"));
}

#[tokio::test]
async fn the_uplink_limit_of_a_site_holds_for_all_its_nodes_together_and_for_no_other_site() {
    let Limit(rate) = "2 MB/s".parse().unwrap();
    let world = World::with(|config| {
        config.sites = vec![site("hq", &["10.1.0.0/16"]), site("lab", &["10.2.0.0/16"])];
        config.sites[0].uplink_limit = Schedule::always(rate);
    })
    .await;
    let chunk = noise(1, 1 << 20);
    world
        .operator
        .upload(std::slice::from_ref(&chunk))
        .await
        .expect(StatusCode::NO_CONTENT);
    let digests = [Digest::of(&chunk)];
    let nodes = [at(&world, "10.1.0.1:1").await, at(&world, "10.1.0.2:1").await];
    let start = Instant::now();
    let (one, other) = tokio::join!(nodes[0].chunks(&digests), nodes[1].chunks(&digests));
    let took = start.elapsed();
    assert_eq!((one[0].as_ref(), other[0].as_ref()), (Some(&chunk), Some(&chunk)));
    // 2 MiB at 2 MB/s, but for the burst that the bucket allows.
    assert!(took >= Duration::from_millis(900), "{took:?}");
    let lab = at(&world, "10.2.0.1:1").await;
    assert_eq!(lab.chunks(&digests).await[0].as_ref(), Some(&chunk));
}

#[tokio::test]
async fn who_comes_while_the_server_sends_as_much_as_it_can_is_asked_to_come_back() {
    let Limit(rate) = "64 KiB/s".parse().unwrap();
    let world = World::with(|config| {
        config.downloads_max = 1;
        config.sites = vec![site("hq", &["10.1.0.0/16"])];
        config.sites[0].uplink_limit = Schedule::always(rate);
    })
    .await;
    let chunk = noise(1, 1 << 20);
    world
        .operator
        .upload(std::slice::from_ref(&chunk))
        .await
        .expect(StatusCode::NO_CONTENT);
    let digest = Digest::of(&chunk);
    let slow = at(&world, "10.1.0.1:1").await;
    let other = world.node(&[]).await;
    let body = digest.as_bytes().to_vec();
    let first = tokio::spawn({
        let (client, body) = (slow.client.clone(), body.clone());
        // Takes 16 s at its site's limit, and is given up before.
        // If the other one has the place, it comes again: else nobody would ever hold it.
        async move {
            loop {
                let answer = client.send(Method::POST, "/v1/node/chunks", &[], body.clone()).await;
                if answer.status == StatusCode::OK {
                    break answer;
                }
            }
        }
    });
    // The first one has its place sooner or later.
    let refused = loop {
        let answer = other
            .client
            .send(Method::POST, "/v1/node/chunks", &[], body.clone())
            .await;
        if answer.status != StatusCode::OK {
            break answer;
        }
    };
    assert_eq!(refused.header("retry-after"), "5");
    let message = refused.refused(503, ErrorKind::Busy);
    assert!(message.contains("come back"), "{message}");
    let answer = world.operator.get(&format!("/v1/content/{digest}")).await;
    assert_eq!(answer.expect(StatusCode::OK), chunk, "operators are few");
    // When the receiver is gone, its place is free again.
    first.abort();
    while other
        .client
        .send(Method::POST, "/v1/node/chunks", &[], body.clone())
        .await
        .status
        != StatusCode::OK
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
