//! The catalogue in one SQLite file.

mod assignments;
mod content;
mod database;
mod nodes;
mod operators;
mod reports;
mod standing;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use potluck_model::api::{AudienceKey, Configuration, Labels, Neighbour, Release, Standing};
use potluck_model::audit::{AT_THE_SERVER, AuditLog};
use potluck_model::list::Content;
use potluck_model::trace::Event;
use potluck_model::{AudienceName, ConfigurationName, Digest, NodeId, UnixSeconds};
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde::de::DeserializeOwned;

use super::{
    Assigned, AssignmentRecord, Catalogue, CatalogueError, FleetKeys, NewAssignment, NewAuditEntry, NewRelease,
    NewToken, NodeRecord, OperatorRecord, PresenceRecord, Published, Redeemed, RedeemedOperator, Redemption, Result,
    Revocation, Revoked, Sweep, Transition, Unassign,
};
use crate::blobs::{PackId, Stored};
use crate::gc::Used;
use crate::site::SiteKey;
use database::{BUSY_TIMEOUT, Database};

/// The version of the schema that this version writes, and the newest it reads.
const SCHEMA_VERSION: i64 = 3;
/// From each version to the next, beginning with version 1. These stay as they are.
const MIGRATIONS: [&str; 2] = [
    // How many bytes the events of each node have.
    "ALTER TABLE nodes ADD COLUMN event_bytes INTEGER NOT NULL DEFAULT 0;
    UPDATE nodes SET event_bytes =
        (SELECT COALESCE(SUM(LENGTH(CAST(event AS BLOB))), 0) FROM events WHERE events.node = nodes.id);",
    // Who belongs to the fleet, and what operators did.
    "ALTER TABLE fleet_keys ADD COLUMN made INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE tokens ADD COLUMN approval INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE tokens ADD COLUMN operator TEXT;
    ALTER TABLE nodes ADD COLUMN standing INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE nodes ADD COLUMN decided INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE nodes ADD COLUMN reason TEXT NOT NULL DEFAULT '';
    ALTER TABLE nodes ADD COLUMN replaces INTEGER;
    ALTER TABLE nodes ADD COLUMN twice INTEGER;
    CREATE INDEX nodes_revoked ON nodes (decided) WHERE standing = 2;
    CREATE TABLE operators (
        name TEXT PRIMARY KEY, key BLOB NOT NULL, added INTEGER NOT NULL, removed INTEGER
    ) WITHOUT ROWID;
    CREATE TABLE audit (number INTEGER PRIMARY KEY, entry TEXT NOT NULL, hash BLOB NOT NULL);
    INSERT INTO settings VALUES ('revocations', 1);",
];

/// Sequence numbers are Unix times, but run ahead of the clock while something is assigned more than once a second. By how
/// much at the most, in a server that was in use.
const SEQUENCE_LEAD_MAX: u64 = 86_400;

/// The catalogue in one SQLite file.
pub(crate) struct SqliteCatalogue {
    database: Database,
}

