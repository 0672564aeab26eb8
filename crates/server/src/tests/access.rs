use hyper::{Method, StatusCode};
use potluck_model::UnixSeconds;
use potluck_model::api::{ErrorKind, Labels};

use super::World;
use super::world::{Client, Identity, key_and_csr};
use crate::authority::{Authority, RequestedKey};
use crate::caller::Role;
use crate::routes;

/// A path of the table with something in its braces.
fn concrete(path: &str) -> String {
    path.replace("{digest}", &"0".repeat(64))
        .replace("{name}", "web")
        .replace("{node}", "0000000000000000")
        .replace("{id}", "0")
}

async fn try_all(client: &Client, role: &Role) {
    for route in routes::all() {
        let path = concrete(route.path);
        let answer = client.send(route.method.clone(), &path, &[], Vec::new()).await;
        let what = format!("{} {path} as {role:?}", route.method);
        if route.who.admits(role) {
            assert_ne!(answer.status, StatusCode::FORBIDDEN, "{what}");
            assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{what}");
        } else {
            answer.refused(403, ErrorKind::Forbidden);
        }
    }
}

#[tokio::test]
async fn every_route_admits_whom_the_table_says_and_nobody_else() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    try_all(&world.client(None), &Role::Anonymous).await;
    try_all(&node.client, &Role::Node(node.id)).await;
    try_all(&world.operator, &Role::Operator("admin".into())).await;
}

#[tokio::test]
async fn only_health_joining_and_the_document_are_open_to_everybody() {
    let open: Vec<String> = routes::all()
        .iter()
        .filter(|route| route.who.admits(&Role::Anonymous))
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    assert_eq!(open, ["GET /v1/health", "POST /v1/join", "GET /v1/openapi.json"]);
}

#[tokio::test]
async fn a_certificate_of_another_fleet_gets_no_connection() {
    let world = World::new().await;
    let other = World::new().await;
    let (key, csr) = key_and_csr();
    let join = other.token(1, Labels::new()).await;
    let answer: potluck_model::api::JoinAnswer = other.join(&join, &csr).await.json();
    let foreign = Identity {
        certificate: answer.certificate,
        key,
    };
    for route in routes::all() {
        let client = world.client(Some(&foreign));
        let path = concrete(route.path);
        let answer = client.try_send(route.method.clone(), &path, &[], Vec::new()).await;
        assert!(answer.is_err(), "{} {path}", route.method);
    }
}

#[tokio::test]
async fn a_node_that_the_server_does_not_know_may_do_nothing() {
    let world = World::new().await;
    let authority = Authority::open(&world.dir.path().join("keys")).unwrap();
    let (key, csr) = key_and_csr();
    let requested = RequestedKey::parse(&csr).unwrap();
    let id = potluck_model::NodeId(1);
    let certificate = authority.node(id, &requested, UnixSeconds::now()).unwrap();
    let stranger = world.client(Some(&Identity {
        certificate,
        key: key.clone(),
    }));
    let message = stranger.get("/v1/node/head").await.refused(403, ErrorKind::Forbidden);
    assert!(message.contains("join it again"), "{message}");

    let expired = authority.node(id, &requested, UnixSeconds(1_000_000)).unwrap();
    let client = world.client(Some(&Identity {
        certificate: expired,
        key,
    }));
    let answer = client.try_send(Method::GET, "/v1/health", &[], Vec::new()).await;
    assert!(answer.is_err(), "an expired certificate is no certificate");
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
    let document: serde_json::Value = world.client(None).get("/v1/openapi.json").await.json();
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
