//! Where the node has to do with peers, and whether it gives.

use std::time::Duration;

use potluck_proto::Input;
use tokio::time::Instant;

use super::Driver;
use crate::manners::{Manners, Peering, Serve};
use crate::power;

/// How often it is looked whether the machine runs on mains power.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// When to look at the power supply, and what the core was told.
pub(super) struct Power {
    look_at: Option<Instant>,
    serving_max: usize,
}

impl Power {
    pub(super) fn new(manners: &Manners, serving_max: usize) -> Self {
        Self {
            look_at: (manners.serve == Serve::Mains).then(|| Instant::now() + LOOK_EVERY),
            serving_max,
        }
    }

    pub(super) const fn look_at(&self) -> Option<Instant> {
        self.look_at
    }
}

impl Driver {
    pub(super) fn look_at_power(&mut self) {
        if self.power.look_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.power.look_at = Some(Instant::now() + LOOK_EVERY);
        let max = self.tools.manners.serving_max(power::on_mains());
        if max != self.power.serving_max {
            let state = if max > 0 {
                "mains: this node gives"
            } else {
                "battery: this node takes only"
            };
            tracing::info!("the machine runs on {state}");
            self.power.serving_max = max;
            self.input(Input::ServingMax(max));
        }
    }

    /// The network changed: nobody has vouched for this one yet.
    pub(super) fn leave_network(&mut self) {
        if self.tools.manners.peering == Peering::Everywhere || !self.tools.gate.is_open() {
            return;
        }
        tracing::info!("peers are left alone until the server says that this network is a known site");
        self.tools.gate.close();
        self.tools.datagrams.set_open(false);
        for (peer, transfers) in self.tools.peers.close_all() {
            self.peer_down(peer, transfers, "the network changed");
        }
    }

    /// The server has said in which site of its map this network is, if it is in one.
    pub(super) fn enter_network(&mut self, site: Option<&str>) {
        if self.tools.manners.peering == Peering::Everywhere {
            return;
        }
        let open = self.tools.gate.is_open();
        match site {
            Some(site) if !open => {
                tracing::info!(site, "this network is a known site: looking for peers");
                self.tools.gate.open();
                self.tools.datagrams.set_open(true);
                self.input(Input::Paths(self.tools.datagrams.paths()));
            }
            None if open => {
                self.leave_network();
                self.input(Input::Paths(self.tools.datagrams.paths()));
            }
            _ => {}
        }
    }
}
