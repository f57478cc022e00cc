//! Callers that wait for an answer.

use std::time::Instant;

use bytes::Bytes;
use raft_core::membership::ChangeRefusal;
use raft_core::replica::{Answer, Rejection};
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
        /// When it was asked.
        since: Instant,
        /// Where its answer goes.
        answer: oneshot::Sender<ReadEnd>,
    },
    /// The caller of a change of the members.
    Change {
        /// Where its answer goes.
        answer: oneshot::Sender<ChangeEnd>,
    },
    /// The driver itself, which wants to know when this node has caught up with the leader.
    CaughtUp {
        /// When it asked.
        since: Instant,
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
    Ready,
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
            (Self::Read { answer: caller, .. }, Answer::ReadReady { .. }) => {
                let _ = caller.send(ReadEnd::Ready);
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
            (Self::CaughtUp { .. }, _) => {}
            (waiter @ (Self::Write { .. } | Self::Change { .. }), answer @ Answer::ReadReady { .. })
            | (waiter @ Self::Read { .. }, answer @ Answer::Unknown { .. })
            | (waiter, answer @ (Answer::Changed { .. } | Answer::ChangeRefused { .. })) => {
                panic!("the replica answered {waiter:?} with {answer:?}")
            }
        }
    }
}
