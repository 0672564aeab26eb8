//! Over real sockets on the loopback interface.

use std::time::Duration;

use potluck_model::Digest;
use potluck_proto::message::DATA_BYTES_MAX;
use potluck_proto::{End, Want};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::datagram::{DatagramPort, Sealer};
use crate::tls::testing::TestCa;

const SOON: Duration = Duration::from_secs(20);
const AUDIENCE: [u8; 32] = [9; 32];

/// A node that listens.
struct Node {
    id: NodeId,
    address: SocketAddr,
    endpoint: Endpoint,
    incoming: Incoming,
    _datagrams: DatagramPort,
}

fn node(ca: &TestCa, id: u64, audiences: &[[u8; 32]]) -> Node {
    let id = NodeId(id);
    let local = Local {
        identity: ca.node(id),
        audiences: audiences.to_vec(),
    };
    let port = PeerPort::bind(Some("127.0.0.1".parse().unwrap()), 0).unwrap();
    let address = ([127, 0, 0, 1], port.port()).into();
    let (endpoint, incoming, datagrams) = port.open(&local, Sealer::default()).unwrap();
    Node {
        id,
        address,
        endpoint,
        incoming,
        _datagrams: datagrams,
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

/// Two nodes with a connection that the first dialled, both ends.
async fn pair() -> (PeerConnection, PeerConnection) {
    let ca = TestCa::new();
    let one = node(&ca, 1, &[AUDIENCE]);
    let mut two = node(&ca, 2, &[AUDIENCE]);
    let addresses = [two.address];
    let (ours, theirs) =
        soon(async { tokio::join!(one.endpoint.connect(two.id, &addresses), two.incoming.next()) }).await;
    (ours.unwrap(), theirs)
}

fn header(stream: u32, chunk: u32) -> DataHeader {
    DataHeader {
        stream,
        want: 0,
        chunk,
        offset: 0,
    }
}

fn ping(nonce: u64) -> Message {
    Message::Ping { nonce }
}

#[tokio::test]
async fn both_ends_know_who_the_other_is_and_where_it_listens() {
    let ca = TestCa::new();
    let one = node(&ca, 1, &[AUDIENCE]);
    let mut two = node(&ca, 2, &[[1; 32], AUDIENCE]);
    let addresses = [two.address];
    let (ours, theirs) =
        soon(async { tokio::join!(one.endpoint.connect(two.id, &addresses), two.incoming.next()) }).await;
    let ours = ours.unwrap();
    assert_eq!((ours.peer, ours.address, ours.dialled), (two.id, two.address, true));
    assert_eq!(
        (theirs.peer, theirs.address, theirs.dialled),
        (one.id, one.address, false)
    );
    assert_eq!((ours.version, theirs.version), (1, 1));
}

#[tokio::test]
async fn messages_go_both_ways() {
    let (mut ours, mut theirs) = pair().await;
    let get = Message::Get {
        stream: 7,
        wants: vec![Want {
            content: Digest::of(b"x"),
            first: 0,
            count: 1,
        }],
    };
    ours.sender.message(&get).unwrap();
    theirs.sender.message(&ping(1)).unwrap();
    assert_eq!(soon(theirs.receiver.recv()).await.unwrap(), Received::Message(get));
    assert_eq!(soon(ours.receiver.recv()).await.unwrap(), Received::Message(ping(1)));
}

/// What a stream's frame with this number holds: every length from none to the most.
fn frame_of(stream: u32, chunk: u32) -> Bytes {
    let len = (stream * 7_919 + chunk * 31_337) as usize % (DATA_BYTES_MAX + 1);
    Bytes::from(vec![(stream * 31 + chunk) as u8; len])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_interleave_in_both_directions_and_keep_their_order() {
    const STREAMS: u32 = 16;
    const FRAMES: u32 = 40;
    let (ours, theirs) = pair().await;
    let mut tasks = tokio::task::JoinSet::new();
    for mut end in [ours, theirs] {
        for stream in 0..STREAMS {
            let sender = end.sender.clone();
            tasks.spawn(async move {
                for chunk in 0..FRAMES {
                    sender
                        .data(header(stream, chunk), frame_of(stream, chunk))
                        .await
                        .unwrap();
                }
                let end = End::Done;
                sender.message(&Message::End { stream, end }).unwrap();
                None
            });
        }
        tasks.spawn(async move {
            let mut next = [0; STREAMS as usize];
            let mut ended = 0;
            let mut turns = 0;
            let mut last = None;
            while ended < STREAMS {
                match end.receiver.recv().await.unwrap() {
                    Received::Data(header, bytes) => {
                        let next = &mut next[header.stream as usize];
                        assert_eq!(header.chunk, *next);
                        assert_eq!(bytes, frame_of(header.stream, header.chunk));
                        *next += 1;
                        turns += u32::from(last.replace(header.stream) != Some(header.stream));
                    }
                    Received::Message(Message::End { stream, .. }) => {
                        assert_eq!(next[stream as usize], FRAMES, "an end follows all its data");
                        ended += 1;
                    }
                    Received::Message(message) => panic!("{message:?}"),
                }
            }
            assert!(turns > STREAMS, "streams took turns {turns} times only");
            // The connection stays up until both have got everything.
            Some(end)
        });
    }
    soon(tasks.join_all()).await;
}

/// Sends frames until there is no room; how many were sent. The send of the last one is dropped while it waits.
async fn fill(sender: &PeerSender) -> u32 {
    let mut sent = 0;
    loop {
        let sending = sender.data(header(1, sent), vec![1; DATA_BYTES_MAX].into());
        match tokio::time::timeout(Duration::from_millis(200), sending).await {
            Ok(result) => result.unwrap(),
            Err(_) => return sent,
        }
        sent += 1;
    }
}

#[tokio::test]
async fn messages_pass_data_that_waits() {
    let (ours, mut theirs) = pair().await;
    // Nobody reads yet: the queue fills up.
    fill(&ours.sender).await;
    ours.sender.message(&ping(5)).unwrap();
    ours.sender
        .message(&Message::End {
            stream: 1,
            end: End::Done,
        })
        .unwrap();
    let (mut after_ping, mut pinged) = (0, false);
    loop {
        match soon(theirs.receiver.recv()).await.unwrap() {
            Received::Data(..) => after_ping += usize::from(pinged),
            Received::Message(Message::Ping { .. }) => pinged = true,
            Received::Message(_) => break,
        }
    }
    assert!(pinged);
    assert!(after_ping > 0, "the ping came last of all");
}

#[tokio::test]
async fn dropping_a_send_that_waits_leaves_nothing_half_sent() {
    let (ours, mut theirs) = pair().await;
    let sent = fill(&ours.sender).await;
    let end = End::Missing(vec![0]);
    ours.sender.message(&Message::End { stream: 1, end }).unwrap();
    for chunk in 0..sent {
        let Received::Data(header, bytes) = soon(theirs.receiver.recv()).await.unwrap() else {
            panic!("data was to come")
        };
        assert_eq!((header.chunk, bytes.len()), (chunk, DATA_BYTES_MAX));
    }
    assert!(matches!(
        soon(theirs.receiver.recv()).await.unwrap(),
        Received::Message(Message::End { .. })
    ));
}

#[tokio::test]
async fn a_dropped_receive_loses_nothing() {
    let (ours, mut theirs) = pair().await;
    let sending = async {
        for stream in 0..50 {
            let bytes = vec![stream as u8; 50_000].into();
            ours.sender.data(header(stream, 0), bytes).await.unwrap();
        }
    };
    let receiving = async {
        let mut dropped = 0;
        for stream in 0..50 {
            let received = loop {
                tokio::select! {
                    biased;
                    received = theirs.receiver.recv() => break received.unwrap(),
                    // Polled once, then dropped.
                    () = std::future::ready(()) => dropped += 1,
                }
                tokio::task::yield_now().await;
            };
            let bytes = vec![stream as u8; 50_000].into();
            assert_eq!(received, Received::Data(header(stream, 0), bytes));
        }
        assert!(dropped > 0);
    };
    soon(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn closing_sends_the_last_messages_and_then_both_ends_fail() {
    let (mut ours, mut theirs) = pair().await;
    ours.sender.message(&ping(1)).unwrap();
    ours.sender.close();
    assert!(matches!(ours.sender.message(&ping(2)), Err(PeerFault::Closed)));
    assert!(matches!(
        ours.sender.data(header(1, 0), Bytes::new()).await,
        Err(PeerFault::Closed)
    ));
    assert!(matches!(soon(ours.receiver.recv()).await, Err(PeerFault::Closed)));
    assert_eq!(soon(theirs.receiver.recv()).await.unwrap(), Received::Message(ping(1)));
    assert!(matches!(soon(theirs.receiver.recv()).await, Err(PeerFault::Closed)));
    assert!(theirs.sender.is_closed());
}

#[tokio::test]
async fn dropping_the_receiver_closes_the_connection() {
    let (ours, mut theirs) = pair().await;
    drop(ours.receiver);
    soon(ours.sender.closed()).await;
    assert!(soon(theirs.receiver.recv()).await.is_err());
}

#[tokio::test]
async fn a_peer_that_takes_no_messages_is_given_up() {
    let (ours, _theirs) = pair().await;
    let proofs = Message::Have { items: Vec::new() };
    let wants = vec![
        Want {
            content: Digest::of(b"x"),
            first: 0,
            count: 1
        };
        1_000
    ];
    let big = Message::Get { stream: 1, wants };
    let mut result = ours.sender.message(&proofs);
    // The kernel's buffers take some; the rest is bounded. Without a yield nothing is even written.
    for _ in 0..1_000 {
        if result.is_err() {
            break;
        }
        result = ours.sender.message(&big);
    }
    assert!(matches!(result, Err(PeerFault::Overflow(_))));
    assert!(ours.sender.is_closed());
}

#[tokio::test]
async fn more_than_a_data_frame_carries_is_not_sent() {
    let (ours, _theirs) = pair().await;
    let result = ours.sender.data(header(1, 0), vec![0; DATA_BYTES_MAX + 1].into()).await;
    assert!(matches!(result, Err(PeerFault::TooLong(_))));
}

#[tokio::test]
async fn without_a_shared_audience_there_is_no_connection() {
    let ca = TestCa::new();
    for audiences in [vec![], vec![[1; 32]]] {
        let one = node(&ca, 1, &audiences);
        let mut two = node(&ca, 2, &[AUDIENCE]);
        let fault = soon(one.endpoint.connect(two.id, &[two.address])).await;
        assert!(matches!(fault, Err(PeerFault::NoSharedAudience { peer }) if peer == two.id));
        // The next one that belongs is let in, and nobody before.
        let three = node(&ca, 3, &[AUDIENCE]);
        let addresses = [two.address];
        let (ours, theirs) =
            soon(async { tokio::join!(three.endpoint.connect(two.id, &addresses), two.incoming.next()) }).await;
        assert!(ours.is_ok());
        assert_eq!(theirs.peer, three.id);
    }
}

#[tokio::test]
async fn audiences_and_certificates_can_be_replaced() {
    let ca = TestCa::new();
    let one = node(&ca, 1, &[[1; 32]]);
    let two = node(&ca, 2, &[AUDIENCE]);
    assert!(soon(one.endpoint.connect(two.id, &[two.address])).await.is_err());
    let local = Local {
        identity: ca.node(one.id),
        audiences: vec![AUDIENCE],
    };
    one.endpoint.update(&local).unwrap();
    assert!(soon(one.endpoint.connect(two.id, &[two.address])).await.is_ok());
}

#[tokio::test]
async fn only_the_expected_node_of_the_same_fleet_is_connected_to() {
    let ca = TestCa::new();
    let one = node(&ca, 1, &[AUDIENCE]);
    let two = node(&ca, 2, &[AUDIENCE]);
    let fault = soon(one.endpoint.connect(NodeId(3), &[two.address])).await;
    assert!(matches!(fault, Err(PeerFault::Tls { .. })));
    let foreign = node(&TestCa::new(), 3, &[AUDIENCE]);
    let fault = soon(foreign.endpoint.connect(two.id, &[two.address])).await;
    assert!(matches!(fault, Err(PeerFault::Tls { .. })));
    let fault = soon(one.endpoint.connect(one.id, &[one.address])).await;
    assert!(matches!(fault, Err(PeerFault::Myself { .. })));
}

#[tokio::test]
async fn the_peer_learns_why_its_certificate_is_refused() {
    let ca = TestCa::new();
    let two = node(&ca, 2, &[AUDIENCE]);
    let mut identity = TestCa::new().node(NodeId(3));
    identity.ca = ca.certificate().clone();
    let port = PeerPort::bind(Some("127.0.0.1".parse().unwrap()), 0).unwrap();
    let local = Local {
        identity,
        audiences: vec![AUDIENCE],
    };
    let (endpoint, ..) = port.open(&local, Sealer::default()).unwrap();
    match soon(endpoint.connect(two.id, &[two.address])).await {
        Err(PeerFault::Tls { why, .. }) => assert!(why.contains("certificate"), "{why}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("connected"),
    }
}

#[tokio::test]
async fn a_second_address_is_tried_while_the_first_is_silent() {
    let ca = TestCa::new();
    let one = node(&ca, 1, &[AUDIENCE]);
    let two = node(&ca, 2, &[AUDIENCE]);
    // A listener whose queue is full takes no connection; one that is closed refuses.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let connection = soon(one.endpoint.connect(two.id, &[closed, two.address]))
        .await
        .unwrap();
    assert_eq!(connection.address, two.address);
    assert!(matches!(
        soon(one.endpoint.connect(two.id, &[closed])).await,
        Err(PeerFault::Unreachable { .. })
    ));
    assert!(matches!(
        soon(one.endpoint.connect(two.id, &[])).await,
        Err(PeerFault::Unreachable { .. })
    ));
}

#[tokio::test]
async fn one_address_cannot_take_all_handshakes() {
    let ca = TestCa::new();
    let two = node(&ca, 2, &[AUDIENCE]);
    // They connect and say nothing, as long as this is held. What is beyond the limit is closed at once.
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(two.address).await.unwrap());
    }
    let mut closed = 0;
    for stream in &mut silent[16..] {
        let mut byte = [0];
        let read = soon(stream.read(&mut byte)).await;
        closed += usize::from(!matches!(read, Ok(1..)));
    }
    assert_eq!(closed, 24);
}

/// Dials `two` with good TLS, and sends these bytes instead of, or after, a hello.
async fn speak(ca: &TestCa, two: &Node, bytes: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
    let config = crate::tls::peer_client_config(&ca.node(NodeId(5))).unwrap();
    let tcp = TcpStream::connect(two.address).await.unwrap();
    let mut tls = tokio_rustls::TlsConnector::from(config)
        .connect(crate::tls::node_name(two.id), tcp)
        .await
        .unwrap();
    tls.write_all(bytes).await.unwrap();
    tls.flush().await.unwrap();
    tls
}

#[tokio::test]
async fn what_is_no_hello_ends_the_handshake() {
    let ca = TestCa::new();
    let two = node(&ca, 2, &[AUDIENCE]);
    let endless = [&u32::MAX.to_be_bytes()[..], &[1]].concat();
    let pinged = potluck_proto::frame::encode_message(&ping(1));
    for bytes in [
        &endless[..],
        &pinged,
        &[0; 4],
        &[0, 0, 0, 1, 99],
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut tls = speak(&ca, &two, bytes).await;
        // Its hello comes, and then the end, cleanly or not.
        let mut answer = Vec::new();
        let _ = soon(tls.read_to_end(&mut answer)).await;
        assert!(answer.len() < 200);
    }
}

#[test]
fn of_two_connections_both_ends_keep_the_same() {
    let (small, large) = (NodeId(1), NodeId(2));
    // The connection that `small` dialled, seen from both ends; and the other.
    assert!(keep(small, large, true) && keep(large, small, false));
    assert!(!keep(large, small, true) && !keep(small, large, false));
}

#[tokio::test]
async fn a_taken_port_is_replaced_by_a_free_one() {
    let ip = Some("127.0.0.1".parse().unwrap());
    let one = PeerPort::bind(ip, 0).unwrap();
    let two = PeerPort::bind(ip, one.port()).unwrap();
    assert_ne!(one.port(), two.port());
    let all = PeerPort::bind(None, one.port()).unwrap();
    assert_ne!(one.port(), all.port());
}

#[tokio::test]
async fn a_port_without_a_bound_address_is_reached_over_both_families() {
    let ca = TestCa::new();
    let one = node(&ca, 1, &[AUDIENCE]);
    let local = Local {
        identity: ca.node(NodeId(2)),
        audiences: vec![AUDIENCE],
    };
    let port = PeerPort::bind(None, 0).unwrap();
    let number = port.port();
    let (_endpoint, mut incoming, _datagrams) = port.open(&local, Sealer::default()).unwrap();
    let v4: SocketAddr = ([127, 0, 0, 1], number).into();
    let (ours, theirs) = soon(async {
        tokio::join!(
            one.endpoint.connect(NodeId(2), std::slice::from_ref(&v4)),
            incoming.next()
        )
    })
    .await;
    assert_eq!(ours.unwrap().address, v4);
    assert_eq!(theirs.address, one.address);
    let v6: SocketAddr = (std::net::Ipv6Addr::LOCALHOST, number).into();
    assert!(TcpStream::connect(v6).await.is_ok());
}

#[tokio::test]
async fn a_closed_port_takes_no_connection_dials_none_and_joins_no_group_until_it_is_opened() {
    let ca = TestCa::new();
    let one = node(&ca, 1, &[AUDIENCE]);
    let local = Local {
        identity: ca.node(NodeId(2)),
        audiences: vec![AUDIENCE],
    };
    let port = PeerPort::bind(Some("127.0.0.1".parse().unwrap()), 0).unwrap().closed();
    let address: SocketAddr = ([127, 0, 0, 1], port.port()).into();
    let (endpoint, mut incoming, datagrams) = port.open(&local, Sealer::default()).unwrap();
    let gate = incoming.gate();
    assert!(!gate.is_open());
    assert!(TcpStream::connect(address).await.is_err());
    assert!(matches!(
        endpoint.connect(one.id, &[one.address]).await,
        Err(PeerFault::Unreachable { .. })
    ));
    assert!(datagrams.paths().is_empty());
    assert!(datagrams.send_to(one.address, b"x").is_err());

    gate.open();
    datagrams.set_open(true);
    // It listens again once its task has run.
    let theirs = soon(async {
        while one.endpoint.connect(NodeId(2), &[address]).await.is_err() {
            tokio::task::yield_now().await;
        }
        incoming.next().await
    })
    .await;
    assert_eq!(theirs.peer, one.id);
    assert!(soon(endpoint.connect(one.id, &[one.address])).await.is_ok());

    gate.close();
    datagrams.set_open(false);
    assert!(datagrams.paths().is_empty());
    soon(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
