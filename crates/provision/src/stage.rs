//! Stages what arrives of a release while the rest of it is still being fetched, so that steps only have to rename it.
//!
//! Goals: after the last chunk little is left to be done; each byte is verified once, as it is copied, into `DIR/staged` and the
//! private directory, where only this process writes; nothing under the root is touched. Non-goals: to have everything. What
//! is not staged (it came last, is to be on another file system than `DIR`, or gets a group or label from its directory) is copied
//! when its step is done, and what goes wrong here is told then, if it still does.
//!
//! A file of several chunks is verified chunk by chunk, against the chunk list that the list names: chunks come in any order.
//! After a crash, nothing of it counts: the next process removes `DIR/staged`, and verifies the private directory.

mod plan;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use potluck_model::chunk_list::{Chunk, ChunkList, META_BYTES_MAX, SINGLE_CHUNK_BYTES_MAX};
use potluck_model::list::List;
use potluck_model::{Digest, Location};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::content::{self, Contents};
use crate::job::{Arrival, Part};
use crate::lock;
use crate::machine::Machine;
use crate::placed::PlacedFiles;
use crate::private;
use crate::root::MachineRoot;
use crate::state::State;

/// Files of at least so many bytes are synced when they are whole; smaller ones together, before they are placed.
const SYNC_BYTES_MIN: u64 = 1 << 20;

/// What is staged of one release.
pub(crate) struct Stage {
    path: PathBuf,
    fd: Arc<OwnedFd>,
    machine_root: PathBuf,
    /// The private directory, if any step may want it.
    private: Option<Arc<MachineRoot>>,
    /// Whether a file can be cloned without its bytes being written again.
    clones: bool,
    wanted: BTreeMap<Digest, Wanted>,
    /// By path under the root.
    ready: BTreeMap<String, Ready>,
    contents: Contents,
}

/// A content of which copies are wanted.
struct Wanted {
    size: u64,
    chunk_list: Option<Digest>,
    copies: Vec<Copy>,
    progress: Progress,
}

struct Copy {
    place: Place,
    mode: u32,
}

enum Place {
    /// A name in `DIR/staged`, for this path under the root.
    Root { path: String, name: String },
    /// A path in the private directory.
    Private(String),
}

enum Progress {
    Nothing,
    Chunks(Chunks),
    Whole,
    /// Something is wrong with it: it is left to the step.
    Left,
}

struct Chunks {
    /// Each with its offset.
    all: Vec<(u64, Chunk)>,
    done: Vec<bool>,
    lacking: usize,
}

/// A file that waits to be renamed to its place.
#[derive(Clone)]
struct Ready {
    digest: Digest,
    mode: u32,
    name: String,
    synced: bool,
}

/// A staged file, for a placement to rename.
pub(crate) struct Staged {
    pub(crate) directory: Arc<OwnedFd>,
    pub(crate) name: String,
    /// Whether it would survive a power loss.
    pub(crate) synced: bool,
}

/// Why a copy was not made.
enum Trouble {
    /// These bytes are not to be had, or are not the right ones.
    Content,
    /// Nothing can be written here.
    Disk,
}

