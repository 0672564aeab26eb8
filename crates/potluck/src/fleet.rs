//! The fleet as people see it: states, tables of nodes and assignments.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use potluck_model::api::{AssignmentInfo, NodeInfo, NodeState, Standing, Status, Target};
use potluck_model::trace::{Ignored, Recap};
use potluck_model::{NodeId, UnixSeconds};

use crate::output::{Column, Style, Table, Tone, ago, bytes, clean, count, span, stamp};

/// Up to this many nodes `status` shows each; beyond, groups.
const NODES_SHOWN_MAX: usize = 30;
/// The most nodes in trouble that `status` shows of a large fleet.
const TROUBLED_SHOWN_MAX: usize = 10;
/// The most nodes that wait for approval and are shown.
const PENDING_SHOWN_MAX: usize = 10;
/// The most groups of nodes that `status` shows.
const GROUPS_SHOWN_MAX: usize = 10;
/// The most assignments that `status` shows.
const ASSIGNMENTS_SHOWN_MAX: usize = 10;
/// The most characters of a cell in `status`.
const CELL_CHARACTERS_MAX: usize = 24;

/// `potluck status`: one screen. `server` is where the answer came from.
pub(crate) fn status(status: &Status, server: &str, style: Style) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}  version {}, {}, {} stored",
        style.paint(Tone::Strong, &format!("server {}", clean(server))),
        clean(&status.version),
        stamp(status.time),
        bytes(status.stored_bytes)
    );
    if status.halted {
        let text = "halted: no step starts on any node until `potluck resume`";
        let _ = writeln!(out, "{}", style.paint(Tone::Bad, text));
    }
    let _ = writeln!(out, "{}", clean(&status.trust));
    out.push('\n');
    if status.assignments.is_empty() {
        out.push_str("nothing is assigned; see `potluck assign --help`\n");
    } else {
        let earlier = status.assignments.len().saturating_sub(ASSIGNMENTS_SHOWN_MAX);
        let table = assignments(&status.assignments[earlier..], status.time);
        out.push_str(&table.cut(CELL_CHARACTERS_MAX).render(style));
        if earlier > 0 {
            let _ = writeln!(out, "… and {earlier} earlier, see `potluck status --json`");
        }
    }
    let _ = write!(out, "\n{}\n", summary(&status.nodes, style));
    if status.nodes.is_empty() {
        out.push_str("to add one: `potluck join-token` here, then `potluck agent --join STRING` there\n");
    } else if status.nodes.len() <= NODES_SHOWN_MAX {
        let table = nodes(status.nodes.iter(), status.time);
        let _ = write!(out, "\n{}", table.cut(CELL_CHARACTERS_MAX).render(style));
    } else {
        large(&mut out, status, style);
    }
    out.push_str(&pending(status.nodes.iter()));
    out
}

fn large(out: &mut String, status: &Status, style: Style) {
    let mut groups: BTreeMap<(String, NodeState), usize> = BTreeMap::new();
    for node in &status.nodes {
        *groups.entry((release(node), node.progress.state)).or_default() += 1;
    }
    let mut table = Table::new([Column::left("RELEASE"), Column::left("STATE"), Column::right("NODES")]);
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    for ((release, state), number) in groups.iter().take(GROUPS_SHOWN_MAX) {
        table.row([
            (Tone::Plain, release.clone()),
            (tone(*state), word(*state).to_owned()),
            (Tone::Plain, number.to_string()),
        ]);
    }
    let _ = write!(out, "\n{}", table.cut(CELL_CHARACTERS_MAX).render(style));
    if groups.len() > GROUPS_SHOWN_MAX {
        let rest = &groups[GROUPS_SHOWN_MAX..];
        let number: usize = rest.iter().map(|(_, number)| number).sum();
        let _ = writeln!(
            out,
            "… and {} in {} smaller groups",
            count(number as u64, "node"),
            rest.len()
        );
    }
    let troubled: Vec<&NodeInfo> = status.nodes.iter().filter(|node| in_trouble(node)).collect();
    if troubled.is_empty() {
        return;
    }
    let shown = troubled.iter().take(TROUBLED_SHOWN_MAX).copied();
    let table = nodes(shown, status.time).cut(CELL_CHARACTERS_MAX);
    let _ = write!(out, "\nin trouble:\n{}", table.render(style));
    if troubled.len() > TROUBLED_SHOWN_MAX {
        let more = troubled.len() - TROUBLED_SHOWN_MAX;
        let _ = writeln!(out, "… and {more} more, see `potluck nodes --trouble`");
    }
}

