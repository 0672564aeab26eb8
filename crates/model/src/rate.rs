//! Rates: how many bytes may pass in a second, by the time of day, and what holds back who has more.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Time;
use crate::units::{UnitError, parse_rate, print_rate};

/// The least rate: below it, transfers would count as stalled.
pub const RATE_MIN: u64 = 8 << 10;
/// The most windows of a schedule.
pub const WINDOWS_MAX: usize = 32;
/// What was not used may be made up for within this time.
const BURST: Duration = Duration::from_millis(100);
/// How often it is looked what time it is.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const DAY_MINUTES: u16 = 24 * 60;

/// Bytes a second, at least `RATE_MIN`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rate(u64);

/// A rate as it is written, or `unlimited`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit(pub Option<Rate>);

/// A text that is not a part of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// It is no rate.
    #[error(transparent)]
    Rate(#[from] UnitError),
    /// It is too little to work with.
    #[error(
        "{0:?} is less than 8 KiB/s, with which transfers would count as stalled; to turn something off, use the setting for that"
    )]
    TooLow(String),
    /// It is no time of day.
    #[error("{0:?} is not a time of day: expected hours and minutes, such as 08:00 or 17:30")]
    Time(String),
    /// It has no length.
    #[error("the window from {0} to {0} is empty; without from and to, a rate holds all day")]
    Empty(String),
    /// There are more than `WINDOWS_MAX`.
    #[error("more than {WINDOWS_MAX} windows")]
    TooMany,
}

impl Rate {
    /// Bytes a second.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// How long `bytes` take.
    pub fn time_for(self, bytes: u64) -> Duration {
        Duration::from_micros((u128::from(bytes) * 1_000_000 / u128::from(self.0)) as u64)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print_rate(self.0))
    }
}

impl FromStr for Limit {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        if text == "unlimited" {
            return Ok(Self(None));
        }
        let bytes = parse_rate(text)?;
        if bytes < RATE_MIN {
            return Err(ScheduleError::TooLow(text.chars().take(80).collect()));
        }
        Ok(Self(Some(Rate(bytes))))
    }
}

/// Part of each day, to the minute, by the machine's local time. One that ends before it begins goes over midnight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    from: u16,
    to: u16,
}

impl Window {
    /// From one time of day (`08:00`) to another; `24:00` is the end of the day.
    pub fn parse(from: &str, to: &str) -> Result<Self, ScheduleError> {
        let window = Self {
            from: minute(from)? % DAY_MINUTES,
            to: minute(to)?,
        };
        if window.from == window.to {
            return Err(ScheduleError::Empty(from.to_owned()));
        }
        Ok(window)
    }

    /// Whether it holds in this minute of the day.
    pub const fn holds(self, minute: u16) -> bool {
        if self.from < self.to {
            self.from <= minute && minute < self.to
        } else {
            self.from <= minute || minute < self.to
        }
    }
}

fn minute(text: &str) -> Result<u16, ScheduleError> {
    let fault = || ScheduleError::Time(text.chars().take(80).collect());
    let (hours, minutes) = text.split_once(':').ok_or_else(fault)?;
    let number = |part: &str| {
        let digits = (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u16>().ok()).flatten().ok_or_else(fault)
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let all = hours * 60 + minutes;
    if minutes > 59 || all > DAY_MINUTES {
        return Err(fault());
    }
    Ok(all)
}

/// A limit that may differ by the time of day.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Schedule {
    windows: Vec<(Window, Option<Rate>)>,
    otherwise: Option<Rate>,
}

impl Schedule {
    /// The same all day; none: unlimited.
    pub const fn always(rate: Option<Rate>) -> Self {
        Self {
            windows: Vec::new(),
            otherwise: rate,
        }
    }

    /// Adds a window. Of several that hold at one time, the first counts.
    pub fn add(&mut self, window: Window, rate: Option<Rate>) -> Result<(), ScheduleError> {
        if self.windows.len() >= WINDOWS_MAX {
            return Err(ScheduleError::TooMany);
        }
        self.windows.push((window, rate));
        Ok(())
    }

    /// What holds in this minute of the day.
    pub fn at(&self, minute: u16) -> Option<Rate> {
        let window = self.windows.iter().find(|(window, _)| window.holds(minute));
        window.map_or(self.otherwise, |(_, rate)| *rate)
    }

    /// The lowest limit of all; none: never limited.
    pub fn lowest(&self) -> Option<Rate> {
        let windows = self.windows.iter().filter_map(|(_, rate)| *rate);
        windows.chain(self.otherwise).min()
    }
}

/// A token bucket: at what time what is taken is paid for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    paid: Time,
}

impl Bucket {
    /// Takes `bytes` out at `now`, which never goes back: how long whoever does so has to wait. They get their turns in the
    /// order in which they take.
    pub fn take(&mut self, now: Time, bytes: u64, rate: Rate) -> Duration {
        self.paid = self.paid.max(now - BURST) + rate.time_for(bytes);
        self.paid.since(now)
    }
}

/// Holds back what passes to what a schedule allows, by the machine's clock and its time zone. Not for the core.
#[derive(Debug)]
pub struct Throttle {
    schedule: Schedule,
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bucket: Bucket,
    rate: Option<Rate>,
    looked: Option<Instant>,
}

