//! The audit log: what operators did, each entry bound to the one before by its hash.

use serde::{Deserialize, Serialize};

use crate::{Digest, UnixSeconds, canonical};

/// The most bytes of an entry's `body`; of a longer one there is the digest.
pub const AUDIT_BODY_BYTES_MAX: usize = 4_096;
/// The most entries of one answer.
pub const AUDIT_ENTRIES_MAX: usize = 1_000;
/// Who restored the server from a backup, or changed something else without being an operator of its API.
pub const AT_THE_SERVER: &str = "(at the server)";

/// One thing that an operator did. It is written down before it is done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditEntry {
    /// 1, 2, 3…
    pub number: u64,
    /// When.
    pub at: UnixSeconds,
    /// The operator's name, or `AT_THE_SERVER`.
    pub operator: String,
    /// Method and path of the request.
    pub request: String,
    /// Its body as compact JSON, `blake3:` and its digest, or nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// This entry says that the request of the entry with this number was not carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
    /// Hash of the entry before; of the first one, 32 zeros.
    pub previous: Digest,
}

/// The end of the log at some time. Nodes keep the newest that they were told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Checkpoint {
    /// Number of the last entry; 0: there is none.
    pub number: u64,
    /// Its hash.
    pub hash: Digest,
}

/// `GET /v1/audit?after=N&limit=M`: entries in their order.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AuditLog {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// The end of the log.
    pub newest: Checkpoint,
}

/// Where the chain does not hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the audit log does not hold together at entry {number}: {what}")]
pub struct AuditFault {
    /// The entry.
    pub number: u64,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Checkpoint {
    /// Before the first entry.
    pub const START: Self = Self {
        number: 0,
        hash: Digest::from_bytes([0; 32]),
    };

    /// The end of the log with `entry` behind this one, if it belongs there.
    pub fn then(self, entry: &AuditEntry) -> Result<Self, AuditFault> {
        let fault = |what| AuditFault {
            number: entry.number,
            what,
        };
        if entry.number != self.number + 1 {
            return Err(fault("an entry is missing before it, or it is there twice"));
        }
        if entry.previous != self.hash {
            return Err(fault("the entry before it was changed"));
        }
        Ok(Self {
            number: entry.number,
            hash: entry.hash(),
        })
    }
}

impl AuditEntry {
    /// What the next entry names.
    pub fn hash(&self) -> Digest {
        let mut bytes = b"potluck audit 1\n".to_vec();
        bytes.extend_from_slice(&canonical::to_bytes(self));
        Digest::of(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64, previous: Digest) -> AuditEntry {
        AuditEntry {
            number,
            at: UnixSeconds(1_000 + number),
            operator: "alice".into(),
            request: "POST /v1/halt".into(),
            body: r#"{"halted":true}"#.into(),
            refused: None,
            previous,
        }
    }

    #[test]
    fn hashes_of_version_1_stay_as_they_are() {
        let entry = entry(1, Checkpoint::START.hash);
        assert_eq!(
            String::from_utf8(canonical::to_bytes(&entry)).unwrap(),
            format!(
                r#"{{"at":1001,"body":"{{\"halted\":true}}","number":1,"operator":"alice","previous":"{}","request":"POST /v1/halt"}}"#,
                "0".repeat(64)
            )
        );
        assert_eq!(
            entry.hash(),
            Digest::of(
                [b"potluck audit 1\n", canonical::to_bytes(&entry).as_slice()]
                    .concat()
                    .as_slice()
            )
        );
    }

    #[test]
    fn an_entry_that_was_changed_removed_or_put_in_breaks_the_chain() {
        let mut log = Vec::new();
        let mut end = Checkpoint::START;
        for number in 1..=5 {
            let entry = entry(number, end.hash);
            end = end.then(&entry).unwrap();
            log.push(entry);
        }
        let verify = |log: &[AuditEntry]| log.iter().try_fold(Checkpoint::START, Checkpoint::then);
        assert_eq!(verify(&log), Ok(end));
        let mut changed = log.clone();
        changed[1].operator = "mallory".into();
        assert_eq!(verify(&changed).unwrap_err().number, 3);
        let mut removed = log.clone();
        removed.remove(2);
        assert_eq!(verify(&removed).unwrap_err().number, 4);
        let mut twice = log.clone();
        twice.insert(2, log[1].clone());
        assert_eq!(verify(&twice).unwrap_err().number, 2);
        // The last one is bound by nothing but a checkpoint.
        let mut last = log;
        last[4].body.clear();
        assert_ne!(verify(&last), Ok(end));
    }
}
