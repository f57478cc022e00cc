//! Who decides: configurations, and how one becomes another.
//!
//! A configuration entry acts from the moment it is appended, and stops acting when it is truncated (thesis 4.1). Any set
//! of voters becomes any other by joint consensus (Raft §6):
//!
//! 1. [`Phase::CatchingUp`]: who is to vote and does not yet is a learner, and gets the log. Nothing is decided otherwise
//!    than before. Left out when nobody has to catch up.
//! 2. [`Phase::Joint`], C_old,new: whatever needs a quorum needs one of the voters before **and** one of those after.
//! 3. [`Phase::Settled`], C_new: only those after. It is appended once the joint configuration is committed, by whoever
//!    leads then.
//!
//! What does not change who votes (learners, contexts) is one entry and takes no joint configuration.

use bytes::Bytes;

use crate::lease::{LeaseSettings, Leases};
use crate::mutant::{Mutant, broken, unless};
use crate::quorum::reached_by_quorum;
use crate::types::{Index, NodeId};

mod change;
mod encoding;
mod kept;
mod preflight;
#[cfg(test)]
mod tests;

pub use change::{Change, ChangeRefusal, Wanted, WantedMember};
pub use encoding::ConfigurationError;
pub use kept::KeptConfigurations;
pub use preflight::{Answered, Patience, PreflightRefusal, preflight};

/// Members that any configuration may have, voters and learners, old and new: a bound of the format. A leader proposes no
/// more than [`Config::members_max`](crate::config::Config::members_max).
pub const MEMBERS_MAX: usize = 1024;
/// Bytes of one member's context.
pub const CONTEXT_BYTES_MAX: usize = 1024;

/// Where a change of the voters stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// None is under way.
    #[default]
    Settled,
    /// Those who are to vote get the log first. They do not count yet.
    CatchingUp,
    /// C_old,new: the voters before and those after decide together. Raft §6.
    Joint,
}

impl Phase {
    /// The name in logs, metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::CatchingUp => "catching_up",
            Self::Joint => "joint",
        }
    }
}

/// What a node is in a set of members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// No member.
    #[default]
    Outside,
    /// Gets the log and is not counted.
    Learner,
    /// Votes and is counted.
    Voter,
}

/// One member of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Who.
    pub id: NodeId,
    /// What it is before the change that is under way; simply what it is when none is.
    pub now: Standing,
    /// What it is after that change.
    pub next: Standing,
    /// A learner that the leader makes a voter by itself, once it has caught up and no other change is under way.
    pub promotes: bool,
    /// What the node keeps of the member (name, incarnation, addresses). The core never looks into it. At most
    /// [`CONTEXT_BYTES_MAX`].
    pub context: Bytes,
}

/// Who votes and who learns from an entry of the log on: a value, the same on every node that holds the entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    index: Index,
    change: Index,
    phase: Phase,
    highest_id: NodeId,
    seats: Vec<Seat>,
    /// Derived from `seats`, in rising order: asked for with every acknowledgement.
    voters: Vec<NodeId>,
    outgoing: Vec<NodeId>,
    leases: Leases,
}

impl Configuration {
    /// A configuration of these voters, before the log's first entry and with empty contexts; order and repetition do not
    /// matter.
    #[must_use]
    pub fn new(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self::founders(voters.into_iter().map(|id| (id, Bytes::new())))
    }

    /// The configuration before the log's first entry: these voters, each with its context; of a repeated one the last
    /// context counts.
    #[must_use]
    pub fn founders(voters: impl IntoIterator<Item = (NodeId, Bytes)>) -> Self {
        let seats: std::collections::BTreeMap<NodeId, Bytes> = voters.into_iter().collect();
        let voter = |(id, context)| Seat { id, now: Standing::Voter, next: Standing::Voter, promotes: false, context };
        let seats: Vec<Seat> = seats.into_iter().map(voter).collect();
        let highest_id = seats.last().map_or(NodeId(0), |seat| seat.id);
        Self::of(Index::ZERO, Index::ZERO, Phase::Settled, highest_id, seats)
    }

    /// Puts the parts together. `seats` are in rising order of ids.
    fn of(index: Index, change: Index, phase: Phase, highest_id: NodeId, seats: Vec<Seat>) -> Self {
        let which = |standing: fn(&Seat) -> Standing| {
            seats.iter().filter(move |seat| standing(seat) == Standing::Voter).map(|seat| seat.id).collect::<Vec<_>>()
        };
        let (voters, outgoing) = match phase {
            Phase::Settled | Phase::CatchingUp => (which(|seat| seat.now), Vec::new()),
            Phase::Joint => (which(|seat| seat.next), which(|seat| seat.now)),
        };
        Self { index, change, phase, highest_id, seats, voters, outgoing, leases: Leases::default() }
    }

    /// The same with these settings of leases.
    fn with_leases(self, leases: Leases) -> Self {
        Self { leases, ..self }
    }

