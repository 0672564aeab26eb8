//! Manners: what a node gives and takes, how fast, and on which networks it knows its peers.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use potluck_model::rate::{Rate, Schedule, Throttle};

use crate::cpu::CpuLimit;
use crate::power;
use crate::way_out::{self, WayOut};

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
    /// Bytes of contents that it reads from its disk for peers and writes to it, together.
    pub disk: Schedule,
    /// How much of one processor it uses for fetching and giving, in percent, 1 to 6,400; none: unlimited.
    pub cpu_percent: Option<u16>,
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

/// When a node gives to its peers what it has: written `always`, `never`, `mains`, `unmetered`, or `mains,unmetered`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serve {
    /// Never: it takes only.
    Never,
    /// While all of these hold; without any, always.
    While {
        /// It runs on mains power.
        mains: bool,
        /// What leads out of it is neither paid for by the byte nor a VPN.
        unmetered: bool,
    },
}

impl Serve {
    /// Always.
    pub const ALWAYS: Self = Self::While {
        mains: false,
        unmetered: false,
    };

    /// Whether what the machine is like matters.
    pub(crate) const fn depends(self) -> bool {
        matches!(self, Self::While { mains, unmetered } if mains || unmetered)
    }

    fn allows(self, situation: Situation) -> bool {
        match self {
            Self::Never => false,
            Self::While { mains, unmetered } => {
                let way = situation.way_out;
                (situation.on_mains || !mains) && !(unmetered && (way.metered || way.tunnel))
            }
        }
    }
}

impl Default for Serve {
    fn default() -> Self {
        Self::ALWAYS
    }
}

/// Why a text does not say when to give.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is none of always, never, mains, unmetered and mains,unmetered")]
pub struct ServeError(String);

impl FromStr for Serve {
    type Err = ServeError;

    fn from_str(text: &str) -> Result<Self, ServeError> {
        match text.trim() {
            "always" => return Ok(Self::ALWAYS),
            "never" => return Ok(Self::Never),
            _ => {}
        }
        let (mut mains, mut unmetered) = (false, false);
        for word in text.split(',') {
            match word.trim() {
                "mains" => mains = true,
                "unmetered" => unmetered = true,
                _ => return Err(ServeError(text.chars().take(40).collect())),
            }
        }
        Ok(Self::While { mains, unmetered })
    }
}

/// What a machine is like at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Situation {
    /// It runs on mains power.
    pub(crate) on_mains: bool,
    /// What leads out of it.
    pub(crate) way_out: WayOut,
}

impl Situation {
    /// Looks at power supplies and links, as far as that matters for when to give.
    pub(crate) async fn look(serve: Serve, bind: Option<IpAddr>) -> Self {
        let costs = matches!(serve, Serve::While { unmetered: true, .. });
        Self {
            on_mains: power::on_mains(),
            way_out: way_out::look(bind, costs).await,
        }
    }

    /// Whether it is unlikely to go away soon.
    pub(crate) const fn is_steady(self) -> bool {
        self.on_mains && self.way_out.wired
    }
}

impl Manners {
    /// How many answers to peers there may be at a time; 0: none.
    pub(crate) fn serving_max(&self, situation: Situation) -> usize {
        if !self.serve.allows(situation) {
            return 0;
        }
        let answers = |rate: Rate| (rate.bytes() / ANSWER_RATE_MIN).clamp(1, SERVING_MAX as u64) as usize;
        let lowest = self.upload.lowest().into_iter().chain(self.disk.lowest()).min();
        lowest.map_or(SERVING_MAX, answers)
    }

    /// How many bytes may be asked for that are not here yet.
    pub(crate) fn in_flight_bytes_max(&self) -> u64 {
        let bytes = |rate: Rate| (rate.bytes() * IN_FLIGHT.as_secs()).clamp(IN_FLIGHT_BYTES.1, IN_FLIGHT_BYTES.0);
        let lowest = self.download.lowest().into_iter().chain(self.disk.lowest()).min();
        lowest.map_or(IN_FLIGHT_BYTES.0, bytes)
    }
}

/// The limits of a node, for all of its connections together.
#[derive(Debug)]
pub(crate) struct Limits {
    upload: Throttle,
    download: Throttle,
    disk: Throttle,
    cpu: Option<CpuLimit>,
}

