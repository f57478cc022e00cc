//! Messages to bytes and back, as the lanes do it.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use raft_core::message::{Envelope, Message, PeerMessage};
use raft_core::runs::{Span, TermRun};
use raft_core::types::{Entry, EntryKind, GroupId, Index, LogId, NodeId, Payload, Term};
use raft_net_quic::Limits;
use raft_net_quic::measured;

use crate::Once;
use crate::members::{Anything, PAYLOAD_BYTES};

fn message(message: Message, entries: Vec<Entry>) -> PeerMessage {
    let envelope = Envelope { from: NodeId(1), to: NodeId(2), term: Term(3), message };
    PeerMessage { group: GroupId::FIRST, envelope, entries }
}

/// An append of so many entries.
pub(crate) fn append(count: u64) -> PeerMessage {
    let payload = Payload::new(Bytes::from(vec![b'v'; PAYLOAD_BYTES]));
    let (before, last) = (1_000_000, 1_000_000 + count);
    let entry =
        |index| Entry { id: LogId::new(Index(index), Term(3)), kind: EntryKind::Command, payload: payload.clone() };
    let entries: Vec<Entry> = (before + 1..=last).map(entry).collect();
    let span = Span {
        prev: LogId::new(Index(before), Term(3)),
        runs: vec![TermRun { term: Term(3), last: Index(last) }],
        bytes: entries.iter().map(Entry::size).sum(),
        configurations: Vec::new(),
    };
    message(Message::Append { entries: span, commit: Index(before) }, entries)
}

/// The answer to one.
pub(crate) fn accepted() -> PeerMessage {
    message(Message::AppendAccepted { matched: Index(1_000_064) }, Vec::new())
}

/// Puts a message into the pieces that go to QUIC.
pub(crate) fn encode(message: PeerMessage) -> Once {
    let (limits, messages) = (Limits::default(), [message]);
    Box::new(move || {
        let pieces = measured::encode(&messages, &limits).ok_or("the message breaks the limits")?;
        black_box(pieces);
        Ok(())
    })
}

/// Takes a message out of what came from QUIC.
pub(crate) fn decode(message: &PeerMessage) -> Result<Once, Anything> {
    let limits = Limits::default();
    let pieces = measured::encode(std::slice::from_ref(message), &limits).ok_or("the message breaks the limits")?;
    let frame = pieces.concat();
    Ok(Box::new(move || {
        let mut buffer = BytesMut::from(&frame[..]);
        let mut messages = 0;
        let sound = measured::decode(&mut buffer, &limits, |message| {
            black_box(message);
            messages += 1;
        });
        if sound && messages == 1 { Ok(()) } else { Err("what was encoded is no frame".into()) }
    }))
}
