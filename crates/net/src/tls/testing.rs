//! Certificates for tests.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use potluck_model::NodeId;
use rustls::pki_types::CertificateDer;

use super::{Identity, NODE_SUFFIX, OPERATOR_SUFFIX, SERVER_NAME};

/// A CA that lives as long as a test.
pub(crate) struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn server(&self) -> Identity {
        let mut identity = self.identity(&[SERVER_NAME], &[ExtendedKeyUsagePurpose::ServerAuth]);
        identity.chain.push(self.certificate.clone());
        identity
    }

    pub(crate) fn node(&self, node: NodeId) -> Identity {
        self.identity(
            &[&format!("{node}{NODE_SUFFIX}")],
            &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        )
    }

    pub(crate) fn operator(&self, name: &str) -> Identity {
        self.identity(
            &[&format!("{name}{OPERATOR_SUFFIX}")],
            &[ExtendedKeyUsagePurpose::ClientAuth],
        )
    }

    pub(crate) fn identity(&self, names: &[&str], usages: &[ExtendedKeyUsagePurpose]) -> Identity {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = usages.to_vec();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity::from_pem(&certificate.pem(), &key.serialize_pem(), &pem(&self.certificate)).unwrap()
    }
}

pub(crate) fn pem(certificate: &CertificateDer<'_>) -> String {
    let body = data_encoding::BASE64.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}
