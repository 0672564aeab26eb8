//! Tokens and nodes in SQLite.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use potluck_model::api::{Labels, Neighbour, Standing};
use potluck_model::assignment::AssignedRelease;
use potluck_model::{Digest, LabelKey, NodeId, UnixSeconds, ring};
use rusqlite::{Connection, OptionalExtension, Row};

use super::{
    NewToken, NodeRecord, PresenceRecord, Redeemed, Redemption, Result, assignments, bump, json, name, optional,
    setting, standing, to_json,
};
use crate::catalogue::{CatalogueError, NODES_MAX, TOKENS_MAX};
use crate::progress::Tracker;
use crate::site::SiteKey;

/// A token's label with this value lets the node choose the value.
const ANY_VALUE: &str = "*";

pub(super) fn add_token(c: &Connection, token: &NewToken) -> Result<bool> {
    c.execute(
        "DELETE FROM tokens WHERE expires < ?",
        [UnixSeconds::now().0.saturating_sub(7 * 86_400) as i64],
    )?;
    let count: i64 = c.query_row("SELECT COUNT(*) FROM tokens", [], |row| row.get(0))?;
    if count as u64 >= TOKENS_MAX {
        return Ok(false);
    }
    c.execute(
        "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?)",
        (
            token.hash.as_bytes(),
            token.uses,
            token.expires.0 as i64,
            to_json(&token.labels),
            token.approval,
            &token.operator,
        ),
    )?;
    Ok(true)
}

pub(super) fn redeem(c: &Connection, redemption: &Redemption) -> Result<Redeemed> {
    // The answer to an earlier attempt may have been lost, or the node waits: that outlives the token.
    let known: Option<(i64, String, i64)> = optional(c.query_row(
        "SELECT id, labels, standing FROM nodes WHERE key = ? AND token = ?",
        (redemption.key.as_bytes(), redemption.token.as_bytes()),
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    ))?;
    if let Some((id, labels, number)) = known {
        let node = NodeId(id as u64);
        return Ok(match standing::of(number)? {
            Standing::Admitted => Redeemed::Admitted {
                node,
                labels: json(&labels)?,
            },
            Standing::Pending => Redeemed::Pending { node },
            Standing::Revoked => Redeemed::Revoked,
        });
    }
    let token: Option<(u32, i64, String, bool)> = optional(c.query_row(
        "SELECT uses, expires, labels, approval FROM tokens WHERE hash = ? AND operator IS NULL",
        [redemption.token.as_bytes()],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    ))?;
    let Some((uses, expires, permitted, approval)) = token else {
        return Ok(Redeemed::Unknown);
    };
    if (expires as u64) < redemption.now.0 {
        return Ok(Redeemed::Expired);
    }
    if uses == 0 {
        return Ok(Redeemed::UsedUp);
    }
    if setting(c, "nodes")? >= NODES_MAX {
        return Ok(Redeemed::FleetFull);
    }
    let labels = permit(&json(&permitted)?, &redemption.labels);
    let waits = approval || redemption.replaces.is_some();
    let standing = if waits { Standing::Pending } else { Standing::Admitted };
    let node = insert(c, redemption, &labels, standing)?;
    c.execute("UPDATE settings SET value = value + 1 WHERE name = 'nodes'", [])?;
    c.execute(
        "UPDATE tokens SET uses = uses - 1 WHERE hash = ?",
        [redemption.token.as_bytes()],
    )?;
    if waits {
        return Ok(Redeemed::Pending { node });
    }
    assignments::reassign(c, assignments::Scope::Node(node), redemption.now)?;
    Ok(Redeemed::Admitted { node, labels })
}

/// The token's labels; where its value is `*`, the node's own.
fn permit(token: &Labels, wished: &Labels) -> Labels {
    let value = |(key, value): (&LabelKey, &String)| {
        if value == ANY_VALUE {
            wished.get(key).map(|wish| (key.clone(), wish.clone()))
        } else {
            Some((key.clone(), value.clone()))
        }
    };
    token.iter().filter_map(value).collect()
}

