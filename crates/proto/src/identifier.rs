//! What stands for content in datagrams: derived from its digest one way, with the key of the audience.
//!
//! A digest names and fetches content, so it never travels in a datagram; an identifier lets those who know the digest and
//! the key recognise it, and tells others nothing.

use potluck_model::Digest;

/// Stands for a list or a content in datagrams: the first 16 bytes of a keyed BLAKE3 of its digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identifier(pub [u8; 16]);

/// The first six bytes of a content's identifier.
pub type Prefix = [u8; 6];

impl Identifier {
    /// Of a list.
    pub fn of_list(key: &[u8; 32], list: &Digest) -> Self {
        Self::derive(key, b"potluck list 1", list)
    }

    /// Of a file's content.
    pub fn of_content(key: &[u8; 32], content: &Digest) -> Self {
        Self::derive(key, b"potluck content 1", content)
    }

    /// The first six bytes.
    pub fn prefix(&self) -> Prefix {
        let mut prefix = [0; 6];
        prefix.copy_from_slice(&self.0[..6]);
        prefix
    }

    fn derive(key: &[u8; 32], context: &[u8], digest: &Digest) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(context).update(digest.as_bytes());
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_of_version_1_stay_as_they_are() {
        let digest = Digest::of(b"potluck");
        let (list, content) = (
            Identifier::of_list(&[7; 32], &digest),
            Identifier::of_content(&[7; 32], &digest),
        );
        assert_eq!(u128::from_be_bytes(list.0), LIST, "{:x}", u128::from_be_bytes(list.0));
        assert_eq!(
            u128::from_be_bytes(content.0),
            CONTENT,
            "{:x}",
            u128::from_be_bytes(content.0)
        );
        assert_ne!(Identifier::of_content(&[8; 32], &digest), content);
        assert_eq!(content.prefix()[..], content.0[..6]);
    }

    const LIST: u128 = 0x59e2_cd66_c1b3_ab2d_4802_cea6_feda_2125;
    const CONTENT: u128 = 0x9e45_044f_6153_1eaa_9068_902f_b148_489c;
}
