//! Existence requests and their answers: what is inside a sealed datagram. docs/protocol.md has the bytes.
//!
//! Goals: one datagram asks about ten thousand files; answers are bounded at any population; nothing that was not given
//! the list can learn what is in it; an address that nothing has proven draws no more bytes than it sent.
//! Non-goals: reliability (a lost datagram is asked again or not at all), and truth (an answer is a hint).

use potluck_model::NodeId;

use crate::identifier::{Identifier, Prefix};
use crate::message::Runs;
use crate::wire::{Reader, WireError, put_varint};

/// The most bytes of a datagram before it is sealed: sealed, with UDP and IPv6 headers, it fits an Ethernet frame.
pub const DATAGRAM_BYTES_MAX: usize = 1_340;
/// The version of datagrams that this version speaks.
pub const DATAGRAM_VERSION: u8 = 1;
/// The most prefixes in one datagram: six bytes each.
pub const PREFIXES_MAX: usize = 210;

const REQUEST: u8 = 1;
const PREFIX_REQUEST: u8 = 2;
const ANSWER: u8 = 3;
const PREFIX_ANSWER: u8 = 4;
const DIAL_ME: u8 = 5;
/// Bytes in front of the sets of an answer, at most.
const ANSWER_HEAD_MAX: usize = 28 + 10 + 16 + 1;
/// The least room in which sets are written.
const SET_ROOM_MIN: usize = 16;

/// What every datagram begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Who says that it sent it (any admitted node could).
    pub sender: NodeId,
    /// Grows with each start of the sender.
    pub boot: u64,
    /// Grows with each datagram of this boot; copies over several multicast paths share it.
    pub seq: u64,
    /// The sender's peer port.
    pub port: u16,
}

/// What is asked or answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// "Who has the list, or these of its contents?"
    Request(Request),
    /// "Who has contents whose identifiers begin so?" For those that know other lists.
    PrefixRequest(PrefixRequest),
    /// Answers a `Request`.
    Answer(Answer),
    /// Answers a `PrefixRequest`.
    PrefixAnswer(PrefixAnswer),
    /// "You answered my request, and I cannot connect to you: connect to me."
    DialMe {
        /// Number of the request.
        number: u64,
    },
}

/// How many answers are wanted, and from whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asking {
    /// Number of the request, unique in the asker's boot. It may take several datagrams.
    pub number: u64,
    /// Which of them this is.
    pub part: u8,
    /// How many answers are wanted.
    pub wanted: u16,
    /// A holder answers if its 16-bit hash of request, asker and holder is not above this.
    pub threshold: u16,
}

/// An existence request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Number and limits.
    pub asking: Asking,
    /// The list.
    pub list: Identifier,
    /// Whether the list itself is lacked.
    pub lacks_list: bool,
    /// Which of its contents are lacked.
    pub lacks: Lacks,
}

/// Contents that a request is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lacks {
    /// All that it has, however many: the asker does not know the list yet.
    Everything,
    /// Indices over `List::contents`.
    These(Runs),
}

/// An existence request for those that know other lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrefixRequest {
    /// Number and limits.
    pub asking: Asking,
    /// The asker's list: those that know it answer the `Request` instead.
    pub list: Identifier,
    /// Position of the first prefix among all of the request.
    pub first: u32,
    /// At most `PREFIXES_MAX`.
    pub prefixes: Vec<Prefix>,
}

/// An answer. Several datagrams may answer one request; they add up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Number of the request.
    pub number: u64,
    /// The list.
    pub list: Identifier,
    /// Whether the list itself is held.
    pub list_held: bool,
    /// Whether the list itself is lacked, too.
    pub list_lacked: bool,
    /// Whether the asked contents beyond what `fetching` names are lacked, too: the sender does not know the list yet.
    pub fetching_everything: bool,
    /// Contents held whole, by index.
    pub held: Runs,
    /// Contents held in part or being fetched, by index.
    pub fetching: Runs,
}

/// An answer by positions in the request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrefixAnswer {
    /// Number of the request.
    pub number: u64,
    /// Positions of contents held whole.
    pub held: Runs,
    /// Positions of contents held in part or being fetched.
    pub fetching: Runs,
}

/// A datagram, opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// From whom.
    pub header: Header,
    /// What.
    pub body: Body,
}

