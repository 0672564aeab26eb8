//! The fleet's certificate authority, and the key that signs assignments.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use potluck_model::assignment::{Assignment, Root, Signed, SigningKey};
use potluck_model::revocations::Revocations;
use potluck_model::{Digest, NodeId, UnixSeconds};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::caller::{NODE_SUFFIX, OPERATOR_SUFFIX, Presented, SERVER_NAME};
use crate::{ServerError, data, signing};

const SERVER_DAYS: u64 = 90;
const OPERATOR_DAYS: u64 = 365;
const CA_DAYS: u64 = 20 * 365;
/// Certificates begin to be valid this long ago, so that a clock that is a day off does not matter: but for no more than
/// this part of their life, since they are renewed at two thirds of it.
const BACKDATE_DAYS: u64 = 2;
const BACKDATE_PART: u64 = 15;
/// An operator's certificate is renewed when it has less than this left.
const OPERATOR_RENEW_DAYS: u64 = 60;
const CLOCK_OFF_DAYS: u64 = 7;
const DAY: u64 = 86_400;

/// Signs certificates and assignments.
pub(crate) struct Authority {
    ca: CertificateDer<'static>,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    assignment_key: SigningKey,
    root: Root,
    /// Seconds for which a node's certificate is valid.
    node_life: u64,
}

/// The key of a certificate signing request whose sender has proven that it holds it.
pub(crate) struct RequestedKey(rcgen::PublicKey);

impl RequestedKey {
    /// Parses the request (PEM) and checks its signature. Nothing in it but the key is used.
    pub(crate) fn parse(csr: &str) -> Result<Self, String> {
        CertificateSigningRequestParams::from_pem(csr)
            .map(|request| Self(request.public_key))
            .map_err(|fault| format!("the certificate signing request is not usable: {fault}"))
    }

    /// What a node's key is recognised by.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.0.subject_public_key_info())
    }
}

impl Authority {
    /// Reads the keys, and makes those that do not exist. Certificates of nodes are valid for `node_life`.
    pub(crate) fn open(keys: &Path, node_life: Duration) -> Result<Self, ServerError> {
        let (ca, issuer) = open_ca(&keys.join("ca.pem"))?;
        let assignment_key = open_assignment_key(&keys.join("assignment.key"))?;
        let root = open_root(&keys.join("root.json"), &assignment_key)?;
        Ok(Self {
            ca_pem: pem("CERTIFICATE", &ca),
            ca,
            issuer,
            assignment_key,
            root,
            node_life: node_life.as_secs(),
        })
    }

    /// The CA's certificate.
    pub(crate) fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// The CA's certificate, PEM.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What join strings carry to recognise the CA.
    pub(crate) fn fingerprint(&self) -> Digest {
        Digest::of(&self.ca)
    }

    /// The document that names the keys for assignments.
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// Signs an assignment.
    pub(crate) fn sign(&self, assignment: Assignment) -> Signed<Assignment> {
        self.assignment_key.sign(assignment)
    }

    /// Signs the list of revoked nodes.
    pub(crate) fn sign_revocations(&self, list: Revocations) -> Signed<Revocations> {
        self.assignment_key.sign(list)
    }

    /// Seconds after which no certificate of a node is valid any more that was made before, wherever the clock is a week off
    /// at most, and whatever the life of certificates was set to before (the usual one).
    pub(crate) fn longest_validity(&self) -> u64 {
        self.node_life.max(crate::NODE_CERTIFICATE_LIFE.as_secs()) + CLOCK_OFF_DAYS * DAY
    }

    /// A certificate (PEM) for a node, as client and, towards its peers, as server.
    pub(crate) fn node(&self, node: NodeId, key: &RequestedKey, now: UnixSeconds) -> Result<String, ServerError> {
        let name = format!("{node}{NODE_SUFFIX}");
        let mut params = leaf(&name, now, self.node_life)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![dns(&name)?];
        let certificate = params.signed_by(&key.0, &self.issuer).map_err(certificate_fault)?;
        Ok(certificate.pem())
    }

