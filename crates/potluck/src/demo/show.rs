//! What the demo shows: how far the nodes are while it runs, and at the end who got what from where.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use potluck_model::api::{NodeInfo, NodeState};

use super::{NodeShown, Shown};
use crate::fleet::{brief, tone, word};
use crate::output::{Column, Output, Style, Table, Tone, bytes, span};

/// The live view: a table that is redrawn on a terminal, a line for each change elsewhere.
pub(super) struct Live {
    output: Output,
    terminal: bool,
    /// Lines that are redrawn.
    drawn: usize,
    last: Vec<(String, NodeState)>,
}

impl Live {
    pub(super) fn new(output: Output) -> Self {
        Self {
            output,
            terminal: std::io::stderr().is_terminal() && !output.quiet,
            drawn: 0,
            last: Vec::new(),
        }
    }

    /// Says what happens next.
    pub(super) fn say(&mut self, text: &str) {
        self.drawn = 0;
        self.output.note(text);
    }

    /// Shows how far the nodes are.
    pub(super) fn show(&mut self, nodes: &[((u8, String), NodeInfo)], elapsed: Duration) {
        if self.terminal {
            let table = table(nodes, elapsed, Style::of_stderr());
            self.redraw(&table);
            return;
        }
        let now: Vec<(String, NodeState)> = nodes
            .iter()
            .map(|((_, name), node)| (name.clone(), node.progress.state))
            .collect();
        for state in &now {
            if !self.last.contains(state) {
                self.output
                    .note(&format!("{:>6}  {} {}", span(elapsed), state.0, word(state.1)));
            }
        }
        self.last = now;
    }

    fn redraw(&mut self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        if self.drawn > 0 {
            let _ = write!(stderr, "\x1b[{}A", self.drawn);
        }
        for line in text.lines() {
            let _ = writeln!(stderr, "\r\x1b[K{line}");
        }
        // What was below the new text, if there was more.
        let _ = write!(stderr, "\x1b[J");
        self.drawn = text.lines().count();
    }

    /// Takes the live table away: the final one says more.
    pub(super) fn end(&mut self) {
        if self.terminal && self.drawn > 0 {
            self.redraw("");
        }
    }
}

fn table(nodes: &[((u8, String), NodeInfo)], elapsed: Duration, style: Style) -> String {
    let mut table = Table::new([
        Column::left("NODE"),
        Column::left("STATE"),
        Column::right("FROM PEERS"),
        Column::right("FROM SERVER"),
        Column::left("STEPS"),
    ]);
    for ((_, name), node) in nodes {
        let progress = &node.progress;
        let steps = match (&progress.recap, &progress.step) {
            (Some(recap), _) => brief(recap),
            (None, Some(step)) => format!("running {step}"),
            (None, None) => String::new(),
        };
        table.row([
            (Tone::Plain, name.clone()),
            (tone(progress.state), word(progress.state).to_owned()),
            (Tone::Plain, bytes(progress.peer_bytes)),
            (Tone::Plain, bytes(progress.origin_bytes)),
            (Tone::Plain, steps),
        ]);
    }
    format!("{}{}\n", table.render(style), style.paint(Tone::Dim, &span(elapsed)))
}

/// The final table, and what it comes to.
pub(crate) fn summary(shown: &Shown, style: Style) -> String {
    let mut table = Table::new([
        Column::left("NODE"),
        Column::left("STEPS"),
        Column::right("FILES: PEERS"),
        Column::right("SERVER"),
        Column::right("BOTH"),
        Column::right("BYTES: PEERS"),
        Column::right("SERVER"),
        Column::right("TIME"),
    ]);
    for NodeShown {
        name,
        late,
        info,
        files,
        bytes: from,
    } in &shown.nodes
    {
        let progress = &info.progress;
        let steps = progress
            .recap
            .as_ref()
            .map_or_else(|| word(progress.state).to_owned(), brief);
        let name = if *late { format!("{name} (late)") } else { name.clone() };
        let time = progress
            .millis
            .map_or_else(String::new, |millis| span(Duration::from_millis(millis)));
        table.row([
            (Tone::Plain, name),
            (tone(progress.state), steps),
            (Tone::Plain, files.peers.to_string()),
            (Tone::Plain, files.origin.to_string()),
            (Tone::Plain, files.mixed.to_string()),
            (Tone::Plain, bytes(from.peer_bytes)),
            (Tone::Plain, bytes(from.origin_bytes)),
            (Tone::Plain, time),
        ]);
    }
    let mut out = table.render(style);
    let payload = shown.published.bytes;
    let origin: u64 = shown.nodes.iter().map(|node| node.bytes.origin_bytes).sum();
    let peers: u64 = shown.nodes.iter().map(|node| node.bytes.peer_bytes).sum();
    let _ = write!(
        out,
        "\n{} for each of {} nodes: {} came from the server ({} times the release), {} from peers.\n",
        bytes(payload),
        shown.nodes.len(),
        bytes(origin),
        ratio(origin, payload),
        bytes(peers)
    );
    let _ = match &shown.directory {
        Some(directory) => writeln!(out, "Kept in {}.", directory.display()),
        None => writeln!(
            out,
            "To see more, `potluck demo --keep` leaves it running and says how to look into it."
        ),
    };
    out
}

/// With two decimals.
fn ratio(part: u64, whole: u64) -> String {
    let hundredths = (u128::from(part) * 100 + u128::from(whole) / 2)
        .checked_div(whole.into())
        .unwrap_or(0);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// How to look into what is left running.
pub(super) fn kept(output: Output, directory: &Path, shown: &Shown) {
    if !output.json {
        let _ = crate::output::print(summary(shown, output.style).as_bytes());
    }
    let data = directory.join("server");
    let program = std::env::current_exe().map_or_else(|_| "potluck".into(), |path| path.display().to_string());
    let node = shown
        .nodes
        .last()
        .map(|node| node.info.node.to_string())
        .unwrap_or_default();
    output.note(&format!(
        "\nIt runs until Ctrl-C. In another terminal:\n  \
         {program} --data {data} status\n  \
         {program} --data {data} trace {node}\n  \
         {program} --data {data} logs {node}\n\
         Roots and logs of the nodes are in {}.",
        directory.display(),
        data = data.display()
    ));
}
