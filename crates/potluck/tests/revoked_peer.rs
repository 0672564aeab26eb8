//! A node that was revoked and does not mind: it has its certificate, its keys and the addresses of its peers still.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "some of it is for other tests only")]
mod common;
mod newcomer;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use potluck_model::join::JoinString;
use potluck_model::{Digest, NodeId};
use potluck_net::datagram::Sealer;
use potluck_net::peer::{Endpoint, Local, PeerConnection, PeerPort, Received};
use potluck_proto::{Message, Want};

use common::{Fleet, PATIENCE};
use newcomer::Newcomer;

const NETWORK: u8 = 56;

struct Rogue {
    node: NodeId,
    endpoint: Endpoint,
}

impl Rogue {
    async fn join(join: &JoinString) -> Self {
        let newcomer = Newcomer::join(join).await;
        let head = newcomer.head(Vec::new()).await;
        let mut audience = [0; 32];
        for (byte, pair) in audience.iter_mut().zip(head.audiences[0].key.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        }
        let local = Local {
            identity: newcomer.identity,
            audiences: vec![audience],
        };
        let ip = IpAddr::V4(Ipv4Addr::new(127, 83, NETWORK, 9));
        let port = PeerPort::bind(Some(ip), 0).unwrap();
        let (endpoint, ..) = port.open(&local, Sealer::default()).unwrap();
        Self {
            node: newcomer.node,
            endpoint,
        }
    }
}

/// Asks for a content: whether bytes of it come before the connection ends.
async fn is_served(connection: &mut PeerConnection, content: Digest) -> bool {
    let wants = vec![Want {
        content,
        first: 0,
        count: 1,
    }];
    if connection.sender.message(&Message::Get { stream: 1, wants }).is_err() {
        return false;
    }
    let first = async {
        loop {
            match connection.receiver.recv().await {
                Ok(Received::Data(..)) => return true,
                Ok(Received::Message(_)) => {}
                Err(_) => return false,
            }
        }
    };
    tokio::time::timeout(PATIENCE, first).await.unwrap()
}

#[test]
fn peers_cut_their_connections_with_a_revoked_node_and_take_no_new_ones() {
    let fleet = Fleet::new(NETWORK);
    let directory = fleet.sample();
    let page = Digest::of(&std::fs::read(directory.join("site/index.html")).unwrap());
    fleet.publish(&directory);
    fleet.operate(&["assign", "web", "--all"]);
    let _agent = fleet.start_agent(1, &["--join", &fleet.join_string()]);
    let nodes = fleet.await_nodes(1, "converged");
    let peer: NodeId = nodes[0]["node"].as_str().unwrap().parse().unwrap();
    let address: SocketAddr = nodes[0]["addresses"][0].as_str().unwrap().parse().unwrap();
    let join: JoinString = fleet.join_string().parse().unwrap();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let rogue = Rogue::join(&join).await;
        let mut connection = rogue.endpoint.connect(peer, &[address]).await.unwrap();
        assert!(is_served(&mut connection, page).await, "while it belongs to the fleet");

        let revoked = rogue.node.to_string();
        fleet.operate(&["revoke", &revoked]);
        let cut = async { while connection.receiver.recv().await.is_ok() {} };
        tokio::time::timeout(PATIENCE, cut)
            .await
            .expect("the connection is cut");

        for _ in 0..5 {
            if let Ok(mut again) = rogue.endpoint.connect(peer, &[address]).await {
                assert!(!is_served(&mut again, page).await);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}
