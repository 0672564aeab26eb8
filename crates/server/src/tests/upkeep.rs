//! Removing what nobody needs, also while others publish.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::StatusCode;
use potluck_model::Digest;
use potluck_model::api::{ErrorKind, GcReport, GcRequest, Target};

use super::world::{Made, World, noise};

pub(super) async fn gc(world: &World, keep: u64, grace_seconds: u64) -> GcReport {
    let request = GcRequest { keep, grace_seconds };
    world.operator.post("/v1/gc", &request).await.json()
}

fn removed(report: &GcReport) -> Vec<String> {
    let name = |release: &potluck_model::api::ReleaseName| format!("{} {}", release.configuration, release.release);
    report.releases.iter().map(name).collect()
}

#[tokio::test]
async fn only_releases_stay_that_are_new_or_assigned() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    for number in 1..=5 {
        world
            .publish("web", number, &[("n", format!("web {number}").as_bytes())])
            .await;
    }
    world.publish("db", 1, &[("n", b"db 1")]).await;
    // Pinned, for nobody yet; and what a node is assigned.
    world
        .assign("web", Some("1"), Target::Where("role=none".into()))
        .await
        .expect(StatusCode::OK);
    world
        .assign("web", Some("2"), Target::Node(node.id))
        .await
        .expect(StatusCode::OK);
    let report = gc(&world, 2, 0).await;
    assert_eq!(removed(&report), ["web 3"]);
    assert_eq!(removed(&gc(&world, 1, 0).await), ["web 4"]);
    assert_eq!(removed(&gc(&world, 1, 0).await), Vec::<String>::new());
    let request = GcRequest {
        keep: 0,
        grace_seconds: 0,
    };
    let message = world
        .operator
        .post("/v1/gc", &request)
        .await
        .refused(400, ErrorKind::BadRequest);
    assert!(message.contains("--keep must be 1 or more"), "{message}");
    let message = world
        .assign("web", Some("3"), Target::All)
        .await
        .refused(404, ErrorKind::NotFound);
    assert!(message.contains("has no release"), "{message}");
    let next = world.publish("web", 6, &[("n", b"web 6")]).await;
    assert_eq!(next.release, 6, "numbers go on");
}

#[tokio::test]
async fn chunks_go_with_the_last_release_that_names_them() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    let (shared, old, new) = (noise(1, 300_000), noise(2, 300_000), noise(3, 300_000));
    world
        .publish("web", 1, &[("a", &shared), ("b", &old), ("empty", b"")])
        .await;
    world
        .publish("web", 2, &[("a", &shared), ("b", &new), ("empty", b"")])
        .await;
    let fetch = async |content: &[u8]| {
        world
            .operator
            .get(&format!("/v1/content/{}", Digest::of(content)))
            .await
    };
    let young = gc(&world, 1, 3_600).await;
    assert_eq!(removed(&young), ["web 1"]);
    assert_eq!(young.chunks, 0, "chunks that were uploaded lately stay: {young:?}");
    assert!(young.bytes_left > 300_000, "{young:?}");
    assert_eq!(
        (young.files, fetch(&old).await.status),
        (1, StatusCode::NOT_FOUND),
        "its chunks are there, its cut is not"
    );

    make_packs_old(&world);
    let report = gc(&world, 1, 3_600).await;
    assert!(report.chunks >= 8 && report.bytes >= 300_000, "{report:?}");
    assert_eq!((report.packs, report.packs_rewritten), (1, 1), "{report:?}");
    assert_eq!(fetch(&old).await.status, StatusCode::NOT_FOUND);
    for content in [&shared[..], &new, b""] {
        assert_eq!(fetch(content).await.expect(StatusCode::OK), content);
    }
    let chunks: Vec<Digest> = shared
        .chunks(40_000)
        .chain(new.chunks(40_000))
        .map(Digest::of)
        .collect();
    assert!(node.chunks(&chunks).await.iter().all(Option::is_some));
    assert_eq!(world.operator.missing(&[Digest::of(&old[..40_000])]).await, [1]);
    let again = gc(&world, 1, 0).await;
    assert_eq!((again.packs, again.chunks), (0, 0), "{again:?}");
}

