//! What happened on a node: the events behind `potluck trace`, `status` and `logs`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{ConfigurationName, Digest, NodeId, StepId, UnixMicros};

/// One event of a node, as reported to the server. `(boot, seq)` names it: sent twice, it counts once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Event {
    /// Grows with each start of the agent.
    pub boot: u64,
    /// Grows by one with each event of this boot.
    pub seq: u64,
    /// When, by the node's clock.
    pub at: UnixMicros,
    /// The release that it concerns, if any: digest of its list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<Digest>,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// The node asks the server for its list, because of `cause`.
    ListRequested {
        /// Why.
        cause: Cause,
    },
    /// The server said what the node is assigned.
    Assigned {
        /// Sequence number of the assignment.
        sequence: u64,
        /// The configuration; none: unassigned.
        configuration: Option<ConfigurationName>,
        /// Its release; zero if unassigned.
        release: u64,
    },
    /// An existence request went out.
    Asked {
        /// Number of the request, unique in this boot.
        request: u64,
        /// Where to: a multicast group or a neighbour.
        to: SocketAddr,
        /// For multicast: the interface.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interface: Option<String>,
        /// What was asked about.
        about: About,
    },
    /// A peer answered.
    Answered {
        /// Number of the request.
        request: u64,
        /// Who.
        peer: NodeId,
        /// From where.
        from: SocketAddr,
        /// What it holds, whole.
        held: About,
        /// What it holds in part or is fetching.
        fetching: About,
    },
    /// Bytes were obtained and verified: `[offset, offset + len)` of the content `digest`.
    Obtained {
        /// The content: a file's digest, or that of the list or of a chunk list.
        digest: Digest,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Where from.
        source: Source,
        /// Why from there.
        why: Why,
        /// Small contents that came whole in the same transfer, for the same reason: digest and bytes of each, at most
        /// `OBTAINED_WITH_MAX`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        with: Vec<(Digest, u64)>,
    },
    /// A source failed to deliver.
    SourceFailed {
        /// Which.
        source: Source,
        /// How, for people.
        fault: String,
    },
    /// Everything that the list needs is here and verified.
    Complete {
        /// Bytes of payload that were here already.
        held_bytes: u64,
        /// Bytes of payload from peers.
        peer_bytes: u64,
        /// Bytes of payload from the server.
        origin_bytes: u64,
    },
    /// A step starts.
    StepStarted {
        /// Which.
        step: StepId,
    },
    /// A line that a step printed.
    StepOutput {
        /// Which.
        step: StepId,
        /// The line, at most `LINE_BYTES_MAX` bytes, bytes that are not UTF-8 replaced.
        line: String,
    },
    /// A step ended, or was not even started.
    StepEnded {
        /// Which.
        step: StepId,
        /// How.
        outcome: Outcome,
        /// Milliseconds it took.
        millis: u64,
        /// Exit code, of a command that ended by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit: Option<i32>,
        /// What was changed, or why it failed, was skipped or blocked.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        message: String,
    },
    /// All steps have ended.
    Executed {
        /// How they ended.
        recap: Recap,
    },
    /// Something an operator should know: what was being done, why it failed, what to do.
    Trouble {
        /// The message.
        message: String,
    },
    /// What was ignored of what came over the network, since the start: told at most every minute, and only if it grew.
    Ignored(Ignored),
}

/// What a node ignored of what came over the network, counted since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct Ignored {
    /// Datagrams that no fleet key opens: of strangers, changed on the way, or from before a key was replaced.
    pub datagrams_unopened: u64,
    /// Datagrams that came faster than they could be looked at.
    pub datagrams_overflowed: u64,
    /// Datagrams that were malformed or of another version.
    pub datagrams_malformed: u64,
    /// Datagrams that were heard before, or came too late: copies over several paths, and replays.
    pub datagrams_repeated: u64,
    /// Answers that fit no request.
    pub answers_unrequested: u64,
    /// Connections that were refused since too many were being made.
    pub connections_refused: u64,
    /// Connections that nobody proved himself on.
    pub handshakes_failed: u64,
    /// Connections that were closed because the peer broke the protocol.
    pub peers_at_fault: u64,
}

/// The most contents that one event says were obtained together with another.
pub const OBTAINED_WITH_MAX: usize = 63;
/// The most bytes of one line of a step's output; longer ones are cut.
pub const LINE_BYTES_MAX: usize = 2_000;

/// Why a node asked for its list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The agent started.
    Start,
    /// A link came up.
    LinkUp,
    /// An address appeared or changed.
    AddressChanged,
    /// The server can be reached again.
    ServerBack,
    /// The server said that something changed.
    Notified,
}

/// What a request or an answer is about.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct About {
    /// The list itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub list: bool,
    /// Runs `(first, count)` over the list's contents sorted by digest (see `List::contents`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contents: Vec<(u32, u32)>,
}

/// Where bytes came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// They were on this node.
    Held,
    /// A peer.
    Peer(NodeId),
    /// The management server.
    Origin,
}

