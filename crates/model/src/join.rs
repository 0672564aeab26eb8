//! The join string: what a new node needs to find and prove its server, and to be let in.
//!
//! `potluck1.` and base64url without padding of, version 1: `u8` version, 32 bytes fingerprint of the CA (BLAKE3 of its
//! certificate in DER), 32 bytes digest of the trusted root, 32 bytes token, `u8` number of addresses, for each `u8` length
//! and `HOST:PORT` in UTF-8, and the first 4 bytes of the BLAKE3 digest of all before.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

const PREFIX: &str = "potluck1.";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
/// The variable of the environment that may hold the join string. What an agent starts does not inherit it.
pub const JOIN_VARIABLE: &str = "POTLUCK_JOIN";
/// The most server addresses of one join string.
pub const ADDRESSES_MAX: usize = 8;

/// Everything that a new node is told, by way of its operator.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinString {
    /// `HOST:PORT` of the server, tried in this order. 1 to `ADDRESSES_MAX`, each at most 255 bytes.
    pub servers: Vec<String>,
    /// BLAKE3 digest of the CA's certificate (DER).
    pub ca: Digest,
    /// Digest of the trusted root.
    pub root: Digest,
    /// The secret that lets the node in.
    pub token: Token,
}

/// The secret of a join token: 32 random bytes. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub [u8; 32]);

impl Token {
    /// How the server stores and looks up the token.
    pub fn hash(&self) -> Digest {
        Digest::of(&self.0)
    }

    /// 64 hexadecimal digits: how it travels to the server.
    pub fn to_hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }

    /// Parses `to_hex`.
    pub fn from_hex(text: &str) -> Option<Self> {
        data_encoding::HEXLOWER
            .decode(text.as_bytes())
            .ok()?
            .try_into()
            .ok()
            .map(Self)
    }
}

/// What people compare to see that two machines speak of the same key: the first 16 bytes of the key's digest.
pub fn fingerprint(key: &Digest) -> String {
    let groups: Vec<String> = key.as_bytes()[..16]
        .chunks(2)
        .map(|pair| data_encoding::HEXLOWER.encode(pair))
        .collect();
    groups.join("-")
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(secret)")
    }
}

impl fmt::Debug for JoinString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinString")
            .field("servers", &self.servers)
            .field("ca", &self.ca)
            .finish_non_exhaustive()
    }
}

/// Why a text is no join string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// It does not begin with `potluck1.`.
    #[error("a join string begins with {PREFIX:?}; this begins with {0:?}")]
    Prefix(String),
    /// The checksum does not fit, or bytes are missing.
    #[error("the join string is cut short or mistyped: its checksum does not fit. Copy it again, whole, on one line")]
    Damaged,
    /// Written by a newer version.
    #[error("the join string has version {0}; this version of Potluck reads version {VERSION}: update it")]
    Version(u8),
}

impl fmt::Display for JoinString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(self.ca.as_bytes());
        bytes.extend_from_slice(self.root.as_bytes());
        bytes.extend_from_slice(&self.token.0);
        bytes.push(self.servers.len().min(ADDRESSES_MAX) as u8);
        for server in self.servers.iter().take(ADDRESSES_MAX) {
            let server = &server.as_bytes()[..server.len().min(255)];
            bytes.push(server.len() as u8);
            bytes.extend_from_slice(server);
        }
        let checksum = Digest::of(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_BYTES]);
        write!(f, "{PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&bytes))
    }
}

impl FromStr for JoinString {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, JoinError> {
        let text = text.trim();
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            return Err(JoinError::Prefix(text.chars().take(PREFIX.len()).collect()));
        };
        let bytes = data_encoding::BASE64URL_NOPAD
            .decode(encoded.as_bytes())
            .map_err(|_| JoinError::Damaged)?;
        let split = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(JoinError::Damaged)?;
        let (body, checksum) = bytes.split_at(split);
        if Digest::of(body).as_bytes()[..CHECKSUM_BYTES] != *checksum {
            return Err(JoinError::Damaged);
        }
        let (&version, body) = body.split_first().ok_or(JoinError::Damaged)?;
        if version != VERSION {
            return Err(JoinError::Version(version));
        }
        Self::parse(body).ok_or(JoinError::Damaged)
    }
}

impl JoinString {
    fn parse(body: &[u8]) -> Option<Self> {
        let (ca, body) = body.split_first_chunk::<32>()?;
        let (root, body) = body.split_first_chunk::<32>()?;
        let (token, body) = body.split_first_chunk::<32>()?;
        let (&count, mut body) = body.split_first()?;
        if count == 0 || usize::from(count) > ADDRESSES_MAX {
            return None;
        }
        let mut servers = Vec::new();
        for _ in 0..count {
            let (&len, rest) = body.split_first()?;
            let (server, rest) = rest.split_at_checked(usize::from(len))?;
            servers.push(std::str::from_utf8(server).ok()?.to_owned());
            body = rest;
        }
        body.is_empty().then_some(Self {
            servers,
            ca: Digest::from_bytes(*ca),
            root: Digest::from_bytes(*root),
            token: Token(*token),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> JoinString {
        JoinString {
            servers: vec!["10.0.0.1:7443".into(), "[fe80::1]:7443".into()],
            ca: Digest::of(b"ca"),
            root: Digest::of(b"root"),
            token: Token([7; 32]),
        }
    }

    #[test]
    fn text_of_version_1_stays_as_it_is() {
        let text = sample().to_string();
        assert_eq!(
            Digest::of(text.as_bytes()).to_string(),
            "ef51436e7921e1f2391854157757ab6851d6b5e360d8c61338349be00f7d488b"
        );
        assert_eq!(text.parse(), Ok(sample()));
    }

    #[test]
    fn every_cut_and_every_changed_character_is_noticed() {
        let text = sample().to_string();
        for end in 0..text.len() {
            assert!(text[..end].parse::<JoinString>().is_err(), "cut at {end}");
        }
        for at in PREFIX.len()..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            assert!(
                String::from_utf8(damaged).unwrap().parse::<JoinString>().is_err(),
                "changed at {at}"
            );
        }
    }

    #[test]
    fn debug_output_does_not_hold_the_token() {
        assert!(!format!("{:?}", sample()).contains("07"));
        assert!(!format!("{:?}", sample().token).contains('7'));
    }
}
