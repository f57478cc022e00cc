//! What may be wanted of a configuration, and the configuration that answers it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::{CONTEXT_BYTES_MAX, Configuration, Phase, PreflightRefusal, Seat, Standing};
use crate::lease::{LeaseSettings, LeaseSettingsError, Leases};
use crate::types::{Index, NodeId};

/// A change that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These members and no others, whatever there was before.
    Members(Wanted),
    /// Other contexts for these members, such as new addresses: one entry, nobody's standing changes. Allowed while a
    /// change of members is under way.
    Contexts(Vec<(NodeId, Bytes)>),
    /// Other settings of read leases: one entry, and later a second one when leases become shorter. Nobody's standing
    /// changes. Allowed while a change of members is under way.
    Leases(LeaseSettings),
    /// No change after all. While members catch up it is dropped, and those who came with it leave; a joint configuration
    /// is left towards the voters before. Too late once C_new is appended.
    Cancel,
}

/// The members that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// All who are to vote. Who does not yet is a learner until it has caught up.
    pub voters: Vec<WantedMember>,
    /// All who are not to vote; of whom is named in neither list nothing stays.
    pub learners: Vec<WantedMember>,
    /// Fewer failures may be survived afterwards than now; else such a change is refused.
    pub less_tolerance: bool,
    /// Whatever the pre-flight says. A change that leaves no quorum that answers stops the cluster.
    pub force: bool,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedMember {
    /// Who. A new member has an id above every id that was ever given, from [`Configuration::next_id`] on.
    pub id: NodeId,
    /// Its context; `None` leaves that of a member as it is.
    pub context: Option<Bytes>,
    /// Of a learner: the leader shall make it a voter by itself once it has caught up. Without meaning for voters.
    pub promotes: bool,
}

impl WantedMember {
    /// A member that stays as it is known.
    #[must_use]
    pub fn known(id: NodeId) -> Self {
        Self { id, context: None, promotes: false }
    }

    /// A new member, or one with a new context.
    #[must_use]
    pub fn with_context(id: NodeId, context: Bytes) -> Self {
        Self { id, context: Some(context), promotes: false }
    }
}

impl Wanted {
    /// The members as they will be when nothing more is changed: to be changed before it is asked for.
    #[must_use]
    pub fn of(configuration: &Configuration) -> Self {
        let mut wanted = Self::default();
        for seat in configuration.seats() {
            let member = WantedMember { id: seat.id, context: None, promotes: seat.promotes };
            match seat.next {
                Standing::Voter => wanted.voters.push(member),
                Standing::Learner => wanted.learners.push(member),
                Standing::Outside => {}
            }
        }
        wanted
    }

    fn standings(&self) -> impl Iterator<Item = (&WantedMember, Standing)> {
        let voters = self.voters.iter().map(|member| (member, Standing::Voter));
        voters.chain(self.learners.iter().map(|member| (member, Standing::Learner)))
    }
}

