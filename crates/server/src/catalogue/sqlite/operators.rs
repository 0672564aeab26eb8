//! Operators, and the log of what they did, in SQLite.

use potluck_model::audit::{AuditEntry, AuditLog, Checkpoint};
use potluck_model::{Digest, UnixSeconds};
use rusqlite::{Connection, OptionalExtension};

use super::{NewAuditEntry, OperatorRecord, RedeemedOperator, Result, json, optional, to_json};

pub(super) fn all(c: &Connection) -> Result<Vec<OperatorRecord>> {
    let mut statement = c.prepare_cached("SELECT name, key, added, removed FROM operators ORDER BY name")?;
    let rows = statement.query_map([], |row| {
        Ok(OperatorRecord {
            name: row.get(0)?,
            key: Digest::from_bytes(row.get(1)?),
            added: UnixSeconds(row.get::<_, i64>(2)? as u64),
            removed: row.get::<_, Option<i64>>(3)?.map(|at| UnixSeconds(at as u64)),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn set(c: &Connection, name: &str, key: &Digest, now: UnixSeconds) -> Result<()> {
    c.execute(
        "INSERT INTO operators VALUES (?1, ?2, ?3, NULL) ON CONFLICT (name) DO UPDATE
         SET key = ?2, added = ?3, removed = NULL WHERE key <> ?2 OR removed IS NOT NULL",
        (name, key.as_bytes(), now.0 as i64),
    )?;
    Ok(())
}

pub(super) fn redeem(c: &Connection, token: &Digest, key: &Digest, now: UnixSeconds) -> Result<RedeemedOperator> {
    let row: Option<(u32, i64, String)> = optional(c.query_row(
        "SELECT uses, expires, operator FROM tokens WHERE hash = ? AND operator IS NOT NULL",
        [token.as_bytes()],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    ))?;
    let Some((uses, expires, name)) = row else {
        return Ok(RedeemedOperator::Unknown);
    };
    if (expires as u64) < now.0 {
        return Ok(RedeemedOperator::Expired);
    }
    if uses == 0 {
        // The answer to an earlier attempt may have been lost.
        let same = all(c)?
            .iter()
            .any(|operator| operator.name == name && operator.key == *key && operator.removed.is_none());
        return Ok(if same {
            RedeemedOperator::Added(name)
        } else {
            RedeemedOperator::UsedUp
        });
    }
    set(c, &name, key, now)?;
    c.execute("UPDATE tokens SET uses = uses - 1 WHERE hash = ?", [token.as_bytes()])?;
    Ok(RedeemedOperator::Added(name))
}

pub(super) fn remove(c: &Connection, name: &str, now: UnixSeconds) -> Result<bool> {
    // A join string that was made for it before must not bring it back.
    let tokens = c.execute("DELETE FROM tokens WHERE operator = ?", [name])?;
    let removed = c.execute(
        "UPDATE operators SET removed = ? WHERE name = ? AND removed IS NULL",
        (now.0 as i64, name),
    )?;
    Ok(tokens + removed > 0)
}

pub(super) fn newest(c: &Connection) -> Result<Checkpoint> {
    let row: Option<(i64, [u8; 32])> = c
        .prepare_cached("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(row.map_or(Checkpoint::START, |(number, hash)| Checkpoint {
        number: number as u64,
        hash: Digest::from_bytes(hash),
    }))
}

pub(super) fn append(c: &Connection, new: &NewAuditEntry) -> Result<u64> {
    let before = newest(c)?;
    let entry = AuditEntry {
        number: before.number + 1,
        at: new.now,
        operator: new.operator.clone(),
        request: new.request.clone(),
        body: new.body.clone(),
        refused: new.refused,
        previous: before.hash,
    };
    c.execute(
        "INSERT INTO audit VALUES (?, ?, ?)",
        (entry.number as i64, to_json(&entry), entry.hash().as_bytes()),
    )?;
    Ok(entry.number)
}

pub(super) fn log(c: &Connection, after: u64, limit: usize) -> Result<AuditLog> {
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let mut statement = c.prepare_cached("SELECT entry FROM audit WHERE number > ? ORDER BY number LIMIT ?")?;
    let mut rows = statement.query((after, limit as i64))?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(json(&row.get::<_, String>(0)?)?);
    }
    Ok(AuditLog {
        entries,
        newest: newest(c)?,
    })
}
