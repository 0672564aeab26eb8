//! Publishers who sign elsewhere.

use hyper::StatusCode;
use potluck_model::api::{ErrorKind, PublishRequest, ReleaseTrust, Status, TrustAnswer, TrustChange, TrustInfo};
use potluck_model::{Digest, UnixSeconds};
use potluck_trust::{
    Change, Permission, Role, Root, RootEditor, SecretKey, Signed, Targets, TargetsEditor, Trusted, target_path,
};

use super::world::{Made, World};

/// A publisher on a machine of their own.
struct Publisher {
    key: SecretKey,
}

fn text<T: potluck_trust::Document>(file: &Signed<T>) -> String {
    String::from_utf8(file.to_bytes()).unwrap()
}

async fn info(world: &World) -> TrustInfo {
    world.operator.get("/v1/trust").await.json()
}

fn newest_root(info: &TrustInfo) -> Signed<Root> {
    Signed::from_bytes(info.roots.last().unwrap().as_bytes()).unwrap()
}

fn targets(info: &TrustInfo) -> Signed<Targets> {
    Signed::from_bytes(info.targets.as_ref().unwrap().as_bytes()).unwrap()
}

/// Root and targets for these signers from now on, without signatures.
fn handover(info: &TrustInfo, signers: &[&SecretKey], threshold: usize) -> Change {
    let now = UnixSeconds::now();
    let mut root = RootEditor::after(&newest_root(info), now);
    for role in [Role::Root, Role::Targets] {
        root.clear(role);
        for signer in signers {
            root.add(role, &signer.public());
        }
        root.threshold(role, threshold);
    }
    let mut editor = TargetsEditor::after(&targets(info), now);
    editor.at_least(now.0);
    Change {
        root: Some(root.finish().unwrap()),
        targets: Some(editor.finish().unwrap()),
    }
}

fn sign(change: &mut Change, key: &SecretKey) {
    if let Some(root) = &mut change.root {
        root.sign(key);
    }
    if let Some(targets) = &mut change.targets {
        targets.sign(key);
    }
}

fn told(change: &Change, releases: &[Digest]) -> TrustChange {
    TrustChange {
        root: change.root.as_ref().map(text),
        targets: change.targets.as_ref().map(text),
        releases: releases.to_vec(),
    }
}

impl Publisher {
    /// Takes root and targets away from the server.
    async fn take_over(world: &World) -> Self {
        let key = SecretKey::generate();
        let mut change = handover(&info(world).await, &[&key], 1);
        sign(&mut change, &key);
        let answer: TrustAnswer = world.operator.put("/v1/trust", &told(&change, &[])).await.json();
        assert!(answer.applied, "{:?}", answer.lacking);
        Self { key }
    }

    /// Targets that also permit this release.
    async fn permitting(&self, world: &World, made: &Made, name: &str, number: u64) -> Change {
        let now = UnixSeconds::now();
        let mut editor = TargetsEditor::after(&targets(&info(world).await), now);
        editor.at_least(now.0);
        let list = made.chunks.last().unwrap();
        editor
            .permit(&name.parse().unwrap(), number, list, Permission::of(made.list))
            .unwrap();
        let mut targets = editor.finish().unwrap();
        targets.sign(&self.key);
        Change {
            root: None,
            targets: Some(targets),
        }
    }
}

async fn upload(world: &World, number: u64) -> Made {
    let made = Made::new("web", number, &[("a", format!("release {number}").as_bytes())]);
    world.operator.upload(&made.chunks).await.expect(StatusCode::NO_CONTENT);
    made
}

fn key_files(world: &World) -> Vec<String> {
    let entries = std::fs::read_dir(world.dir.path().join("keys")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.strip_suffix(".key").is_some_and(|role| role != "assignment"))
        .collect();
    names.sort();
    names
}

