//! A publisher's key in a file, with a passphrase or without.
//!
//! Format 1 is JSON. With a passphrase the key is sealed with ChaCha20-Poly1305 under PBKDF2-HMAC-SHA256 of it; the file
//! names the number of rounds, so that a later version can take more.

use std::num::NonZeroU32;

use data_encoding::BASE64;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::pbkdf2::{PBKDF2_HMAC_SHA256, derive};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::{PublicKey, SecretKey};

/// The version that is written, and the newest that is read.
pub const KEY_FILE_FORMAT: u32 = 1;
/// The most bytes of such a file.
pub const KEY_FILE_BYTES_MAX: u64 = 16 << 10;
/// Rounds of PBKDF2 for new files: some tenths of a second.
const ROUNDS: u32 = 600_000;
/// The most rounds that are done for a file: it may come from somebody else.
const ROUNDS_MAX: u32 = 20_000_000;
const SALT_BYTES: usize = 16;

/// Why a key file gives no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Not a key file, or a damaged one.
    #[error("it is no key file, or a damaged one: {0}")]
    Malformed(String),
    /// Written by a newer version.
    #[error("it has format {0}; this version of Potluck reads up to {KEY_FILE_FORMAT}: update it")]
    Newer(u32),
    /// It needs a passphrase, and none was given.
    #[error("it is sealed with a passphrase")]
    Sealed,
    /// Another passphrase.
    #[error("the passphrase is not the one that it was sealed with")]
    Passphrase,
}

/// A key as it stands in a file. The public half can be read without a passphrase.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeyFile {
    format: u32,
    /// The public half.
    pub public: PublicKey,
    secret: Secret,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Secret {
    /// PKCS#8, base64.
    Plain(String),
    Sealed(Sealed),
}

/// All but the rounds is base64.
#[derive(Serialize, Deserialize)]
struct Sealed {
    rounds: NonZeroU32,
    salt: String,
    nonce: String,
    bytes: String,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Sealed(_) => "Sealed",
        })
    }
}

impl KeyFile {
    /// For `key`, sealed if there is a passphrase.
    pub fn new(key: &SecretKey, passphrase: Option<&str>) -> Self {
        let secret = match passphrase {
            None => Secret::Plain(BASE64.encode(key.to_pkcs8())),
            Some(passphrase) => Secret::Sealed(seal(key.to_pkcs8(), passphrase)),
        };
        Self {
            format: KEY_FILE_FORMAT,
            public: key.public(),
            secret,
        }
    }

    /// Reads a file's bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyFileError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let malformed = |error: serde_json::Error| KeyFileError::Malformed(error.to_string());
        let format = serde_json::from_slice::<Format>(bytes).map_err(malformed)?.format;
        if format > KEY_FILE_FORMAT {
            return Err(KeyFileError::Newer(format));
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a key file is plain data")
    }

    /// Whether it takes a passphrase.
    pub fn is_sealed(&self) -> bool {
        matches!(self.secret, Secret::Sealed(_))
    }

    /// The key.
    pub fn open(&self, passphrase: Option<&str>) -> Result<SecretKey, KeyFileError> {
        let pkcs8 = match &self.secret {
            Secret::Plain(text) => decode(text)?,
            Secret::Sealed(sealed) => unseal(sealed, passphrase.ok_or(KeyFileError::Sealed)?)?,
        };
        let key = SecretKey::from_pkcs8(&pkcs8).map_err(|error| KeyFileError::Malformed(error.to_string()))?;
        if key.public().id() != self.public.id() {
            return Err(KeyFileError::Malformed("its public half belongs to another key".into()));
        }
        Ok(key)
    }
}

fn seal(secret: &[u8], passphrase: &str) -> Sealed {
    let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; NONCE_LEN]);
    let random = SystemRandom::new();
    random.fill(&mut salt).expect("the system gives random bytes");
    random.fill(&mut nonce).expect("the system gives random bytes");
    let rounds = NonZeroU32::new(ROUNDS).expect("some rounds are done");
    let mut bytes = secret.to_vec();
    cipher(passphrase, &salt, rounds)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut bytes)
        .expect("a key is short");
    Sealed {
        rounds,
        salt: BASE64.encode(&salt),
        nonce: BASE64.encode(&nonce),
        bytes: BASE64.encode(&bytes),
    }
}

fn unseal(sealed: &Sealed, passphrase: &str) -> Result<Vec<u8>, KeyFileError> {
    if sealed.rounds.get() > ROUNDS_MAX {
        let fault = format!("{} rounds, at most {ROUNDS_MAX} are done", sealed.rounds);
        return Err(KeyFileError::Malformed(fault));
    }
    let (salt, nonce, mut bytes) = (decode(&sealed.salt)?, decode(&sealed.nonce)?, decode(&sealed.bytes)?);
    let nonce = Nonce::try_assume_unique_for_key(&nonce)
        .map_err(|_| KeyFileError::Malformed("its nonce has another length".into()))?;
    let cipher = cipher(passphrase, &salt, sealed.rounds);
    let opened = cipher.open_in_place(nonce, Aad::empty(), &mut bytes);
    opened
        .map(|secret| secret.to_vec())
        .map_err(|_| KeyFileError::Passphrase)
}

fn cipher(passphrase: &str, salt: &[u8], rounds: NonZeroU32) -> LessSafeKey {
    let mut key = [0; 32];
    derive(PBKDF2_HMAC_SHA256, rounds, salt, passphrase.as_bytes(), &mut key);
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).expect("the key has the cipher's length"))
}

fn decode(text: &str) -> Result<Vec<u8>, KeyFileError> {
    BASE64
        .decode(text.as_bytes())
        .map_err(|error| KeyFileError::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_file_and_a_sealed_one_only_with_its_passphrase() {
        let key = SecretKey::generate();
        let plain = KeyFile::from_bytes(&KeyFile::new(&key, None).to_bytes()).unwrap();
        assert_eq!(plain.open(None).unwrap().public(), key.public());
        let bytes = KeyFile::new(&key, Some("correct horse")).to_bytes();
        let pkcs8 = BASE64.encode(key.to_pkcs8());
        assert!(!String::from_utf8(bytes.clone()).unwrap().contains(&pkcs8));
        let sealed = KeyFile::from_bytes(&bytes).unwrap();
        assert!(sealed.is_sealed());
        assert_eq!(sealed.open(Some("correct horse")).unwrap().public(), key.public());
        assert!(matches!(sealed.open(None), Err(KeyFileError::Sealed)));
        assert!(matches!(sealed.open(Some("battery")), Err(KeyFileError::Passphrase)));
    }

    #[test]
    fn a_file_that_was_tampered_with_gives_no_key() {
        let file = KeyFile {
            public: SecretKey::generate().public(),
            ..KeyFile::new(&SecretKey::generate(), None)
        };
        assert!(matches!(file.open(None), Err(KeyFileError::Malformed(_))));
        let text = String::from_utf8(KeyFile::new(&SecretKey::generate(), Some("x")).to_bytes()).unwrap();
        let slow = text.replace("600000", "4000000000");
        assert_ne!(slow, text);
        let file = KeyFile::from_bytes(slow.as_bytes()).unwrap();
        assert!(matches!(file.open(Some("x")), Err(KeyFileError::Malformed(_))));
        let newer = text.replace("\"format\": 1", "\"format\": 2");
        assert!(matches!(
            KeyFile::from_bytes(newer.as_bytes()),
            Err(KeyFileError::Newer(2))
        ));
        assert!(KeyFile::from_bytes(b"rubbish").is_err());
    }
}
