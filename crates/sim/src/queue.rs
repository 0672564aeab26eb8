//! What happens when: a calendar of events in the order of time, and of their making where the time is the same.
//!
//! Events of the next seconds lie in buckets by time, unsorted; only the bucket whose time has come is a heap. So an
//! event costs about the same with ten nodes and with ten thousand.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use potluck_model::Time;

/// Width of a bucket: 2^8 microseconds.
const WIDTH_BITS: u32 = 8;
/// How many buckets there are; what is later than all of them lies in a heap of its own.
const BUCKETS: u64 = 1 << 15;

/// Events that are to come.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    buckets: Vec<Vec<Entry<T>>>,
    /// Number of the bucket whose time it is.
    current: u64,
    /// What is left of it.
    now: BinaryHeap<Entry<T>>,
    later: BinaryHeap<Entry<T>>,
    /// Events in buckets.
    near: usize,
    made: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at: Time,
    number: u64,
    event: T,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| Vec::new()).collect(),
            current: 0,
            now: BinaryHeap::new(),
            later: BinaryHeap::new(),
            near: 0,
            made: 0,
        }
    }

    /// Adds an event; one for the past happens next.
    pub(crate) fn push(&mut self, at: Time, event: T) {
        let number = self.made;
        self.made += 1;
        self.put(Entry { at, number, event });
    }

    fn put(&mut self, entry: Entry<T>) {
        let bucket = entry.at.0 >> WIDTH_BITS;
        if bucket <= self.current {
            self.now.push(entry);
        } else if bucket < self.current + BUCKETS {
            self.buckets[(bucket % BUCKETS) as usize].push(entry);
            self.near += 1;
        } else {
            self.later.push(entry);
        }
    }

    /// When the next event is, and what.
    pub(crate) fn pop(&mut self) -> Option<(Time, T)> {
        loop {
            if let Some(entry) = self.now.pop() {
                return Some((entry.at, entry.event));
            }
            if self.near == 0 {
                // Nothing for a while: the calendar goes on with the first day that has something.
                self.current = self.later.peek()?.at.0 >> WIDTH_BITS;
            } else {
                self.current += 1;
            }
            let bucket = &mut self.buckets[(self.current % BUCKETS) as usize];
            self.near -= bucket.len();
            self.now.extend(bucket.drain(..));
            if bucket.capacity() > 64 {
                // A storm is over: its room is not kept 32,768 times.
                bucket.shrink_to(16);
            }
            while let Some(entry) = self.later.peek()
                && entry.at.0 >> WIDTH_BITS < self.current + BUCKETS
            {
                let entry = self.later.pop().expect("it was just seen");
                self.put(entry);
            }
        }
    }

    /// How many events were made since the start.
    pub(crate) const fn made(&self) -> u64 {
        self.made
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    /// The earliest is the greatest, so that a heap gives it first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn events_come_in_the_order_of_time_and_then_of_their_making() {
        let mut random = Random::new(5);
        let mut queue = Queue::new();
        let mut expected: Vec<(Time, u64)> = Vec::new();
        let mut now = Time::ZERO;
        let mut got = Vec::new();
        for n in 0..20_000u64 {
            let span = match random.below(4) {
                0 => 0,
                1 => random.below(300),
                2 => random.below(5_000_000),
                _ => random.below(60_000_000),
            };
            let at = Time(now.0 + span);
            queue.push(at, n);
            expected.push((at, n));
            if n % 3 == 0 {
                let (at, n) = queue.pop().unwrap();
                assert!(at >= now);
                now = at;
                got.push((at, n));
            }
        }
        while let Some(next) = queue.pop() {
            got.push(next);
        }
        assert_eq!(got.len(), expected.len());
        assert!(got.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        for pair in got.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            assert!(pair[0].1 < pair[1].1, "two of one moment in the wrong order");
        }
        got.sort_unstable();
        expected.sort_unstable();
        assert_eq!(got, expected);
        assert_eq!(queue.made(), 20_000);
    }
}