impl Stage {
    /// Finds out what is worth staging, and makes room for it. What an earlier process left is removed.
    pub(crate) fn begin(
        dir: &Path,
        list: &List,
        digest: Digest,
        root: &MachineRoot,
        machine: Machine,
        placed: &PlacedFiles,
        state: &State,
    ) -> io::Result<Self> {
        remove_left(dir)?;
        let path = dir.join("staged");
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty())?;
        let (private, new) = if private::is_wanted(list, state, root.path()) {
            let (root, new) = private::open(dir, list, digest)?;
            (Some(Arc::new(root)), new)
        } else {
            (None, false)
        };
        let mut stage = Self {
            clones: can_clone(&fd),
            path,
            fd: Arc::new(fd),
            machine_root: root.path().to_owned(),
            private,
            wanted: BTreeMap::new(),
            ready: BTreeMap::new(),
            contents: Contents::new(&[]),
        };
        stage.plan_root(list, root, placed)?;
        stage.plan_private(list, machine, new)?;
        Ok(stage)
    }

    /// Whether it was begun for this root.
    pub(crate) fn is_for(&self, machine_root: &Path) -> bool {
        self.machine_root == machine_root
    }

    /// Whole contents lie there; they are not staged.
    pub(crate) fn learn(&mut self, contents: impl IntoIterator<Item = (Digest, Location)>) {
        self.contents.add(contents);
    }

    fn want(&mut self, digest: Digest, size: u64, chunk_list: Option<Digest>, place: Place, mode: u32) {
        let wanted = self.wanted.entry(digest).or_insert_with(|| Wanted {
            size,
            chunk_list,
            copies: Vec::new(),
            progress: Progress::Nothing,
        });
        wanted.copies.push(Copy { place, mode });
    }

    /// Copies what has arrived, as far as it is wanted and good.
    pub(crate) fn take_in(&mut self, arrival: &Arrival) {
        if arrival.part.is_none() {
            self.contents.add([(arrival.digest, arrival.at.clone())]);
        }
        let Some(mut wanted) = self.wanted.remove(&arrival.digest) else {
            return;
        };
        let result = match &arrival.part {
            None => self.copy_whole(arrival.digest, &arrival.at, &mut wanted),
            Some(part) => self.copy_part(arrival, part, &mut wanted),
        };
        self.settle(arrival.digest, wanted, &result);
    }

    fn settle(&mut self, digest: Digest, mut wanted: Wanted, result: &Result<(), Trouble>) {
        let full = matches!(result, Err(Trouble::Disk));
        if let Err(Trouble::Content) = result {
            self.remove_copies(&wanted);
            wanted.progress = Progress::Left;
        }
        self.wanted.insert(digest, wanted);
        if full {
            self.give_up();
        }
    }

    /// The file of this path, digest and mode, if it is staged. It is gone from here then.
    pub(crate) fn take(&mut self, contents: &Contents, path: &str, digest: Digest, mode: u32) -> Option<Staged> {
        self.finish(contents, digest);
        let ready = self.ready.get(path)?;
        if ready.digest != digest || ready.mode != mode {
            return None;
        }
        let ready = self.ready.remove(path)?;
        if let Some(wanted) = self.wanted.get_mut(&digest) {
            // It is the placement's from here on.
            wanted
                .copies
                .retain(|copy| !matches!(&copy.place, Place::Root { name, .. } if *name == ready.name));
        }
        Some(Staged {
            directory: Arc::clone(&self.fd),
            name: ready.name,
            synced: ready.synced,
        })
    }

    /// Whether this file is in the private directory, verified by this process.
    pub(crate) fn is_private(&mut self, contents: &Contents, path: &str, digest: Digest) -> bool {
        self.finish(contents, digest);
        self.wanted.get(&digest).is_some_and(|wanted| {
            matches!(wanted.progress, Progress::Whole)
                && wanted
                    .copies
                    .iter()
                    .any(|copy| matches!(&copy.place, Place::Private(of) if of == path))
        })
    }

    /// Copies what is lacking of a content, now that all of it is there: one that is read and verified once for all its copies.
    fn finish(&mut self, contents: &Contents, digest: Digest) {
        let runs = match self
            .wanted
            .get(&digest)
            .map(|wanted| (&wanted.progress, wanted.chunk_list))
        {
            Some((Progress::Chunks(chunks), _)) => vec![(0, chunks.all.len() as u32)],
            Some((Progress::Nothing, None)) => Vec::new(),
            _ => return,
        };
        let (Some(at), Some(mut wanted)) = (contents.location(&digest), self.wanted.remove(&digest)) else {
            return;
        };
        let result = if runs.is_empty() {
            self.copy_whole(digest, &at, &mut wanted)
        } else {
            self.copy_chunks(digest, &at, &runs, &mut wanted, None)
        };
        self.settle(digest, wanted, &result);
    }

    /// The private directory, which has nothing that the list does not have.
    pub(crate) fn private(&self) -> Option<Arc<MachineRoot>> {
        self.private.clone()
    }

    /// Steps may use the private directory from here on: nothing more is copied into it.
    pub(crate) fn leave_private(&mut self) {
        self.private = None;
    }

    /// Where whole contents lie that it was told of.
    pub(crate) fn take_contents(&mut self) -> Contents {
        std::mem::replace(&mut self.contents, Contents::new(&[]))
    }

    /// Removes all there is: most probably the disk is full, and others need it more.
    fn give_up(&mut self) {
        for wanted in self.wanted.values() {
            self.remove_copies(wanted);
        }
        self.wanted.clear();
        self.ready.clear();
    }

    fn remove_copies(&self, wanted: &Wanted) {
        for copy in &wanted.copies {
            let _ = match &copy.place {
                Place::Root { name, .. } => rustix::fs::unlinkat(&*self.fd, name, AtFlags::empty()),
                Place::Private(path) => match &self.private {
                    Some(root) => rustix::fs::unlink(root.path().join(path)),
                    None => Ok(()),
                },
            };
        }
    }

    fn copy_whole(&mut self, digest: Digest, at: &Location, wanted: &mut Wanted) -> Result<(), Trouble> {
        if !matches!(wanted.progress, Progress::Nothing) {
            return Ok(());
        }
        if at.len != wanted.size || wanted.size > SINGLE_CHUNK_BYTES_MAX {
            return Err(Trouble::Content);
        }
        let files = self.create(wanted, true)?;
        let bytes = self
            .contents
            .piece(&at.path, at.offset, wanted.size, digest)
            .map_err(|_| Trouble::Content)?;
        for file in &files {
            file.write_all_at(bytes, 0).map_err(|_| Trouble::Disk)?;
        }
        self.whole(digest, wanted, &files, true)
    }

    fn copy_part(&mut self, arrival: &Arrival, part: &Part, wanted: &mut Wanted) -> Result<(), Trouble> {
        let mut files = None;
        if matches!(wanted.progress, Progress::Nothing) {
            let expected = wanted.chunk_list.ok_or(Trouble::Content)?;
            let chunks = read_chunk_list(&part.chunk_list, expected, wanted.size).ok_or(Trouble::Content)?;
            let created = self.create(wanted, false)?;
            for file in &created {
                file.set_len(wanted.size).map_err(|_| Trouble::Disk)?;
            }
            wanted.progress = Progress::Chunks(chunks);
            files = Some(created);
        }
        self.copy_chunks(arrival.digest, &arrival.at, &part.chunks, wanted, files)
    }

    /// `files`: those to write to, if they are open.
    fn copy_chunks(
        &mut self,
        digest: Digest,
        at: &Location,
        runs: &[(u32, u32)],
        wanted: &mut Wanted,
        files: Option<Vec<File>>,
    ) -> Result<(), Trouble> {
        let mut progress = std::mem::replace(&mut wanted.progress, Progress::Left);
        let Progress::Chunks(chunks) = &mut progress else {
            wanted.progress = progress;
            return Ok(());
        };
        let files = match files {
            Some(files) => files,
            None => self.reopen(wanted)?,
        };
        for (first, count) in runs {
            let last = first.saturating_add(*count).min(chunks.all.len() as u32);
            for number in *first as usize..last as usize {
                if chunks.done[number] {
                    continue;
                }
                let (offset, chunk) = chunks.all[number];
                let bytes = self
                    .contents
                    .piece(&at.path, at.offset + offset, u64::from(chunk.len), chunk.digest)
                    .map_err(|_| Trouble::Content)?;
                for file in &files {
                    file.write_all_at(bytes, offset).map_err(|_| Trouble::Disk)?;
                }
                chunks.done[number] = true;
                chunks.lacking -= 1;
            }
        }
        if chunks.lacking == 0 {
            return self.whole(digest, wanted, &files, false);
        }
        wanted.progress = progress;
        Ok(())
    }

    /// All bytes are in `files`: makes the other copies, and counts them as ready. `modes`: as `create`.
    fn whole(&mut self, digest: Digest, wanted: &mut Wanted, files: &[File], modes: bool) -> Result<(), Trouble> {
        let sync = wanted.size >= SYNC_BYTES_MIN;
        for (index, copy) in wanted.copies.iter().enumerate() {
            let made;
            let file = match files.get(index) {
                Some(file) => file,
                None => {
                    made = self.create_copy(copy, modes)?;
                    clone(&files[0], &made).map_err(|_| Trouble::Disk)?;
                    &made
                }
            };
            if !(modes && is_given(copy.mode)) {
                rustix::fs::fchmod(file, Mode::from_raw_mode(copy.mode)).map_err(|_| Trouble::Disk)?;
            }
            if let Place::Root { path, name } = &copy.place {
                if sync {
                    file.sync_all().map_err(|_| Trouble::Disk)?;
                }
                let ready = Ready {
                    digest,
                    mode: copy.mode,
                    name: name.clone(),
                    synced: sync,
                };
                self.ready.insert(path.clone(), ready);
            }
        }
        wanted.progress = Progress::Whole;
        Ok(())
    }

    /// The files that bytes are written to. `modes`: each with the mode that it gets in the end, if that can be given so; they
    /// need not be opened again.
    fn create(&self, wanted: &Wanted, modes: bool) -> Result<Vec<File>, Trouble> {
        self.written(wanted).map(|copy| self.create_copy(copy, modes)).collect()
    }

    fn reopen(&self, wanted: &Wanted) -> Result<Vec<File>, Trouble> {
        self.written(wanted)
            .map(|copy| self.open_copy(copy, OFlags::RDWR, 0))
            .collect()
    }

    /// Copies to which bytes are written: the others are cloned in the end.
    fn written<'w>(&self, wanted: &'w Wanted) -> impl Iterator<Item = &'w Copy> {
        let count = if self.clones { 1 } else { wanted.copies.len() };
        wanted.copies.iter().take(count)
    }

    fn create_copy(&self, copy: &Copy, modes: bool) -> Result<File, Trouble> {
        let mode = if modes && is_given(copy.mode) { copy.mode } else { 0o600 };
        self.open_copy(copy, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode)
    }

    fn open_copy(&self, copy: &Copy, flags: OFlags, mode: u32) -> Result<File, Trouble> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let opened = match &copy.place {
            Place::Root { name, .. } => rustix::fs::openat(&*self.fd, name, flags, mode),
            Place::Private(path) => {
                // Its directories were made or looked through by this process, and no step has run yet.
                let root = self.private.as_ref().ok_or(Trouble::Content)?;
                rustix::fs::openat(root.fd(), path, flags, mode)
            }
        };
        opened.map(File::from).map_err(|_| Trouble::Disk)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What stays is removed by the next process.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Whether a file that is created with this mode has it, whatever the umask keeps back of the rest.
