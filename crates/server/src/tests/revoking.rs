use hyper::StatusCode;
use potluck_model::api::{ErrorKind, Head, JoinAnswer, Labels, NodeInfo, RevokeAnswer, RevokeRequest, Standing};
use potluck_model::join::fingerprint;
use potluck_model::{NodeId, UnixSeconds};

use super::World;
use super::world::{key_and_csr, renewal};
use crate::authority::RequestedKey;
use crate::caller::Role;
use crate::routes;
use crate::table::Who;

impl World {
    async fn revoke(&self, node: NodeId) -> RevokeAnswer {
        let request = RevokeRequest {
            nodes: vec![node.to_string()],
            reason: "stolen".into(),
        };
        self.operator.post("/v1/revocations", &request).await.json()
    }
}

#[tokio::test]
async fn a_revoked_node_may_do_nothing_from_then_on() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    node.client.get("/v1/node/head").await.expect(StatusCode::OK);
    assert_eq!(world.revoke(node.id).await.revoked, [node.id]);
    assert_eq!(world.revoke(node.id).await.revoked, []);
    let expired = world.as_node(node.id, &node.key, UnixSeconds(UnixSeconds::now().0 - 60 * 86_400));
    let role = Role::Node(node.id);
    for client in [&node.client, &expired] {
        for route in routes::all() {
            let path = super::access::concrete(route.path);
            let answer = client.send(route.method.clone(), &path, &[], Vec::new()).await;
            if route.who == Who::Open {
                assert_ne!(answer.status, StatusCode::FORBIDDEN, "{path}");
            } else {
                assert_eq!(
                    answer.status,
                    StatusCode::FORBIDDEN,
                    "{} {path} as {role:?}",
                    route.method
                );
            }
        }
        let message = client
            .post("/v1/node/renew", &renewal(&node.key))
            .await
            .refused(403, ErrorKind::Revoked);
        assert!(message.contains("was revoked"), "{message}");
    }
    let info = world.info(node.id).await;
    assert_eq!(
        (info.standing, info.reason.as_deref()),
        (Standing::Revoked, Some("stolen"))
    );
    let path = format!("/v1/nodes/{}/approve", node.id);
    world.operator.post(&path, &()).await.refused(409, ErrorKind::Conflict);
}

#[tokio::test]
async fn who_waits_for_an_answer_is_refused_the_moment_that_it_is_revoked_and_others_hear_of_it() {
    let world = World::new().await;
    let (one, two) = (world.node(&[]).await, world.node(&[]).await);
    let cursor = two.head(0, 0).await.cursor;
    let path = format!("/v1/node/head?cursor={}&wait=55", one.head(0, 0).await.cursor);
    let waiting = one.client.get(&path);
    let (refused, head, _) = tokio::join!(waiting, two.head(cursor, 55), async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        world.revoke(one.id).await
    });
    refused.refused(403, ErrorKind::Revoked);
    let list = head.revocations.unwrap();
    assert!(two.answer.root.verify_revocations(&list).unwrap().revokes(one.id));
    assert_eq!(head.fleet_keys.len(), 2, "a new key, and the old one for a while");
}

#[tokio::test]
async fn the_connection_of_a_revoked_node_is_cut_although_it_asks_for_nothing() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    let mut connection = node.client.connect().await.unwrap();
    let request = hyper::Request::get("/v1/health").header("host", "server");
    let request = request.body(http_body_util::Full::default()).unwrap();
    assert!(connection.send_request(request).await.unwrap().status().is_success());
    world.revoke(node.id).await;
    // The server closes it, although nothing more was asked.
    let closed = async {
        while !connection.is_closed() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), closed)
        .await
        .unwrap();
    assert!(connection.ready().await.is_err());
}

#[tokio::test]
async fn the_list_comes_with_the_head_only_to_who_has_another_one() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    let first = node.head(0, 0).await.revocations.unwrap();
    let list = node.answer.root.verify_revocations(&first).unwrap().clone();
    assert_eq!((list.nodes.len(), list.grace_seconds), (0, Some(86_400)));
    let with = |number: u64, issued: u64| {
        let path = format!("/v1/node/head?revocations={number}&issued={issued}");
        let client = node.client.clone();
        async move { client.get(&path).await.json::<Head>().revocations }
    };
    assert_eq!(with(list.number, list.issued.0).await, None);
    let later = with(list.number, list.issued.0 - 7_200).await.unwrap();
    assert_eq!(later.signed.number, list.number, "the same again, signed now");
    let other = world.node(&[]).await;
    world.revoke(other.id).await;
    let newer = with(list.number, list.issued.0).await.unwrap();
    assert!(newer.signed.number > list.number);
    assert_eq!(newer.signed.nodes, [other.id]);
}

#[tokio::test]
async fn a_node_that_waits_for_approval_has_nothing_and_shows_the_same_fingerprint_as_the_server() {
    let world = World::new().await;
    let join = world.token_with(1, Labels::new(), true).await;
    let (key, csr) = key_and_csr();
    let shown = fingerprint(&RequestedKey::parse(&csr).unwrap().digest());
    let message = world.join(&join, &csr).await.refused(403, ErrorKind::Pending);
    assert!(
        message.contains(&shown) && message.contains("potluck approve"),
        "{message}"
    );
    let nodes: Vec<NodeInfo> = world.operator.get("/v1/nodes").await.json();
    let [pending] = nodes.as_slice() else {
        panic!("{nodes:?}")
    };
    assert_eq!((pending.standing, &pending.fingerprint), (Standing::Pending, &shown));
    // Had it a certificate from elsewhere, it would be refused all the same.
    let early = world.as_node(pending.node, &key, UnixSeconds::now());
    for path in ["/v1/node/head", "/v1/content/00"] {
        early.get(path).await.refused(403, ErrorKind::Pending);
    }
    world.join(&join, &csr).await.refused(403, ErrorKind::Pending);
    let path = format!("/v1/nodes/{}/approve", pending.node);
    let approved: NodeInfo = world.operator.post(&path, &()).await.json();
    assert_eq!(approved.standing, Standing::Admitted);
    let answer: JoinAnswer = world.join(&join, &csr).await.json();
    assert_eq!(answer.node, pending.node);
    early.get("/v1/node/head").await.expect(StatusCode::OK);
    let (_, other) = key_and_csr();
    world.join(&join, &other).await.refused(403, ErrorKind::Token);
}

#[tokio::test]
async fn a_name_that_is_nobodys_revokes_nobody() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    let request = RevokeRequest {
        nodes: vec![node.id.to_string(), "nobody".into()],
        reason: String::new(),
    };
    world
        .operator
        .post("/v1/revocations", &request)
        .await
        .refused(404, ErrorKind::NotFound);
    assert_eq!(world.info(node.id).await.standing, Standing::Admitted);
}
