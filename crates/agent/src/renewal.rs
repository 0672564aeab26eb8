//! Renews the node's certificate: at two thirds of its life, and as soon as it can after that.

use std::sync::Arc;
use std::time::Duration;

use potluck_model::UnixSeconds;
use potluck_model::api::RenewRequest;
use potluck_model::units::print_duration;
use potluck_net::api::Client;
use potluck_net::tls::{self, Identity};
use tokio::sync::{Notify, mpsc};

use crate::driver::Event;

/// The part of its life after which a certificate is renewed, and by how much that differs from time to time, so that
/// nodes that joined together do not come together.
const DUE: (f64, f64) = (2.0 / 3.0, 0.05);
/// The clock is looked at this often, since it goes on while the machine sleeps.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Parts of a certificate's life, and the limits of what they make: how soon it is tried again, at first and at most.
const AGAIN: (u32, Duration, Duration) = (1_000, Duration::from_secs(1), Duration::from_secs(60));
const AGAIN_MAX: (u32, Duration, Duration) = (100, Duration::from_secs(2), Duration::from_secs(3_600));

/// What the task works with.
pub(crate) struct Renewal {
    pub(crate) client: Client,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) identity: Identity,
    /// The node's key, PEM.
    pub(crate) key: String,
    /// The server does not take the certificate any more.
    pub(crate) expired: Arc<Notify>,
}

/// A certificate that was renewed.
pub(crate) struct Renewed {
    /// PEM.
    pub(crate) certificate: String,
    /// The identity with it.
    pub(crate) identity: Identity,
}

impl Renewal {
    /// Runs until the driver is gone.
    pub(crate) async fn run(mut self) {
        loop {
            let life = match self.identity.validity() {
                Ok((from, to)) => Life { from, to },
                // It was read before; nothing else can be done with it.
                Err(error) => {
                    tracing::error!(%error, "the node's certificate cannot be renewed");
                    return std::future::pending().await;
                }
            };
            self.wait(life).await;
            let mut pause = life.part(AGAIN);
            let renewed = loop {
                match self.renew().await {
                    Ok(renewed) => break renewed,
                    Err(fault) => tracing::warn!(
                        "the node's certificate cannot be renewed now ({fault}); it is valid for {}; trying again",
                        print_duration(life.left(UnixSeconds::now()))
                    ),
                }
                tokio::time::sleep(pause.mul_f64(0.5 + random() / 2.0)).await;
                pause = (pause * 2).min(life.part(AGAIN_MAX));
            };
            self.identity = renewed.identity.clone();
            if self.events.send(Event::Renewed(Box::new(renewed))).await.is_err() {
                return;
            }
        }
    }

    /// Until it is time.
    async fn wait(&self, life: Life) {
        let due = life.due(random());
        loop {
            let left = due.0.saturating_sub(UnixSeconds::now().0);
            if left == 0 {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(left).min(LOOK_EVERY)) => {}
                () = self.expired.notified() => return,
            }
        }
    }

    async fn renew(&self) -> Result<Renewed, String> {
        let csr = tls::csr_of_key(&self.key).map_err(|error| error.to_string())?;
        let answer = self.client.renew(&RenewRequest { csr }).await;
        let certificate = answer.map_err(|fault| fault.to_string())?.certificate;
        let untrusted = |error: tls::TlsError| format!("what the server gave is of no use: {error}");
        let identity = self.identity.renewed(&certificate).map_err(untrusted)?;
        let node = identity.check_node().map_err(untrusted)?;
        if Some(node) != self.identity.node().ok() {
            return Err(format!("the server gave a certificate for node {node}"));
        }
        Ok(Renewed { certificate, identity })
    }
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy)]
struct Life {
    from: UnixSeconds,
    to: UnixSeconds,
}

impl Life {
    fn len(self) -> Duration {
        Duration::from_secs(self.to.0.saturating_sub(self.from.0))
    }

    fn left(self, now: UnixSeconds) -> Duration {
        Duration::from_secs(self.to.0.saturating_sub(now.0))
    }

    /// When to renew; `chance` is from 0 to 1.
    fn due(self, chance: f64) -> UnixSeconds {
        let after = self.len().mul_f64(DUE.0 + DUE.1 * (2.0 * chance - 1.0));
        UnixSeconds(self.from.0 + after.as_secs())
    }

    fn part(self, (part, least, most): (u32, Duration, Duration)) -> Duration {
        (self.len() / part).clamp(least, most)
    }
}

/// From 0 to 1. Without randomness it is 0.
fn random() -> f64 {
    let mut random = [0; 2];
    getrandom::fill(&mut random).unwrap_or_default();
    f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn a_certificate_is_renewed_at_about_two_thirds_of_its_life() {
        let life = Life {
            from: UnixSeconds(1_000_000),
            to: UnixSeconds(1_000_000 + 30 * DAY),
        };
        let after = |chance| life.due(chance).0 - life.from.0;
        assert_eq!(after(0.5), 20 * DAY);
        assert!(after(0.0) >= 18 * DAY && after(0.0) < 19 * DAY);
        assert!(after(1.0) > 21 * DAY && after(1.0) <= 22 * DAY);
    }

    #[test]
    fn it_is_tried_again_many_times_before_it_expires() {
        for seconds in [3, 60, DAY, 30 * DAY, 400 * DAY] {
            let life = Life {
                from: UnixSeconds(0),
                to: UnixSeconds(seconds),
            };
            assert!(life.part(AGAIN) <= life.part(AGAIN_MAX));
            let left = life.to.0 - life.due(1.0).0;
            assert!(life.part(AGAIN).as_secs() <= left, "{seconds}");
            assert!(
                seconds < 1_000 || life.part(AGAIN_MAX).as_secs() * 10 < left,
                "{seconds}"
            );
        }
    }
}
