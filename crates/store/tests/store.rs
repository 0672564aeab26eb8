//! The store's rules, through its public interface.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use potluck_model::Digest;
use potluck_model::chunk_list::{Chunk, ChunkList};
use potluck_store::{State, Store, StoreError};
use tempfile::TempDir;

/// Bytes that differ from seed to seed and do not repeat.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_be_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// A file of `count` chunks of some 100 KiB.
struct Sample {
    digest: Digest,
    whole: Vec<u8>,
    list: ChunkList,
}

impl Sample {
    fn new(seed: u64, count: usize) -> Self {
        let parts: Vec<Vec<u8>> = (0..count)
            .map(|number| bytes(seed * 1_000 + number as u64, 100_000 + number))
            .collect();
        Self::of(&parts)
    }

    fn of(parts: &[Vec<u8>]) -> Self {
        let whole = parts.concat();
        let chunks = parts.iter().map(|part| Chunk {
            digest: Digest::of(part),
            len: part.len() as u32,
        });
        Self {
            digest: Digest::of(&whole),
            list: ChunkList::new(chunks.collect()).unwrap(),
            whole,
        }
    }

    fn chunk(&self, number: u32) -> &[u8] {
        let lengths = self.list.chunks().iter().map(|chunk| chunk.len as usize);
        let from: usize = lengths.take(number as usize).sum();
        &self.whole[from..from + self.list.chunks()[number as usize].len as usize]
    }

    fn put(&self, store: &Store, numbers: impl IntoIterator<Item = u32>) {
        let items: Vec<(u32, &[u8])> = numbers.into_iter().map(|number| (number, self.chunk(number))).collect();
        let good = store.put_chunks(&self.digest, &items).unwrap();
        assert_eq!(good, vec![true; items.len()]);
    }

    fn put_all(&self, store: &Store) {
        store.prepare(&self.digest, &self.list).unwrap();
        self.put(store, 0..self.list.chunks().len() as u32);
    }

    fn file(&self, dir: &Path) -> PathBuf {
        dir.join("files").join(self.digest.to_string())
    }
}

fn located(store: &Store, content: &Digest) -> Vec<u8> {
    let location = store.locate(content).unwrap().unwrap();
    let all = fs::read(&location.path).unwrap();
    all[location.offset as usize..(location.offset + location.len) as usize].to_vec()
}

fn open() -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn smalls(count: u64) -> Vec<(Digest, Vec<u8>)> {
    (0..count)
        .map(|seed| {
            let bytes = bytes(seed, 500 + (seed as usize * 37) % 15_000);
            (Digest::of(&bytes), bytes)
        })
        .collect()
}

#[test]
fn a_small_content_is_given_back_and_located() {
    let (_dir, store) = open();
    let items = smalls(3);
    assert_eq!(store.state(&items[0].0).unwrap(), State::Absent);
    assert_eq!(store.put_small(&items).unwrap(), [true; 3]);
    for (digest, bytes) in &items {
        assert_eq!(store.state(digest).unwrap(), State::Whole);
        assert_eq!(store.read_small(digest).unwrap().as_ref(), Some(bytes));
        assert_eq!(&located(&store, digest), bytes);
    }
    assert_eq!(store.read_chunk(&items[0].0, 1).unwrap(), None);
}

#[test]
fn an_empty_content_is_one_empty_chunk() {
    let (dir, store) = open();
    let empty = Digest::of(b"");
    assert_eq!(store.put_small(&[(empty, b"")]).unwrap(), [true]);
    assert_eq!(store.read_small(&empty).unwrap(), Some(vec![]));
    assert_eq!(store.locate(&empty).unwrap().unwrap().len, 0);
    store.flush().unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.state(&empty).unwrap(), State::Whole);
    assert_eq!(located(&store, &empty), b"");
}

#[test]
fn what_does_not_have_its_digest_is_not_kept() {
    let (_dir, store) = open();
    let (good, bad) = (Digest::of(b"good"), Digest::of(b"bad"));
    assert_eq!(
        store.put_small(&[(good, "good"), (bad, "evil")]).unwrap(),
        [true, false]
    );
    assert_eq!(store.state(&bad).unwrap(), State::Absent);

    let sample = Sample::new(1, 3);
    store.prepare(&sample.digest, &sample.list).unwrap();
    let items = [(0, sample.chunk(0)), (1, sample.chunk(2)), (3, sample.chunk(2))];
    assert_eq!(store.put_chunks(&sample.digest, &items).unwrap(), [true, false, false]);
    assert_eq!(store.held(&sample.digest).unwrap().unwrap(), [true, false, false]);
    assert_eq!(store.read_chunk(&sample.digest, 1).unwrap(), None);
}

