//! What may be asked of the members, and the answers.

use std::time::Duration;

use raft_core::lease::LeaseSettings;
use raft_core::types::{Index, NodeName};

/// A change of the members, by names. Asking again for what is so already, or is under way, does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembersAsk {
    /// This node too. It is proposed once the leader has heard it, as a learner first.
    Add {
        /// Its name; its certificate has to name it.
        name: NodeName,
        /// Where peers reach it, `host:port`. What it says of itself, once it is heard, wins.
        peer_address: String,
        /// Where clients reach it, as a URL. May be empty.
        api_address: String,
        /// Whether the leader shall make it a voter by itself once it has caught up.
        voter: bool,
    },
    /// These and no others, in one joint change. All of them are members, or have asked for admission.
    Set {
        /// All who are to vote.
        voters: Vec<NodeName>,
        /// All who are not.
        learners: Vec<NodeName>,
    },
    /// This learner shall vote.
    Promote(NodeName),
    /// This voter shall vote no more and stay as a learner.
    Demote(NodeName),
    /// This member shall leave. One that is only waited for is forgotten.
    Remove(NodeName),
    /// One shall leave and another one come in its place, in one joint change.
    Replace {
        /// Who leaves.
        old: NodeName,
        /// Who comes: a member, or a node that has asked for admission.
        new: NodeName,
    },
    /// The change that is under way shall not be.
    Cancel,
    /// Other settings of read leases; what is not named stays as it is.
    Leases(LeaseWishes),
}

/// Settings of read leases that somebody wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseWishes {
    /// See [`LeaseSettings::duration`].
    pub duration: Option<Duration>,
    /// See [`LeaseSettings::drift_permille`].
    pub drift_permille: Option<u16>,
    /// See [`LeaseSettings::min_holders`].
    pub min_holders: Option<u16>,
}

impl LeaseWishes {
    /// What they make of `present`.
    #[must_use]
    pub fn over(self, present: LeaseSettings) -> LeaseSettings {
        LeaseSettings {
            duration: self.duration.unwrap_or(present.duration),
            drift_permille: self.drift_permille.unwrap_or(present.drift_permille),
            min_holders: self.min_holders.unwrap_or(present.min_holders),
        }
    }
}

/// How a change is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembersOptions {
    /// How long the answer is waited for. A change goes on when nobody waits any more.
    pub timeout: Duration,
    /// Whether fewer failures may be survived afterwards than now; else such a change is refused.
    pub less_tolerance: bool,
    /// Whatever the pre-flight says. It may stop the cluster.
    pub force: bool,
}

/// A change that is through, or needs no more than time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersDone {
    /// Whether anything was changed by it.
    pub changed: bool,
    /// The committed entry that ended it; that of the present configuration when nothing was changed.
    pub index: Index,
    /// The node that was asked for was not heard yet: it is proposed as soon as it is.
    pub pending: bool,
    /// Who had it done.
    pub served_by: NodeName,
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct MembersError {
    /// What kind of reason it is.
    pub problem: MembersProblem,
    /// The reason, and what would be safe.
    pub text: String,
}

/// Kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembersProblem {
    /// The pre-flight found that it would cost the quorum, or fault tolerance that nobody said may go.
    Preflight,
    /// Another change is under way.
    Running,
    /// There is no member of this name, and no node of it has asked for admission.
    UnknownMember,
    /// The set of members is none: no voters, too many members, one named twice.
    Refused,
    /// There is nothing to cancel, or it is too late.
    CannotCancel,
    /// It was begun and cancelled.
    Cancelled,
    /// No leader is known, or it cannot be reached.
    NoLeader,
    /// This node serves nothing now.
    NotReady,
    /// A bound is reached.
    Overloaded,
    /// The time was over before anything was begun.
    Deadline,
    /// The time was over, or the leader was lost, when it was begun: it may go on.
    Unknown,
}

impl MembersProblem {
    /// All of them, in the order of their codes on the wire, which begin with 1.
    pub(crate) const ALL: [Self; 11] = [
        Self::Preflight,
        Self::Running,
        Self::UnknownMember,
        Self::Refused,
        Self::CannotCancel,
        Self::Cancelled,
        Self::NoLeader,
        Self::NotReady,
        Self::Overloaded,
        Self::Deadline,
        Self::Unknown,
    ];
}

impl MembersError {
    pub(crate) fn new(problem: MembersProblem, text: impl Into<String>) -> Self {
        Self { problem, text: text.into() }
    }
}
