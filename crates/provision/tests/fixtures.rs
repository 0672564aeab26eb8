//! The journal that version 0.1 wrote is read.

use std::fs;
use std::path::Path;

use potluck_provision::state;

#[test]
fn the_last_run_in_a_directory_of_version_1_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/execute-1");
    for entry in fs::read_dir(fixture).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let run = state(dir.path()).unwrap().unwrap();
    assert_eq!(
        run.list.to_string(),
        "c070b0095fda601babe1c60f5e982247078c99beb8003295a8024cb1cf99e0e2"
    );
    assert_eq!((run.configuration.as_str(), run.release), ("web", 1));
    let recap = run.recap().unwrap();
    assert!(run.finished() && recap.converged());
    assert_eq!((recap.changed, recap.unchanged), (0, 2), "the second run of two");
}