#[test]
fn chunks_come_in_any_order_and_are_held_at_once() {
    let (_dir, store) = open();
    let sample = Sample::new(1, 4);
    assert_eq!(store.prepare(&sample.digest, &sample.list).unwrap(), [false; 4]);
    assert_eq!(store.locate(&sample.digest).unwrap(), None);
    for number in [2, 0, 3] {
        sample.put(&store, [number]);
        assert_eq!(
            store.read_chunk(&sample.digest, number).unwrap().unwrap(),
            sample.chunk(number)
        );
        assert_eq!(store.state(&sample.digest).unwrap(), State::Partial);
    }
    sample.put(&store, [1, 1]);
    assert_eq!(store.state(&sample.digest).unwrap(), State::Whole);
    assert_eq!(located(&store, &sample.digest), sample.whole);
    assert_eq!(store.prepare(&sample.digest, &sample.list).unwrap(), [true; 4]);
}

#[test]
fn chunks_of_a_content_that_was_not_prepared_are_refused() {
    let (_dir, store) = open();
    let sample = Sample::new(1, 2);
    let refused = store.put_chunks(&sample.digest, &[(0, sample.chunk(0))]);
    assert!(matches!(refused, Err(StoreError::NotPrepared { content }) if content == sample.digest));
}

#[test]
fn states_are_told_in_bulk_in_the_order_asked() {
    let (_dir, store) = open();
    let items = smalls(2);
    store.put_small(&items[..1]).unwrap();
    let sample = Sample::new(1, 2);
    store.prepare(&sample.digest, &sample.list).unwrap();
    assert_eq!(
        store.states(&[items[1].0, sample.digest, items[0].0]).unwrap(),
        [State::Absent, State::Partial, State::Whole]
    );
}

#[test]
fn many_contents_are_found_as_one_by_one_before_and_after_a_flush() {
    let (dir, store) = open();
    let items = smalls(400);
    let (whole, part) = (Sample::new(1_001, 2), Sample::new(1_002, 2));
    whole.put_all(&store);
    store.prepare(&part.digest, &part.list).unwrap();
    part.put(&store, [1]);
    let mut all: Vec<Digest> = items.iter().map(|(digest, _)| *digest).collect();
    all.extend([whole.digest, part.digest]);
    let check = |held: usize| {
        let one_by_one: Vec<_> = all.iter().map(|digest| store.locate(digest).unwrap()).collect();
        assert_eq!(store.locate_all(&all).unwrap(), one_by_one);
        assert_eq!(one_by_one.iter().flatten().count(), held + 1);
        let states: Vec<_> = all.iter().map(|digest| store.state(digest).unwrap()).collect();
        assert_eq!(store.states(&all).unwrap(), states);
    };
    check(0);
    store.put_small(&items[100..300]).unwrap();
    check(200);
    store.flush().unwrap();
    store.put_small(&items[..100]).unwrap();
    check(300);
    // What lies in a file that is gone is gone, and the rest is found all the same.
    fs::remove_dir_all(dir.path().join("packs")).unwrap();
    assert_eq!(store.locate_all(&all).unwrap().iter().flatten().count(), 1);
    let room = store.locate_part(&part.digest).unwrap().unwrap();
    assert_eq!(
        (room.path, room.offset, room.len),
        (part.file(dir.path()), 0, part.list.size())
    );
    assert_eq!(store.locate_part(&Digest::of(b"unknown")).unwrap(), None);
}

#[test]
fn what_was_flushed_is_there_after_a_restart() {
    let (dir, store) = open();
    let items = smalls(10);
    store.put_small(&items).unwrap();
    let (whole, part) = (Sample::new(1, 3), Sample::new(2, 3));
    whole.put_all(&store);
    store.prepare(&part.digest, &part.list).unwrap();
    part.put(&store, [1]);
    store.flush().unwrap();
    drop(store);

    let store = Store::open(dir.path()).unwrap();
    for (digest, bytes) in &items {
        assert_eq!(store.read_small(digest).unwrap().as_ref(), Some(bytes));
    }
    assert_eq!(store.state(&whole.digest).unwrap(), State::Whole);
    assert_eq!(located(&store, &whole.digest), whole.whole);
    assert_eq!(store.state(&part.digest).unwrap(), State::Partial);
    assert_eq!(store.read_chunk(&part.digest, 1).unwrap().unwrap(), part.chunk(1));
    assert_eq!(store.prepare(&part.digest, &part.list).unwrap(), [false, true, false]);
    part.put(&store, [0, 2]);
    assert_eq!(located(&store, &part.digest), part.whole);
}

