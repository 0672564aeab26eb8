//! Who believes whom.

use std::io;
use std::sync::Arc;

use potluck_model::{Digest, NodeId};
use rcgen::{ExtendedKeyUsagePurpose, PublicKeyData as _};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::testing::TestCa;
use super::*;

/// Lets both ends shake hands, and the client send a byte; what each saw of it.
async fn shake(
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
    server: Arc<ServerConfig>,
) -> (io::Result<u8>, io::Result<u8>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let client = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        stream.write_all(b"c").await?;
        stream.flush().await?;
        // TLS 1.3 tells a client that its certificate is refused with the first bytes it reads.
        stream.read_u8().await
    };
    let server = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_all(b"s").await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    tokio::join!(client, server)
}

fn plain_server(identity: &Identity) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), key(identity))
        .unwrap();
    Arc::new(config)
}

const NODE: NodeId = NodeId(0xab);

#[tokio::test]
async fn nodes_of_one_fleet_believe_each_other() {
    let ca = TestCa::new();
    let server = peer_server_config(&ca.node(NODE)).unwrap();
    let client = peer_client_config(&ca.node(NodeId(2))).unwrap();
    let (client, server) = shake(client, node_name(NODE), server).await;
    assert_eq!((client.unwrap(), server.unwrap()), (b's', b'c'));
}

#[tokio::test]
async fn a_peer_is_believed_only_to_be_the_node_in_its_certificate() {
    let ca = TestCa::new();
    let server = peer_server_config(&ca.node(NODE)).unwrap();
    let client = peer_client_config(&ca.node(NodeId(2))).unwrap();
    let (client, server) = shake(client, node_name(NodeId(0xac)), server).await;
    let reason = tls_reason(&client.unwrap_err()).unwrap();
    assert!(reason.contains("not valid for name"), "{reason}");
    assert!(server.is_err());
}

#[tokio::test]
async fn peers_refuse_all_but_certificates_of_nodes_of_their_fleet() {
    let ca = TestCa::new();
    let server = peer_server_config(&ca.node(NODE)).unwrap();
    let other_ca = TestCa::new();
    let mut foreign = other_ca.node(NodeId(2));
    foreign.ca = ca.certificate().clone();
    let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let two_names = [format!("{NODE}{NODE_SUFFIX}"), format!("{}{NODE_SUFFIX}", NodeId(2))];
    let refused = [
        ("foreign", foreign),
        ("operator", ca.operator("alice")),
        ("server", ca.server()),
        ("two names", ca.identity(&[&two_names[0], &two_names[1]], &usages)),
        ("no node id", ca.identity(&["0.node.potluck.internal"], &usages)),
    ];
    for (who, identity) in refused {
        let client = peer_client_config(&identity).unwrap();
        let (client, server) = shake(client, node_name(NODE), server.clone()).await;
        assert!(client.is_err(), "{who}");
        assert!(server.is_err(), "{who}");
    }
}

#[tokio::test]
async fn peers_refuse_those_who_show_no_certificate() {
    let ca = TestCa::new();
    let server = peer_server_config(&ca.node(NODE)).unwrap();
    let client = client_config(None, ca.certificate()).unwrap();
    let mut client = Arc::unwrap_or_clone(client);
    client.alpn_protocols = vec![PEER_ALPN.to_vec()];
    let (client, server) = shake(Arc::new(client), node_name(NODE), server).await;
    assert!(client.is_err());
    assert!(server.is_err());
}

#[tokio::test]
async fn a_client_of_the_api_is_no_peer() {
    let ca = TestCa::new();
    let server = peer_server_config(&ca.node(NODE)).unwrap();
    let client = client_config(Some(&ca.node(NodeId(2))), ca.certificate()).unwrap();
    let (client, server) = shake(client, node_name(NODE), server).await;
    assert!(client.is_err());
    assert!(server.is_err());
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    // A ClientHello of TLS 1.2 with the suite ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, curves, and signature schemes.
    let mut extensions = Vec::new();
    extensions.extend_from_slice(&[0, 10, 0, 4, 0, 2, 0, 23]);
    extensions.extend_from_slice(&[0, 11, 0, 2, 1, 0]);
    extensions.extend_from_slice(&[0, 13, 0, 4, 0, 2, 4, 3]);
    let mut hello = vec![3, 3];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 2, 0xc0, 0x2b, 1, 0]);
    hello.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
    hello.extend_from_slice(&extensions);
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&(hello.len() as u16 + 4).to_be_bytes());
    record.extend_from_slice(&[1, 0]);
    record.extend_from_slice(&(hello.len() as u16).to_be_bytes());
    record.extend_from_slice(&hello);

    let ca = TestCa::new();
    let server = peer_server_config(&ca.node(NODE)).unwrap();
    let (mut near, far) = tokio::io::duplex(64 << 10);
    let client = async {
        near.write_all(&record).await.unwrap();
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let (answer, accepted) = tokio::join!(client, TlsAcceptor::from(server).accept(far));
    assert!(accepted.is_err());
    // A fatal alert: protocol_version.
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70]);
}

