//! Assignments in SQLite, and what they make of each node.

use std::collections::BTreeMap;

use potluck_model::api::{Labels, Wave};
use potluck_model::assignment::AssignedRelease;
use potluck_model::{ConfigurationName, Digest, NodeId, UnixSeconds};
use rusqlite::{Connection, Row};

use super::{
    Assigned, AssignmentRecord, CatalogueError, NewAssignment, Result, Unassign, bump, content, json, name, to_json,
};
use crate::catalogue::ASSIGNMENTS_MAX;
use crate::progress::Tracker;
use crate::target::{Matcher, applying};

/// Which nodes may be assigned something else now.
#[derive(Clone, Copy)]
pub(super) enum Scope {
    All,
    Node(NodeId),
}

pub(super) fn assign(c: &Connection, new: &NewAssignment) -> Result<Assigned> {
    let release = match new.release {
        Some(number) => content::numbered(c, &new.configuration, number)?,
        None => content::newest(c, &new.configuration)?,
    };
    if release.is_none() {
        return Ok(Assigned::NoRelease);
    }
    let target = to_json(&new.target);
    // A new number, so that it is the latest.
    c.execute("DELETE FROM assignments WHERE target = ?", [&target])?;
    let count: i64 = c.query_row("SELECT COUNT(*) FROM assignments", [], |row| row.get(0))?;
    if count as u64 >= ASSIGNMENTS_MAX {
        return Ok(Assigned::TooMany);
    }
    let waves = vec![Wave {
        percent: 100,
        started: true,
    }];
    c.execute(
        "INSERT INTO assignments (configuration, release, target, made, waves, halted) VALUES (?, ?, ?, ?, ?, 0)",
        (
            new.configuration.as_str(),
            new.release.map(|number| number as i64),
            &target,
            new.now.0 as i64,
            to_json(&waves),
        ),
    )?;
    let id = c.last_insert_rowid() as u64;
    reassign(c, Scope::All, new.now)?;
    bump(c)?;
    Ok(Assigned::Made(AssignmentRecord {
        id,
        configuration: new.configuration.clone(),
        release: new.release,
        target: new.target.clone(),
        made: new.now,
        waves,
        halted: false,
    }))
}

pub(super) fn unassign(c: &Connection, which: &Unassign) -> Result<Vec<AssignmentRecord>> {
    let mut removed = all(c)?;
    removed.retain(|record| match which {
        Unassign::Id(id) => record.id == *id,
        Unassign::Configuration(name) => record.configuration == *name,
    });
    for record in &removed {
        c.execute("DELETE FROM assignments WHERE id = ?", [record.id as i64])?;
    }
    if !removed.is_empty() {
        reassign(c, Scope::All, UnixSeconds::now())?;
        bump(c)?;
    }
    Ok(removed)
}

pub(super) fn all(c: &Connection) -> Result<Vec<AssignmentRecord>> {
    let sql = "SELECT id, configuration, release, target, made, waves, halted FROM assignments ORDER BY id";
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(record(row)?);
    }
    Ok(records)
}

fn record(row: &Row<'_>) -> Result<AssignmentRecord> {
    Ok(AssignmentRecord {
        id: row.get::<_, i64>(0)? as u64,
        configuration: name(&row.get::<_, String>(1)?)?,
        release: row.get::<_, Option<i64>>(2)?.map(|number| number as u64),
        target: json(&row.get::<_, String>(3)?)?,
        made: UnixSeconds(row.get::<_, i64>(4)? as u64),
        waves: json(&row.get::<_, String>(5)?)?,
        halted: row.get(6)?,
    })
}

/// Brings what nodes are assigned in line with the assignments and releases. Returns for how many that was a change.
pub(super) fn reassign(c: &Connection, scope: Scope, now: UnixSeconds) -> Result<u64> {
    let assignments = all(c)?
        .into_iter()
        .map(|record| {
            let matcher = Matcher::new(&record.target).map_err(|fault| CatalogueError::Damaged(fault.to_string()))?;
            Ok((record, matcher))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut releases = Releases::default();
    let (first, last) = match scope {
        Scope::All => (i64::MIN, i64::MAX),
        Scope::Node(node) => (node.0 as i64, node.0 as i64),
    };
    let mut select = c.prepare_cached(
        "SELECT id, labels, configuration, release, list, sequence, progress FROM nodes
         WHERE id BETWEEN ? AND ? AND standing = 0",
    )?;
    // All rows are read before one is changed.
    let mut changes = Vec::new();
    let mut rows = select.query((first, last))?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let labels: Labels = json(&row.get::<_, String>(1)?)?;
        let wanted = match applying(&assignments, NodeId(id as u64), &labels) {
            Some(record) => releases.find(c, record)?,
            None => None,
        };
        let configuration: Option<String> = row.get(2)?;
        let release: Option<i64> = row.get(3)?;
        let list: Option<[u8; 32]> = row.get(4)?;
        let same = match &wanted {
            None => configuration.is_none(),
            Some(wanted) => {
                configuration.as_deref() == Some(wanted.configuration.as_str())
                    && release == Some(wanted.release as i64)
                    && list.map(Digest::from_bytes) == Some(wanted.list)
            }
        };
        if !same {
            let sequence = row.get::<_, i64>(5)? as u64;
            let tracker: Tracker = json(&row.get::<_, String>(6)?)?;
            let tracker = tracker.reassigned(wanted.is_some());
            changes.push((id, (sequence + 1).max(now.0), wanted, tracker));
        }
    }
    let mut update = c.prepare_cached(
        "UPDATE nodes SET sequence = ?2, configuration = ?3, release = ?4, list = ?5, list_size = ?6, progress = ?7
         WHERE id = ?1",
    )?;
    for (id, sequence, wanted, tracker) in &changes {
        update.execute((
            id,
            *sequence as i64,
            wanted.as_ref().map(|wanted| wanted.configuration.as_str()),
            wanted.as_ref().map(|wanted| wanted.release as i64),
            wanted.as_ref().map(|wanted| *wanted.list.as_bytes()),
            wanted.as_ref().map(|wanted| wanted.list_size as i64),
            to_json(tracker),
        ))?;
    }
    Ok(changes.len() as u64)
}

/// Releases that assignments name, each looked up once.
#[derive(Default)]
struct Releases(BTreeMap<(ConfigurationName, Option<u64>), Option<AssignedRelease>>);

impl Releases {
    fn find(&mut self, c: &Connection, record: &AssignmentRecord) -> Result<Option<AssignedRelease>> {
        let key = (record.configuration.clone(), record.release);
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
        let found = match record.release {
            Some(number) => content::numbered(c, &record.configuration, number)?,
            None => content::newest(c, &record.configuration)?,
        };
        let found = found.map(|release| AssignedRelease {
            configuration: release.configuration,
            release: release.release,
            list: release.list,
            list_size: release.list_size,
        });
        self.0.insert(key, found.clone());
        Ok(found)
    }
}
