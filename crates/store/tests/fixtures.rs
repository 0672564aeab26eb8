//! A store that version 0.1 wrote is read, and goes on being used.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;

use potluck_model::Digest;
use potluck_store::{State, Store};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn a_store_of_version_1_gives_what_was_put_into_it() {
    let dir = tempfile::tempdir().unwrap();
    copy(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/store-1"),
        dir.path(),
    );
    let store = Store::open(dir.path()).unwrap();
    let digest = |text: &str| text.parse::<Digest>().unwrap();
    let list = digest("c070b0095fda601babe1c60f5e982247078c99beb8003295a8024cb1cf99e0e2");
    let index = digest("deef9af6fca3f4fccb710ad9a4509b0d33c879b9aa70a2857d8b9bd158043e2a");
    let large = digest("304cdcf3c7ba172b8319ad689030423b6285bba4b9ce3486a36637a4a4ccfb64");
    for content in [list, index, large] {
        assert_eq!(store.state(&content).unwrap(), State::Whole, "{content}");
    }
    assert_eq!(store.read_small(&index).unwrap().unwrap(), b"<h1>hello</h1>\n");
    assert_eq!(Digest::of(&store.read_small(&list).unwrap().unwrap()), list);
    let chunks: Vec<u8> = (0..2)
        .flat_map(|chunk| store.read_chunk(&large, chunk).unwrap().unwrap())
        .collect();
    assert_eq!(Digest::of(&chunks), large);
    let more = b"more".as_slice();
    assert_eq!(store.put_small(&[(Digest::of(more), more)]).unwrap(), [true]);
    assert_eq!(store.read_small(&Digest::of(more)).unwrap().unwrap(), more);
}
