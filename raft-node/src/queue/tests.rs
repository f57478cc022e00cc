//! The three doors and their bounds.

// A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use bytes::Bytes;
use raft_core::message::{Envelope, Message};
use raft_core::runs::Span;
use raft_core::types::{GroupId, Payload, Term};

use super::*;
use crate::waiters::WriteEnd;

fn queue(tune: impl FnOnce(&mut NodeConfig)) -> EventQueue {
    let mut config = NodeConfig::new("a:7082", Vec::new());
    tune(&mut config);
    EventQueue::new(&config)
}

fn command(bytes: usize) -> Proposal<Waiter> {
    let (answer, _) = oneshot::channel();
    let waiter = Waiter::Write { since: Instant::now(), answer };
    Proposal { payload: Payload::new(Bytes::from(vec![0; bytes])), deadline: Duration::ZERO, waiter }
}

fn append(bytes: usize) -> PeerMessage {
    let entry = raft_core::testing::entry(1, 1, bytes);
    let entries = Span::of(LogId::ZERO, std::slice::from_ref(&entry)).unwrap();
    let message = Message::Append { entries, commit: Index::ZERO };
    let envelope = Envelope { from: NodeId(2), to: NodeId(1), term: Term(1), message };
    PeerMessage { group: GroupId::FIRST, envelope, entries: vec![entry] }
}

fn vote() -> PeerMessage {
    let envelope = Envelope {
        from: NodeId(2),
        to: NodeId(1),
        term: Term(1),
        message: Message::Vote { last: LogId::ZERO, handover: false },
    };
    PeerMessage { group: GroupId::FIRST, envelope, entries: Vec::new() }
}

#[test]
fn commands_are_bounded_in_number_and_bytes_and_the_bound_is_named() {
    let few = queue(|config| config.queued_commands_max = 2);
    few.propose(command(1)).unwrap();
    few.propose(command(1)).unwrap();
    assert_eq!(few.propose(command(1)), Err(Refused::Full(Full("queued_commands_max"))));

    let small = queue(|config| config.queued_command_bytes_max = 100);
    small.propose(command(1000)).unwrap();
    assert_eq!(small.propose(command(1)), Err(Refused::Full(Full("queued_command_bytes_max"))));
    // What was taken makes room.
    let mut taken = Taken::default();
    assert!(!small.take(&mut taken, 10));
    assert_eq!(taken.commands.len(), 1);
    small.propose(command(1)).unwrap();
}

#[test]
fn appends_are_bounded_by_bytes_behind_the_door_too_and_votes_go_on() {
    let queue = queue(|config| config.queued_message_bytes_max = 1000);
    queue.receive(append(10), 0).unwrap();
    assert_eq!(queue.receive(append(10), 990), Err(Refused::Full(Full("queued_message_bytes_max"))));
    queue.receive(vote(), 990).unwrap();
    queue.receive(append(10), 0).unwrap();
}

#[test]
fn messages_and_reads_are_bounded_in_number_and_completions_are_always_taken() {
    let queue = queue(|config| {
        config.queued_messages_max = 1;
        config.queued_reads_max = 1;
    });
    queue.receive(vote(), 0).unwrap();
    assert_eq!(queue.receive(vote(), 0), Err(Refused::Full(Full("queued_messages_max"))));
    let waiter = || Waiter::CaughtUp { asked: Duration::ZERO };
    queue.read(ReadMode::Round, Duration::ZERO, waiter()).unwrap();
    assert_eq!(queue.read(ReadMode::Round, Duration::ZERO, waiter()), Err(Refused::Full(Full("queued_reads_max"))));
    queue.complete(Event::Applied { index: Index(1), durable: Index(0), answered: Vec::new() });
    queue.unreachable(NodeId(2));
    queue.unreachable(NodeId(2));
    let mut taken = Taken::default();
    assert!(!queue.take(&mut taken, 10));
    assert_eq!(taken.events.len(), 4, "said once: {:?}", taken.events);
    queue.unreachable(NodeId(2));
    queue.receive(vote(), 0).unwrap();
}

#[test]
fn a_closed_queue_gives_back_what_waits_and_takes_nothing() {
    let queue = queue(|_| {});
    queue.propose(command(1)).unwrap();
    queue.complete(Event::Stop);
    let left = queue.close();
    assert_eq!((left.commands.len(), left.events.len()), (1, 1));
    assert_eq!(queue.propose(command(1)), Err(Refused::Closed));
    assert_eq!(queue.receive(vote(), 0), Err(Refused::Closed));
    queue.complete(Event::Stop);
    let mut taken = Taken::default();
    assert!(!queue.take(&mut taken, 10) && taken.events.is_empty());
}

/// What was applied is certain, also when the driver is not there any more to say so.
#[test]
fn who_was_answered_is_told_though_the_queue_is_closed() {
    let queue = queue(|_| {});
    let end = || WriteEnd::Unknown { token: LogId::ZERO };
    let applied = |caller| {
        let answered = vec![Answered { caller, end: end() }];
        Event::Applied { index: Index(1), durable: Index(0), answered }
    };
    let (caller, mut before) = oneshot::channel();
    queue.complete(applied(caller));
    queue.close().tell_answered();
    assert!(before.try_recv().is_ok(), "it waited in the queue when that was closed");
    let (caller, mut after) = oneshot::channel();
    queue.complete(applied(caller));
    assert!(after.try_recv().is_ok(), "it came when the queue was closed");
}

#[test]
fn a_round_takes_no_more_than_its_bound_and_says_that_more_is_left() {
    let queue = queue(|_| {});
    for _ in 0..5 {
        queue.propose(command(1)).unwrap();
    }
    let mut taken = Taken::default();
    assert!(queue.take(&mut taken, 3));
    assert_eq!(taken.commands.len(), 3);
    taken.commands.clear();
    assert!(!queue.take(&mut taken, 3));
    assert_eq!(taken.commands.len(), 2);
}