    /// A fresh key and certificate for this server, with the CA's behind it, so that a joining node sees the CA's
    /// fingerprint. It lives in memory only: each server makes its own.
    pub(crate) fn server(&self, hosts: &[String], now: UnixSeconds) -> Result<Arc<CertifiedKey>, ServerError> {
        let mut params = leaf(SERVER_NAME, now, SERVER_DAYS * DAY)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![dns(SERVER_NAME)?, dns("localhost")?];
        for host in hosts {
            let name = match host.parse() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => dns(host)?,
            };
            if !params.subject_alt_names.contains(&name) {
                params.subject_alt_names.push(name);
            }
        }
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(certificate_fault)?;
        let secret = PrivateKeyDer::try_from(key.serialize_der()).map_err(certificate_fault)?;
        let secret = rustls::crypto::ring::sign::any_supported_type(&secret).map_err(certificate_fault)?;
        Ok(Arc::new(CertifiedKey::new(
            vec![certificate.der().clone(), self.ca.clone()],
            secret,
        )))
    }

    /// A certificate (PEM) for an operator.
    pub(crate) fn operator(&self, name: &str, key: &RequestedKey, now: UnixSeconds) -> Result<String, ServerError> {
        let params = operator_params(name, now)?;
        let certificate = params.signed_by(&key.0, &self.issuer).map_err(certificate_fault)?;
        Ok(certificate.pem())
    }

    /// Writes the credential of the operator `name`, unless the one that is there is still good for these addresses. Returns
    /// the digest of its key.
    pub(crate) fn write_operator(
        &self,
        path: &Path,
        name: &str,
        servers: &[String],
        now: UnixSeconds,
    ) -> Result<Digest, ServerError> {
        let old = data::read(path)?.and_then(|bytes| serde_json::from_slice::<Credential>(&bytes).ok());
        let (certificate, key) = match old {
            Some(old) if old.ca == self.ca_pem && remaining(&old.certificate, now) > OPERATOR_RENEW_DAYS * DAY => {
                if old.servers == servers {
                    return key_of(&old.certificate);
                }
                (old.certificate, old.key)
            }
            _ => {
                let params = operator_params(name, now)?;
                let key = new_key()?;
                let certificate = params.signed_by(&key, &self.issuer).map_err(certificate_fault)?;
                (certificate.pem(), key.serialize_pem())
            }
        };
        let credential = Credential {
            servers: servers.to_vec(),
            ca: self.ca_pem.clone(),
            certificate,
            key,
        };
        let text = serde_json::to_vec_pretty(&credential).expect("a credential is plain data");
        data::replace(path, &text)?;
        key_of(&credential.certificate)
    }
}

fn operator_params(name: &str, now: UnixSeconds) -> Result<CertificateParams, ServerError> {
    let name = format!("{name}{OPERATOR_SUFFIX}");
    let mut params = leaf(&name, now, OPERATOR_DAYS * DAY)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![dns(&name)?];
    Ok(params)
}

/// The digest of the key in a certificate (PEM).
fn key_of(certificate: &str) -> Result<Digest, ServerError> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(certificate_fault)?;
    let presented = Presented::of(&der).ok_or_else(|| certificate_fault("it cannot be parsed"))?;
    Ok(presented.key)
}

/// `operator.json`: what an operator's commands need to reach the server and be believed.
#[derive(serde::Serialize, serde::Deserialize)]
struct Credential {
    /// `HOST:PORT`, tried in this order.
    servers: Vec<String>,
    /// The CA's certificate, PEM.
    ca: String,
    /// The operator's certificate, PEM.
    certificate: String,
    /// Its key, PEM (PKCS#8).
    key: String,
}