/// Whether a node needs attention.
pub(crate) fn in_trouble(node: &NodeInfo) -> bool {
    node.standing == Standing::Pending
        || node.twice.is_some()
        || node.progress.state == NodeState::Failed
        || node.progress.trouble.is_some()
}

/// How many nodes are in which state, on a line.
pub(crate) fn summary(nodes: &[NodeInfo], style: Style) -> String {
    let mut states: BTreeMap<NodeState, u64> = BTreeMap::new();
    let admitted = || nodes.iter().filter(|node| node.standing.is_admitted());
    for node in admitted() {
        *states.entry(node.progress.state).or_default() += 1;
    }
    let mut text = count(admitted().count() as u64, "node");
    let parts: Vec<String> = states
        .iter()
        .rev()
        .map(|(state, number)| style.paint(tone(*state), &format!("{number} {}", word(*state))))
        .collect();
    if !parts.is_empty() {
        let _ = write!(text, ": {}", parts.join(", "));
    }
    let offline = admitted().filter(|node| !node.online).count();
    if offline > 0 {
        let _ = write!(text, "; {offline} offline");
    }
    for (standing, words) in [
        (Standing::Pending, "waiting for approval"),
        (Standing::Revoked, "revoked"),
    ] {
        let number = nodes.iter().filter(|node| node.standing == standing).count();
        if number > 0 {
            let _ = write!(text, "; {number} {words}");
        }
    }
    text
}

/// The nodes that wait for approval, if there are any, with what to compare.
pub(crate) fn pending<'a>(nodes: impl Iterator<Item = &'a NodeInfo>) -> String {
    let mut out = String::new();
    let mut waiting = nodes.filter(|node| node.standing == Standing::Pending);
    for (number, node) in waiting.by_ref().take(PENDING_SHOWN_MAX).enumerate() {
        if number == 0 {
            out.push_str("\nwaiting for approval; the log of each must show the same fingerprint:\n");
        }
        let _ = writeln!(
            out,
            "potluck approve {}    {}  {}",
            node.node,
            clean(&node.fingerprint),
            clean(host(node))
        );
    }
    let more = waiting.count();
    if more > 0 {
        let _ = writeln!(out, "… and {more} more, see `potluck nodes --json`");
    }
    out
}

/// The table of nodes.
pub(crate) fn nodes<'a>(nodes: impl Iterator<Item = &'a NodeInfo>, now: UnixSeconds) -> Table {
    let mut table = Table::new([
        Column::left("NODE"),
        Column::left("HOST"),
        Column::left("STATE"),
        Column::left("RELEASE"),
        Column::left("STEPS"),
        Column::right("PEERS"),
        Column::right("SERVER"),
        Column::right("TIME"),
        Column::left("SEEN"),
    ]);
    for node in nodes {
        let progress = &node.progress;
        let fetched = |count: u64| match progress.state {
            NodeState::Unassigned | NodeState::Waiting => String::new(),
            _ => bytes(count),
        };
        table.row([
            (Tone::Plain, node.node.to_string()),
            (Tone::Plain, host(node).to_owned()),
            state(node),
            (Tone::Plain, release(node)),
            (Tone::Plain, steps(node)),
            (Tone::Plain, fetched(progress.peer_bytes)),
            (Tone::Plain, fetched(progress.origin_bytes)),
            (Tone::Plain, took(node)),
            seen(node, now),
        ]);
    }
    table
}

