//! Where leases meet the rest of the machine.

use std::time::Duration;

use super::{HolderStatus, LeaseStatus};
use crate::effect::{Effect, Rejection};
use crate::event::Now;
use crate::lease::LeaseSettings;
use crate::member::Member;
use crate::mutant::{Mutant, broken};
use crate::raft::{Raft, RoleState};
use crate::reads::ReadMode;
use crate::types::{NodeId, Ticket};

/// The two clocks may part by so much, and a quarter of the time between two events, before that counts as a jump. What is
/// less is drift, or the time between reading one and the other.
const JUMP: Duration = Duration::from_millis(50);

/// The number of a process life stands above so many bits; a life that needs more requests would run into the next one's.
const LIFE_SHIFT: u32 = 40;

impl Member {
    /// The settings by which leases are given: those of the committed configuration. \[RL-SETTINGS\]
    pub(crate) fn leases_in_use(&self) -> LeaseSettings {
        self.configurations.at(self.commit_index).leases().settings()
    }

    /// How long leases may run that rest on a leader's word: the longest of all configurations that may be the one.
    /// \[RL-SETTINGS\]
    pub(crate) fn lease_wait(&self) -> Duration {
        let from = self.configurations.at(self.commit_index).index();
        let may_be = self.configurations.kept().filter(|configuration| configuration.index() >= from);
        may_be.map(|configuration| configuration.leases().wait()).max().unwrap_or_default()
    }

    /// Whether this node is one that may hold a lease: a member, by its own log, whose state is sound. \[RL-HOLDER\]
    pub(crate) fn may_hold_lease(&self) -> bool {
        let is_member = self.configurations.in_force().contains(self.id()) || broken(Mutant::LeaseOutlivesMembership);
        is_member && self.removed.is_none() && !self.failed && self.state_is_sound()
    }

    /// A number that no request had before, in any life.
    pub(crate) fn next_lease_number(&mut self) -> u64 {
        self.lease_numbers += 1;
        self.lease_numbers
    }

    /// The number before the first of process life `life`.
    pub(crate) fn lease_numbers_of(life: u64) -> u64 {
        life.wrapping_shl(LIFE_SHIFT)
    }

    /// This node acknowledges a leader: whatever lease rests on that counts from now on at the latest. \[RL-STAMP\]
    pub(crate) fn stamp(&mut self) {
        if !broken(Mutant::AcknowledgementNotStamped) {
            self.stamped_at = self.now;
        }
    }

    /// Notes what the clocks say. Returns whether one of them jumped against the other: the machine slept, or somebody set
    /// a clock that nobody should. \[RL-JUMP\]
    pub(crate) fn read_clocks(&mut self, now: Now) -> bool {
        let monotonic = now.monotonic.saturating_sub(self.now);
        let boottime = now.boottime.saturating_sub(self.boottime);
        let went_back = now.boottime < self.boottime || now.monotonic + JUMP < self.now;
        let difference = monotonic.abs_diff(boottime);
        let parted = difference > JUMP && difference > JUMP + monotonic.max(boottime) / 4;
        let jumped = went_back || parted;
        self.now = self.now.max(now.monotonic);
        // After a jump nothing is kept that was measured by this clock before.
        self.boottime = if jumped { now.boottime } else { self.boottime.max(now.boottime) };
        jumped
    }
}

impl Raft {
    /// The clocks jumped: nobody serves under a lease that was measured before, and whatever others hold counts anew.
    pub(crate) fn on_clock_jump(&mut self) {
        self.member.counters.clock_jumps += 1;
        self.member.stamp();
        match &mut self.role {
            RoleState::Leader(leader) => {
                leader.leases.restart(&self.member);
                leader.rounds.forget_times();
            }
            RoleState::Follower(follower) => follower.holder.drop_lease(),
            RoleState::Candidate(candidate) => candidate.hear_word_at(self.member.now),
            RoleState::PreCandidate(..) => {}
        }
    }

    /// A read, confirmed as it may be.
    pub(crate) fn read_by(&mut self, mode: ReadMode, ticket: Ticket, effects: &mut Vec<Effect>) {
        match mode {
            ReadMode::Round => self.read(ticket, effects),
            ReadMode::Lease => self.read_under_lease(ticket, effects),
        }
    }

    /// A read that may be served under a lease. Without a usable one it is served like any other linearizable read.
    fn read_under_lease(&mut self, ticket: Ticket, effects: &mut Vec<Effect>) {
        if self.member.failed {
            return Member::reject(ticket, 1, Rejection::Stopping, effects);
        }
        let index = match &mut self.role {
            RoleState::Leader(leader) => leader.read_under_lease(&self.member),
            RoleState::Follower(follower) => {
                let index = follower.read_under_lease(&self.member);
                follower.ask_for_lease(&mut self.member, effects);
                index
            }
            RoleState::PreCandidate(..) | RoleState::Candidate(_) => None,
        };
        match index {
            Some(index) => {
                self.member.counters.lease_reads += 1;
                effects.push(Effect::ReadReady { ticket, index, mode: ReadMode::Lease });
            }
            None => self.read(ticket, effects),
        }
    }

    /// One look at the leases.
    pub(crate) fn lease_status(&self, now: Now) -> LeaseStatus {
        let member = &self.member;
        let boottime = now.boottime.max(member.boottime);
        let left = |end: Duration| (end > boottime).then(|| end.saturating_sub(boottime));
        let mut status = LeaseStatus { settings: member.leases_in_use(), ..LeaseStatus::default() };
        match &self.role {
            RoleState::Leader(leader) => {
                status.ends_in = left(leader.leases.own_end(member));
                status.valid = status.ends_in.is_some() && leader.own_lease_is_usable(member);
                let holder = |(id, ends_in): (NodeId, Duration)| HolderStatus { id, ends_in };
                status.holders = leader.leases.holders(now.monotonic).map(holder).collect();
                status.holds_back = leader.is_held_back();
                status.predecessors_wait = leader.leases.predecessors_wait(now.monotonic);
            }
            RoleState::Follower(follower) => {
                status.ends_in = follower.holder.running(member).and_then(|held| left(held.end));
                status.valid = status.ends_in.is_some() && follower.lease_is_usable(member);
            }
            RoleState::PreCandidate(..) | RoleState::Candidate(_) => {}
        }
        status
    }
}
