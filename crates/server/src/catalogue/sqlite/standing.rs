//! Who belongs to the fleet, in SQLite.

use potluck_model::api::{FleetKey, Standing};
use potluck_model::{Digest, NodeId, UnixSeconds};
use rusqlite::{Connection, OptionalExtension};

use super::{Result, Revocation, Revoked, assignments, bump, secret, setting, to_json};
use crate::catalogue::{CatalogueError, FLEET_KEY_GRACE_SECONDS, FLEET_KEYS_MAX};
use crate::progress::Tracker;

/// How a standing is stored.
pub(super) fn number(standing: Standing) -> i64 {
    match standing {
        Standing::Admitted => 0,
        Standing::Pending => 1,
        Standing::Revoked => 2,
    }
}

pub(super) fn of(number: i64) -> Result<Standing> {
    match number {
        0 => Ok(Standing::Admitted),
        1 => Ok(Standing::Pending),
        2 => Ok(Standing::Revoked),
        other => Err(CatalogueError::Damaged(format!("a node has the standing {other}"))),
    }
}

pub(super) fn standing(c: &Connection, node: NodeId) -> Result<Option<(Digest, Standing)>> {
    let row: Option<([u8; 32], i64)> = c
        .prepare_cached("SELECT key, standing FROM nodes WHERE id = ?")?
        .query_row([node.0 as i64], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    row.map(|(key, standing)| Ok((Digest::from_bytes(key), of(standing)?)))
        .transpose()
}

pub(super) fn approve(c: &Connection, node: NodeId, now: UnixSeconds) -> Result<Option<Standing>> {
    let Some((_, before)) = standing(c, node)? else {
        return Ok(None);
    };
    // Whoever looked into it has decided that too.
    c.execute("UPDATE nodes SET twice = NULL WHERE id = ?", [node.0 as i64])?;
    if before == Standing::Pending {
        c.execute(
            "UPDATE nodes SET standing = ?, decided = ? WHERE id = ?",
            (number(Standing::Admitted), now.0 as i64, node.0 as i64),
        )?;
        assignments::reassign(c, assignments::Scope::Node(node), now)?;
        bump(c)?;
    }
    Ok(Some(before))
}

pub(super) fn set_twice(c: &Connection, node: NodeId, at: UnixSeconds) -> Result<()> {
    c.execute("UPDATE nodes SET twice = ? WHERE id = ?", (at.0 as i64, node.0 as i64))?;
    Ok(())
}

pub(super) fn revoke(c: &Connection, revocation: &Revocation) -> Result<Vec<NodeId>> {
    let now = revocation.now.0 as i64;
    // What it was assigned is taken from it as well, with a number that says so.
    let mut update = c.prepare_cached(
        "UPDATE nodes SET standing = ?2, decided = ?3, reason = ?4, addresses = '[]', configuration = NULL, release = NULL,
         list = NULL, list_size = NULL, sequence = MAX(sequence + 1, ?3), progress = ?5 WHERE id = ?1 AND standing <> ?2",
    )?;
    let mut revoked = Vec::new();
    for node in &revocation.nodes {
        let changed = update.execute((
            node.0 as i64,
            number(Standing::Revoked),
            now,
            &revocation.reason,
            to_json(&Tracker::assigned(false)),
        ))?;
        if changed > 0 {
            c.execute("DELETE FROM sites WHERE node = ?", [node.0 as i64])?;
            revoked.push(*node);
        }
    }
    if !revoked.is_empty() {
        renew_fleet(c, now)?;
        bump(c)?;
    }
    Ok(revoked)
}

/// A new key for datagrams, and a new number for the list of revoked nodes: never below the Unix time `now`, so that they
/// grow across a restore from an older copy as well.
pub(super) fn renew_fleet(c: &Connection, now: i64) -> Result<()> {
    c.execute(
        "UPDATE settings SET value = MAX(value + 1, ?) WHERE name = 'revocations'",
        [now],
    )?;
    c.execute(
        "INSERT INTO fleet_keys SELECT MAX(MAX(epoch) + 1, ?1), ?2, ?1 FROM fleet_keys",
        (now, secret()?),
    )?;
    c.execute(
        "DELETE FROM fleet_keys WHERE epoch NOT IN (SELECT epoch FROM fleet_keys ORDER BY epoch DESC LIMIT ?)",
        [FLEET_KEYS_MAX as i64],
    )?;
    Ok(())
}

pub(super) fn revoked(c: &Connection, since: UnixSeconds, limit: usize) -> Result<Revoked> {
    let mut statement =
        c.prepare_cached("SELECT id FROM nodes WHERE standing = 2 AND decided >= ? ORDER BY decided DESC, id LIMIT ?")?;
    let rows = statement.query_map((since.0 as i64, limit as i64), |row| row.get::<_, i64>(0))?;
    let mut nodes = rows.map(|id| Ok(NodeId(id? as u64))).collect::<Result<Vec<NodeId>>>()?;
    nodes.sort_unstable();
    Ok(Revoked {
        number: setting(c, "revocations")?,
        nodes,
    })
}

/// Keys for datagrams, the newest first: that one seals.
pub(super) fn fleet_keys(c: &Connection, now: UnixSeconds) -> Result<Vec<FleetKey>> {
    let mut statement = c.prepare_cached("SELECT epoch, key, made FROM fleet_keys ORDER BY epoch DESC")?;
    let mut rows = statement.query([])?;
    let mut keys = Vec::new();
    let mut opened_until = i64::MAX;
    while let Some(row) = rows.next()?
        && opened_until > now.0 as i64
        && keys.len() < FLEET_KEYS_MAX
    {
        keys.push(FleetKey {
            epoch: row.get(0)?,
            key: data_encoding::HEXLOWER.encode(&row.get::<_, [u8; 32]>(1)?),
        });
        opened_until = row.get::<_, i64>(2)?.saturating_add(FLEET_KEY_GRACE_SECONDS as i64);
    }
    Ok(keys)
}