/// `potluck node ID`.
pub(crate) fn node(node: &NodeInfo, now: UnixSeconds, style: Style) -> String {
    let mut out = String::new();
    let progress = &node.progress;
    let mut lines: Vec<(&str, Tone, String)> = vec![
        ("node", Tone::Strong, node.node.to_string()),
        ("state", state(node).0, state(node).1),
        ("reason", Tone::Plain, node.reason.clone().unwrap_or_default()),
        ("key", Tone::Plain, node.fingerprint.clone()),
        (
            "identity",
            Tone::Bad,
            node.twice.map_or_else(String::new, |at| {
                format!(
                    "seen in two places, last {}: find the copy, and revoke this node or `potluck approve` it",
                    ago(at, now)
                )
            }),
        ),
        ("release", Tone::Plain, release(node)),
        ("steps", Tone::Plain, steps(node)),
        (
            "bytes",
            Tone::Plain,
            format!(
                "{} from peers, {} from the server, {} here already",
                bytes(progress.peer_bytes),
                bytes(progress.origin_bytes),
                bytes(progress.held_bytes)
            ),
        ),
        ("time", Tone::Plain, took(node)),
        ("trouble", Tone::Bad, progress.trouble.clone().unwrap_or_default()),
        (
            "ignored",
            Tone::Plain,
            progress.ignored.map(ignored).unwrap_or_default(),
        ),
        ("seen", seen(node, now).0, seen(node, now).1),
        ("joined", Tone::Plain, stamp(node.joined)),
        ("site", Tone::Plain, node.site.clone().unwrap_or_default()),
        (
            "addresses",
            Tone::Plain,
            node.addresses
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" "),
        ),
    ];
    for (name, labels) in [("labels", &node.labels), ("facts", &node.facts)] {
        let text: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        lines.push((name, Tone::Plain, text.join(" ")));
    }
    for (name, tone, value) in lines {
        if !value.is_empty() {
            let name = style.paint(Tone::Dim, &format!("{name:<10}"));
            let _ = writeln!(out, "{name} {}", style.paint(tone, &clean(&value)));
        }
    }
    out
}

