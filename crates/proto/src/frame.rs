//! Messages as frames on a peer connection: `u32` length of the rest, `u8` kind, body. docs/protocol.md has the table.

use potluck_model::revocations::{Edition, REVOCATIONS_BYTES_MAX};
use potluck_model::{NodeId, UnixSeconds};

use crate::datagram::Lacks;
use crate::interface::Want;
use crate::message::{
    CROWD_MAX, DATA_BYTES_MAX, DataHeader, End, FRAME_BYTES_MAX, HaveItem, Hello, INSTEAD_MAX, Member, Message,
    PROOFS_MAX, Runs, WANTS_MAX,
};
use crate::wire::{Reader, WireError, put_varint};

/// Bytes of the length in front of a frame.
pub const LENGTH_BYTES: usize = 4;
/// Bytes of kind and header in front of the data of a data frame.
pub const DATA_HEADER_BYTES: usize = 1 + 14;
/// Bytes in front of the data of a data frame: length, kind and header.
pub const DATA_PREFIX_BYTES: usize = LENGTH_BYTES + DATA_HEADER_BYTES;

const HELLO: u8 = 1;
const GET: u8 = 2;
const DATA: u8 = 3;
const END: u8 = 4;
const CANCEL: u8 = 5;
const FOLLOW: u8 = 6;
const HAVE_OF_LIST: u8 = 7;
const HAVE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FETCHING: u8 = 11;
const CROWD: u8 = 12;
const REVOCATIONS_KNOWN: u8 = 13;
const REVOCATIONS: u8 = 14;

/// What a frame holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// A message.
    Message(Message),
    /// Bytes of a chunk, 1 to `DATA_BYTES_MAX` (none at all only for a chunk of no bytes).
    Data(DataHeader, &'a [u8]),
}

/// The whole frame of a message, with its length in front.
pub fn encode_message(message: &Message) -> Vec<u8> {
    let mut bytes = vec![0; LENGTH_BYTES];
    message.put(&mut bytes);
    let length = (bytes.len() - LENGTH_BYTES) as u32;
    bytes[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// What stands in front of `len` bytes of data: length, kind and header. `len` is at most `DATA_BYTES_MAX`.
pub fn encode_data_prefix(header: &DataHeader, len: usize) -> [u8; DATA_PREFIX_BYTES] {
    debug_assert!(len <= DATA_BYTES_MAX, "a data frame of {len} bytes");
    let mut bytes = [0; DATA_PREFIX_BYTES];
    bytes[..4].copy_from_slice(&((DATA_HEADER_BYTES + len) as u32).to_be_bytes());
    bytes[4] = DATA;
    bytes[5..].copy_from_slice(&header.encode());
    bytes
}

/// Reads a frame without its length: kind and body. `WireError::UnknownKind` is to be skipped, all else ends the
/// connection.
pub fn decode(bytes: &[u8]) -> Result<Frame<'_>, WireError> {
    if bytes.first() != Some(&DATA) {
        return Message::decode(bytes).map(Frame::Message);
    }
    let mut reader = Reader::new(&bytes[1..]);
    let header = DataHeader::take(&mut reader)?;
    let data = reader.rest();
    if data.len() > DATA_BYTES_MAX {
        return Err(WireError::Limit {
            what: "bytes of data",
            value: data.len() as u64,
            max: DATA_BYTES_MAX as u64,
        });
    }
    Ok(Frame::Data(header, data))
}

impl DataHeader {
    /// Stream, want, chunk, offset.
    pub fn encode(&self) -> [u8; 14] {
        let mut bytes = [0; 14];
        bytes[..4].copy_from_slice(&self.stream.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.want.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.chunk.to_be_bytes());
        bytes[10..].copy_from_slice(&self.offset.to_be_bytes());
        bytes
    }

    /// Reads the first 14 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        Self::take(&mut Reader::new(bytes))
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            stream: reader.u32()?,
            want: reader.u16()?,
            chunk: reader.u32()?,
            offset: reader.u32()?,
        })
    }
}

