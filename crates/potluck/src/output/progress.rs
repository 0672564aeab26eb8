//! A line on stderr that shows what is going on, redrawn in place.

use std::io::Write;
use std::time::{Duration, Instant};

const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// The line; nothing at all where nobody watches. Gone once dropped.
pub(crate) struct Progress {
    enabled: bool,
    drawn: Option<Instant>,
}

impl Progress {
    /// A line that is only drawn if `enabled`.
    pub(crate) fn new(enabled: bool) -> Self {
        Self { enabled, drawn: None }
    }

    /// Replaces the line, at most ten times a second.
    pub(crate) fn show(&mut self, text: impl FnOnce() -> String) {
        let due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW_EVERY);
        if self.enabled && due {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{}", text());
            self.drawn = Some(Instant::now());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
