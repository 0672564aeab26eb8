//! What rtnetlink messages say (rtnetlink(7)): which interfaces run, and which addresses there are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Change;

/// Kinds of messages, `linux/netlink.h` and `linux/rtnetlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
pub(super) const RTM_GETADDR: u16 = 22;
/// Flags of requests.
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
/// The message is part of a dump.
const NLM_F_MULTI: u16 = 2;
/// Flags of interfaces: the administrator wants it up, and it can carry packets.
const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 0x40;
/// Flags of addresses: not usable yet, or not at all, since another host may have it.
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_DADFAILED: u32 = 0x08;
/// Attributes of addresses.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Bytes of a message's header, and of what follows for links and addresses.
const HEADER_BYTES: usize = 16;
const LINK_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
/// The most interfaces and addresses that are remembered.
const TABLE_MAX: usize = 4_096;

/// A request for all links or all addresses.
pub(super) fn dump_request(kind: u16, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + 4);
    bytes.extend_from_slice(&(HEADER_BYTES as u32 + 4).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    // All families, and three bytes of padding.
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// What one datagram of messages brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct News {
    /// The most telling change.
    pub(super) change: Option<Change>,
    /// Whether the dump with this number has ended, and if so, whether well.
    pub(super) dump_ended: Option<Result<u32, i32>>,
}

/// What is known of links and addresses.
#[derive(Default)]
pub(super) struct State {
    /// Whether each interface runs, by index.
    links: BTreeMap<i32, bool>,
    addresses: BTreeSet<(u32, IpAddr)>,
}

impl State {
    /// Takes in the messages of one datagram. What is in a dump is what was there already, and no change.
    pub(super) fn take(&mut self, mut datagram: &[u8]) -> News {
        let mut news = News::default();
        while let Some(message) = Message::split(&mut datagram) {
            let change = match message.kind {
                RTM_NEWLINK => self.link(message.body),
                RTM_DELLINK => self.link_gone(message.body),
                RTM_NEWADDR => self.address(message.body, true),
                RTM_DELADDR => self.address(message.body, false),
                NLMSG_DONE => {
                    news.dump_ended = Some(Ok(message.sequence));
                    None
                }
                NLMSG_ERROR => {
                    let code = message.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    news.dump_ended = Some(Err(code));
                    None
                }
                _ => None,
            };
            let change = change.filter(|_| !message.dumped);
            news.change = match (news.change, change) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        }
        news
    }

    /// Forgets all, before everything is asked for again.
    pub(super) fn clear(&mut self) {
        self.links.clear();
        self.addresses.clear();
    }

    fn link(&mut self, body: &[u8]) -> Option<Change> {
        let (index, flags) = link_of(body)?;
        let runs = flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING;
        if self.links.len() >= TABLE_MAX && !self.links.contains_key(&index) {
            return None;
        }
        let ran = self.links.insert(index, runs).unwrap_or(false);
        (runs && !ran).then_some(Change::LinkUp)
    }

    fn link_gone(&mut self, body: &[u8]) -> Option<Change> {
        let (index, _) = link_of(body)?;
        self.links.remove(&index);
        None
    }

    fn address(&mut self, body: &[u8], there: bool) -> Option<Change> {
        let (head, attributes) = body.split_first_chunk::<ADDRESS_BYTES>()?;
        let [family, _, flags, _, index @ ..] = *head;
        let index = u32::from_ne_bytes(index);
        let mut flags = u32::from(flags);
        let (mut address, mut local) = (None, None);
        for (kind, value) in Attributes(attributes) {
            match kind {
                IFA_ADDRESS => address = ip(family, value),
                IFA_LOCAL => local = ip(family, value),
                IFA_FLAGS => flags = value.first_chunk().map_or(flags, |flags| u32::from_ne_bytes(*flags)),
                _ => {}
            }
        }
        // On point-to-point links the address is that of the other end.
        let ip = local.or(address)?;
        let usable = there && flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) == 0;
        let changed = if usable {
            self.addresses.len() < TABLE_MAX && self.addresses.insert((index, ip))
        } else {
            self.addresses.remove(&(index, ip))
        };
        changed.then_some(Change::AddressChanged)
    }
}