#[test]
fn what_was_written_but_not_flushed_is_found_after_a_restart() {
    let (dir, store) = open();
    let items = smalls(10);
    store.put_small(&items).unwrap();
    let sample = Sample::new(1, 5);
    store.prepare(&sample.digest, &sample.list).unwrap();
    sample.put(&store, [0, 3]);
    drop(store);

    let store = Store::open(dir.path()).unwrap();
    for (digest, bytes) in &items {
        assert_eq!(store.read_small(digest).unwrap().as_ref(), Some(bytes));
    }
    assert_eq!(
        store.prepare(&sample.digest, &sample.list).unwrap(),
        [true, false, false, true, false]
    );
}

#[test]
fn a_torn_end_of_a_pack_is_not_taken_for_content() {
    let (dir, store) = open();
    let items = smalls(4);
    store.put_small(&items).unwrap();
    let last = store.locate(&items[3].0).unwrap().unwrap();
    let places: Vec<u64> = items
        .iter()
        .map(|(digest, _)| store.locate(digest).unwrap().unwrap().offset)
        .collect();
    drop(store);
    let end = *places.iter().max().unwrap();
    let file = fs::File::options().write(true).open(&last.path).unwrap();
    file.set_len(end + 5).unwrap();

    let store = Store::open(dir.path()).unwrap();
    for ((digest, bytes), place) in items.iter().zip(&places) {
        let expected = (*place != end).then_some(bytes);
        assert_eq!(store.read_small(digest).unwrap().as_ref(), expected);
    }
    store.put_small(&items).unwrap();
    store.flush().unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    for (digest, bytes) in &items {
        assert_eq!(store.read_small(digest).unwrap().as_ref(), Some(bytes));
    }
}

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let (dir, store) = open();
    assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse { .. })));
    let clone = store.clone();
    drop(store);
    assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse { .. })));
    drop(clone);
    assert!(Store::open(dir.path()).is_ok());
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let (dir, store) = open();
    drop(store);
    let db = rusqlite::Connection::open(dir.path().join("index.db")).unwrap();
    db.pragma_update(None, "user_version", 2).unwrap();
    drop(db);
    assert!(matches!(
        Store::open(dir.path()),
        Err(StoreError::Newer {
            found: 2,
            supported: 1,
            ..
        })
    ));
}

#[test]
fn a_damaged_index_costs_no_more_than_fetching_again() {
    let (dir, store) = open();
    let items = smalls(3);
    store.put_small(&items).unwrap();
    let sample = Sample::new(1, 2);
    sample.put_all(&store);
    store.flush().unwrap();
    drop(store);
    fs::write(dir.path().join("index.db"), vec![7; 8_192]).unwrap();

    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.state(&sample.digest).unwrap(), State::Absent);
    assert!(!sample.file(dir.path()).exists());
    // Packs say themselves what is in them.
    assert_eq!(store.read_small(&items[0].0).unwrap().as_ref(), Some(&items[0].1));
    sample.put_all(&store);
    assert_eq!(located(&store, &sample.digest), sample.whole);
}

#[test]
fn a_corrupted_chunk_is_found_on_reading_and_forgotten() {
    let (dir, store) = open();
    let sample = Sample::new(1, 3);
    sample.put_all(&store);
    store.flush().unwrap();
    let path = sample.file(dir.path());
    let mut raw = fs::read(&path).unwrap();
    raw[100_500] ^= 1;
    fs::write(&path, raw).unwrap();

    assert!(matches!(
        store.read_chunk(&sample.digest, 1),
        Err(StoreError::Damaged { chunk: 1, .. })
    ));
    assert_eq!(store.read_chunk(&sample.digest, 1).unwrap(), None);
    assert_eq!(store.state(&sample.digest).unwrap(), State::Partial);
    assert_eq!(store.locate(&sample.digest).unwrap(), None);
    assert_eq!(
        store.prepare(&sample.digest, &sample.list).unwrap(),
        [true, false, true]
    );
    sample.put(&store, [1]);
    assert_eq!(located(&store, &sample.digest), sample.whole);
}

