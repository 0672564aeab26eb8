//! Identities and TLS configurations: TLS 1.3 only, *ring* only, no certificate authority but the fleet's own.
//!
//! Certificates name their holder in a DNS subject alternative name under `potluck.internal`, whatever address the holder
//! has: `server.potluck.internal`, `<node id>.node.potluck.internal`, `<name>.operator.potluck.internal`.

mod join;
mod reason;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use potluck_model::{Digest, NodeId, UnixSeconds};
use rcgen::PublicKeyData;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub(crate) use reason::tls_reason;

/// The name in the server's certificate.
pub const SERVER_NAME: &str = "server.potluck.internal";
/// What follows a node's id in its certificate.
pub const NODE_SUFFIX: &str = ".node.potluck.internal";
/// What follows an operator's name in its certificate.
pub const OPERATOR_SUFFIX: &str = ".operator.potluck.internal";
/// ALPN name of the peer protocol, so that neither an HTTP client nor an HTTP server can be at the other end.
pub const PEER_ALPN: &[u8] = b"potluck-peer";
/// ALPN name of the server's API.
pub const API_ALPN: &[u8] = b"http/1.1";

/// Why something cannot be used for TLS.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text is not PEM of the wanted kind.
    #[error("not a {what} in PEM: {why}")]
    Pem {
        /// What was wanted.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Key, certificate and CA do not fit each other, or rustls refuses one of them.
    #[error("the certificate and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// A key could not be made.
    #[error("a key and its certificate signing request could not be made: {0}")]
    Generate(#[from] rcgen::Error),
    /// The certificate cannot be parsed.
    #[error("the certificate cannot be parsed: {0}")]
    Certificate(String),
    /// The certificate is not that of a node.
    #[error("the certificate is not that of a node: its names are {names:?}")]
    NotANode {
        /// The DNS names in it, at most 4.
        names: Vec<String>,
    },
    /// The certificate is not that of the CA in the join string.
    #[error("the CA certificate does not have the fingerprint in the join string: this is another fleet's server")]
    OtherCa,
}

/// What a node or an operator proves itself with: certificate, key, and the CA that the fleet trusts.
pub struct Identity {
    /// The holder's certificate, and what stands between it and the CA, if anything.
    pub chain: Vec<CertificateDer<'static>>,
    /// The holder's key, PKCS#8.
    pub key: PrivatePkcs8KeyDer<'static>,
    /// The fleet's CA.
    pub ca: CertificateDer<'static>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(…)")
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            ca: self.ca.clone(),
        }
    }
}

impl Identity {
    /// Parses what the server and `generate_key_and_csr` gave.
    pub fn from_pem(certificate: &str, key: &str, ca: &str) -> Result<Self, TlsError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| pem_fault("private key (PKCS#8)", &error))?;
        Ok(Self {
            chain: chain(certificate)?,
            key,
            ca: certificate_from_pem(ca)?,
        })
    }

    /// The same key with another certificate, PEM.
    pub fn renewed(&self, certificate: &str) -> Result<Self, TlsError> {
        let chain = chain(certificate)?;
        Ok(Self { chain, ..self.clone() })
    }

    /// The node that this is the identity of.
    pub fn node(&self) -> Result<NodeId, TlsError> {
        node_of(self.chain.first().map_or(&[], |leaf| leaf.as_ref()))
    }

    /// From when to when the certificate is valid.
    pub fn validity(&self) -> Result<(UnixSeconds, UnixSeconds), TlsError> {
        verify::validity(self.chain.first().map_or(&[], |leaf| leaf.as_ref()))
    }

    /// Checks that this is a node's identity that its peers will believe: its certificate is the CA's, was valid from the
    /// beginning, and fits its key.
    pub fn check_node(&self) -> Result<NodeId, TlsError> {
        let node = self.node()?;
        let (from, _) = self.validity()?;
        let leaf = self.chain.first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let beginning = UnixTime::since_unix_epoch(Duration::from_secs(from.0));
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots(&self.ca)?), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(leaf, &self.chain[1..], &node_name(node), &[], beginning)?;
        client_config(Some(self), &self.ca)?;
        Ok(node)
    }
}

/// All certificates in a PEM text, at least one.
fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| pem_fault("certificate", &error))?;
    if chain.is_empty() {
        return Err(pem_fault("certificate", &"it holds none"));
    }
    Ok(chain)
}