fn is_given(mode: u32) -> bool {
    mode & !0o755 == 0
}

/// Removes what an executing process that was killed had staged in `dir`, unless another one works there.
pub fn discard_staged(dir: &Path) -> io::Result<()> {
    if lock::running(dir) { Ok(()) } else { remove_left(dir) }
}

/// Removes what a process that was killed had staged in `dir`.
pub(crate) fn remove_left(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir.join("staged")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read_chunk_list(at: &Location, digest: Digest, size: u64) -> Option<Chunks> {
    let bytes = content::read(at, META_BYTES_MAX).ok()?;
    if Digest::of(&bytes) != digest {
        return None;
    }
    let list = ChunkList::from_bytes(&bytes).ok().filter(|list| list.size() == size)?;
    let mut offset = 0;
    let all: Vec<(u64, Chunk)> = list
        .chunks()
        .iter()
        .map(|chunk| {
            let at = offset;
            offset += u64::from(chunk.len);
            (at, *chunk)
        })
        .collect();
    Some(Chunks {
        done: vec![false; all.len()],
        lacking: all.len(),
        all,
    })
}

fn clone(from: &File, to: &File) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(to, from)?)
}

/// Whether the file system can clone files.
fn can_clone(directory: impl AsFd) -> bool {
    let make = |name: &str| {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(0o600)).map(File::from)
    };
    let (Ok(from), Ok(to)) = (make("from"), make("to")) else {
        return false;
    };
    let result = from.write_all_at(&[0; 1], 0).and_then(|()| clone(&from, &to));
    for name in ["from", "to"] {
        let _ = rustix::fs::unlinkat(&directory, name, AtFlags::empty());
    }
    result.is_ok()
}
