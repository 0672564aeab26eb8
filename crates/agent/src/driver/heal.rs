//! The node's own store is damaged: what is gone is found, fetched again, and the release executed again.

use std::sync::Arc;

use potluck_model::Digest;
use potluck_model::list::Content;
use potluck_proto::Input;
use potluck_store::{State, Store, StoreError};

use super::{Driver, Event};
use crate::lists::Loaded;

/// How often one release is healed and executed again, at most: a disk that rots faster is broken.
const HEALS_MAX: u32 = 3;

/// Damaged contents that are told of, at most: one line each.
const DAMAGE_TOLD_MAX: usize = 100;

/// What was found in the store.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Contents of which something is gone, and which chunks; none are named if nothing is left of it.
    lost: Vec<(Content, Vec<u32>)>,
    /// The list itself was gone, and has been written again.
    list_restored: bool,
}

impl Driver {
    /// Whether damage may be why a run did not end well, and it is not too late to do something about it.
    pub(super) fn may_heal(&self) -> bool {
        self.heals < HEALS_MAX && self.loaded.is_some()
    }

    /// Reads through contents that are suspected to be damaged; `Event::Examined` follows.
    pub(super) fn examine(&self, suspects: Vec<Digest>) {
        let Some(loaded) = self.loaded.clone() else { return };
        let (store, events) = (self.tools.store.clone(), self.tools.events.clone());
        tokio::task::spawn_blocking(move || {
            let list = loaded.digest;
            let findings = examine(&store, &loaded, &suspects);
            drop(events.blocking_send(Event::Examined { list, findings }));
        });
    }

    pub(super) fn handle_examined(&mut self, list: Digest, findings: Result<Findings, StoreError>) {
        let findings = findings.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for damage in the store");
            Findings::default()
        });
        if self.designated.as_ref().is_none_or(|release| release.list != list) {
            return self.end_run(list);
        }
        if findings.lost.is_empty() && !findings.list_restored {
            return self.end_run(list);
        }
        self.heals += 1;
        let contents: Vec<String> = findings
            .lost
            .iter()
            .take(3)
            .map(|(content, _)| content.digest.short())
            .collect();
        self.trouble(format!(
            "this node's store was damaged ({} of the release's contents{}{}): fetching again what is gone; if this \
             happens again, check the disk",
            findings.lost.len(),
            if contents.is_empty() { "" } else { ": " },
            contents.join(", ")
        ));
        self.last_run = None;
        for (content, chunks) in findings.lost {
            self.lose(content, &chunks);
        }
        self.execute_if_ready();
    }

    /// A content, or some of its chunks, is not here any more. None named: nothing is left of it.
    fn lose(&mut self, content: Content, chunks: &[u32]) {
        self.complete = false;
        let all: Vec<u32> = (0..self.shapes.chunks(&content.digest)).collect();
        for chunk in if chunks.is_empty() { &all } else { chunks } {
            self.forget_chunk(content.digest, *chunk);
        }
        if let Some(chunks) = content.chunks {
            self.prepare(content.digest, chunks, content.size);
        }
    }

    /// A stored chunk turned out to be damaged when a peer was to be given it.
    pub(super) fn handle_lost(&mut self, digest: Digest, chunk: u32) {
        if self.damage_told.len() < DAMAGE_TOLD_MAX && self.damage_told.insert(digest) {
            tracing::warn!(content = %digest, chunk, "the store is damaged: what is gone is fetched again if it is needed");
        } else {
            tracing::debug!(content = %digest, chunk, "a stored chunk is damaged or gone");
        }
        match self.loaded.as_ref().and_then(|loaded| loaded.content(&digest)) {
            Some(content) => self.lose(content, &[chunk]),
            None => self.forget_chunk(digest, chunk),
        }
    }

    fn forget_chunk(&mut self, content: Digest, chunk: u32) {
        self.arrived.forget(&content, chunk);
        if let Some((_, len)) = self.shapes.place(&content, chunk) {
            self.totals.lose(&content, len);
        }
        self.input(Input::Lost { content, chunk });
    }
}