impl Datagram {
    /// Reads a datagram. What it says is a hint, whoever sent it.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return Err(WireError::Limit {
                what: "bytes of a datagram",
                value: bytes.len() as u64,
                max: DATAGRAM_BYTES_MAX as u64,
            });
        }
        let mut reader = Reader::new(bytes);
        let reader = &mut reader;
        let version = reader.u8()?;
        if version != DATAGRAM_VERSION {
            return Err(WireError::Version(version));
        }
        let kind = reader.u8()?;
        let header = Header {
            sender: NodeId(reader.u64()?),
            boot: reader.u64()?,
            seq: reader.u64()?,
            port: reader.u16()?,
        };
        let body = match kind {
            REQUEST => Body::Request(take_request(reader)?),
            PREFIX_REQUEST => Body::PrefixRequest(take_prefix_request(reader)?),
            ANSWER => Body::Answer(take_answer(reader)?),
            PREFIX_ANSWER => Body::PrefixAnswer(PrefixAnswer {
                number: reader.varint()?,
                held: Runs::take_set(reader)?,
                fetching: Runs::take_set(reader)?,
            }),
            DIAL_ME => Body::DialMe {
                number: reader.varint()?,
            },
            kind => return Err(WireError::UnknownKind(kind)),
        };
        let rest = reader.rest();
        let padding = matches!(body, Body::Request(_) | Body::PrefixRequest(_)) && rest.iter().all(|byte| *byte == 0);
        if !rest.is_empty() && !padding {
            return Err(WireError::Trailing(rest.len()));
        }
        Ok(Self { header, body })
    }
}

/// The datagrams of a request about a list, but for their headers (see `seal_header`): with each, which contents it is
/// about. Each is padded to what the biggest answer to it takes.
pub fn encode_requests(
    asking: Asking,
    list: Identifier,
    lacks_list: bool,
    lacks: &Lacks,
    datagrams_max: usize,
) -> Vec<(Vec<u8>, Runs)> {
    let mut datagrams = Vec::new();
    let mut from = 0;
    loop {
        let part = datagrams.len() as u8;
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[1] = REQUEST;
        put_asking(&mut bytes, &Asking { part, ..asking });
        bytes.extend_from_slice(&list.0);
        let everything = matches!(lacks, Lacks::Everything);
        bytes.push(u8::from(lacks_list) | u8::from(everything) << 1);
        let Lacks::These(runs) = lacks else {
            pad(&mut bytes, ANSWER_HEAD_MAX + 2 * SET_ROOM_MIN);
            return vec![(bytes, Runs::default())];
        };
        let room = DATAGRAM_BYTES_MAX - bytes.len();
        let next = runs.put_set(&mut bytes, from, room);
        let about = clip(runs, from, next);
        let span = about.0.first().map_or(0, |(first, _)| next - u64::from(*first)) as usize;
        pad(&mut bytes, ANSWER_HEAD_MAX + 2 * (SET_ROOM_MIN + span.div_ceil(8)));
        datagrams.push((bytes, about));
        from = next;
        if from >= runs.end() || datagrams.len() >= datagrams_max {
            return datagrams;
        }
    }
}

/// The datagrams of a request for those that know other lists, but for their headers.
pub fn encode_prefix_requests(
    asking: Asking,
    list: Identifier,
    prefixes: &[Prefix],
    datagrams_max: usize,
) -> Vec<Vec<u8>> {
    prefixes
        .chunks(PREFIXES_MAX)
        .take(datagrams_max)
        .enumerate()
        .map(|(part, prefixes)| {
            let mut bytes = vec![0; HEADER_BYTES];
            bytes[1] = PREFIX_REQUEST;
            let part = part as u8;
            put_asking(&mut bytes, &Asking { part, ..asking });
            bytes.extend_from_slice(&list.0);
            put_varint(&mut bytes, u64::from(part) * PREFIXES_MAX as u64);
            put_varint(&mut bytes, prefixes.len() as u64);
            for prefix in prefixes {
                bytes.extend_from_slice(prefix);
            }
            // Six bytes a prefix are more than any answer about it takes, but for the answer's own head.
            pad(&mut bytes, HEADER_BYTES + 10 + 2 * SET_ROOM_MIN);
            bytes
        })
        .collect()
}

/// The datagrams of an answer, but for their headers: at most `datagrams_max`, each of at most `room` bytes. What does not
/// fit is not said; `held` goes before `fetching`.
pub fn encode_answers(answer: &Answer, room: usize, datagrams_max: usize) -> Vec<Vec<u8>> {
    let mut head = vec![0; HEADER_BYTES];
    head[1] = ANSWER;
    put_varint(&mut head, answer.number);
    head.extend_from_slice(&answer.list.0);
    head.push(
        u8::from(answer.list_held) | u8::from(answer.list_lacked) << 1 | u8::from(answer.fetching_everything) << 2,
    );
    encode_sets(&head, &answer.held, &answer.fetching, room, datagrams_max)
}

