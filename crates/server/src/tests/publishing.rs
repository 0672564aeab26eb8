use hyper::StatusCode;
use potluck_model::Digest;
use potluck_model::api::{Configuration, ErrorKind, Release};

use super::World;
use super::world::{Made, noise};

#[tokio::test]
async fn a_release_is_visible_only_once_all_of_its_content_is_there() {
    let world = World::new().await;
    let big = noise(1, 200_000);
    let made = Made::new("web", 1, &[("a", b"one"), ("b", b"two"), ("big", &big)]);
    let message = world
        .release("web", &made.list)
        .await
        .refused(422, ErrorKind::ContentMissing);
    assert!(message.contains("list"), "{message}");
    // Everything but the small files and one chunk of the big one.
    let mut partial = made.chunks.clone();
    partial.drain(..3);
    world.operator.upload(&partial).await.expect(StatusCode::NO_CONTENT);
    let message = world
        .release("web", &made.list)
        .await
        .refused(422, ErrorKind::ContentMissing);
    assert!(message.contains("a, b, big"), "{message}");
    world
        .operator
        .get("/v1/configurations/web")
        .await
        .refused(404, ErrorKind::NotFound);
    world.operator.upload(&made.chunks).await.expect(StatusCode::NO_CONTENT);
    let release: Release = world.release("web", &made.list).await.json();
    assert_eq!((release.files, release.bytes, release.list), (3, 200_006, made.list));
    let known: Configuration = world.operator.get("/v1/configurations/web").await.json();
    assert_eq!(known.releases, std::slice::from_ref(&release));
    let again: Release = world.release("web", &made.list).await.json();
    assert_eq!(again, release, "the same list again is the same release");
}

#[tokio::test]
async fn whoever_is_second_with_a_number_gets_a_conflict() {
    let world = World::new().await;
    world.publish("web", 1, &[("a", b"1")]).await;
    world.publish("web", 2, &[("a", b"2")]).await;
    let late = Made::new("web", 2, &[("a", b"other")]);
    world.operator.upload(&late.chunks).await.expect(StatusCode::NO_CONTENT);
    let message = world.release("web", &late.list).await.refused(409, ErrorKind::Conflict);
    assert!(message.contains("must have number 3"), "{message}");
    let skipping = Made::new("web", 4, &[("a", b"4")]);
    world
        .operator
        .upload(&skipping.chunks)
        .await
        .expect(StatusCode::NO_CONTENT);
    world
        .release("web", &skipping.list)
        .await
        .refused(409, ErrorKind::Conflict);
    let message = world
        .release("db", &late.list)
        .await
        .refused(400, ErrorKind::BadRequest);
    assert!(message.contains("not of db"), "{message}");
}

#[tokio::test]
async fn the_same_bytes_cannot_be_published_cut_in_two_ways() {
    let world = World::new().await;
    let big = noise(1, 200_000);
    world.publish("web", 1, &[("big", &big)]).await;
    world.publish("db", 1, &[("same", &big)]).await;
    let other = Made::cut("web", 2, &[("big", &big)], 50_000);
    world
        .operator
        .upload(&other.chunks)
        .await
        .expect(StatusCode::NO_CONTENT);
    let message = world
        .release("web", &other.list)
        .await
        .refused(400, ErrorKind::BadRequest);
    assert!(message.contains("cut into other chunks"), "{message}");
}

#[tokio::test]
async fn what_is_no_list_cannot_be_published() {
    let world = World::new().await;
    let chunk = b"{\"format\":1}".to_vec();
    let digest = Digest::of(&chunk);
    world.operator.upload(&[chunk]).await.expect(StatusCode::NO_CONTENT);
    world.release("web", &digest).await.refused(400, ErrorKind::BadRequest);
}

#[tokio::test]
async fn of_many_publishers_at_once_exactly_one_gets_the_number() {
    let world = World::new().await;
    let attempts = (0..6_u8).map(|n| {
        let world = &world;
        async move {
            let made = Made::new("web", 1, &[("a", &[n])]);
            world.operator.upload(&made.chunks).await.expect(StatusCode::NO_CONTENT);
            world.release("web", &made.list).await.status
        }
    });
    let results = futures_util::future::join_all(attempts).await;
    assert_eq!(results.iter().filter(|status| **status == StatusCode::OK).count(), 1);
    assert_eq!(
        results.iter().filter(|status| **status == StatusCode::CONFLICT).count(),
        5
    );
}
