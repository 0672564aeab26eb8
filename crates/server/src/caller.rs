//! Who calls: from the certificate of the connection, and nothing else.

use std::net::SocketAddr;

use potluck_model::NodeId;
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
