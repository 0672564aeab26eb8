use std::time::Duration;

use hyper::StatusCode;
use potluck_model::Digest;
use potluck_model::api::{Configuration, Labels, NodeState, Status};
use potluck_model::trace::{Recap, What};

use super::World;
use super::world::{noise, start};
use crate::{RunningServer, ServerConfig, ServerError};

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let mut world = World::new().await;
    let big = noise(1, 200_000);
    let release = world.publish("web", 1, &[("big", &big)]).await;
    world.assigned("web").await;
    let mut node = world.node(&[]).await;
    let executed = What::Executed {
        recap: Recap::default(),
    };
    node.report(1, Some(release.list), vec![executed])
        .await
        .expect(StatusCode::NO_CONTENT);
    let before = node.head(0, 0).await;
    let (ca, join) = (world.running().ca, world.token(1, Labels::new()).await);
    world.restart().await;
    assert_eq!(world.running().ca, ca);
    node.client = node.client.at(world.running().address);
    let after = node.head(0, 0).await;
    assert_eq!(after.cursor, before.cursor, "nothing changed, so nobody is woken");
    assert_eq!(after.assignment.signed.sequence, before.assignment.signed.sequence);
    assert_eq!(after.audiences, before.audiences);
    let path = format!("/v1/content/{}", Digest::of(&big));
    assert!(node.client.get(&path).await.expect(StatusCode::OK) == big);
    let known: Configuration = world.operator.get("/v1/configurations/web").await.json();
    assert_eq!(known.releases, [release]);
    assert_eq!(world.info(node.id).await.progress.state, NodeState::Converged);
    let (_, csr) = super::world::key_and_csr();
    world.join(&join, &csr).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn chunks_that_were_uploaded_when_the_database_was_lost_are_found_again() {
    let mut world = World::new().await;
    let chunks = vec![noise(1, 1_000)];
    world.operator.upload(&chunks).await.expect(StatusCode::NO_CONTENT);
    drop(world.server.take());
    for name in ["server.db", "server.db-wal", "server.db-shm"] {
        let _ = std::fs::remove_file(world.dir.path().join(name));
    }
    world.restart().await;
    assert_eq!(world.operator.missing(&[Digest::of(&chunks[0])]).await, [0]);
    let status: Status = world.operator.get("/v1/status").await.json();
    assert_eq!(status.stored_bytes, 1_000);
}

#[tokio::test]
async fn stopping_answers_those_who_wait() {
    let mut world = World::new().await;
    let node = world.node(&[]).await;
    let cursor = node.head(0, 0).await.cursor;
    let server = world.server.take().unwrap();
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.stop().await;
    };
    let waiting = tokio::time::timeout(Duration::from_secs(20), node.head(cursor, 50));
    let (head, ()) = tokio::join!(waiting, stopping);
    assert_eq!(head.unwrap().cursor, cursor);
}

#[tokio::test]
async fn a_port_in_use_and_data_in_use_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let first = start(dir.path()).await;
    let mut config = ServerConfig::new(dir.path());
    config.listen = "127.0.0.1:0".parse().unwrap();
    let fault = RunningServer::start(config).await.err().unwrap();
    assert!(matches!(fault, ServerError::InUse(_)), "{fault}");
    let other = tempfile::tempdir().unwrap();
    let mut config = ServerConfig::new(other.path());
    config.listen = first.address;
    let fault = RunningServer::start(config).await.err().unwrap();
    assert!(matches!(fault, ServerError::Listen { .. }), "{fault}");
    assert!(fault.to_string().contains("--listen"), "{fault}");
}

#[tokio::test]
async fn damaged_keys_are_named_and_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    drop(start(dir.path()).await);
    let path = dir.path().join("keys/ca.pem");
    std::fs::write(&path, "rubbish").unwrap();
    let mut config = ServerConfig::new(dir.path());
    config.listen = "127.0.0.1:0".parse().unwrap();
    let fault = RunningServer::start(config).await.err().unwrap();
    assert!(matches!(fault, ServerError::Damaged { .. }), "{fault}");
    assert_eq!(std::fs::read(&path).unwrap(), b"rubbish");
}
