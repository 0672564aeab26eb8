//! Reads lists and chunk lists out of the store, and finds out what of them is here.

use std::collections::{BTreeMap, BTreeSet};

use potluck_model::Digest;
use potluck_model::chunk_list::{ChunkList, ChunkListError};
use potluck_model::list::{Content, List, ListError};
use potluck_proto::ListContent;
use potluck_provision::Machine;
use potluck_store::{State, Store, StoreError};

/// Why a list or chunk list cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// It is not in the store, or was damaged there.
    #[error("it is not in the store")]
    Absent,
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
    /// The publisher made a list that breaks the rules, or a newer version made it.
    #[error(transparent)]
    List(#[from] ListError),
    /// The publisher made a chunk list that breaks the rules, or a newer version made it.
    #[error(transparent)]
    ChunkList(#[from] ChunkListError),
    /// List and chunk list contradict each other.
    #[error("the chunk list describes {described} bytes, the list says {listed}")]
    Size {
        /// Sum of the chunks.
        described: u64,
        /// Size in the list.
        listed: u64,
    },
}

/// A list, and what of it is here.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) list: List,
    /// In the order of `List::contents`.
    pub(crate) contents: Vec<ListContent>,
    /// Chunk lists that are here.
    pub(crate) chunk_lists: BTreeSet<Digest>,
    /// Needed files by the digest of their chunk list.
    files: BTreeMap<Digest, Vec<Content>>,
}

impl Loaded {
    /// Bytes of all that this machine needs.
    pub(crate) fn payload(&self) -> u64 {
        let needed = self.contents.iter().filter(|content| content.needed);
        needed.map(|content| content.content.size).sum()
    }

    /// The digests of what this machine needs.
    pub(crate) fn needed(&self) -> impl Iterator<Item = Digest> {
        self.contents
            .iter()
            .filter(|content| content.needed)
            .map(|content| content.content.digest)
    }

    /// Whether this machine needs a content.
    pub(crate) fn needs(&self, content: &Digest) -> bool {
        self.index_of(content).is_some_and(|index| self.contents[index].needed)
    }

    /// A content that the list names.
    pub(crate) fn content(&self, digest: &Digest) -> Option<Content> {
        self.index_of(digest).map(|index| self.contents[index].content)
    }

    fn index_of(&self, content: &Digest) -> Option<usize> {
        self.contents
            .binary_search_by(|probe| probe.content.digest.cmp(content))
            .ok()
    }

    /// The needed files that have this chunk list.
    pub(crate) fn files_of(&self, chunks: &Digest) -> &[Content] {
        self.files.get(chunks).map_or(&[], Vec::as_slice)
    }

    /// The chunk list of a file.
    pub(crate) fn chunk_list_of(&self, content: &Digest) -> Option<Digest> {
        self.contents[self.index_of(content)?].content.chunks
    }
}

/// Reads a list. Blocks.
pub(crate) fn load(store: &Store, digest: &Digest, machine: Machine) -> Result<Loaded, LoadError> {
    let bytes = read(store, digest)?;
    let list = List::from_bytes(&bytes)?;
    let usable = potluck_provision::usable(&list, &machine);
    let contents = list.contents();
    let digests: Vec<Digest> = contents.iter().map(|content| content.digest).collect();
    let states = store.states(&digests).map_err(LoadError::Store)?;
    let chunk_lists: Vec<Digest> = contents.iter().filter_map(|content| content.chunks).collect();
    let chunk_list_states = store.states(&chunk_lists).map_err(LoadError::Store)?;
    let contents: Vec<ListContent> = contents
        .into_iter()
        .zip(states)
        .map(|(content, state)| ListContent {
            content,
            needed: usable.contains(&content.digest),
            held: state == State::Whole,
        })
        .collect();
    let mut files: BTreeMap<Digest, Vec<Content>> = BTreeMap::new();
    for of in contents.iter().filter(|of| of.needed) {
        if let Some(chunks) = of.content.chunks {
            files.entry(chunks).or_default().push(of.content);
        }
    }
    let here = chunk_lists
        .into_iter()
        .zip(chunk_list_states)
        .filter(|(_, state)| *state == State::Whole);
    Ok(Loaded {
        digest: *digest,
        size: bytes.len() as u64,
        contents,
        chunk_lists: here.map(|(digest, _)| digest).collect(),
        list,
        files,
    })
}

/// Bytes of what this machine needs that are not stored. Blocks.
pub(crate) fn lacking(store: &Store, loaded: &Loaded) -> Result<u64, StoreError> {
    let needed = loaded.contents.iter().filter(|content| content.needed);
    let asked: Vec<(Digest, u64)> = needed.map(|of| (of.content.digest, of.content.size)).collect();
    Ok(store.lacking(&asked)?.into_iter().sum())
}

/// Reads the chunk list of `content`, and makes room for it or finds out which chunks are here. Blocks.
pub(crate) fn prepare(
    store: &Store,
    content: &Digest,
    chunks: &Digest,
    size: u64,
) -> Result<(ChunkList, Vec<bool>), LoadError> {
    let chunks = ChunkList::from_bytes(&read(store, chunks)?)?;
    if chunks.size() != size {
        return Err(LoadError::Size {
            described: chunks.size(),
            listed: size,
        });
    }
    let held = store.prepare(content, &chunks).map_err(LoadError::Store)?;
    Ok((chunks, held))
}

/// Everything that the lists name, the lists themselves included. Blocks.
pub(crate) fn contents_of(store: &Store, lists: &[Digest], machine: Machine) -> Result<BTreeSet<Digest>, LoadError> {
    let mut keep = BTreeSet::new();
    for digest in lists {
        let loaded = load(store, digest, machine)?;
        keep.insert(*digest);
        for content in &loaded.contents {
            keep.insert(content.content.digest);
            keep.extend(content.content.chunks);
        }
    }
    Ok(keep)
}

fn read(store: &Store, digest: &Digest) -> Result<Vec<u8>, LoadError> {
    match store.read_small(digest) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) | Err(StoreError::Damaged { .. }) => Err(LoadError::Absent),
        Err(error) => Err(LoadError::Store(error)),
    }
}
