//! What the agent asks of the keeper and what it answers, over a pair of Unix sockets: frames of a length (4 bytes, little
//! endian) and so many bytes of JSON. With an answer may come a file descriptor.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::tail::{Position, Record};

/// The most bytes of a request. All of them are small.
pub(super) const REQUEST_BYTES_MAX: u32 = 4 << 10;
/// The most bytes of an answer: records of the journal, of which one `Tail::poll` gives about a mebibyte.
pub(super) const ANSWER_BYTES_MAX: u32 = 16 << 20;

const LENGTH_BYTES: usize = 4;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Request {
    /// Start an executing process. With the answer comes the pipe for its job.
    Start,
    /// Has it ended?
    Finished { process: u32 },
    /// What is new in the journal since?
    Poll { position: Position },
    /// Does an executing process work, whoever started it?
    Running,
    /// No further step may start.
    Halt,
    /// What did the last executing process say on stderr?
    LastWords,
    /// Remove what a process that died had copied ahead.
    DiscardStaged,
    /// This machine joins as another node: believe no more that it is the one that it was.
    Forget,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    Done,
    Started {
        process: u32,
    },
    /// As wait(2) has it; none: it has not ended.
    Finished {
        status: Option<i32>,
    },
    Records {
        records: Vec<Record>,
        position: Position,
    },
    Running {
        running: bool,
    },
    Words {
        words: String,
    },
    Fault {
        why: String,
    },
}

pub(super) fn send<T: Serialize>(
    mut stream: &UnixStream,
    document: &T,
    with: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(document)?;
    let mut length = &(bytes.len() as u32).to_le_bytes()[..];
    if let Some(fd) = with {
        let fds = [fd];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let sent = sendmsg(stream, &[IoSlice::new(length)], &mut ancillary, SendFlags::NOSIGNAL)?;
        length = &length[sent..];
    }
    stream.write_all(length)?;
    stream.write_all(&bytes)
}

/// `None`: the other end is closed.
pub(super) fn receive<T: DeserializeOwned>(
    mut stream: &UnixStream,
    bytes_max: u32,
) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut length = [0; LENGTH_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut length)];
        match recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?.bytes,
        }
    };
    if received == 0 {
        return Ok(None);
    }
    let with = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    stream.read_exact(&mut length[received..])?;
    let length = u32::from_le_bytes(length);
    if length > bytes_max {
        let why = format!("a frame of {length} bytes, more than {bytes_max}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes)?;
    Ok(Some((serde_json::from_slice(&bytes)?, with)))
}