fn insert(c: &Connection, redemption: &Redemption, labels: &Labels, standing: Standing) -> Result<NodeId> {
    let mut statement = c.prepare_cached(
        "INSERT OR IGNORE INTO nodes VALUES (?1, ?2, ?3, ?4, ?5, ?6, '[]', '', ?7, ?7, ?7, NULL, NULL, NULL, NULL, ?8, 0, 0,
         ?9, ?7, '', ?10, NULL)",
    )?;
    for id in &redemption.ids {
        let new = statement.execute((
            id.0 as i64,
            redemption.key.as_bytes(),
            redemption.token.as_bytes(),
            to_json(labels),
            to_json(&redemption.facts),
            hostname(&redemption.facts),
            redemption.now.0 as i64,
            to_json(&Tracker::assigned(false)),
            standing::number(standing),
            redemption.replaces.map(|node| node.0 as i64),
        ))?;
        if new > 0 {
            return Ok(*id);
        }
    }
    Err(CatalogueError::Damaged("every id that was tried is taken".into()))
}

fn hostname(facts: &Labels) -> Option<&str> {
    let (_, name) = facts.iter().find(|(key, _)| key.as_str() == "hostname")?;
    Some(name)
}

const NODE: &str = "id, key, labels, facts, addresses, version, joined, seen, sequence, configuration, release, list,
    list_size, progress, (SELECT group_concat(site, ', ') FROM sites WHERE node = nodes.id),
    standing, decided, reason, replaces, twice";

pub(super) fn node(c: &Connection, node: NodeId) -> Result<Option<NodeRecord>> {
    let mut statement = c.prepare_cached(&format!("SELECT {NODE} FROM nodes WHERE id = ?"))?;
    let mut rows = statement.query([node.0 as i64])?;
    rows.next()?.map(record).transpose()
}

pub(super) fn nodes(c: &Connection) -> Result<Vec<NodeRecord>> {
    let mut statement = c.prepare_cached(&format!("SELECT {NODE} FROM nodes"))?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(record(row)?);
    }
    records.sort_by_key(|record: &NodeRecord| record.node);
    Ok(records)
}

fn record(row: &Row<'_>) -> Result<NodeRecord> {
    let assigned = match row.get::<_, Option<String>>(9)? {
        None => None,
        Some(configuration) => Some(AssignedRelease {
            configuration: name(&configuration)?,
            release: row.get::<_, i64>(10)? as u64,
            list: Digest::from_bytes(row.get(11)?),
            list_size: row.get::<_, i64>(12)? as u64,
        }),
    };
    Ok(NodeRecord {
        node: NodeId(row.get::<_, i64>(0)? as u64),
        key: Digest::from_bytes(row.get(1)?),
        labels: json(&row.get::<_, String>(2)?)?,
        facts: json(&row.get::<_, String>(3)?)?,
        addresses: json(&row.get::<_, String>(4)?)?,
        site: row.get(14)?,
        version: row.get(5)?,
        joined: UnixSeconds(row.get::<_, i64>(6)? as u64),
        seen: UnixSeconds(row.get::<_, i64>(7)? as u64),
        sequence: row.get::<_, i64>(8)? as u64,
        assigned,
        progress: json::<Tracker>(&row.get::<_, String>(13)?)?.progress,
        standing: standing::of(row.get(15)?)?,
        decided: UnixSeconds(row.get::<_, i64>(16)? as u64),
        reason: row.get(17)?,
        replaces: row.get::<_, Option<i64>>(18)?.map(|id| NodeId(id as u64)),
        twice: row.get::<_, Option<i64>>(19)?.map(|at| UnixSeconds(at as u64)),
    })
}

pub(super) fn find(c: &Connection, text: &str) -> Result<Vec<NodeId>> {
    let mut found = BTreeSet::new();
    if let Some((low, high)) = id_range(text) {
        // Ids are stored signed, so a range of them may be two.
        let mut statement = c.prepare_cached("SELECT id FROM nodes WHERE id BETWEEN ? AND ? LIMIT 10")?;
        let rows = statement.query_map((low as i64, high as i64), |row| row.get::<_, i64>(0))?;
        for id in rows {
            found.insert(NodeId(id? as u64));
        }
    }
    let mut statement = c.prepare_cached("SELECT id FROM nodes WHERE hostname = ? LIMIT 10")?;
    for id in statement.query_map([text], |row| row.get::<_, i64>(0))? {
        found.insert(NodeId(id? as u64));
    }
    Ok(found.into_iter().take(10).collect())
}

