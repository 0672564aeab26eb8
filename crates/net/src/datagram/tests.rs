//! Over real sockets on the loopback interface.

use std::net::{IpAddr, SocketAddr, UdpSocket as StdUdpSocket};
use std::time::Duration;

use super::*;

const SOON: Duration = Duration::from_secs(10);

fn key(byte: u8) -> SealKey {
    SealKey {
        epoch: 1,
        key: [byte; 32],
    }
}

/// A port at `ip`, and its address.
fn port(ip: &str, byte: u8) -> (DatagramPort, SocketAddr) {
    let ip: IpAddr = ip.parse().unwrap();
    let socket = unicast_socket((ip, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    let port = DatagramPort::new(vec![socket], Some(ip), Sealer::new(&[key(byte)]), true).unwrap();
    (port, address)
}

async fn recv(port: &DatagramPort) -> (SocketAddr, bool, Vec<u8>) {
    tokio::time::timeout(SOON, port.recv()).await.expect("a datagram")
}

/// The next datagram that was sent to a group by `from`: other tests use the same group.
async fn recv_multicast(port: &DatagramPort, from: SocketAddr) -> Vec<u8> {
    loop {
        let (sender, multicast, bytes) = recv(port).await;
        if multicast && sender == from {
            return bytes;
        }
    }
}

#[tokio::test]
async fn a_datagram_arrives_and_its_answer_goes_to_the_senders_port() {
    let (one, at_one) = port("127.0.0.21", 1);
    let (two, at_two) = port("127.0.0.22", 1);
    one.send_to(at_two, b"anybody?").unwrap();
    let (from, multicast, bytes) = recv(&two).await;
    assert_eq!((from, multicast, bytes.as_slice()), (at_one, false, &b"anybody?"[..]));
    two.send_to(from, b"yes").unwrap();
    assert_eq!(recv(&one).await, (at_two, false, b"yes".to_vec()));
}

#[tokio::test]
async fn what_cannot_be_opened_is_dropped_and_counted() {
    let (one, at_one) = port("127.0.0.23", 1);
    let (stranger, _) = port("127.0.0.24", 2);
    let (friend, _) = port("127.0.0.25", 1);
    stranger.send_to(at_one, b"let me in").unwrap();
    StdUdpSocket::bind("127.0.0.24:0")
        .unwrap()
        .send_to(&[0; SEALED_BYTES_MAX + 9], at_one)
        .unwrap();
    friend.send_to(at_one, b"hello").unwrap();
    assert_eq!(recv(&one).await.2, b"hello");
    assert_eq!(one.unopened(), 2);
}

#[tokio::test]
async fn every_agent_on_a_host_hears_multicast_and_none_hears_the_others_unicast() {
    let (one, at_one) = port("127.0.0.26", 26);
    let (two, at_two) = port("127.0.0.27", 26);
    // The same address, another port.
    let (three, _) = port("127.0.0.27", 26);
    let paths = one.paths();
    assert_eq!(paths.len(), 1, "{paths:?}");
    assert_eq!(paths[0].interface, "lo");
    assert_eq!(paths[0].group, (GROUP_V4, MULTICAST_PORT).into());
    one.send_multicast(paths[0].id, b"to all").unwrap();
    assert_eq!(recv_multicast(&two, at_one).await, b"to all");
    assert_eq!(recv_multicast(&three, at_one).await, b"to all");
    assert_eq!(recv_multicast(&one, at_one).await, b"to all", "its sender as well");
    one.send_to(at_two, b"to two").unwrap();
    one.send_multicast(paths[0].id, b"to all again").unwrap();
    assert_eq!(recv_multicast(&three, at_one).await, b"to all again");
    loop {
        let (_, multicast, bytes) = recv(&two).await;
        if !multicast {
            assert_eq!(bytes, b"to two");
            break;
        }
    }
}

#[tokio::test]
async fn an_ipv6_loopback_address_has_unicast_alone() {
    let (one, at_one) = port("::1", 6);
    let (two, at_two) = port("::1", 6);
    assert_eq!(one.paths(), []);
    two.send_to(at_one, b"hello").unwrap();
    assert_eq!(recv(&one).await, (at_two, false, b"hello".to_vec()));
}

#[tokio::test]
async fn after_a_refresh_paths_keep_their_numbers_and_the_groups_are_heard() {
    let (one, at_one) = port("127.0.0.28", 28);
    let (two, _) = port("127.0.0.29", 28);
    let paths = two.paths();
    // One that waits while the groups change hears them, too.
    let waiting = async { recv_multicast(&two, at_one).await };
    let refreshing = async {
        two.refresh();
        one.refresh();
        tokio::task::yield_now().await;
        one.send_multicast(one.paths()[0].id, b"still here").unwrap();
    };
    let (bytes, ()) = tokio::join!(waiting, refreshing);
    assert_eq!(bytes, b"still here");
    assert_eq!(two.paths(), paths);
}

#[tokio::test]
async fn without_a_key_nothing_is_sent() {
    let (one, at_one) = port("127.0.0.30", 1);
    one.sealer().replace(&[]);
    assert!(one.send_to(at_one, b"plain").is_err());
    assert!(one.send_multicast(one.paths()[0].id, b"plain").is_err());
    assert!(one.send_multicast(potluck_proto::PathId(99), b"plain").is_err());
}