impl Throttle {
    /// With a schedule.
    pub fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            start: Instant::now(),
            state: Mutex::new(State {
                bucket: Bucket::default(),
                rate: None,
                looked: None,
            }),
        }
    }

    /// The limit that holds now; none: unlimited.
    pub fn rate(&self) -> Option<Rate> {
        // Most are never limited, and ask neither lock nor clock.
        self.schedule.lowest()?;
        self.look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes that should pass at a time, at most `most`: so few that everybody soon gets a turn.
    pub fn piece(&self, most: usize) -> usize {
        let piece = |rate: Rate| (rate.0 as usize / 16).clamp(4 << 10, most.max(4 << 10));
        self.rate().map_or(most, piece).min(most)
    }

    /// Takes `bytes` out: how long to wait before they pass.
    pub fn take(&self, bytes: u64) -> Duration {
        if self.schedule.lowest().is_none() {
            return Duration::ZERO;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rate) = self.look(&mut state) else {
            return Duration::ZERO;
        };
        let now = Time(self.start.elapsed().as_micros() as u64);
        state.bucket.take(now, bytes, rate)
    }

    fn look(&self, state: &mut State) -> Option<Rate> {
        if state.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            state.looked = Some(Instant::now());
            state.rate = self.schedule.at(local_minute());
        }
        state.rate
    }
}

/// The minute of the day by the machine's clock and time zone.
fn local_minute() -> u16 {
    let now = jiff::Zoned::now();
    u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse::<Limit>().unwrap().0.unwrap()
    }

    #[test]
    fn a_window_may_go_over_midnight() {
        let day = Window::parse("08:00", "18:30").unwrap();
        assert!(day.holds(8 * 60) && day.holds(18 * 60 + 29));
        assert!(!day.holds(18 * 60 + 30) && !day.holds(0));
        let night = Window::parse("22:00", "6:00").unwrap();
        assert!(night.holds(23 * 60) && night.holds(0) && !night.holds(6 * 60));
        let evening = Window::parse("18:00", "24:00").unwrap();
        assert!(evening.holds(1_439) && !evening.holds(0));
        let morning = Window::parse("00:00", "06:00").unwrap();
        assert!(morning.holds(0) && !morning.holds(360));
    }

    #[test]
    fn what_is_no_time_of_day_or_no_window_is_refused() {
        for (from, to) in [
            ("8", "9:00"),
            ("25:00", "1:00"),
            ("8:60", "9:00"),
            ("a:b", "9:00"),
            ("24:01", "1:00"),
            ("8:00", "8:00"),
        ] {
            assert!(Window::parse(from, to).is_err(), "{from} {to}");
        }
    }

    #[test]
    fn the_first_window_that_holds_counts_and_the_rest_of_the_day_has_the_other_limit() {
        let mut schedule = Schedule::always(Some(rate("10 Mbit/s")));
        schedule.add(Window::parse("12:00", "13:00").unwrap(), None).unwrap();
        schedule
            .add(Window::parse("8:00", "18:00").unwrap(), Some(rate("1 Mbit/s")))
            .unwrap();
        assert_eq!(schedule.at(12 * 60), None);
        assert_eq!(schedule.at(13 * 60), Some(rate("1 Mbit/s")));
        assert_eq!(schedule.at(20 * 60), Some(rate("10 Mbit/s")));
        assert_eq!(schedule.lowest(), Some(rate("1 Mbit/s")));
        assert_eq!(Schedule::default().lowest(), None);
    }

    #[test]
    fn limits_are_read_and_those_that_stop_everything_refused() {
        assert_eq!("unlimited".parse(), Ok(Limit(None)));
        assert_eq!(rate("8 Mbit/s").bytes(), 1_000_000);
        assert!(matches!("8 kbit/s".parse::<Limit>(), Err(ScheduleError::TooLow(_))));
        assert!(matches!("fast".parse::<Limit>(), Err(ScheduleError::Rate(_))));
    }

    #[test]
    fn over_any_time_no_more_passes_than_the_rate_and_one_burst() {
        let rate = rate("1 MB/s");
        let mut bucket = Bucket::default();
        let mut now = Time::from_millis(5_000);
        let start = now;
        let mut passed = 0;
        // Whoever takes waits as told, and is a little late each time.
        for step in 0..500_u64 {
            let bytes = 1_000 + step * 37 % 9_000;
            now = now + bucket.take(now, bytes, rate) + Duration::from_micros(step % 50);
            passed += bytes;
            let allowed = (now.since(start) + BURST).as_micros() as u64;
            assert!(passed <= allowed, "{passed} bytes in {allowed} µs");
        }
        let least = now.since(start).as_micros() as u64 * 95 / 100;
        assert!(passed >= least, "{passed} bytes, and {least} could have passed");
    }

    #[test]
    fn who_does_not_ask_for_long_gains_no_more_than_one_burst() {
        let rate = rate("1 MB/s");
        let mut bucket = Bucket::default();
        bucket.take(Time::ZERO, 1, rate);
        let later = Time::from_millis(3_600_000);
        assert_eq!(bucket.take(later, 100_000, rate), Duration::ZERO);
        assert_eq!(bucket.take(later, 1_000, rate), Duration::from_millis(1));
    }

    #[test]
    fn pieces_are_small_where_little_passes() {
        let limited = |text| Throttle::new(Schedule::always(Some(rate(text))));
        assert_eq!(limited("1 Mbit/s").piece(64 << 10), 125_000 / 16);
        assert_eq!(limited("64 KiB/s").piece(64 << 10), 4 << 10);
        assert_eq!(limited("1 Gbit/s").piece(64 << 10), 64 << 10);
        let free = Throttle::new(Schedule::default());
        assert_eq!((free.piece(9), free.take(u64::MAX)), (9, Duration::ZERO));
    }
}
