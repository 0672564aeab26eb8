use hyper::{Method, StatusCode};
use potluck_model::api::{
    ErrorKind, HaltRequest, JoinRequest, Labels, OperatorAnswer, OperatorInfo, OperatorRequest, TokenAnswer,
};
use potluck_model::audit::{AuditLog, Checkpoint};
use potluck_model::join::JoinString;

use super::World;
use super::world::{Answer, Client, Identity, key_and_csr};
use crate::caller::Role;
use crate::routes;
use crate::table::Who;

impl World {
    async fn operator_token(&self, name: &str) -> JoinString {
        let request = OperatorRequest {
            name: name.into(),
            ttl_seconds: 60,
        };
        let answer: TokenAnswer = self.operator.post("/v1/operators", &request).await.json();
        answer.join.parse().unwrap()
    }

    async fn join_as_operator(&self, join: &JoinString, csr: &str) -> Answer {
        let request = JoinRequest {
            token: join.token.to_hex(),
            csr: csr.to_owned(),
            facts: Labels::new(),
            labels: Labels::new(),
            replaces: None,
            operator: true,
            root: None,
        };
        self.client(None).post("/v1/join", &request).await
    }

    async fn new_operator(&self, name: &str) -> Client {
        let join = self.operator_token(name).await;
        let (key, csr) = key_and_csr();
        let answer: OperatorAnswer = self.join_as_operator(&join, &csr).await.json();
        assert_eq!((answer.operator.as_str(), answer.root.digest()), (name, join.root));
        self.client(Some(&Identity {
            certificate: answer.certificate,
            key,
        }))
    }

    async fn log(&self) -> AuditLog {
        self.operator.get("/v1/audit").await.json()
    }
}

#[tokio::test]
async fn an_operator_joins_with_a_key_of_their_own_and_may_what_operators_may() {
    let world = World::new().await;
    let alice = world.new_operator("alice").await;
    alice.get("/v1/status").await.expect(StatusCode::OK);
    alice.get("/v1/node/head").await.refused(403, ErrorKind::Forbidden);
    let all: Vec<OperatorInfo> = alice.get("/v1/operators").await.json();
    let names: Vec<&str> = all.iter().map(|operator| operator.name.as_str()).collect();
    assert_eq!(names, ["admin", "alice"]);
}

#[tokio::test]
async fn a_join_string_of_a_node_makes_no_operator_and_the_other_way_round() {
    let world = World::new().await;
    let (_, csr) = key_and_csr();
    let node = world.token(1, Labels::new()).await;
    world.join_as_operator(&node, &csr).await.refused(403, ErrorKind::Token);
    let operator = world.operator_token("alice").await;
    world.join(&operator, &csr).await.refused(403, ErrorKind::Token);
    world.join_as_operator(&operator, &csr).await.expect(StatusCode::OK);
    let (_, other) = key_and_csr();
    let message = world
        .join_as_operator(&operator, &other)
        .await
        .refused(403, ErrorKind::Token);
    assert!(message.contains("has been used"), "{message}");
}

#[tokio::test]
async fn an_operator_that_was_removed_or_has_a_new_key_may_do_nothing_on_any_route() {
    let world = World::new().await;
    let alice = world.new_operator("alice").await;
    let bob = world.new_operator("bob").await;
    world
        .operator
        .delete("/v1/operators/alice")
        .await
        .expect(StatusCode::NO_CONTENT);
    let again = world.new_operator("bob").await;
    let role = Role::Operator("any".into());
    for (client, why) in [(&alice, "was removed"), (&bob, "another credential")] {
        for route in routes::all()
            .iter()
            .filter(|route| route.who.admits(&role) && route.who != Who::Open)
        {
            let path = super::access::concrete(route.path);
            let answer = client.send(route.method.clone(), &path, &[], Vec::new()).await;
            let message = answer.refused(403, ErrorKind::Forbidden);
            assert!(message.contains(why), "{path}: {message}");
        }
    }
    again.get("/v1/status").await.expect(StatusCode::OK);
    let message = world
        .operator
        .delete("/v1/operators/admin")
        .await
        .refused(409, ErrorKind::Conflict);
    assert!(message.contains("data directory"), "{message}");
    world
        .operator
        .delete("/v1/operators/nobody")
        .await
        .refused(404, ErrorKind::NotFound);
    for name in ["", "Alice", "a.b", "-a", "admin"] {
        let request = OperatorRequest {
            name: name.into(),
            ttl_seconds: 60,
        };
        let status = world.operator.post("/v1/operators", &request).await.status;
        assert!(status.is_client_error(), "{name:?}");
    }
}

