//! What this node knows of contents: lists, chunk lists and files, and which parts of them are stored.

use std::collections::BTreeMap;

use potluck_model::Digest;
use potluck_model::chunk_list::CHUNKS_MAX;

use crate::bits::Bits;
use crate::identifier::{Identifier, Prefix};
use crate::interface::{ListContent, Want};
use crate::message::Runs;

/// The most lists that are known at a time.
pub(super) const LISTS_MAX: usize = 64;

/// Place of a content in the table. Freed and used again when no list names the content any more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Ix(pub(super) u32);

#[derive(Debug)]
pub(super) struct Content {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) kind: Kind,
    /// Stored whole.
    pub(super) held: bool,
    /// How many lists (and contents, for chunk lists) name it.
    refs: u32,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// One chunk: a list, a chunk list (then of which file) or a small file.
    One { of: Option<Ix> },
    /// Several chunks: known by the chunk list.
    Many { chunk_list: Ix, chunks: Option<Chunks> },
}

#[derive(Debug)]
pub(super) struct Chunks {
    pub(super) lengths: Vec<u32>,
    pub(super) held: Bits,
    pub(super) missing: u32,
}

#[derive(Debug)]
pub(super) struct KnownList {
    /// The list itself as a content.
    pub(super) ix: Ix,
    pub(super) identifier: Option<Identifier>,
    /// In the order of `List::contents`.
    pub(super) contents: Vec<Ix>,
    pub(super) needed: Bits,
    /// Sorted; empty while there is no key.
    prefixes: Vec<(Prefix, Ix)>,
}

#[derive(Debug, Default)]
pub(super) struct Contents {
    table: Vec<Option<Content>>,
    free: Vec<Ix>,
    by_digest: BTreeMap<Digest, Ix>,
    pub(super) lists: BTreeMap<Digest, KnownList>,
}

impl Contents {
    pub(super) fn find(&self, digest: &Digest) -> Option<Ix> {
        self.by_digest.get(digest).copied()
    }

    /// Of an index that is in use: whoever keeps one holds a reference or drops it when told that it was freed.
    pub(super) fn at(&self, ix: Ix) -> &Content {
        self.table[ix.0 as usize]
            .as_ref()
            .expect("an index of a content is dropped when the content is")
    }

    pub(super) fn at_mut(&mut self, ix: Ix) -> &mut Content {
        self.table[ix.0 as usize]
            .as_mut()
            .expect("an index of a content is dropped when the content is")
    }

    /// Adds one reference to a content of one chunk.
    pub(super) fn refer_one(&mut self, digest: Digest, size: u64, of: Option<Ix>) -> Ix {
        let ix = self.refer(digest, size, || Kind::One { of: None });
        if let (Kind::One { of: slot }, Some(of)) = (&mut self.at_mut(ix).kind, of) {
            *slot = Some(of);
        }
        ix
    }

    fn refer(&mut self, digest: Digest, size: u64, kind: impl FnOnce() -> Kind) -> Ix {
        if let Some(ix) = self.find(&digest) {
            self.at_mut(ix).refs += 1;
            return ix;
        }
        let content = Content {
            digest,
            size,
            kind: kind(),
            held: false,
            refs: 1,
        };
        let ix = if let Some(ix) = self.free.pop() {
            self.table[ix.0 as usize] = Some(content);
            ix
        } else {
            self.table.push(Some(content));
            Ix(self.table.len() as u32 - 1)
        };
        self.by_digest.insert(digest, ix);
        ix
    }

    /// Drops one reference; returns the contents that are gone with it.
    pub(super) fn release(&mut self, ix: Ix) -> Vec<Ix> {
        let content = self.at_mut(ix);
        content.refs -= 1;
        if content.refs > 0 {
            return Vec::new();
        }
        let chunk_list = match content.kind {
            Kind::Many { chunk_list, .. } => Some(chunk_list),
            Kind::One { .. } => None,
        };
        let digest = content.digest;
        self.by_digest.remove(&digest);
        self.table[ix.0 as usize] = None;
        self.free.push(ix);
        let mut gone = vec![ix];
        if let Some(chunk_list) = chunk_list {
            gone.extend(self.release(chunk_list));
        }
        gone
    }

    /// Takes in a list with its contents, or says again what is held of one that is known. Returns what is gone.
    pub(super) fn put_list(
        &mut self,
        key: Option<&[u8; 32]>,
        digest: Digest,
        size: u64,
        contents: &[ListContent],
    ) -> Vec<Ix> {
        // The new references come first, so that what stays is never gone in between.
        let list_ix = self.refer_one(digest, size, None);
        self.at_mut(list_ix).held = true;
        let mut known = KnownList {
            ix: list_ix,
            identifier: None,
            contents: Vec::with_capacity(contents.len()),
            needed: Bits::default(),
            prefixes: Vec::new(),
        };
        for (index, item) in contents.iter().enumerate() {
            let ix = self.put_content(item);
            known.contents.push(ix);
            if item.needed {
                known.needed.set(index as u32);
            }
        }
        let before = self.lists.insert(digest, known);
        if let Some(key) = key {
            self.derive_list(key, &digest);
        }
        before.map_or_else(Vec::new, |before| self.release_list(&before))
    }

