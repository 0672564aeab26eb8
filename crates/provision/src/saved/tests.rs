//! What is kept comes back as it was.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

struct Machine {
    temp: tempfile::TempDir,
    root: MachineRoot,
    placed: PlacedFiles,
}

impl Machine {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        for name in ["root", "dir"] {
            fs::create_dir(temp.path().join(name)).unwrap();
        }
        Self {
            root: MachineRoot::open(&temp.path().join("root")).unwrap(),
            placed: PlacedFiles::open(&temp.path().join("dir"), Path::new("/r")).unwrap(),
            temp,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join("root").join(name)
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("dir")
    }

    fn keep(&self, saved: &mut Saved, paths: &[&str]) {
        let record = Record::new(
            Digest::of(b""),
            &"web".parse().unwrap(),
            &"s".parse().unwrap(),
            &self.root,
        );
        let paths = paths.iter().map(ToString::to_string);
        saved
            .keep(&self.root, &self.placed, record, paths, std::iter::empty())
            .unwrap();
    }

    fn put_back(&mut self, saved: &Saved) -> Vec<String> {
        let (_, record) = saved.last().unwrap().unwrap();
        let dir = self.dir();
        saved.put_back(&self.root, &dir, &mut self.placed, &record).unwrap()
    }
}

#[test]
fn what_was_replaced_comes_back_with_its_mode_and_what_was_made_is_gone() {
    let mut machine = Machine::new();
    fs::write(machine.path("file"), "old").unwrap();
    fs::set_permissions(machine.path("file"), fs::Permissions::from_mode(0o4750)).unwrap();
    symlink("old", machine.path("link")).unwrap();
    let inode = fs::metadata(machine.path("file")).unwrap().ino();
    let mut saved = Saved::open(&machine.dir()).unwrap();
    machine.keep(&mut saved, &["file", "link", "new/deep/file"]);
    for (name, text) in [("file.new", "new"), ("link.new", "a file now")] {
        fs::write(machine.path(name), text).unwrap();
    }
    fs::rename(machine.path("file.new"), machine.path("file")).unwrap();
    fs::rename(machine.path("link.new"), machine.path("link")).unwrap();
    fs::create_dir_all(machine.path("new/deep")).unwrap();
    fs::write(machine.path("new/deep/file"), "new").unwrap();
    // A second process goes on with it, twice: the first time it was cut off before it forgot the record.
    for _ in 0..2 {
        let saved = Saved::open(&machine.dir()).unwrap();
        assert_eq!(machine.put_back(&saved), Vec::<String>::new());
        assert_eq!(fs::read_to_string(machine.path("file")).unwrap(), "old");
        let data = fs::metadata(machine.path("file")).unwrap();
        assert_eq!((data.ino(), data.mode() & 0o7777), (inode, 0o4750));
        assert_eq!(fs::read_link(machine.path("link")).unwrap(), Path::new("old"));
        assert!(!machine.path("new").exists());
    }
    let mut saved = Saved::open(&machine.dir()).unwrap();
    saved.clear().unwrap();
    assert_eq!(fs::read_dir(machine.dir().join("undo")).unwrap().count(), 0);
}

#[test]
fn a_directory_that_somebody_put_something_into_stays() {
    let mut machine = Machine::new();
    let mut saved = Saved::open(&machine.dir()).unwrap();
    machine.keep(&mut saved, &["new/file"]);
    fs::create_dir(machine.path("new")).unwrap();
    fs::write(machine.path("new/file"), "").unwrap();
    fs::write(machine.path("new/theirs"), "").unwrap();
    machine.put_back(&saved);
    assert!(!machine.path("new/file").exists() && machine.path("new/theirs").exists());
}

#[test]
fn what_cannot_be_kept_is_said_when_it_is_to_come_back() {
    let mut machine = Machine::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, machine.path("pipe"), Mode::RWXU).unwrap();
    let mut saved = Saved::open(&machine.dir()).unwrap();
    machine.keep(&mut saved, &["pipe"]);
    let lost = machine.put_back(&saved);
    assert!(lost[0].starts_with("/pipe (it is neither"), "{lost:?}");
}

#[test]
fn no_link_leads_what_comes_back_out_of_the_root() {
    let mut machine = Machine::new();
    let outside = machine.temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(machine.path("d")).unwrap();
    fs::write(machine.path("d/file"), "old").unwrap();
    let mut saved = Saved::open(&machine.dir()).unwrap();
    machine.keep(&mut saved, &["d/file", "d/new"]);
    fs::remove_dir_all(machine.path("d")).unwrap();
    fs::write(outside.join("new"), "precious").unwrap();
    symlink(&outside, machine.path("d")).unwrap();
    let (_, record) = saved.last().unwrap().unwrap();
    let dir = machine.dir();
    let result = saved.put_back(&machine.root, &dir, &mut machine.placed, &record);
    assert!(result.is_err(), "{result:?}");
    assert!(outside.join("new").exists() && !outside.join("file").exists());
}

#[test]
fn a_copy_has_the_bytes_the_mode_and_the_owner() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    fs::write(&from, "text").unwrap();
    fs::set_permissions(&from, fs::Permissions::from_mode(0o2640)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&from, Some(1), Some(2)).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o2640)).unwrap();
    }
    copy(&mut File::open(&from).unwrap(), &mut File::create(&to).unwrap()).unwrap();
    let (from, data) = (fs::metadata(&from).unwrap(), fs::metadata(&to).unwrap());
    assert_eq!(fs::read_to_string(&to).unwrap(), "text");
    assert_eq!(
        (data.mode(), data.uid(), data.gid()),
        (from.mode(), from.uid(), from.gid())
    );
}