/// What a node believes of what the server tells it.
async fn believed(world: &World, trust: &ReleaseTrust) -> Trusted {
    let now = UnixSeconds::now();
    let mut trusted = Trusted::from_root(trust.roots[0].as_bytes()).unwrap();
    trusted.follow(&trust.roots).unwrap();
    trusted.update_timestamp(trust.timestamp.as_bytes(), now).unwrap();
    trusted.update_snapshot(trust.snapshot.as_bytes(), now).unwrap();
    let digest = trusted.wanted_targets(now).unwrap().blake3.unwrap();
    let bytes = world.operator.get(&format!("/v1/content/{digest}")).await.body;
    trusted.update_targets(&bytes, now).unwrap();
    trusted
}

#[tokio::test]
async fn after_the_handover_the_server_has_no_key_with_which_to_sign_releases() {
    let mut world = World::new().await;
    world.publish("web", 1, &[("a", b"release 1")]).await;
    assert_eq!(
        key_files(&world),
        ["root.key", "snapshot.key", "targets.key", "timestamp.key"]
    );
    let early = world.token(1, [].into()).await;
    let publisher = Publisher::take_over(&world).await;
    assert_eq!(key_files(&world), ["snapshot.key", "timestamp.key"]);
    let status: Status = world.operator.get("/v1/status").await.json();
    assert!(status.trust.contains("one publisher's key"), "{}", status.trust);

    let made = upload(&world, 2).await;
    let message = world
        .release("web", &made.list)
        .await
        .refused(403, ErrorKind::Forbidden);
    assert!(message.contains("potluck key"), "{message}");
    let change = publisher.permitting(&world, &made, "web", 2).await;
    let answer: TrustAnswer = world
        .operator
        .put("/v1/trust", &told(&change, &[made.list]))
        .await
        .json();
    assert_eq!((answer.applied, answer.releases[0].release), (true, 2));

    world.restart().await;
    let node = world.node(&[]).await;
    let trust = node.head(0, 0).await.trust.unwrap();
    let trusted = believed(&world, &trust).await;
    let path = target_path(&"web".parse().unwrap(), 2);
    assert_eq!(
        Permission::read(trusted.target(&path).unwrap()).unwrap().list,
        made.list
    );
    // Who joins now pins the publisher's root; who has an older join string gets the root that it names.
    assert_eq!(node.answer.root.releases, Some(Digest::of(trust.roots[1].as_bytes())));
    assert_ne!(early.root, node.answer.root.digest());
    let (_, csr) = super::world::key_and_csr();
    let mut request = super::world::join_request(&early, &csr);
    request.root = Some(early.root);
    let joined: potluck_model::api::JoinAnswer = world.client(None).post("/v1/join", &request).await.json();
    assert_eq!(joined.root.digest(), early.root);
}

#[tokio::test]
async fn a_change_waits_until_enough_have_signed_and_survives_a_restart() {
    let mut world = World::new().await;
    let (one, two) = (SecretKey::generate(), SecretKey::generate());
    let mut change = handover(&info(&world).await, &[&one, &two], 2);
    let unsigned = change.clone();
    sign(&mut change, &one);
    let answer: TrustAnswer = world.operator.put("/v1/trust", &told(&change, &[])).await.json();
    assert!(!answer.applied);
    assert_eq!(answer.lacking.len(), 2, "{:?}", answer.lacking);
    assert_eq!(info(&world).await.roots.len(), 1, "nothing is in force yet");
    world.restart().await;
    let other = handover(&info(&world).await, &[&two], 1);
    let message = world
        .operator
        .put("/v1/trust", &told(&other, &[]))
        .await
        .refused(409, ErrorKind::Conflict);
    assert!(message.contains("potluck key sign"), "{message}");
    let mut second = unsigned;
    sign(&mut second, &two);
    let answer: TrustAnswer = world.operator.put("/v1/trust", &told(&second, &[])).await.json();
    assert!(answer.applied, "{:?}", answer.lacking);
    let now = info(&world).await;
    assert_eq!((now.roots.len(), now.waiting), (2, None));
    assert_eq!(now.held, ["snapshot", "timestamp"]);
}

