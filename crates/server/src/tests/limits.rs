use std::time::Duration;

use hyper::{Method, StatusCode};
use potluck_model::api::{CHUNKS_PER_REQUEST_MAX, ErrorKind, UPLOAD_BYTES_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::World;

#[tokio::test]
async fn bodies_beyond_the_limit_are_refused_before_they_are_read() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    let digests = vec![0; (CHUNKS_PER_REQUEST_MAX + 1) * 32];
    let answer = node.client.send(Method::POST, "/v1/node/chunks", &[], digests).await;
    answer.refused(413, ErrorKind::TooLarge);
    let answer = node
        .client
        .send(Method::POST, "/v1/node/chunks", &[], vec![0; 33])
        .await;
    answer.refused(400, ErrorKind::BadRequest);
    let length = (UPLOAD_BYTES_MAX + 1).to_string();
    let headers = [("content-length", length.as_str())];
    let answer = world
        .operator
        .try_send(Method::POST, "/v1/chunks", &headers, Vec::new())
        .await;
    if let Ok(answer) = answer {
        answer.refused(413, ErrorKind::TooLarge);
    }
    let answer = world
        .client(None)
        .send(Method::POST, "/v1/join", &[], vec![b' '; 1 << 20])
        .await;
    answer.refused(413, ErrorKind::TooLarge);
}

#[tokio::test]
async fn plain_http_and_rubbish_get_no_answer_and_do_no_harm() {
    let world = World::new().await;
    for rubbish in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x16, 3, 1, 255, 255, 1, 2, 3],
        &[0; 4_096],
    ] {
        let mut stream = TcpStream::connect(world.running().address).await.unwrap();
        stream.write_all(rubbish).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // An alert at the most; the connection ends.
        let ended = timeout(Duration::from_secs(15), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok());
        assert!(answer.len() < 64, "{answer:?}");
    }
    world.operator.get("/v1/status").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn hundreds_of_polls_at_once_are_all_answered_by_one_change() {
    let world = World::new().await;
    world.publish("web", 1, &[("a", b"1")]).await;
    let node = world.node(&[]).await;
    let cursor = node.head(0, 0).await.cursor;
    let polls = futures_util::future::join_all((0..200).map(|_| node.head(cursor, 50)));
    let assigning = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.assigned("web").await;
    };
    let (heads, ()) = tokio::join!(polls, assigning);
    assert!(heads.iter().all(|head| head.assignment.signed.release.is_some()));
}
