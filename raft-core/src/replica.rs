//! The ordering glue: one member of one group, as one single-threaded value without threads, clocks or sockets.
//!
//! [`Raft`](crate::raft::Raft) decides; `Replica` keeps what it decides about: the payloads of proposals, the cache of
//! entries, the callers that wait. The driver of `raft-node` gives it threads and sockets, the simulator gives it a
//! heap of events. Both do what its [`Output`]s say, in their order, before the next [`Input`].

use std::time::Duration;

use bytes::Bytes;

use crate::message::{Envelope, PeerMessage};
use crate::ports::{LogReader, LogWrite, ReadError};
use crate::types::{Entry, Index, LogId, NodeId, Payload, Term, WriteId};

/// What the clocks said **after** an event was taken from its queue, read anew for every event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// A clock that never goes back, since any origin (`CLOCK_MONOTONIC`).
    pub monotonic: Duration,
}

/// A command with the caller that waits for its answer.
#[derive(Debug)]
pub struct Proposal<W> {
    /// The command.
    pub payload: Payload,
    /// When the caller stops waiting ([`Now::monotonic`]).
    pub deadline: Duration,
    /// The caller.
    pub waiter: W,
}

/// All that can happen to a replica.
#[derive(Debug)]
pub enum Input<W> {
    /// Time passed. Give one at least when [`Replica::deadline`] has come.
    Tick,
    /// Commands, in order.
    Propose(Vec<Proposal<W>>),
    /// A linearizable read: wait until this replica may serve it.
    Read {
        /// When the caller stops waiting.
        deadline: Duration,
        /// The caller.
        waiter: W,
    },
    /// A message from a peer.
    Receive(PeerMessage),
    /// A write is durable, or failed for good.
    Persisted {
        /// Which.
        write: WriteId,
        /// `Err` stops this replica for good.
        result: Result<(), String>,
    },
    /// The state machine has applied up to here.
    Applied {
        /// The last index.
        index: Index,
    },
    /// What was sent to this peer may be lost.
    Unreachable(NodeId),
    /// A [`Fill`] could not be completed.
    FillFailed {
        /// Whom it was for.
        to: NodeId,
    },
}

/// A durable batch and the messages that it lets go.
#[derive(Debug, PartialEq, Eq)]
pub struct Persist {
    /// For the log store. May be empty: then it only keeps its place in the order.
    pub write: LogWrite,
    /// Send these once this write and all before it are durable, and not before.
    pub release: Vec<Envelope>,
}

/// Committed entries to apply, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct ApplyBatch<W> {
    /// The first index.
    pub first: Index,
    /// The last index.
    pub last: Index,
    /// The entries, or none of them: then read them from the log (they are durable).
    pub entries: Vec<Entry>,
    /// Who waits for the answer to which entry, in rising order.
    pub waiters: Vec<(Index, W)>,
}

/// An append whose entries are not all in memory. Complete it on a thread that may read the disk, then send it; until
/// then, keep later messages with entries to the same peer behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// The append without its entries.
    pub message: PeerMessage,
    /// Entries from the end of the span that were in memory, which may be ahead of the disk.
    pub tail: Vec<Entry>,
}

/// Why a [`Fill`] was dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// The entries are not those that the append names (a truncation came first): the message must not be sent.
    #[error("the log changed meanwhile")]
    Stale,
    /// They cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why a command was not taken, or a read not served. Nothing was appended anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// This node does not lead; try the leader, if it is known.
    #[error("this node is not the leader")]
    NotLeader,
    /// A bound is reached; try again later.
    #[error("{bound} is reached")]
    Overloaded {
        /// Which bound of the config.
        bound: &'static str,
    },
    /// The deadline came first.
    #[error("the deadline passed first")]
    Deadline,
    /// The node is stopping, or its disk failed.
    #[error("the node is stopping")]
    Stopping,
    /// A committed entry of another leader stands where this one was appended.
    #[error("another leader's entry was committed instead")]
    Overwritten,
}

/// What a waiter is told by the replica itself. That a command was applied it hears from the applier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not applied, now and for ever.
    Rejected {
        /// Why.
        why: Rejection,
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// The command was appended as this entry, and may be committed or not.
    Unknown {
        /// Its name, to ask for later with [`Replica::outcome`].
        token: LogId,
    },
    /// This replica has applied everything that a linearizable read must see.
    ReadReady {
        /// The index that the read must reflect at least.
        index: Index,
        /// The term in which it was confirmed.
        term: Term,
    },
}

/// All that a replica can ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<W> {
    /// Give this to the log store's thread, in order.
    Persist(Persist),
    /// Send this now.
    Send(PeerMessage),
    /// Complete this from the log, then send it.
    Fill(Fill),
    /// Give this to the applier, in order.
    Apply(ApplyBatch<W>),
    /// Tell a waiter.
    Answer {
        /// Whom.
        waiter: W,
        /// What.
        answer: Answer,
    },
    /// A peer sent what no correct peer sends; it was dropped. Count it and log it once per peer and reason.
    Refused {
        /// Who.
        from: NodeId,
        /// What.
        reason: &'static str,
    },
}

/// What became of a write whose outcome was unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was committed and is applied here.
    Applied,
    /// A committed entry of another term stands at its index: it never will be.
    NotApplied,
    /// This node cannot tell yet.
    NotKnownYet,
}

impl Fill {
    /// Reads the missing entries and checks that they are exactly those that the append names.
    ///
    /// # Errors
    /// When the log has changed meanwhile or cannot be read: nothing may be sent then, and the replica is told by
    /// [`Input::FillFailed`].
    pub fn complete(self, reader: &dyn LogReader) -> Result<PeerMessage, FillError> {
        let _ = (reader, Bytes::new());
        todo!()
    }
}
