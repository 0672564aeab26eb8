use std::time::Duration;

use hyper::StatusCode;
use potluck_model::api::{ErrorKind, JoinAnswer, Labels, RenewAnswer, TokenRequest};
use potluck_model::{Digest, UnixSeconds};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::World;
use super::world::{Identity, key_and_csr, renewal};

#[tokio::test]
async fn a_node_joins_and_is_known_by_its_certificate_from_then_on() {
    let world = World::new().await;
    let join = world.token(1, Labels::new()).await;
    assert_eq!(join.servers, [world.running().address.to_string()]);
    let node = world.node(&[("role", "web")]).await;
    let ca = CertificateDer::from_pem_slice(node.answer.ca.as_bytes()).unwrap();
    assert_eq!(Digest::of(&ca), join.ca, "the CA is the one in the join string");
    assert_eq!(node.answer.root.digest(), join.root);
    let head = node.head(0, 0).await;
    assert_eq!(
        node.answer.root.verify(&head.assignment, node.id, 0).unwrap().release,
        None
    );
    let info = world.info(node.id).await;
    assert_eq!(info.labels.values().collect::<Vec<_>>(), ["web"]);
    assert!(!info.online, "it has not said where it is");
    node.presence(&[]).await.expect(StatusCode::NO_CONTENT);
    assert!(world.info(node.id).await.online);
}

#[tokio::test]
async fn a_token_that_is_wrong_expired_or_used_up_is_refused_and_says_which() {
    let world = World::new().await;
    let (_, csr) = key_and_csr();
    let mut join = world.token(1, Labels::new()).await;
    world.join(&join, &csr).await.expect(StatusCode::OK);
    let (_, other) = key_and_csr();
    let message = world.join(&join, &other).await.refused(403, ErrorKind::Token);
    assert!(message.contains("used up"), "{message}");
    join.token.0[0] ^= 1;
    let message = world.join(&join, &other).await.refused(403, ErrorKind::Token);
    assert!(message.contains("does not know"), "{message}");
    for (uses, ttl_seconds) in [(0, 60), (1, 0), (1, u64::MAX)] {
        let request = TokenRequest {
            uses,
            ttl_seconds,
            labels: Labels::new(),
            approval: false,
        };
        world
            .operator
            .post("/v1/tokens", &request)
            .await
            .refused(400, ErrorKind::BadRequest);
    }
}

#[tokio::test]
async fn a_request_that_cannot_succeed_does_not_use_the_token_up() {
    let world = World::new().await;
    let join = world.token(1, Labels::new()).await;
    world.join(&join, "rubbish").await.refused(400, ErrorKind::BadRequest);
    let (_, csr) = key_and_csr();
    let broken = csr.replacen('M', "N", 1);
    world.join(&join, &broken).await.refused(400, ErrorKind::BadRequest);
    world.join(&join, &csr).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn of_many_nodes_with_a_single_use_token_exactly_one_gets_in() {
    let world = World::new().await;
    let join = world.token(1, Labels::new()).await;
    let attempts = (0..32).map(|_| async {
        let (_, csr) = key_and_csr();
        world.join(&join, &csr).await.status
    });
    let results = futures_util::future::join_all(attempts).await;
    assert_eq!(results.iter().filter(|status| **status == StatusCode::OK).count(), 1);
}

#[tokio::test]
async fn what_a_certificate_request_claims_is_not_believed() {
    let world = World::new().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["root.operator.potluck.internal".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let join = world.token(1, Labels::new()).await;
    let answer: JoinAnswer = world.join(&join, &csr).await.json();
    let der = CertificateDer::from_pem_slice(answer.certificate.as_bytes()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(!parsed.is_ca());
    let names = parsed
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names
        .len();
    assert_eq!(names, 1);
    let identity = Identity {
        certificate: answer.certificate,
        key: key.serialize_pem(),
    };
    let client = world.client(Some(&identity));
    client.get("/v1/status").await.refused(403, ErrorKind::Forbidden);
}

#[tokio::test]
async fn a_node_gets_a_new_certificate_for_its_own_id_and_key_and_no_other() {
    let world = World::with(|config| config.node_certificate_life = Duration::from_secs(7 * 86_400)).await;
    let node = world.node(&[]).await;
    let answer: RenewAnswer = node.client.post("/v1/node/renew", &renewal(&node.key)).await.json();
    let identity = Identity {
        certificate: answer.certificate,
        key: node.key.clone(),
    };
    let der = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    let days = (parsed.validity().not_after.timestamp() as u64 - UnixSeconds::now().0).div_ceil(86_400);
    assert_eq!(days, 7);
    let renewed = world.client(Some(&identity));
    let head: potluck_model::api::Head = renewed.get("/v1/node/head").await.json();
    assert_eq!(head.assignment.signed.node, node.id);
    let (other, _) = key_and_csr();
    let message = renewed
        .post("/v1/node/renew", &renewal(&other))
        .await
        .refused(403, ErrorKind::Forbidden);
    assert!(message.contains("another key"), "{message}");
}
