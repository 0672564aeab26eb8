//! The trace for people: causes, sources, what took longest, steps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use potluck_model::trace::{Cause, Outcome, Source, Why};
use potluck_model::{Digest, NodeId, UnixMicros};

use super::report::{FileTrace, Range, TraceReport};
use crate::output::{Column, Style, Table, Tone, bytes, clean, clock, count, span};

/// How many of the files that came last are shown.
const SLOW_FILES: usize = 5;
/// How many sources, failures and such are shown; `--json` has all.
const ROWS_MAX: usize = 20;

/// One or two screens. `names` are host names of nodes, as far as they are known.
pub(crate) fn show(report: &TraceReport, names: &BTreeMap<NodeId, String>, style: Style) -> String {
    let mut out = String::new();
    head(&mut out, report, names, style);
    sources(&mut out, report, names, style);
    slow_files(&mut out, report, names, style);
    failures(&mut out, report, names, style);
    steps(&mut out, report, style);
    out
}

/// A node by its host name, if it has one, and its id.
pub(crate) fn name(node: NodeId, names: &BTreeMap<NodeId, String>) -> String {
    match names.get(&node) {
        Some(host) => format!("{} ({node})", clean(host)),
        None => node.to_string(),
    }
}

fn head(out: &mut String, report: &TraceReport, names: &BTreeMap<NodeId, String>, style: Style) {
    let version = report
        .version
        .as_ref()
        .map_or_else(String::new, |version| format!(" ({version})"));
    let title = format!(
        "{}: {} release {}{version}",
        name(report.node, names),
        report.configuration,
        report.release
    );
    let _ = writeln!(out, "{}", style.paint(Tone::Strong, &title));
    let _ = writeln!(out, "list {}", report.list);
    for fetch in &report.list_fetches {
        let _ = writeln!(
            out,
            "asked for the list at {} because {}; answered after {}",
            clock(fetch.at),
            cause(fetch.cause),
            between(fetch.at, fetch.answered)
        );
    }
    let requests: BTreeSet<_> = report
        .files
        .iter()
        .flat_map(|file| &file.sources.requests)
        .chain(&report.list_content.requests)
        .map(|request| (request.request, request.to, request.interface.as_deref()))
        .collect();
    let peers: BTreeSet<NodeId> = report
        .files
        .iter()
        .flat_map(|file| &file.sources.answers)
        .chain(&report.list_content.answers)
        .map(|answer| answer.peer)
        .collect();
    if !requests.is_empty() {
        let _ = writeln!(
            out,
            "{} sent; {} answered",
            count(requests.len() as u64, "existence request"),
            count(peers.len() as u64, "peer")
        );
    }
    if let (Some(began), Some(complete)) = (report.began(), report.complete) {
        let _ = writeln!(out, "all files here and verified after {}", between(began, complete));
    }
    let earlier = report.boots.iter().filter(|boot| **boot != report.boot);
    let earlier: Vec<String> = earlier.map(u64::to_string).collect();
    if !earlier.is_empty() {
        let _ = writeln!(
            out,
            "this is boot {} of the agent; others that worked on this list: --boot {}",
            report.boot,
            earlier.join(", ")
        );
    }
}

fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Start => "the agent started",
        Cause::LinkUp => "a link came up",
        Cause::AddressChanged => "an address changed",
        Cause::ServerBack => "the server was back",
        Cause::Notified => "the server had news",
    }
}

fn between(earlier: UnixMicros, later: UnixMicros) -> String {
    span(Duration::from_micros(later.0.saturating_sub(earlier.0)))
}