#[tokio::test]
async fn what_a_release_needs_that_waits_for_signatures_is_not_removed() {
    let world = World::new().await;
    let (one, two) = (SecretKey::generate(), SecretKey::generate());
    let mut change = handover(&info(&world).await, &[&one, &two], 2);
    sign(&mut change, &one);
    sign(&mut change, &two);
    let _: TrustAnswer = world.operator.put("/v1/trust", &told(&change, &[])).await.json();
    let made = upload(&world, 1).await;
    let first = Publisher { key: one };
    let mut change = first.permitting(&world, &made, "web", 1).await;
    let answer: TrustAnswer = world
        .operator
        .put("/v1/trust", &told(&change, &[made.list]))
        .await
        .json();
    assert!(!answer.applied);
    super::upkeep::make_packs_old(&world);
    let report = super::upkeep::gc(&world, 1, 0).await;
    assert_eq!(report.chunks, 0, "{report:?}");
    sign(&mut change, &two);
    let answer: TrustAnswer = world
        .operator
        .put("/v1/trust", &told(&change, &[made.list]))
        .await
        .json();
    assert!(answer.applied, "{:?}", answer.lacking);
}

#[tokio::test]
async fn a_change_that_waits_can_be_dropped() {
    let world = World::new().await;
    let (one, two) = (SecretKey::generate(), SecretKey::generate());
    let mut change = handover(&info(&world).await, &[&one, &two], 2);
    sign(&mut change, &one);
    let _: TrustAnswer = world.operator.put("/v1/trust", &told(&change, &[])).await.json();
    world.operator.delete("/v1/trust").await.expect(StatusCode::NO_CONTENT);
    assert_eq!(info(&world).await.waiting, None);
    world
        .operator
        .delete("/v1/trust")
        .await
        .refused(404, ErrorKind::NotFound);
    Publisher::take_over(&world).await;
}

#[tokio::test]
async fn what_no_publisher_signed_or_what_would_harm_is_not_taken() {
    let world = World::new().await;
    let publisher = Publisher::take_over(&world).await;
    let refused = async |change: &TrustChange| {
        let answer = world.operator.put("/v1/trust", change).await;
        assert!(answer.status.is_client_error(), "{}", answer.status);
        String::from_utf8(answer.body.to_vec()).unwrap()
    };
    let message = refused(&TrustChange::default()).await;
    assert!(message.contains("nothing is changed"), "{message}");
    // A stranger's signature.
    let made = upload(&world, 1).await;
    let stranger = Publisher {
        key: SecretKey::generate(),
    };
    let forged = stranger.permitting(&world, &made, "web", 1).await;
    let message = refused(&told(&forged, &[made.list])).await;
    assert!(message.contains("no key that the root names"), "{message}");
    // A release that is not here.
    let elsewhere = Made::new("web", 1, &[("a", b"never uploaded")]);
    let change = publisher.permitting(&world, &elsewhere, "web", 1).await;
    let message = refused(&told(&change, &[])).await;
    assert!(message.contains("which is not on this server"), "{message}");
    // An old change, sent again.
    let old = publisher.permitting(&world, &made, "web", 1).await;
    let _: TrustAnswer = world.operator.put("/v1/trust", &told(&old, &[made.list])).await.json();
    let message = refused(&told(&old, &[])).await;
    assert!(message.contains("changed meanwhile"), "{message}");
    // A root that would leave nobody to sign snapshots.
    let mut change = handover(&info(&world).await, &[&publisher.key], 1);
    let mut editor = RootEditor::after(&newest_root(&info(&world).await), UnixSeconds::now());
    editor.clear(Role::Snapshot).add(Role::Snapshot, &stranger.key.public());
    change.root = Some(editor.finish().unwrap());
    sign(&mut change, &publisher.key);
    let message = refused(&told(&change, &[])).await;
    assert!(message.contains("does not name a key of this server"), "{message}");
    assert_eq!(info(&world).await.waiting, None);
}

