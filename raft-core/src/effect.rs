//! All that a core can ask for.

use std::sync::Arc;

use crate::handover::{HandedOver, HandoverRefused};
use crate::membership::{ChangeRefusal, Configuration};
use crate::message::Envelope;
use crate::reads::ReadMode;
use crate::snapshot::SnapshotMeta;
use crate::types::{HardState, Index, LogId, NodeId, Term, Ticket, WriteId};

/// What to do, in this order, before the next event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make this durable, after everything asked before.
    Persist(Write),
    /// Send this now: whatever it promises is durable already.
    Send(Envelope),
    /// Apply these committed entries, which are durable here.
    Apply(Apply),
    /// Drop the beginning of the log up to here, after everything asked before: it is applied durably.
    Compact {
        /// The last index to drop.
        upto: Index,
    },
    /// A follower needs what this log does not hold any more: send it a snapshot, and tell how that goes by
    /// [`Event::Transfer`](crate::event::Event::Transfer). Asked again, it begins again.
    SendSnapshot {
        /// Whom.
        to: NodeId,
    },
    /// This snapshot is installed in the log: put its state in the place of the present one, after everything that was
    /// handed to the applier before, and tell by [`Event::Restored`](crate::event::Event::Restored).
    Restore(SnapshotMeta),
    /// These commands will never be applied.
    Reject {
        /// The first ticket.
        first: Ticket,
        /// How many.
        count: u64,
        /// Why.
        why: Rejection,
    },
    /// The read may be answered from a state that has applied `index`.
    ReadReady {
        /// Which read.
        ticket: Ticket,
        /// What the state must have applied.
        index: Index,
        /// How it was confirmed.
        mode: ReadMode,
    },
    /// A change of the members was begun: its first entry is in this step's write.
    ChangeBegun {
        /// Who asked for it.
        ticket: Ticket,
        /// The entry.
        entry: LogId,
    },
    /// A change of the members is through.
    Changed {
        /// Who asked for it.
        ticket: Ticket,
        /// The committed entry that ended it.
        index: Index,
    },
    /// A change of the members is not made, or was cancelled.
    ChangeRefused {
        /// Who asked for it.
        ticket: Ticket,
        /// Why.
        why: ChangeRefusal,
    },
    /// This node leads no more, and the change goes on or does not.
    ChangeUnknown {
        /// Who asked for it.
        ticket: Ticket,
    },
    /// Another configuration is in force, or the one in force is committed now.
    Configuration {
        /// The one in force.
        configuration: Arc<Configuration>,
        /// Whether it is committed, as far as this node knows.
        committed: bool,
    },
    /// This node is no member any more: the configuration of this committed entry leaves it out. Said once.
    Removed {
        /// The entry.
        configuration: Index,
    },
    /// What became of a handover, for one who asked for it.
    Handover {
        /// Who asked.
        ticket: Ticket,
        /// Who leads now, or why the leadership did not go where it should.
        result: Result<HandedOver, HandoverRefused>,
    },
    /// A peer sent what no correct peer sends; it was dropped.
    Refused {
        /// Who.
        from: NodeId,
        /// What.
        reason: &'static str,
    },
}

/// A durable batch: all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// Its name, never used again in this process life.
    pub id: WriteId,
    /// The new term and vote.
    pub hard_state: Option<HardState>,
    /// The commit index, when it moved since the last write.
    pub commit: Option<Index>,
    /// This snapshot takes the place of all entries up to its last one, first.
    pub snapshot: Option<SnapshotMeta>,
    /// Drop this index and all after it, then.
    pub truncate_from: Option<Index>,
    /// Then append these.
    pub append: Option<Append>,
    /// Then let these go. Votes and acknowledgements leave nowhere else, unless what they promise is durable already.
    pub release: Vec<Envelope>,
}

impl Write {
    /// Whether nothing would change on disk.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hard_state.is_none() && self.snapshot.is_none() && self.truncate_from.is_none() && self.append.is_none()
    }
}

/// Entries to append, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append {
    /// The first index.
    pub first: Index,
    /// The last index.
    pub last: Index,
    /// Where they come from.
    pub source: Source,
}

/// Where the entries of an [`Append`] come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The no-op that opens this leader's term.
    Noop {
        /// The term.
        term: Term,
    },
    /// The commands (or the mark) of the event that was just stepped, from the first on.
    Proposed {
        /// The term.
        term: Term,
    },
    /// The configuration that is in force now.
    Configuration {
        /// The term.
        term: Term,
    },
    /// The entries of the message that was just stepped.
    Received,
}

/// Committed entries to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apply {
    /// The first index.
    pub first: Index,
    /// The last index.
    pub last: Index,
    /// Who waits for which of them, in rising order of index.
    pub tickets: Vec<TicketRun>,
}

/// Commands with neighbouring tickets at neighbouring indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TicketRun {
    /// The first entry.
    pub first: LogId,
    /// Its ticket; the next entry has the next ticket.
    pub ticket: Ticket,
    /// How many.
    pub count: u64,
}

/// Why a command was not taken, or a read not served. Nothing of it will ever be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// This node does not lead; try the leader, if it is known.
    #[error("this node is not the leader")]
    NotLeader,
    /// A bound is reached; try again later.
    #[error("{bound} is reached")]
    Overloaded {
        /// Which setting.
        bound: &'static str,
    },
    /// The leadership is being handed over; try again in a moment, at the leader that is known then.
    #[error("the leadership is being handed over")]
    HandingOver,
    /// The deadline came first.
    #[error("the deadline passed first")]
    Deadline,
    /// The node is stopping, or its disk failed.
    #[error("the node is stopping, or its disk failed")]
    Stopping,
    /// A committed entry of another leader stands where this one was appended.
    #[error("another leader's entry was committed instead")]
    Overwritten,
}
