//! Chunks, files and releases in SQLite.

use std::collections::{BTreeMap, BTreeSet};

use potluck_model::api::{Configuration, Release};
use potluck_model::list::Content;
use potluck_model::{ConfigurationName, Digest, UnixSeconds, VersionName};
use rusqlite::{Connection, Row};

use super::{NewRelease, Published, Result, assignments, bump, name, optional, setting};
use crate::blobs::{PackId, Stored};
use crate::catalogue::{Moved, RELEASES_TOLD_MAX, RELY_SLACK_SECONDS, Sweep};
use crate::gc::Used;

pub(super) fn chunks(c: &Connection, digests: &[Digest]) -> Result<Vec<Option<Stored>>> {
    let mut statement = c.prepare_cached("SELECT pack, offset, len FROM chunks WHERE digest = ?")?;
    digests
        .iter()
        .map(|digest| {
            optional(statement.query_row([digest.as_bytes()], |row| {
                Ok(Stored {
                    pack: PackId(row.get::<_, i64>(0)? as u64),
                    offset: row.get::<_, i64>(1)? as u64,
                    len: row.get(2)?,
                })
            }))
        })
        .collect()
}

/// The same; `None` if a pack would have to be marked as used first.
pub(super) fn reliable(c: &Connection, digests: &[Digest], now: UnixSeconds) -> Result<Option<Vec<Option<Stored>>>> {
    let found = chunks(c, digests)?;
    let since = now.0.saturating_sub(RELY_SLACK_SECONDS) as i64;
    let mut fresh = c.prepare_cached("SELECT used >= ? FROM packs WHERE id = ?")?;
    for pack in packs_of(&found) {
        let fresh: Option<bool> = optional(fresh.query_row((since, pack.0 as i64), |row| row.get(0)))?;
        if fresh != Some(true) {
            return Ok(None);
        }
    }
    Ok(Some(found))
}

pub(super) fn rely(c: &Connection, digests: &[Digest], now: UnixSeconds) -> Result<Vec<Option<Stored>>> {
    let found = chunks(c, digests)?;
    let mut update = c.prepare_cached("UPDATE packs SET used = ?2 WHERE id = ?1 AND used < ?2")?;
    for pack in packs_of(&found) {
        update.execute((pack.0 as i64, now.0 as i64))?;
    }
    Ok(found)
}

fn packs_of(chunks: &[Option<Stored>]) -> BTreeSet<PackId> {
    chunks.iter().flatten().map(|stored| stored.pack).collect()
}

pub(super) fn each_chunk(c: &Connection, visit: &mut dyn FnMut(&Digest, Stored)) -> Result<()> {
    let mut statement = c.prepare_cached("SELECT digest, pack, offset, len FROM chunks")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let stored = Stored {
            pack: PackId(row.get::<_, i64>(1)? as u64),
            offset: row.get::<_, i64>(2)? as u64,
            len: row.get(3)?,
        };
        visit(&Digest::from_bytes(row.get(0)?), stored);
    }
    Ok(())
}

pub(super) fn add_pack(c: &Connection, pack: PackId, chunks: &[(Digest, Stored)]) -> Result<()> {
    let mut insert = c.prepare_cached("INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?)")?;
    let mut bytes = 0;
    for (digest, stored) in chunks {
        let new = insert.execute((
            digest.as_bytes(),
            stored.pack.0 as i64,
            stored.offset as i64,
            stored.len,
        ))?;
        if new > 0 {
            bytes += i64::from(stored.len);
        }
    }
    c.execute(
        "INSERT OR IGNORE INTO packs VALUES (?, ?, ?)",
        (pack.0 as i64, bytes, UnixSeconds::now().0 as i64),
    )?;
    Ok(())
}

