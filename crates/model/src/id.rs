//! Identifiers and names, each with its own type.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Identity of a managed node: 8 random bytes that the server assigns when the node joins.
///
/// Written as 16 lower-case hexadecimal digits. Ranks in the swarm are computed from it, so a node must not choose it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an identifier or name of the kind that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: expected {expected}")]
pub struct NameError {
    /// What was wanted, such as "node id".
    pub what: &'static str,
    /// The rule that the text breaks.
    pub expected: &'static str,
    /// The text, cut at 80 characters.
    pub text: String,
}

impl FromStr for NodeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fault = || NameError {
            what: "node id",
            expected: "16 lower-case hexadecimal digits",
            text: text.chars().take(80).collect(),
        };
        let canonical = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !canonical {
            return Err(fault());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| fault())
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for NodeId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NodeId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[0-9a-f]{16}$", "description": "node id"})
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, schemars::JsonSchema)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let good = !text.is_empty()
                    && text.len() <= $max
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
                    && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
                if good {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError {
                        what: $what,
                        expected: concat!(
                            "1 to ", $max,
                            " characters out of a-z, A-Z, 0-9, '-', '_' and '.', beginning with a letter or a digit"
                        ),
                        text: text.chars().take(80).collect(),
                    })
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// Name of a configuration, such as `web-edge`.
    ConfigurationName,
    "configuration name",
    64
);
name_type!(
    /// Name of a step, unique in its release.
    StepId,
    "step id",
    64
);
name_type!(
    /// Name for people of a release, beside its number.
    VersionName,
    "version name",
    64
);
name_type!(
    /// Name of an audience: the nodes that may know what is in a list. `fleet` is everybody.
    AudienceName,
    "audience name",
    64
);
name_type!(
    /// Key of a label or fact.
    LabelKey,
    "label key",
    64
);

impl AudienceName {
    /// The audience of every admitted node.
    pub fn fleet() -> Self {
        Self("fleet".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_have_one_text() {
        let id = NodeId(0x00ab_cdef_0123_4567);
        assert_eq!(id.to_string(), "00abcdef01234567");
        assert_eq!("00abcdef01234567".parse(), Ok(id));
        for bad in [
            "",
            "00ABcdef01234567",
            "+0abcdef01234567",
            "00abcdef0123456",
            "00abcdef012345678",
        ] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_could_be_paths_or_options_are_refused() {
        for bad in ["", ".", "..", "-a", "a/b", "a b", "é"] {
            assert!(bad.parse::<ConfigurationName>().is_err(), "{bad}");
        }
        assert!("web-edge_2.0".parse::<ConfigurationName>().is_ok());
    }
}
