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
}
