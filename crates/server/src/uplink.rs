//! The limit of a site's uplink: what the server sends to all its nodes together, and how many answers at a time.

use std::sync::Arc;
use std::time::Duration;

use potluck_model::rate::{Schedule, Throttle};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// The least bytes a second of each answer: more answers at a time would only make each slower.
const ANSWER_RATE_MIN: u64 = 32 << 10;
/// Answers at a time, whatever the limit: at least, at most.
const ANSWERS: (u64, u64) = (4, 256);
/// The most bytes that pass at a time.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// The limit of a site's uplink. It is a rate and no state: after a restart it begins anew.
#[derive(Debug)]
pub(crate) struct Uplink {
    throttle: Throttle,
    answers: Arc<Semaphore>,
}

impl Uplink {
    /// None if nothing is ever limited.
    pub(crate) fn new(schedule: &Schedule) -> Option<Self> {
        let lowest = schedule.lowest()?;
        let answers = (lowest.bytes() / ANSWER_RATE_MIN).clamp(ANSWERS.0, ANSWERS.1);
        Some(Self {
            throttle: Throttle::new(schedule.clone()),
            answers: Arc::new(Semaphore::new(answers as usize)),
        })
    }

    /// A place among the answers; an error while too many are being sent. Outside the hours of the limit there is always one.
    pub(crate) fn place(&self) -> Result<Option<OwnedSemaphorePermit>, TryAcquireError> {
        if self.throttle.rate().is_none() {
            return Ok(None);
        }
        self.answers.clone().try_acquire_owned().map(Some)
    }

    /// Bytes that pass at a time.
    pub(crate) fn piece(&self) -> usize {
        self.throttle.piece(PIECE_BYTES_MAX)
    }

    /// Whether there is a limit now.
    pub(crate) fn limits(&self) -> bool {
        self.throttle.rate().is_some()
    }

    /// How long these bytes have to wait.
    pub(crate) fn take(&self, bytes: usize) -> Duration {
        self.throttle.take(bytes as u64)
    }
}

#[cfg(test)]
mod tests {
    use potluck_model::rate::Limit;

    use super::*;

    fn uplink(text: &str) -> Option<Uplink> {
        let Limit(rate) = text.parse().unwrap();
        Uplink::new(&Schedule::always(rate))
    }

    #[test]
    fn a_thin_uplink_is_shared_by_few_answers_at_a_time() {
        let thin = uplink("1 Mbit/s").unwrap();
        let places: Vec<_> = std::iter::from_fn(|| thin.place().ok()).take(100).collect();
        assert_eq!(places.len(), 4);
        drop(places);
        assert!(thin.place().is_ok(), "a place is free again once its answer has ended");
        assert!(uplink("unlimited").is_none());
    }
}