impl Limits {
    pub(crate) fn new(manners: &Manners) -> Self {
        Self {
            upload: Throttle::new(manners.upload.clone()),
            download: Throttle::new(manners.download.clone()),
            disk: Throttle::new(manners.disk.clone()),
            cpu: manners.cpu_percent.map(CpuLimit::new),
        }
    }

    /// How many bytes to send at a time.
    pub(crate) fn upload_piece(&self, most: usize) -> usize {
        self.upload.piece(most)
    }

    /// Waits until these bytes may be sent.
    pub(crate) async fn upload(&self, bytes: usize) {
        pause(self.upload.take(bytes as u64)).await;
        self.cool().await;
    }

    /// Waits until these bytes may be read from the disk.
    pub(crate) async fn read(&self, bytes: u64) {
        pause(self.disk.take(bytes)).await;
    }

    async fn cool(&self) {
        if let Some(cpu) = &self.cpu {
            pause(cpu.pause()).await;
        }
    }

    /// Waits until the next bytes, of `left` that have come, may have come: how many these are.
    pub(crate) async fn download(&self, left: u64) -> u64 {
        self.cool().await;
        // What comes is written.
        if self.download.rate().is_none() && self.disk.rate().is_none() {
            return left;
        }
        let piece = self.disk.piece(self.download.piece(PIECE_BYTES_MAX));
        let piece = left.min(piece as u64);
        pause(self.download.take(piece).max(self.disk.take(piece))).await;
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

    const BATTERY: Situation = Situation {
        on_mains: false,
        way_out: WayOut {
            wired: true,
            tunnel: false,
            metered: false,
        },
    };
    const MAINS: Situation = Situation {
        on_mains: true,
        ..BATTERY
    };

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
        assert_eq!(limited("1 Mbit/s", "unlimited").serving_max(MAINS), 1);
        assert_eq!(limited("1 MiB/s", "unlimited").serving_max(MAINS), 8);
        assert_eq!(Manners::default().serving_max(BATTERY), SERVING_MAX);
        assert_eq!(limited("unlimited", "4 MiB/s").in_flight_bytes_max(), 4 << 20);
        assert_eq!(limited("unlimited", "64 KiB/s").in_flight_bytes_max(), 1 << 20);
        assert_eq!(Manners::default().in_flight_bytes_max(), 48 << 20);
        let slow_disk = Manners {
            disk: limited("1 MiB/s", "unlimited").upload,
            ..Manners::default()
        };
        let limits = (slow_disk.serving_max(MAINS), slow_disk.in_flight_bytes_max());
        assert_eq!(limits, (8, 1 << 20), "a disk is as much of a limit");
    }

    #[test]
    fn on_battery_a_node_gives_nothing_if_so_set() {
        let manners = |serve: &str| Manners {
            serve: serve.parse().unwrap(),
            ..Manners::default()
        };
        assert_eq!(manners("mains").serving_max(BATTERY), 0);
        assert!(manners("mains").serving_max(MAINS) > 0);
        assert_eq!(manners("never").serving_max(MAINS), 0);
    }

    #[test]
    fn over_a_vpn_and_over_what_costs_a_node_gives_nothing_if_so_set() {
        let over = |serve: &str, tunnel, metered| {
            let way_out = WayOut {
                wired: false,
                tunnel,
                metered,
            };
            let manners = Manners {
                serve: serve.parse().unwrap(),
                ..Manners::default()
            };
            manners.serving_max(Situation { way_out, ..BATTERY }) > 0
        };
        assert!(!over("unmetered", true, false));
        assert!(!over("unmetered", false, true));
        assert!(over("unmetered", false, false));
        assert!(over("always", true, true));
        assert!(!over("mains,unmetered", false, false), "it runs on battery");
    }

    #[test]
    fn when_to_give_is_written_in_known_words() {
        assert_eq!("always".parse(), Ok(Serve::ALWAYS));
        let both = Serve::While {
            mains: true,
            unmetered: true,
        };
        assert_eq!("unmetered, mains".parse(), Ok(both));
        for wrong in ["", "sometimes", "always,mains", "mains,"] {
            assert!(wrong.parse::<Serve>().is_err(), "{wrong:?}");
        }
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