#[test]
fn a_corrupted_small_content_is_found_on_reading_and_can_be_put_again() {
    for flushed in [false, true] {
        let (_dir, store) = open();
        let items = smalls(2);
        store.put_small(&items).unwrap();
        if flushed {
            store.flush().unwrap();
        }
        let (digest, bytes) = &items[0];
        let location = store.locate(digest).unwrap().unwrap();
        let mut file = fs::File::options().write(true).open(&location.path).unwrap();
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(location.offset)).unwrap();
        file.write_all(&[!bytes[0]]).unwrap();

        assert!(matches!(store.read_small(digest), Err(StoreError::Damaged { .. })));
        assert_eq!(store.state(digest).unwrap(), State::Absent);
        store.put_small(&items).unwrap();
        assert_eq!(store.read_small(digest).unwrap().as_ref(), Some(bytes));
    }
}

#[test]
fn a_truncated_file_is_found_before_it_is_used() {
    let (dir, store) = open();
    let sample = Sample::new(1, 3);
    sample.put_all(&store);
    fs::File::options()
        .write(true)
        .open(sample.file(dir.path()))
        .unwrap()
        .set_len(150_000)
        .unwrap();
    assert_eq!(store.locate(&sample.digest).unwrap(), None);
    assert_eq!(store.held(&sample.digest).unwrap().unwrap(), [true, false, false]);
    sample.put(&store, [1, 2]);
    assert_eq!(located(&store, &sample.digest), sample.whole);
}

#[test]
fn a_deleted_file_is_found_before_it_is_used() {
    let (dir, store) = open();
    let (one, two) = (Sample::new(1, 3), Sample::new(2, 3));
    one.put_all(&store);
    two.put_all(&store);
    let items = smalls(1);
    store.put_small(&items).unwrap();
    store.flush().unwrap();
    let pack = store.locate(&items[0].0).unwrap().unwrap().path;
    drop(store);
    for path in [one.file(dir.path()), two.file(dir.path()), pack] {
        fs::remove_file(path).unwrap();
    }

    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.locate(&one.digest).unwrap(), None);
    assert_eq!(store.prepare(&one.digest, &one.list).unwrap(), [false; 3]);
    assert!(matches!(
        store.read_chunk(&two.digest, 2),
        Err(StoreError::Damaged { .. })
    ));
    assert_eq!(store.locate(&items[0].0).unwrap(), None);
    one.put_all(&store);
    two.put_all(&store);
    store.put_small(&items).unwrap();
    assert_eq!(located(&store, &one.digest), one.whole);
    assert_eq!(store.check(&two.digest).unwrap(), 0);
    assert_eq!(located(&store, &two.digest), two.whole);
    assert_eq!(located(&store, &items[0].0), items[0].1);
}

#[test]
fn chunks_of_other_contents_are_taken_over() {
    let (_dir, store) = open();
    let old = Sample::of(&[bytes(1, 70_000), bytes(2, 80_000), bytes(3, 90_000)]);
    old.put_all(&store);
    let small = bytes(4, 5_000);
    store.put_small(&[(Digest::of(&small), &small)]).unwrap();
    let new = Sample::of(&[
        bytes(3, 90_000),
        bytes(9, 10_000),
        bytes(1, 70_000),
        small,
        bytes(8, 20_000),
    ]);
    assert_eq!(
        store.prepare(&new.digest, &new.list).unwrap(),
        [true, false, true, true, false]
    );
    new.put(&store, [1, 4]);
    assert_eq!(located(&store, &new.digest), new.whole);
}

#[test]
fn a_damaged_chunk_is_not_taken_over() {
    let (dir, store) = open();
    let old = Sample::of(&[bytes(1, 70_000), bytes(2, 80_000)]);
    old.put_all(&store);
    let path = old.file(dir.path());
    let mut raw = fs::read(&path).unwrap();
    raw[0] ^= 1;
    fs::write(&path, raw).unwrap();
    let new = Sample::of(&[bytes(1, 70_000), bytes(2, 80_000), bytes(3, 1)]);
    assert_eq!(store.prepare(&new.digest, &new.list).unwrap(), [false, true, false]);
    assert_eq!(store.held(&old.digest).unwrap().unwrap(), [false, true]);
}

#[test]
fn chunks_of_zeros_need_not_be_fetched() {
    let (_dir, store) = open();
    let image = Sample::of(&[
        bytes(1, 70_000),
        vec![0; 1 << 20],
        vec![0; 1 << 20],
        bytes(2, 70_000),
        vec![0; 1 << 20],
    ]);
    assert_eq!(
        store.prepare(&image.digest, &image.list).unwrap(),
        [false, true, true, false, true]
    );
    image.put(&store, [0, 3]);
    assert_eq!(located(&store, &image.digest), image.whole);
}

