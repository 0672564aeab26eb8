//! Which datagrams are new: a repeated or very late one is not heard twice.

use std::collections::{BTreeMap, BTreeSet};

use potluck_model::{NodeId, Time};

/// The most senders that are remembered; the one that was silent for longest is forgotten. About 100 bytes each.
const SENDERS_MAX: usize = 2_048;

#[derive(Debug, Default)]
pub(super) struct Freshness {
    senders: BTreeMap<NodeId, Sender>,
    by_time: BTreeSet<(Time, NodeId)>,
}

#[derive(Debug)]
struct Sender {
    boot: u64,
    /// The highest number heard.
    highest: u64,
    /// Bit n: `highest - n` was heard.
    window: u64,
    heard: Time,
}

impl Freshness {
    /// Whether this datagram was not heard before and is not older than 64 others of its sender.
    pub(super) fn admit(&mut self, now: Time, node: NodeId, boot: u64, seq: u64) -> bool {
        if let Some(sender) = self.senders.get_mut(&node) {
            let fresh = sender.admit(boot, seq);
            if fresh {
                self.by_time.remove(&(sender.heard, node));
                sender.heard = now;
                self.by_time.insert((now, node));
            }
            return fresh;
        }
        if self.senders.len() >= SENDERS_MAX
            && let Some((_, oldest)) = self.by_time.pop_first()
        {
            self.senders.remove(&oldest);
        }
        self.by_time.insert((now, node));
        self.senders.insert(
            node,
            Sender {
                boot,
                highest: seq,
                window: 1,
                heard: now,
            },
        );
        true
    }
}

impl Sender {
    fn admit(&mut self, boot: u64, seq: u64) -> bool {
        if boot != self.boot {
            if boot < self.boot {
                return false;
            }
            (self.boot, self.highest, self.window) = (boot, seq, 1);
            return true;
        }
        if seq > self.highest {
            let ahead = seq - self.highest;
            self.window = if ahead < 64 { self.window << ahead | 1 } else { 1 };
            self.highest = seq;
            return true;
        }
        let behind = self.highest - seq;
        if behind >= 64 || self.window >> behind & 1 == 1 {
            return false;
        }
        self.window |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_datagram_is_heard_once_even_out_of_order() {
        let mut fresh = Freshness::default();
        let mut admit = |boot, seq| fresh.admit(Time(0), NodeId(1), boot, seq);
        assert!(admit(1, 10) && admit(1, 12) && admit(1, 11));
        assert!(!admit(1, 10) && !admit(1, 11) && !admit(1, 12));
        assert!(admit(1, 100));
        assert!(!admit(1, 12), "too late");
        assert!(admit(2, 1), "started again");
        assert!(!admit(1, 101), "from before it started again");
    }

    #[test]
    fn the_table_is_bounded() {
        let mut fresh = Freshness::default();
        for n in 0..3 * SENDERS_MAX as u64 {
            assert!(fresh.admit(Time(n), NodeId(n), 1, 1));
        }
        assert_eq!(fresh.senders.len(), SENDERS_MAX);
        assert_eq!(fresh.by_time.len(), SENDERS_MAX);
    }
}
