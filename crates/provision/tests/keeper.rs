//! An agent without privileges has the keeper start executing processes, and gets no further than that.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use common::Node;
use potluck_model::trace::{Outcome, What};
use potluck_provision::{Executor, Job, Keeper, Position, Provisioner, Record, Tail};

fn keep(node: &Node, may_forget: bool) -> (UnixStream, JoinHandle<std::io::Result<()>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let keeper = Keeper {
        program: env!("CARGO_BIN_EXE_potluck-execute").into(),
        args: Vec::new(),
        dir: node.dir(),
        may_forget,
    };
    (ours, std::thread::spawn(move || keeper.serve(&theirs)))
}

fn end(mut executor: Executor) {
    assert!(executor.wait().unwrap().success());
}

#[test]
fn what_is_executed_for_the_agent_is_reported_to_it() {
    let node = Node::new();
    let list = node.release(1).script("hello", "echo hello").list();
    let (stream, thread) = keep(&node, false);
    let agent = Provisioner::new(stream);
    assert!(!agent.running().unwrap());
    end(agent.start(&node.job(&list)).unwrap());
    let (mut position, mut outcomes) = (Position::default(), Vec::new());
    loop {
        let (records, next) = agent.poll(position).unwrap();
        if records.is_empty() {
            break;
        }
        position = next;
        outcomes.extend(records.into_iter().filter_map(|record| match record.what {
            What::StepEnded { outcome, .. } => Some(outcome),
            _ => None,
        }));
    }
    assert_eq!(outcomes, [Outcome::Changed]);
    assert_eq!(agent.last_words(), "");
    agent.discard_staged().unwrap();
    // Only an operator's join string makes it another node.
    assert!(agent.forget().is_err() && node.dir().join("trust.json").exists());
    drop(agent);
    thread.join().unwrap().unwrap();
    let (stream, _thread) = keep(&node, true);
    Provisioner::new(stream).forget().unwrap();
    assert!(!node.dir().join("trust.json").exists());
}

#[test]
fn an_agent_that_was_broken_into_is_not_understood_and_nothing_is_started() {
    let requests: [&[u8]; 4] = [
        &[0xff; 64],
        b"\x0d\0\0\0{\"finished\":1}",
        b"\x1d\0\0\0{\"start\":{\"program\":\"/bin/sh\"}}",
        b"\x07\0\0\0\"start\"\x02\0\0\0[]",
    ];
    for request in requests {
        let node = Node::new();
        let (mut stream, thread) = keep(&node, false);
        stream.write_all(request).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
        assert!(thread.join().unwrap().is_err(), "{request:?}");
        assert!(!node.dir().join("trust.json").exists());
    }
}