impl SqliteCatalogue {
    /// Opens the file, or makes it with fresh keys for the fleet.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let database = Database::open(path)?;
        database.write(|c| {
            let version: i64 = c.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            if version > SCHEMA_VERSION {
                return Err(CatalogueError::Newer(version));
            }
            if version == 0 {
                c.execute_batch(include_str!("schema.sql"))?;
                c.execute(
                    "INSERT INTO audience_keys VALUES (?, ?)",
                    (AudienceName::fleet().as_str(), secret()?),
                )?;
                c.execute("INSERT INTO fleet_keys VALUES (1, ?, 0)", (secret()?,))?;
            } else {
                let known = usize::try_from(version - 1).unwrap_or(usize::MAX);
                for migration in MIGRATIONS.iter().skip(known) {
                    c.execute_batch(migration)?;
                }
            }
            c.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            Ok(())
        })?;
        Ok(Self { database })
    }

    /// Copies the database, as it is at one moment, into a file that exists and is empty. Others may use it meanwhile.
    /// Returns the packs that the copy names.
    pub(crate) fn copy(from: &Path, to: &Path) -> Result<BTreeSet<PackId>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let source = Connection::open_with_flags(from, flags)?;
        source.busy_timeout(BUSY_TIMEOUT)?;
        let version: i64 = source.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version > SCHEMA_VERSION {
            return Err(CatalogueError::Newer(version));
        }
        let mut copy = Connection::open_with_flags(to, flags)?;
        // All pages at once: in parts, each change of the source would make it begin anew.
        Backup::new(&source, &mut copy)?.step(-1)?;
        // So that it is one file.
        copy.pragma_update(None, "journal_mode", "DELETE")?;
        content::packs(&copy)
    }

    /// Whether the database is whole, in the words of SQLite if it is not.
    pub(crate) fn check(&self) -> Result<()> {
        self.database.read(|c| {
            let verdict: String = c.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if verdict == "ok" {
                Ok(())
            } else {
                Err(CatalogueError::Damaged(verdict))
            }
        })
    }

    /// What nodes are assigned counts as assigned anew, and who was revoked as revoked anew: nodes have seen higher numbers
    /// than this copy knows.
    pub(crate) fn renew_sequences(&self, now: UnixSeconds) -> Result<()> {
        self.database.write(move |c| {
            let above = now.0.saturating_add(SEQUENCE_LEAD_MAX) as i64;
            c.execute("UPDATE nodes SET sequence = MAX(sequence + 1, ?)", [above])?;
            standing::renew_fleet(c, above)?;
            let entry = NewAuditEntry {
                operator: AT_THE_SERVER.to_owned(),
                request: "restored from a backup".to_owned(),
                body: String::new(),
                refused: None,
                now,
            };
            operators::append(c, &entry)?;
            bump(c)
        })
    }
}

fn secret() -> Result<[u8; 32]> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|fault| CatalogueError::Database(format!("no randomness: {fault}")))?;
    Ok(key)
}

fn bump(c: &Connection) -> Result<()> {
    c.execute("UPDATE settings SET value = value + 1 WHERE name = 'change'", [])?;
    Ok(())
}

fn setting(c: &Connection, name: &str) -> Result<u64> {
    let value: i64 = c
        .prepare_cached("SELECT value FROM settings WHERE name = ?")?
        .query_row([name], |row| row.get(0))?;
    Ok(value as u64)
}

/// Parses a column that holds JSON.
fn json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|fault| CatalogueError::Damaged(fault.to_string()))
}

/// Parses a column that holds a name or the like.
fn name<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|fault: T::Err| CatalogueError::Damaged(fault.to_string()))
}

fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("records are plain data")
}

impl Catalogue for SqliteCatalogue {
    fn change(&self) -> Result<u64> {
        self.database.read(|c| setting(c, "change"))
    }

    fn announce(&self) -> Result<()> {
        self.database.write(bump)
    }

