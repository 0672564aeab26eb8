//! State that version 0.1 wrote, kept for ever: it is read, and goes on being used.

use std::fs;
use std::path::{Path, PathBuf};

use hyper::StatusCode;
use potluck_model::Digest;
use potluck_model::api::{NodeEvents, NodeState, Status, Target};

use super::world::World;
use crate::backup::restore;

const NODE: &str = "89524c32aa5817f6";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Checks that all is there, and that the server goes on with it.
async fn check(world: &World) {
    let status: Status = world.operator.get("/v1/status").await.json();
    assert!(!status.halted);
    let targets: Vec<_> = status
        .assignments
        .iter()
        .map(|one| (&one.target, one.release))
        .collect();
    assert_eq!(
        targets,
        [(&Target::Where("role=web".into()), Some(1)), (&Target::All, None)]
    );
    let [node] = status.nodes.as_slice() else {
        panic!("{:?}", status.nodes)
    };
    assert_eq!(node.node.to_string(), NODE);
    assert_eq!(node.progress.state, NodeState::Converged);
    assert_eq!(node.assigned.as_ref().unwrap().release, 1);
    let events: NodeEvents = world.operator.get(&format!("/v1/nodes/{NODE}/events")).await.json();
    assert!(events.events.len() > 10);
    let large = "304cdcf3c7ba172b8319ad689030423b6285bba4b9ce3486a36637a4a4ccfb64";
    let content = world.operator.get(&format!("/v1/content/{large}")).await;
    assert_eq!(Digest::of(&content.expect(StatusCode::OK)).to_string(), large);
    let second = world.publish("web", 3, &[("new", b"new")]).await;
    assert_eq!(second.release, 3);
    let late = world.node(&[]).await;
    assert_eq!(world.info(late.id).await.assigned.unwrap().release, 3);
}

#[tokio::test]
async fn a_data_directory_of_version_1_is_read() {
    let world = World::with(|config| copy(&fixture("data-1"), &config.data)).await;
    check(&world).await;
}

#[tokio::test]
async fn a_backup_of_version_1_is_restored() {
    let world = World::with(|config| {
        let copied = restore(&fixture("backup-1.tar"), &config.data).unwrap();
        assert_eq!(copied.packs, 2);
    })
    .await;
    check(&world).await;
}
