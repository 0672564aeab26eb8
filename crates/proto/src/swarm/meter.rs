//! Measured throughput of a source.

use std::time::Duration;

use potluck_model::Time;

/// The shortest span over which bytes are counted.
const SPAN_MIN: Duration = Duration::from_millis(200);

/// Bytes a second while something was under way, smoothed.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    since: Option<Time>,
    bytes: u64,
    rate: Option<u64>,
}

impl Meter {
    /// A transfer begins; idle time before it does not count.
    pub(super) fn begin(&mut self, now: Time, idle: bool) {
        if idle {
            self.since = Some(now);
            self.bytes = 0;
        }
    }

    pub(super) fn count(&mut self, now: Time, bytes: u64) {
        self.bytes += bytes;
        let since = *self.since.get_or_insert(now);
        let span = now.since(since);
        if span >= SPAN_MIN {
            let sample = self.bytes.saturating_mul(1_000_000) / span.as_micros() as u64;
            self.rate = Some(
                self.rate
                    .map_or(sample, |rate| (rate / 10).saturating_mul(7) + sample / 10 * 3),
            );
            self.since = Some(now);
            self.bytes = 0;
        }
    }

    /// Bytes a second, if known.
    pub(super) const fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Bytes that come in so long, if known.
    pub(super) fn bytes_in(&self, span: Duration) -> Option<u64> {
        Some(self.rate?.saturating_mul(span.as_millis() as u64) / 1_000)
    }

    /// How long so many bytes take.
    pub(super) fn time_for(&self, bytes: u64) -> Option<Duration> {
        let rate = self.rate?.max(1);
        Some(Duration::from_micros(bytes.saturating_mul(1_000_000) / rate))
    }
}
