//! What version 0.1 wrote is read, and written again in the same bytes: digests and signatures are made of them.

use potluck_model::assignment::{Assignment, Root, Signed};
use potluck_model::chunk_list::ChunkList;
use potluck_model::join::JoinString;
use potluck_model::list::{Action, List};
use potluck_model::{Digest, NodeId};

const LIST: &[u8] = include_bytes!("../fixtures/list-1.json");
const CHUNK_LIST: &[u8] = include_bytes!("../fixtures/chunk-list-1.bin");
const ASSIGNMENT: &str = include_str!("../fixtures/assignment-1.json");
const ROOT: &str = include_str!("../fixtures/root-1.json");
const JOIN: &str = include_str!("../fixtures/join-1.txt");

#[test]
fn a_list_of_format_1_is_read_and_written_in_the_same_bytes() {
    let list = List::from_bytes(LIST).unwrap();
    assert_eq!(list.to_bytes(), LIST);
    assert_eq!(
        list.digest().to_string(),
        "c070b0095fda601babe1c60f5e982247078c99beb8003295a8024cb1cf99e0e2"
    );
    assert_eq!(
        (list.configuration.as_str(), list.release, list.entries.len()),
        ("web", 1, 4)
    );
    assert!(matches!(&list.steps[1].action, Action::Run { source, .. } if source == "mark.sh"));
}

#[test]
fn a_chunk_list_of_format_1_is_read_and_written_in_the_same_bytes() {
    let list = List::from_bytes(LIST).unwrap();
    let large = list
        .contents()
        .into_iter()
        .find(|content| content.chunks.is_some())
        .unwrap();
    assert_eq!(large.chunks, Some(Digest::of(CHUNK_LIST)));
    let chunks = ChunkList::from_bytes(CHUNK_LIST).unwrap();
    assert_eq!((chunks.size(), chunks.chunks().len()), (large.size, 2));
    assert_eq!(chunks.to_bytes(), CHUNK_LIST);
}

#[test]
fn an_assignment_of_format_1_is_believed() {
    let root: Root = serde_json::from_str(ROOT).unwrap();
    let signed: Signed<Assignment> = serde_json::from_str(ASSIGNMENT).unwrap();
    let node = NodeId(0x8952_4c32_aa58_17f6);
    let assignment = root.verify(&signed, node, 0).unwrap();
    let release = assignment.release.as_ref().unwrap();
    assert_eq!((release.list, release.list_size), (Digest::of(LIST), LIST.len() as u64));
    assert!(root.verify(&signed, node, assignment.sequence + 1).is_err());
}

#[test]
fn a_join_string_of_version_1_is_read_and_written_in_the_same_way() {
    let join: JoinString = JOIN.trim().parse().unwrap();
    assert_eq!(join.servers, ["potluck.example:7440", "127.0.0.1:7996"]);
    assert_eq!(join.root, serde_json::from_str::<Root>(ROOT).unwrap().digest());
    assert_eq!(join.to_string(), JOIN.trim());
}
