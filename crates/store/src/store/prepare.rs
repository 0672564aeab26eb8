//! Making room for a content of several chunks, and finding what of it is here already.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;

use potluck_model::Digest;
use potluck_model::chunk_list::ChunkList;

use super::{Store, read_at};
use crate::disk;
use crate::error::StoreError;
use crate::index::Row;

impl Store {
    /// Makes room for a content that is cut into `chunks`, and takes over those that are held already in any content, as
    /// well as those that are all zeros. Says which chunks are held. May be repeated: also after a restart, what was kept
    /// is held. A content that was cut otherwise before keeps its bytes.
    pub fn prepare(&self, content: &Digest, chunks: &ChunkList) -> Result<Vec<bool>, StoreError> {
        let cut = Digest::of(&chunks.to_bytes());
        if self.0.index().pending.small(content).is_some() {
            self.commit()?;
        }
        self.forget_if_gone(content)?;
        let (row, look) = self.make_room(content, &cut, chunks)?;
        let mut held = self.0.index().held(&row)?;
        if look {
            self.look_for_written(&row, &mut held)?;
        }
        self.take_over(&row, chunks, &mut held)?;
        self.commit_if_due()?;
        Ok(held)
    }

    /// Forgets what is held of a content whose file somebody has deleted, before more is put into it.
    fn forget_if_gone(&self, content: &Digest) -> Result<(), StoreError> {
        let mut index = self.0.index();
        if let Some(row) = index.find(content)?
            && !self.0.files.path(row.container()).exists()
        {
            self.0.files.close(row.container());
            index.forget_all(&row)?;
        }
        Ok(())
    }

    /// The content's row, made if there is none; and whether chunks may be in its container that do not count as held.
    fn make_room(&self, content: &Digest, cut: &Digest, chunks: &ChunkList) -> Result<(Row, bool), StoreError> {
        let mut index = self.0.index();
        match index.find(content)? {
            Some(row) if row.cut == Some(*cut) => {
                let look = index.take_unchecked(&row);
                Ok((row, look))
            }
            Some(row) => {
                let row = index.cut_anew(&row, cut, chunks)?;
                Ok((row, true))
            }
            None => {
                // Sparse: room is taken as chunks come in.
                let path = self.0.files.files_dir().join(content.to_string());
                File::create(&path)
                    .and_then(|file| file.set_len(chunks.size()))
                    .map_err(|error| StoreError::io("making room in", &path, error))?;
                index.pending.container_made();
                let row = index.insert(content, cut, chunks)?;
                Ok((row, false))
            }
        }
    }

    /// Looks through the bytes that are in the container already for chunks that do not count as held.
    fn look_for_written(&self, row: &Row, held: &mut [bool]) -> Result<(), StoreError> {
        let container = row.container();
        let path = self.0.files.path(container);
        let file = match self.0.files.open(container, false) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StoreError::io("opening", &path, error)),
        };
        for number in 0..held.len() as u32 {
            if held[number as usize] {
                continue;
            }
            let Some(place) = self.0.index().place(row, number)? else {
                break;
            };
            let data = disk::next_data(&file, place.offset)
                .map_err(|error| StoreError::io("looking for written chunks in", &path, error))?;
            if data.is_none_or(|data| data >= place.offset + place.len) {
                continue;
            }
            if let Ok(bytes) = read_at(&file, &place)
                && Digest::of(&bytes) == place.digest
            {
                held[number as usize] = self.hold(&place)?;
            }
        }
        Ok(())
    }

    /// Takes over chunks from other contents, and from elsewhere in the same one.
    fn take_over(&self, row: &Row, chunks: &ChunkList, held: &mut [bool]) -> Result<(), StoreError> {
        let zeros = zeros(chunks);
        for (number, chunk) in chunks.chunks().iter().enumerate() {
            if held[number] {
                continue;
            }
            let Some(place) = self.0.index().place(row, number as u32)? else {
                break;
            };
            let holders = self.0.index().holders(&chunk.digest)?;
            for holder in holders {
                // Damage is forgotten where it is found; the next holder may be good.
                let bytes = match self.read(&holder) {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) | Err(StoreError::Damaged { .. }) => continue,
                    Err(error) => return Err(error),
                };
                self.write(&place, &bytes)?;
                held[number] = self.hold(&place)?;
                break;
            }
            if !held[number] && zeros.contains(&chunk.digest) {
                // A hole is zeros already; but something may have been put there and forgotten.
                let as_it_is = self
                    .0
                    .files
                    .open(row.container(), true)
                    .and_then(|file| read_at(&file, &place));
                if as_it_is.is_ok_and(|bytes| Digest::of(&bytes) != chunk.digest) {
                    self.write(&place, &vec![0; chunk.len as usize])?;
                }
                held[number] = self.hold(&place)?;
            }
        }
        Ok(())
    }
}

/// Digests of chunks that are all zeros. Disk images have many, and they are cut to one length: so only the lengths of
/// chunks that are there twice are tried, and only a few of those.
fn zeros(chunks: &ChunkList) -> BTreeSet<Digest> {
    const LENGTHS_MAX: usize = 16;
    let mut count = BTreeMap::<_, u32>::new();
    for chunk in chunks.chunks() {
        *count.entry((chunk.digest, chunk.len)).or_default() += 1;
    }
    let mut repeated: Vec<(u32, u32)> = count
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|((_, len), count)| (*count, *len))
        .collect();
    repeated.sort_unstable_by(|a, b| b.cmp(a));
    let lengths: BTreeSet<u32> = repeated.iter().take(LENGTHS_MAX).map(|(_, len)| *len).collect();
    lengths
        .into_iter()
        .map(|len| Digest::of(&vec![0; len as usize]))
        .collect()
}
