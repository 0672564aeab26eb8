//! Events of nodes in SQLite.

use potluck_model::assignment::AssignedRelease;
use potluck_model::trace::Event;
use potluck_model::{Digest, NodeId};
use rusqlite::Connection;

use super::{Result, Transition, json, name, optional, to_json};
use crate::catalogue::{EVENT_BYTES_PER_NODE_MAX, EVENTS_PER_NODE_MAX};
use crate::progress::Tracker;

pub(super) fn add(c: &Connection, node: NodeId, events: &[Event]) -> Result<Option<Transition>> {
    let id = node.0 as i64;
    let row = optional(
        c.prepare_cached(
            "SELECT progress, last_event, configuration, release, list, list_size, event_bytes FROM nodes WHERE id = ?",
        )?
        .query_row([id], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, Option<String>>(2)?,
                row.get::<_, Option<i64>>(3)?,
                row.get::<_, Option<[u8; 32]>>(4)?,
                row.get::<_, Option<i64>>(5)?,
                row.get::<_, i64>(6)?,
            ))
        }),
    )?;
    let Some((progress, first, configuration, release, list, list_size, mut bytes)) = row else {
        return Ok(None);
    };
    let assigned = match (configuration, release, list, list_size) {
        (Some(configuration), Some(release), Some(list), Some(list_size)) => Some(AssignedRelease {
            configuration: name(&configuration)?,
            release: release as u64,
            list: Digest::from_bytes(list),
            list_size: list_size as u64,
        }),
        _ => None,
    };
    let mut tracker: Tracker = json(&progress)?;
    let before = tracker.progress.state;
    let mut last = first;
    let mut insert = c.prepare_cached("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?)")?;
    for event in events {
        let text = to_json(event);
        let new = insert.execute((
            id,
            last + 1,
            event.boot as i64,
            event.seq as i64,
            event.list.map(|list| *list.as_bytes()),
            &text,
        ))?;
        if new > 0 {
            last += 1;
            bytes += text.len() as i64;
            tracker.apply(event, assigned.as_ref().map(|assigned| &assigned.list));
        }
    }
    if last > first {
        bytes -= make_room(
            c,
            id,
            last - EVENTS_PER_NODE_MAX as i64,
            bytes - EVENT_BYTES_PER_NODE_MAX as i64,
        )?;
        c.prepare_cached("UPDATE nodes SET progress = ?2, last_event = ?3, event_bytes = ?4 WHERE id = ?1")?
            .execute((id, to_json(&tracker), last, bytes))?;
    }
    Ok(Some(Transition {
        before,
        after: tracker.progress,
        assigned,
    }))
}

/// Removes the oldest events: those up to number `up_to`, and more until `excess` bytes are gone. Returns the bytes.
fn make_room(c: &Connection, node: i64, up_to: i64, excess: i64) -> Result<i64> {
    let mut oldest =
        c.prepare_cached("SELECT number, LENGTH(CAST(event AS BLOB)) FROM events WHERE node = ? ORDER BY number")?;
    let mut rows = oldest.query([node])?;
    let (mut last, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        let number: i64 = row.get(0)?;
        if number > up_to && bytes >= excess {
            break;
        }
        last = number;
        bytes += row.get::<_, i64>(1)?;
    }
    if last > 0 {
        c.prepare_cached("DELETE FROM events WHERE node = ? AND number <= ?")?
            .execute((node, last))?;
    }
    Ok(bytes)
}

pub(super) fn events(
    c: &Connection,
    node: NodeId,
    after: u64,
    list: Option<Digest>,
    limit: usize,
) -> Result<Vec<(u64, Event)>> {
    let mut statement = c.prepare_cached(
        "SELECT number, event FROM events WHERE node = ?1 AND number > ?2 AND (?3 IS NULL OR list = ?3)
         ORDER BY number LIMIT ?4",
    )?;
    let mut rows = statement.query((
        node.0 as i64,
        i64::try_from(after).unwrap_or(i64::MAX),
        list.map(|list| *list.as_bytes()),
        limit as i64,
    ))?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push((row.get::<_, i64>(0)? as u64, json(&row.get::<_, String>(1)?)?));
    }
    Ok(events)
}