    fn keys(&self, now: UnixSeconds) -> Result<FleetKeys> {
        self.database.read(|c| {
            let hex = |key: [u8; 32]| data_encoding::HEXLOWER.encode(&key);
            let mut audiences = Vec::new();
            let mut statement = c.prepare_cached("SELECT audience, key FROM audience_keys ORDER BY audience")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                audiences.push(AudienceKey {
                    audience: name(&row.get::<_, String>(0)?)?,
                    key: hex(row.get(1)?),
                });
            }
            let fleet = standing::fleet_keys(c, now)?;
            Ok(FleetKeys { audiences, fleet })
        })
    }

    fn chunks(&self, digests: &[Digest]) -> Result<Vec<Option<Stored>>> {
        self.database.read(|c| content::chunks(c, digests))
    }

    fn rely(&self, digests: &[Digest], now: UnixSeconds) -> Result<Vec<Option<Stored>>> {
        if let Some(found) = self.database.read(|c| content::reliable(c, digests, now))? {
            return Ok(found);
        }
        let digests = digests.to_vec();
        self.database.write(move |c| content::rely(c, &digests, now))
    }

    fn each_chunk(&self, visit: &mut dyn FnMut(&Digest, Stored)) -> Result<()> {
        self.database.read(|c| content::each_chunk(c, visit))
    }

    fn add_pack(&self, pack: PackId, chunks: Vec<(Digest, Stored)>) -> Result<()> {
        self.database.write(move |c| content::add_pack(c, pack, &chunks))
    }

    fn packs(&self) -> Result<BTreeSet<PackId>> {
        self.database.read(content::packs)
    }

    fn packs_unused_since(&self, cutoff: UnixSeconds) -> Result<BTreeSet<PackId>> {
        self.database.read(|c| content::packs_unused_since(c, cutoff))
    }

    fn stored_bytes(&self) -> Result<u64> {
        self.database.read(content::stored_bytes)
    }

    fn file(&self, digest: &Digest) -> Result<Option<Content>> {
        self.database.read(|c| content::file(c, digest))
    }

    fn sweeps(&self) -> Result<u64> {
        self.database.read(|c| setting(c, "sweeps"))
    }

    fn remove_releases(&self, keep: u64) -> Result<Vec<Release>> {
        self.database.write(move |c| content::remove_releases(c, keep))
    }

    fn lists(&self) -> Result<(u64, BTreeSet<Digest>)> {
        self.database.read(content::lists)
    }

    fn retain_files(&self, published: u64, used: Arc<Used>) -> Result<Option<u64>> {
        self.database.write(move |c| content::retain_files(c, published, &used))
    }

    fn sweep(&self, sweep: Sweep) -> Result<Option<Vec<PackId>>> {
        self.database.write(move |c| content::sweep(c, &sweep))
    }

    fn publish(&self, release: NewRelease) -> Result<Published> {
        self.database.write(move |c| content::publish(c, &release))
    }

    fn configurations(&self) -> Result<Vec<Configuration>> {
        self.database.read(content::configurations)
    }

    fn configuration(&self, name: &ConfigurationName) -> Result<Option<Configuration>> {
        self.database.read(|c| content::configuration(c, name))
    }

    fn releases(&self, name: &ConfigurationName, version: &str) -> Result<Vec<Release>> {
        self.database.read(|c| content::matching_releases(c, name, version))
    }

    fn add_token(&self, token: NewToken) -> Result<bool> {
        self.database.write(move |c| nodes::add_token(c, &token))
    }

    fn redeem(&self, redemption: Redemption) -> Result<Redeemed> {
        self.database.write(move |c| nodes::redeem(c, &redemption))
    }

    fn standing(&self, node: NodeId) -> Result<Option<(Digest, Standing)>> {
        self.database.read(|c| standing::standing(c, node))
    }

    fn approve(&self, node: NodeId, now: UnixSeconds) -> Result<Option<Standing>> {
        self.database.write(move |c| standing::approve(c, node, now))
    }

    fn revoke(&self, revocation: Revocation) -> Result<Vec<NodeId>> {
        self.database.write(move |c| standing::revoke(c, &revocation))
    }

    fn set_twice(&self, node: NodeId, at: UnixSeconds) -> Result<()> {
        self.database.write(move |c| standing::set_twice(c, node, at))
    }

    fn operators(&self) -> Result<Vec<OperatorRecord>> {
        self.database.read(operators::all)
    }

    fn set_operator(&self, name: &str, key: Digest, now: UnixSeconds) -> Result<()> {
        let name = name.to_owned();
        self.database.write(move |c| operators::set(c, &name, &key, now))
    }

    fn redeem_operator(&self, token: Digest, key: Digest, now: UnixSeconds) -> Result<RedeemedOperator> {
        self.database.write(move |c| operators::redeem(c, &token, &key, now))
    }

    fn remove_operator(&self, name: &str, now: UnixSeconds) -> Result<bool> {
        let name = name.to_owned();
        self.database.write(move |c| operators::remove(c, &name, now))
    }

    fn audit(&self, entry: NewAuditEntry) -> Result<u64> {
        self.database.write(move |c| operators::append(c, &entry))
    }

    fn audit_log(&self, after: u64, limit: usize) -> Result<AuditLog> {
        self.database.read(|c| operators::log(c, after, limit))
    }

    fn revoked(&self, since: UnixSeconds, limit: usize) -> Result<Revoked> {
        self.database.read(|c| standing::revoked(c, since, limit))
    }

    fn node(&self, node: NodeId) -> Result<Option<NodeRecord>> {
        self.database.read(|c| nodes::node(c, node))
    }

    fn nodes(&self) -> Result<Vec<NodeRecord>> {
        self.database.read(nodes::nodes)
    }

    fn find_nodes(&self, text: &str) -> Result<Vec<NodeId>> {
        self.database.read(|c| nodes::find(c, text))
    }

    fn set_labels(&self, node: NodeId, labels: Labels) -> Result<bool> {
        self.database.write(move |c| nodes::set_labels(c, node, &labels))
    }

    fn set_presence(&self, node: NodeId, presence: PresenceRecord) -> Result<bool> {
        self.database.write(move |c| nodes::set_presence(c, node, &presence))
    }

    fn set_seen(&self, seen: Vec<(NodeId, UnixSeconds)>) -> Result<()> {
        self.database.write(move |c| nodes::set_seen(c, &seen))
    }

    fn sites(&self, node: NodeId) -> Result<BTreeSet<SiteKey>> {
        let sites = self.database.read(|c| nodes::sites(c, node))?;
        sites.iter().map(|site| name(site)).collect()
    }

    fn neighbours(
        &self,
        node: NodeId,
        shared: Vec<SiteKey>,
        since: UnixSeconds,
        limit: usize,
    ) -> Result<Vec<Neighbour>> {
        self.database
            .read(|c| nodes::neighbours(c, node, &shared, since, limit))
    }

    fn nearest(&self, node: NodeId, list: Digest, since: UnixSeconds, limit: usize) -> Result<Vec<Neighbour>> {
        self.database.read(|c| nodes::nearest(c, node, &list, since, limit))
    }

    fn use_site_map(&self, number: u64) -> Result<bool> {
        self.database.write(move |c| nodes::use_site_map(c, number))
    }

    fn population(&self, node: NodeId) -> Result<u32> {
        self.database.read(|c| nodes::population(c, node))
    }

    fn assign(&self, assignment: NewAssignment) -> Result<Assigned> {
        self.database.write(move |c| assignments::assign(c, &assignment))
    }

    fn unassign(&self, which: Unassign) -> Result<Vec<AssignmentRecord>> {
        self.database.write(move |c| assignments::unassign(c, &which))
    }

    fn assignments(&self) -> Result<Vec<AssignmentRecord>> {
        self.database.read(assignments::all)
    }

    fn halted(&self) -> Result<bool> {
        self.database.read(|c| Ok(setting(c, "halted")? != 0))
    }

    fn set_halted(&self, halted: bool) -> Result<()> {
        self.database.write(move |c| {
            c.execute("UPDATE settings SET value = ? WHERE name = 'halted'", [halted])?;
            bump(c)
        })
    }

    fn add_events(&self, node: NodeId, events: Vec<Event>) -> Result<Option<Transition>> {
        self.database.write(move |c| reports::add(c, node, &events))
    }

    fn events(&self, node: NodeId, after: u64, list: Option<Digest>, limit: usize) -> Result<Vec<(u64, Event)>> {
        self.database.read(|c| reports::events(c, node, after, list, limit))
    }
}