    /// What all members agree on about read leases; [`LeaseSettings::OFF`] until it is set.
    #[must_use]
    pub fn lease_settings(&self) -> LeaseSettings {
        self.leases.settings()
    }

    /// Whether settings of read leases were ever set, be it to [`LeaseSettings::OFF`].
    #[must_use]
    pub fn has_lease_settings(&self) -> bool {
        self.leases.set.is_some()
    }

    /// How long after the last word of a leader leases that rest on it may run, as far as this configuration says.
    #[must_use]
    pub fn lease_wait(&self) -> std::time::Duration {
        self.leases.wait()
    }

    pub(crate) fn leases(&self) -> &Leases {
        &self.leases
    }

    /// The entry that set it; zero for the founders.
    #[must_use]
    pub fn index(&self) -> Index {
        self.index
    }

    /// The entry with which the change of voters began that this configuration is part of; the last such change when it is
    /// settled. Zero when there was none.
    #[must_use]
    pub fn change(&self) -> Index {
        self.change
    }

    /// Where that change stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether two majorities are needed.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.phase == Phase::Joint
    }

    /// The voters in rising order; those of C_new while it is joint.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// The voters of C_old while it is joint, in rising order; else nobody.
    #[must_use]
    pub fn outgoing(&self) -> &[NodeId] {
        &self.outgoing
    }

    /// Members that do not vote, in rising order.
    pub fn learners(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.seats.iter().map(|seat| seat.id).filter(|id| !self.is_voter(*id))
    }

    /// Those who are to vote after the change that is under way and do not yet.
    pub fn joining(&self) -> impl Iterator<Item = NodeId> + '_ {
        let joins = |seat: &&Seat| seat.now != Standing::Voter && seat.next == Standing::Voter;
        self.seats.iter().filter(joins).map(|seat| seat.id)
    }

    /// All members in rising order of ids.
    #[must_use]
    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// A member's seat.
    #[must_use]
    pub fn seat(&self, id: NodeId) -> Option<&Seat> {
        self.seats.binary_search_by_key(&id, |seat| seat.id).ok().map(|at| &self.seats[at])
    }

    /// Whether `id` is a member, voter or learner.
    #[must_use]
    pub fn contains(&self, id: NodeId) -> bool {
        self.seat(id).is_some()
    }

    /// Whether `id` votes, in either set while it is joint.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.binary_search(&id).is_ok() || self.outgoing.binary_search(&id).is_ok()
    }

    /// Whether there are no voters: nothing can be decided.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }

    /// The highest id that was ever given to a member.
    #[must_use]
    pub fn highest_id(&self) -> NodeId {
        self.highest_id
    }

    /// The id for the next new member. Ids are never given again, whoever leaves.
    #[must_use]
    pub fn next_id(&self) -> NodeId {
        NodeId(self.highest_id.0 + 1)
    }

    /// Whether `id` was a member once and is none any more. True for ever, if this configuration is committed.
    #[must_use]
    pub fn was_removed(&self, id: NodeId) -> bool {
        id != NodeId(0) && id <= self.highest_id && !self.contains(id)
    }

    /// How many of [`Configuration::voters`] make a majority.
    #[must_use]
    pub fn quorum(&self) -> usize {
        majority(self.voters.len())
    }

    /// The highest value that a quorum has reached: a majority of the voters and, while it is joint, also one of those
    /// before. Raft §6 \[TH-JOINT-QUORUMS\].
    pub(crate) fn reached<T: Copy + Ord>(&self, value: impl Fn(NodeId) -> T) -> T {
        self.reached_with(None, value)
    }

    /// The same, with a value of somebody who is not to be counted, for tests that break rules.
    pub(crate) fn reached_with<T: Copy + Ord>(&self, stranger: Option<T>, value: impl Fn(NodeId) -> T) -> T {
        let by = |set: &[NodeId]| {
            let mut values: Vec<T> = set.iter().map(|id| value(*id)).collect();
            let quorum = majority(values.len());
            values.extend(stranger);
            if broken(Mutant::LearnersCounted) {
                values.extend(self.learners().map(&value));
            }
            reached_by_quorum(&mut values, quorum)
        };
        let new = by(&self.voters);
        if self.outgoing.is_empty() || broken(Mutant::JointByNewMajority) {
            return new;
        }
        let old = by(&self.outgoing);
        unless(Mutant::JointByOldMajority, new.min(old), old)
    }

    /// Whether those of whom `yes` is true are a quorum; nobody is one of nobody.
    pub(crate) fn is_quorum(&self, yes: impl Fn(NodeId) -> bool) -> bool {
        !self.is_empty() && self.reached(yes)
    }

    /// Whether those of whom `no` is true leave no quorum of others.
    pub(crate) fn is_blocked(&self, no: impl Fn(NodeId) -> bool) -> bool {
        !self.is_quorum(|id| !no(id))
    }
}

/// How many of `voters` are more than half of them.
pub(crate) fn majority(voters: usize) -> usize {
    let majority = voters / 2 + 1;
    unless(Mutant::QuorumTooSmall, majority, (majority - 1).max(1))
}
