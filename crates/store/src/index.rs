//! The index: what is held where. SQLite, so that a batch is in it whole or not at all.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use potluck_model::Digest;
use potluck_model::chunk_list::{ChunkList, META_BYTES_MAX};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::error::StoreError;
use crate::files::Container;
use crate::known::{Known, Piece, Pieces};
use crate::pending::{Batch, Pending, Small};

/// Format of the store that this version writes, and the newest that it reads.
pub(crate) const FORMAT: u32 = 1;
/// Memory for SQLite's pages, in KiB.
const CACHE_KIB: i64 = 2_048;
/// So many contents are looked up by one pass over all, if those are at most `SCAN_ROWS` times as many; fewer one by one.
const SCAN_MIN: usize = 256;
const SCAN_ROWS: usize = 4;
/// Places of one chunk that are tried before it is fetched again.
const HOLDERS_MAX: i64 = 4;

const SCHEMA: &str = "
    CREATE TABLE contents (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice
        digest BLOB NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        pack INTEGER,                          -- NULL: it has a file of its own
        start INTEGER NOT NULL,                -- bytes of the container before it
        missing INTEGER NOT NULL,              -- chunks that are not held; 0: whole
        cut BLOB                               -- digest of its chunk list; NULL: it is one chunk, without rows in chunks
    ) STRICT;
    CREATE INDEX contents_by_pack ON contents (pack, start) WHERE pack IS NOT NULL;
    CREATE TABLE chunks (
        content INTEGER NOT NULL,
        number INTEGER NOT NULL,
        offset INTEGER NOT NULL,               -- in the content
        len INTEGER NOT NULL,
        digest BLOB NOT NULL,
        held INTEGER NOT NULL,
        PRIMARY KEY (content, number)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX chunks_by_digest ON chunks (digest);
    CREATE TABLE packs (
        number INTEGER PRIMARY KEY,
        len INTEGER NOT NULL                   -- bytes of it that the index knows; what follows is looked through at start
    ) STRICT;
";

/// A content that is here, whole or in part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    /// 0 for a small content that is not in the index yet.
    pub(crate) id: i64,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) pack: Option<i64>,
    pub(crate) start: u64,
    /// Chunks that are not held.
    pub(crate) missing: u32,
    pub(crate) cut: Option<Digest>,
}

impl Row {
    pub(crate) fn container(&self) -> Container {
        match self.pack {
            Some(pack) => Container::Pack(pack),
            None => Container::File {
                id: self.id,
                digest: self.digest,
            },
        }
    }
}

/// Where a chunk is, or is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) row: Row,
    pub(crate) chunk: u32,
    /// Digest of the chunk.
    pub(crate) digest: Digest,
    /// In the container.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) held: bool,
}

/// The index and what is not in it yet.
#[derive(Debug)]
pub(crate) struct Index {
    db: Connection,
    path: PathBuf,
    pub(crate) pending: Pending,
    /// What was looked up lately.
    known: RefCell<Known>,
    /// Contents held in part since before this start: they may hold chunks that the index does not know.
    unchecked: BTreeSet<i64>,
}

