//! All that can happen to a core.

use std::time::Duration;

use crate::message::Envelope;
use crate::types::{Index, NodeId, Ticket, WriteId};

/// What the clocks said **after** an event was taken from its queue, read anew for every event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// A clock that never goes back, since any origin (`CLOCK_MONOTONIC`).
    pub monotonic: Duration,
}

/// One thing that happened. Give it to [`Raft::step`](crate::raft::Raft::step), then carry out every effect before the
/// next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// `count` commands of `bytes` in all want to be appended. Their tickets are `first`, `first + 1`, ...
    Propose {
        /// The first ticket.
        first: Ticket,
        /// How many commands.
        count: u64,
        /// Sum of [`Entry::size`](crate::types::Entry::size).
        bytes: u64,
    },
    /// Somebody wants to read linearizably.
    Read {
        /// Who.
        ticket: Ticket,
    },
    /// A peer's message.
    Receive(Envelope),
    /// The write and all before it are durable.
    Persisted(WriteId),
    /// A write failed. There is no way back but a restart through recovery.
    StorageFailed,
    /// The state machine has applied up to here.
    Applied(Index),
    /// What was sent to this peer may be lost.
    Unreachable(NodeId),
}