/// The ids that begin with the hexadecimal digits of `text`, at least one. They have the same sign, since the first digit
/// has the sign's bit.
fn id_range(text: &str) -> Option<(u64, u64)> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.is_empty() || text.len() > 16 || !text.bytes().all(hex) {
        return None;
    }
    let shift = 4 * (16 - text.len() as u32);
    let low = u64::from_str_radix(text, 16).ok()? << shift;
    Some((low, low | ((1_u64 << shift) - 1)))
}

pub(super) fn set_labels(c: &Connection, node: NodeId, labels: &Labels) -> Result<bool> {
    let known = c.execute(
        "UPDATE nodes SET labels = ? WHERE id = ?",
        (to_json(labels), node.0 as i64),
    )?;
    if known > 0 && assignments::reassign(c, assignments::Scope::Node(node), UnixSeconds::now())? > 0 {
        bump(c)?;
    }
    Ok(known > 0)
}

pub(super) fn set_presence(c: &Connection, node: NodeId, presence: &PresenceRecord) -> Result<bool> {
    let id = node.0 as i64;
    let known = c.execute(
        "UPDATE nodes SET addresses = ?2, facts = ?3, hostname = ?4, version = ?5, seen = ?6 WHERE id = ?1",
        (
            id,
            to_json(&presence.addresses),
            to_json(&presence.facts),
            hostname(&presence.facts),
            &presence.version,
            presence.now.0 as i64,
        ),
    )?;
    if known == 0 {
        return Ok(false);
    }
    let before: BTreeSet<String> = sites(c, node)?.into_iter().collect();
    let after: BTreeSet<String> = presence.sites.iter().map(ToString::to_string).collect();
    for site in before.difference(&after) {
        c.execute("DELETE FROM sites WHERE site = ? AND node = ?", (site, id))?;
    }
    for site in after.difference(&before) {
        c.execute("INSERT INTO sites VALUES (?, ?)", (site, id))?;
    }
    Ok(true)
}

pub(super) fn set_seen(c: &Connection, seen: &[(NodeId, UnixSeconds)]) -> Result<()> {
    let mut update = c.prepare_cached("UPDATE nodes SET seen = ?2 WHERE id = ?1 AND seen < ?2")?;
    for (node, at) in seen {
        update.execute((node.0 as i64, at.0 as i64))?;
    }
    Ok(())
}

/// Nodes are taken from the ring of ids, from a place on that differs from node to node: ids are random, so that is a
/// random choice, and the index yields it without looking at the others.
/// Neighbours of an answer at one address, at most: who enrols many times on one machine is not all that others hear of.
const NEIGHBOURS_PER_ADDRESS_MAX: usize = 4;
/// For each that is wanted so many are looked at.
const NEIGHBOURS_LOOKED_AT: usize = 8;

pub(super) fn neighbours(
    c: &Connection,
    node: NodeId,
    shared: &[SiteKey],
    since: UnixSeconds,
    limit: usize,
) -> Result<Vec<Neighbour>> {
    let id = node.0 as i64;
    let start = ring_start(node);
    let sites = sites(c, node)?;
    let lately = (since.0 as i64, i64::MAX);
    let earlier = (i64::MIN, since.0 as i64 - 1);
    let in_site = "SELECT n.id, n.addresses FROM sites s JOIN nodes n ON n.id = s.node
        WHERE s.site = ?1 AND s.node BETWEEN ?2 AND ?3 AND s.node <> ?4 AND n.seen BETWEEN ?5 AND ?6
        ORDER BY s.node LIMIT ?7";
    let mut chosen: Vec<Neighbour> = Vec::new();
    let mut take = |site: &str, seen: (i64, i64), shared: bool| -> Result<()> {
        for (from, to) in [(start, i64::MAX), (i64::MIN, start.saturating_sub(1))] {
            // What is chosen already may come again from another query, so ask for as many as could be needed.
            let mut statement = c.prepare_cached(in_site)?;
            let mut rows = statement.query((
                site,
                from,
                to,
                id,
                seen.0,
                seen.1,
                (limit * NEIGHBOURS_LOOKED_AT) as i64,
            ))?;
            while let Some(row) = rows.next()?
                && chosen.len() < limit
            {
                let other = NodeId(row.get::<_, i64>(0)? as u64);
                if !chosen.iter().any(|known| known.node == other) {
                    let addresses: Vec<SocketAddr> = json(&row.get::<_, String>(1)?)?;
                    let here = |known: &&Neighbour| {
                        let ips = |of: &[SocketAddr]| of.first().map(SocketAddr::ip);
                        ips(&known.addresses) == ips(&addresses)
                    };
                    if chosen.iter().filter(here).count() < NEIGHBOURS_PER_ADDRESS_MAX {
                        chosen.push(Neighbour {
                            node: other,
                            addresses,
                            shared,
                        });
                    }
                }
            }
        }
        Ok(())
    };
    for seen in [lately, earlier] {
        for site in &sites {
            take(site, seen, false)?;
        }
    }
    for site in shared {
        take(&site.to_string(), lately, true)?;
    }
    Ok(chosen)
}

