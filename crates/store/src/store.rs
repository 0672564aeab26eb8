//! The store's operations.

mod prepare;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use potluck_model::chunk_list::META_BYTES_MAX;
use potluck_model::{Digest, Location};

use crate::disk;
use crate::error::StoreError;
use crate::files::{Container, Files};
use crate::index::{Index, Place, Row};
use crate::packs::Packs;

/// Files with unsynced data above which the whole file system is synced instead of each of them.
const SYNC_EACH_MAX: usize = 16;

/// Contents and chunks on this node's disk. Cheap to clone; calls block, and may come from many threads.
///
/// Nothing is kept whose digest does not fit, and nothing is given out without being checked again. What was put counts as
/// held at once; it is durable after `flush`, or once a later `put` finds the batch full (32 MiB) or old (a second). After
/// a kill, what was written but not durable is found again and kept, as far as its digests fit.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// Keeps others out for as long as it is open.
    _lock: File,
    files: Files,
    // Locks are taken in this order.
    committing: Mutex<()>,
    packs: Mutex<Packs>,
    index: Mutex<Index>,
    syncs: AtomicU64,
}

/// How much of a content is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Nothing is known of it.
    Absent,
    /// Room has been made for it, and some of its chunks may be held.
    Partial,
    /// All of it.
    Whole,
}

/// What `remove_all_but` has removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    /// Contents, whole or in part.
    pub contents: u64,
    /// Their sizes, in bytes.
    pub bytes: u64,
}