impl Message {
    /// Kind and body of the frame, without its length.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.put(&mut bytes);
        bytes
    }

    /// Reads kind and body. Every count is checked before anything is allocated for it.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(WireError::Limit {
                what: "bytes of a frame",
                value: bytes.len() as u64,
                max: FRAME_BYTES_MAX as u64,
            });
        }
        let mut reader = Reader::new(bytes);
        let reader = &mut reader;
        let message = match reader.u8()? {
            HELLO => {
                let hello = take_hello(reader)?;
                // What a later version adds to its hello is not for this one.
                return Ok(Self::Hello(hello));
            }
            GET => Self::Get {
                stream: reader.u32()?,
                wants: take_wants(reader)?,
            },
            END => Self::End {
                stream: reader.u32()?,
                end: take_end(reader)?,
            },
            CANCEL => Self::Cancel { stream: reader.u32()? },
            FOLLOW => Self::Follow { list: reader.digest()? },
            HAVE_OF_LIST => Self::HaveOfList {
                list: reader.digest()?,
                contents: Runs::take(reader)?,
            },
            HAVE => Self::Have {
                items: take_items(reader)?,
            },
            REVOCATIONS_KNOWN => Self::RevocationsKnown(Edition {
                number: reader.u64()?,
                issued: UnixSeconds(reader.u64()?),
            }),
            REVOCATIONS => Self::Revocations {
                document: take_document(reader)?,
            },
            PING => Self::Ping { nonce: reader.u64()? },
            PONG => Self::Pong { nonce: reader.u64()? },
            FETCHING => Self::Fetching {
                items: take_items(reader)?,
            },
            CROWD => Self::Crowd {
                list: reader.digest()?,
                lacks: match reader.u8()? {
                    0 => None,
                    1 => Some(Lacks::Everything),
                    2 => Some(Lacks::These(Runs::take(reader)?)),
                    _ => return Err(WireError::Malformed("what is lacked is said in no known way")),
                },
                members: take_members(reader)?,
            },
            kind => return Err(WireError::UnknownKind(kind)),
        };
        match reader.rest() {
            [] => Ok(message),
            rest => Err(WireError::Trailing(rest.len())),
        }
    }

    fn put(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => {
                bytes.push(HELLO);
                bytes.extend_from_slice(&hello.versions.0.to_be_bytes());
                bytes.extend_from_slice(&hello.versions.1.to_be_bytes());
                bytes.extend_from_slice(&hello.port.to_be_bytes());
                put_varint(bytes, hello.proofs.len() as u64);
                for proof in &hello.proofs {
                    bytes.extend_from_slice(proof);
                }
            }
            Self::Get { stream, wants } => {
                bytes.push(GET);
                bytes.extend_from_slice(&stream.to_be_bytes());
                put_varint(bytes, wants.len() as u64);
                for want in wants {
                    bytes.extend_from_slice(want.content.as_bytes());
                    put_varint(bytes, u64::from(want.first));
                    put_varint(bytes, u64::from(want.count));
                }
            }
            Self::End { stream, end } => {
                bytes.push(END);
                bytes.extend_from_slice(&stream.to_be_bytes());
                put_end(bytes, end);
            }
            Self::Cancel { stream } => {
                bytes.push(CANCEL);
                bytes.extend_from_slice(&stream.to_be_bytes());
            }
            Self::Follow { list } => {
                bytes.push(FOLLOW);
                bytes.extend_from_slice(list.as_bytes());
            }
            Self::HaveOfList { list, contents } => {
                bytes.push(HAVE_OF_LIST);
                bytes.extend_from_slice(list.as_bytes());
                contents.put(bytes);
            }
            Self::Have { items } => {
                bytes.push(HAVE);
                put_items(bytes, items);
            }
            Self::RevocationsKnown(edition) => {
                bytes.push(REVOCATIONS_KNOWN);
                bytes.extend_from_slice(&edition.number.to_be_bytes());
                bytes.extend_from_slice(&edition.issued.0.to_be_bytes());
            }
            Self::Revocations { document } => {
                bytes.push(REVOCATIONS);
                bytes.extend_from_slice(document);
            }
            Self::Ping { nonce } => {
                bytes.push(PING);
                bytes.extend_from_slice(&nonce.to_be_bytes());
            }
            Self::Pong { nonce } => {
                bytes.push(PONG);
                bytes.extend_from_slice(&nonce.to_be_bytes());
            }
            Self::Fetching { items } => {
                bytes.push(FETCHING);
                put_items(bytes, items);
            }
            Self::Crowd { list, lacks, members } => {
                bytes.push(CROWD);
                bytes.extend_from_slice(list.as_bytes());
                match lacks {
                    None => bytes.push(0),
                    Some(Lacks::Everything) => bytes.push(1),
                    Some(Lacks::These(runs)) => {
                        bytes.push(2);
                        runs.put(bytes);
                    }
                }
                put_varint(bytes, members.len() as u64);
                for member in members {
                    bytes.extend_from_slice(&member.node.0.to_be_bytes());
                    bytes.push(member.age);
                }
            }
        }
    }
}