/// "Connect to me", but for its header.
pub fn encode_dial_me(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[1] = DIAL_ME;
    put_varint(&mut bytes, number);
    bytes
}

/// The datagrams of an answer to prefixes, like `encode_answers`.
pub fn encode_prefix_answers(answer: &PrefixAnswer, room: usize, datagrams_max: usize) -> Vec<Vec<u8>> {
    let mut head = vec![0; HEADER_BYTES];
    head[1] = PREFIX_ANSWER;
    put_varint(&mut head, answer.number);
    encode_sets(&head, &answer.held, &answer.fetching, room, datagrams_max)
}

fn encode_sets(head: &[u8], held: &Runs, fetching: &Runs, room: usize, datagrams_max: usize) -> Vec<Vec<u8>> {
    let room = room.min(DATAGRAM_BYTES_MAX);
    let mut datagrams = Vec::new();
    let (mut held_from, mut fetching_from) = (0, 0);
    while datagrams.len() < datagrams_max {
        let mut bytes = head.to_vec();
        // One byte is kept for the second set, should it have to be empty.
        let Some(space) = room.checked_sub(bytes.len() + 1).filter(|space| *space >= SET_ROOM_MIN) else {
            break;
        };
        held_from = held.put_set(&mut bytes, held_from, space);
        let left = room - bytes.len();
        if held_from >= held.end() && left >= SET_ROOM_MIN {
            fetching_from = fetching.put_set(&mut bytes, fetching_from, left);
        } else {
            bytes.push(0);
        }
        datagrams.push(bytes);
        if held_from >= held.end() && fetching_from >= fetching.end() {
            break;
        }
    }
    datagrams
}

/// Bytes of version, kind and header.
pub const HEADER_BYTES: usize = 28;

/// Writes the header into the space that the functions above left for it.
pub fn seal_header(bytes: &mut [u8], header: &Header) {
    bytes[0] = DATAGRAM_VERSION;
    bytes[2..10].copy_from_slice(&header.sender.0.to_be_bytes());
    bytes[10..18].copy_from_slice(&header.boot.to_be_bytes());
    bytes[18..26].copy_from_slice(&header.seq.to_be_bytes());
    bytes[26..28].copy_from_slice(&header.port.to_be_bytes());
}

fn pad(bytes: &mut Vec<u8>, len: usize) {
    bytes.resize(bytes.len().max(len.min(DATAGRAM_BYTES_MAX)), 0);
}

fn clip(runs: &Runs, from: u64, to: u64) -> Runs {
    Runs(
        runs.0
            .iter()
            .filter_map(|(first, count)| {
                let begin = u64::from(*first).max(from);
                let end = (u64::from(*first) + u64::from(*count)).min(to);
                (begin < end).then(|| (begin as u32, (end - begin) as u32))
            })
            .collect(),
    )
}

fn put_asking(bytes: &mut Vec<u8>, asking: &Asking) {
    put_varint(bytes, asking.number);
    bytes.push(asking.part);
    bytes.extend_from_slice(&asking.wanted.to_be_bytes());
    bytes.extend_from_slice(&asking.threshold.to_be_bytes());
}

fn take_asking(reader: &mut Reader<'_>) -> Result<Asking, WireError> {
    Ok(Asking {
        number: reader.varint()?,
        part: reader.u8()?,
        wanted: reader.u16()?,
        threshold: reader.u16()?,
    })
}

fn take_request(reader: &mut Reader<'_>) -> Result<Request, WireError> {
    let asking = take_asking(reader)?;
    let list = Identifier(reader.array()?);
    let flags = take_flags(reader, 0b11)?;
    let lacks = if flags & 2 == 0 {
        Lacks::These(Runs::take_set(reader)?)
    } else {
        Lacks::Everything
    };
    Ok(Request {
        asking,
        list,
        lacks_list: flags & 1 == 1,
        lacks,
    })
}

fn take_prefix_request(reader: &mut Reader<'_>) -> Result<PrefixRequest, WireError> {
    let asking = take_asking(reader)?;
    let list = Identifier(reader.array()?);
    let first = reader.varint32()?;
    let count = reader.count("prefixes", PREFIXES_MAX, 6)?;
    let prefixes = (0..count).map(|_| reader.array()).collect::<Result<_, _>>()?;
    Ok(PrefixRequest {
        asking,
        list,
        first,
        prefixes,
    })
}