/// `None` where a row does not exist.
fn optional<T>(result: rusqlite::Result<T>) -> Result<Option<T>> {
    Ok(result.optional()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_gives_what_a_catalogue_promises() {
        super::super::suite::catalogue_suite(|path| Box::new(SqliteCatalogue::open(path).unwrap()));
    }

    /// Tables and columns, in their order.
    fn columns(path: &Path) -> Vec<(String, String)> {
        let c = Connection::open(path).unwrap();
        let sql = "SELECT m.name, c.name || ' ' || c.type || c.\"notnull\" || c.pk FROM sqlite_schema m
            JOIN pragma_table_info(m.name) c WHERE m.type = 'table' ORDER BY m.name, c.cid";
        let mut statement = c.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(|row| row.unwrap()).collect()
    }

    #[test]
    fn a_database_of_version_1_becomes_the_same_as_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old.db"), dir.path().join("new.db"));
        std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/data-1/server.db"), &old).unwrap();
        for path in [&old, &new, &old] {
            drop(SqliteCatalogue::open(path).unwrap());
        }
        assert_eq!(columns(&old), columns(&new));
        let c = Connection::open(&old).unwrap();
        let count = |sql: &str| c.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let counted = count("SELECT event_bytes FROM nodes");
        assert!(counted > 1_000, "{counted}");
        assert_eq!(counted, count("SELECT SUM(LENGTH(event)) FROM events"));
    }

    #[test]
    fn a_database_of_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.db");
        drop(SqliteCatalogue::open(&path).unwrap());
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
            .unwrap();
        assert!(matches!(SqliteCatalogue::open(&path), Err(CatalogueError::Newer(_))));
    }
}
