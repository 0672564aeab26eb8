//! Looks at the interfaces every two seconds, where the system does not tell of changes.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Change;

const PERIOD: Duration = Duration::from_secs(2);

/// What was seen last.
pub(super) struct Poll {
    ticks: Interval,
    seen: Seen,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Seen {
    running: BTreeSet<String>,
    addresses: BTreeSet<(String, IpAddr)>,
}

impl Poll {
    pub(super) fn new() -> io::Result<Self> {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { ticks, seen: look()? })
    }

    pub(super) async fn next(&mut self) -> Change {
        loop {
            self.ticks.tick().await;
            match look() {
                Ok(now) => {
                    let change = change(&self.seen, &now);
                    self.seen = now;
                    if let Some(change) = change {
                        return change;
                    }
                }
                Err(error) => tracing::debug!(%error, "cannot list the network interfaces"),
            }
        }
    }
}

fn look() -> io::Result<Seen> {
    let mut seen = Seen::default();
    for interface in if_addrs::get_if_addrs()? {
        if interface.is_oper_up() {
            seen.running.insert(interface.name.clone());
        }
        seen.addresses.insert((interface.name.clone(), interface.ip()));
    }
    Ok(seen)
}

fn change(before: &Seen, now: &Seen) -> Option<Change> {
    if now.running.difference(&before.running).next().is_some() {
        Some(Change::LinkUp)
    } else if now.addresses != before.addresses {
        Some(Change::AddressChanged)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(running: &[&str], addresses: &[&str]) -> Seen {
        Seen {
            running: running.iter().map(|name| (*name).to_owned()).collect(),
            addresses: addresses
                .iter()
                .map(|ip| ("eth0".to_owned(), ip.parse().unwrap()))
                .collect(),
        }
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let before = seen(&["eth0"], &["192.0.2.1"]);
        assert_eq!(change(&before, &before), None);
        assert_eq!(
            change(&before, &seen(&["eth0", "eth1"], &["192.0.2.1"])),
            Some(Change::LinkUp)
        );
        assert_eq!(
            change(&before, &seen(&["eth0"], &["192.0.2.9"])),
            Some(Change::AddressChanged)
        );
        assert_eq!(
            change(&before, &seen(&[], &["192.0.2.1"])),
            None,
            "a link that goes is none"
        );
    }

    #[tokio::test]
    async fn it_can_look() {
        assert!(Poll::new().is_ok());
    }
}