fn sources(out: &mut String, report: &TraceReport, names: &BTreeMap<NodeId, String>, style: Style) {
    #[derive(Default)]
    struct Share {
        files: u64,
        bytes: u64,
        reasons: BTreeSet<Why>,
    }
    let mut shares: BTreeMap<Source, Share> = BTreeMap::new();
    let mut total = 0;
    for file in unique(report) {
        let from: BTreeSet<Source> = file.sources.ranges.iter().map(|range| range.source).collect();
        for source in from {
            shares.entry(source).or_default().files += 1;
        }
        for Range { source, len, why, .. } in &file.sources.ranges {
            let share = shares.entry(*source).or_default();
            share.bytes += len;
            share.reasons.insert(*why);
            total += len;
        }
    }
    let mut shares: Vec<(Source, Share)> = shares.into_iter().collect();
    shares.sort_by_key(|(source, share)| (std::cmp::Reverse(share.bytes), *source));
    let mut table = Table::new([
        Column::left("SOURCE"),
        Column::right("FILES"),
        Column::right("BYTES"),
        Column::right("SHARE"),
        Column::left("WHY"),
    ]);
    for (source, share) in shares.iter().take(ROWS_MAX) {
        let percent = share.bytes.saturating_mul(1000).checked_div(total).unwrap_or(0);
        let reasons: Vec<&str> = share.reasons.iter().map(|why| reason(*why)).collect();
        table.row([
            (Tone::Plain, source_name(*source, names)),
            (Tone::Plain, share.files.to_string()),
            (Tone::Plain, bytes(share.bytes)),
            (Tone::Plain, format!("{}.{} %", percent / 10, percent % 10)),
            (Tone::Dim, reasons.join(", ")),
        ]);
    }
    let _ = write!(out, "\n{}", table.render(style));
    more(out, shares.len(), style);
}

fn more(out: &mut String, rows: usize, style: Style) {
    if rows > ROWS_MAX {
        let text = format!("… and {} more, see --json", rows - ROWS_MAX);
        let _ = writeln!(out, "{}", style.paint(Tone::Dim, &text));
    }
}

/// One file for each content.
fn unique(report: &TraceReport) -> impl Iterator<Item = &FileTrace> {
    let mut seen: BTreeSet<Digest> = BTreeSet::new();
    report.files.iter().filter(move |file| seen.insert(file.digest))
}

fn reason(why: Why) -> &'static str {
    match why {
        Why::Held => "held",
        Why::Answered => "answered",
        Why::NobodyAnswered => "nobody-answered",
        Why::MyShare => "my-share",
        Why::PeerFailed => "peer-failed",
        Why::Hedge => "hedge",
    }
}

fn source_name(source: Source, names: &BTreeMap<NodeId, String>) -> String {
    match source {
        Source::Held => "here already".into(),
        Source::Origin => "server".into(),
        Source::Peer(node) => name(node, names),
    }
}

fn slow_files(out: &mut String, report: &TraceReport, names: &BTreeMap<NodeId, String>, style: Style) {
    let Some(began) = report.began() else { return };
    let mut files: Vec<(UnixMicros, &FileTrace)> = unique(report)
        .filter_map(|file| {
            let fetched = file.sources.ranges.iter().filter(|range| range.source != Source::Held);
            Some((fetched.map(|range| range.at).max()?, file))
        })
        .collect();
    if files.is_empty() {
        return;
    }
    files.sort_by_key(|(at, file)| (std::cmp::Reverse(*at), file.path.as_str()));
    let mut table = Table::new([
        Column::left("LAST TO ARRIVE"),
        Column::right("SIZE"),
        Column::right("AFTER"),
        Column::left("FROM"),
    ]);
    for (at, file) in files.iter().take(SLOW_FILES) {
        let from: BTreeSet<Source> = file.sources.ranges.iter().map(|range| range.source).collect();
        let peers: Vec<NodeId> = from
            .iter()
            .filter_map(|source| match source {
                Source::Peer(node) => Some(*node),
                _ => None,
            })
            .collect();
        let mut said: Vec<String> = match peers[..] {
            [] => Vec::new(),
            [peer] => vec![name(peer, names)],
            _ => vec![count(peers.len() as u64, "peer")],
        };
        said.extend(
            [Source::Origin, Source::Held]
                .into_iter()
                .filter(|source| from.contains(source))
                .map(|source| source_name(source, names)),
        );
        table.row([
            (Tone::Plain, file.path.clone()),
            (Tone::Plain, bytes(file.size)),
            (Tone::Plain, between(began, *at)),
            (Tone::Dim, said.join(", ")),
        ]);
    }
    let _ = write!(out, "\n{}", table.render(style));
}