#[tokio::test]
async fn a_local_credential_that_was_lost_is_good_for_nothing_once_there_is_another() {
    let mut world = World::new().await;
    let stolen = world.operator.clone();
    std::fs::remove_file(&world.running().operator).unwrap();
    world.restart().await;
    world.operator.get("/v1/status").await.expect(StatusCode::OK);
    let stolen = stolen.at(world.running().address);
    let message = stolen.get("/v1/status").await.refused(403, ErrorKind::Forbidden);
    assert!(message.contains("another credential"), "{message}");
}

#[tokio::test]
async fn what_operators_change_is_in_the_log_before_it_is_done_and_what_was_refused_too() {
    let world = World::new().await;
    let alice = world.new_operator("alice").await;
    let begin = world.log().await.newest;
    alice
        .post("/v1/halt", &HaltRequest { halted: true })
        .await
        .expect(StatusCode::NO_CONTENT);
    alice
        .delete("/v1/assignments?configuration=nothing")
        .await
        .refused(404, ErrorKind::NotFound);
    alice.get("/v1/status").await.expect(StatusCode::OK);
    let log = world.log().await;
    let end = log
        .entries
        .iter()
        .try_fold(Checkpoint::START, Checkpoint::then)
        .unwrap();
    assert_eq!(end, log.newest);
    let new = &log.entries[begin.number as usize..];
    let [halt, unassign, refused] = new else {
        panic!("{new:?}")
    };
    assert_eq!(
        (halt.operator.as_str(), halt.request.as_str()),
        ("alice", "POST /v1/halt")
    );
    assert_eq!(halt.body, r#"{"halted":true}"#);
    assert_eq!(unassign.request, "DELETE /v1/assignments?configuration=nothing");
    assert_eq!(refused.refused, Some(unassign.number));
    // Nodes are told where the log ends.
    let node = world.node(&[]).await;
    assert_eq!(node.head(0, 0).await.audit, Some(world.log().await.newest));
}

#[tokio::test]
async fn every_route_that_changes_something_is_in_the_log_but_for_uploads() {
    let world = World::new().await;
    for route in routes::all() {
        let before = world.log().await.newest.number;
        let path = super::access::concrete(route.path);
        let answer = world
            .operator
            .send(route.method.clone(), &path, &[], b"{}".to_vec())
            .await;
        if answer.status == StatusCode::FORBIDDEN {
            continue;
        }
        let logged = world.log().await.newest.number > before;
        let upload = route.path.starts_with("/v1/chunks");
        let changes = route.method != Method::GET && route.who == Who::Operator && !upload;
        assert_eq!(logged, changes, "{} {path}", route.method);
    }
}

#[tokio::test]
async fn one_identity_in_two_places_is_shown_until_somebody_decides() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    let head = |instance: u64| {
        let client = node.client.clone();
        async move {
            let path = format!("/v1/node/head?instance={instance}");
            client.get(&path).await.expect(StatusCode::OK)
        }
    };
    for instance in [1, 1, 2, 2] {
        head(instance).await;
    }
    assert_eq!(world.info(node.id).await.twice, None, "it was only started again");
    head(1).await;
    assert!(world.info(node.id).await.twice.is_some());
    let path = format!("/v1/nodes/{}/approve", node.id);
    world.operator.post(&path, &()).await.expect(StatusCode::OK);
    assert_eq!(world.info(node.id).await.twice, None);
}
