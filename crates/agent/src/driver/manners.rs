//! Where the node has to do with peers, and whether it gives.

use std::time::Duration;

use potluck_proto::Input;
use tokio::time::Instant;

use super::{Driver, Event};
use crate::manners::{Manners, Peering, Situation};

/// How often it is looked whether the machine runs on mains power, and over what it is connected.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// When to look at the power supply and the links, and what the core was told.
pub(super) struct Looking {
    look_at: Option<Instant>,
    serving_max: usize,
}

impl Looking {
    pub(super) fn new(manners: &Manners, serving_max: usize) -> Self {
        Self {
            look_at: manners.serve.depends().then(|| Instant::now() + LOOK_EVERY),
            serving_max,
        }
    }

    pub(super) const fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// The network changed.
    pub(super) fn hurry(&mut self) {
        self.look_at = self.look_at.map(|_| Instant::now());
    }
}

impl Driver {
    /// Looks what the machine is like; `handle_situation` follows.
    pub(super) fn look_around(&mut self) {
        if self.looking.look_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.looking.look_at = Some(Instant::now() + LOOK_EVERY);
        let (events, serve, bind) = (self.tools.events.clone(), self.tools.manners.serve, self.tools.bind);
        tokio::spawn(async move {
            let situation = Situation::look(serve, bind).await;
            drop(events.send(Event::Situation(situation)).await);
        });
    }

    pub(super) fn handle_situation(&mut self, situation: Situation) {
        let max = self.tools.manners.serving_max(situation);
        if max == self.looking.serving_max {
            return;
        }
        let power = if situation.on_mains { "mains" } else { "battery" };
        let way = situation.way_out;
        tracing::info!(
            power,
            vpn = way.tunnel,
            metered = way.metered,
            "the machine's power or network is another: this node {}",
            if max > 0 { "gives" } else { "takes only" }
        );
        self.looking.serving_max = max;
        self.input(Input::ServingMax(max));
    }

    /// The network changed: nobody has vouched for this one yet.
    pub(super) fn leave_network(&mut self) {
        self.forget_voucher();
        if self.tools.manners.peering == Peering::Everywhere || !self.tools.gate.is_open() {
            return;
        }
        tracing::info!("peers are left alone until the server says that this network is a known site");
        self.leave_peers("the network changed");
    }

    /// No peer is heard or answered any more.
    pub(super) fn leave_peers(&mut self, why: &str) {
        self.tools.gate.close();
        self.tools.datagrams.set_open(false);
        for (peer, transfers) in self.tools.peers.close_all() {
            self.peer_down(peer, transfers, why);
        }
    }

    /// The server has said in which site of its map this network is, if it is in one.
    pub(super) fn enter_network(&mut self, site: Option<&str>) {
        if self.tools.manners.peering == Peering::Everywhere || self.alone.is_some() {
            return;
        }
        self.forget_voucher();
        let open = self.tools.gate.is_open();
        match site {
            Some(site) if !open => {
                tracing::info!(site, "this network is a known site: looking for peers");
                self.open_up();
            }
            None if open => {
                self.leave_network();
                self.input(Input::Paths(self.tools.datagrams.paths()));
            }
            _ => {}
        }
    }

    /// From now on this node has to do with peers.
    pub(super) fn open_up(&mut self) {
        self.tools.gate.open();
        self.tools.datagrams.set_open(true);
        self.input(Input::Paths(self.tools.datagrams.paths()));
    }
}
