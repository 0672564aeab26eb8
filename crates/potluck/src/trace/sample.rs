//! A small run, for tests.

use potluck_model::list::{Action, Entry, List, Settings, Step};
use potluck_model::trace::{About, Cause, Event, Outcome, Recap, Source, What, Why};
use potluck_model::{AudienceName, Digest, NodeId, UnixMicros};

use super::TraceReport;

pub(crate) const NODE: NodeId = NodeId(0x0a11_ce00_0000_0001);
pub(crate) const PEER: NodeId = NodeId(0x0b0b_0000_0000_0002);

const START: u64 = 1_772_352_000_000_000;

pub(crate) fn list() -> List {
    let file = |path: &str, size, content: &[u8], chunks: Option<&[u8]>| Entry::File {
        path: path.into(),
        mode: 0o644,
        size,
        digest: Digest::of(content),
        chunks: chunks.map(Digest::of),
    };
    List {
        format: 1,
        configuration: "web-edge".parse().unwrap(),
        release: 3,
        version: Some("2026.1".parse().unwrap()),
        audience: AudienceName::fleet(),
        entries: vec![
            file("big.img", 1 << 20, b"big", Some(b"chunk list")),
            Entry::Directory {
                path: "site".into(),
                mode: 0o755,
            },
            file("site/index.html", 3, b"abc", None),
            file("tune.sh", 3, b"abc", None),
        ],
        steps: vec![Step::new(
            "tune".parse().unwrap(),
            Action::Run {
                source: "tune.sh".into(),
                args: vec![],
                env: vec![],
                exit: vec![],
                inputs: vec![],
                user: None,
            },
            60,
        )],
        settings: Settings::default(),
    }
}

/// An event of boot 7, `seq` milliseconds after the start, about the sample list.
pub(crate) fn event(seq: u64, what: What) -> Event {
    Event {
        boot: 7,
        seq,
        at: UnixMicros(START + seq * 1000),
        list: Some(list().digest()),
        what,
    }
}

pub(crate) fn events() -> Vec<Event> {
    let list = list();
    let contents = list.contents();
    let big = contents
        .iter()
        .position(|content| content.digest == Digest::of(b"big"))
        .unwrap() as u32;
    let about = |contents: Vec<(u32, u32)>| About { list: false, contents };
    let obtained = |content: Digest, offset, len, source, why| What::Obtained {
        digest: content,
        offset,
        len,
        source,
        why,
        with: Vec::new(),
    };
    let peer = Source::Peer(PEER);
    let step = || "tune".parse().unwrap();
    let asked = |interface: Option<&str>, to: &str, about| What::Asked {
        request: 1,
        to: to.parse().unwrap(),
        interface: interface.map(str::to_owned),
        about,
    };
    let whats = vec![
        What::ListRequested { cause: Cause::Start },
        What::Assigned {
            sequence: 1,
            configuration: None,
            release: 0,
        },
        What::ListRequested { cause: Cause::Notified },
        What::Assigned {
            sequence: 2,
            configuration: Some("web-edge".parse().unwrap()),
            release: 3,
        },
        obtained(list.digest(), 0, 900, Source::Origin, Why::NobodyAnswered),
        obtained(Digest::of(b"abc"), 0, 3, Source::Held, Why::Held),
        asked(Some("eth0"), "239.255.74.43:7443", about(vec![(0, 2)])),
        asked(None, "10.0.0.2:7443", about(vec![(0, 2)])),
        What::Answered {
            request: 1,
            peer: PEER,
            from: "10.0.0.2:7443".parse().unwrap(),
            held: About::default(),
            fetching: about(vec![(big, 1)]),
        },
        obtained(Digest::of(b"chunk list"), 0, 84, peer, Why::Answered),
        obtained(Digest::of(b"big"), 0, 600_000, peer, Why::Answered),
        What::SourceFailed {
            source: peer,
            fault: "no byte for 2 s".into(),
        },
        obtained(Digest::of(b"big"), 600_000, 448_576, Source::Origin, Why::PeerFailed),
        What::Complete {
            held_bytes: 3,
            peer_bytes: 600_000,
            origin_bytes: 448_576,
        },
        What::StepStarted { step: step() },
        What::StepOutput {
            step: step(),
            line: "tuned \x1b[1mall\x1b[0m".into(),
        },
        What::StepEnded {
            step: step(),
            outcome: Outcome::Changed,
            millis: 12,
            exit: Some(0),
            message: String::new(),
        },
        What::Executed {
            recap: Recap {
                changed: 1,
                ..Recap::default()
            },
        },
    ];
    let mut events: Vec<Event> = (1..).zip(whats).map(|(seq, what)| event(seq, what)).collect();
    for early in &mut events[..3] {
        early.list = None;
    }
    events
}

pub(crate) fn report() -> TraceReport {
    let list = list();
    TraceReport::new(NODE, list.digest(), &list, events(), None).unwrap()
}
