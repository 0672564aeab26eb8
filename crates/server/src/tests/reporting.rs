use hyper::StatusCode;
use potluck_model::NodeId;
use potluck_model::api::{ErrorKind, NodeEvents, NodeInfo, NodeState};
use potluck_model::trace::{Cause, Outcome, Recap, What};

use super::World;

fn requested() -> What {
    What::ListRequested { cause: Cause::Start }
}

#[tokio::test]
async fn events_are_kept_once_and_told_page_by_page() {
    let world = World::new().await;
    let release = world.publish("web", 1, &[("a", b"1")]).await;
    let node = world.node(&[]).await;
    world.assigned("web").await;
    node.report(1, None, vec![requested(), requested()])
        .await
        .expect(StatusCode::NO_CONTENT);
    let mut recap = Recap::default();
    recap.count(Outcome::Changed);
    let executed = What::Executed { recap };
    for _ in 0..2 {
        let report = vec![executed.clone()];
        node.report(3, Some(release.list), report)
            .await
            .expect(StatusCode::NO_CONTENT);
    }
    let path = format!("/v1/nodes/{}/events?limit=2", node.id);
    let first: NodeEvents = world.operator.get(&path).await.json();
    assert_eq!(first.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
    let path = format!("{path}&after={}", first.next.unwrap());
    let rest: NodeEvents = world.operator.get(&path).await.json();
    assert_eq!((rest.events.len(), rest.next), (1, None));
    let path = format!("/v1/nodes/{}/events?list={}", node.id, release.list);
    let of_list: NodeEvents = world.operator.get(&path).await.json();
    assert_eq!(of_list.events.len(), 1);
    let info = world.info(node.id).await;
    assert_eq!(info.progress.state, NodeState::Converged);
    assert_eq!(info.progress.recap, Some(recap));
    assert!(info.progress.millis.is_some());
}

#[tokio::test]
async fn nodes_are_named_by_the_beginning_of_their_id_or_by_host_name() {
    let world = World::new().await;
    let (one, two) = (world.node(&[]).await, world.node(&[]).await);
    one.presence(&[]).await.expect(StatusCode::NO_CONTENT);
    let id = |text: String| {
        let operator = &world.operator;
        async move { operator.get(&format!("/v1/nodes/{text}")).await }
    };
    let found: NodeInfo = id(format!("host-{}", one.id)).await.json();
    assert_eq!(found.node, one.id);
    // Both were called `box` when they joined; only one has another name since.
    let found: NodeInfo = id("box".into()).await.json();
    assert_eq!(found.node, two.id);
    let found: NodeInfo = id(one.id.to_string()[..15].to_owned()).await.json();
    assert_eq!(found.node, one.id);
    let message = id("nobody".into()).await.refused(404, ErrorKind::NotFound);
    assert!(message.contains("nobody"), "{message}");
    two.presence(&[]).await.expect(StatusCode::NO_CONTENT);
    let all: Vec<NodeInfo> = world.operator.get("/v1/nodes").await.json();
    let mut ids = [one.id, two.id];
    ids.sort();
    assert_eq!(all.iter().map(|node| node.node).collect::<Vec<NodeId>>(), ids);
    assert!(all.iter().all(|node| node.online));
}

#[tokio::test]
async fn a_node_is_told_of_its_neighbours() {
    let world = World::new().await;
    let (one, two) = (world.node(&[]).await, world.node(&[]).await);
    assert_eq!(one.head(0, 0).await.population, 1);
    one.presence(&["127.0.0.1:7001"]).await.expect(StatusCode::NO_CONTENT);
    two.presence(&["127.0.0.1:7002"]).await.expect(StatusCode::NO_CONTENT);
    let head = one.head(0, 0).await;
    assert_eq!(head.population, 2);
    assert_eq!(head.neighbours.len(), 1);
    assert_eq!(head.neighbours[0].node, two.id);
    assert_eq!(head.neighbours[0].addresses, ["127.0.0.1:7002".parse().unwrap()]);
    assert_eq!(head.audiences, two.head(0, 0).await.audiences, "the fleet has one key");
    assert_eq!(head.fleet_keys[0].key.len(), 64);
}

#[tokio::test]
async fn reports_beyond_the_limits_are_refused() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    let many = vec![requested(); potluck_model::api::EVENTS_PER_REPORT_MAX + 1];
    node.report(1, None, many).await.refused(400, ErrorKind::BadRequest);
    let addresses = vec!["10.0.0.1:1"; 17];
    node.presence(&addresses).await.refused(400, ErrorKind::BadRequest);
}
