use hyper::{Method, StatusCode};
use potluck_model::Digest;
use potluck_model::api::ErrorKind;

use super::World;
use super::world::{noise, upload_body};

#[tokio::test]
async fn chunks_come_in_the_order_asked_for_and_absent_ones_are_named() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    // Enough for several groups, some of them of many chunks, and one that is sent in pieces.
    let mut chunks: Vec<Vec<u8>> = (0..200).map(|n| noise(n, 3_000 + usize::from(n))).collect();
    chunks.push(Vec::new());
    chunks.push(noise(201, 5 << 20));
    chunks.push(noise(202, 300 << 10));
    world
        .operator
        .upload(&chunks[..100])
        .await
        .expect(StatusCode::NO_CONTENT);
    world
        .operator
        .upload(&chunks[100..])
        .await
        .expect(StatusCode::NO_CONTENT);
    let mut wanted: Vec<Option<Vec<u8>>> = chunks.into_iter().map(Some).collect();
    wanted.swap(3, 150);
    let mut digests: Vec<Digest> = wanted.iter().flatten().map(|chunk| Digest::of(chunk)).collect();
    for index in [0, 50, 205] {
        digests.insert(index.min(digests.len()), Digest::of(&[index as u8, 1]));
        wanted.insert(index.min(wanted.len()), None);
    }
    assert!(node.chunks(&digests).await == wanted);
    assert_eq!(node.chunks(&[]).await, []);
}

#[tokio::test]
async fn only_missing_chunks_are_reported_missing_and_a_damaged_upload_leaves_nothing() {
    let world = World::new().await;
    let chunks = vec![noise(1, 10), noise(2, 10)];
    let digests: Vec<Digest> = chunks.iter().map(|chunk| Digest::of(chunk)).collect();
    assert_eq!(world.operator.missing(&digests).await, [1, 1]);
    let mut body = upload_body(&chunks);
    *body.last_mut().unwrap() ^= 1;
    let answer = world.operator.send(Method::POST, "/v1/chunks", &[], body).await;
    let message = answer.refused(400, ErrorKind::BadRequest);
    assert!(message.contains(&digests[1].to_string()), "{message}");
    assert_eq!(world.operator.missing(&digests).await, [1, 1]);
    world.operator.upload(&chunks[..1]).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(world.operator.missing(&digests).await, [0, 1]);
}

#[tokio::test]
async fn a_file_of_many_chunks_is_served_whole_and_in_ranges() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    let big = noise(1, 1_000_000);
    let small = noise(2, 100);
    let release = world.publish("web", 1, &[("big", &big), ("small", &small)]).await;
    let get = async |digest: Digest, headers: &[(&str, &str)]| {
        let path = format!("/v1/content/{digest}");
        node.client.send(Method::GET, &path, headers, Vec::new()).await
    };
    let digest = Digest::of(&big);
    let whole = get(digest, &[]).await;
    assert_eq!(whole.header("content-length"), "1000000");
    assert_eq!(whole.header("etag"), format!("\"{digest}\""));
    assert!(whole.header("cache-control").contains("immutable"));
    assert!(whole.expect(StatusCode::OK) == big);
    for (text, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=39999-40000", 39_999, 40_001),
        ("bytes=100000-", 100_000, 1_000_000),
        ("bytes=-1", 999_999, 1_000_000),
        ("bytes=123456-765432", 123_456, 765_433),
    ] {
        let part = get(digest, &[("range", text)]).await;
        assert_eq!(part.header("content-range"), format!("bytes {from}-{}/1000000", to - 1));
        assert!(part.expect(StatusCode::PARTIAL_CONTENT) == big[from..to], "{text}");
    }
    let beyond = get(digest, &[("range", "bytes=1000000-")]).await;
    assert_eq!(beyond.header("content-range"), "bytes */1000000");
    beyond.expect(StatusCode::RANGE_NOT_SATISFIABLE);
    let other = get(digest, &[("range", "bytes=0-0"), ("if-range", "\"other\"")]).await;
    assert_eq!(other.expect(StatusCode::OK).len(), 1_000_000);
    let known = get(digest, &[("if-none-match", &format!("\"{digest}\""))]).await;
    assert!(known.expect(StatusCode::NOT_MODIFIED).is_empty());
    let part = get(Digest::of(&small), &[("range", "bytes=5-9")]).await;
    assert_eq!(part.expect(StatusCode::PARTIAL_CONTENT), &small[5..10]);
    assert_eq!(
        get(release.list, &[]).await.expect(StatusCode::OK).len() as u64,
        release.list_size
    );
    let path = format!("/v1/content/{digest}");
    let head = node.client.send(Method::HEAD, &path, &[], Vec::new()).await;
    assert_eq!(head.header("content-length"), "1000000");
    assert!(head.expect(StatusCode::OK).is_empty());
    get(Digest::of(b"nothing"), &[]).await.refused(404, ErrorKind::NotFound);
    node.client
        .get("/v1/content/xyz")
        .await
        .refused(400, ErrorKind::BadRequest);
}

#[tokio::test]
async fn a_chunk_that_is_damaged_on_disk_is_absent_and_the_others_are_served() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    let chunks = vec![noise(1, 1_000), noise(2, 1_000), noise(3, 1_000)];
    world.operator.upload(&chunks).await.expect(StatusCode::NO_CONTENT);
    let pack = std::fs::read_dir(world.dir.path().join("packs"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let mut bytes = std::fs::read(pack.path()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(pack.path(), bytes).unwrap();
    let digests: Vec<Digest> = chunks.iter().map(|chunk| Digest::of(chunk)).collect();
    let got = node.chunks(&digests).await;
    assert!(got == [Some(chunks[0].clone()), None, Some(chunks[2].clone())]);
    std::fs::remove_file(pack.path()).unwrap();
}