#[tokio::test]
async fn a_joining_node_believes_the_server_of_the_join_string() {
    let ca = TestCa::new();
    let client = join_config(Digest::of(ca.certificate()));
    let (client, server) = shake(client, server_name(), plain_server(&ca.server())).await;
    assert_eq!((client.unwrap(), server.unwrap()), (b's', b'c'));
}

#[tokio::test]
async fn a_joining_node_sends_nothing_to_any_other_server() {
    let ca = TestCa::new();
    let other = TestCa::new();
    let mut with_our_ca = other.server();
    with_our_ca.chain = vec![with_our_ca.chain[0].clone(), ca.certificate().clone()];
    let mut without_ca = ca.server();
    without_ca.chain.truncate(1);
    let mut a_node = ca.node(NODE);
    a_node.chain.push(ca.certificate().clone());
    let refused = [
        ("another fleet's", other.server()),
        ("another's with our CA beside it", with_our_ca),
        ("ours without the CA", without_ca),
        ("a node of ours", a_node),
    ];
    for (who, identity) in refused {
        let client = join_config(Digest::of(ca.certificate()));
        let (client, server) = shake(client, server_name(), plain_server(&identity)).await;
        assert!(client.is_err(), "{who}");
        assert!(server.is_err(), "{who}: it got a byte");
    }
}

#[tokio::test]
async fn operators_and_nodes_believe_only_their_fleets_server() {
    let ca = TestCa::new();
    let client = client_config(Some(&ca.operator("alice")), ca.certificate()).unwrap();
    let (near, far) = shake(client.clone(), server_name(), plain_server(&ca.server())).await;
    assert_eq!((near.unwrap(), far.unwrap()), (b's', b'c'));
    for identity in [TestCa::new().server(), ca.node(NODE)] {
        let (near, far) = shake(client.clone(), server_name(), plain_server(&identity)).await;
        assert!(near.is_err());
        assert!(far.is_err());
    }
}

#[test]
fn a_request_for_a_certificate_is_for_the_key_and_names_nobody() {
    install();
    let (key, csr) = generate_key_and_csr();
    let parsed = rcgen::CertificateSigningRequestParams::from_pem(&csr).unwrap();
    assert!(parsed.params.subject_alt_names.is_empty());
    let key_pair = rcgen::KeyPair::from_pem(&key).unwrap();
    assert_eq!(parsed.public_key.der_bytes(), key_pair.public_key_raw());
    let again = rcgen::CertificateSigningRequestParams::from_pem(&csr_of_key(&key).unwrap()).unwrap();
    assert_eq!(again.public_key.der_bytes(), key_pair.public_key_raw());
}

#[test]
fn identities_know_their_node_and_their_end() {
    let ca = TestCa::new();
    assert_eq!(ca.node(NODE).node().unwrap(), NODE);
    let (from, to) = ca.node(NODE).validity().unwrap();
    let now = potluck_model::UnixSeconds::now();
    assert!(from <= now && now < to);
    assert!(matches!(ca.operator("alice").node(), Err(TlsError::NotANode { names }) if names.len() == 1));
    assert!(matches!(node_of(b"no certificate"), Err(TlsError::Certificate(_))));
    assert!(Identity::from_pem("", "", "").is_err());
}

#[test]
fn a_ca_is_taken_only_with_its_fingerprint() {
    let pem = super::testing::pem(TestCa::new().certificate());
    let print = fingerprint(&pem).unwrap();
    assert!(ca_from_pem(&pem, print).is_ok());
    assert!(matches!(ca_from_pem(&pem, Digest::of(b"")), Err(TlsError::OtherCa)));
}