#[test]
fn a_content_that_is_cut_otherwise_keeps_its_bytes() {
    let (_dir, store) = open();
    let sample = Sample::new(1, 4);
    store.prepare(&sample.digest, &sample.list).unwrap();
    sample.put(&store, [0, 1, 3]);
    let halves: Vec<Vec<u8>> = sample.whole.chunks(50_000).map(<[u8]>::to_vec).collect();
    let anew = Sample::of(&halves);
    assert_eq!(anew.digest, sample.digest);
    let held = store.prepare(&anew.digest, &anew.list).unwrap();
    assert_eq!(held, [true, true, true, true, false, false, false, true, true]);
    anew.put(&store, [4, 5, 6]);
    assert_eq!(located(&store, &sample.digest), sample.whole);
    assert_eq!(store.prepare(&sample.digest, &sample.list).unwrap(), [true; 4]);
}

#[test]
fn a_content_in_a_pack_can_be_prepared_and_a_prepared_one_put_whole() {
    let (_dir, store) = open();
    let sample = Sample::new(1, 3);
    store.put_small(&[(sample.digest, &sample.whole)]).unwrap();
    assert_eq!(store.prepare(&sample.digest, &sample.list).unwrap(), [true; 3]);
    assert_eq!(store.read_chunk(&sample.digest, 2).unwrap().unwrap(), sample.chunk(2));
    assert_eq!(located(&store, &sample.digest), sample.whole);

    let sample = Sample::new(2, 3);
    store.prepare(&sample.digest, &sample.list).unwrap();
    store.put_small(&[(sample.digest, &sample.whole)]).unwrap();
    assert_eq!(store.state(&sample.digest).unwrap(), State::Whole);
    assert_eq!(located(&store, &sample.digest), sample.whole);
}

#[test]
fn what_is_not_to_be_kept_is_removed_with_its_room() {
    let (dir, store) = open();
    let (kept, gone, part) = (Sample::new(1, 2), Sample::new(2, 2), Sample::new(3, 2));
    kept.put_all(&store);
    gone.put_all(&store);
    store.prepare(&part.digest, &part.list).unwrap();
    let items = smalls(200);
    store.put_small(&items[..100]).unwrap();
    store.flush().unwrap();
    store.put_small(&items[100..]).unwrap();
    let keep: BTreeSet<Digest> = [kept.digest, items[7].0, items[150].0].into();

    let removed = store.remove_all_but(&keep).unwrap();
    assert_eq!(removed.contents, 2 + 198);
    assert_eq!(store.remove_all_but(&keep).unwrap().contents, 0);
    assert!(!gone.file(dir.path()).exists());
    assert!(!part.file(dir.path()).exists());
    let check = |store: &Store| {
        assert_eq!(located(store, &kept.digest), kept.whole);
        assert_eq!(store.read_small(&items[7].0).unwrap().as_ref(), Some(&items[7].1));
        assert_eq!(store.read_small(&items[150].0).unwrap().as_ref(), Some(&items[150].1));
        assert_eq!(store.state(&items[8].0).unwrap(), State::Absent);
        assert_eq!(store.state(&gone.digest).unwrap(), State::Absent);
    };
    check(&store);
    store.flush().unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    check(&store);
    gone.put_all(&store);
    assert_eq!(located(&store, &gone.digest), gone.whole);

    store.remove_all_but(&BTreeSet::new()).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("packs")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(dir.path().join("files")).unwrap().count(), 0);
    store.put_small(&items).unwrap();
    assert_eq!(store.read_small(&items[8].0).unwrap().as_ref(), Some(&items[8].1));
}

#[test]
fn five_thousand_small_contents_cost_a_handful_of_syncs() {
    let (_dir, store) = open();
    let items = smalls(5_000);
    store.put_small(&items).unwrap();
    store.flush().unwrap();
    assert!(store.syncs() <= 8, "{} syncs", store.syncs());
    let digests: Vec<Digest> = items.iter().map(|(digest, _)| *digest).collect();
    assert_eq!(store.states(&digests).unwrap(), vec![State::Whole; 5_000]);
}

