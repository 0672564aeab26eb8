//! What becomes of the node's own identity.

use potluck_net::tls;

use super::Driver;
use crate::renewal::Renewed;

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
}
