//! Who a certificate names, and a verifier that lets in nodes only.

use std::sync::Arc;

use potluck_model::{NodeId, UnixSeconds};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::{NODE_SUFFIX, TlsError};

/// The most names of a certificate that are looked at or shown.
const NAMES_MAX: usize = 4;

pub(super) fn node_of(certificate: &[u8]) -> Result<NodeId, TlsError> {
    let certificate = parse(certificate)?;
    let names = dns_names(&certificate)?;
    // One name, so that no certificate stands for two nodes, or for a node and something else.
    let node = match names.as_slice() {
        [name] => name.strip_suffix(NODE_SUFFIX).and_then(|id| id.parse().ok()),
        _ => None,
    };
    node.ok_or(TlsError::NotANode { names })
}

pub(super) fn validity(certificate: &[u8]) -> Result<(UnixSeconds, UnixSeconds), TlsError> {
    let certificate = parse(certificate)?;
    let validity = certificate.validity();
    let seconds = |timestamp: i64| UnixSeconds(u64::try_from(timestamp).unwrap_or(0));
    Ok((
        seconds(validity.not_before.timestamp()),
        seconds(validity.not_after.timestamp()),
    ))
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, TlsError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(TlsError::Certificate("bytes follow it".to_owned())),
        Err(error) => Err(TlsError::Certificate(error.to_string())),
    }
}

fn dns_names(certificate: &X509Certificate<'_>) -> Result<Vec<String>, TlsError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| TlsError::Certificate(error.to_string()))?;
    Ok(names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .take(NAMES_MAX)
        .collect())
}

/// Certificates that the CA signed, and that name a node.
#[derive(Debug)]
pub(super) struct NodeCertVerifier {
    inner: Arc<dyn ClientCertVerifier>,
}

impl NodeCertVerifier {
    pub(super) fn new(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self { inner })
    }
}

impl ClientCertVerifier for NodeCertVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A node has one certificate: no hint is needed, and the name of the CA is nobody else's business.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        node_of(end_entity).map_err(|_| CertificateError::ApplicationVerificationFailure)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
