//! How long the server has been away, what is said of that, and when it is tried again.

use std::time::Duration;

use potluck_net::api::ApiFault;
use tokio::time::Instant;

/// After how long without the server the node goes on with what it knows.
const PATIENCE: Duration = Duration::from_secs(3);
/// Back-off after failures: from, to.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How often it is said that the server cannot be reached.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// How long the server has been away.
pub(crate) struct Outage {
    since: Instant,
    said: Option<Instant>,
    told: bool,
    reached: bool,
    next: Duration,
}

impl Default for Outage {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            said: None,
            told: false,
            reached: false,
            next: BACK_OFF.0,
        }
    }
}

impl Outage {
    pub(crate) fn ended(&mut self) {
        if self.said.is_some() {
            tracing::info!(
                seconds = self.since.elapsed().as_secs(),
                "the server can be reached again"
            );
        }
        *self = Self {
            reached: true,
            ..Self::default()
        };
    }

    /// The network changed: try at once, and soon again.
    pub(crate) fn hurry(&mut self) {
        self.next = BACK_OFF.0;
    }

    /// Notes a failure; whether the node should now go on without the server.
    pub(crate) fn failed(&mut self, fault: &ApiFault, now: Instant) -> bool {
        if self.reached {
            self.since = now;
            self.reached = false;
        }
        if self.said.is_none_or(|said| now.duration_since(said) >= SAY_EVERY) {
            tracing::warn!("the management server cannot be asked ({fault}); trying on, saying so once a minute");
            self.said = Some(now);
        }
        let told = self.told;
        self.told = self.told || now.duration_since(self.since) >= PATIENCE;
        self.told && !told
    }

    pub(crate) fn back_off(&mut self) -> Duration {
        let now = self.next;
        self.next = (self.next * 2).min(BACK_OFF.1);
        // Half of it by chance, so that a fleet does not come back at once.
        let mut random = [0; 2];
        // Without randomness it waits a little less.
        getrandom::fill(&mut random).unwrap_or_default();
        now.mul_f64(0.5 + f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> ApiFault {
        ApiFault::Busy { retry_after: None }
    }

    #[test]
    fn the_node_goes_on_alone_once_after_some_patience() {
        let mut outage = Outage::default();
        let now = Instant::now();
        assert!(!outage.failed(&fault(), now));
        assert!(outage.failed(&fault(), now + PATIENCE));
        assert!(!outage.failed(&fault(), now + PATIENCE * 2));
    }

    #[test]
    fn back_off_grows_to_its_limit_and_never_beyond() {
        let mut outage = Outage::default();
        for _ in 0..20 {
            let wait = outage.back_off();
            assert!(wait <= BACK_OFF.1 && wait >= BACK_OFF.0 / 2, "{wait:?}");
        }
        assert!(outage.back_off() >= BACK_OFF.1 / 2);
        outage.hurry();
        assert!(outage.back_off() <= BACK_OFF.0);
    }
}
