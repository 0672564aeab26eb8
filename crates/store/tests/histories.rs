//! Whatever happens to a store, it says it holds what was put and not lost, and gives out nothing else.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use potluck_model::Digest;
use potluck_model::chunk_list::{Chunk, ChunkList};
use potluck_store::{State, Store, StoreError};
use proptest::prelude::*;
use tempfile::TempDir;

const SMALLS: usize = 6;
const FILES: usize = 4;
const CHUNKS: usize = 5;

/// What may happen.
#[derive(Clone, Debug)]
enum Event {
    PutSmalls(Vec<usize>),
    PutWrong(usize),
    Prepare(usize),
    PutChunks(usize, Vec<usize>),
    Flush,
    /// The process is killed and started again.
    Restart,
    /// A byte of a file's container changes.
    Damage(usize, usize),
    Delete(usize),
    Check(usize),
    Locate(usize),
    RemoveAllBut(BTreeSet<usize>),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let file = 0..FILES;
    let small = 0..SMALLS;
    let event = prop_oneof![
        3 => prop::collection::vec(small.clone(), 1..5).prop_map(Event::PutSmalls),
        1 => small.prop_map(Event::PutWrong),
        4 => file.clone().prop_map(Event::Prepare),
        8 => (file.clone(), prop::collection::vec(0..CHUNKS, 1..4)).prop_map(|(file, chunks)| Event::PutChunks(file, chunks)),
        2 => Just(Event::Flush),
        3 => Just(Event::Restart),
        2 => (file.clone(), 0..CHUNKS).prop_map(|(file, chunk)| Event::Damage(file, chunk)),
        1 => file.clone().prop_map(Event::Delete),
        2 => file.clone().prop_map(Event::Check),
        2 => file.prop_map(Event::Locate),
        1 => prop::collection::btree_set(0..SMALLS + FILES, 0..6).prop_map(Event::RemoveAllBut),
    ];
    prop::collection::vec(event, 1..60)
}

fn small(number: usize) -> Vec<u8> {
    vec![number as u8 + 1; number * 700]
}

/// Chunks of files overlap: chunk `n` of file `f` is the same as chunk `n + 1` of file `f - 1`.
fn chunk(file: usize, number: usize) -> Vec<u8> {
    vec![(file + number) as u8 + 100; 5_000 + (file + number) * 13]
}

fn list(file: usize) -> (Digest, ChunkList) {
    let parts: Vec<Vec<u8>> = (0..CHUNKS).map(|number| chunk(file, number)).collect();
    let chunks = parts.iter().map(|part| Chunk {
        digest: Digest::of(part),
        len: part.len() as u32,
    });
    (Digest::of(&parts.concat()), ChunkList::new(chunks.collect()).unwrap())
}

/// The store and what it has to hold.
struct World {
    dir: TempDir,
    store: Option<Store>,
    smalls: BTreeSet<usize>,
    /// Chunks that were put or taken over and not damaged since, of each prepared file.
    files: BTreeMap<usize, BTreeSet<usize>>,
    /// Chunks that are damaged without the store's knowing, perhaps.
    damaged: BTreeSet<(usize, usize)>,
}

