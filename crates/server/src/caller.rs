//! Who calls: from the certificate of the connection, and nothing else.

use std::net::SocketAddr;

use potluck_model::{Digest, NodeId, UnixSeconds};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

/// The name in the server's certificate.
pub(crate) const SERVER_NAME: &str = "server.potluck.internal";
/// After a node's id, the name in its certificate.
pub(crate) const NODE_SUFFIX: &str = ".node.potluck.internal";
/// After an operator's name, the name in its certificate.
pub(crate) const OPERATOR_SUFFIX: &str = ".operator.potluck.internal";

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Its address, as this server sees it.
    pub(crate) address: SocketAddr,
    /// What its certificate proves.
    pub(crate) role: Role,
    /// The certificate, unless it is anonymous.
    pub(crate) presented: Option<Presented>,
}

impl Caller {
    /// The holder of a certificate that was verified against the CA already, but for its time. `None`: one that is for
    /// something else.
    pub(crate) fn of(address: SocketAddr, certificate: Option<&CertificateDer<'_>>) -> Option<Self> {
        Some(Self {
            address,
            role: Role::of(certificate)?,
            presented: certificate.map(|der| Presented::of(der).ok_or(())).transpose().ok()?,
        })
    }

    /// Whether its certificate is not valid any more. Asked for each request: connections outlive certificates.
    pub(crate) fn expired(&self, now: UnixSeconds) -> bool {
        self.presented.is_some_and(|presented| now > presented.expires)
    }
}

/// What else of a certificate counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Presented {
    /// Digest of its key.
    pub(crate) key: Digest,
    /// The last second in which it is valid.
    pub(crate) expires: UnixSeconds,
}

impl Presented {
    /// Reads it, verified or not. `None`: it is no certificate.
    pub(crate) fn of(certificate: &[u8]) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        Some(Self {
            key: Digest::of(parsed.public_key().raw),
            expires: UnixSeconds(u64::try_from(parsed.validity().not_after.timestamp()).ok()?),
        })
    }
}

/// What a certificate of the fleet's CA proves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// No certificate was presented.
    Anonymous,
    /// A node that was admitted.
    Node(NodeId),
    /// An operator, by name.
    Operator(String),
}

impl Role {
    /// The role of a certificate that was verified against the CA already. `None`: one that is for something else.
    pub(crate) fn of(certificate: Option<&CertificateDer<'_>>) -> Option<Self> {
        let Some(certificate) = certificate else {
            return Some(Self::Anonymous);
        };
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let names = &parsed.subject_alternative_name().ok()??.value.general_names;
        // Exactly one name: a certificate that says two things proves neither.
        let [GeneralName::DNSName(name)] = names.as_slice() else {
            return None;
        };
        if let Some(id) = name.strip_suffix(NODE_SUFFIX) {
            return id.parse().ok().map(Self::Node);
        }
        let operator = name.strip_suffix(OPERATOR_SUFFIX)?;
        (!operator.is_empty() && !operator.contains('.')).then(|| Self::Operator(operator.to_owned()))
    }
}
