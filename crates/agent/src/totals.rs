//! How many bytes of a release's files came from where. Each byte counts once.

use std::collections::BTreeMap;
use std::fmt;

use potluck_model::Digest;
use potluck_model::trace::{Source, What};

use crate::lists::Loaded;

/// Payload of the designated list by source; lists and chunk lists do not count.
#[derive(Default, Debug)]
pub(crate) struct Totals {
    /// Bytes that each needed content still lacks.
    lacking: BTreeMap<Digest, u64>,
    held: u64,
    peers: u64,
    origin: u64,
}

impl Totals {
    pub(crate) fn of(loaded: &Loaded) -> Self {
        let needed = loaded.contents.iter().filter(|content| content.needed);
        Self {
            lacking: needed.map(|of| (of.content.digest, of.content.size)).collect(),
            ..Self::default()
        }
    }

    /// Whether `content` is a needed file's.
    pub(crate) fn concerns(&self, content: &Digest) -> bool {
        self.lacking.contains_key(content)
    }

    /// Counts bytes of a needed file; whether there was anything to count.
    pub(crate) fn count(&mut self, content: &Digest, len: u64, source: Source) -> bool {
        let Some(lacking) = self.lacking.get_mut(content) else {
            return false;
        };
        let counted = len.min(*lacking);
        *lacking -= counted;
        match source {
            Source::Held => self.held += counted,
            Source::Peer(_) => self.peers += counted,
            Source::Origin => self.origin += counted,
        }
        counted > 0
    }

    /// Bytes of a needed file are gone again. Those that were held are not any more; fetched ones were fetched for nothing,
    /// and count a second time when they come again.
    pub(crate) fn lose(&mut self, content: &Digest, len: u64) {
        if let Some(lacking) = self.lacking.get_mut(content) {
            *lacking += len;
            self.held = self.held.saturating_sub(len);
        }
    }

    /// The event that says so.
    pub(crate) fn complete(&self) -> What {
        What::Complete {
            held_bytes: self.held,
            peer_bytes: self.peers,
            origin_bytes: self.origin,
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{:.1} MiB from peers, {:.1} MiB from the server, {:.1} MiB were here",
            mib(self.peers),
            mib(self.origin),
            mib(self.held)
        )
    }
}
