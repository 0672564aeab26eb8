use hyper::StatusCode;
use potluck_model::api::{ErrorKind, RenewAnswer};
use potluck_model::{NodeId, UnixSeconds};

use super::World;
use super::world::{Client, Identity, key_and_csr, renewal};
use crate::authority::{Authority, RequestedKey};
use crate::caller::Role;
use crate::routes;
use crate::table::Who;

/// A path of the table with something in its braces.
pub(super) fn concrete(path: &str) -> String {
    path.replace("{digest}", &"0".repeat(64))
        .replace("{name}", "web")
        .replace("{node}", "0000000000000000")
        .replace("{id}", "0")
}

/// Calls every route of the table with `client`: where `admitted` says so it gets past the guard, and everywhere else it is
/// refused with `kind`.
async fn try_all(client: &Client, who: &str, kind: ErrorKind, admitted: impl Fn(Who) -> bool) {
    for route in routes::all() {
        let path = concrete(route.path);
        let answer = client.send(route.method.clone(), &path, &[], Vec::new()).await;
        let what = format!("{} {path} as {who}", route.method);
        if admitted(route.who) {
            assert_ne!(answer.status, StatusCode::FORBIDDEN, "{what}");
            assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{what}");
        } else {
            assert!(!answer.refused(403, kind).is_empty(), "{what}");
        }
    }
}

impl World {
    fn authority(&self) -> Authority {
        Authority::open(&self.dir.path().join("keys"), crate::NODE_CERTIFICATE_LIFE).unwrap()
    }

    /// A client with a certificate for this node and this key that was made at `now`.
    pub(super) fn as_node(&self, node: NodeId, key: &str, now: UnixSeconds) -> Client {
        let csr = rcgen::CertificateParams::default()
            .serialize_request(&rcgen::KeyPair::from_pem(key).unwrap())
            .unwrap();
        let requested = RequestedKey::parse(&csr.pem().unwrap()).unwrap();
        let certificate = self.authority().node(node, &requested, now).unwrap();
        self.client(Some(&Identity {
            certificate,
            key: key.to_owned(),
        }))
    }
}

/// Long enough ago for a node's certificate to have expired.
fn long_ago() -> UnixSeconds {
    UnixSeconds(UnixSeconds::now().0 - 60 * 86_400)
}

#[tokio::test]
async fn every_route_admits_whom_the_table_says_and_nobody_else() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    for (client, role) in [
        (world.client(None), Role::Anonymous),
        (node.client.clone(), Role::Node(node.id)),
        (world.operator.clone(), Role::Operator("admin".into())),
    ] {
        let who = format!("{role:?}");
        try_all(&client, &who, ErrorKind::Forbidden, |who| who.admits(&role)).await;
    }
}

#[tokio::test]
async fn an_expired_certificate_of_a_node_is_good_for_renewal_alone() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    let expired = world.as_node(node.id, &node.key, long_ago());
    let role = Role::Node(node.id);
    for route in routes::all().iter().filter(|route| route.who.admits(&role)) {
        let path = concrete(route.path);
        let answer = expired.send(route.method.clone(), &path, &[], Vec::new()).await;
        match route.who {
            Who::Open | Who::NodeToRenew => assert_ne!(answer.status, StatusCode::FORBIDDEN, "{path}"),
            _ => drop(answer.refused(403, ErrorKind::Expired)),
        }
    }
    let answer: RenewAnswer = expired.post("/v1/node/renew", &renewal(&node.key)).await.json();
    let renewed = world.client(Some(&Identity {
        certificate: answer.certificate,
        key: node.key.clone(),
    }));
    renewed.get("/v1/node/head").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn an_expired_certificate_of_an_operator_is_good_for_nothing() {
    let world = World::new().await;
    let path = world.dir.path().join("old.json");
    let servers = [world.running().address.to_string()];
    let years_ago = UnixSeconds(UnixSeconds::now().0 - 2 * 365 * 86_400);
    world
        .authority()
        .write_operator(&path, "admin", &servers, years_ago)
        .unwrap();
    let credential: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let field = |name: &str| credential[name].as_str().unwrap().to_owned();
    let expired = world.client(Some(&Identity {
        certificate: field("certificate"),
        key: field("key"),
    }));
    let role = Role::Operator("admin".into());
    for route in routes::all()
        .iter()
        .filter(|route| route.who.admits(&role) && route.who != Who::Open)
    {
        let answer = expired
            .send(route.method.clone(), &concrete(route.path), &[], Vec::new())
            .await;
        answer.refused(403, ErrorKind::Expired);
    }
}

#[tokio::test]
async fn a_certificate_with_the_id_of_another_node_is_good_for_nothing() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    let (other_key, _) = key_and_csr();
    for now in [UnixSeconds::now(), long_ago()] {
        // Neither of a node that the server does not know, nor of one that joined with another key.
        for id in [node.id, NodeId(1)] {
            let stranger = world.as_node(id, &other_key, now);
            for route in routes::all()
                .iter()
                .filter(|route| route.who.admits(&Role::Node(id)) && route.who != Who::Open)
            {
                let answer = stranger
                    .send(route.method.clone(), &concrete(route.path), &[], Vec::new())
                    .await;
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", route.path);
            }
        }
    }
    let stranger = world.as_node(NodeId(1), &other_key, UnixSeconds::now());
    let message = stranger.get("/v1/node/head").await.refused(403, ErrorKind::Forbidden);
    assert!(message.contains("join it again"), "{message}");
}

#[tokio::test]
async fn only_health_and_joining_are_open_to_everybody() {
    let open: Vec<String> = routes::all()
        .iter()
        .filter(|route| route.who.admits(&Role::Anonymous))
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    assert_eq!(open, ["GET /v1/health", "POST /v1/join"]);
}

#[tokio::test]
async fn a_certificate_of_another_fleet_gets_no_connection() {
    let world = World::new().await;
    let other = World::new().await;
    let stranger = other.node(&[]).await;
    let foreign = Identity {
        certificate: stranger.answer.certificate,
        key: stranger.key,
    };
    for route in routes::all() {
        let client = world.client(Some(&foreign));
        let path = concrete(route.path);
        let answer = client.try_send(route.method.clone(), &path, &[], Vec::new()).await;
        assert!(answer.is_err(), "{} {path}", route.method);
    }
}

#[tokio::test]
async fn unknown_routes_and_methods_are_errors_that_say_where_to_look() {
    let world = World::new().await;
    let message = world
        .operator
        .get("/v1/nonsense")
        .await
        .refused(404, ErrorKind::NotFound);
    assert!(message.contains("openapi.json"), "{message}");
    world
        .operator
        .delete("/v1/status")
        .await
        .refused(400, ErrorKind::BadRequest);
}

#[tokio::test]
async fn the_openapi_document_has_every_route_and_every_schema_that_it_names() {
    let world = World::new().await;
    let document: serde_json::Value = world.operator.get("/v1/openapi.json").await.json();
    for route in routes::all() {
        let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
        assert!(operation["summary"].is_string(), "{} {}", route.method, route.path);
    }
    let text = document.to_string();
    let names = text
        .split("#/components/schemas/")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap());
    let mut count = 0;
    for name in names {
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
        count += 1;
    }
    assert!(count > 20, "{count}");
    assert!(!text.contains("#/$defs/"));
}
