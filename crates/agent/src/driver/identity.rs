//! Who this node is, and who does not belong to the fleet any more.

use potluck_model::UnixSeconds;
use potluck_model::assignment::Signed;
use potluck_model::audit::Checkpoint;
use potluck_model::revocations::{Edition, Revocations};
use potluck_model::{NodeId, canonical};
use potluck_net::tls;
use potluck_proto::{Input, Message};
use tokio::time::Instant;

use super::Driver;
use crate::Finished;
use crate::manners::Peering;
use crate::renewal::Renewed;

/// Why peers are left alone, whatever the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Alone {
    /// Nobody has said for too long who was revoked.
    Stale,
    /// This node was.
    Revoked,
}

impl Driver {
    /// The node proves itself with the new certificate from now on; connections that are up stay as they are.
    pub(super) fn handle_renewed(&mut self, renewed: Renewed) {
        let Renewed { certificate, identity } = renewed;
        self.tools.joined.certificate = certificate;
        if let Err(error) = self.tools.home.save_joined(&self.tools.joined) {
            // After a restart the one of before is renewed again.
            self.trouble(format!("the renewed certificate cannot be kept: {error}"));
        }
        match tls::client_config(Some(&identity), &identity.ca) {
            Ok(config) => self.tools.client.use_tls(config),
            Err(error) => self.trouble(format!("the renewed certificate is of no use: {error}")),
        }
        self.tools.peers.set_identity(identity);
        tracing::info!("the node's certificate was renewed");
    }

    /// The server has answered, and a newer list came with it, if there is one.
    pub(super) fn hear_of_revocations(&mut self, list: Option<Signed<Revocations>>) {
        if let Some(list) = list
            && let Err(error) = self.take_revocations(list)
        {
            self.trouble(format!("the server's list of revoked nodes is refused: {error}"));
        }
        self.tools.revocations.confirm(Instant::now());
        self.end_staleness();
    }

    /// A peer has said which list it has.
    pub(super) fn compare_revocations(&mut self, peer: NodeId, theirs: Edition) {
        let ours = self.tools.revocations.edition();
        if theirs.is_outdated_by(ours) {
            if let Some(list) = self.tools.revocations.signed()
                && self.tools.peers.owes_revocations(peer, ours)
            {
                let document = canonical::to_bytes(list);
                self.tools.peers.send(peer, &Message::Revocations { document });
            }
        } else if ours.is_outdated_by(theirs) {
            self.tools.peers.send(peer, &Message::RevocationsKnown(ours));
        }
    }

    /// A peer has passed a list on.
    pub(super) fn handle_revocations_of(&mut self, peer: NodeId, document: &[u8]) {
        let list = serde_json::from_slice(document).map_err(|error| error.to_string());
        match list.and_then(|list| self.take_revocations(list)) {
            Ok(()) => self.end_staleness(),
            Err(error) => {
                tracing::warn!(%peer, "the peer's list of revoked nodes is refused: {error}");
                self.cut(peer, "sent a list of revoked nodes that is not believed");
            }
        }
    }

    /// Goes by this list, if it outdates the one that is known.
    fn take_revocations(&mut self, list: Signed<Revocations>) -> Result<(), String> {
        let before = self.tools.revocations.edition();
        let root = &self.tools.joined.root;
        let taken = self
            .tools
            .revocations
            .take(list, root, Instant::now(), UnixSeconds::now());
        if !taken.map_err(|error| error.to_string())? {
            return Ok(());
        }
        let edition = self.tools.revocations.edition();
        self.tools.edition.send_replace(edition);
        if let Some(list) = self.tools.revocations.signed()
            && let Err(error) = self.tools.home.save_revocations(list)
        {
            // It counts all the same; after a restart the one of before does, until the server is heard.
            self.trouble(format!("the list of revoked nodes cannot be kept: {error}"));
        }
        if edition.number > before.number {
            tracing::info!(number = edition.number, "there is a new list of revoked nodes");
        }
        if self.tools.revocations.revokes(self.tools.joined.node) {
            self.handle_revoked("this node is in the list of revoked nodes".into());
        }
        for peer in self.tools.peers.connected() {
            if self.tools.revocations.revokes(peer) {
                tracing::info!(%peer, "the connection with a node that was revoked is cut");
                self.cut(peer, "it was revoked");
            } else {
                self.tools.peers.send(peer, &Message::RevocationsKnown(edition));
            }
        }
        Ok(())
    }

    /// Keeps the newest end of the server's audit log, and tells if the log does not go on from it.
    pub(super) fn compare_checkpoints(&mut self, told: Option<Checkpoint>) {
        let Some(told) = told else { return };
        match self.checkpoint {
            Some(known) if told == known => {}
            Some(known) if told.number <= known.number => {
                if self.checkpoint_told.replace(told) != Some(told) {
                    self.trouble(format!(
                        "the server's audit log ends with entry {} ({}), but this node was told of entry {} ({}): the server was \
                         restored from an older copy, or its log was tampered with",
                        told.number,
                        told.hash.short(),
                        known.number,
                        known.hash.short()
                    ));
                }
            }
            _ => {
                if let Err(error) = self.tools.home.save_checkpoint(&told) {
                    tracing::warn!(%error, "the end of the server's audit log cannot be kept");
                }
                self.checkpoint = Some(told);
            }
        }
    }

    fn cut(&mut self, peer: NodeId, why: &str) {
        if let Some(transfers) = self.tools.peers.close(peer) {
            self.peer_down(peer, transfers, why);
        }
    }

    /// This node does not belong to the fleet any more: it does nothing with peers, and what is placed stays.
    pub(super) fn handle_revoked(&mut self, message: String) {
        if self.alone == Some(Alone::Revoked) {
            return;
        }
        self.alone = Some(Alone::Revoked);
        self.trouble(message);
        self.leave_peers("this node was revoked");
        if self.tools.once {
            self.finish(Finished::Revoked);
        }
    }

    /// When to leave peers alone, since nobody said who was revoked.
    pub(super) fn stale_at(&self) -> Option<Instant> {
        self.tools.revocations.until().filter(|_| self.alone.is_none())
    }

    pub(super) fn look_at_grace(&mut self) {
        if self.alone.is_none() && self.tools.revocations.is_stale(Instant::now()) {
            self.alone = Some(Alone::Stale);
            self.trouble(
                "nobody has said for longer than the fleet's offline grace which nodes were revoked: peers are left alone \
                 until the management server is reached"
                    .into(),
            );
            self.leave_peers("the list of revoked nodes is too old");
            self.input(Input::Paths(self.tools.datagrams.paths()));
        }
    }

    fn end_staleness(&mut self) {
        if self.alone == Some(Alone::Stale) && !self.tools.revocations.is_stale(Instant::now()) {
            tracing::info!("it is known again which nodes were revoked");
            self.alone = None;
            if self.tools.manners.peering == Peering::Everywhere {
                self.open_up();
            }
        }
    }
}