/// What a node ignored of what came over the network.
fn ignored(ignored: Ignored) -> String {
    let datagrams = [
        (ignored.datagrams_unopened, "unopened"),
        (ignored.datagrams_overflowed, "too many at a time"),
        (ignored.datagrams_malformed, "malformed"),
        (ignored.datagrams_repeated, "repeated"),
        (ignored.answers_unrequested, "unrequested"),
    ];
    let connections = [
        (ignored.connections_refused, "refused"),
        (ignored.handshakes_failed, "unproven"),
        (ignored.peers_at_fault, "at fault"),
    ];
    let shown = |what: &str, of: &[(u64, &str)]| {
        let counts = of.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<String> = counts.map(|(count, why)| format!("{count} {why}")).collect();
        (!counts.is_empty()).then(|| format!("{what}: {}", counts.join(", ")))
    };
    let parts = [shown("datagrams", &datagrams), shown("connections", &connections)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The table of assignments.
pub(crate) fn assignments(assignments: &[AssignmentInfo], now: UnixSeconds) -> Table {
    let mut table = Table::new([
        Column::right("ID"),
        Column::left("CONFIGURATION"),
        Column::left("RELEASE"),
        Column::left("FOR"),
        Column::right("NODES"),
        Column::left("MADE"),
    ]);
    for assignment in assignments {
        let release = assignment
            .release
            .map_or_else(|| "newest".to_owned(), |release| release.to_string());
        table.row([
            (Tone::Plain, assignment.id.to_string()),
            (Tone::Plain, assignment.configuration.to_string()),
            (Tone::Plain, release),
            (Tone::Plain, target(&assignment.target)),
            (Tone::Plain, assignment.matches.to_string()),
            if assignment.halted {
                (Tone::Bad, "halted".to_owned())
            } else {
                (Tone::Plain, ago(assignment.made, now))
            },
        ]);
    }
    table
}

/// Whom an assignment is for.
pub(crate) fn target(target: &Target) -> String {
    match target {
        Target::All => "all nodes".into(),
        Target::Where(selector) => format!("where {selector}"),
        Target::Node(node) => format!("node {node}"),
    }
}

/// Host names by node.
pub(crate) fn host_names(nodes: &[NodeInfo]) -> BTreeMap<NodeId, String> {
    nodes
        .iter()
        .filter(|node| !host(node).is_empty())
        .map(|node| (node.node, host(node).to_owned()))
        .collect()
}

/// The name of a state.
pub(crate) fn word(state: NodeState) -> &'static str {
    match state {
        NodeState::Unassigned => "unassigned",
        NodeState::Waiting => "waiting",
        NodeState::Fetching => "fetching",
        NodeState::Executing => "executing",
        NodeState::Halted => "halted",
        NodeState::Converged => "converged",
        NodeState::Failed => "failed",
    }
}

/// The tone of a state.
pub(crate) fn tone(state: NodeState) -> Tone {
    match state {
        NodeState::Unassigned => Tone::Dim,
        NodeState::Waiting => Tone::Plain,
        NodeState::Fetching | NodeState::Executing | NodeState::Halted => Tone::Busy,
        NodeState::Converged => Tone::Good,
        NodeState::Failed => Tone::Bad,
    }
}

fn state(node: &NodeInfo) -> (Tone, String) {
    match node.standing {
        Standing::Admitted if node.twice.is_some() => (Tone::Bad, "in two places".to_owned()),
        Standing::Admitted => (tone(node.progress.state), word(node.progress.state).to_owned()),
        Standing::Pending => (Tone::Busy, "pending".to_owned()),
        Standing::Revoked => (Tone::Dim, "revoked".to_owned()),
    }
}

fn host(node: &NodeInfo) -> &str {
    node.facts
        .iter()
        .find(|(key, _)| key.as_str() == "hostname")
        .map_or("", |(_, value)| value)
}

fn release(node: &NodeInfo) -> String {
    node.assigned
        .as_ref()
        .map_or_else(String::new, |name| format!("{} {}", name.configuration, name.release))
}

fn steps(node: &NodeInfo) -> String {
    let progress = &node.progress;
    match (&progress.recap, &progress.step) {
        (Some(recap), _) => brief(recap),
        (None, Some(step)) => format!("running {step}"),
        (None, None) => String::new(),
    }
}

/// Only what is not zero.
pub(crate) fn brief(recap: &Recap) -> String {
    let parts = [
        (recap.failed, "failed"),
        (recap.blocked, "blocked"),
        (recap.interrupted, "interrupted"),
        (recap.halted, "halted"),
        (recap.undone, "undone"),
        (recap.changed, "changed"),
        (recap.unchanged, "unchanged"),
        (recap.skipped, "skipped"),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{number} {word}"))
        .collect();
    if parts.is_empty() {
        "none".into()
    } else {
        parts.join(", ")
    }
}

fn took(node: &NodeInfo) -> String {
    node.progress
        .millis
        .map_or_else(String::new, |millis| span(Duration::from_millis(millis)))
}

fn seen(node: &NodeInfo, now: UnixSeconds) -> (Tone, String) {
    if node.online {
        (Tone::Good, "online".to_owned())
    } else {
        (Tone::Busy, ago(node.seen, now))
    }
}

#[cfg(test)]
pub(crate) mod sample {
    use std::collections::BTreeMap;

    use potluck_model::NodeId;
    use potluck_model::api::{
        AssignmentInfo, NodeInfo, NodeState, Progress, ReleaseName, Standing, Status, Target, Wave,
    };
    use potluck_model::trace::Recap;

    use super::UnixSeconds;

    const NOW: UnixSeconds = UnixSeconds(1_772_352_000);

    pub(crate) fn node(number: u64, state: NodeState) -> NodeInfo {
        let converged = matches!(state, NodeState::Converged | NodeState::Failed);
        NodeInfo {
            node: NodeId(0xa000_0000_0000_0000 + number),
            labels: BTreeMap::from([("role".parse().unwrap(), "web".into())]),
            facts: BTreeMap::from([("hostname".parse().unwrap(), format!("edge-{number}"))]),
            addresses: vec!["10.0.0.1:7443".parse().unwrap()],
            site: Some("10.0.0.0/24".into()),
            standing: Standing::Admitted,
            reason: None,
            twice: None,
            fingerprint: "0102-0304-0506-0708-090a-0b0c-0d0e-0f10".into(),
            joined: UnixSeconds(NOW.0 - 86_400),
            seen: UnixSeconds(NOW.0 - 42),
            online: !number.is_multiple_of(4),
            assigned: (state != NodeState::Unassigned).then(|| ReleaseName {
                configuration: "web-edge".parse().unwrap(),
                release: 3,
            }),
            progress: Progress {
                state,
                recap: converged.then(|| Recap {
                    changed: 5,
                    failed: u32::from(state == NodeState::Failed),
                    ..Recap::default()
                }),
                step: (state == NodeState::Executing).then(|| "tune".parse().unwrap()),
                held_bytes: 0,
                peer_bytes: number << 20,
                origin_bytes: 1 << 20,
                millis: converged.then_some(4_200),
                trouble: (state == NodeState::Failed).then(|| "step tune failed: exit 1".into()),
                ignored: None,
            },
        }
    }

    pub(crate) fn status(nodes: Vec<NodeInfo>) -> Status {
        Status {
            version: "0.1.0".into(),
            time: NOW,
            halted: false,
            trust: "The key that decides what may be executed sits with this server.".into(),
            assignments: vec![AssignmentInfo {
                id: 1,
                configuration: "web-edge".parse().unwrap(),
                release: None,
                target: Target::All,
                made: UnixSeconds(NOW.0 - 7_300),
                waves: vec![Wave {
                    percent: 100,
                    started: true,
                }],
                halted: false,
                matches: nodes.len() as u32,
            }],
            nodes,
            stored_bytes: 5 << 30,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sample::{node as sample_node, status as sample_status};
    use super::*;

    #[test]
    fn a_small_fleet_is_shown_node_by_node() {
        let fleet = sample_status(vec![
            sample_node(1, NodeState::Converged),
            sample_node(2, NodeState::Executing),
            sample_node(3, NodeState::Failed),
            sample_node(4, NodeState::Unassigned),
        ]);
        insta::assert_snapshot!(status(&fleet, "10.0.0.9:7440", Style::PLAIN), @"
        server 10.0.0.9:7440  version 0.1.0, 2026-03-01 08:00:00Z, 5.0 GiB stored
        The key that decides what may be executed sits with this server.

        ID  CONFIGURATION  RELEASE  FOR        NODES  MADE
         1  web-edge       newest   all nodes      4  2 h ago

        4 nodes: 1 failed, 1 converged, 1 executing, 1 unassigned; 1 offline

        NODE              HOST    STATE       RELEASE     STEPS                  PEERS   SERVER   TIME  SEEN
        a000000000000001  edge-1  converged   web-edge 3  5 changed            1.0 MiB  1.0 MiB  4.2 s  online
        a000000000000002  edge-2  executing   web-edge 3  running tune         2.0 MiB  1.0 MiB         online
        a000000000000003  edge-3  failed      web-edge 3  1 failed, 5 changed  3.0 MiB  1.0 MiB  4.2 s  online
        a000000000000004  edge-4  unassigned                                                            42 s ago
        ");
    }

    #[test]
    fn a_large_fleet_is_grouped_and_only_trouble_is_shown() {
        let mut nodes: Vec<NodeInfo> = (1..=60).map(|n| sample_node(n, NodeState::Converged)).collect();
        nodes.extend((61..=85).map(|n| sample_node(n, NodeState::Failed)));
        let mut fleet = sample_status(nodes);
        fleet.halted = true;
        let text = status(&fleet, "10.0.0.9:7440", Style::PLAIN);
        assert!(text.lines().count() <= 40, "{text}");
        let head: Vec<&str> = text.lines().take(13).collect();
        insta::assert_snapshot!(head.join("\n"), @"
        server 10.0.0.9:7440  version 0.1.0, 2026-03-01 08:00:00Z, 5.0 GiB stored
        halted: no step starts on any node until `potluck resume`
        The key that decides what may be executed sits with this server.

        ID  CONFIGURATION  RELEASE  FOR        NODES  MADE
         1  web-edge       newest   all nodes     85  2 h ago

        85 nodes: 25 failed, 60 converged; 21 offline

        RELEASE     STATE      NODES
        web-edge 3  converged     60
        web-edge 3  failed        25
        ");
        assert!(text.ends_with("… and 15 more, see `potluck nodes --trouble`\n"));
    }

    #[test]
    fn the_status_of_three_and_of_three_hundred_nodes_fits_a_screen_whatever_they_are_called() {
        for number in [3, 300] {
            let nodes = (1..=number).map(|n| {
                let mut node = sample_node(n, NodeState::Failed);
                let name = format!("{}-{n}.example.org", "very-long-host-name".repeat(3));
                node.facts.insert("hostname".parse().unwrap(), name);
                if let Some(assigned) = &mut node.assigned {
                    assigned.configuration = format!("configuration-with-a-long-name-{}", n % 40).parse().unwrap();
                    assigned.release = n;
                }
                node
            });
            let mut fleet = sample_status(nodes.collect());
            fleet.halted = true;
            let one = AssignmentInfo {
                target: Target::Where(format!("role in ({})", vec!["web"; 40].join(","))),
                ..fleet.assignments[0].clone()
            };
            fleet.assignments = vec![one; number as usize];
            let text = status(&fleet, "potluck.example.org:7440", Style::PLAIN);
            assert!(text.lines().count() <= 50, "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= 160), "{text}");
            assert_eq!(text.contains("… and 290 earlier"), number == 300, "{text}");
            assert_eq!(text.contains("smaller groups"), number == 300, "{text}");
        }
    }

    #[test]
    fn a_node_is_shown_with_all_that_is_known_of_it() {
        let text = node(
            &sample_node(3, NodeState::Failed),
            UnixSeconds(1_772_352_000),
            Style::PLAIN,
        );
        insta::assert_snapshot!(text, @"
        node       a000000000000003
        state      failed
        key        0102-0304-0506-0708-090a-0b0c-0d0e-0f10
        release    web-edge 3
        steps      1 failed, 5 changed
        bytes      3.0 MiB from peers, 1.0 MiB from the server, 0 B here already
        time       4.2 s
        trouble    step tune failed: exit 1
        seen       online
        joined     2026-02-28 08:00:00Z
        site       10.0.0.0/24
        addresses  10.0.0.1:7443
        labels     role=web
        facts      hostname=edge-3
        ");
    }

    #[test]
    fn an_empty_fleet_says_how_to_begin() {
        let mut empty = sample_status(vec![]);
        empty.assignments.clear();
        let text = status(&empty, "10.0.0.9:7440", Style::PLAIN);
        assert!(text.contains("nothing is assigned"), "{text}");
        assert!(text.contains("potluck join-token"), "{text}");
    }
}