#[test]
fn hundreds_of_files_are_synced_together() {
    let (_dir, store) = open();
    for seed in 0..200 {
        Sample::of(&[bytes(seed, 100), bytes(seed + 1_000, 100)]).put_all(&store);
    }
    store.flush().unwrap();
    // A batch that is a second old is committed as well, so a slow machine sees some more.
    assert!(store.syncs() < 50, "{} syncs", store.syncs());
}

#[test]
fn few_files_are_open_however_many_there_are() {
    let (dir, store) = open();
    let samples: Vec<Sample> = (0..100)
        .map(|seed| Sample::of(&[bytes(seed, 100), bytes(seed + 1_000, 100)]))
        .collect();
    for sample in &samples {
        sample.put_all(&store);
        assert_eq!(store.read_chunk(&sample.digest, 1).unwrap().unwrap(), sample.chunk(1));
    }
    let dir = dir.path().canonicalize().unwrap();
    let open = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|path| path.starts_with(&dir))
        .count();
    assert!(open <= 20, "{open} files are open");
}

#[test]
fn many_threads_may_use_one_store() {
    let (_dir, store) = open();
    let sample = Sample::new(1, 40);
    store.prepare(&sample.digest, &sample.list).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u32 {
            let (store, sample) = (store.clone(), &sample);
            scope.spawn(move || {
                for step in 0..40 {
                    let number = (thread * 5 + step) % 40;
                    sample.put(&store, [number]);
                    assert_eq!(
                        store.read_chunk(&sample.digest, number).unwrap().unwrap(),
                        sample.chunk(number)
                    );
                    if step % 10 == thread {
                        store.flush().unwrap();
                    }
                }
            });
        }
    });
    store.flush().unwrap();
    assert_eq!(located(&store, &sample.digest), sample.whole);
}

/// Set for the process that `a_killed_process_loses_nothing_that_was_written` kills.
const CHILD: &str = "POTLUCK_STORE_TEST_DIRECTORY";

#[test]
fn a_killed_process_loses_nothing_that_was_written() {
    let sample = Sample::new(1, 60);
    let items = smalls(60);
    if let Ok(dir) = std::env::var(CHILD) {
        let store = Store::open(Path::new(&dir)).unwrap();
        store.prepare(&sample.digest, &sample.list).unwrap();
        for number in 0..60 {
            sample.put(&store, [number]);
            store.put_small(&items[number as usize..=number as usize]).unwrap();
            println!("put {number}");
            if number % 9 == 8 {
                store.flush().unwrap();
            }
        }
        // Until it is killed.
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        return;
    }
    let dir = TempDir::new().unwrap();
    for kill_after in [0, 3, 8, 9, 30, 59] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_killed_process_loses_nothing_that_was_written",
                "--nocapture",
            ])
            .env(CHILD, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = format!("put {kill_after}");
        let seen = lines.map_while(Result::ok).any(|line| line.ends_with(&wanted));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seen, "the child ended early");

        let store = Store::open(dir.path()).unwrap();
        let held = store.prepare(&sample.digest, &sample.list).unwrap();
        for number in 0..=kill_after {
            assert!(held[number], "chunk {number} after {kill_after}");
            assert_eq!(
                store.read_chunk(&sample.digest, number as u32).unwrap().unwrap(),
                sample.chunk(number as u32)
            );
            let (digest, bytes) = &items[number];
            assert_eq!(store.read_small(digest).unwrap().as_ref(), Some(bytes));
        }
        assert_eq!(store.check(&sample.digest).unwrap(), 0);
    }
}

#[test]
fn what_is_lacking_of_a_content_is_known_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (part, none) = (Sample::new(91, 4), Sample::new(92, 2));
    let small = bytes(93, 700);
    let asked = [
        (part.digest, part.list.size()),
        (none.digest, none.list.size()),
        (Digest::of(&small), 700),
    ];
    assert_eq!(
        store.lacking(&asked).unwrap(),
        [part.list.size(), none.list.size(), 700]
    );
    store.prepare(&part.digest, &part.list).unwrap();
    part.put(&store, [1, 2]);
    store.put_small(&[(Digest::of(&small), &small)]).unwrap();
    let left = (part.chunk(0).len() + part.chunk(3).len()) as u64;
    for _ in 0..2 {
        assert_eq!(store.lacking(&asked).unwrap(), [left, none.list.size(), 0]);
        assert_eq!(store.bytes().unwrap(), part.list.size() + 700);
        store.flush().unwrap();
    }
    part.put(&store, [0, 3]);
    assert_eq!(store.lacking(&asked).unwrap(), [0, none.list.size(), 0]);
}
