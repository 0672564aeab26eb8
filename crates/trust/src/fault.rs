//! Why metadata is not believed.

use potluck_model::UnixSeconds;

use crate::Role;

/// Why metadata was refused. What was believed before is believed still, and nothing of the refused file is used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Not the JSON that the specification describes.
    #[error("the metadata cannot be read: {0}")]
    Malformed(String),
    /// Fewer good signatures by different keys of the role than it takes.
    #[error(
        "{role} metadata has {valid} good signatures by keys that the trusted root names for it, and {threshold} are needed"
    )]
    Unsigned {
        /// Of the file.
        role: Role,
        /// Different keys with a good signature.
        valid: usize,
        /// How many it takes.
        threshold: usize,
    },
    /// Older than what is known, or it names something older.
    #[error("{role} metadata has version {got}, but {known} is known: it is old and was sent again")]
    Rollback {
        /// Of the file, or of the file that it names.
        role: Role,
        /// The version that came.
        got: u64,
        /// The version that is known.
        known: u64,
    },
    /// A root that is not the next one.
    #[error("root metadata has version {got}, and the one after {known} was expected")]
    NotTheNext {
        /// The version that came.
        got: u64,
        /// The version that is known.
        known: u64,
    },
    /// No longer valid.
    #[error(
        "{role} metadata expired at Unix time {}, and it is {}: either whoever signs it did not renew it, or what was sent is \
         old, or this machine's clock is wrong", expired.0, now.0
    )]
    Expired {
        /// Of the file.
        role: Role,
        /// Since when.
        expired: UnixSeconds,
        /// The time that it was held against.
        now: UnixSeconds,
    },
    /// Files that do not belong together.
    #[error("{role} metadata does not belong to the rest: {why}")]
    MixAndMatch {
        /// Of the file.
        role: Role,
        /// What differs.
        why: String,
    },
    /// More bytes or entries than are permitted.
    #[error("{what} has more than {max} {unit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// How much is permitted.
        max: u64,
        /// Of what.
        unit: &'static str,
    },
    /// Something that has to be there is not.
    #[error("there is no {0}")]
    Missing(String),
    /// The targets do not list it.
    #[error("no publisher has signed {0}, or it was withdrawn: publish it again")]
    NotListed(String),
    /// The publisher excluded it.
    #[error("the publisher forbids it: {0}")]
    Narrowed(String),
}

impl Fault {
    /// A word for reports, listed in docs/trust.md. It stays the same when the message changes.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Unsigned { .. } => "unsigned",
            Self::Rollback { .. } => "rollback",
            Self::NotTheNext { .. } => "root-gap",
            Self::Expired { .. } => "expired",
            Self::MixAndMatch { .. } => "mix-and-match",
            Self::TooLarge { .. } => "too-large",
            Self::Missing(_) => "missing",
            Self::NotListed(_) => "not-listed",
            Self::Narrowed(_) => "narrowed",
        }
    }
}
