//! Power that is lost: an ext4 file system on a loop device is shut down with its ioctl (`EXT4_IOC_SHUTDOWN`, without writing its
//! journal) while steps run, mounted again, and the run is taken up.
//!
//! Needs root, a loop device, mkfs.ext4 and python3, and is for `just long`: `cargo test --test power -- --ignored`. Where the
//! machine does not allow it, it says so and fails.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod executor;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Node, below};
use executor::{power_off, start};
use potluck_model::list::{List, OnInterrupt};
use potluck_model::trace::Outcome::{Changed, Failed, Interrupted, Unchanged};
use potluck_provision::{Job, Position, Record, Tail, last_words};

/// How often the power is lost.
const LOSSES: u64 = 40;
/// A run that was cut off is to be done so long after the next one is started.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// `_IOR('X', 125, __u32)` of linux/fs/ext4, with the flag that leaves the journal unwritten.
const SHUT_DOWN: &str =
    "import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// A file system in a file.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

fn tool(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("power loss is not tried here: cannot start {program}: {error}"));
    assert!(
        output.status.success(),
        "power loss is not tried here: {program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Disk {
    fn new(dir: &Path) -> Self {
        let (image, at) = (dir.join("image"), dir.join("disk"));
        fs::create_dir(&at).unwrap();
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        tool("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
        let disk = Self { image, at };
        disk.mount();
        disk
    }

    fn mount(&self) {
        tool(
            "mount",
            &["-o", "loop", self.image.to_str().unwrap(), self.at.to_str().unwrap()],
        );
    }

    /// What was not made to last is gone.
    fn lose_power(&self) {
        tool("python3", &["-c", SHUT_DOWN, self.at.to_str().unwrap()]);
    }

    fn unmount(&self) {
        // Somebody may be about to let go of it.
        let mut tries = 0;
        while !Command::new("umount").arg(&self.at).output().unwrap().status.success() {
            tries += 1;
            assert!(tries < 200, "{} is still in use", self.at.display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).output();
    }
}

fn release(node: &Node, number: u64) -> List {
    let mut release = node.release(number);
    for file in 0..50 {
        let text = format!("release {number} file {file} ").repeat(100);
        release = release.file(&format!("site/{file}"), 0o644, text);
    }
    let script = |id: &str| {
        format!(
            "echo start {number} >> $POTLUCK_ROOT/{id}.log; sync $POTLUCK_ROOT/{id}.log; sleep 0.03\n\
             echo end {number} >> $POTLUCK_ROOT/{id}.log; sync $POTLUCK_ROOT/{id}.log"
        )
    };
    release
        .place("site", "site", "/srv")
        .script("once", &script("once"))
        .with(|step| step.on_interrupt = OnInterrupt::Fail)
        .script("again", &script("again"))
        .list()
}

#[test]
#[ignore = "needs root and a loop device: just long"]
fn after_a_loss_of_power_nothing_is_torn_wrongly_done_or_done_twice() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(dir.path());
    let (mut interrupted, mut slowest) = (0, Duration::ZERO);
    for loss in 0..LOSSES {
        let node = Node::under(&disk.at);
        let list = release(&node, 1);
        fs::create_dir(node.dir()).unwrap();
        // What fetches has made the contents last before anything is executed.
        tool("sync", &["-f", disk.at.to_str().unwrap()]);
        let executor = start(&node, &list);
        // From before the first line to behind the last.
        std::thread::sleep(Duration::from_millis(loss * 8));
        disk.lose_power();
        power_off(&node, executor);
        disk.unmount();
        disk.mount();

        let begun = Instant::now();
        let status = start(&node, &list).wait().unwrap();
        assert!(status.success(), "{}", last_words(&node.dir()));
        slowest = slowest.max(begun.elapsed());
        let report = node.news();
        for id in ["once", "again"] {
            let log = node.read(&format!("{id}.log"));
            let count = |line: &str| log.lines().filter(|found| *found == line).count();
            let (starts, ends) = (count("start 1"), count("end 1"));
            match report.outcome(id) {
                Changed | Unchanged => assert!(ends >= 1, "{id} is said to have been done: {log:?}"),
                other => assert_eq!(
                    other,
                    if id == "once" {
                        Failed
                    } else {
                        potluck_model::trace::Outcome::Blocked
                    }
                ),
            }
            let repeats = usize::from(id == "again");
            assert!(starts <= 1 + repeats, "{id} began {starts} times");
        }
        for path in below(&node.root("srv")) {
            let text = node.read(&format!("srv/{path}"));
            assert_eq!(
                text,
                format!("release 1 file {path} ").repeat(100),
                "{path} is torn after loss {loss}"
            );
        }
        interrupted += usize::from(
            report
                .ended()
                .iter()
                .any(|(_, outcome)| matches!(outcome, Interrupted | Failed)),
        );
    }
    println!("{LOSSES} losses of power, {interrupted} of them within a step; the slowest recovery took {slowest:?}");
    assert!(interrupted > 0, "no loss of power came within a step");
    assert!(slowest <= RECOVERY_MAX, "{slowest:?}");
}
