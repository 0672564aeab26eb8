//! Lists, chunk lists and bytes: what is known of them, and where they came from.

use std::sync::Arc;

use potluck_model::Digest;
use potluck_model::chunk_list::ChunkList;
use potluck_model::trace::{OBTAINED_WITH_MAX, Source, What, Why};
use potluck_proto::{Input, ListContent, TransferEnd, TransferId};

use super::{Driver, Event, disk};
use crate::lists::{self, LoadError, Loaded};
use crate::room::Shortage;
use crate::totals::Totals;

/// Transfers that have ended and are remembered: more than the writer's queue can have chunks of.
const ENDED_MAX: usize = 2_048;

impl Driver {
    pub(super) fn load_list(&self, list: Digest) {
        let (store, events, machine) = (
            self.tools.store.clone(),
            self.tools.events.clone(),
            self.tools.execution.machine(),
        );
        let designated = self.designated.as_ref().is_some_and(|release| release.list == list);
        let room = designated.then(|| self.tools.room.clone());
        let provisioner = self.tools.execution.provisioner();
        tokio::task::spawn_blocking(move || {
            if room.is_some()
                && let Err(error) = provisioner.discard_staged()
            {
                tracing::debug!(%error, "cannot remove what an executing process that died had copied ahead");
            }
            let result = lists::load(&store, &list, machine).map(Arc::new);
            let shortage = match (&room, &result) {
                (Some(room), Ok(loaded)) => disk::shortage(&store, room, loaded),
                _ => None,
            };
            drop(events.blocking_send(Event::ListLoaded { list, result, shortage }));
        });
    }

    pub(super) fn handle_list_loaded(
        &mut self,
        list: Digest,
        result: Result<Arc<Loaded>, LoadError>,
        shortage: Option<&Shortage>,
    ) {
        let designated = self.designated.as_ref().is_some_and(|release| release.list == list);
        let loaded = match result {
            Ok(loaded) => loaded,
            Err(LoadError::Absent) => {
                self.stored_lists.remove(&list);
                self.input(Input::Lost {
                    content: list,
                    chunk: 0,
                });
                if designated {
                    self.designate_to_core();
                }
                return;
            }
            Err(error) if designated => return self.trouble(format!("the list {list} cannot be used: {error}")),
            Err(error) => return tracing::warn!(%list, %error, "a list in the store cannot be used"),
        };
        if designated && let Some(release) = &self.designated {
            let named = (&loaded.list.configuration, loaded.list.release);
            if named != (&release.configuration, release.release) {
                return self.trouble(format!(
                    "the server assigned release {} of {}, but its list says release {} of {}: it is not executed",
                    release.release, release.configuration, named.1, named.0
                ));
            }
        }
        if self.stored_lists.insert(list, loaded.size).is_none() {
            self.save_lists();
        }
        self.payloads.insert(list, loaded.payload());
        self.shapes.one(list, loaded.size);
        for ListContent { content, .. } in &loaded.contents {
            match content.chunks {
                None => self.shapes.one(content.digest, content.size),
                Some(chunks) => self.shapes.chunk_list(chunks),
            }
        }
        if designated {
            self.totals = Totals::of(&loaded);
            let held = loaded.contents.iter().filter(|content| content.needed && content.held);
            self.counted = held.clone().map(|content| content.content.digest).collect();
            let runs = held.map(|content| (content.content.digest, 0, content.content.size));
            self.obtained_all(runs, Source::Held, Why::Held);
            self.loaded = Some(Arc::clone(&loaded));
            self.staging = None;
            match shortage {
                Some(shortage) => self.short(shortage),
                None => self.begin_staging(),
            }
        }
        self.input(Input::List {
            list,
            size: loaded.size,
            contents: loaded.contents.clone(),
        });
        for content in &loaded.contents {
            let Some(chunks) = content.content.chunks else { continue };
            if content.held || (designated && loaded.chunk_lists.contains(&chunks)) {
                self.prepare(content.content.digest, chunks, content.content.size);
            }
        }
        if designated {
            self.designate_to_core();
        }
    }

    /// Reads a chunk list, and makes room for its file or finds out what of it is here.
    pub(super) fn prepare(&self, content: Digest, chunks: Digest, size: u64) {
        let (store, events) = (self.tools.store.clone(), self.tools.events.clone());
        tokio::task::spawn_blocking(move || {
            let result = lists::prepare(&store, &content, &chunks, size);
            drop(events.blocking_send(Event::Prepared { content, result }));
        });
    }

