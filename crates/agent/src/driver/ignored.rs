//! Tells the server what was ignored: datagrams of strangers, replays, connections that came to nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use potluck_model::trace::{Ignored, What};
use tokio::time::Instant;

use super::Driver;

/// How often it is told, if there was anything: the first time, and from then on.
const TELL_FIRST: Duration = Duration::from_secs(5);
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What was told.
pub(super) struct IgnoredSoFar {
    told: Ignored,
    look_at: Instant,
}

impl IgnoredSoFar {
    pub(super) fn new() -> Self {
        Self {
            told: Ignored::default(),
            look_at: Instant::now() + TELL_FIRST,
        }
    }

    pub(super) const fn look_at(&self) -> Instant {
        self.look_at
    }
}

impl Driver {
    pub(super) fn tell_ignored(&mut self) {
        if Instant::now() < self.ignored.look_at {
            return;
        }
        let core = self.swarm.counters();
        let connections = self.tools.gate.dropped();
        let ignored = Ignored {
            datagrams_unopened: self.tools.datagrams.unopened(),
            datagrams_overflowed: self.tools.overflowed.load(Ordering::Relaxed),
            datagrams_malformed: core.datagrams_malformed,
            datagrams_repeated: core.datagrams_repeated,
            answers_unrequested: core.answers_unrequested,
            connections_refused: connections.refused,
            handshakes_failed: connections.failed,
            peers_at_fault: core.peers_at_fault,
        };
        let news = ignored != self.ignored.told;
        self.ignored.look_at = Instant::now() + if news { TELL_EVERY } else { TELL_FIRST };
        if news {
            self.ignored.told = ignored;
            self.tools.outbox.record(None, What::Ignored(ignored));
        }
    }
}