fn take_hello(reader: &mut Reader<'_>) -> Result<Hello, WireError> {
    let versions = (reader.u16()?, reader.u16()?);
    if versions.0 > versions.1 {
        return Err(WireError::Malformed("the lowest version is above the highest"));
    }
    let port = reader.u16()?;
    let count = reader.count("proofs", PROOFS_MAX, 32)?;
    let proofs = (0..count).map(|_| reader.array()).collect::<Result<_, _>>()?;
    Ok(Hello { versions, port, proofs })
}

fn take_document(reader: &mut Reader<'_>) -> Result<Vec<u8>, WireError> {
    let document = reader.rest();
    if document.len() > REVOCATIONS_BYTES_MAX {
        return Err(WireError::Limit {
            what: "bytes of a list of revoked nodes",
            value: document.len() as u64,
            max: REVOCATIONS_BYTES_MAX as u64,
        });
    }
    Ok(reader.take(document.len())?.to_vec())
}

fn take_wants(reader: &mut Reader<'_>) -> Result<Vec<Want>, WireError> {
    let count = reader.count("wants", WANTS_MAX, 34)?;
    if count == 0 {
        return Err(WireError::Malformed("a request wants nothing"));
    }
    (0..count)
        .map(|_| {
            let want = Want {
                content: reader.digest()?,
                first: reader.varint32()?,
                count: reader.varint32()?,
            };
            if want.count == 0 || want.first.checked_add(want.count).is_none() {
                return Err(WireError::Malformed("a want has no chunks, or ones beyond 32 bits"));
            }
            Ok(want)
        })
        .collect()
}

fn put_end(bytes: &mut Vec<u8>, end: &End) {
    match end {
        End::Done => bytes.push(0),
        End::Missing(wants) => {
            bytes.push(1);
            put_varint(bytes, wants.len() as u64);
            for want in wants {
                bytes.extend_from_slice(&want.to_be_bytes());
            }
        }
        End::Busy(instead) => {
            bytes.push(2);
            put_varint(bytes, instead.len() as u64);
            for node in instead {
                bytes.extend_from_slice(&node.0.to_be_bytes());
            }
        }
        End::Refused => bytes.push(3),
    }
}

fn take_end(reader: &mut Reader<'_>) -> Result<End, WireError> {
    Ok(match reader.u8()? {
        0 => End::Done,
        1 => {
            let count = reader.count("missing wants", WANTS_MAX, 2)?;
            End::Missing((0..count).map(|_| reader.u16()).collect::<Result<_, _>>()?)
        }
        2 => {
            let count = reader.count("nodes to ask instead", INSTEAD_MAX, 8)?;
            End::Busy((0..count).map(|_| reader.u64().map(NodeId)).collect::<Result<_, _>>()?)
        }
        3 => End::Refused,
        _ => return Err(WireError::Malformed("a request ended in no known way")),
    })
}

fn take_members(reader: &mut Reader<'_>) -> Result<Vec<Member>, WireError> {
    let count = reader.count("members of a crowd", CROWD_MAX, 9)?;
    (0..count)
        .map(|_| {
            Ok(Member {
                node: NodeId(reader.u64()?),
                age: reader.u8()?,
            })
        })
        .collect()
}

fn put_items(bytes: &mut Vec<u8>, items: &[HaveItem]) {
    put_varint(bytes, items.len() as u64);
    for item in items {
        bytes.extend_from_slice(item.content.as_bytes());
        item.chunks.put(bytes);
    }
}

