use std::time::Duration;

use hyper::StatusCode;
use potluck_model::api::{AssignmentInfo, ErrorKind, HaltRequest, Labels, NodeState, Status, Target};
use tokio::time::{Instant, timeout};

use super::World;

#[tokio::test]
async fn a_waiting_node_learns_of_an_assignment_at_once() {
    let world = World::new().await;
    let release = world.publish("web", 1, &[("a", b"1")]).await;
    let node = world.node(&[]).await;
    let head = node.head(0, 0).await;
    assert_eq!(head.cursor, node.head(0, 0).await.cursor, "nothing changed");
    let waiting = node.head(head.cursor, 50);
    let assigning = async {
        // The poll is most likely there already; if not, it is answered at once, and this proves less, but is right.
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.assigned("web").await;
        Instant::now()
    };
    let (answer, assigned) = tokio::join!(waiting, assigning);
    assert!(
        assigned.elapsed() < Duration::from_secs(20),
        "long before its time was over"
    );
    let assignment = node.answer.root.verify(&answer.assignment, node.id, 0).unwrap();
    assert!(assignment.adoptable(answer.time).is_ok());
    assert_eq!(assignment.release.as_ref().unwrap().list, release.list);
    assert!(assignment.sequence > head.assignment.signed.sequence);
    let again = node.head(0, 0).await.assignment.signed;
    assert_eq!(again.sequence, assignment.sequence, "asking does not make it grow");
}

#[tokio::test]
async fn a_node_that_nothing_concerns_is_answered_when_its_time_is_over() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    let other = world.node(&[("role", "web")]).await;
    world.publish("web", 1, &[("a", b"1")]).await;
    let cursor = node.head(0, 0).await.cursor;
    let began = Instant::now();
    let waiting = async {
        let head = node.head(cursor, 1).await;
        (head, began.elapsed())
    };
    let assigning = world.assign("web", None, Target::Where("role=web".into()));
    let ((head, waited), answer) = tokio::join!(waiting, assigning);
    answer.expect(StatusCode::OK);
    assert_eq!(head.cursor, cursor);
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    assert!(other.head(0, 0).await.assignment.signed.release.is_some());
}

#[tokio::test]
async fn a_halt_reaches_waiting_nodes_and_a_resume_as_well() {
    let world = World::new().await;
    let node = world.node(&[]).await;
    let cursor = node.head(0, 0).await.cursor;
    let halt = async |halted| {
        let answer = world.operator.post("/v1/halt", &HaltRequest { halted }).await;
        answer.expect(StatusCode::NO_CONTENT);
    };
    let (halted, ()) = tokio::join!(node.head(cursor, 30), halt(true));
    assert!(halted.halted);
    let status: Status = world.operator.get("/v1/status").await.json();
    assert!(status.halted);
    let (resumed, ()) = tokio::join!(node.head(halted.cursor, 30), halt(false));
    assert!(!resumed.halted);
}

#[tokio::test]
async fn unknown_names_and_versions_are_told_with_what_was_perhaps_meant() {
    let world = World::new().await;
    let message = world
        .assign("web", None, Target::All)
        .await
        .refused(404, ErrorKind::NotFound);
    assert!(message.contains("potluck publish"), "{message}");
    world.publish("web-edge", 1, &[("a", b"1")]).await;
    world.publish("web-edge", 2, &[("a", b"2")]).await;
    let message = world
        .assign("web-egde", None, Target::All)
        .await
        .refused(404, ErrorKind::NotFound);
    assert!(message.contains("did you mean web-edge?"), "{message}");
    let message = world
        .assign("web-edge", Some("9"), Target::All)
        .await
        .refused(404, ErrorKind::NotFound);
    assert!(message.contains("no release \"9\""), "{message}");
    let node = potluck_model::NodeId(5);
    world
        .assign("web-edge", None, Target::Node(node))
        .await
        .refused(404, ErrorKind::NotFound);
    let bad = Target::Where("role in (".into());
    world
        .assign("web-edge", None, bad)
        .await
        .refused(400, ErrorKind::BadRequest);
    for version in ["1", "two"] {
        world
            .assign("web-edge", Some(version), Target::All)
            .await
            .expect(StatusCode::OK);
    }
    let all: Vec<AssignmentInfo> = world.operator.get("/v1/assignments").await.json();
    assert_eq!(all.len(), 1, "the later replaced the earlier");
    assert_eq!(all[0].release, Some(2));
}

#[tokio::test]
async fn assignments_are_taken_back_by_number_and_by_configuration() {
    let world = World::new().await;
    world.publish("web", 1, &[("a", b"1")]).await;
    let node = world.node(&[("role", "web")]).await;
    let all = world.assigned("web").await;
    assert_eq!(all.matches, 1);
    let other = world.assign("web", None, Target::Where("role=web".into())).await;
    let other: AssignmentInfo = other.json();
    let path = format!("/v1/assignments/{}", all.id);
    world.operator.delete(&path).await.expect(StatusCode::NO_CONTENT);
    world.operator.delete(&path).await.refused(404, ErrorKind::NotFound);
    assert_eq!(world.info(node.id).await.progress.state, NodeState::Waiting);
    let path = "/v1/assignments?configuration=web";
    world.operator.delete(path).await.expect(StatusCode::NO_CONTENT);
    world.operator.delete(path).await.refused(404, ErrorKind::NotFound);
    assert_eq!(world.info(node.id).await.progress.state, NodeState::Unassigned);
    let later: AssignmentInfo = world.assign("web", None, Target::All).await.json();
    assert!(later.id > other.id, "numbers are not used again");
}

#[tokio::test]
async fn labels_that_change_change_what_a_node_is_assigned() {
    let world = World::new().await;
    world.publish("web", 1, &[("a", b"1")]).await;
    let node = world.node(&[]).await;
    node.presence(&["10.0.0.1:7443"]).await.expect(StatusCode::NO_CONTENT);
    let target = Target::Where(" role in (web, db)".into());
    let info: AssignmentInfo = world.assign("web", None, target).await.json();
    assert_eq!(info.matches, 0);
    let cursor = node.head(0, 0).await.cursor;
    let labels = Labels::from([("role".parse().unwrap(), "db".to_owned())]);
    let path = format!("/v1/nodes/host-{}/labels", node.id);
    let (head, answer) = tokio::join!(
        timeout(Duration::from_secs(20), node.head(cursor, 30)),
        world.operator.put(&path, &labels)
    );
    answer.expect(StatusCode::OK);
    assert!(head.unwrap().assignment.signed.release.is_some());
}