pub(super) fn packs_unused_since(c: &Connection, cutoff: UnixSeconds) -> Result<BTreeSet<PackId>> {
    let mut statement = c.prepare_cached("SELECT id FROM packs WHERE used < ?")?;
    let rows = statement.query_map([cutoff.0 as i64], |row| Ok(PackId(row.get::<_, i64>(0)? as u64)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn remove_releases(c: &Connection, keep: u64) -> Result<Vec<Release>> {
    let keep = i64::try_from(keep.max(1)).unwrap_or(i64::MAX);
    let sql = format!(
        "SELECT {RELEASE} FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY configuration ORDER BY release DESC) AS age FROM releases) AS r
         WHERE age > ?
            AND NOT EXISTS (SELECT 1 FROM assignments a WHERE a.configuration = r.configuration AND a.release = r.release)
            AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.configuration = r.configuration AND n.release = r.release)
         ORDER BY configuration, release"
    );
    let mut statement = c.prepare_cached(&sql)?;
    let mut rows = statement.query([keep])?;
    let mut removed = Vec::new();
    while let Some(row) = rows.next()? {
        removed.push(release(row)?);
    }
    let mut delete = c.prepare_cached("DELETE FROM releases WHERE configuration = ? AND release = ?")?;
    for release in &removed {
        delete.execute((release.configuration.as_str(), release.release as i64))?;
    }
    Ok(removed)
}

pub(super) fn lists(c: &Connection) -> Result<(u64, BTreeSet<Digest>)> {
    let mut statement = c.prepare_cached("SELECT DISTINCT list FROM releases")?;
    let rows = statement.query_map([], |row| Ok(Digest::from_bytes(row.get(0)?)))?;
    Ok((setting(c, "published")?, rows.collect::<rusqlite::Result<_>>()?))
}

pub(super) fn retain_files(c: &Connection, published: u64, used: &Used) -> Result<Option<u64>> {
    if setting(c, "published")? != published {
        return Ok(None);
    }
    let mut unused = Vec::new();
    let mut statement = c.prepare_cached("SELECT digest FROM files")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let digest = Digest::from_bytes(row.get(0)?);
        if !used.contains(&digest) {
            unused.push(digest);
        }
    }
    if !unused.is_empty() {
        count_sweep(c)?;
    }
    let mut delete = c.prepare_cached("DELETE FROM files WHERE digest = ?")?;
    for digest in &unused {
        delete.execute([digest.as_bytes()])?;
    }
    Ok(Some(unused.len() as u64))
}

pub(super) fn sweep(c: &Connection, sweep: &Sweep) -> Result<Option<Vec<PackId>>> {
    if setting(c, "published")? != sweep.published {
        return Ok(None);
    }
    let mut gone = BTreeSet::new();
    let mut delete = c.prepare_cached("DELETE FROM packs WHERE id = ? AND used < ?")?;
    for pack in &sweep.packs {
        if delete.execute((pack.0 as i64, sweep.cutoff.0 as i64))? > 0 {
            gone.insert(*pack);
        }
    }
    if gone.is_empty() {
        return Ok(Some(Vec::new()));
    }
    count_sweep(c)?;
    let mut forget = c.prepare_cached("DELETE FROM chunks WHERE digest = ? AND pack = ?")?;
    for (digest, stored) in sweep.unused.iter().filter(|(_, stored)| gone.contains(&stored.pack)) {
        forget.execute((digest.as_bytes(), stored.pack.0 as i64))?;
    }
    let mut point = c.prepare_cached("UPDATE chunks SET pack = ?, offset = ? WHERE digest = ? AND pack = ?")?;
    let mut filled: BTreeMap<PackId, i64> = BTreeMap::new();
    for Moved { digest, from, to } in sweep.moved.iter().filter(|moved| gone.contains(&moved.from.pack)) {
        point.execute((
            to.pack.0 as i64,
            to.offset as i64,
            digest.as_bytes(),
            from.pack.0 as i64,
        ))?;
        *filled.entry(to.pack).or_default() += i64::from(to.len);
    }
    let mut insert = c.prepare_cached("INSERT INTO packs VALUES (?, ?, ?)")?;
    for (pack, bytes) in filled {
        insert.execute((pack.0 as i64, bytes, sweep.now.0 as i64))?;
    }
    Ok(Some(gone.into_iter().collect()))
}

/// Whoever checks the content of a release now has to check it again.
fn count_sweep(c: &Connection) -> Result<()> {
    c.execute("UPDATE settings SET value = value + 1 WHERE name = 'sweeps'", [])?;
    Ok(())
}

pub(super) fn packs(c: &Connection) -> Result<BTreeSet<PackId>> {
    let mut statement = c.prepare_cached("SELECT id FROM packs")?;
    let rows = statement.query_map([], |row| Ok(PackId(row.get::<_, i64>(0)? as u64)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn stored_bytes(c: &Connection) -> Result<u64> {
    let bytes: i64 = c.query_row("SELECT COALESCE(SUM(bytes), 0) FROM packs", [], |row| row.get(0))?;
    Ok(bytes as u64)
}

pub(super) fn file(c: &Connection, digest: &Digest) -> Result<Option<Content>> {
    optional(
        c.prepare_cached("SELECT size, chunks FROM files WHERE digest = ?")?
            .query_row([digest.as_bytes()], |row| {
                Ok(Content {
                    digest: *digest,
                    size: row.get::<_, i64>(0)? as u64,
                    chunks: Some(Digest::from_bytes(row.get(1)?)),
                })
            }),
    )
}

pub(super) fn publish(c: &Connection, new: &NewRelease) -> Result<Published> {
    let release = &new.release;
    let configuration = release.configuration.as_str();
    let newest = newest(c, &release.configuration)?;
    if let Some(newest) = &newest
        && newest.list == release.list
    {
        return Ok(Published::Same(newest.clone()));
    }
    if setting(c, "sweeps")? != new.sweeps {
        return Ok(Published::Swept);
    }
    let newest = newest.map_or(0, |newest| newest.release);
    if release.release != newest + 1 {
        return Ok(Published::Conflict { newest });
    }
    if let Some(version) = &release.version {
        let taken: Option<i64> = optional(c.query_row(
            "SELECT release FROM releases WHERE configuration = ? AND version = ?",
            (configuration, version.as_str()),
            |row| row.get(0),
        ))?;
        if let Some(taken) = taken {
            return Ok(Published::VersionTaken {
                version: version.clone(),
                release: taken as u64,
            });
        }
    }
    let mut insert = c.prepare_cached("INSERT OR REPLACE INTO files VALUES (?, ?, ?)")?;
    for file in &new.files {
        if let Some(chunks) = &file.chunks {
            insert.execute((file.digest.as_bytes(), file.size as i64, chunks.as_bytes()))?;
        }
    }
    c.execute(
        "INSERT INTO releases VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            configuration,
            release.release as i64,
            release.version.as_ref().map(VersionName::as_str),
            release.list.as_bytes(),
            release.list_size as i64,
            release.files as i64,
            release.bytes as i64,
            release.published.0 as i64,
        ),
    )?;
    c.execute("UPDATE settings SET value = value + 1 WHERE name = 'published'", [])?;
    if assignments::reassign(c, assignments::Scope::All, release.published)? > 0 {
        bump(c)?;
    }
    Ok(Published::New(release.clone()))
}

const RELEASE: &str = "configuration, release, version, list, list_size, files, bytes, published";

/// The newest release of a configuration.
pub(super) fn newest(c: &Connection, configuration: &ConfigurationName) -> Result<Option<Release>> {
    let sql = format!("SELECT {RELEASE} FROM releases WHERE configuration = ? ORDER BY release DESC LIMIT 1");
    first(c, &sql, [configuration.as_str()])
}

/// The release of a configuration with this number.
pub(super) fn numbered(c: &Connection, configuration: &ConfigurationName, number: u64) -> Result<Option<Release>> {
    let sql = format!("SELECT {RELEASE} FROM releases WHERE configuration = ? AND release = ?");
    first(c, &sql, (configuration.as_str(), number as i64))
}

fn first(c: &Connection, sql: &str, parameters: impl rusqlite::Params) -> Result<Option<Release>> {
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    rows.next()?.map(release).transpose()
}

pub(super) fn configuration(c: &Connection, wanted: &ConfigurationName) -> Result<Option<Configuration>> {
    let sql = format!("SELECT {RELEASE} FROM releases WHERE configuration = ? ORDER BY release DESC LIMIT ?");
    let mut statement = c.prepare_cached(&sql)?;
    let mut rows = statement.query((wanted.as_str(), RELEASES_TOLD_MAX as i64))?;
    let mut releases = Vec::new();
    while let Some(row) = rows.next()? {
        releases.push(release(row)?);
    }
    Ok((!releases.is_empty()).then(|| Configuration {
        name: wanted.clone(),
        releases,
    }))
}

pub(super) fn configurations(c: &Connection) -> Result<Vec<Configuration>> {
    let mut statement = c.prepare_cached("SELECT DISTINCT configuration FROM releases ORDER BY configuration")?;
    let names: Vec<String> = statement
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let found = names.iter().map(|text| configuration(c, &name(text)?));
    found.filter_map(Result::transpose).collect()
}

pub(super) fn matching_releases(c: &Connection, wanted: &ConfigurationName, version: &str) -> Result<Vec<Release>> {
    let number = version.parse::<i64>().unwrap_or(-1);
    let sql = format!(
        "SELECT {RELEASE} FROM releases WHERE configuration = ?1 AND (version = ?2 OR release = ?3) ORDER BY release"
    );
    let mut statement = c.prepare_cached(&sql)?;
    let mut rows = statement.query((wanted.as_str(), version, number))?;
    let mut releases = Vec::new();
    while let Some(row) = rows.next()? {
        releases.push(release(row)?);
    }
    Ok(releases)
}

fn release(row: &Row<'_>) -> Result<Release> {
    Ok(Release {
        configuration: name(&row.get::<_, String>(0)?)?,
        release: row.get::<_, i64>(1)? as u64,
        version: row.get::<_, Option<String>>(2)?.map(|text| name(&text)).transpose()?,
        list: Digest::from_bytes(row.get(3)?),
        list_size: row.get::<_, i64>(4)? as u64,
        files: row.get::<_, i64>(5)? as u64,
        bytes: row.get::<_, i64>(6)? as u64,
        published: UnixSeconds(row.get::<_, i64>(7)? as u64),
    })
}
