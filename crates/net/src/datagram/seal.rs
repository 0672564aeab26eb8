//! Sealing: `PLK1`, `u32` big-endian epoch, 24 random bytes of nonce, and XChaCha20-Poly1305 of the plaintext with the
//! first 32 bytes as associated data.
//!
//! Goals: strangers learn nothing and cause nothing. Non-goals: admitted nodes are not kept apart from each other, nor is
//! a datagram fresh or its sender proven: that is for `potluck-proto` and for mutual TLS.

use std::sync::{Arc, PoisonError, RwLock};

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use potluck_model::api::FleetKey;

const MAGIC: [u8; 4] = *b"PLK1";
const NONCE_BYTES: usize = 24;
const HEADER_BYTES: usize = MAGIC.len() + 4 + NONCE_BYTES;
const TAG_BYTES: usize = 16;
/// Bytes that sealing adds.
pub const SEALING_BYTES: usize = HEADER_BYTES + TAG_BYTES;
/// The most bytes of a sealed datagram: fits an Ethernet frame with every usual tunnel around it.
pub const SEALED_BYTES_MAX: usize = potluck_proto::DATAGRAM_BYTES_MAX + SEALING_BYTES;
/// The most keys at a time.
const KEYS_MAX: usize = 4;

/// A fleet key, parsed.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey {
    /// Number of the key.
    pub epoch: u32,
    /// The secret.
    pub key: [u8; 32],
}

impl SealKey {
    /// From what the server sends; `None` if that is not 64 hexadecimal digits.
    pub fn parse(key: &FleetKey) -> Option<Self> {
        let digits = key.key.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16);
            *byte = (nibble(pair[0])? << 4 | nibble(pair[1])?) as u8;
        }
        Some(Self {
            epoch: key.epoch,
            key: bytes,
        })
    }
}

/// Seals with the first key, opens with all. Clones share the keys, which can be replaced at run time.
#[derive(Clone, Default)]
pub struct Sealer {
    keys: Arc<RwLock<Vec<(u32, XChaCha20Poly1305)>>>,
}

impl Sealer {
    /// With the first four of `keys`; without any, nothing can be sealed or opened.
    pub fn new(keys: &[SealKey]) -> Self {
        let sealer = Self::default();
        sealer.replace(keys);
        sealer
    }

    /// Replaces the keys, here and in all clones.
    pub fn replace(&self, keys: &[SealKey]) {
        let ciphers = keys
            .iter()
            .take(KEYS_MAX)
            .map(|key| (key.epoch, XChaCha20Poly1305::new(&key.key.into())))
            .collect();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = ciphers;
    }

    /// Seals a datagram; `None` without a key, or if it is longer than `potluck_proto::DATAGRAM_BYTES_MAX`.
    pub fn seal(&self, plaintext: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).ok()?;
        self.seal_with(nonce, plaintext)
    }

    fn seal_with(&self, nonce: [u8; NONCE_BYTES], plaintext: &[u8]) -> Option<Vec<u8>> {
        if plaintext.len() > potluck_proto::DATAGRAM_BYTES_MAX {
            return None;
        }
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let (epoch, cipher) = keys.first()?;
        let mut sealed = Vec::with_capacity(SEALING_BYTES + plaintext.len());
        sealed.extend_from_slice(&MAGIC);
        sealed.extend_from_slice(&epoch.to_be_bytes());
        sealed.extend_from_slice(&nonce);
        let payload = Payload {
            msg: plaintext,
            aad: &sealed,
        };
        let ciphertext = cipher.encrypt(XNonce::from_slice(&nonce), payload).ok()?;
        sealed.extend_from_slice(&ciphertext);
        Some(sealed)
    }

    /// Opens a datagram; `None` if none of the keys sealed it, or anything in it was changed.
    pub fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        if sealed.len() > SEALED_BYTES_MAX {
            return None;
        }
        let (header, ciphertext) = sealed.split_first_chunk::<HEADER_BYTES>()?;
        let (magic, rest) = header.split_first_chunk::<4>()?;
        let (epoch, nonce) = rest.split_first_chunk::<4>()?;
        if *magic != MAGIC {
            return None;
        }
        let epoch = u32::from_be_bytes(*epoch);
        let payload = || Payload {
            msg: ciphertext,
            aad: header,
        };
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter()
            .filter(|(known, _)| *known == epoch)
            .find_map(|(_, cipher)| cipher.decrypt(XNonce::from_slice(nonce), payload()).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(epoch: u32, byte: u8) -> Sealer {
        Sealer::new(&[key(epoch, byte)])
    }

    fn key(epoch: u32, byte: u8) -> SealKey {
        SealKey { epoch, key: [byte; 32] }
    }

    #[test]
    fn a_sealed_datagram_of_version_1_stays_as_it_is() {
        let sealed = sealer(7, 1).seal_with([2; NONCE_BYTES], b"potluck").unwrap();
        assert_eq!(
            data_encoding::HEXLOWER.encode(&sealed),
            concat!(
                "504c4b31",
                "00000007",
                "020202020202020202020202020202020202020202020202",
                "bc094283df1497",
                "e4b8e1932a68cdf0930697690c0e58e9"
            )
        );
        assert_eq!(sealer(7, 1).open(&sealed).as_deref(), Some(&b"potluck"[..]));
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let sealer = sealer(1, 1);
        let sealed = sealer.seal(b"twelve bytes").unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(sealer.open(&changed), None, "bit {bit}");
        }
        for end in 0..sealed.len() {
            assert_eq!(sealer.open(&sealed[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let both = Sealer::new(&[key(2, 2), key(1, 1)]);
        assert!(both.open(&sealer(1, 1).seal(b"old").unwrap()).is_some());
        let sealed = both.seal(b"new").unwrap();
        assert!(sealer(2, 2).open(&sealed).is_some());
        assert!(sealer(1, 1).open(&sealed).is_none());
        assert!(sealer(2, 3).open(&sealed).is_none(), "same epoch, another fleet");
    }

    #[test]
    fn keys_are_replaced_in_all_clones() {
        let sealer = Sealer::default();
        assert_eq!(sealer.seal(b"no key yet"), None);
        let clone = sealer.clone();
        sealer.replace(&[key(1, 1)]);
        assert!(clone.seal(b"a key").is_some());
    }

    #[test]
    fn a_plaintext_beyond_the_limit_is_not_sealed() {
        let sealer = sealer(1, 1);
        let most = vec![0; potluck_proto::DATAGRAM_BYTES_MAX];
        assert_eq!(sealer.seal(&most).unwrap().len(), SEALED_BYTES_MAX);
        assert_eq!(sealer.seal(&[most, vec![0]].concat()), None);
    }

    #[test]
    fn fleet_keys_are_64_hexadecimal_digits() {
        let parse = |key: &str| {
            SealKey::parse(&FleetKey {
                epoch: 3,
                key: key.to_owned(),
            })
        };
        assert!(parse(&"0f".repeat(32)) == Some(key(3, 15)));
        for bad in ["", "0f", &"0g".repeat(32), &"+f".repeat(32), &"é".repeat(32)] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
