//! Callers that wait for an answer.

use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::handover::{HandedOver, HandoverRefused};
use raft_core::membership::ChangeRefusal;
use raft_core::replica::{Answer, ReadMode, Rejection};
use raft_core::types::{Index, LogId};
use tokio::sync::oneshot;

/// Who is told. A caller that went away is told in vain.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A command's caller.
    Write {
        /// When it was handed to the driver.
        since: Instant,
        /// Where its answer goes.
        answer: oneshot::Sender<WriteEnd>,
    },
    /// A linearizable read's caller.
    Read {
        /// When it was asked, on the clock that goes on while the machine sleeps.
        asked: Duration,
        /// Where its answer goes.
        answer: oneshot::Sender<ReadEnd>,
    },
    /// The caller of a change of the members.
    Change {
        /// Where its answer goes.
        answer: oneshot::Sender<ChangeEnd>,
    },
    /// Who wants another leader.
    HandOver {
        /// Where its answer goes.
        answer: oneshot::Sender<Result<HandedOver, HandoverRefused>>,
    },
    /// The driver itself, which wants to know when this node has caught up with the leader.
    CaughtUp {
        /// When it asked, on the same clock.
        asked: Duration,
    },
}

/// How a command ended.
#[derive(Debug)]
pub(crate) enum WriteEnd {
    Applied { id: LogId, answer: Bytes },
    Rejected { why: Rejection },
    Unknown { token: LogId },
}

/// How the confirmation of a read ended.
#[derive(Debug)]
pub(crate) enum ReadEnd {
    Ready { mode: ReadMode },
    Rejected { why: Rejection },
}

/// How a change of the members ended.
#[derive(Debug)]
pub(crate) enum ChangeEnd {
    Changed { index: Index },
    Refused { why: ChangeRefusal },
    Rejected { why: Rejection },
    Unknown,
}

/// A command's caller, and how it ended.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) caller: oneshot::Sender<WriteEnd>,
    pub(crate) end: WriteEnd,
}

impl Answered {
    pub(crate) fn tell(self) {
        // The caller may have gone away; its command has ended all the same.
        let _ = self.caller.send(self.end);
    }
}

impl Waiter {
    /// Tells a caller what the replica said. `CaughtUp` is the driver's own and is not told here.
    pub(crate) fn tell(self, answer: Answer) {
        match (self, answer) {
            (Self::Write { answer: caller, .. }, Answer::Rejected { why, .. }) => {
                let _ = caller.send(WriteEnd::Rejected { why });
            }
            (Self::Write { answer: caller, .. }, Answer::Unknown { token }) => {
                let _ = caller.send(WriteEnd::Unknown { token });
            }
            (Self::Read { answer: caller, .. }, Answer::ReadReady { mode, .. }) => {
                let _ = caller.send(ReadEnd::Ready { mode });
            }
            (Self::Read { answer: caller, .. }, Answer::Rejected { why, .. }) => {
                let _ = caller.send(ReadEnd::Rejected { why });
            }
            (Self::Change { answer: caller }, Answer::Changed { index }) => {
                drop(caller.send(ChangeEnd::Changed { index }))
            }
            (Self::Change { answer: caller }, Answer::ChangeRefused { why }) => {
                let _ = caller.send(ChangeEnd::Refused { why });
            }
            (Self::Change { answer: caller }, Answer::Rejected { why, .. }) => {
                let _ = caller.send(ChangeEnd::Rejected { why });
            }
            (Self::Change { answer: caller }, Answer::Unknown { .. }) => drop(caller.send(ChangeEnd::Unknown)),
            (Self::HandOver { answer: caller }, Answer::HandedOver(handed)) => {
                let _ = caller.send(Ok(handed));
            }
            (Self::HandOver { answer: caller }, Answer::NotHandedOver { why, .. }) => {
                let _ = caller.send(Err(why));
            }
            // It has no deadline and no entry: what is left is that the node stops.
            (Self::HandOver { answer: caller }, Answer::Rejected { .. }) => {
                let _ = caller.send(Err(HandoverRefused::Stopping));
            }
            (Self::CaughtUp { .. }, _) => {}
            (waiter, answer) => {
                panic!("the replica answered {waiter:?} with {answer:?}")
            }
        }
    }
}