fn take_answer(reader: &mut Reader<'_>) -> Result<Answer, WireError> {
    let number = reader.varint()?;
    let list = Identifier(reader.array()?);
    let flags = take_flags(reader, 0b111)?;
    Ok(Answer {
        number,
        list,
        list_held: flags & 1 != 0,
        list_lacked: flags & 2 != 0,
        fetching_everything: flags & 4 != 0,
        held: Runs::take_set(reader)?,
        fetching: Runs::take_set(reader)?,
    })
}

fn take_flags(reader: &mut Reader<'_>, known: u8) -> Result<u8, WireError> {
    let flags = reader.u8()?;
    if flags & !known != 0 {
        return Err(WireError::Malformed("a flag is set that this version does not know"));
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: Header = Header {
        sender: NodeId(0x0102_0304_0506_0708),
        boot: 9,
        seq: 10,
        port: 7443,
    };
    const ASKING: Asking = Asking {
        number: 300,
        part: 0,
        wanted: 16,
        threshold: u16::MAX,
    };
    const LIST: Identifier = Identifier([0xaa; 16]);
    /// Version, the kind's place, header.
    const HEAD: &str = "01__01020304050607080000000000000009000000000000000a1d13";

    fn with_header(mut bytes: Vec<u8>) -> Vec<u8> {
        seal_header(&mut bytes, &HEADER);
        bytes
    }

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write;
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    fn golden(bytes: Vec<u8>, kind: &str, body: &str, padded: usize) -> Body {
        let bytes = with_header(bytes);
        let head = HEAD.replace("__", kind);
        let text = hex(&bytes);
        assert!(text.starts_with(&(head.clone() + body)), "{text}");
        assert!(text[head.len() + body.len()..].bytes().all(|b| b == b'0'), "{text}");
        assert_eq!(bytes.len(), padded);
        let datagram = Datagram::decode(&bytes).unwrap();
        assert_eq!(datagram.header, HEADER);
        datagram.body
    }

    #[test]
    fn bytes_of_version_1_stay_as_they_are() {
        let id = "aa".repeat(16);
        let lacks = Lacks::These(Runs(vec![(0, 5)]));
        let (bytes, about) = encode_requests(ASKING, LIST, true, &lacks, 4).remove(0);
        assert_eq!(about, Runs(vec![(0, 5)]));
        assert_eq!(
            golden(bytes, "01", &format!("ac02000010ffff{id}0101010005"), 89),
            Body::Request(Request {
                asking: ASKING,
                list: LIST,
                lacks_list: true,
                lacks,
            })
        );
        let (bytes, _) = encode_requests(ASKING, LIST, true, &Lacks::Everything, 4).remove(0);
        assert_eq!(
            golden(bytes, "01", &format!("ac02000010ffff{id}03"), 87),
            Body::Request(Request {
                asking: ASKING,
                list: LIST,
                lacks_list: true,
                lacks: Lacks::Everything,
            })
        );
        let bytes = encode_prefix_requests(ASKING, LIST, &[[1; 6], [2; 6]], 4).remove(0);
        assert_eq!(
            golden(
                bytes,
                "02",
                &format!("ac02000010ffff{id}0002010101010101020202020202"),
                70
            ),
            Body::PrefixRequest(PrefixRequest {
                asking: ASKING,
                list: LIST,
                first: 0,
                prefixes: vec![[1; 6], [2; 6]],
            })
        );
        let answer = Answer {
            number: 300,
            list: LIST,
            list_held: true,
            list_lacked: false,
            fetching_everything: false,
            held: Runs(vec![(1, 2)]),
            fetching: Runs::of([8, 10, 12, 14, 16]),
        };
        let bytes = encode_answers(&answer, DATAGRAM_BYTES_MAX, 1).remove(0);
        assert_eq!(
            golden(bytes, "03", &format!("ac02{id}0101010102020802{}", "5501"), 56),
            Body::Answer(answer)
        );
        let answer = PrefixAnswer {
            number: 300,
            held: Runs::default(),
            fetching: Runs(vec![(0, 1)]),
        };
        let bytes = encode_prefix_answers(&answer, DATAGRAM_BYTES_MAX, 1).remove(0);
        assert_eq!(golden(bytes, "04", "ac020001010001", 35), Body::PrefixAnswer(answer));
        assert_eq!(
            golden(encode_dial_me(300), "05", "ac02", 30),
            Body::DialMe { number: 300 }
        );
    }

    #[test]
    fn ten_thousand_files_fit_one_datagram() {
        let lacks = Lacks::These(Runs::of((0..10_000).filter(|i| i % 3 != 1)));
        let datagrams = encode_requests(ASKING, LIST, true, &lacks, 8);
        assert_eq!(datagrams.len(), 1);
        assert_eq!(datagrams[0].0.len(), DATAGRAM_BYTES_MAX);
    }

    #[test]
    fn an_answer_to_a_request_is_never_larger_than_the_request() {
        for lacked in [1u32, 5, 100, 3_000, 10_000, 50_000] {
            let lacks = Lacks::These(Runs::of((0..lacked).map(|i| i * 3)));
            for (request, about) in encode_requests(ASKING, LIST, true, &lacks, 100) {
                let answer = Answer {
                    number: u64::MAX,
                    list: LIST,
                    list_held: true,
                    list_lacked: false,
                    fetching_everything: false,
                    held: Runs::of(about.iter().step_by(2)),
                    fetching: Runs::of(about.iter().skip(1).step_by(2)),
                };
                let answers = encode_answers(&answer, request.len(), 1);
                assert!(answers[0].len() <= request.len());
                if request.len() < DATAGRAM_BYTES_MAX {
                    let Body::Answer(heard) = Datagram::decode(&with_header(answers[0].clone())).unwrap().body else {
                        panic!("not an answer");
                    };
                    assert_eq!(heard, answer, "nothing was left out of {lacked}");
                }
            }
        }
    }

    #[test]
    fn datagrams_of_other_versions_and_kinds_are_refused_by_name() {
        let (bytes, _) = encode_requests(ASKING, LIST, true, &Lacks::Everything, 4).remove(0);
        let mut bytes = with_header(bytes);
        bytes[1] = 77;
        assert_eq!(Datagram::decode(&bytes), Err(WireError::UnknownKind(77)));
        bytes[0] = 2;
        assert_eq!(Datagram::decode(&bytes), Err(WireError::Version(2)));
        assert!(matches!(
            Datagram::decode(&[1; DATAGRAM_BYTES_MAX + 1]),
            Err(WireError::Limit { .. })
        ));
    }

    fn runs() -> impl Strategy<Value = Runs> {
        prop::collection::btree_set(0u32..40_000, 0..3_000).prop_map(Runs::of)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_parts_of_a_request_add_up(lacked in runs(), lacks_list: bool) {
            let mut back = Vec::new();
            for (part, (bytes, about)) in encode_requests(ASKING, LIST, lacks_list, &Lacks::These(lacked.clone()), 100).into_iter().enumerate() {
                prop_assert!(bytes.len() <= DATAGRAM_BYTES_MAX);
                let Body::Request(request) = Datagram::decode(&with_header(bytes)).unwrap().body else { panic!() };
                prop_assert_eq!(request.asking.part as usize, part);
                prop_assert_eq!(request.lacks_list, lacks_list);
                prop_assert_eq!(&request.lacks, &Lacks::These(about.clone()));
                back.extend(about.iter());
            }
            prop_assert_eq!(back, lacked.iter().collect::<Vec<_>>());
        }

        #[test]
        fn the_parts_of_an_answer_add_up(held in runs(), fetching in runs(), room in 100usize..DATAGRAM_BYTES_MAX) {
            let answer = Answer {
                number: 5, list: LIST, list_held: false, list_lacked: true, fetching_everything: true,
                held: held.clone(), fetching: fetching.clone(),
            };
            let (mut all_held, mut all_fetching) = (Vec::new(), Vec::new());
            for bytes in encode_answers(&answer, room, usize::MAX) {
                prop_assert!(bytes.len() <= room);
                let Body::Answer(part) = Datagram::decode(&with_header(bytes)).unwrap().body else { panic!() };
                all_held.extend(part.held.iter());
                all_fetching.extend(part.fetching.iter());
            }
            prop_assert_eq!(all_held, held.iter().collect::<Vec<_>>());
            prop_assert_eq!(all_fetching, fetching.iter().collect::<Vec<_>>());
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..7) {
            let _ = Datagram::decode(&bytes);
            let mut headed = vec![0; HEADER_BYTES];
            seal_header(&mut headed, &HEADER);
            headed[1] = kind;
            headed.extend(bytes);
            let _ = Datagram::decode(&headed);
        }
    }
}
