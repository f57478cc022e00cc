//! All that can happen to a core.

use std::time::Duration;

use crate::membership::Change;
use crate::message::Envelope;
use crate::reads::ReadMode;
use crate::snapshot::{SnapshotMeta, Transfer};
use crate::types::{Index, LogId, NodeId, Term, Ticket, WriteId};

/// What the clocks said **after** an event was taken from its queue, read anew for every event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// A clock that never goes back, since any origin (`CLOCK_MONOTONIC`).
    pub monotonic: Duration,
    /// A clock that goes on while the machine sleeps, since any origin (`CLOCK_BOOTTIME`). Holders of read leases go by
    /// it.
    pub boottime: Duration,
}

impl Now {
    /// Both clocks say the same, as on a machine that never sleeps.
    #[must_use]
    pub fn at(both: Duration) -> Self {
        Self { monotonic: both, boottime: both }
    }
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
    /// Somebody wants other members.
    ChangeMembership {
        /// Who.
        ticket: Ticket,
        /// What.
        change: Change,
    },
    /// Somebody wants to read linearizably.
    Read {
        /// Who.
        ticket: Ticket,
        /// How it may be confirmed.
        mode: ReadMode,
    },
    /// A peer's message.
    Receive(Envelope),
    /// The write and all before it are durable.
    Persisted(WriteId),
    /// A write failed. There is no way back but a restart through recovery.
    StorageFailed,
    /// The state machine has applied up to `index`, and would still have applied up to `durable` after a loss of power.
    Applied {
        /// The last entry applied.
        index: Index,
        /// The last one that is durable in the state.
        durable: Index,
    },
    /// A snapshot from the leader of `term` is here, whole, verified and durable.
    SnapshotReceived {
        /// Who sent it.
        from: NodeId,
        /// The term in which it was offered.
        term: Term,
        /// What it is.
        meta: SnapshotMeta,
    },
    /// The state of the snapshot that was installed is in place: this is what is applied now.
    Restored(LogId),
    /// How the snapshot that was asked for fares. \[[`Effect::SendSnapshot`](crate::effect::Effect::SendSnapshot)\]
    Transfer {
        /// Whom it is for.
        to: NodeId,
        /// How it goes.
        transfer: Transfer,
    },
    /// Somebody wants this follower to have a snapshot, though the log may hold all that it needs.
    SnapshotWanted {
        /// Who shall have it.
        to: NodeId,
    },
    /// This replica's state differs from that of the others, or does not any more: while it does it leads only in order
    /// to hand over, and serves nobody.
    Fenced(bool),
    /// This replica's state is to be replaced by that of a snapshot: nothing is applied to it any more, and the next
    /// snapshot is installed even where the log needs none.
    Rebuild,
    /// Somebody wants another node to lead.
    HandOver {
        /// Who.
        ticket: Ticket,
        /// Whom; the best there is if nobody is named.
        to: Option<NodeId>,
    },
    /// This node is drained, or not any more: meanwhile it hands over what it leads, and is handed nothing.
    Drained(bool),
    /// What was sent to this peer may be lost.
    Unreachable(NodeId),
}
