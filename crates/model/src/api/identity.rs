//! Who belongs to the fleet: renewing certificates.

use serde::{Deserialize, Serialize};

/// `POST /v1/node/renew`: also with a certificate that has expired, if its node was not revoked.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RenewRequest {
    /// Certificate signing request, PEM, for the key that the node joined with. Nothing else in it is used.
    pub csr: String,
}

/// Answer to a `RenewRequest`.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RenewAnswer {
    /// The node's new certificate, PEM.
    pub certificate: String,
}
