//! Keys: public ones as metadata carries them, and private ones that sign.

use std::str::FromStr;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::{Fault, canonical};

/// A public key, as the specification's section 4.2 describes it. Fields that are not known stay with it: signatures cover them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PublicKey {
    keytype: String,
    scheme: String,
    keyval: KeyValue,
    #[serde(flatten)]
    other: serde_json::Map<String, Value>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct KeyValue {
    public: String,
    #[serde(flatten)]
    other: serde_json::Map<String, Value>,
}

/// An Ed25519 key that signs metadata.
pub struct SecretKey {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
}

/// Bytes that are no private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 private key (PKCS#8)")]
pub struct KeyError;

/// A text that is no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a public key: `ed25519:` and 64 hexadecimal digits were expected, as `potluck key new` prints them")]
pub struct PublicKeyError;

const TEXT_PREFIX: &str = "ed25519:";

impl PublicKey {
    /// An Ed25519 key of 32 bytes.
    pub fn ed25519(public: &[u8]) -> Self {
        Self {
            keytype: "ed25519".into(),
            scheme: "ed25519".into(),
            keyval: KeyValue {
                public: HEXLOWER.encode(public),
                other: serde_json::Map::new(),
            },
            other: serde_json::Map::new(),
        }
    }

    /// An Ed25519 key as people pass it on: `ed25519:` and 64 hexadecimal digits. `None`: it is a key of another kind.
    pub fn to_text(&self) -> Option<String> {
        (self.scheme == "ed25519").then(|| format!("{TEXT_PREFIX}{}", self.keyval.public))
    }

    /// Its id: SHA-256 of the canonical form, 64 hexadecimal digits.
    pub fn id(&self) -> String {
        let value = json!({
            "keytype": self.keytype,
            "scheme": self.scheme,
            "keyval": {"public": self.keyval.public},
        });
        let bytes = canonical::to_bytes(&value).expect("there are no numbers in it");
        HEXLOWER.encode(digest(&SHA256, &bytes).as_ref())
    }

    /// What makes two keys one, whatever ids they go by.
    pub(crate) fn material(&self) -> &str {
        self.keyval.public.trim()
    }

    /// Whether `signature` (hexadecimal digits) is this key's over `message`. A scheme that is not known verifies nothing.
    pub(crate) fn verifies(&self, message: &[u8], signature: &str) -> bool {
        let Ok(signature) = HEXLOWER.decode(signature.as_bytes()) else {
            return false;
        };
        let (algorithm, public): (&dyn VerificationAlgorithm, _) = match self.scheme.as_str() {
            "ed25519" => (&ED25519, HEXLOWER.decode(self.keyval.public.as_bytes()).ok()),
            "ecdsa-sha2-nistp256" => (&ECDSA_P256_SHA256_ASN1, self.pem()),
            "rsassa-pss-sha256" => (&RSA_PSS_2048_8192_SHA256, self.pem()),
            "rsa-pkcs1v15-sha256" => (&RSA_PKCS1_2048_8192_SHA256, self.pem()),
            _ => return false,
        };
        public.is_some_and(|public| {
            UnparsedPublicKey::new(algorithm, public)
                .verify(message, &signature)
                .is_ok()
        })
    }

    /// The bare key of a PEM `SubjectPublicKeyInfo`: an uncompressed point, or an `RSAPublicKey`.
    fn pem(&self) -> Option<Vec<u8>> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(self.keyval.public.as_bytes()).ok()?;
        let (_, info) = SubjectPublicKeyInfo::from_der(&pem.contents).ok()?;
        Some(info.subject_public_key.data.to_vec())
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    /// Reads what `to_text` gave.
    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        let digits = text.trim().strip_prefix(TEXT_PREFIX).ok_or(PublicKeyError)?;
        let bytes = HEXLOWER.decode(digits.as_bytes()).map_err(|_| PublicKeyError)?;
        if bytes.len() != ED25519_PUBLIC_KEY_LEN {
            return Err(PublicKeyError);
        }
        Ok(Self::ed25519(&bytes))
    }
}

impl SecretKey {
    /// Makes a key.
    pub fn generate() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("the system gives random bytes");
        Self::from_pkcs8(pkcs8.as_ref()).expect("a key that was just made can be read")
    }

    /// Reads a key that `to_pkcs8` gave.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, KeyError> {
        Ok(Self {
            pair: Ed25519KeyPair::from_pkcs8(bytes).map_err(|_| KeyError)?,
            pkcs8: bytes.to_vec(),
        })
    }

    /// The key, to be kept secret.
    pub fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey::ed25519(self.pair.public_key().as_ref())
    }

    /// Signs, and gives 128 hexadecimal digits.
    pub(crate) fn sign(&self, message: &[u8]) -> String {
        HEXLOWER.encode(self.pair.sign(message).as_ref())
    }
}

/// SHA-256, as metadata writes it.
pub fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

/// Fails unless `bytes` have the digest (SHA-256 or SHA-512, by name) that is wanted.
pub(crate) fn has_hash(bytes: &[u8], algorithm: &str, wanted: &str) -> Result<bool, Fault> {
    let algorithm = match algorithm {
        "sha256" => &SHA256,
        "sha512" => &ring::digest::SHA512,
        other => return Err(Fault::Malformed(format!("the hash algorithm {other} is not known"))),
    };
    Ok(HEXLOWER.encode(digest(algorithm, bytes).as_ref()) == wanted.to_ascii_lowercase())
}