impl Index {
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("index.db");
        match Self::open_at(&path, dir) {
            Err(StoreError::Index { source, .. })
                if matches!(
                    source.sqlite_error_code(),
                    Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
                ) =>
            {
                tracing::warn!(
                    path = %path.display(),
                    "the store's index is damaged ({source}); starting with an empty one, contents will be fetched again"
                );
                for name in ["index.db", "index.db-wal", "index.db-shm"] {
                    let file = dir.join(name);
                    match std::fs::remove_file(&file) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(StoreError::io("removing", &file, error));
                        }
                        _ => {}
                    }
                }
                Self::open_at(&path, dir)
            }
            result => result,
        }
    }

    fn open_at(path: &Path, dir: &Path) -> Result<Self, StoreError> {
        let fault = |source| StoreError::index("opening it", path, source);
        let db = Connection::open(path).map_err(fault)?;
        let found: u32 = db
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(fault)?;
        if found > FORMAT {
            return Err(StoreError::Newer {
                dir: dir.to_owned(),
                found,
                supported: FORMAT,
            });
        }
        // The directory is locked by this process, so the index may be as well: no shared memory, fewer system calls.
        db.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(fault)?;
        db.pragma_update(None, "journal_mode", "WAL").map_err(fault)?;
        db.pragma_update(None, "synchronous", "NORMAL").map_err(fault)?;
        db.pragma_update(None, "cache_size", -CACHE_KIB).map_err(fault)?;
        db.pragma_update(None, "journal_size_limit", 8 << 20).map_err(fault)?;
        db.set_prepared_statement_cache_capacity(32);
        if found == 0 {
            let all = format!("BEGIN; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;");
            db.execute_batch(&all).map_err(fault)?;
        }
        let unchecked = {
            let mut statement = db.prepare("SELECT id FROM contents WHERE missing > 0").map_err(fault)?;
            let ids = statement.query_map([], |row| row.get(0)).map_err(fault)?;
            ids.collect::<Result<_, _>>().map_err(fault)?
        };
        Ok(Self {
            db,
            path: path.to_owned(),
            pending: Pending::default(),
            known: RefCell::default(),
            unchecked,
        })
    }

    /// The content, if anything of it is here or room is made for it.
    pub(crate) fn find(&self, digest: &Digest) -> Result<Option<Row>, StoreError> {
        if let Some(small) = self.pending.small(digest) {
            return Ok(Some(row_of_small(*digest, small)));
        }
        if let Some(row) = self.known.borrow_mut().row(digest) {
            return Ok(Some(self.with_pending(row)));
        }
        let row = self
            .db
            .prepare_cached("SELECT id, digest, size, pack, start, missing, cut FROM contents WHERE digest = ?1")
            .and_then(|mut statement| statement.query_row([blob(digest)], row_at).optional())
            .map_err(|source| self.fault("looking up a content", source))?;
        if let Some(row) = row {
            self.known.borrow_mut().learn(row);
        }
        Ok(row.map(|row| self.with_pending(row)))
    }

    /// `find` for many contents, in the order given.
    pub(crate) fn find_all(&self, digests: &[Digest]) -> Result<Vec<Option<Row>>, StoreError> {
        let known = || -> rusqlite::Result<usize> {
            self.db
                .prepare_cached("SELECT count(*) FROM contents")?
                .query_row([], |row| row.get(0))
        };
        let scan = digests.len() >= SCAN_MIN
            && known().map_err(|source| self.fault("counting the contents", source))? <= SCAN_ROWS * digests.len();
        if !scan {
            return digests.iter().map(|digest| self.find(digest)).collect();
        }
        let read = || -> rusqlite::Result<BTreeMap<Digest, Row>> {
            let mut statement = self
                .db
                .prepare_cached("SELECT id, digest, size, pack, start, missing, cut FROM contents")?;
            let rows = statement.query_map([], row_at)?;
            rows.map(|row| row.map(|row| (row.digest, row))).collect()
        };
        let rows = read().map_err(|source| self.fault("looking up contents", source))?;
        let find = |digest: &Digest| match self.pending.small(digest) {
            Some(small) => Some(row_of_small(*digest, small)),
            None => rows.get(digest).map(|row| self.with_pending(*row)),
        };
        Ok(digests.iter().map(find).collect())
    }

    fn with_pending(&self, mut row: Row) -> Row {
        row.missing = row.missing.saturating_sub(self.pending.chunks_of(row.id));
        row
    }

    /// Where chunk `number` of `row` is or is to be; `None`: it has no such chunk.
    pub(crate) fn place(&self, row: &Row, number: u32) -> Result<Option<Place>, StoreError> {
        if row.cut.is_none() {
            return Ok((number == 0).then_some(Place {
                row: *row,
                chunk: 0,
                digest: row.digest,
                offset: row.start,
                len: row.size,
                held: row.missing == 0,
            }));
        }
        let known = self.known.borrow_mut().pieces(row);
        let piece = match known {
            Pieces::Here(pieces) => pieces.get(number as usize).copied(),
            Pieces::TooMany => self.pieces(row, number..=number)?.first().copied(),
            Pieces::Unknown => {
                let pieces = Arc::new(self.pieces(row, 0..=u32::MAX)?);
                self.known.borrow_mut().learn_pieces(row, &pieces);
                pieces.get(number as usize).copied()
            }
        };
        Ok(piece.map(|piece| Place {
            row: *row,
            chunk: number,
            offset: row.start + piece.offset,
            len: piece.len,
            digest: piece.digest,
            held: piece.held || self.pending.has_chunk(row.id, number),
        }))
    }

    /// A range of the chunks of `row`, in order: they are numbered without gaps.
    fn pieces(&self, row: &Row, numbers: RangeInclusive<u32>) -> Result<Vec<Piece>, StoreError> {
        let query = || -> rusqlite::Result<Vec<Piece>> {
            let mut statement = self.db.prepare_cached(
                "SELECT digest, offset, len, held FROM chunks WHERE content = ?1 AND number BETWEEN ?2 AND ?3
                 ORDER BY number",
            )?;
            let pieces = statement.query_map(params![row.id, numbers.start(), numbers.end()], |found| {
                Ok(Piece {
                    digest: Digest::from_bytes(found.get(0)?),
                    offset: found.get(1)?,
                    len: found.get(2)?,
                    held: found.get(3)?,
                })
            })?;
            pieces.collect()
        };
        query().map_err(|source| self.fault("looking up chunks", source))
    }

    /// Places where a chunk with this digest is held, in any content.
    pub(crate) fn holders(&self, digest: &Digest) -> Result<Vec<Place>, StoreError> {
        let mut places = Vec::new();
        let query = || -> rusqlite::Result<Vec<(Digest, u32)>> {
            let mut statement = self.db.prepare_cached(
                "SELECT contents.digest, chunks.number FROM chunks JOIN contents ON contents.id = chunks.content
                 WHERE chunks.digest = ?1 LIMIT ?2",
            )?;
            let found = statement.query_map(params![blob(digest), HOLDERS_MAX], |row| {
                Ok((Digest::from_bytes(row.get(0)?), row.get(1)?))
            })?;
            found.collect()
        };
        let found = query().map_err(|source| self.fault("looking for a chunk", source))?;
        for (content, number) in found.into_iter().chain([(*digest, 0)]) {
            if let Some(row) = self.find(&content)?
                && let Some(place) = self.place(&row, number)?
                && place.held
                && place.digest == *digest
            {
                places.push(place);
            }
        }
        Ok(places)
    }

    /// Which chunks of `row` are held.
    pub(crate) fn held(&self, row: &Row) -> Result<Vec<bool>, StoreError> {
        if row.cut.is_none() {
            return Ok(vec![row.missing == 0]);
        }
        let pieces = self.pieces(row, 0..=u32::MAX)?;
        let held = |(number, piece): (u32, Piece)| piece.held || self.pending.has_chunk(row.id, number);
        Ok((0..).zip(pieces).map(held).collect())
    }

    /// Bytes of the chunks of `row` that are not held.
    pub(crate) fn lacking(&self, row: &Row) -> Result<u64, StoreError> {
        if row.cut.is_none() {
            return Ok(if row.missing == 0 { 0 } else { row.size });
        }
        let query = || -> rusqlite::Result<u64> {
            let mut statement = self
                .db
                .prepare_cached("SELECT number, len FROM chunks WHERE content = ?1 AND held = 0")?;
            let mut rows = statement.query([row.id])?;
            let mut lacking = 0;
            while let Some(found) = rows.next()? {
                if !self.pending.has_chunk(row.id, found.get(0)?) {
                    lacking += found.get::<_, u64>(1)?;
                }
            }
            Ok(lacking)
        };
        query().map_err(|source| self.fault("looking up the chunks that are lacking", source))
    }

    /// The sizes of all contents together.
    pub(crate) fn bytes(&self) -> Result<u64, StoreError> {
        let indexed: u64 = self
            .db
            .prepare_cached("SELECT coalesce(sum(size), 0) FROM contents")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .map_err(|source| self.fault("adding up the contents", source))?;
        Ok(indexed + self.pending.smalls().map(|(_, small)| small.size).sum::<u64>())
    }

    /// Notes a content that is to have a file of its own, with none of its chunks held.
    pub(crate) fn insert(&mut self, digest: &Digest, cut: &Digest, chunks: &ChunkList) -> Result<Row, StoreError> {
        let count = chunks.chunks().len() as u32;
        let mut insert = || -> rusqlite::Result<i64> {
            let transaction = self.db.transaction()?;
            transaction.execute(
                "INSERT INTO contents (digest, size, pack, start, missing, cut) VALUES (?1, ?2, NULL, 0, ?3, ?4)",
                params![blob(digest), chunks.size(), count, blob(cut)],
            )?;
            let id = transaction.last_insert_rowid();
            insert_chunks(&transaction, id, chunks)?;
            transaction.commit()?;
            Ok(id)
        };
        let id = insert().map_err(|source| StoreError::index("noting a content", &self.path, source))?;
        Ok(Row {
            id,
            digest: *digest,
            size: chunks.size(),
            pack: None,
            start: 0,
            missing: count,
            cut: Some(*cut),
        })
    }

    /// Notes that a content is now cut otherwise. None of the new chunks counts as held before it has been looked at.
    pub(crate) fn cut_anew(&mut self, row: &Row, cut: &Digest, chunks: &ChunkList) -> Result<Row, StoreError> {
        let count = chunks.chunks().len() as u32;
        let mut replace = || -> rusqlite::Result<()> {
            let transaction = self.db.transaction()?;
            transaction.execute("DELETE FROM chunks WHERE content = ?1", [row.id])?;
            transaction.execute(
                "UPDATE contents SET missing = ?2, cut = ?3 WHERE id = ?1",
                params![row.id, count, blob(cut)],
            )?;
            insert_chunks(&transaction, row.id, chunks)?;
            transaction.commit()
        };
        self.known.get_mut().forget(&row.digest);
        replace().map_err(|source| StoreError::index("noting how a content is cut", &self.path, source))?;
        self.pending.forget_content(row.id);
        Ok(Row {
            missing: count,
            cut: Some(*cut),
            ..*row
        })
    }

    /// Whether the content may hold chunks that the index does not know; asked once.
    pub(crate) fn take_unchecked(&mut self, row: &Row) -> bool {
        self.unchecked.remove(&row.id)
    }

    /// Whether the content is still what it was: it may have been removed, or cut otherwise.
    pub(crate) fn is_current(&self, row: &Row) -> Result<bool, StoreError> {
        let now = self.find(&row.digest)?;
        Ok(now.is_some_and(|now| (now.id, now.cut) == (row.id, row.cut)))
    }

    /// Forgets that a chunk is held; whether it counted as held.
    pub(crate) fn forget(&mut self, place: &Place) -> Result<bool, StoreError> {
        let row = &place.row;
        if row.cut.is_none() {
            return self.forget_small(row);
        }
        if !self.is_current(row)? {
            return Ok(false);
        }
        let waited = self.pending.forget_chunk(row.id, place.chunk);
        self.known.get_mut().forget(&row.digest);
        let update = || -> rusqlite::Result<bool> {
            let transaction = self.db.unchecked_transaction()?;
            let changed = transaction.execute(
                "UPDATE chunks SET held = 0 WHERE content = ?1 AND number = ?2 AND held = 1",
                params![row.id, place.chunk],
            )?;
            transaction.execute(
                "UPDATE contents SET missing = missing + ?2 WHERE id = ?1",
                params![row.id, changed],
            )?;
            transaction.commit()?;
            Ok(changed > 0)
        };
        let changed = update().map_err(|source| self.fault("forgetting a chunk", source))?;
        Ok(waited || changed)
    }

    /// Forgets everything that is held of a content whose bytes are gone; whether anything was.
    pub(crate) fn forget_all(&mut self, row: &Row) -> Result<bool, StoreError> {
        if row.cut.is_none() {
            return self.forget_small(row);
        }
        if !self.is_current(row)? {
            return Ok(false);
        }
        self.pending.forget_content(row.id);
        self.known.get_mut().forget(&row.digest);
        let update = || -> rusqlite::Result<()> {
            let transaction = self.db.unchecked_transaction()?;
            transaction.execute("UPDATE chunks SET held = 0 WHERE content = ?1", [row.id])?;
            transaction.execute(
                "UPDATE contents SET missing = (SELECT count(*) FROM chunks WHERE content = ?1) WHERE id = ?1",
                [row.id],
            )?;
            transaction.commit()
        };
        update().map_err(|source| self.fault("forgetting a content", source))?;
        Ok(true)
    }

    fn forget_small(&mut self, row: &Row) -> Result<bool, StoreError> {
        self.known.get_mut().forget(&row.digest);
        // The same content may have been put again meanwhile, at another place: that one stays.
        let at_same_place = |small: Small| Some(small.pack) == row.pack && small.start == row.start;
        let waited =
            self.pending.small(&row.digest).is_some_and(at_same_place) && self.pending.forget_small(&row.digest);
        let changed = self
            .db
            .execute(
                "DELETE FROM contents WHERE digest = ?1 AND pack IS ?2 AND start = ?3 AND cut IS NULL",
                params![blob(&row.digest), row.pack, row.start],
            )
            .map_err(|source| self.fault("forgetting a content", source))?;
        Ok(waited || changed > 0)
    }

    /// Enters a batch whose data has been synced, and syncs.
    pub(crate) fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        let batch = self.pending.unchanged_since(batch);
        let write = || -> rusqlite::Result<Vec<u32>> {
            self.db.pragma_update(None, "synchronous", "FULL")?;
            let transaction = self.db.unchecked_transaction()?;
            let mut counts = Vec::with_capacity(batch.chunks.len());
            for (content, chunks) in &batch.chunks {
                let mut changed = 0;
                let mut hold = transaction
                    .prepare_cached("UPDATE chunks SET held = 1 WHERE content = ?1 AND number = ?2 AND held = 0")?;
                for chunk in chunks.keys() {
                    changed += hold.execute(params![content, chunk])?;
                }
                transaction
                    .prepare_cached("UPDATE contents SET missing = missing - ?2 WHERE id = ?1")?
                    .execute(params![content, changed])?;
                counts.push(changed as u32);
            }
            insert_smalls(
                &transaction,
                batch.smalls.iter().map(|(digest, small)| (*digest, *small)),
            )?;
            transaction.commit()?;
            Ok(counts)
        };
        let written = write();
        let relaxed = self.db.pragma_update(None, "synchronous", "NORMAL");
        if let Ok(counts) = &written {
            let known = self.known.get_mut();
            for ((content, chunks), changed) in batch.chunks.iter().zip(counts) {
                known.held(*content, chunks.keys().copied(), *changed);
            }
        }
        written
            .and(relaxed)
            .map_err(|source| self.fault("noting what is held", source))?;
        self.pending.committed(&batch);
        Ok(())
    }

    /// Bytes of each pack that the index knows.
    pub(crate) fn packs(&self) -> Result<BTreeMap<i64, u64>, StoreError> {
        let query = || -> rusqlite::Result<BTreeMap<i64, u64>> {
            let mut statement = self.db.prepare("SELECT number, len FROM packs")?;
            let packs = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            packs.collect()
        };
        query().map_err(|source| self.fault("looking up the packs", source))
    }

    /// Enters small contents that were found in a pack at start.
    pub(crate) fn adopt(&mut self, found: &[(Digest, Small)]) -> Result<(), StoreError> {
        let write = || -> rusqlite::Result<()> {
            let transaction = self.db.unchecked_transaction()?;
            insert_smalls(&transaction, found.iter().copied())?;
            transaction.commit()
        };
        write().map_err(|source| self.fault("noting small contents found", source))
    }

    /// Removes what `keep` does not name, and returns it.
    pub(crate) fn remove_all_but(&mut self, keep: &BTreeSet<Digest>) -> Result<Vec<Row>, StoreError> {
        let read = || -> rusqlite::Result<Vec<Row>> {
            let mut statement = self
                .db
                .prepare("SELECT id, digest, size, pack, start, missing, cut FROM contents")?;
            let rows = statement.query_map([], row_at)?;
            rows.filter(|row| row.as_ref().map_or(true, |row| !keep.contains(&row.digest)))
                .collect()
        };
        let mut removed = read().map_err(|source| self.fault("looking for what to remove", source))?;
        let write = || -> rusqlite::Result<()> {
            let transaction = self.db.unchecked_transaction()?;
            for row in &removed {
                transaction
                    .prepare_cached("DELETE FROM contents WHERE id = ?1")?
                    .execute([row.id])?;
                transaction
                    .prepare_cached("DELETE FROM chunks WHERE content = ?1")?
                    .execute([row.id])?;
            }
            transaction.commit()
        };
        self.known.get_mut().clear();
        write().map_err(|source| self.fault("removing contents", source))?;
        for row in &removed {
            self.pending.forget_content(row.id);
            self.unchecked.remove(&row.id);
        }
        self.pending.retain_smalls(|digest, small| {
            let kept = keep.contains(digest);
            if !kept {
                removed.push(row_of_small(*digest, *small));
            }
            kept
        });
        Ok(removed)
    }

    /// The ranges `(start, size)` of a pack that hold contents, in order.
    pub(crate) fn living(&self, pack: i64) -> Result<Vec<(u64, u64)>, StoreError> {
        let query = || -> rusqlite::Result<Vec<(u64, u64)>> {
            let mut statement = self
                .db
                .prepare_cached("SELECT start, size FROM contents WHERE pack = ?1")?;
            let ranges = statement.query_map([pack], |row| Ok((row.get(0)?, row.get(1)?)))?;
            ranges.collect()
        };
        let mut ranges = query().map_err(|source| self.fault("looking through a pack", source))?;
        let pending = self.pending.smalls().filter(|(_, small)| small.pack == pack);
        ranges.extend(pending.map(|(_, small)| (small.start, small.size)));
        ranges.sort_unstable();
        Ok(ranges)
    }

    /// A pack is gone.
    pub(crate) fn remove_pack(&self, pack: i64) -> Result<(), StoreError> {
        self.db
            .execute("DELETE FROM packs WHERE number = ?1", [pack])
            .map_err(|source| self.fault("removing a pack", source))?;
        Ok(())
    }

    fn fault(&self, doing: &'static str, source: rusqlite::Error) -> StoreError {
        StoreError::index(doing, &self.path, source)
    }
}

