//! What every node did, line by line.

use std::fmt::Write;

use potluck_model::{NodeId, Time};
use potluck_proto::Action;

/// A running digest of all lines, and the lines themselves if they are wanted.
#[derive(Debug)]
pub struct Trace {
    hasher: blake3::Hasher,
    lines: Option<String>,
    line: String,
}

impl Trace {
    pub(crate) fn new(keep: bool) -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            lines: keep.then(String::new),
            line: String::new(),
        }
    }

    pub(crate) fn record(&mut self, now: Time, node: NodeId, action: &Action) {
        self.line.clear();
        match action {
            Action::Datagram { to, bytes } => write!(self.line, "{} {node} datagram {to} {}", now.0, digest(bytes)),
            Action::Multicast { path, bytes } => {
                write!(self.line, "{} {node} multicast {} {}", now.0, path.0, digest(bytes))
            }
            other => write!(self.line, "{} {node} {other:?}", now.0),
        }
        .expect("a string takes every line");
        self.line.push('\n');
        self.hasher.update(self.line.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push_str(&self.line);
        }
    }

    /// Stands for every line so far.
    pub fn digest(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    /// All lines, if they were kept: microseconds, node, what it did.
    pub fn lines(&self) -> &str {
        self.lines.as_deref().unwrap_or_default()
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("{}B:{}", bytes.len(), &blake3::hash(bytes).to_hex()[..16])
}
