//! What the agent hands to the executing process, and how it travels over the pipe.

use std::io::{self, BufRead, Read};
use std::path::PathBuf;

use potluck_model::api::ReleaseTrust;
use potluck_model::assignment::{Assignment, Root, Signed};
use potluck_model::{Digest, Location, NodeId};
use serde::{Deserialize, Serialize};

/// The most bytes of a job on the pipe.
pub const JOB_BYTES_MAX: u64 = 256 << 20;
/// The most bytes of a control line.
const CONTROL_BYTES_MAX: u64 = 4 << 10;

/// One run that the agent asks for. Nothing in it is believed before it is verified.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The document that names the keys.
    pub root: Root,
    /// Its digest. The first job pins it; a later job with another one is refused.
    pub root_digest: Digest,
    /// This node. Pinned like the root.
    pub node: NodeId,
    /// What is assigned to it.
    pub assignment: Signed<Assignment>,
    /// What publishers have signed, where the root demands it.
    #[serde(default)]
    pub trust: Option<ReleaseTrust>,
    /// Where the list lies.
    pub list: Location,
    /// Where the contents lie that this machine needs (see `usable`), but for those that were told of before.
    pub contents: Vec<(Digest, Location)>,
    /// The directory under which paths of the machine are (`--root`).
    pub machine_root: PathBuf,
    /// The fleet is halted: no step may start.
    pub halted: bool,
}

/// Some or all of a content has been stored, while the rest of the release is still being fetched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Arrival {
    /// The content.
    pub digest: Digest,
    /// Where it lies, or what is stored of it.
    pub at: Location,
    /// For a content that is cut into chunks: what of it is there. None: it is there whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// Chunks of a content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Where the content's chunk list lies.
    pub chunk_list: Location,
    /// Runs `(first, count)` of chunks that are there, beside those that were told of before.
    pub chunks: Vec<(u32, u32)>,
}

/// A line of the agent; `Arrived` and `Execute` may follow `Stage`, and control lines `Execute`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order<'a> {
    /// This release is being fetched: what arrives of it can be staged. No step starts, and nothing is changed.
    Stage(&'a Job),
    /// Something of it has arrived.
    Arrived(&'a [Arrival]),
    /// Everything is there.
    Execute(&'a Job),
    /// Publishers have signed anew: finds out whether that is believed, and executes nothing.
    Verify(&'a Job),
}

/// An `Order` as the executing process has it.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Received {
    Stage(Box<Job>),
    Arrived(Vec<Arrival>),
    Execute(Box<Job>),
    Verify(Box<Job>),
}

/// A line that the agent may send after `Order::Execute`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Control {
    /// No further step starts; the one that runs is finished.
    #[serde(default)]
    pub(crate) halt: bool,
}

/// One JSON document and the line's end. Fails if a path is not UTF-8.
pub(crate) fn to_line<T: Serialize>(document: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    Ok(line)
}

/// The next order; `None` at the end of the pipe.
pub(crate) fn read_order(input: &mut impl BufRead) -> io::Result<Option<Received>> {
    match read_line(input, JOB_BYTES_MAX)? {
        Some(line) => Ok(Some(serde_json::from_slice(&line)?)),
        None => Ok(None),
    }
}

/// The next control line; `None` at the end of the pipe.
pub(crate) fn read_control(input: &mut impl BufRead) -> io::Result<Option<Control>> {
    match read_line(input, CONTROL_BYTES_MAX)? {
        Some(line) => Ok(Some(serde_json::from_slice(&line)?)),
        None => Ok(None),
    }
}

fn read_line(input: &mut impl BufRead, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    input.by_ref().take(bytes_max).read_until(b'\n', &mut line)?;
    if line.len() as u64 == bytes_max && line.last() != Some(&b'\n') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a line has more than {bytes_max} bytes"),
        ));
    }
    Ok((!line.is_empty()).then_some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_lines_end_with_the_pipe() {
        let mut input: &[u8] = b"{\"halt\":true}\n";
        assert_eq!(read_control(&mut input).unwrap(), Some(Control { halt: true }));
        assert_eq!(read_control(&mut input).unwrap(), None);
    }

    #[test]
    fn a_line_without_end_is_refused_at_its_limit() {
        let mut input = io::BufReader::new(io::repeat(b'a'));
        assert_eq!(read_control(&mut input).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