fn blob(digest: &Digest) -> &[u8] {
    digest.as_bytes()
}

fn row_at(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        id: row.get(0)?,
        digest: Digest::from_bytes(row.get(1)?),
        size: row.get(2)?,
        pack: row.get(3)?,
        start: row.get(4)?,
        missing: row.get(5)?,
        cut: row.get::<_, Option<[u8; Digest::BYTES]>>(6)?.map(Digest::from_bytes),
    })
}

fn row_of_small(digest: Digest, small: Small) -> Row {
    Row {
        id: 0,
        digest,
        size: small.size,
        pack: Some(small.pack),
        start: small.start,
        missing: 0,
        cut: None,
    }
}

fn insert_chunks(db: &Connection, content: i64, chunks: &ChunkList) -> rusqlite::Result<()> {
    let mut insert = db.prepare_cached(
        "INSERT INTO chunks (content, number, offset, len, digest, held) VALUES (?1, ?2, ?3, ?4, ?5, 0)",
    )?;
    let mut offset = 0_u64;
    for (number, chunk) in chunks.chunks().iter().enumerate() {
        insert.execute(params![content, number as u32, offset, chunk.len, blob(&chunk.digest)])?;
        offset += u64::from(chunk.len);
    }
    Ok(())
}

fn insert_smalls(db: &Connection, smalls: impl Iterator<Item = (Digest, Small)>) -> rusqlite::Result<()> {
    let mut insert = db.prepare_cached(
        "INSERT OR IGNORE INTO contents (digest, size, pack, start, missing, cut) VALUES (?1, ?2, ?3, ?4, 0, NULL)",
    )?;
    let mut ends = BTreeMap::<i64, u64>::new();
    for (digest, small) in smalls {
        debug_assert!(small.size <= META_BYTES_MAX, "put_small checks the size");
        insert.execute(params![blob(&digest), small.size, small.pack, small.start])?;
        let end = ends.entry(small.pack).or_default();
        *end = (*end).max(small.start + small.size);
    }
    for (pack, end) in ends {
        db.prepare_cached(
            "INSERT INTO packs (number, len) VALUES (?1, ?2) ON CONFLICT (number) DO UPDATE SET len = max(len, ?2)",
        )?
        .execute(params![pack, end])?;
    }
    Ok(())
}
