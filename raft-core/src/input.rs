//! All that can happen to a replica.

use std::time::Duration;

use crate::membership::Change;
use crate::message::PeerMessage;
use crate::reads::ReadMode;
use crate::snapshot::{SnapshotMeta, Transfer};
use crate::types::{Index, LogId, NodeId, Payload, Term, WriteId};

/// A command with the caller that waits for its answer.
#[derive(Debug)]
pub struct Proposal<W> {
    /// The command.
    pub payload: Payload,
    /// When the caller stops waiting ([`Now::monotonic`](crate::replica::Now::monotonic)).
    pub deadline: Duration,
    /// The caller.
    pub waiter: W,
}

/// All that can happen to a replica.
#[derive(Debug)]
pub enum Input<W> {
    /// Time passed. Give one at least when [`Replica::deadline`](crate::replica::Replica::deadline) has come.
    Tick,
    /// Commands, in order.
    Propose(Vec<Proposal<W>>),
    /// Other members, if this replica leads. The answer is [`Answer::Changed`] once the change is through,
    /// [`Answer::ChangeRefused`] when nothing is done or it was cancelled, and [`Answer::Unknown`] with the change's first
    /// entry when the deadline or the end of this leadership comes first: it goes on, see [`Status::configuration`].
    ///
    /// [`Answer::Changed`]: crate::replica::Answer::Changed
    /// [`Answer::ChangeRefused`]: crate::replica::Answer::ChangeRefused
    /// [`Answer::Unknown`]: crate::replica::Answer::Unknown
    /// [`Status::configuration`]: crate::status::Status::configuration
    ChangeMembership {
        /// What is wanted.
        change: Change,
        /// When the caller stops waiting. Catching up may take long.
        deadline: Duration,
        /// The caller.
        waiter: W,
    },
    /// A linearizable read: wait until this replica may serve it.
    Read {
        /// How it may be confirmed.
        mode: ReadMode,
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
    /// A mark, if this replica leads: a consistent cut that every replica passes.
    Mark(Proposal<W>),
    /// The state machine has applied up to here.
    Applied {
        /// The last index.
        index: Index,
        /// What it has applied up to here would be there after a loss of power.
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
    /// [`Output::Restore`](crate::replica::Output::Restore) is done: the state is that of the snapshot that ends with this
    /// entry, durably.
    Restored(LogId),
    /// How the sending of a snapshot goes that [`Output::SendSnapshot`](crate::replica::Output::SendSnapshot) asked
    /// for.
    Transfer {
        /// Whom it is for.
        to: NodeId,
        /// How it goes.
        transfer: Transfer,
    },
    /// A follower shall have a snapshot though the log may hold all that it needs.
    SnapshotWanted {
        /// Who.
        to: NodeId,
    },
    /// This replica's state differs from the others', or not any more: meanwhile it leads only in order to hand over.
    Fenced(bool),
    /// Nothing is applied to this replica's state any more, until the next snapshot replaces it.
    Rebuild,
    /// Somebody wants another node to lead. The answer is [`Answer::HandedOver`](crate::replica::Answer::HandedOver) or
    /// [`Answer::NotHandedOver`](crate::replica::Answer::NotHandedOver), within a few election timeouts.
    HandOver {
        /// Whom; the best there is if nobody is named.
        to: Option<NodeId>,
        /// The caller.
        waiter: W,
    },
    /// This node is to rest or to stop, or not any more: meanwhile it hands over what it leads, and is handed nothing.
    Drained(bool),
    /// What was sent to this peer may be lost.
    Unreachable(NodeId),
    /// A [`Fill`](crate::replica::Fill) could not be completed.
    FillFailed {
        /// Whom it was for.
        to: NodeId,
    },
}
