//! A limit for the share of a processor that this process uses: whoever moves bytes waits until what was used is paid for.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Processor time that may be used at once, before anybody waits.
const BURST: Duration = Duration::from_millis(200);
/// The longest anybody waits at a time: what is being used meanwhile is looked at again then.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The limit of a process.
#[derive(Debug)]
pub(crate) struct CpuLimit {
    percent: u16,
    start: Instant,
    account: Mutex<Account>,
}

/// What was used, and what may be.
#[derive(Debug, Default)]
struct Account {
    at: Duration,
    used: Duration,
    debt: Duration,
}

impl CpuLimit {
    /// `percent` of one processor.
    pub(crate) fn new(percent: u16) -> Self {
        let account = Account {
            at: Duration::ZERO,
            used: process_time(),
            debt: Duration::ZERO,
        };
        Self {
            percent: percent.max(1),
            start: Instant::now(),
            account: Mutex::new(account),
        }
    }

    /// How long to wait before more is done.
    pub(crate) fn pause(&self) -> Duration {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        account.settle(self.start.elapsed(), process_time(), self.percent)
    }
}

impl Account {
    /// `used` is the processor time of the process at `now`; neither goes back.
    fn settle(&mut self, now: Duration, used: Duration, percent: u16) -> Duration {
        let earned = (now.saturating_sub(self.at)) * u32::from(percent) / 100;
        let spent = used.saturating_sub(self.used);
        self.debt = (self.debt + spent).saturating_sub(earned);
        (self.at, self.used) = (now, used);
        let owed = self.debt.saturating_sub(BURST);
        (owed * 100 / u32::from(percent)).min(PAUSE_MAX)
    }
}

/// Processor time of all threads of this process since it started.
fn process_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A process that has always something to do and waits as it is told: processor time per time.
    fn share(percent: u16) -> f64 {
        let mut account = Account::default();
        let (mut now, mut used) = (Duration::ZERO, Duration::ZERO);
        while now < Duration::from_secs(60) {
            now += millis(10);
            used += millis(10);
            now += account.settle(now, used, percent);
        }
        used.as_secs_f64() / now.as_secs_f64()
    }

    #[test]
    fn who_has_always_something_to_do_gets_its_share_and_no_more() {
        for percent in [5, 25, 50] {
            let share = share(percent);
            let wanted = f64::from(percent) / 100.0;
            assert!(share <= wanted * 1.1 && share >= wanted * 0.9, "{percent} %: {share}");
        }
    }

    #[test]
    fn who_uses_less_than_its_share_never_waits() {
        let mut account = Account::default();
        for second in 1..100 {
            let wait = account.settle(Duration::from_secs(second), millis(100) * second as u32, 25);
            assert_eq!(wait, Duration::ZERO);
        }
    }

    #[test]
    fn time_without_work_is_not_saved_up() {
        let mut account = Account::default();
        assert_eq!(
            account.settle(Duration::from_secs(3_600), Duration::ZERO, 10),
            Duration::ZERO
        );
        let wait = account.settle(Duration::from_secs(3_601), Duration::from_secs(1), 10);
        assert_eq!(wait, PAUSE_MAX);
    }

    #[test]
    fn the_time_of_this_process_grows() {
        let before = process_time();
        let mut sum = 0_u64;
        while process_time() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(CpuLimit::new(100).pause() <= PAUSE_MAX);
    }
}