/// The CA's key and certificate stand in one file, so that there is never one without the other.
fn open_ca(path: &Path) -> Result<(CertificateDer<'static>, Issuer<'static, KeyPair>), ServerError> {
    let damaged = |fault: String| ServerError::Damaged {
        path: path.to_owned(),
        fault,
    };
    if data::read(path)?.is_none() {
        let key = new_key()?;
        let now = UnixSeconds::now();
        let mut params = leaf("Potluck fleet CA", now, CA_DAYS * DAY)?;
        // A name of its own, so that the CAs of two fleets are never taken for each other.
        let mut unique = [0_u8; 4];
        random(&mut unique)?;
        let name = format!("Potluck fleet {}", data_encoding::HEXLOWER.encode(&unique));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = false;
        let certificate = params.self_signed(&key).map_err(certificate_fault)?;
        data::replace(path, format!("{}{}", certificate.pem(), key.serialize_pem()).as_bytes())?;
    }
    let text = data::read(path)?.unwrap_or_default();
    let ca = CertificateDer::from_pem_slice(&text).map_err(|fault| damaged(format!("its certificate: {fault}")))?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|fault| damaged(format!("its key: {fault}")))?;
    let key = KeyPair::try_from(&key).map_err(|fault| damaged(format!("its key: {fault}")))?;
    let issuer = Issuer::from_ca_cert_der(&ca, key).map_err(|fault| damaged(format!("its certificate: {fault}")))?;
    Ok((ca, issuer))
}

fn open_assignment_key(path: &Path) -> Result<SigningKey, ServerError> {
    if data::read(path)?.is_none() {
        data::replace(path, &SigningKey::generate())?;
    }
    let bytes = data::read(path)?.unwrap_or_default();
    SigningKey::from_pkcs8(&bytes).map_err(|fault| ServerError::Damaged {
        path: path.to_owned(),
        fault: fault.to_string(),
    })
}

fn open_root(path: &Path, key: &SigningKey) -> Result<Root, ServerError> {
    let damaged = |fault: String| ServerError::Damaged {
        path: path.to_owned(),
        fault,
    };
    if let Some(bytes) = data::read(path)? {
        let root: Root = serde_json::from_slice(&bytes).map_err(|fault| damaged(fault.to_string()))?;
        if !root.assignment_keys.contains(&key.id()) {
            return Err(damaged("it does not name the key in assignment.key".into()));
        }
        return Ok(root);
    }
    let releases = signing::first_root(path.parent().unwrap_or(path))?;
    let root = Root::first(key).with_releases(releases);
    let text = serde_json::to_vec_pretty(&root).expect("a root is plain data");
    data::replace(path, &text)?;
    Ok(root)
}

fn leaf(name: &str, now: UnixSeconds, life: u64) -> Result<CertificateParams, ServerError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let backdate = (BACKDATE_DAYS * DAY).min(life / BACKDATE_PART);
    params.not_before = epoch + Duration::from_secs(now.0.saturating_sub(backdate));
    params.not_after = epoch + Duration::from_secs(now.0 + life);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let mut serial = [0_u8; 16];
    random(&mut serial)?;
    // Positive and of full length, as RFC 5280 wants serial numbers.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// Fills `bytes` with randomness from the system.
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), ServerError> {
    getrandom::fill(bytes).map_err(|fault| ServerError::Certificate(format!("no randomness from the system: {fault}")))
}

fn new_key() -> Result<KeyPair, ServerError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(certificate_fault)
}

fn dns(name: &str) -> Result<SanType, ServerError> {
    name.try_into().map(SanType::DnsName).map_err(certificate_fault)
}

fn certificate_fault(fault: impl std::fmt::Display) -> ServerError {
    ServerError::Certificate(fault.to_string())
}

/// Seconds for which a certificate is still valid; zero for what is none.
fn remaining(certificate: &str, now: UnixSeconds) -> u64 {
    let Ok(der) = CertificateDer::from_pem_slice(certificate.as_bytes()) else {
        return 0;
    };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&der) else {
        return 0;
    };
    let end = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    end.saturating_sub(now.0)
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = data_encoding::BASE64.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        text.push('\n');
    }
    text + "-----END " + label + "-----\n"
}