#[tokio::test]
async fn fresh_online_keys_are_used_once_a_root_names_them() {
    let world = World::new().await;
    let publisher = Publisher::take_over(&world).await;
    let node = world.node(&[]).await;
    let before = believed(&world, &node.head(0, 0).await.trust.unwrap()).await;
    let keys: potluck_model::api::OnlineKeys = world.operator.post("/v1/trust/online", &()).await.json();
    let mut editor = RootEditor::after(&newest_root(&info(&world).await), UnixSeconds::now());
    for (role, key) in [(Role::Snapshot, &keys.snapshot), (Role::Timestamp, &keys.timestamp)] {
        editor.clear(role).add(role, &key.parse().unwrap());
    }
    let mut change = Change {
        root: Some(editor.finish().unwrap()),
        targets: None,
    };
    sign(&mut change, &publisher.key);
    let answer: TrustAnswer = world.operator.put("/v1/trust", &told(&change, &[])).await.json();
    assert!(answer.applied, "{:?}", answer.lacking);
    let after = believed(&world, &node.head(0, 0).await.trust.unwrap()).await;
    let old = before.timestamp().unwrap();
    assert!(
        after.root().document.verify(old).is_err(),
        "what was stolen is of no use"
    );
    assert_eq!(key_files(&world), ["snapshot.key", "timestamp.key"]);
}

#[tokio::test]
async fn a_restart_signs_nothing_anew_and_a_restored_backup_everything() {
    let mut world = World::new().await;
    world.publish("web", 1, &[("a", b"release 1")]).await;
    let node = world.node(&[]).await;
    let told = async |world: &World| node.client.at(world.running().address).get("/v1/node/head").await;
    let before: potluck_model::api::Head = told(&world).await.json();
    world.restart().await;
    let after: potluck_model::api::Head = told(&world).await.json();
    assert_eq!(after.trust, before.trust);
    std::fs::write(world.dir.path().join("keys/restored"), "").unwrap();
    let targets_before = targets(&info(&world).await).version();
    world.restart().await;
    let restored: potluck_model::api::Head = told(&world).await.json();
    assert_ne!(restored.trust.unwrap().timestamp, before.trust.unwrap().timestamp);
    assert!(targets(&info(&world).await).version() > targets_before);
    assert!(!world.dir.path().join("keys/restored").exists());
}

#[tokio::test]
async fn a_server_that_holds_the_key_signs_what_the_publisher_narrows_and_never_widens_a_minimum() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    let made = upload(&world, 1).await;
    let publish = async |made: &Made, only, minimum| {
        let request = PublishRequest {
            list: made.list,
            only,
            minimum,
        };
        world.operator.post("/v1/configurations/web/releases", &request).await
    };
    let permission = async |list: Digest| {
        let trusted = believed(&world, &node.head(0, 0).await.trust.unwrap()).await;
        let found = trusted.targets().unwrap().document.releases();
        found.map(|release| release.unwrap().2).find(|found| found.list == list)
    };
    let only = Some([node.id].into());
    publish(&made, only.clone(), None).await.expect(StatusCode::OK);
    assert_eq!(permission(made.list).await.unwrap().only, only);
    // The same release, for all nodes from now on.
    publish(&made, None, Some(1)).await.expect(StatusCode::OK);
    let found = permission(made.list).await.unwrap();
    assert_eq!((found.only, found.minimum), (None, Some(1)));
    let second = upload(&world, 2).await;
    publish(&second, None, Some(2)).await.expect(StatusCode::OK);
    let third = upload(&world, 3).await;
    publish(&third, None, None).await.expect(StatusCode::OK);
    assert_eq!(permission(third.list).await.unwrap().minimum, Some(2));
    let fourth = upload(&world, 4).await;
    let message = publish(&fourth, None, Some(9))
        .await
        .refused(400, ErrorKind::BadRequest);
    assert!(message.contains("[narrowed]"), "{message}");
}
