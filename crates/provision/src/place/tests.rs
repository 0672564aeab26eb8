//! What is seen of a placement, and what a crash leaves of it.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn write(placement: &mut Placement<'_>, path: &str, mode: u32, bytes: &[u8]) -> Result<(), PlaceError> {
    placement.file(path, mode, |file| {
        file.write_all(bytes)
            .map_err(|error| PlaceError::new("test", error.to_string()))
    })
}

#[test]
fn nothing_is_seen_before_commit_and_nothing_stays_without_it() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("old"), b"old").unwrap();
    let root = MachineRoot::open(temp.path()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut placement = Placement::durable(&root, dir.path()).unwrap();
    write(&mut placement, "old", 0o600, b"new").unwrap();
    write(&mut placement, "a/b/c", 0o600, b"new").unwrap();
    placement.link("l", "a").unwrap();
    assert_eq!(fs::read(temp.path().join("old")).unwrap(), b"old");
    drop(placement);
    assert_eq!(names(temp.path()), ["old"]);
    assert_eq!(fs::read(temp.path().join("old")).unwrap(), b"old");
}

#[test]
fn commit_places_everything_with_its_mode() {
    let temp = tempfile::tempdir().unwrap();
    let root = MachineRoot::open(temp.path()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut placement = Placement::durable(&root, dir.path()).unwrap();
    assert!(placement.directory("d", 0o500).unwrap());
    for number in 0..20 {
        write(&mut placement, &format!("d/{number}"), 0o4755, b"new").unwrap();
    }
    placement.link("l", "d/1").unwrap();
    placement.hard_link("h", "d/2").unwrap();
    assert_eq!(placement.commit().unwrap(), ["d"]);
    assert_eq!(names(temp.path()), ["d", "h", "l"]);
    assert_eq!(names(dir.path()), [""; 0]);
    assert_eq!(names(&temp.path().join("d")).len(), 20);
    let mode = |path: &str| fs::metadata(temp.path().join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("d"), 0o500);
    assert_eq!(mode("d/7"), 0o4755);
    fs::set_permissions(temp.path().join("d"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_file_from_elsewhere_is_renamed_to_its_place_or_copied_where_that_cannot_be() {
    let temp = tempfile::tempdir().unwrap();
    let (root_dir, elsewhere) = (temp.path().join("root"), temp.path().join("staged"));
    fs::create_dir(&root_dir).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let staged = |name: &str, synced| {
        fs::write(elsewhere.join(name), name).unwrap();
        fs::set_permissions(elsewhere.join(name), fs::Permissions::from_mode(0o640)).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Staged {
            directory: std::sync::Arc::new(rustix::fs::open(&elsewhere, flags, Mode::empty()).unwrap()),
            name: name.to_owned(),
            synced,
        }
    };
    let root = MachineRoot::open(&root_dir).unwrap();
    fs::write(root_dir.join("one"), b"old").unwrap();
    let mut placement = Placement::durable(&root, temp.path()).unwrap();
    placement.adopt("one", staged("1", false)).unwrap();
    placement.adopt("a/two", staged("2", true)).unwrap();
    assert_eq!(fs::read(root_dir.join("one")).unwrap(), b"old");
    drop(placement);
    assert_eq!(names(&root_dir), ["one"], "given up, nothing is changed");
    let mut placement = Placement::durable(&root, temp.path()).unwrap();
    placement.adopt("one", staged("1", false)).unwrap();
    placement.adopt("a/two", staged("2", true)).unwrap();
    placement.commit().unwrap();
    assert_eq!(names(&elsewhere), [""; 0]);
    let directory = root.directory("").unwrap();
    copy_over(&staged("3", false), &directory, "one").unwrap();
    assert_eq!(names(&root_dir), ["a", "one"]);
    for (path, bytes) in [("one", "3"), ("a/two", "2")] {
        assert_eq!(fs::read_to_string(root_dir.join(path)).unwrap(), bytes);
        assert_eq!(
            fs::metadata(root_dir.join(path)).unwrap().permissions().mode() & 0o7777,
            0o640
        );
    }
}

#[test]
fn a_link_in_the_place_is_replaced_and_not_followed() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("target"), b"old").unwrap();
    symlink("target", temp.path().join("l")).unwrap();
    let root = MachineRoot::open(temp.path()).unwrap();
    let mut placement = Placement::passing(&root);
    write(&mut placement, "l", 0o644, b"new").unwrap();
    placement.commit().unwrap();
    assert_eq!(fs::read(temp.path().join("target")).unwrap(), b"old");
    assert!(fs::symlink_metadata(temp.path().join("l")).unwrap().is_file());
}

#[test]
fn directories_and_files_do_not_replace_each_other() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("d")).unwrap();
    fs::write(temp.path().join("f"), b"").unwrap();
    let root = MachineRoot::open(temp.path()).unwrap();
    let mut placement = Placement::passing(&root);
    assert!(write(&mut placement, "d", 0o644, b"").is_err());
    assert!(write(&mut placement, "f/x", 0o644, b"").is_err());
    assert!(placement.directory("f", 0o755).is_err());
    assert!(write(&mut placement, "", 0o644, b"").is_err());
}

#[test]
fn what_a_crash_left_is_cleaned_up() {
    let temp = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let root = MachineRoot::open(temp.path()).unwrap();
    let mut placement = Placement::durable(&root, dir.path()).unwrap();
    write(&mut placement, "a", 0o644, b"new").unwrap();
    placement.link("d/l", "a").unwrap();
    // As kill -9 does: nothing is dropped.
    std::mem::forget(placement);
    assert_eq!(names(temp.path()).len(), 2);
    clean_up(&root, dir.path()).unwrap();
    assert_eq!(names(temp.path()), ["d"]);
    assert_eq!(names(&temp.path().join("d")), [""; 0]);
    assert_eq!(names(dir.path()), [""; 0]);
    clean_up(&root, dir.path()).unwrap();
}

#[test]
fn what_a_crash_left_is_written_over() {
    let temp = tempfile::tempdir().unwrap();
    symlink("/etc/passwd", temp.path().join(temp_name("a"))).unwrap();
    let root = MachineRoot::open(temp.path()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut placement = Placement::durable(&root, dir.path()).unwrap();
    write(&mut placement, "a", 0o644, b"new").unwrap();
    placement.commit().unwrap();
    assert_eq!(names(temp.path()), ["a"]);
    assert_eq!(fs::read(temp.path().join("a")).unwrap(), b"new");
}