/// A site's nodes that are looked at for those with a list, from the list's place on.
const NEAREST_LOOKED_AT: usize = 2_048;

/// Taken from the ring of ids, from the list's place on: the index yields them in that order.
pub(super) fn nearest(
    c: &Connection,
    node: NodeId,
    list: &Digest,
    since: UnixSeconds,
    limit: usize,
) -> Result<Vec<Neighbour>> {
    let id = node.0 as i64;
    let place = ring::place(list);
    let start = place.0 as i64;
    let query = "SELECT n.id, n.addresses FROM
        (SELECT node FROM sites WHERE site = ?1 AND node BETWEEN ?2 AND ?3 ORDER BY node LIMIT ?4) s
        JOIN nodes n ON n.id = s.node
        WHERE n.list = ?5 AND n.seen >= ?6 AND n.id <> ?7 ORDER BY n.id LIMIT ?8";
    let mut found: BTreeMap<u64, Neighbour> = BTreeMap::new();
    for site in sites(c, node)? {
        let mut left = limit;
        for (from, to) in [(start, i64::MAX), (i64::MIN, start.saturating_sub(1))] {
            let mut statement = c.prepare_cached(query)?;
            let mut rows = statement.query((
                &site,
                from,
                to,
                NEAREST_LOOKED_AT as i64,
                list.as_bytes(),
                since.0 as i64,
                id,
                (left * NEIGHBOURS_LOOKED_AT) as i64,
            ))?;
            while let Some(row) = rows.next()? {
                let node = NodeId(row.get::<_, i64>(0)? as u64);
                let addresses: Vec<SocketAddr> = json(&row.get::<_, String>(1)?)?;
                // Who enrols many times on one machine sits in few seats.
                let ip = |of: &[SocketAddr]| of.first().map(SocketAddr::ip);
                let here = found.values().filter(|known| ip(&known.addresses) == ip(&addresses));
                if left > 0 && here.count() < NEIGHBOURS_PER_ADDRESS_MAX {
                    let shared = false;
                    let neighbour = Neighbour {
                        node,
                        addresses,
                        shared,
                    };
                    found.insert(ring::distance(place, node), neighbour);
                    left -= 1;
                }
            }
        }
    }
    Ok(found.into_values().take(limit).collect())
}

/// Sites were told by nodes and by another map than this one: they are told again.
pub(super) fn use_site_map(c: &Connection, number: u64) -> Result<bool> {
    let known: Option<i64> = c
        .prepare_cached("SELECT value FROM settings WHERE name = 'site_map'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    if known == Some(number as i64) {
        return Ok(false);
    }
    c.execute(
        "INSERT OR REPLACE INTO settings VALUES ('site_map', ?)",
        [number as i64],
    )?;
    c.execute("DELETE FROM sites", [])?;
    Ok(true)
}

pub(super) fn sites(c: &Connection, node: NodeId) -> Result<Vec<String>> {
    let mut statement = c.prepare_cached("SELECT site FROM sites WHERE node = ?")?;
    let rows = statement.query_map([node.0 as i64], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn ring_start(node: NodeId) -> i64 {
    let digest = Digest::of(&node.0.to_be_bytes());
    i64::from_be_bytes(*digest.as_bytes().first_chunk::<8>().expect("a digest has 32 bytes"))
}

pub(super) fn population(c: &Connection, node: NodeId) -> Result<u32> {
    let count: u32 = c
        .prepare_cached(
            "SELECT COALESCE(MAX(nodes), 0) FROM site_sizes WHERE site IN (SELECT site FROM sites WHERE node = ?)",
        )?
        .query_row([node.0 as i64], |row| row.get(0))?;
    Ok(count.max(1))
}