    fn put_content(&mut self, item: &ListContent) -> Ix {
        let digest = item.content.digest;
        let ix = match item.content.chunks {
            None => self.refer(digest, item.content.size, || Kind::One { of: None }),
            Some(chunk_list) => {
                if let Some(ix) = self.find(&digest) {
                    self.at_mut(ix).refs += 1;
                    ix
                } else {
                    // Its size is not known before it is here; the list bounds it by the file's size.
                    let chunk_list = self.refer_one(chunk_list, 0, None);
                    let ix = self.refer(digest, item.content.size, || Kind::Many {
                        chunk_list,
                        chunks: None,
                    });
                    if let Kind::One { of } = &mut self.at_mut(chunk_list).kind {
                        *of = Some(ix);
                    }
                    ix
                }
            }
        };
        let content = self.at_mut(ix);
        content.held = item.held;
        let chunk_list = match &mut content.kind {
            Kind::Many { chunk_list, chunks } => {
                if item.held {
                    *chunks = None;
                }
                Some(*chunk_list)
            }
            Kind::One { .. } => None,
        };
        if item.held
            && let Some(chunk_list) = chunk_list
        {
            self.at_mut(chunk_list).held = true;
        }
        ix
    }

    /// Drops a list; returns the contents that are gone with it.
    pub(super) fn forget_list(&mut self, digest: &Digest) -> Vec<Ix> {
        self.lists
            .remove(digest)
            .map_or_else(Vec::new, |list| self.release_list(&list))
    }

    fn release_list(&mut self, list: &KnownList) -> Vec<Ix> {
        let mut gone = self.release(list.ix);
        for ix in &list.contents {
            gone.extend(self.release(*ix));
        }
        gone
    }

    /// Derives all identifiers anew.
    pub(super) fn derive(&mut self, key: &[u8; 32]) {
        for digest in self.lists.keys().copied().collect::<Vec<_>>() {
            self.derive_list(key, &digest);
        }
    }

    fn derive_list(&mut self, key: &[u8; 32], digest: &Digest) {
        let Some(list) = self.lists.get(digest) else { return };
        let mut prefixes: Vec<(Prefix, Ix)> = list.contents.iter().map(|ix| (self.prefix(key, *ix), *ix)).collect();
        prefixes.sort_unstable();
        if let Some(list) = self.lists.get_mut(digest) {
            list.identifier = Some(Identifier::of_list(key, digest));
            list.prefixes = prefixes;
        }
    }

    pub(super) fn prefix(&self, key: &[u8; 32], ix: Ix) -> Prefix {
        Identifier::of_content(key, &self.at(ix).digest).prefix()
    }

    pub(super) fn list_of(&self, identifier: &Identifier) -> Option<(&Digest, &KnownList)> {
        self.lists
            .iter()
            .find(|(_, list)| list.identifier.as_ref() == Some(identifier))
    }

    /// A content of any list whose identifier begins so.
    pub(super) fn with_prefix(&self, prefix: Prefix) -> Option<Ix> {
        self.lists.values().find_map(|list| {
            let place = list.prefixes.partition_point(|(other, _)| *other < prefix);
            let (found, ix) = list.prefixes.get(place)?;
            (*found == prefix).then_some(*ix)
        })
    }

    /// Index of a content in a list.
    pub(super) fn index_in(&self, list: &KnownList, ix: Ix) -> Option<u32> {
        let digest = &self.at(ix).digest;
        let place = list
            .contents
            .binary_search_by(|other| self.at(*other).digest.cmp(digest))
            .ok()?;
        (list.contents[place] == ix).then_some(place as u32)
    }

    /// Whether every chunk of a want is stored.
    pub(super) fn holds(&self, want: &Want) -> bool {
        let Some(ix) = self.find(&want.content) else {
            return false;
        };
        let content = self.at(ix);
        match &content.kind {
            Kind::One { .. } => content.held && (want.first, want.count) == (0, 1),
            Kind::Many { chunks: None, .. } => content.held,
            Kind::Many {
                chunks: Some(chunks), ..
            } => {
                let end = want.first.saturating_add(want.count);
                end as usize <= chunks.lengths.len() && (want.first..end).all(|chunk| chunks.held.get(chunk))
            }
        }
    }
}

impl Content {
    /// Whether any of it is stored.
    pub(super) fn any_held(&self) -> bool {
        self.held
            || matches!(&self.kind, Kind::Many { chunks: Some(chunks), .. } if (chunks.missing as usize) < chunks.lengths.len())
    }

    /// The most chunks that it can have.
    pub(super) fn chunks_max(&self) -> u32 {
        match &self.kind {
            Kind::One { .. } => 1,
            Kind::Many {
                chunks: Some(chunks), ..
            } => chunks.lengths.len() as u32,
            // Nobody cuts smaller than this on average, and what is beyond is never asked for by chunk.
            Kind::Many { chunks: None, .. } => (self.size / 1_024 + 1).min(CHUNKS_MAX as u64) as u32,
        }
    }

    /// Bytes of one chunk; for what is one chunk, all.
    pub(super) fn chunk_len(&self, chunk: u32) -> u64 {
        match &self.kind {
            Kind::Many {
                chunks: Some(chunks), ..
            } => chunks.lengths.get(chunk as usize).map_or(0, |len| u64::from(*len)),
            _ => self.size,
        }
    }

    /// Whether a chunk is stored.
    pub(super) fn has_chunk(&self, chunk: u32) -> bool {
        self.held || matches!(&self.kind, Kind::Many { chunks: Some(chunks), .. } if chunks.held.get(chunk))
    }

    /// The stored chunks of a content of which only a part is stored.
    pub(super) fn partial(&self) -> Option<Runs> {
        match &self.kind {
            Kind::Many {
                chunks: Some(chunks), ..
            } if !self.held && self.any_held() => Some(Runs::of(chunks.held.iter())),
            _ => None,
        }
    }
}