#[tokio::test]
async fn what_was_removed_can_be_published_again_cut_in_another_way() {
    let world = World::new().await;
    let big = noise(7, 200_000);
    world.publish("web", 1, &[("big", &big)]).await;
    world.publish("web", 2, &[("small", b"x")]).await;
    make_packs_old(&world);
    gc(&world, 1, 0).await;
    let other = Made::cut("web", 3, &[("big", &big)], 50_000);
    world
        .operator
        .upload(&other.chunks)
        .await
        .expect(StatusCode::NO_CONTENT);
    world.release("web", &other.list).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_chunk_that_a_publisher_was_told_is_there_stays_for_a_while() {
    let world = World::new().await;
    world.publish("web", 1, &[("a", b"old")]).await;
    world.publish("web", 2, &[("a", b"new")]).await;
    make_packs_old(&world);
    assert_eq!(world.operator.missing(&[Digest::of(b"old")]).await, [0]);
    let report = gc(&world, 1, 3_600).await;
    assert_eq!(
        (removed(&report), report.chunks),
        (vec!["web 1".to_owned()], 0),
        "{report:?}"
    );
    make_packs_old(&world);
    // The same for somebody who uploads it without asking.
    world
        .operator
        .upload(&[b"old".to_vec()])
        .await
        .expect(StatusCode::NO_CONTENT);
    assert_eq!(gc(&world, 1, 3_600).await.chunks, 0);
    make_packs_old(&world);
    assert_eq!(gc(&world, 1, 3_600).await.chunks, 2, "a file and a list");
    assert_eq!(world.operator.missing(&[Digest::of(b"old")]).await, [1]);
}

/// As if a day had gone by.
pub(super) fn make_packs_old(world: &World) {
    let database = rusqlite::Connection::open(world.dir.path().join("server.db")).unwrap();
    database.execute("UPDATE packs SET used = used - 86400", []).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_never_lacks_a_chunk_however_often_something_is_removed_while_it_is_published() {
    let world = Arc::new(World::new().await);
    let node = world.node(&[]).await;
    let done = Arc::new(AtomicBool::new(false));
    let collector = tokio::spawn({
        let (world, done) = (world.clone(), done.clone());
        async move {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                // Without any grace: even what is being uploaded goes.
                let request = GcRequest {
                    keep: 1,
                    grace_seconds: 0,
                };
                let answer = world.operator.post("/v1/gc", &request).await;
                assert!(
                    [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status),
                    "{}",
                    answer.status
                );
                rounds += 1;
                make_packs_old(&world);
            }
            rounds
        }
    });
    let files: Vec<Vec<u8>> = (0..4).map(|seed| noise(seed, 100_000)).collect();
    for number in 1..=20_u64 {
        // Contents come, go and come again.
        let files: Vec<(String, &[u8])> = (0..3)
            .map(|index| {
                let file = &files[(number as usize + index) % files.len()];
                (format!("f{index}"), &file[..])
            })
            .collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), *bytes)).collect();
        let made = Made::new("web", number, &files);
        loop {
            // As `potluck publish` does: only what is missing.
            let digests: Vec<Digest> = made.chunks.iter().map(|chunk| Digest::of(chunk)).collect();
            let missing = world.operator.missing(&digests).await;
            let upload: Vec<Vec<u8>> = made
                .chunks
                .iter()
                .zip(&missing)
                .filter(|(_, missing)| **missing == 1)
                .map(|(chunk, _)| chunk.clone())
                .collect();
            world.operator.upload(&upload).await.expect(StatusCode::NO_CONTENT);
            let answer = world.release("web", &made.list).await;
            if answer.status == StatusCode::OK {
                break;
            }
            assert!(
                [StatusCode::UNPROCESSABLE_ENTITY, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status),
                "{}",
                answer.status
            );
        }
        let digests: Vec<Digest> = made.chunks.iter().map(|chunk| Digest::of(chunk)).collect();
        for (chunk, expected) in node.chunks(&digests).await.into_iter().zip(&made.chunks) {
            assert_eq!(chunk.as_ref(), Some(expected), "release {number} lacks a chunk");
        }
    }
    done.store(true, Ordering::Relaxed);
    assert!(collector.await.unwrap() > 3);
}

#[tokio::test]
async fn nothing_is_removed_while_a_backup_is_made_or_a_list_cannot_be_read() {
    let world = World::new().await;
    world.publish("web", 1, &[("a", b"one")]).await;
    world.publish("web", 2, &[("a", b"two")]).await;
    let lock = crate::data::Upkeep::begin(&world.dir.path().join("upkeep.lock"))
        .unwrap()
        .unwrap();
    let request = GcRequest {
        keep: 1,
        grace_seconds: 0,
    };
    let message = world
        .operator
        .post("/v1/gc", &request)
        .await
        .refused(503, ErrorKind::Busy);
    assert!(message.contains("backup"), "{message}");
    drop(lock);
    make_packs_old(&world);
    for entry in std::fs::read_dir(world.dir.path().join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let message = world
        .operator
        .post("/v1/gc", &request)
        .await
        .refused(500, ErrorKind::Internal);
    assert!(message.contains("restore the packs from a backup"), "{message}");
    assert_eq!(std::fs::read_dir(world.dir.path().join("packs")).unwrap().count(), 2);
}