/// Index and flags of an interface.
fn link_of(body: &[u8]) -> Option<(i32, u32)> {
    let head = body.first_chunk::<LINK_BYTES>()?;
    let index = head[4..].first_chunk()?;
    let flags = head[8..].first_chunk()?;
    Some((i32::from_ne_bytes(*index), u32::from_ne_bytes(*flags)))
}

fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        AF_INET6 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// One message of a datagram.
struct Message<'a> {
    kind: u16,
    dumped: bool,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Takes the first message off `bytes`; what is malformed ends the datagram.
    fn split(bytes: &mut &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        let len = u32::from_ne_bytes(*header.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*header[4..].first_chunk()?);
        let dumped = u16::from_ne_bytes(*header[6..].first_chunk()?) & NLM_F_MULTI != 0;
        let sequence = u32::from_ne_bytes(*header[8..].first_chunk()?);
        let body = bytes.get(HEADER_BYTES..len)?;
        *bytes = bytes.get(aligned(len)..).unwrap_or_default();
        Some(Self {
            kind,
            dumped,
            sequence,
            body,
        })
    }
}

/// Attributes: `u16` length with this head, `u16` kind, value, padding to four bytes.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16::from_ne_bytes(*self.0.first_chunk()?));
        let kind = u16::from_ne_bytes(*self.0.get(2..)?.first_chunk()?);
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(aligned(len)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    /// What the kernel said (Linux 6, `unshare -Urn`) while a pair of veth interfaces v0 and v1 was made and changed.
    fn recorded() -> Vec<(&'static str, Vec<u8>)> {
        include_str!("fixtures/veth.txt")
            .lines()
            .map(|line| {
                let (label, hex) = line.split_once(' ').unwrap();
                (label, data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap())
            })
            .collect()
    }

    #[test]
    fn only_links_that_come_up_and_addresses_that_differ_are_changes() {
        let mut state = State::default();
        let changes: Vec<_> = recorded()
            .iter()
            .filter_map(|(label, datagram)| Some((*label, state.take(datagram).change?)))
            .collect();
        assert_eq!(
            changes,
            [
                // Without the other end, v0 did not run.
                ("v1up", Change::LinkUp),
                ("v1up", Change::LinkUp),
                ("addr4", Change::AddressChanged),
                // The link-local addresses, usable once nobody else claimed them.
                ("addr4", Change::AddressChanged),
                ("addr4", Change::AddressChanged),
                // A new lifetime is no change; a tentative address neither.
                ("addr6", Change::AddressChanged),
                ("v1down", Change::AddressChanged),
                ("del4", Change::AddressChanged),
            ]
        );
    }

    #[test]
    fn what_a_dump_says_was_there_before() {
        let mut state = State::default();
        for (_, mut datagram) in recorded() {
            datagram[6] |= NLM_F_MULTI as u8;
            assert_eq!(state.take(&datagram).change, None);
        }
        let again = &recorded()[11].1;
        assert_eq!(state.take(again).change, None, "and said again it is no change");
    }

    #[test]
    fn messages_cut_anywhere_do_no_harm() {
        for (_, datagram) in recorded() {
            for end in 0..datagram.len() {
                State::default().take(&datagram[..end]);
            }
        }
    }

    #[test]
    fn the_end_of_a_dump_and_errors_are_told() {
        let mut done = dump_request(NLMSG_DONE, 7);
        assert_eq!(State::default().take(&done).dump_ended, Some(Ok(7)));
        done[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        done[16..20].copy_from_slice(&(-16_i32).to_ne_bytes());
        assert_eq!(State::default().take(&done).dump_ended, Some(Err(-16)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            State::default().take(&bytes);
        }
    }
}
