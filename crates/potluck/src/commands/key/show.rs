//! `potluck key list`.

use std::fmt::Write;

use potluck_model::NodeId;
use potluck_trust::{Role, Targets};
use serde::Serialize;

use super::parse;
use crate::exit::{Doing, Failure};
use crate::output::{Column, Output, Style, Table, Tone, clean, count, stamp};
use crate::publisher::{Fleet, Ring, describe, short};

/// Who signs, as `--json` prints it.
#[derive(Serialize)]
struct Shown {
    root_version: u64,
    targets_version: Option<u64>,
    roles: Vec<ShownRole>,
    /// Releases that not all nodes may execute, or that keep older ones from being executed.
    narrowed: Vec<Narrowed>,
    /// What the change does that waits for signatures.
    waiting: Vec<String>,
    /// The server has lost the newest root: `potluck key renew`.
    server_is_behind: bool,
}

#[derive(Serialize)]
struct ShownRole {
    role: Role,
    threshold: usize,
    expires: Option<potluck_model::UnixSeconds>,
    signers: Vec<Signer>,
}

#[derive(Serialize)]
struct Signer {
    id: String,
    on_server: bool,
    here: bool,
}

#[derive(Serialize)]
struct Narrowed {
    configuration: potluck_model::ConfigurationName,
    release: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    only: Option<Vec<NodeId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    minimum: Option<u64>,
}

pub(super) fn list(fleet: &Fleet, ring: &Ring, output: Output) -> Result<(), Failure> {
    let root = &fleet.root.document;
    let roles = Role::ALL.map(|role| {
        let on_server = fleet.info.held.iter().any(|held| held == role.name());
        let signers = root.role(role).keyids.iter().map(|id| Signer {
            id: id.clone(),
            on_server,
            here: ring.has(id),
        });
        ShownRole {
            role,
            threshold: root.role(role).threshold,
            expires: match role {
                Role::Root => Some(fleet.root.expires()),
                Role::Targets => fleet.targets.as_ref().map(potluck_trust::Signed::expires),
                Role::Snapshot | Role::Timestamp => None,
            },
            signers: signers.collect(),
        }
    });
    let waiting = match &fleet.info.waiting {
        Some(waiting) => describe(fleet, &parse(waiting)?)?,
        None => Vec::new(),
    };
    let shown = Shown {
        root_version: fleet.root.version(),
        targets_version: fleet.targets.as_ref().map(potluck_trust::Signed::version),
        roles: roles.into(),
        narrowed: match &fleet.targets {
            Some(targets) => narrowed(&targets.document)?,
            None => Vec::new(),
        },
        waiting,
        server_is_behind: fleet.lost.is_some(),
    };
    output.result(&shown, |style| text(&shown, style))
}

fn narrowed(targets: &Targets) -> Result<Vec<Narrowed>, Failure> {
    let mut narrowed = Vec::new();
    for release in targets.releases() {
        let (configuration, release, permission) = release.doing(|| "reading the signed releases".to_owned())?;
        if permission.only.is_some() || permission.minimum.is_some() {
            narrowed.push(Narrowed {
                configuration,
                release,
                only: permission.only.map(|only| only.into_iter().collect()),
                minimum: permission.minimum,
            });
        }
    }
    Ok(narrowed)
}

fn text(shown: &Shown, style: Style) -> String {
    let mut table = Table::new([
        Column::left("ROLE"),
        Column::right("TAKES"),
        Column::left("SIGNER"),
        Column::left("KEY IS"),
        Column::left("SIGNED UNTIL"),
    ]);
    for role in &shown.roles {
        for (number, signer) in role.signers.iter().enumerate() {
            let first = number == 0;
            let place = match (signer.here, signer.on_server) {
                (true, _) => "here",
                (false, true) => "on the server",
                (false, false) => "elsewhere",
            };
            let (takes, until) = if first {
                (role.threshold.to_string(), role.expires.map_or_else(String::new, stamp))
            } else {
                (String::new(), String::new())
            };
            table.row([
                (Tone::Strong, if first { role.role.to_string() } else { String::new() }),
                (Tone::Plain, takes),
                (Tone::Plain, short(&signer.id)),
                (if signer.here { Tone::Good } else { Tone::Dim }, place.to_owned()),
                (Tone::Dim, until),
            ]);
        }
    }
    let mut out = table.render(style);
    if !shown.narrowed.is_empty() {
        out.push_str("\nnarrowed:\n");
    }
    for release in &shown.narrowed {
        let mut parts = Vec::new();
        if let Some(only) = &release.only {
            parts.push(format!("for {} only", count(only.len() as u64, "node")));
        }
        if let Some(minimum) = release.minimum {
            parts.push(format!("nothing below release {minimum} is executed"));
        }
        let name = &release.configuration;
        let _ = writeln!(out, "  {name} {}: {}", release.release, parts.join(", "));
    }
    if !shown.waiting.is_empty() {
        out.push_str("\nwaiting for signatures (`potluck key sign`, `potluck key drop`):\n");
        for line in &shown.waiting {
            let _ = writeln!(out, "  {}", clean(line));
        }
    }
    if shown.server_is_behind {
        out.push_str("\nthe server has lost the newest root, as after a restoration: `potluck key renew`\n");
    }
    out
}