/// Checks the suspects and, if one is damaged or anything is gone, all that is needed. Blocks.
fn examine(store: &Store, loaded: &Arc<Loaded>, suspects: &[Digest]) -> Result<Findings, StoreError> {
    let mut findings = Findings::default();
    let mut damaged = false;
    for suspect in suspects {
        damaged |= store.check(suspect)? > 0;
    }
    for of in loaded.contents.iter().filter(|of| of.needed) {
        // A file that was deleted or cut is noticed when it is looked for.
        damaged |= store.locate(&of.content.digest)?.is_none();
    }
    for of in loaded.contents.iter().filter(|of| of.needed) {
        // Damage seldom comes alone, and an execution finds one content at a time.
        if damaged {
            store.check(&of.content.digest)?;
        }
        if store.state(&of.content.digest)? == State::Whole {
            continue;
        }
        let held = store.held(&of.content.digest)?.unwrap_or_default();
        let lost = (0..held.len() as u32).filter(|chunk| !held[*chunk as usize]);
        findings.lost.push((of.content, lost.collect()));
    }
    // Last, since writing it makes the file of small contents anew, with holes where those of before were.
    // A file that was deleted while it is open can still be read: so where it lies is looked at as well.
    let is_there = store.locate(&loaded.digest)?.is_some();
    let is_good = match store.read_small(&loaded.digest) {
        Ok(bytes) => bytes.is_some(),
        Err(StoreError::Damaged { .. }) => false,
        Err(error) => return Err(error),
    };
    if !is_there || !is_good {
        store.put_small(&[(loaded.digest, loaded.list.to_bytes())])?;
        findings.list_restored = true;
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use potluck_model::list::List;
    use potluck_provision::Machine;

    use super::*;
    use crate::lists;

    #[test]
    fn what_is_damaged_cut_or_deleted_is_found_and_the_list_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let contents: [&[u8]; 3] = [b"one", b"two", b"three"];
        let entries: Vec<_> = contents
            .iter()
            .enumerate()
            .map(|(at, bytes)| {
                serde_json::json!({
                    "type": "file", "path": format!("{at}"), "mode": 0o644, "size": bytes.len(), "digest": Digest::of(bytes)
                })
            })
            .collect();
        let list: List = serde_json::from_value(serde_json::json!({
            "format": 1, "configuration": "web", "release": 1, "audience": "fleet", "entries": entries,
            "steps": [{
                "id": "place", "timeout_seconds": 60, "action": {"type": "file", "source": "0", "dest": "/zero"}
            }],
        }))
        .unwrap();
        let bytes = list.to_bytes();
        let mut items: Vec<(Digest, &[u8])> = contents.iter().map(|bytes| (Digest::of(bytes), *bytes)).collect();
        items.push((Digest::of(&bytes), &bytes));
        store.put_small(&items).unwrap();
        store.flush().unwrap();
        let loaded = Arc::new(lists::load(&store, &Digest::of(&bytes), Machine::detect()).unwrap());
        let found = |suspects: &[Digest]| examine(&store, &loaded, suspects).unwrap();
        let all: Vec<Digest> = items.iter().map(|(digest, _)| *digest).collect();
        let nothing = found(&all);
        assert!(nothing.lost.is_empty() && !nothing.list_restored);

        let two = store.locate(&all[1]).unwrap().unwrap();
        let pack = fs::File::options().write(true).open(&two.path).unwrap();
        pack.write_all_at(b"x", two.offset).unwrap();
        assert!(found(&[]).lost.is_empty(), "nothing points at it");
        let damaged = found(&all[1..2]);
        assert_eq!(damaged.lost.len(), 1);
        assert_eq!((damaged.lost[0].0.digest, damaged.list_restored), (all[1], false));

        fs::remove_file(&two.path).unwrap();
        let gone = found(&[]);
        assert!(gone.lost.len() == 3 && gone.list_restored, "all that was in the pack");
        store.put_small(&items).unwrap();
        let healed = found(&all);
        assert!(healed.lost.is_empty() && !healed.list_restored, "{healed:?}");
    }
}