impl Store {
    /// Opens the store in `dir`, which is created if it is not there. One process has it open at a time.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let make = |dir: &Path| {
            std::fs::create_dir_all(dir).map_err(|error| StoreError::io("creating the directory", dir, error))
        };
        make(dir)?;
        let dir = dir
            .canonicalize()
            .map_err(|error| StoreError::io("finding the directory", dir, error))?;
        let lock = lock(&dir)?;
        let files = Files::new(&dir);
        make(&files.files_dir())?;
        make(&files.packs_dir())?;
        let mut index = Index::open(&dir)?;
        let packs = Packs::open(&files, &mut index)?;
        remove_orphans(&files, &index)?;
        Ok(Self(Arc::new(Inner {
            dir,
            _lock: lock,
            files,
            committing: Mutex::default(),
            packs: Mutex::new(packs),
            index: Mutex::new(index),
            syncs: AtomicU64::new(0),
        })))
    }

    /// Keeps contents of one chunk (lists, chunk lists, small files), each given whole with its digest. Says for each
    /// whether it was good; a content is not if its digest is another, or if it is larger than `META_BYTES_MAX`.
    pub fn put_small<B: AsRef<[u8]>>(&self, items: &[(Digest, B)]) -> Result<Vec<bool>, StoreError> {
        let good: Vec<bool> = items
            .iter()
            .map(|(digest, bytes)| {
                let bytes = bytes.as_ref();
                bytes.len() as u64 <= META_BYTES_MAX && Digest::of(bytes) == *digest
            })
            .collect();
        let mut wanted: BTreeMap<Digest, &[u8]> = items
            .iter()
            .zip(&good)
            .filter(|(_, good)| **good)
            .map(|((digest, bytes), _)| (*digest, bytes.as_ref()))
            .collect();
        let mut packs = self.0.packs();
        let mut in_part = Vec::new();
        {
            let index = self.0.index();
            for digest in wanted.keys().copied().collect::<Vec<_>>() {
                if let Some(row) = index.find(&digest)?
                    && let Some(bytes) = wanted.remove(&digest)
                    && row.missing > 0
                {
                    in_part.push((row, bytes));
                }
            }
        }
        let wanted: Vec<(Digest, &[u8])> = wanted.into_iter().collect();
        let mut made = false;
        let places = packs.append(&self.0.files, &wanted, &mut made);
        let is_due = {
            let mut index = self.0.index();
            if made {
                index.pending.container_made();
            }
            for ((digest, _), small) in wanted.iter().zip(places?) {
                index.pending.add_small(*digest, small);
            }
            index.pending.is_due()
        };
        drop(packs);
        for (row, bytes) in in_part {
            self.fill(&row, bytes)?;
        }
        if is_due {
            self.commit()?;
        }
        Ok(good)
    }

    /// Puts a whole content into the room that was made for its chunks.
    fn fill(&self, row: &Row, bytes: &[u8]) -> Result<(), StoreError> {
        let mut chunks = Vec::new();
        for number in 0.. {
            let Some(place) = self.0.index().place(row, number)? else {
                break;
            };
            let from = (place.offset - row.start) as usize;
            if let Some(chunk) = bytes.get(from..from + place.len as usize) {
                chunks.push((number, chunk));
            }
        }
        self.put_chunks(&row.digest, &chunks)?;
        Ok(())
    }

    /// Keeps chunks, given by index, of a content that has been prepared. Says for each whether it was good; of one whose
    /// digest is another, or that the content does not have, nothing is kept.
    pub fn put_chunks<B: AsRef<[u8]>>(&self, content: &Digest, items: &[(u32, B)]) -> Result<Vec<bool>, StoreError> {
        let not_prepared = || StoreError::NotPrepared { content: *content };
        let places = {
            let index = self.0.index();
            let row = index.find(content)?.ok_or_else(not_prepared)?;
            items
                .iter()
                .map(|(number, _)| index.place(&row, *number))
                .collect::<Result<Vec<_>, _>>()?
        };
        let mut good = Vec::with_capacity(items.len());
        for (place, (_, bytes)) in places.iter().zip(items) {
            let bytes = bytes.as_ref();
            let Some(place) = place.filter(|place| Digest::of(bytes) == place.digest) else {
                good.push(false);
                continue;
            };
            if !place.held {
                self.write(&place, bytes)?;
                if !self.hold(&place)? {
                    return Err(not_prepared());
                }
            }
            good.push(true);
        }
        self.commit_if_due()?;
        Ok(good)
    }

    /// Makes everything durable that was put.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.commit()
    }

    /// How much of a content is held.
    pub fn state(&self, content: &Digest) -> Result<State, StoreError> {
        Ok(state_of(self.0.index().find(content)?))
    }

    /// How much of each content is held, in the order given.
    pub fn states(&self, contents: &[Digest]) -> Result<Vec<State>, StoreError> {
        let rows = self.0.index().find_all(contents)?;
        Ok(rows.into_iter().map(state_of).collect())
    }

    /// Bytes that are not held of contents with these sizes, in the order given.
    pub fn lacking(&self, contents: &[(Digest, u64)]) -> Result<Vec<u64>, StoreError> {
        let index = self.0.index();
        let digests: Vec<Digest> = contents.iter().map(|(content, _)| *content).collect();
        contents
            .iter()
            .zip(index.find_all(&digests)?)
            .map(|((_, size), row)| match row {
                None => Ok(*size),
                Some(row) if row.missing == 0 => Ok(0),
                Some(row) => index.lacking(&row),
            })
            .collect()
    }

    /// Bytes that all contents take that are held whole or in part, as if they were whole.
    pub fn bytes(&self) -> Result<u64, StoreError> {
        self.0.index().bytes()
    }

    /// Which chunks of a content are held; `None` if it is absent. A content that was put whole is one chunk.
    pub fn held(&self, content: &Digest) -> Result<Option<Vec<bool>>, StoreError> {
        let index = self.0.index();
        index.find(content)?.map(|row| index.held(&row)).transpose()
    }

    /// The bytes of a chunk, checked as they are read; `None` if it is not held. A chunk that fails the check is forgotten,
    /// and `StoreError::Damaged` says so.
    pub fn read_chunk(&self, content: &Digest, chunk: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let place = {
            let index = self.0.index();
            match index.find(content)? {
                Some(row) => index.place(&row, chunk)?,
                None => None,
            }
        };
        match place.filter(|place| place.held) {
            Some(place) => self.read(&place),
            None => Ok(None),
        }
    }

    /// The bytes of a content of one chunk, checked as they are read; `None` if it is not held.
    pub fn read_small(&self, content: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_chunk(content, 0)
    }

    /// Where a whole content lies; `None` if it is not held whole. The file is there and long enough; its bytes are for the
    /// reader to check.
    pub fn locate(&self, content: &Digest) -> Result<Option<Location>, StoreError> {
        let Some(row) = self.0.index().find(content)?.filter(|row| row.missing == 0) else {
            return Ok(None);
        };
        let container = row.container();
        let path = self.0.files.path(container);
        let end = row.start + row.size;
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() >= end => Ok(Some(Location {
                path,
                offset: row.start,
                len: row.size,
            })),
            Ok(_) => {
                self.check(content)?;
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.0.files.close(container);
                self.0.index().forget_all(&row)?;
                Ok(None)
            }
            Err(error) => Err(StoreError::io("looking at", &path, error)),
        }
    }

    /// `locate` for many contents, in the order given. Of each file only the end of the last content is looked at.
    pub fn locate_all(&self, contents: &[Digest]) -> Result<Vec<Option<Location>>, StoreError> {
        let rows = self.0.index().find_all(contents)?;
        let whole = |row: &&Row| row.missing == 0;
        let mut ends = BTreeMap::<Container, u64>::new();
        for row in rows.iter().flatten().filter(whole) {
            let end = ends.entry(row.container()).or_default();
            *end = (*end).max(row.start + row.size);
        }
        let mut paths = BTreeMap::new();
        for (container, end) in ends {
            let path = self.0.files.path(container);
            if std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_file() && metadata.len() >= end) {
                paths.insert(container, path);
            }
        }
        let locations = contents.iter().zip(rows).map(|(content, row)| {
            let Some(row) = row.as_ref().filter(whole) else {
                return Ok(None);
            };
            match paths.get(&row.container()) {
                Some(path) => Ok(Some(Location {
                    path: path.clone(),
                    offset: row.start,
                    len: row.size,
                })),
                // Something is wrong with that file.
                None => self.locate(content),
            }
        });
        locations.collect()
    }

    /// Where a content lies of which room was made, whether all of it is held or not; `None` if it is absent.
    pub fn locate_part(&self, content: &Digest) -> Result<Option<Location>, StoreError> {
        let row = self.0.index().find(content)?;
        Ok(row.map(|row| Location {
            path: self.0.files.path(row.container()),
            offset: row.start,
            len: row.size,
        }))
    }

    /// Reads all that is held of a content, and forgets the chunks that are damaged; returns how many those were.
    pub fn check(&self, content: &Digest) -> Result<u32, StoreError> {
        let held = self.held(content)?.unwrap_or_default();
        let mut damaged = 0;
        for number in 0..held.len() as u32 {
            match self.read_chunk(content, number) {
                Ok(_) => {}
                Err(StoreError::Damaged { .. }) => damaged += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(damaged)
    }

    /// Removes every content, whole or in part, that `keep` does not name, and gives back its room.
    pub fn remove_all_but(&self, keep: &BTreeSet<Digest>) -> Result<Removed, StoreError> {
        // What is kept must be in the index: holes end the search for contents that are not.
        self.commit()?;
        let _committing = self.0.committing();
        let mut packs = self.0.packs();
        let mut index = self.0.index();
        let rows = index.remove_all_but(keep)?;
        let mut touched = BTreeSet::new();
        let mut removed = Removed::default();
        for row in rows {
            removed.contents += 1;
            removed.bytes += row.size;
            if let Some(pack) = row.pack {
                touched.insert(pack);
                continue;
            }
            let container = row.container();
            self.0.files.close(container);
            remove(&self.0.files.path(container))?;
        }
        for pack in touched {
            packs.reclaim(&self.0.files, &index, pack)?;
        }
        Ok(removed)
    }

    /// How many syncs (of a file, a directory, a file system or the index) there have been since `open`.
    pub fn syncs(&self) -> u64 {
        self.0.syncs.load(Ordering::Relaxed)
    }

    fn read(&self, place: &Place) -> Result<Option<Vec<u8>>, StoreError> {
        let container = place.row.container();
        let path = self.0.files.path(container);
        let result = self
            .0
            .files
            .open(container, false)
            .and_then(|file| read_at(&file, place));
        match result {
            Ok(bytes) if Digest::of(&bytes) == place.digest => return Ok(Some(bytes)),
            Ok(_) => {}
            Err(error) if is_damage(&error) => {}
            Err(error) => return Err(StoreError::io("reading", &path, error)),
        }
        // If it was removed or cut otherwise since it was looked up, nothing is wrong with it: it is just not there.
        if !self.0.index().forget(place)? {
            return Ok(None);
        }
        let content = place.row.digest;
        // The caller knows what it means: one line a chunk would flood the log.
        tracing::debug!(%content, chunk = place.chunk, path = %path.display(), "a stored chunk is damaged; forgotten");
        Err(StoreError::Damaged {
            content,
            chunk: place.chunk,
            path,
        })
    }

    fn write(&self, place: &Place, bytes: &[u8]) -> Result<(), StoreError> {
        let container = place.row.container();
        self.0
            .files
            .open(container, true)
            .and_then(|file| file.write_all_at(bytes, place.offset))
            .map_err(|error| StoreError::io("writing a chunk to", &self.0.files.path(container), error))
    }

    /// Counts a chunk that has been written as held; `false` if its content is not there any more.
    fn hold(&self, place: &Place) -> Result<bool, StoreError> {
        let is_due = {
            let mut index = self.0.index();
            if !index.is_current(&place.row)? {
                return Ok(false);
            }
            let row = &place.row;
            index.pending.add_chunk(row.container(), row.id, place.chunk, place.len);
            index.pending.is_due()
        };
        if is_due {
            self.commit()?;
        }
        Ok(true)
    }

    fn commit_if_due(&self) -> Result<(), StoreError> {
        let is_due = self.0.index().pending.is_due();
        if is_due { self.commit() } else { Ok(()) }
    }

    /// Syncs the data of what waits, then enters it into the index.
    fn commit(&self) -> Result<(), StoreError> {
        let _committing = self.0.committing();
        let batch = {
            let mut index = self.0.index();
            if index.pending.is_empty() {
                return Ok(());
            }
            index.pending.snapshot()
        };
        // Others read and write while the disk works.
        let synced = self.0.sync(&batch.dirty, batch.made);
        let mut index = self.0.index();
        let result = synced.and_then(|()| index.commit(batch.clone()));
        match result {
            Ok(()) => {
                self.0.syncs.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                index.pending.put_back(batch);
                Err(error)
            }
        }
    }
}

impl Inner {
    fn committing(&self) -> MutexGuard<'_, ()> {
        self.committing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn packs(&self) -> MutexGuard<'_, Packs> {
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync(&self, dirty: &BTreeSet<Container>, made: bool) -> Result<(), StoreError> {
        let sync = |path: &Path, sync: &dyn Fn() -> io::Result<()>| {
            self.syncs.fetch_add(1, Ordering::Relaxed);
            sync().map_err(|error| StoreError::io("writing to the disk", path, error))
        };
        if dirty.len() > SYNC_EACH_MAX {
            return sync(&self.dir, &|| disk::sync_file_system(&File::open(&self.dir)?));
        }
        for container in dirty {
            sync(
                &self.files.path(*container),
                &|| match self.files.open(*container, false) {
                    Ok(file) => file.sync_data(),
                    // Removed meanwhile.
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    Err(error) => Err(error),
                },
            )?;
        }
        if made {
            for dir in [self.files.files_dir(), self.files.packs_dir()] {
                sync(&dir, &|| File::open(&dir)?.sync_all())?;
            }
        }
        Ok(())
    }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| StoreError::io("opening", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(StoreError::io("locking", &path, error)),
    }
}

/// Removes files that the index does not know: room was being made for them, or they were being removed, when the process
/// was killed.
fn remove_orphans(files: &Files, index: &Index) -> Result<(), StoreError> {
    let dir = files.files_dir();
    let entries = std::fs::read_dir(&dir).map_err(|error| StoreError::io("reading the directory", &dir, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| StoreError::io("reading the directory", &dir, error))?;
        let digest = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
        if let Some(digest) = digest
            && index.find(&digest)?.is_none_or(|row| row.pack.is_some())
        {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io("removing", path, error)),
        _ => Ok(()),
    }
}

fn read_at(file: &File, place: &Place) -> io::Result<Vec<u8>> {
    if place.len > META_BYTES_MAX {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; place.len as usize];
    file.read_exact_at(&mut bytes, place.offset)?;
    Ok(bytes)
}

/// Whether reading failed because the bytes are gone, rather than because the process lacks something.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData
    ) || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

fn state_of(row: Option<Row>) -> State {
    match row {
        None => State::Absent,
        Some(row) if row.missing == 0 => State::Whole,
        Some(_) => State::Partial,
    }
}
