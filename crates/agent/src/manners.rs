//! Manners: what a node gives and takes, how fast, and on which networks it knows its peers.

use std::time::Duration;

use potluck_model::rate::{Rate, Schedule, Throttle};

/// The most bytes that pass at a time where there is a limit.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// The least bytes a second of each answer to a peer: askers give up what is slower.
const ANSWER_RATE_MIN: u64 = 128 << 10;
/// Answers to peers at a time, without a limit.
const SERVING_MAX: usize = 32;
/// Bytes asked for and not yet here: without a limit, and at least.
const IN_FLIGHT_BYTES: (u64, u64) = (48 << 20, 1 << 20);
/// What is asked for under a limit should come within this time: with more on its way, sources seem slow, and others are
/// asked for the same.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// What a node gives and takes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manners {
    /// Where it has to do with peers.
    pub peering: Peering,
    /// When it gives.
    pub serve: Serve,
    /// Bytes that it sends to its peers.
    pub upload: Schedule,
    /// Bytes that it fetches, from peers and the server together.
    pub download: Schedule,
}

/// On which networks a node has to do with peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Peering {
    /// On all.
    #[default]
    Everywhere,
    /// Only where the server says that the network is in the operator's site map. Elsewhere there is no multicast, no
    /// existence request and no open port.
    KnownSites,
}

/// When a node gives to its peers what it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Serve {
    /// Always.
    #[default]
    Always,
    /// While it runs on mains power.
    Mains,
    /// Never: it takes only.
    Never,
}

impl Manners {
    /// How many answers to peers there may be at a time; 0: none.
    pub(crate) fn serving_max(&self, on_mains: bool) -> usize {
        let gives = match self.serve {
            Serve::Always => true,
            Serve::Mains => on_mains,
            Serve::Never => false,
        };
        if !gives {
            return 0;
        }
        let answers = |rate: Rate| (rate.bytes() / ANSWER_RATE_MIN).clamp(1, SERVING_MAX as u64) as usize;
        self.upload.lowest().map_or(SERVING_MAX, answers)
    }

    /// How many bytes may be asked for that are not here yet.
    pub(crate) fn in_flight_bytes_max(&self) -> u64 {
        let bytes = |rate: Rate| (rate.bytes() * IN_FLIGHT.as_secs()).clamp(IN_FLIGHT_BYTES.1, IN_FLIGHT_BYTES.0);
        self.download.lowest().map_or(IN_FLIGHT_BYTES.0, bytes)
    }
}

/// The limits of a node, for all of its connections together.
#[derive(Debug)]
pub(crate) struct Limits {
    upload: Throttle,
    download: Throttle,
}

impl Limits {
    pub(crate) fn new(manners: &Manners) -> Self {
        Self {
            upload: Throttle::new(manners.upload.clone()),
            download: Throttle::new(manners.download.clone()),
        }
    }

    /// How many bytes to send at a time.
    pub(crate) fn upload_piece(&self, most: usize) -> usize {
        self.upload.piece(most)
    }

    /// Waits until these bytes may be sent.
    pub(crate) async fn upload(&self, bytes: usize) {
        pause(self.upload.take(bytes as u64)).await;
    }

    /// Waits until the next bytes, of `left` that have come, may have come: how many these are.
    pub(crate) async fn download(&self, left: u64) -> u64 {
        if self.download.rate().is_none() {
            return left;
        }
        let piece = left.min(self.download.piece(PIECE_BYTES_MAX) as u64);
        pause(self.download.take(piece)).await;
        piece
    }
}

async fn pause(wait: Duration) {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use potluck_model::rate::Limit;

    use super::*;

    fn limited(upload: &str, download: &str) -> Manners {
        let schedule = |text: &str| Schedule::always(text.parse::<Limit>().unwrap().0);
        Manners {
            upload: schedule(upload),
            download: schedule(download),
            ..Manners::default()
        }
    }

    #[test]
    fn who_may_send_little_answers_few_at_a_time_so_that_none_of_them_gives_up() {
        assert_eq!(limited("1 Mbit/s", "unlimited").serving_max(true), 1);
        assert_eq!(limited("1 MiB/s", "unlimited").serving_max(true), 8);
        assert_eq!(Manners::default().serving_max(false), SERVING_MAX);
        assert_eq!(limited("unlimited", "4 MiB/s").in_flight_bytes_max(), 4 << 20);
        assert_eq!(limited("unlimited", "64 KiB/s").in_flight_bytes_max(), 1 << 20);
        assert_eq!(Manners::default().in_flight_bytes_max(), 48 << 20);
    }

    #[test]
    fn on_battery_a_node_gives_nothing_if_so_set() {
        let manners = |serve| Manners {
            serve,
            ..Manners::default()
        };
        assert_eq!(manners(Serve::Mains).serving_max(false), 0);
        assert!(manners(Serve::Mains).serving_max(true) > 0);
        assert_eq!(manners(Serve::Never).serving_max(true), 0);
    }

    #[tokio::test]
    async fn what_comes_passes_in_pieces_and_all_of_it() {
        let limits = Limits::new(&limited("unlimited", "1 MB/s"));
        let mut left = 100_000;
        let mut pieces = 0;
        while left > 0 {
            left -= limits.download(left).await;
            pieces += 1;
        }
        assert_eq!(pieces, 2);
        let free = Limits::new(&Manners::default());
        assert_eq!(free.download(100_000).await, 100_000);
    }
}
