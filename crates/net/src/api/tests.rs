//! Against a tiny HTTPS server on the loopback interface.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU32;

use bytes::BytesMut;
use futures_util::StreamExt as _;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use potluck_model::NodeId;
use potluck_model::api::CHUNK_ABSENT;
use potluck_model::join::Token;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tls::{Identity, client_config, testing::TestCa};

const SOON: Duration = Duration::from_secs(20);
const ANY: &(dyn Fn(usize) -> u64 + Send + Sync) = &|_| 1 << 20;

type Reply = Response<BoxBody<Bytes, std::io::Error>>;

/// A server, as long as it is kept.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicU32>,
    requests: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers each request with what `handler` makes of its method, path and body. With `once`, the server closes each
/// connection after one answer without having said so.
async fn serve<F>(identity: &Identity, once: bool, handler: F) -> Server
where
    F: Fn(String, Bytes) -> Reply + Clone + Send + Sync + 'static,
{
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            identity.chain.clone(),
            rustls::pki_types::PrivateKeyDer::Pkcs8(identity.key.clone_key()),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, requests) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let counters = (connections.clone(), requests.clone());
    let task = tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            counters.0.fetch_add(1, Ordering::Relaxed);
            let (acceptor, handler, requests) = (acceptor.clone(), handler.clone(), counters.1.clone());
            tasks.spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let (answered, mut answers) = mpsc::channel(1);
                let service = service_fn(move |request: Request<Incoming>| {
                    let (handler, requests, answered) = (handler.clone(), requests.clone(), answered.clone());
                    async move {
                        requests.fetch_add(1, Ordering::Relaxed);
                        let what = format!("{} {}", request.method(), request.uri());
                        let body = request.into_body().collect().await?.to_bytes();
                        let _ = answered.try_send(());
                        Ok::<_, hyper::Error>(handler(what, body))
                    }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service);
                tokio::pin!(connection);
                tokio::select! {
                    _ = &mut connection => {}
                    () = async {
                        let _ = answers.recv().await;
                        if !once {
                            std::future::pending::<()>().await;
                        }
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    } => {}
                }
            });
        }
    });
    Server {
        address,
        connections,
        requests,
        task,
    }
}

fn full(status: u16, body: impl Into<Bytes>) -> Reply {
    Response::builder()
        .status(status)
        .body(
            Full::new(body.into())
                .map_err(|never: Infallible| match never {})
                .boxed(),
        )
        .unwrap()
}

/// A body that comes in these pieces, and then ends, or breaks.
fn pieces(pieces: Vec<Bytes>, breaks: bool) -> Reply {
    let pieces = futures_util::stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(piece))));
    let end = futures_util::stream::once(async {
        // What was written before is flushed while the body waits.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut"))
    });
    let end = end.take(usize::from(breaks));
    Response::new(BoxBody::new(StreamBody::new(pieces.chain(end))))
}

