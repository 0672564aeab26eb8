//! What every node did.

use std::fmt::Write;

use potluck_model::{NodeId, Time};
use potluck_proto::Action;

use crate::random::Random;

/// Stands for all that was done, and says it line by line if that is wanted.
#[derive(Debug)]
pub struct Trace {
    print: u64,
    lines: Option<String>,
}

impl Trace {
    pub(crate) fn new(keep: bool) -> Self {
        Self {
            print: 0,
            lines: keep.then(String::new),
        }
    }

    pub(crate) fn record(&mut self, now: Time, node: NodeId, action: &Action) {
        self.fold(now.0);
        self.fold(node.0);
        self.fold_action(action);
        let Some(lines) = &mut self.lines else { return };
        match action {
            Action::Datagram { to, bytes } => writeln!(lines, "{} {node} datagram {to} {}", now.0, digest(bytes)),
            Action::Multicast { path, bytes } => {
                writeln!(lines, "{} {node} multicast {} {}", now.0, path.0, digest(bytes))
            }
            other => writeln!(lines, "{} {node} {other:?}", now.0),
        }
        .expect("a string takes every line");
    }

    fn fold_action(&mut self, action: &Action) {
        match action {
            Action::Datagram { bytes, .. } | Action::Multicast { bytes, .. } => self.fold_bytes(bytes),
            Action::Fetch { transfer, wants, .. } => {
                self.fold(transfer.0);
                for want in wants {
                    self.fold(u64::from(want.first) << 32 | u64::from(want.count));
                }
            }
            Action::Send { peer, .. } | Action::Connect { peer, .. } | Action::Disconnect { peer } => self.fold(peer.0),
            Action::Cancel { transfer } => self.fold(transfer.0),
            Action::Serve { peer, stream, .. }
            | Action::StopServing { peer, stream }
            | Action::Decline { peer, stream, .. } => self.fold(peer.0 ^ u64::from(*stream)),
            Action::Trace(_) | Action::Complete { .. } => {}
        }
        self.fold(kind(action));
    }

    pub(crate) fn fold_bytes(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.fold(u64::from_le_bytes(word));
        }
    }

    const fn fold(&mut self, word: u64) {
        self.print = Random::new(self.print.rotate_left(5) ^ word).u64();
    }

    /// Stands for everything so far: of two runs that differ, it differs, but for chance.
    pub fn fingerprint(&self) -> String {
        format!("{:016x}", self.print)
    }

    /// All lines, if they were kept: microseconds, node, what it did.
    pub fn lines(&self) -> &str {
        self.lines.as_deref().unwrap_or_default()
    }
}

const fn kind(action: &Action) -> u64 {
    match action {
        Action::Datagram { .. } => 1,
        Action::Multicast { .. } => 2,
        Action::Connect { .. } => 3,
        Action::Disconnect { .. } => 4,
        Action::Send { .. } => 5,
        Action::Fetch { .. } => 6,
        Action::Cancel { .. } => 7,
        Action::Serve { .. } => 8,
        Action::StopServing { .. } => 9,
        Action::Decline { .. } => 10,
        Action::Trace(_) => 11,
        Action::Complete { .. } => 12,
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("{}B:{}", bytes.len(), &blake3::hash(bytes).to_hex()[..16])
}