/// The first certificate in a PEM text.
pub fn certificate_from_pem(pem: &str) -> Result<CertificateDer<'static>, TlsError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| pem_fault("certificate", &error))
}

/// The CA certificate in a PEM text, if it has the fingerprint that the join string gave.
pub fn ca_from_pem(pem: &str, fingerprint: Digest) -> Result<CertificateDer<'static>, TlsError> {
    let ca = certificate_from_pem(pem)?;
    if Digest::of(&ca) == fingerprint {
        Ok(ca)
    } else {
        Err(TlsError::OtherCa)
    }
}

fn pem_fault(what: &'static str, why: &dyn std::fmt::Display) -> TlsError {
    TlsError::Pem {
        what,
        why: why.to_string(),
    }
}

/// Makes *ring* the process-wide provider of cryptography, for code that asks for none in particular. May be called often.
pub fn install() {
    // An error says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A new key (ECDSA P-256, PKCS#8) and a certificate signing request for it, both PEM.
///
/// The request names nobody: the server assigns the name. The key never leaves the node.
///
/// # Panics
/// If the operating system has no random bytes to give.
pub fn generate_key_and_csr() -> (String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("the system gives random bytes");
    let csr = csr_for(&key).expect("a fresh key signs a request without names");
    (key.serialize_pem(), csr)
}

/// Another certificate signing request for a key that `generate_key_and_csr` made: for renewal.
pub fn csr_of_key(key_pem: &str) -> Result<String, TlsError> {
    Ok(csr_for(&rcgen::KeyPair::from_pem(key_pem)?)?)
}

/// The digest of the public key of a key that `generate_key_and_csr` made: what a node is recognised by.
pub fn key_digest(key_pem: &str) -> Result<Digest, TlsError> {
    Ok(Digest::of(
        &rcgen::KeyPair::from_pem(key_pem)?.subject_public_key_info(),
    ))
}

fn csr_for(key: &rcgen::KeyPair) -> Result<String, rcgen::Error> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serialize_request(key)?.pem()
}

/// The fingerprint of the first certificate in a PEM text: BLAKE3 of its DER.
pub fn fingerprint(pem: &str) -> Result<Digest, TlsError> {
    Ok(Digest::of(&certificate_from_pem(pem)?))
}

/// The node that a certificate names. Whether it may be trusted has been checked before.
pub fn node_of(certificate: &[u8]) -> Result<NodeId, TlsError> {
    verify::node_of(certificate)
}

/// For talking to the management server: with a certificate of one's own, or without, for what is open to everybody.
pub fn client_config(identity: Option<&Identity>, ca: &CertificateDer<'static>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(ca)?);
    let mut config = match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain.clone(), key(identity))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![API_ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// For joining: trusts only a server whose chain ends in the CA with this fingerprint (BLAKE3 of its DER). The chain that
/// the server sends has to hold that CA's certificate. Nothing but the TLS handshake is sent before this is proven.
pub fn join_config(ca_fingerprint: Digest) -> Arc<ClientConfig> {
    let verifier: Arc<dyn ServerCertVerifier> = Arc::new(join::JoinVerifier::new(ca_fingerprint, provider()));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has cipher suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![API_ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// For dialling peers. Use with `node_name` of the node that is to be there.
pub fn peer_client_config(identity: &Identity) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(&identity.ca)?)
        .with_client_auth_cert(identity.chain.clone(), key(identity))?;
    config.alpn_protocols = vec![PEER_ALPN.to_vec()];
    // Whom one dials is nobody else's business, and each connection proves itself anew.
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// For accepting peers: requires the certificate of a node; an operator's, or none, does not do.
pub fn peer_server_config(identity: &Identity) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = verify::NodeCertVerifier::new(roots(&identity.ca)?, provider())?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(identity.chain.clone(), key(identity))?;
    config.alpn_protocols = vec![PEER_ALPN.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The name of a node in its certificate.
pub fn node_name(node: NodeId) -> ServerName<'static> {
    ServerName::try_from(format!("{node}{NODE_SUFFIX}")).expect("16 digits and a constant are a DNS name")
}

/// The server's name in its certificate.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("a constant DNS name")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(ca: &CertificateDer<'static>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone())?;
    Ok(roots)
}

fn key(identity: &Identity) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(identity.key.clone_key())
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