fn client_of(ca: &TestCa, servers: &[SocketAddr]) -> Client {
    Client::new(
        servers.iter().map(ToString::to_string).collect(),
        client_config(None, ca.certificate()).unwrap(),
    )
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

#[tokio::test]
async fn requests_share_a_connection_and_say_what_they_ask() {
    let ca = TestCa::new();
    let server = serve(&ca.server(), false, |what, body| {
        full(200, json!([what, String::from_utf8_lossy(&body)]).to_string())
    })
    .await;
    let client = client_of(&ca, &[server.address]);
    let said: Value = client.get("/v1/status").await.unwrap();
    assert_eq!(said, json!(["GET /v1/status", ""]));
    let said: Value = client.post("/v1/halt", &json!({"halted": true})).await.unwrap();
    assert_eq!(said, json!(["POST /v1/halt", "{\"halted\":true}"]));
    let said: Value = client.put("/v1/x", &1).await.unwrap();
    assert_eq!(said, json!(["PUT /v1/x", "1"]));
    let said: Value = client.delete("/v1/assignments/3").await.unwrap();
    assert_eq!(said, json!(["DELETE /v1/assignments/3", ""]));
    let fault = client
        .head(&HeadQuery {
            cursor: 7,
            wait: 99,
            ..HeadQuery::default()
        })
        .await
        .unwrap_err()
        .to_string();
    assert!(fault.contains("/v1/node/head?cursor=7&wait=55"), "{fault}");
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    client.reset();
    let _: Value = client.get("/v1/status").await.unwrap();
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn refusals_say_what_the_server_said() {
    let ca = TestCa::new();
    let server = serve(&ca.server(), false, |what, _| match what.as_str() {
        "GET /v1/nodes/x" => full(404, r#"{"error":"not-found","message":"there is no node x"}"#),
        "GET /v1/busy" => {
            let mut reply = full(503, "");
            reply.headers_mut().insert(header::RETRY_AFTER, "7".parse().unwrap());
            reply
        }
        "PUT /v1/node/presence" => full(204, ""),
        _ => full(500, "<html>"),
    })
    .await;
    let client = client_of(&ca, &[server.address]);
    let fault = client.get::<Value>("/v1/nodes/x").await.unwrap_err();
    assert_eq!(fault.kind(), Some(ErrorKind::NotFound));
    assert_eq!(fault.to_string(), "there is no node x");
    assert!(fault.is_permanent());
    let fault = client.get::<Value>("/v1/busy").await.unwrap_err();
    assert!(matches!(fault, ApiFault::Busy { retry_after: Some(after) } if after.as_secs() == 7));
    let fault = client.get::<Value>("/v1/other").await.unwrap_err();
    assert!(matches!(&fault, ApiFault::Refused { status: 500, error } if error.message.contains("/v1/other")));
    assert!(fault.is_passing());
    let presence = Presence {
        addresses: vec![],
        facts: potluck_model::api::Labels::new(),
        version: String::new(),
        networks: vec![],
    };
    client.presence(&presence).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_the_server_closed_meanwhile_is_replaced_unnoticed() {
    let ca = TestCa::new();
    let server = serve(&ca.server(), true, |_, _| full(200, "1")).await;
    let client = client_of(&ca, &[server.address]);
    for pause in [0, 90, 100, 110, 150] {
        assert_eq!(soon(client.get::<u32>("/v1/one")).await.unwrap(), 1, "after {pause} ms");
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    assert!(server.connections.load(Ordering::Relaxed) > 1);
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer_and_remembered() {
    let ca = TestCa::new();
    let server = serve(&ca.server(), false, |_, _| full(200, "1")).await;
    let dead = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let client = client_of(&ca, &[dead, server.address]);
    assert_eq!(client.get::<u32>("/v1/one").await.unwrap(), 1);
    assert_eq!(client.shared.preferred.load(Ordering::Relaxed), 1);
    let fault = client_of(&ca, &[dead]).get::<u32>("/v1/one").await.unwrap_err();
    assert!(
        matches!(&fault, ApiFault::Unreachable { address, .. } if *address == dead.to_string()),
        "{fault}"
    );
    let fault = client_of(&ca, &[]).get::<u32>("/v1/one").await.unwrap_err();
    assert!(matches!(fault, ApiFault::Unreachable { .. }));
}

#[tokio::test]
async fn connections_come_from_the_bound_address() {
    let ca = TestCa::new();
    let server = serve(&ca.server(), false, |_, _| full(200, "1")).await;
    let bound = |ip: &str| client_of(&ca, &[server.address]).bound_to(Some(ip.parse().unwrap()));
    assert_eq!(bound("127.0.0.41").get::<u32>("/v1/one").await.unwrap(), 1);
    let fault = bound("::1").get::<u32>("/v1/one").await.unwrap_err();
    assert!(matches!(fault, ApiFault::Unreachable { .. }), "{fault}");
}

#[tokio::test]
async fn a_token_goes_only_to_the_server_of_the_join_string() {
    let ca = TestCa::new();
    let server = serve(&ca.server(), false, |_, body| {
        assert!(!body.is_empty());
        full(403, r#"{"error":"token","message":"used up"}"#)
    })
    .await;
    let request = JoinRequest {
        token: Token([1; 32]).to_hex(),
        csr: String::new(),
        facts: potluck_model::api::Labels::new(),
        labels: potluck_model::api::Labels::new(),
        replaces: None,
        operator: false,
        root: None,
    };
    let mut join = JoinString {
        servers: vec![server.address.to_string()],
        ca: Digest::of(TestCa::new().certificate()),
        root: Digest::of(b""),
        token: Token([1; 32]),
    };
    let fault = Client::for_joining(&join).join(&request).await.unwrap_err();
    assert!(
        matches!(&fault, ApiFault::Tls { why, .. } if why.contains("CA")),
        "{fault}"
    );
    assert_eq!(server.requests.load(Ordering::Relaxed), 0);
    join.ca = Digest::of(ca.certificate());
    let fault = Client::for_joining(&join).join(&request).await.unwrap_err();
    assert_eq!(fault.kind(), Some(ErrorKind::Token));
}

#[tokio::test]
async fn a_refused_certificate_is_told_as_such() {
    let ca = TestCa::new();
    // A peer's port asks for a node's certificate, and speaks no HTTP.
    let config = crate::tls::peer_server_config(&ca.node(NodeId(1))).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accept = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(config).accept(tcp).await.is_err()
    });
    let fault = soon(client_of(&ca, &[address]).get::<u32>("/v1/one"))
        .await
        .unwrap_err();
    assert!(matches!(fault, ApiFault::Tls { .. }), "{fault}");
    assert!(accept.await.unwrap());
}

fn chunk_body(chunks: &[Option<&[u8]>]) -> BytesMut {
    let mut body = BytesMut::new();
    for chunk in chunks {
        match chunk {
            Some(bytes) => {
                body.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                body.extend_from_slice(bytes);
            }
            None => body.extend_from_slice(&CHUNK_ABSENT.to_be_bytes()),
        }
    }
    body
}

/// A server that answers requests for chunks with `body`, cut into pieces of `step` bytes.
async fn chunk_server(ca: &TestCa, body: BytesMut, step: usize, breaks: bool) -> Server {
    serve(&ca.server(), false, move |what, _| {
        assert_eq!(what, "POST /v1/node/chunks");
        pieces(body.chunks(step).map(Bytes::copy_from_slice).collect(), breaks)
    })
    .await
}

/// All events but progress, the bytes of progress, and how it ended.
async fn fetch(client: &Client, count: u8) -> (Vec<ChunkEvent>, u64, Result<(), ApiFault>) {
    let digests: Vec<Digest> = (0..count).map(|n| Digest::of(&[n])).collect();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let result = soon(client.chunks(&digests, ANY, |event| {
        sender.send(event).unwrap();
        std::future::ready(())
    }))
    .await;
    drop(sender);
    let (mut events, mut progress) = (Vec::new(), 0);
    while let Some(event) = receiver.recv().await {
        match event {
            ChunkEvent::Progress(bytes) => progress += bytes,
            event => events.push(event),
        }
    }
    (events, progress, result)
}

#[tokio::test]
async fn chunks_come_whole_and_in_order_however_the_bytes_are_cut() {
    let ca = TestCa::new();
    let big = vec![7; 100_000];
    let body = chunk_body(&[Some(b"one"), None, Some(b""), Some(&big), Some(b"end")]);
    for step in [1 << 20, 4_096, 7, 3] {
        let server = chunk_server(&ca, body.clone(), step, false).await;
        let client = client_of(&ca, &[server.address]);
        let (events, progress, result) = fetch(&client, 5).await;
        result.unwrap();
        assert_eq!(
            events,
            [
                ChunkEvent::Chunk(0, "one".into()),
                ChunkEvent::Absent(1),
                ChunkEvent::Chunk(2, Bytes::new()),
                ChunkEvent::Chunk(3, big.clone().into()),
                ChunkEvent::Chunk(4, "end".into()),
            ]
        );
        assert_eq!(progress, body.len() as u64);
        // The connection is good for the next request.
        fetch(&client, 5).await.2.unwrap();
        assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn what_came_before_a_cut_is_kept() {
    let ca = TestCa::new();
    for breaks in [true, false] {
        let mut body = chunk_body(&[Some(b"one"), Some(b"two")]);
        body.truncate(body.len() - 1);
        let server = chunk_server(&ca, body, 5, breaks).await;
        let (events, _, result) = fetch(&client_of(&ca, &[server.address]), 2).await;
        assert!(matches!(result, Err(ApiFault::Broken { .. })), "{result:?}");
        assert_eq!(events, [ChunkEvent::Chunk(0, "one".into())]);
    }
}

#[tokio::test]
async fn a_chunk_beyond_its_limit_is_refused_unread() {
    let ca = TestCa::new();
    let server = chunk_server(&ca, chunk_body(&[Some(b"fits"), Some(b"beyond")]), 100, false).await;
    let digests = [Digest::of(b"1"), Digest::of(b"2")];
    let client = client_of(&ca, &[server.address]);
    let mut answer = client.open_chunks(&digests).await.unwrap();
    let mut chunks = 0;
    let fault = loop {
        match answer.next(&|index| [4, 5][index]).await {
            Ok(Some(ChunkEvent::Chunk(..))) => chunks += 1,
            Ok(Some(_)) => {}
            Ok(None) => panic!("no fault"),
            Err(fault) => break fault,
        }
    };
    assert_eq!(chunks, 1);
    assert!(
        matches!(&fault, ApiFault::Protocol { what, .. } if what.contains("6 bytes")),
        "{fault}"
    );
}

#[tokio::test]
async fn bytes_after_the_last_chunk_are_a_fault() {
    let ca = TestCa::new();
    for step in [1, 100] {
        let server = chunk_server(&ca, chunk_body(&[Some(b"one"), Some(b"more")]), step, false).await;
        let (events, _, result) = fetch(&client_of(&ca, &[server.address]), 1).await;
        assert!(matches!(result, Err(ApiFault::Protocol { .. })), "{result:?}");
        assert_eq!(events, [ChunkEvent::Chunk(0, "one".into())]);
    }
}

#[tokio::test]
async fn more_chunks_than_one_request_may_name_are_not_asked_for() {
    let ca = TestCa::new();
    let client = client_of(&ca, &[]);
    let digests = vec![Digest::of(b""); CHUNKS_PER_REQUEST_MAX + 1];
    assert!(matches!(
        client.open_chunks(&digests).await,
        Err(ApiFault::Protocol { .. })
    ));
}

#[tokio::test]
async fn dropping_an_answer_ends_it_at_the_server() {
    let ca = TestCa::new();
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
    let slot = Arc::new(Mutex::new(Some(receiver)));
    let server = serve(&ca.server(), false, move |_, _| {
        let receiver = slot.lock().unwrap().take().unwrap();
        let stream =
            futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        Response::new(BoxBody::new(StreamBody::new(Box::pin(stream))))
    })
    .await;
    let client = client_of(&ca, &[server.address]);
    sender
        .send(Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 9]))))
        .await
        .unwrap();
    let mut answer = soon(client.open_chunks(&[Digest::of(b"")])).await.unwrap();
    assert_eq!(soon(answer.next(ANY)).await.unwrap(), Some(ChunkEvent::Progress(4)));
    drop(answer);
    soon(sender.closed()).await;
}

#[tokio::test]
async fn uploads_carry_length_digest_and_bytes_of_each_chunk() {
    let ca = TestCa::new();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let server = serve(&ca.server(), false, move |what, body| {
        sender.send((what, body)).unwrap();
        full(204, "")
    })
    .await;
    let client = client_of(&ca, &[server.address]);
    let chunks: Vec<(Digest, Bytes)> = [b"one".to_vec(), vec![], vec![7; 1_000_000]]
        .into_iter()
        .map(|bytes| (Digest::of(&bytes), Bytes::from(bytes)))
        .collect();
    let sent = Arc::new(AtomicU64::new(0));
    client.upload_chunks(&chunks, Some(sent.clone())).await.unwrap();
    let (what, body) = receiver.recv().await.unwrap();
    assert_eq!(what, "POST /v1/chunks");
    let mut expected = Vec::new();
    for (digest, bytes) in &chunks {
        expected.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        expected.extend_from_slice(digest.as_bytes());
        expected.extend_from_slice(bytes);
    }
    assert!(body == expected);
    assert_eq!(sent.load(Ordering::Relaxed), expected.len() as u64);
}

#[tokio::test]
async fn missing_chunks_are_told_one_by_one() {
    let ca = TestCa::new();
    let server = serve(&ca.server(), false, |what, body| {
        assert_eq!(what, "POST /v1/chunks/missing");
        match body.len() / 32 {
            3 => full(200, &[1, 0, 1][..]),
            2 => full(200, &[1][..]),
            _ => full(200, &[2][..]),
        }
    })
    .await;
    let client = client_of(&ca, &[server.address]);
    let digests = [Digest::of(b"1"), Digest::of(b"2"), Digest::of(b"3")];
    assert_eq!(client.missing_chunks(&digests).await.unwrap(), [true, false, true]);
    assert!(client.missing_chunks(&digests[..2]).await.is_err());
    assert!(client.missing_chunks(&digests[..1]).await.is_err());
}

#[tokio::test]
async fn content_is_taken_only_with_its_digest_and_within_its_limit() {
    let ca = TestCa::new();
    let server = serve(&ca.server(), false, |_, _| full(200, "content")).await;
    let client = client_of(&ca, &[server.address]);
    let digest = Digest::of(b"content");
    assert_eq!(client.content(&digest, 7).await.unwrap(), "content");
    assert!(matches!(
        client.content(&digest, 6).await,
        Err(ApiFault::Protocol { .. })
    ));
    let other = Digest::of(b"other");
    assert!(matches!(
        client.content(&other, 7).await,
        Err(ApiFault::Protocol { .. })
    ));
}

#[tokio::test]
async fn a_silent_server_is_given_up_and_one_that_trickles_is_not() {
    let moved = AtomicU64::new(0);
    let limit = Duration::from_millis(200);
    let begin = Instant::now();
    let silence = connection::unless_silent(&moved, limit, std::future::pending::<()>());
    assert_eq!(soon(silence).await, None);
    assert!(begin.elapsed() >= limit);
    let trickle = async {
        let begin = Instant::now();
        while begin.elapsed() < 3 * limit {
            tokio::time::sleep(limit / 10).await;
            moved.fetch_add(1, Ordering::Relaxed);
        }
    };
    assert_eq!(connection::unless_silent(&moved, limit, trickle).await, Some(()));
}
