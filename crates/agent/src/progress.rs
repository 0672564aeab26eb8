//! How often the driver hears that bytes come in.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes after which progress is told.
const BYTES: u64 = 128 << 10;
/// Time after which the next bytes are told however few they are: who is slow is not stalled.
const TIME: Duration = Duration::from_millis(500);

/// Bytes that have come in since the driver was told.
pub(crate) struct Progress {
    bytes: u64,
    told: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            bytes: 0,
            told: Instant::now(),
        }
    }
}

impl Progress {
    /// Adds bytes; gives how many to tell of, if it is time to.
    pub(crate) fn add(&mut self, bytes: u64) -> Option<u64> {
        self.bytes += bytes;
        if self.bytes < BYTES && self.told.elapsed() < TIME {
            return None;
        }
        self.told = Instant::now();
        Some(std::mem::take(&mut self.bytes))
    }
}

/// What a source must send at least, in bytes a second over `PACE_TIME`: whoever sends less keeps a transfer from being had
/// elsewhere, or over a better connection.
const PACE_MIN: u64 = 1 << 10;
/// Over how long it is measured.
const PACE_TIME: Duration = Duration::from_secs(10);

/// How fast bytes come in.
pub(crate) struct Pace {
    bytes: u64,
    since: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            bytes: 0,
            since: Instant::now(),
        }
    }
}

impl Pace {
    /// Adds bytes; whether enough have come lately.
    pub(crate) fn add(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        let time = self.since.elapsed();
        if time < PACE_TIME {
            return true;
        }
        let enough = self.bytes >= PACE_MIN * time.as_secs();
        *self = Self::default();
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_told_at_once_and_little_after_some_time() {
        let mut progress = Progress::default();
        assert_eq!(progress.add(BYTES - 1), None);
        assert_eq!(progress.add(1), Some(BYTES));
        assert_eq!(progress.add(1), None);
        progress.told = progress.told.checked_sub(TIME).unwrap();
        assert_eq!(progress.add(2), Some(3));
    }

    #[test]
    fn a_trickle_is_noticed_after_some_time_and_a_thin_link_is_not_taken_for_one() {
        let later = |pace: &mut Pace| pace.since = pace.since.checked_sub(PACE_TIME).unwrap();
        let mut pace = Pace::default();
        assert!(pace.add(1), "it has only just begun");
        later(&mut pace);
        assert!(!pace.add(1));
        assert!(pace.add(PACE_MIN * PACE_TIME.as_secs()));
        later(&mut pace);
        assert!(pace.add(1));
    }
}