    pub(super) fn handle_prepared(&mut self, content: Digest, result: Result<(ChunkList, Vec<bool>), LoadError>) {
        let (chunks, held) = match result {
            Ok(prepared) => prepared,
            Err(LoadError::Store(error)) => return self.handle_store_failed(&error),
            Err(LoadError::Absent) => {
                let chunks = self.loaded.as_ref().and_then(|loaded| loaded.chunk_list_of(&content));
                if let Some(chunks) = chunks {
                    self.input(Input::Lost {
                        content: chunks,
                        chunk: 0,
                    });
                }
                return;
            }
            Err(error) => return self.trouble(format!("the chunk list of content {content} cannot be used: {error}")),
        };
        let lengths: Vec<u32> = chunks.chunks().iter().map(|chunk| chunk.len).collect();
        self.shapes.many(content, chunks);
        if self.staging.is_some() {
            for (first, count) in held_chunks(&held) {
                self.stage(&content, first, count);
            }
        }
        if self.totals.concerns(&content) && self.counted.insert(content) {
            for (offset, len) in held_runs(&lengths, &held) {
                self.obtained(content, offset, len, Source::Held, Why::Held);
            }
        }
        self.input(Input::ChunkList {
            content,
            chunks: lengths,
            held,
        });
    }

    pub(super) fn save_lists(&self) {
        if let Err(error) = self.tools.home.save_lists(&self.stored_lists) {
            tracing::warn!(%error, "after a restart, lists will be fetched again");
        }
    }

    // Bytes.

    pub(super) fn obtained(&mut self, digest: Digest, offset: u64, len: u64, source: Source, why: Why) {
        self.obtained_all([(digest, offset, len)], source, why);
    }

    /// Tells where runs `(content, offset, len)` came from: small contents many at a time.
    pub(super) fn obtained_all(
        &mut self,
        runs: impl IntoIterator<Item = (Digest, u64, u64)>,
        source: Source,
        why: Why,
    ) {
        let mut small: Vec<(Digest, u64)> = Vec::new();
        for (digest, offset, len) in runs {
            if !self.totals.count(&digest, len, source) && source == Source::Held {
                continue;
            }
            if self.shapes.is_one(&digest) {
                small.push((digest, len));
            } else {
                self.record(What::Obtained {
                    digest,
                    offset,
                    len,
                    source,
                    why,
                    with: Vec::new(),
                });
            }
        }
        for together in small.chunks(1 + OBTAINED_WITH_MAX) {
            if let Some(((digest, len), with)) = together.split_first() {
                self.record(What::Obtained {
                    digest: *digest,
                    offset: 0,
                    len: *len,
                    source,
                    why,
                    with: with.to_vec(),
                });
            }
        }
    }

    pub(super) fn handle_stored(&mut self, transfer: TransferId, content: Digest, chunk: u32) {
        if let Some((offset, len)) = self.shapes.place(&content, chunk)
            && (self.transfers.contains_key(&transfer) || self.ended.contains_key(&transfer))
            && self.arrived.note(content, chunk)
        {
            if let Some(of) = self.transfers.get_mut(&transfer) {
                let runs = of.runs.entry(content).or_default();
                match runs.last_mut() {
                    Some(last) if last.0 + last.1 == offset => last.1 += len,
                    _ => runs.push((offset, len)),
                }
            } else if let Some((source, why)) = self.ended.get(&transfer).copied() {
                // It was on its way to the disk when its transfer was given up.
                self.obtained(content, offset, len, source, why);
            }
        }
        self.stage(&content, chunk, 1);
        self.input(Input::Stored {
            transfer,
            content,
            chunk,
        });
        if self.designated.as_ref().is_some_and(|release| release.list == content) {
            self.load_list(content);
        }
        let files: Vec<_> = self
            .loaded
            .iter()
            .flat_map(|loaded| loaded.files_of(&content))
            .collect();
        for file in files {
            self.prepare(file.digest, content, file.size);
        }
    }

    pub(super) fn end_transfer(&mut self, transfer: TransferId, end: TransferEnd) {
        let Some(of) = self.transfers.remove(&transfer) else {
            return;
        };
        if let Some(abort) = of.abort {
            abort.abort();
        }
        self.tools.peers.forget_transfer(transfer);
        let runs = of
            .runs
            .into_iter()
            .flat_map(|(content, runs)| runs.into_iter().map(move |(offset, len)| (content, offset, len)));
        self.obtained_all(runs, of.source, of.why);
        self.ended.insert(transfer, (of.source, of.why));
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_first();
        }
        self.input(Input::TransferEnded { transfer, end });
    }
}

/// Runs of held chunks as `(first, count)`.
fn held_chunks(held: &[bool]) -> Vec<(u32, u32)> {
    let ones = vec![1; held.len()];
    let runs = held_runs(&ones, held);
    runs.into_iter()
        .map(|(first, count)| (first as u32, count as u32))
        .collect()
}

/// Runs of held chunks as `(offset, len)` in bytes.
fn held_runs(lengths: &[u32], held: &[bool]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut offset = 0;
    for (len, held) in lengths.iter().zip(held) {
        let len = u64::from(*len);
        if *held {
            match runs.last_mut() {
                Some(last) if last.0 + last.1 == offset => last.1 += len,
                _ => runs.push((offset, len)),
            }
        }
        offset += len;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_held_chunks_are_one_run() {
        assert_eq!(held_runs(&[1, 2, 3, 4], &[true, true, false, true]), [(0, 3), (6, 4)]);
        assert_eq!(held_runs(&[1, 2], &[false, false]), []);
    }
}
