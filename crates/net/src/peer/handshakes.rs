//! Handshakes of those who dial this node: so few at a time that strangers cost little, and so that strangers who say
//! nothing do not keep anybody out. Whoever may come in has proven it within moments; where there is no room left, the
//! oldest handshake of the address that has most gives way.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::AbortHandle;

/// Handshakes at a time.
const HANDSHAKES_MAX: usize = 64;
/// The same, from one address.
const HANDSHAKES_PER_IP_MAX: usize = 16;

/// What came to nothing of the connections that others opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DroppedConnections {
    /// Those that had to give way to newer ones before anybody had proven himself on them.
    pub refused: u64,
    /// Those on which nobody proved himself.
    pub failed: u64,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// The handshakes that are under way, on all listeners. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Handshakes {
    underway: Arc<Mutex<Underway>>,
    pub(super) counts: Arc<Counts>,
}

#[derive(Default)]
struct Underway {
    next: u64,
    /// The oldest first.
    tasks: BTreeMap<u64, (IpAddr, Option<AbortHandle>)>,
}

impl Handshakes {
    /// Makes room for one more from `ip`, and gives it a number.
    pub(super) fn room_for(&self, ip: IpAddr) -> u64 {
        let mut underway = self.lock();
        if let Some(number) = underway.in_the_way_of(ip)
            && let Some((address, task)) = underway.tasks.remove(&number)
        {
            if let Some(task) = task {
                task.abort();
            }
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%address, "too many handshakes at a time: the oldest is given up");
        }
        underway.next += 1;
        let number = underway.next;
        underway.tasks.insert(number, (ip, None));
        number
    }

    /// What does it, unless it has ended already.
    pub(super) fn done_by(&self, number: u64, by: AbortHandle) {
        if let Some((_, task)) = self.lock().tasks.get_mut(&number) {
            *task = Some(by);
        }
    }

    /// It has ended.
    pub(super) fn end(&self, number: u64) {
        self.lock().tasks.remove(&number);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Underway> {
        self.underway.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Underway {
    /// The handshake that has to go before another from `ip` can begin.
    fn in_the_way_of(&self, ip: IpAddr) -> Option<u64> {
        let oldest = |ip: IpAddr| {
            let mut of_ip = self.tasks.iter().filter(|(_, (other, _))| *other == ip);
            of_ip.next().map(|(number, _)| *number)
        };
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (other, _) in self.tasks.values() {
            *counts.entry(*other).or_default() += 1;
        }
        if counts.get(&ip).is_some_and(|count| *count >= HANDSHAKES_PER_IP_MAX) {
            return oldest(ip);
        }
        if self.tasks.len() < HANDSHAKES_MAX {
            return None;
        }
        let most = counts.values().max().copied()?;
        // Of several that have as many, the one whose oldest is oldest.
        self.tasks
            .iter()
            .find(|(_, (other, _))| counts.get(other) == Some(&most))
            .map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ip(number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))
    }

    fn silent() -> AbortHandle {
        tokio::spawn(std::future::pending::<()>()).abort_handle()
    }

    fn add(handshakes: &Handshakes, from: u8) -> (u64, AbortHandle) {
        let number = handshakes.room_for(ip(from));
        let task = silent();
        handshakes.done_by(number, task.clone());
        (number, task)
    }

    fn count(handshakes: &Handshakes) -> usize {
        handshakes.lock().tasks.len()
    }

    #[tokio::test]
    async fn one_address_has_a_few_handshakes_and_its_oldest_gives_way() {
        let handshakes = Handshakes::default();
        let (first, task) = add(&handshakes, 1);
        for _ in 1..=HANDSHAKES_PER_IP_MAX {
            add(&handshakes, 1);
        }
        assert_eq!(count(&handshakes), HANDSHAKES_PER_IP_MAX);
        assert!(!handshakes.lock().tasks.contains_key(&first));
        tokio::task::yield_now().await;
        assert!(task.is_finished(), "its socket is closed");
        assert_eq!(handshakes.counts.refused.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn addresses_that_open_many_give_way_before_those_that_open_one() {
        let handshakes = Handshakes::default();
        let (honest, task) = add(&handshakes, 200);
        for _ in 0..50 {
            for from in 1..=8 {
                add(&handshakes, from);
            }
        }
        assert_eq!(count(&handshakes), HANDSHAKES_MAX);
        assert!(
            handshakes.lock().tasks.contains_key(&honest),
            "those who have more go first"
        );
        handshakes.end(honest);
        tokio::task::yield_now().await;
        assert!(!task.is_finished(), "who has ended is not sent away");
    }
}
