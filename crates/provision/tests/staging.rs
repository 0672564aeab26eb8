//! What arrives is copied before a release is complete: what may be seen of that, and what becomes of it.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Node, Report, below};
use potluck_model::chunk_list::{Chunk, ChunkList};
use potluck_model::list::{Action, Entry, List};
use potluck_model::trace::Outcome::{Changed, Failed};
use potluck_model::{Digest, Location};
use potluck_provision::{Arrival, Executor, Job, Part, Position, Record, Tail, discard_staged, last_words, running};
use rustix::process::{Pid, Signal};

const PROGRAM: &str = env!("CARGO_BIN_EXE_potluck-execute");
/// Bytes of a chunk of `BIG`.
const CHUNK: usize = 50_000;

fn until(what: impl Fn() -> bool) {
    for _ in 0..60_000 {
        if what() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it did not come to that in a minute");
}

/// Three chunks, of which the last is short.
fn big() -> Vec<u8> {
    (0..2 * CHUNK + 7).map(|at| (at * at / 251) as u8).collect()
}

fn chunk_list() -> ChunkList {
    let chunks = big()
        .chunks(CHUNK)
        .map(|bytes| Chunk {
            digest: Digest::of(bytes),
            len: bytes.len() as u32,
        })
        .collect();
    ChunkList::new(chunks).unwrap()
}

/// `site/small` and `site/big` to place, and a script that changes its own copies of them.
fn release(node: &Node) -> List {
    let mut list = node
        .release(1)
        .file("site/small", 0o640, "small")
        .file("site/big", 0o775, big())
        .place("site", "site", "/srv")
        .script(
            "script",
            "cat site/small; stat -c %a site/big; echo more >> site/small; chmod 600 site/big; echo other > site/big",
        )
        .list();
    let digest = node.store(&chunk_list().to_bytes());
    for entry in &mut list.entries {
        if let Entry::File { path, chunks, .. } = entry
            && path == "site/big"
        {
            *chunks = Some(digest);
        }
    }
    list
}

/// A job that knows where the list is, and nothing else.
fn empty(job: &Job) -> Job {
    Job {
        contents: Vec::new(),
        ..job.clone()
    }
}

fn stage(node: &Node, job: &Job) -> Executor {
    let executor = Executor::stage(Path::new(PROGRAM), &[], &node.dir(), &empty(job)).unwrap();
    until(|| staged(node).exists());
    executor
}

fn staged(node: &Node) -> PathBuf {
    node.dir().join("staged")
}

fn at(node: &Node, digest: Digest) -> Location {
    let path = node.stored(digest);
    Location {
        len: fs::metadata(&path).unwrap().len(),
        offset: 0,
        path,
    }
}

fn whole(node: &Node, bytes: &[u8]) -> Arrival {
    let digest = Digest::of(bytes);
    Arrival {
        digest,
        at: at(node, digest),
        part: None,
    }
}

fn part(node: &Node, chunks: &[(u32, u32)]) -> Arrival {
    let digest = Digest::of(&big());
    Arrival {
        digest,
        at: at(node, digest),
        part: Some(Part {
            chunk_list: at(node, Digest::of(&chunk_list().to_bytes())),
            chunks: chunks.to_vec(),
        }),
    }
}

/// The staged file with these bytes: its inode.
fn find(node: &Node, bytes: &[u8]) -> Option<u64> {
    fs::read_dir(staged(node)).ok()?.find_map(|entry| {
        let path = entry.ok()?.path();
        (fs::read(&path).ok()? == bytes).then(|| fs::metadata(&path).unwrap().ino())
    })
}

fn finish(node: &Node, mut executor: Executor) -> Report {
    let status = executor.wait().unwrap();
    assert!(status.success(), "{status}: {}", last_words(&node.dir()));
    node.news()
}

fn kill(mut executor: Executor) {
    let pid = Pid::from_raw(i32::try_from(executor.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    executor.wait().unwrap();
}

fn is_placed(node: &Node) {
    assert_eq!(node.read("srv/small"), "small");
    assert_eq!(fs::read(node.root("srv/big")).unwrap(), big());
    assert_eq!((node.mode("srv/small"), node.mode("srv/big")), (0o640, 0o775));
    assert!(!staged(node).exists());
}

#[test]
fn what_was_staged_is_renamed_to_its_place_and_nothing_is_seen_before() {
    let node = Node::new();
    let list = release(&node);
    let job = node.job(&list);
    let mut executor = stage(&node, &job);
    assert_eq!(fs::metadata(staged(&node)).unwrap().permissions().mode() & 0o777, 0o700);
    executor
        .arrived(&[whole(&node, b"small"), part(&node, &[(2, 1)])])
        .unwrap();
    until(|| find(&node, b"small").is_some());
    executor
        .arrived(&[part(&node, &[(0, 1)]), part(&node, &[(0, 2), (7, 9)])])
        .unwrap();
    until(|| find(&node, &big()).is_some());
    let inodes = (find(&node, b"small").unwrap(), find(&node, &big()).unwrap());
    assert_eq!(below(&node.root("")), [""; 0], "nothing is placed before all is there");
    assert!(node.news().records.is_empty(), "no step starts before all is there");
    // The whole contents that it was told of need not be named again.
    let mut rest = job.clone();
    rest.contents.retain(|(digest, _)| *digest != Digest::of(b"small"));
    executor.execute(&rest).unwrap();
    let report = finish(&node, executor);
    assert_eq!(report.ended(), [("site".into(), Changed), ("script".into(), Changed)]);
    assert_eq!(report.output("script"), ["small775"]);
    is_placed(&node);
    let inode = |path: &str| fs::metadata(node.root(path)).unwrap().ino();
    assert_eq!((inode("srv/small"), inode("srv/big")), inodes);
}

#[test]
fn what_a_script_does_to_its_copies_changes_neither_what_is_placed_nor_what_the_next_run_sees() {
    let node = Node::new();
    let list = release(&node);
    let job = node.job(&list);
    let mut executor = stage(&node, &job);
    executor
        .arrived(&[whole(&node, b"small"), part(&node, &[(0, 3)])])
        .unwrap();
    until(|| find(&node, b"small").is_some() && find(&node, &big()).is_some());
    executor.execute(&job).unwrap();
    finish(&node, executor);
    is_placed(&node);
    let private = node.dir().join("files").join(list.digest().to_string());
    assert_eq!(fs::read_to_string(private.join("site/small")).unwrap(), "smallmore\n");
    let mut again = release(&node);
    let Action::Run { args, .. } = &mut again.steps[1].action else {
        panic!("the second step is the script");
    };
    args.push("again".into());
    let report = finish(
        &node,
        Executor::start(Path::new(PROGRAM), &[], &node.dir(), &node.job(&again)).unwrap(),
    );
    assert_eq!(report.output("script"), ["small775"]);
}

#[test]
fn for_scripts_that_have_run_nothing_is_copied() {
    let node = Node::new();
    let releases = node.dir().join("files");
    for number in 1..=2 {
        let list = node
            .release(number)
            .file("site/small", 0o644, format!("small {number}"))
            .place("site", "site", "/srv")
            .script("script", "cat site/small")
            .list();
        let job = node.job(&list);
        let text = format!("small {number}");
        let mut executor = stage(&node, &job);
        executor.arrived(&[whole(&node, text.as_bytes())]).unwrap();
        until(|| find(&node, text.as_bytes()).is_some());
        let private = releases.join(list.digest().to_string());
        assert_eq!(private.exists(), number == 1, "the second release has the same script");
        executor.execute(&job).unwrap();
        finish(&node, executor);
        assert_eq!(node.read("srv/small"), text);
    }
}

#[test]
fn a_file_that_gets_its_group_from_its_directory_is_made_there() {
    let node = Node::new();
    fs::create_dir(node.root("srv")).unwrap();
    // As root: any other group. Else there is none to try it with, and the file just gets its own.
    let group = if rustix::process::geteuid().is_root() {
        4_711
    } else {
        rustix::process::getegid().as_raw()
    };
    std::os::unix::fs::chown(node.root("srv"), None, Some(group)).unwrap();
    fs::set_permissions(node.root("srv"), fs::Permissions::from_mode(0o2755)).unwrap();
    let job = node.job(&release(&node));
    let mut executor = stage(&node, &job);
    executor
        .arrived(&[whole(&node, b"small"), part(&node, &[(0, 3)])])
        .unwrap();
    executor.execute(&job).unwrap();
    finish(&node, executor);
    is_placed(&node);
    assert_eq!(fs::metadata(node.root("srv/small")).unwrap().gid(), group);
    assert_eq!(fs::metadata(node.root("srv/big")).unwrap().gid(), group);
}

#[test]
fn what_is_lacking_when_all_is_there_is_copied_then() {
    for arrived in [0, 1, 2] {
        let node = Node::new();
        let list = release(&node);
        let job = node.job(&list);
        let mut executor = stage(&node, &job);
        if arrived > 0 {
            executor.arrived(&[part(&node, &[(1, 1)])]).unwrap();
            until(|| fs::read_dir(staged(&node)).unwrap().count() > 0);
        }
        if arrived > 1 {
            executor.arrived(&[whole(&node, b"small")]).unwrap();
        }
        executor.execute(&job).unwrap();
        let report = finish(&node, executor);
        assert_eq!(report.output("script"), ["small775"]);
        is_placed(&node);
    }
}

#[test]
fn rotten_bytes_are_never_placed_and_good_ones_that_follow_are() {
    let node = Node::new();
    let list = release(&node);
    let job = node.job(&list);
    for rotten in [b"small".to_vec(), big()] {
        let path = node.stored(Digest::of(&rotten));
        let mut wrong = rotten.clone();
        *wrong.last_mut().unwrap() ^= 1;
        fs::write(&path, &wrong).unwrap();
        let mut executor = stage(&node, &job);
        executor
            .arrived(&[whole(&node, b"small"), part(&node, &[(0, 3)])])
            .unwrap();
        executor.execute(&job).unwrap();
        let report = finish(&node, executor);
        assert_eq!(report.outcome("site"), Failed);
        let message = report.message("site");
        assert_eq!(
            potluck_provision::damaged_content(&message),
            Some(Digest::of(&rotten)),
            "{message}"
        );
        assert_eq!(below(&node.root("")), [""; 0]);
        fs::write(&path, &rotten).unwrap();
    }
    // Rotten when it arrived, and fetched again since.
    let path = node.stored(Digest::of(b"small"));
    fs::write(&path, "smalL").unwrap();
    let mut executor = stage(&node, &job);
    executor
        .arrived(&[whole(&node, b"small"), part(&node, &[(0, 3)])])
        .unwrap();
    until(|| find(&node, &big()).is_some());
    fs::write(&path, "small").unwrap();
    executor.execute(&job).unwrap();
    finish(&node, executor);
    is_placed(&node);
}

#[test]
fn nothing_stays_of_a_release_that_is_not_executed_after_all() {
    let node = Node::new();
    let job = node.job(&release(&node));
    let mut executor = stage(&node, &job);
    executor.arrived(&[whole(&node, b"small")]).unwrap();
    until(|| find(&node, b"small").is_some());
    // `wait` closes the pipe.
    assert!(executor.wait().unwrap().success());
    assert!(!staged(&node).exists());
    assert!(node.news().records.is_empty());
    assert_eq!(below(&node.root("")), [""; 0]);
}

#[test]
fn another_list_than_the_staged_one_is_executed_as_if_nothing_had_been_staged() {
    let node = Node::new();
    let job = node.job(&release(&node));
    let mut executor = stage(&node, &job);
    executor
        .arrived(&[whole(&node, b"small"), part(&node, &[(0, 3)])])
        .unwrap();
    until(|| find(&node, &big()).is_some());
    let other = node
        .release(2)
        .file("site/small", 0o600, "other")
        .place("site", "site", "/srv")
        .list();
    executor.execute(&node.job(&other)).unwrap();
    let report = finish(&node, executor);
    assert_eq!(report.ended(), [("site".into(), Changed)]);
    assert_eq!(below(&node.root("")), ["srv", "srv/small"]);
    assert_eq!(node.read("srv/small"), "other");
    assert!(!staged(&node).exists());
}

#[test]
fn a_job_that_cannot_be_verified_stages_nothing_and_is_refused_when_it_is_to_be_executed() {
    let node = Node::new();
    let mut job = node.job(&release(&node));
    job.assignment = Node::new().job(&release(&node)).assignment;
    let mut executor = Executor::stage(Path::new(PROGRAM), &[], &node.dir(), &job).unwrap();
    executor.arrived(&[whole(&node, b"small")]).unwrap();
    executor.execute(&job).unwrap();
    assert!(!executor.wait().unwrap().success());
    assert!(node.news().trouble()[0].contains("signature"));
    assert!(!staged(&node).exists());
    assert_eq!(below(&node.root("")), [""; 0]);
}

#[test]
fn killed_while_it_stages_or_places_nothing_is_torn_and_nothing_stays() {
    let node = Node::new();
    let list = release(&node);
    let job = node.job(&list);
    for round in 0..40_u64 {
        let mut executor = Executor::stage(Path::new(PROGRAM), &[], &node.dir(), &empty(&job)).unwrap();
        executor
            .arrived(&[part(&node, &[(0, 1)]), whole(&node, b"small")])
            .unwrap();
        executor.arrived(&[part(&node, &[(1, 2)])]).unwrap();
        if round % 2 == 1 {
            executor.execute(&job).unwrap();
        }
        std::thread::sleep(Duration::from_millis(round));
        kill(executor);
        for (path, bytes) in [("srv/small", b"small".to_vec()), ("srv/big", big())] {
            if let Ok(found) = fs::read(node.root(path)) {
                assert_eq!(found, bytes, "{path}");
            }
        }
    }
    until(|| !running(&node.dir()));
    discard_staged(&node.dir()).unwrap();
    assert!(!staged(&node).exists());
    let executor = Executor::start(Path::new(PROGRAM), &[], &node.dir(), &job).unwrap();
    assert!(finish(&node, executor).recap().converged());
    is_placed(&node);
    let left: Vec<String> = below(&node.root(""))
        .into_iter()
        .filter(|path| path.contains(".potluck-"))
        .collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn what_works_is_not_discarded_from_outside() {
    let node = Node::new();
    let executor = stage(&node, &node.job(&release(&node)));
    discard_staged(&node.dir()).unwrap();
    assert!(staged(&node).exists());
    kill(executor);
    discard_staged(&node.dir()).unwrap();
    assert!(!staged(&node).exists());
}