/// Why they came from there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// They were here already.
    Held,
    /// The peer said that it has them.
    Answered,
    /// No peer answered for them in time.
    NobodyAnswered,
    /// This node's share of a flash crowd.
    MyShare,
    /// The peers that had them failed.
    PeerFailed,
    /// A second request for the slow end.
    Hedge,
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It changed something.
    Changed,
    /// Nothing was to be changed.
    Unchanged,
    /// Its guard said that nothing is to be done.
    Skipped,
    /// It failed.
    Failed,
    /// A step that it needs failed.
    Blocked,
    /// The machine or the executing process died while it ran.
    Interrupted,
    /// It had not started when the fleet was halted.
    Halted,
    /// What it had changed was taken back.
    Undone,
}

/// How many steps ended how: the last line of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Recap {
    /// Steps that changed something.
    pub changed: u32,
    /// Steps that had nothing to change.
    pub unchanged: u32,
    /// Steps that failed.
    pub failed: u32,
    /// Steps that their guard skipped.
    pub skipped: u32,
    /// Steps that were blocked by a failed one.
    pub blocked: u32,
    /// Steps that were interrupted and not done again.
    pub interrupted: u32,
    /// Steps that a halt kept from starting.
    pub halted: u32,
    /// Steps that had changed something which was taken back.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub undone: u32,
}

fn is_usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Recap {
    /// Counts one more step.
    pub fn count(&mut self, outcome: Outcome) {
        let field = match outcome {
            Outcome::Changed => &mut self.changed,
            Outcome::Unchanged => &mut self.unchanged,
            Outcome::Skipped => &mut self.skipped,
            Outcome::Failed => &mut self.failed,
            Outcome::Blocked => &mut self.blocked,
            Outcome::Interrupted => &mut self.interrupted,
            Outcome::Halted => &mut self.halted,
            Outcome::Undone => &mut self.undone,
        };
        *field += 1;
    }

    /// Whether every step ended well.
    pub fn converged(&self) -> bool {
        self.failed + self.blocked + self.interrupted + self.halted + self.undone == 0
    }
}

impl std::fmt::Display for Recap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            changed,
            unchanged,
            failed,
            skipped,
            blocked,
            interrupted,
            halted,
            undone,
        } = self;
        write!(
            f,
            "changed={changed} unchanged={unchanged} failed={failed} skipped={skipped} blocked={blocked}"
        )?;
        if interrupted + halted > 0 {
            write!(f, " interrupted={interrupted} halted={halted}")?;
        }
        if *undone > 0 {
            write!(f, " undone={undone}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_written_as_they_always_were() {
        let event = Event {
            boot: 1,
            seq: 2,
            at: UnixMicros(3),
            list: Some(Digest::of(b"")),
            what: What::Obtained {
                digest: Digest::of(b""),
                offset: 0,
                len: 5,
                source: Source::Peer(NodeId(9)),
                why: Why::Answered,
                with: Vec::new(),
            },
        };
        let text = serde_json::to_string(&event).unwrap();
        let empty = Digest::of(b"");
        assert_eq!(
            text,
            format!(
                r#"{{"boot":1,"seq":2,"at":3,"list":"{empty}","event":"obtained","digest":"{empty}","offset":0,"len":5,"source":{{"peer":"0000000000000009"}},"why":"answered"}}"#
            )
        );
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }

    #[test]
    fn small_contents_that_came_together_are_one_event() {
        let empty = Digest::of(b"");
        let what = What::Obtained {
            digest: empty,
            offset: 0,
            len: 5,
            source: Source::Origin,
            why: Why::MyShare,
            with: vec![(empty, 7)],
        };
        let text = serde_json::to_string(&what).unwrap();
        assert_eq!(
            text,
            format!(
                r#"{{"event":"obtained","digest":"{empty}","offset":0,"len":5,"source":"origin","why":"my-share","with":[["{empty}",7]]}}"#
            )
        );
        assert_eq!(serde_json::from_str::<What>(&text).unwrap(), what);
    }

    #[test]
    fn what_was_ignored_is_written_by_name_and_read_with_names_missing() {
        let ignored = Ignored {
            datagrams_unopened: 3,
            ..Ignored::default()
        };
        let text = serde_json::to_string(&What::Ignored(ignored)).unwrap();
        assert!(
            text.starts_with(r#"{"event":"ignored","datagrams_unopened":3,"#),
            "{text}"
        );
        let short = r#"{"event":"ignored","datagrams_unopened":3}"#;
        assert_eq!(serde_json::from_str::<What>(short).unwrap(), What::Ignored(ignored));
    }

    #[test]
    fn a_recap_reads_as_people_know_it() {
        let mut recap = Recap::default();
        for _ in 0..12 {
            recap.count(Outcome::Unchanged);
        }
        assert_eq!(recap.to_string(), "changed=0 unchanged=12 failed=0 skipped=0 blocked=0");
        assert!(recap.converged());
        recap.count(Outcome::Failed);
        assert!(!recap.converged());
    }
}