impl World {
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn path(&self, file: usize) -> std::path::PathBuf {
        self.dir.path().join("files").join(list(file).0.to_string())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::PutSmalls(numbers) => {
                let items: Vec<(Digest, Vec<u8>)> = numbers
                    .iter()
                    .map(|number| (Digest::of(&small(*number)), small(*number)))
                    .collect();
                assert_eq!(self.store().put_small(&items).unwrap(), vec![true; items.len()]);
                self.smalls.extend(numbers);
            }
            Event::PutWrong(number) => {
                let digest = Digest::of(&small(number));
                assert_eq!(self.store().put_small(&[(digest, b"wrong")]).unwrap(), [false]);
            }
            Event::Prepare(file) => {
                let (digest, list) = list(file);
                let is_gone = !self.path(file).exists();
                let held = self.store().prepare(&digest, &list).unwrap();
                let known = self.files.entry(file).or_default();
                if is_gone {
                    known.clear();
                }
                for (number, held) in held.into_iter().enumerate() {
                    if held && known.insert(number) {
                        // Taken over from another file.
                        self.damaged.remove(&(file, number));
                    }
                    let must = known.contains(&number) && !self.damaged.contains(&(file, number));
                    assert!(held || !must, "chunk {number} of file {file} is lost");
                }
            }
            Event::PutChunks(file, numbers) => {
                let digest = list(file).0;
                let items: Vec<(u32, Vec<u8>)> = numbers
                    .iter()
                    .map(|number| (*number as u32, chunk(file, *number)))
                    .collect();
                let result = self.store().put_chunks(&digest, &items);
                if let Some(known) = self.files.get_mut(&file) {
                    assert_eq!(result.unwrap(), vec![true; items.len()]);
                    known.extend(numbers);
                } else {
                    assert!(matches!(result, Err(StoreError::NotPrepared { .. })));
                }
            }
            Event::Flush => self.store().flush().unwrap(),
            Event::Restart => {
                self.store = None;
                self.store = Some(Store::open(self.dir.path()).unwrap());
                // What was not flushed is found when the file is prepared again.
                for file in self.files.keys().copied().collect::<Vec<_>>() {
                    self.happen(Event::Prepare(file));
                }
            }
            Event::Damage(file, number) => {
                let offset: usize = (0..number).map(|before| chunk(file, before).len()).sum();
                if let Ok(mut bytes) = fs::read(self.path(file))
                    && bytes.len() > offset + 7
                {
                    bytes[offset + 7] = 1;
                    // In place: the store may have it open.
                    fs::write(self.path(file), bytes).unwrap();
                    self.damaged.insert((file, number));
                }
            }
            Event::Delete(file) => {
                if fs::remove_file(self.path(file)).is_ok() {
                    self.damaged.extend((0..CHUNKS).map(|number| (file, number)));
                    // It is noticed when it is prepared again; what is put before that goes nowhere.
                    self.happen(Event::Prepare(file));
                }
            }
            Event::Check(file) => {
                self.store().check(&list(file).0).unwrap();
            }
            Event::Locate(file) => {
                if let Some(location) = self.store().locate(&list(file).0).unwrap() {
                    let len = fs::metadata(location.path).unwrap().len();
                    assert!(location.offset + location.len <= len);
                }
            }
            Event::RemoveAllBut(kept) => {
                let digest = |number: &usize| {
                    if *number < SMALLS {
                        Digest::of(&small(*number))
                    } else {
                        list(*number - SMALLS).0
                    }
                };
                let keep = kept.iter().map(digest).collect();
                self.store().remove_all_but(&keep).unwrap();
                self.smalls.retain(|number| kept.contains(number));
                self.files.retain(|file, _| kept.contains(&(file + SMALLS)));
                self.damaged.retain(|(file, _)| kept.contains(&(file + SMALLS)));
            }
        }
    }

    /// Nothing that must be there is missing, and nothing wrong is given out.
    fn check(&mut self) {
        for number in 0..SMALLS {
            let digest = Digest::of(&small(number));
            let found = self.store().read_small(&digest).unwrap();
            let expected = self.smalls.contains(&number).then(|| small(number));
            assert!(found == expected, "small content {number} is wrong");
        }
        for file in 0..FILES {
            let digest = list(file).0;
            for number in 0..CHUNKS {
                let must = self.files.get(&file).is_some_and(|known| known.contains(&number))
                    && !self.damaged.contains(&(file, number));
                match self.store().read_chunk(&digest, number as u32) {
                    Ok(Some(bytes)) => assert!(bytes == chunk(file, number), "chunk {number} of file {file} is wrong"),
                    Ok(None) => assert!(!must, "chunk {number} of file {file} is lost"),
                    Err(StoreError::Damaged { .. }) => {
                        assert!(!must, "chunk {number} of file {file} is damaged");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            let state = self.store().state(&digest).unwrap();
            assert_eq!(state == State::Absent, !self.files.contains_key(&file));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_holds_what_was_put_and_gives_out_nothing_else(events in events()) {
        let dir = TempDir::new().unwrap();
        let store = Some(Store::open(dir.path()).unwrap());
        let mut world = World {
            dir,
            store,
            smalls: BTreeSet::new(),
            files: BTreeMap::new(),
            damaged: BTreeSet::new(),
        };
        for event in events {
            world.happen(event);
        }
        world.check();
        world.happen(Event::Restart);
        world.check();
        // Whatever there was, it can be fetched again.
        for file in 0..FILES {
            world.happen(Event::Prepare(file));
            world.happen(Event::Check(file));
            world.happen(Event::Prepare(file));
            world.happen(Event::PutChunks(file, (0..CHUNKS).collect()));
            let location = world.store().locate(&list(file).0).unwrap().unwrap();
            prop_assert_eq!(Digest::of(&fs::read(location.path).unwrap()), list(file).0);
        }
    }
}