fn failures(out: &mut String, report: &TraceReport, names: &BTreeMap<NodeId, String>, style: Style) {
    let mut lines: Vec<(UnixMicros, String)> = Vec::new();
    for failure in &report.failures {
        let source = source_name(failure.source, names);
        lines.push((failure.at, format!("{source}: {}", clean(&failure.fault))));
    }
    for trouble in &report.troubles {
        lines.push((trouble.at, clean(&trouble.message).into_owned()));
    }
    if lines.is_empty() {
        return;
    }
    lines.sort();
    out.push('\n');
    for (at, line) in lines.iter().take(ROWS_MAX) {
        let _ = writeln!(out, "{} {}", clock(*at), style.paint(Tone::Busy, line));
    }
    more(out, lines.len(), style);
}

/// The tone of an outcome.
pub(crate) fn outcome(outcome: Outcome) -> (Tone, String) {
    let (tone, word) = match outcome {
        Outcome::Changed => (Tone::Good, "changed"),
        Outcome::Unchanged => (Tone::Plain, "unchanged"),
        Outcome::Skipped => (Tone::Plain, "skipped"),
        Outcome::Failed => (Tone::Bad, "failed"),
        Outcome::Blocked => (Tone::Bad, "blocked"),
        Outcome::Interrupted => (Tone::Bad, "interrupted"),
        Outcome::Halted => (Tone::Busy, "halted"),
        Outcome::Undone => (Tone::Bad, "undone"),
    };
    (tone, word.to_owned())
}

fn steps(out: &mut String, report: &TraceReport, style: Style) {
    if report.steps.is_empty() {
        return;
    }
    let mut table = Table::new([
        Column::left("STEP"),
        Column::left("OUTCOME"),
        Column::right("TIME"),
        Column::left("MESSAGE"),
    ]);
    for step in &report.steps {
        let ended = step.outcome.map_or((Tone::Busy, "running".to_owned()), outcome);
        let message = match step.exit {
            Some(code) if code != 0 => format!("exit {code} {}", step.message),
            _ => step.message.clone(),
        };
        let time = step
            .millis
            .map_or_else(String::new, |millis| span(Duration::from_millis(millis)));
        table.row([
            (Tone::Plain, step.id.to_string()),
            ended,
            (Tone::Plain, time),
            (Tone::Dim, message.lines().next().unwrap_or("").to_owned()),
        ]);
    }
    let _ = write!(out, "\n{}", table.render(style));
    if let Some(recap) = &report.recap {
        let _ = writeln!(out, "{recap}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_trace_shows_causes_sources_and_steps() {
        let names = BTreeMap::from([(sample::NODE, "edge-1".to_owned())]);
        insta::assert_snapshot!(show(&sample::report(), &names, Style::PLAIN), @"
        edge-1 (0a11ce0000000001): web-edge release 3 (2026.1)
        list a3b9ddb0c419b567e2fcdfcda9f825eab55b12e3ecabcd36ef3acfc20180be8e
        asked for the list at 08:00:00.003 because the server had news; answered after 1 ms
        2 existence requests sent; 1 peer answered
        all files here and verified after 11 ms

        SOURCE            FILES      BYTES   SHARE  WHY
        0b0b000000000002      1  585.9 KiB  57.2 %  answered
        server                1  438.1 KiB  42.7 %  peer-failed
        here already          1        3 B   0.0 %  held

        LAST TO ARRIVE     SIZE  AFTER  FROM
        big.img         1.0 MiB  10 ms  0b0b000000000002, server

        08:00:00.012 0b0b000000000002: no byte for 2 s

        STEP  OUTCOME   TIME  MESSAGE
        tune  changed  12 ms
        changed=1 unchanged=0 failed=0 skipped=0 blocked=0
        ");
    }

    #[test]
    fn many_sources_are_cut_short() {
        let mut report = sample::report();
        let sample_range = report.files[0].sources.ranges[0].clone();
        report.files[0].sources.ranges = (0..50)
            .map(|n| Range {
                source: Source::Peer(NodeId(n)),
                ..sample_range.clone()
            })
            .collect();
        let text = show(&report, &BTreeMap::new(), Style::PLAIN);
        assert!(text.contains("… and 31 more, see --json"), "{text}");
    }
}
