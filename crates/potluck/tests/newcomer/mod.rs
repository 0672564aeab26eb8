//! A node that joins as the protocol says, and is none of ours from then on.

use std::net::SocketAddr;

use potluck_model::NodeId;
use potluck_model::api::{Head, HeadQuery, JoinRequest, Labels, Presence};
use potluck_model::join::JoinString;
use potluck_net::api::Client;
use potluck_net::tls;

pub(crate) struct Newcomer {
    pub(crate) node: NodeId,
    pub(crate) identity: tls::Identity,
    pub(crate) client: Client,
}

impl Newcomer {
    pub(crate) async fn join(join: &JoinString) -> Self {
        tls::install();
        let (key, csr) = tls::generate_key_and_csr();
        let request = JoinRequest {
            token: join.token.to_hex(),
            csr,
            facts: Labels::new(),
            labels: Labels::new(),
            replaces: None,
            operator: false,
            root: None,
        };
        let answer = Client::for_joining(join).join(&request).await.unwrap();
        let identity = tls::Identity::from_pem(&answer.certificate, &key, &answer.ca).unwrap();
        let config = tls::client_config(Some(&identity), &identity.ca).unwrap();
        Self {
            node: answer.node,
            identity,
            client: Client::new(join.servers.clone(), config),
        }
    }

    /// Says where it is, and what it is told then.
    pub(crate) async fn head(&self, addresses: Vec<SocketAddr>) -> Head {
        let presence = Presence {
            addresses,
            facts: Labels::new(),
            version: "0.1.0".into(),
            networks: Vec::new(),
        };
        self.client.presence(&presence).await.unwrap();
        self.client.head(&HeadQuery::default()).await.unwrap()
    }
}