/// Why a change is not made. Nothing of it was appended, but for [`ChangeRefusal::Cancelled`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefusal {
    /// This leader has not committed an entry of its own term: it may not know the configuration that is committed. Try
    /// again soon.
    #[error("the leader has not committed an entry of its term yet; try again")]
    NotReady,
    /// Another change is under way; see the configuration in force for what it wants.
    #[error("{}", running(*change, *phase))]
    Running {
        /// The entry with which it began, or that is not committed yet.
        change: Index,
        /// Where it stands.
        phase: Phase,
    },
    /// So many configurations are not applied yet. Try again later.
    #[error("{limit} configurations are not applied yet; try again")]
    TooManyKept {
        /// The limit.
        limit: usize,
    },
    /// The members are as they are wanted.
    #[error("the members are so already")]
    NothingChanges,
    /// No change is under way.
    #[error("no change is under way")]
    NothingToCancel,
    /// C_new is appended: change the members anew instead.
    #[error("the change has come to its end with entry {index}; ask for another one")]
    TooLateToCancel {
        /// The entry.
        index: Index,
    },
    /// Nobody would vote.
    #[error("no voters are named; name one at least")]
    NoVoters,
    /// More members than are taken.
    #[error("{found} members, old and new, and members_max is {limit}; remove some first")]
    TooManyMembers {
        /// How many there would be.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// One is named twice.
    #[error("{id} is named twice")]
    NamedTwice {
        /// Who.
        id: NodeId,
    },
    /// A member that is none.
    #[error("{id} is no member")]
    NoMember {
        /// Who.
        id: NodeId,
    },
    /// An id that was given before, or skips others.
    #[error("{id} cannot be the id of a new member; the next one is {next}")]
    WrongId {
        /// The id.
        id: NodeId,
        /// The id for the next new member.
        next: NodeId,
    },
    /// A context that is too long.
    #[error("the context of {id} has {found} bytes, at most {limit} are taken")]
    ContextTooLong {
        /// Whose.
        id: NodeId,
        /// Its bytes.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Settings of leases that cannot work.
    #[error(transparent)]
    Leases(#[from] LeaseSettingsError),
    /// The change would do harm.
    #[error(transparent)]
    Preflight(#[from] PreflightRefusal),
    /// It was begun and cancelled.
    #[error("it was cancelled by entry {by}")]
    Cancelled {
        /// The entry.
        by: Index,
    },
}

fn running(change: Index, phase: Phase) -> String {
    match phase {
        Phase::Settled => format!("entry {change} sets other members and is not committed yet; try again"),
        Phase::CatchingUp | Phase::Joint => {
            format!("the change of entry {change} is under way ({}); wait for it or cancel it", phase.name())
        }
    }
}

impl Configuration {
    /// The configuration that entry `index` sets so that the members become `wanted`: the end of the change, or its first
    /// step.
    ///
    /// # Errors
    /// When the members are no set of members, or are so already.
    pub fn changed(&self, index: Index, wanted: &Wanted, members_max: usize) -> Result<Self, ChangeRefusal> {
        self.check_wanted(wanted, members_max)?;
        let leaves = |seat: &Seat| (seat.id, Seat { next: Standing::Outside, promotes: false, ..seat.clone() });
        let mut seats: BTreeMap<NodeId, Seat> = self.seats.iter().map(leaves).collect();
        for (member, standing) in wanted.standings() {
            let id = member.id;
            let (now, next) = (Standing::Outside, standing);
            let seat = seats.entry(id).or_insert(Seat { id, now, next, promotes: false, context: Bytes::new() });
            seat.next = standing;
            // Who is made a learner stays one.
            seat.promotes = member.promotes && standing == Standing::Learner && seat.now != Standing::Voter;
            seat.context = member.context.clone().unwrap_or_else(|| seat.context.clone());
        }
        let highest_id = seats.last_key_value().map_or(self.highest_id, |(id, _)| self.highest_id.max(*id));
        let seats: Vec<Seat> = seats.into_values().collect();
        if seats == self.seats {
            return Err(ChangeRefusal::NothingChanges);
        }
        let votes = |standing| standing == Standing::Voter;
        let phase = if seats.iter().any(|seat| !votes(seat.now) && votes(seat.next)) {
            Phase::CatchingUp
        } else if seats.iter().any(|seat| votes(seat.now) && !votes(seat.next)) {
            Phase::Joint
        } else {
            Phase::Settled
        };
        let changing = Self::of(index, index, phase, highest_id, seats).with_leases(self.leases);
        Ok(if phase == Phase::Settled { changing.settled(index) } else { changing })
    }

    fn check_wanted(&self, wanted: &Wanted, members_max: usize) -> Result<(), ChangeRefusal> {
        if wanted.voters.is_empty() {
            return Err(ChangeRefusal::NoVoters);
        }
        let mut ids = BTreeSet::new();
        for (member, _) in wanted.standings() {
            let id = member.id;
            if !ids.insert(id) {
                return Err(ChangeRefusal::NamedTwice { id });
            }
            check_context(id, member.context.as_ref())?;
        }
        let next = self.next_id();
        let new = ids.iter().copied().filter(|id| !self.contains(*id));
        for (expected, id) in (next.0..).map(NodeId).zip(new.clone()) {
            if id != expected {
                return Err(ChangeRefusal::WrongId { id, next });
            }
        }
        // Who is to go stays until the change is through. To remove some is allowed whatever their number.
        let added = new.count();
        let found = self.seats.len() + added;
        if added > 0 && found > members_max {
            return Err(ChangeRefusal::TooManyMembers { found, limit: members_max });
        }
        Ok(())
    }

    /// The same members with other contexts.
    ///
    /// # Errors
    /// When one of them is none, or nothing changes.
    pub fn with_contexts(&self, index: Index, contexts: &[(NodeId, Bytes)]) -> Result<Self, ChangeRefusal> {
        let mut changed = Self { index, ..self.clone() };
        let mut ids = BTreeSet::new();
        for (id, context) in contexts {
            let id = *id;
            if !ids.insert(id) {
                return Err(ChangeRefusal::NamedTwice { id });
            }
            check_context(id, Some(context))?;
            let seat = changed.seats.iter_mut().find(|seat| seat.id == id).ok_or(ChangeRefusal::NoMember { id })?;
            seat.context = context.clone();
        }
        if changed.seats == self.seats { Err(ChangeRefusal::NothingChanges) } else { Ok(changed) }
    }

    /// The same members with other settings of read leases.
    ///
    /// # Errors
    /// When the settings cannot work, or are so already.
    pub fn with_lease_settings(&self, index: Index, settings: LeaseSettings) -> Result<Self, ChangeRefusal> {
        settings.check()?;
        if self.leases.set == Some(settings) {
            return Err(ChangeRefusal::NothingChanges);
        }
        Ok(Self { index, leases: self.leases.changed(settings), ..self.clone() })
    }

    /// Once all leases of longer settings are over.
    pub(crate) fn without_longer_leases(&self, index: Index) -> Self {
        Self { index, leases: Leases { outlives: Duration::ZERO, ..self.leases }, ..self.clone() }
    }

    /// C_old,new: the next step once all have caught up.
    pub(crate) fn joined(&self, index: Index) -> Self {
        assert_eq!(self.phase, Phase::CatchingUp, "a joint configuration out of {self:?}");
        Self::of(index, self.change, Phase::Joint, self.highest_id, self.seats.clone()).with_leases(self.leases)
    }

    /// C_new: the end of the change.
    pub(crate) fn settled(&self, index: Index) -> Self {
        let stays = |seat: &&Seat| seat.next != Standing::Outside;
        let seats = self.seats.iter().filter(stays).map(|seat| Seat { now: seat.next, ..seat.clone() }).collect();
        Self::of(index, self.change, Phase::Settled, self.highest_id, seats).with_leases(self.leases)
    }

    /// C_old again: the end of a change that is cancelled. Its quorums are those of one half of the joint configuration, so
    /// they meet every quorum of it, and every one of C_old: this may follow it whether that is committed or not.
    pub(crate) fn cancelled(&self, index: Index) -> Self {
        let stayed = |seat: &&Seat| seat.now != Standing::Outside;
        let seats = self.seats.iter().filter(stayed).map(|seat| {
            // A learner that was about to vote would be next in line at once.
            Seat { next: seat.now, promotes: seat.promotes && seat.now == Standing::Learner, ..seat.clone() }
        });
        Self::of(index, self.change, Phase::Settled, self.highest_id, seats.collect()).with_leases(self.leases)
    }
}

fn check_context(id: NodeId, context: Option<&Bytes>) -> Result<(), ChangeRefusal> {
    match context {
        Some(context) if context.len() > CONTEXT_BYTES_MAX => {
            Err(ChangeRefusal::ContextTooLong { id, found: context.len(), limit: CONTEXT_BYTES_MAX })
        }
        _ => Ok(()),
    }
}
