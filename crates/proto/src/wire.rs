//! Reading and writing bytes of messages and datagrams. Integers are big-endian or LEB128 ("varint").

use potluck_model::Digest;

/// Why bytes were refused. Nothing of them has been used; whoever sent them broke the protocol or is newer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// They end too early.
    #[error("it ends too early")]
    Truncated,
    /// Something follows the end.
    #[error("{0} bytes follow the end")]
    Trailing(usize),
    /// A newer version may know it: a receiver skips this one and goes on.
    #[error("kind {0} is not known")]
    UnknownKind(u8),
    /// A version that this one does not speak.
    #[error("version {0} is not spoken here")]
    Version(u8),
    /// More of something than is allowed.
    #[error("{what}: {value} is beyond the limit of {max}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much.
        value: u64,
        /// The limit.
        max: u64,
    },
    /// A rule is broken.
    #[error("{0}")]
    Malformed(&'static str),
}

/// Takes values off the front of bytes.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn digest(&mut self) -> Result<Digest, WireError> {
        Ok(Digest::from_bytes(self.array()?))
    }

    /// A varint in its shortest form.
    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(WireError::Malformed("a varint is beyond 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(WireError::Malformed("a varint is longer than it needs to be"));
                }
                return Ok(value);
            }
        }
        Err(WireError::Malformed("a varint is beyond 64 bits"))
    }

    /// A varint of at most 32 bits.
    pub(crate) fn varint32(&mut self) -> Result<u32, WireError> {
        u32::try_from(self.varint()?).map_err(|_| WireError::Malformed("a number is beyond 32 bits"))
    }

    /// How many of `what` follow: at most `max`, and no more than there can be if each takes `each` bytes or more.
    pub(crate) fn count(&mut self, what: &'static str, max: usize, each: usize) -> Result<usize, WireError> {
        let value = self.varint()?;
        if value > max as u64 {
            return Err(WireError::Limit {
                what,
                value,
                max: max as u64,
            });
        }
        let count = value as usize;
        if count * each > self.0.len() {
            return Err(WireError::Truncated);
        }
        Ok(count)
    }

    /// Everything that is left.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    #[cfg(test)]
    pub(crate) const fn end(self) -> Result<(), WireError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(WireError::Trailing(self.0.len()))
        }
    }
}

/// Appends a varint in its shortest form.
pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Bytes that `put_varint` takes.
pub(crate) const fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_round_trip_in_the_length_foretold(value: u64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(bytes.len(), varint_len(value));
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }

    #[test]
    fn a_varint_has_one_form_only() {
        assert_eq!(
            Reader::new(&[0x80, 0]).varint(),
            Err(WireError::Malformed("a varint is longer than it needs to be"))
        );
        assert!(Reader::new(&[0xff; 11]).varint().is_err());
        assert_eq!(Reader::new(&[0x80]).varint(), Err(WireError::Truncated));
    }
}