fn take_items(reader: &mut Reader<'_>) -> Result<Vec<HaveItem>, WireError> {
    let count = reader.count("items", WANTS_MAX, 33)?;
    (0..count)
        .map(|_| {
            Ok(HaveItem {
                content: reader.digest()?,
                chunks: Runs::take(reader)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use potluck_model::Digest;
    use proptest::prelude::*;

    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::from_bytes([n; 32])
    }

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write;
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    #[test]
    fn bytes_of_version_1_stay_as_they_are() {
        let d = "07".repeat(32);
        let golden: Vec<(Message, String)> = vec![
            (
                Message::Hello(Hello {
                    versions: (1, 2),
                    port: 7443,
                    proofs: vec![[9; 32]],
                }),
                format!("000000280100010002{:04x}01{}", 7443, "09".repeat(32)),
            ),
            (
                Message::Get {
                    stream: 5,
                    wants: vec![Want {
                        content: digest(7),
                        first: 300,
                        count: 4,
                    }],
                },
                format!("00000029020000000501{d}ac0204"),
            ),
            (
                Message::End {
                    stream: 5,
                    end: End::Done,
                },
                "00000006040000000500".into(),
            ),
            (
                Message::End {
                    stream: 5,
                    end: End::Missing(vec![0, 258]),
                },
                "0000000b0400000005010200000102".into(),
            ),
            (
                Message::End {
                    stream: 5,
                    end: End::Busy(vec![NodeId(1)]),
                },
                "0000000f040000000502010000000000000001".into(),
            ),
            (
                Message::End {
                    stream: 5,
                    end: End::Refused,
                },
                "00000006040000000503".into(),
            ),
            (Message::Cancel { stream: 5 }, "000000050500000005".into()),
            (Message::Follow { list: digest(7) }, format!("0000002106{d}")),
            (
                Message::HaveOfList {
                    list: digest(7),
                    contents: Runs(vec![(0, 2), (10, 300)]),
                },
                format!("0000002707{d}02000208ac02"),
            ),
            (
                Message::Have {
                    items: vec![HaveItem {
                        content: digest(7),
                        chunks: Runs(vec![(1, 1)]),
                    }],
                },
                format!("000000250801{d}010101"),
            ),
            (
                Message::RevocationsKnown(Edition {
                    number: 7,
                    issued: UnixSeconds(258),
                }),
                "000000110d00000000000000070000000000000102".into(),
            ),
            (
                Message::Revocations {
                    document: b"{}".to_vec(),
                },
                "000000030e7b7d".into(),
            ),
            (Message::Ping { nonce: 258 }, "00000009090000000000000102".into()),
            (Message::Pong { nonce: 258 }, "000000090a0000000000000102".into()),
            (
                Message::Fetching {
                    items: vec![HaveItem {
                        content: digest(7),
                        chunks: Runs(vec![(1, 1)]),
                    }],
                },
                format!("000000250b01{d}010101"),
            ),
            (
                Message::Crowd {
                    list: digest(7),
                    lacks: None,
                    members: vec![Member {
                        node: NodeId(258),
                        age: 9,
                    }],
                },
                format!("0000002c0c{d}0001000000000000010209"),
            ),
            (
                Message::Crowd {
                    list: digest(7),
                    lacks: Some(Lacks::Everything),
                    members: vec![],
                },
                format!("000000230c{d}0100"),
            ),
            (
                Message::Crowd {
                    list: digest(7),
                    lacks: Some(Lacks::These(Runs(vec![(1, 1)]))),
                    members: vec![],
                },
                format!("000000260c{d}0201010100"),
            ),
        ];
        for (message, bytes) in golden {
            assert_eq!(hex(&encode_message(&message)), bytes, "{message:?}");
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
        let header = DataHeader {
            stream: 1,
            want: 2,
            chunk: 3,
            offset: 65_536,
        };
        assert_eq!(
            hex(&encode_data_prefix(&header, 2)),
            "00000011030000000100020000000300010000"
        );
    }

    #[test]
    fn unknown_kinds_can_be_told_from_broken_ones() {
        assert_eq!(Message::decode(&[200, 1, 2]), Err(WireError::UnknownKind(200)));
        assert_eq!(Message::decode(&[]), Err(WireError::Truncated));
        assert_eq!(Message::decode(&[CANCEL, 0, 0, 0, 1, 9]), Err(WireError::Trailing(1)));
    }

    #[test]
    fn a_hello_may_carry_what_a_later_version_added() {
        let hello = Message::Hello(Hello {
            versions: (1, 9),
            port: 1,
            proofs: vec![],
        });
        let mut bytes = hello.encode();
        bytes.extend_from_slice(b"more");
        assert_eq!(Message::decode(&bytes), Ok(hello));
    }

    #[test]
    fn counts_beyond_their_limits_are_refused_before_anything_is_allocated() {
        let mut bytes = vec![GET, 0, 0, 0, 1];
        put_varint(&mut bytes, u64::MAX);
        assert!(matches!(
            Message::decode(&bytes),
            Err(WireError::Limit { what: "wants", .. })
        ));
        let mut bytes = vec![GET, 0, 0, 0, 1];
        put_varint(&mut bytes, WANTS_MAX as u64);
        assert_eq!(Message::decode(&bytes), Err(WireError::Truncated));
        assert!(matches!(
            Message::decode(&vec![GET; FRAME_BYTES_MAX + 1]),
            Err(WireError::Limit { .. })
        ));
        let mut data = vec![DATA; DATA_HEADER_BYTES];
        data.extend(vec![0; DATA_BYTES_MAX + 1]);
        assert!(matches!(decode(&data), Err(WireError::Limit { .. })));
    }

    #[test]
    fn the_largest_messages_fit_a_frame() {
        let wants = vec![
            Want {
                content: digest(1),
                first: u32::MAX - 1,
                count: 1,
            };
            WANTS_MAX
        ];
        assert!(Message::Get { stream: 0, wants }.encode().len() <= FRAME_BYTES_MAX);
        let contents = Runs::of((0..potluck_model::list::ENTRIES_MAX as u32).filter(|i| i % 2 == 0));
        assert!(
            Message::HaveOfList {
                list: digest(1),
                contents
            }
            .encode()
            .len()
                <= FRAME_BYTES_MAX
        );
    }

    fn runs() -> impl Strategy<Value = Runs> {
        prop::collection::btree_set(0u32..10_000, 0..50).prop_map(Runs::of)
    }

    fn any_digest() -> impl Strategy<Value = Digest> {
        any::<[u8; 32]>().prop_map(Digest::from_bytes)
    }

    fn items() -> impl Strategy<Value = Vec<HaveItem>> {
        prop::collection::vec(
            (any_digest(), runs()).prop_map(|(content, chunks)| HaveItem { content, chunks }),
            0..20,
        )
    }

    fn message() -> impl Strategy<Value = Message> {
        let want = (any_digest(), 0u32..1 << 20, 1u32..1 << 20).prop_map(|(content, first, count)| Want {
            content,
            first,
            count,
        });
        let end = prop_oneof![
            Just(End::Done),
            Just(End::Refused),
            prop::collection::vec(any::<u16>(), 0..30).prop_map(End::Missing),
            prop::collection::vec(any::<u64>().prop_map(NodeId), 0..=16).prop_map(End::Busy),
        ];
        let lacks = prop::option::of(prop_oneof![Just(Lacks::Everything), runs().prop_map(Lacks::These)]);
        let member = (any::<u64>(), any::<u8>()).prop_map(|(node, age)| Member {
            node: NodeId(node),
            age,
        });
        let members = prop::collection::vec(member, 0..=CROWD_MAX);
        prop_oneof![
            (
                any::<u16>(),
                any::<u16>(),
                prop::collection::vec(any::<[u8; 32]>(), 0..=16)
            )
                .prop_map(|(a, port, proofs)| {
                    Message::Hello(Hello {
                        versions: (a, a.saturating_add(1)),
                        port,
                        proofs,
                    })
                }),
            (any::<u32>(), prop::collection::vec(want, 1..40))
                .prop_map(|(stream, wants)| Message::Get { stream, wants }),
            (any::<u32>(), end).prop_map(|(stream, end)| Message::End { stream, end }),
            any::<u32>().prop_map(|stream| Message::Cancel { stream }),
            any_digest().prop_map(|list| Message::Follow { list }),
            (any_digest(), runs()).prop_map(|(list, contents)| Message::HaveOfList { list, contents }),
            items().prop_map(|items| Message::Have { items }),
            items().prop_map(|items| Message::Fetching { items }),
            (any_digest(), lacks, members).prop_map(|(list, lacks, members)| Message::Crowd { list, lacks, members }),
            any::<u64>().prop_map(|nonce| Message::Ping { nonce }),
            any::<u64>().prop_map(|nonce| Message::Pong { nonce }),
        ]
    }

    proptest! {
        #[test]
        fn messages_round_trip(message in message()) {
            let frame = encode_message(&message);
            let length = u32::from_be_bytes(frame[..4].try_into().unwrap());
            prop_assert_eq!(length as usize, frame.len() - 4);
            prop_assert_eq!(decode(&frame[4..]), Ok(Frame::Message(message)));
        }

        #[test]
        fn a_message_that_was_cut_is_refused(message in message(), cut in any::<prop::sample::Index>()) {
            let bytes = message.encode();
            let end = cut.index(bytes.len());
            prop_assert!(Message::decode(&bytes[..end]).is_err());
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..14) {
            let _ = decode(&bytes);
            let mut bytes = bytes;
            bytes.insert(0, kind);
            if let Ok(Frame::Message(message)) = decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
            }
        }

        #[test]
        fn data_frames_round_trip(stream: u32, want: u16, chunk: u32, offset: u32, data in prop::collection::vec(any::<u8>(), 0..300)) {
            let header = DataHeader { stream, want, chunk, offset };
            let mut frame = encode_data_prefix(&header, data.len()).to_vec();
            frame.extend_from_slice(&data);
            prop_assert_eq!(decode(&frame[4..]), Ok(Frame::Data(header, &data[..])));
            prop_assert_eq!(DataHeader::decode(&header.encode()), Ok(header));
        }
    }
}
