//! The protocol as steps from state to state: what may happen, and what comes of it.

use std::fmt;

use crate::action::{Action, Paces};
use crate::bounds::{Bounds, Configuration, DRIFT_FACTOR};
use crate::broken::Broken;
use crate::log::Kind;
use crate::state::{Node, Read, Role, State};

/// What must never happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Violation {
    TwoLeaders {
        term: u8,
    },
    /// The new leader's log lacks an entry that was committed.
    CommittedEntryLost {
        leader: u8,
    },
    /// A follower drops an entry that it knows committed.
    CommittedEntryDropped {
        node: u8,
    },
    /// A leader commits another entry than one that was committed at the same index.
    TwoEntriesCommitted {
        leader: u8,
        index: u8,
    },
    /// A read under a lease is answered as of `answered`, though the write at `must_see` was acknowledged before it began.
    StaleLeaseRead {
        node: u8,
        must_see: u8,
        answered: u8,
    },
    /// A linearizable read is answered without a write that was acknowledged before it began.
    StaleLinearizableRead {
        leader: u8,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TwoLeaders { term } => write!(f, "two leaders are elected in term {term}"),
            Self::CommittedEntryLost { leader } => write!(f, "the new leader n{} lacks a committed entry", leader + 1),
            Self::CommittedEntryDropped { node } => write!(f, "n{} drops a committed entry", node + 1),
            Self::TwoEntriesCommitted { leader, index } => {
                write!(f, "n{} commits another entry {index} than was committed", leader + 1)
            }
            Self::StaleLeaseRead { node, must_see, answered } => write!(
                f,
                "the read at n{} is answered as of {answered}, and the write at {must_see} was acknowledged before it began",
                node + 1
            ),
            Self::StaleLinearizableRead { leader } => {
                write!(f, "a linearizable read at n{} misses a write that was acknowledged before it began", leader + 1)
            }
        }
    }
}

/// The protocol within bounds, with one rule broken or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    pub(crate) bounds: Bounds,
    pub(crate) broken: Option<Broken>,
}

impl Model {
    pub(crate) fn new(bounds: Bounds, broken: Option<Broken>) -> Self {
        Self { bounds: bounds.checked(), broken }
    }

    pub(crate) fn breaks(&self, rule: Broken) -> bool {
        self.broken == Some(rule)
    }

    /// How long a holder may use a promise, by its clock: rounded down.
    pub(crate) fn usable(&self, promise: u8) -> u8 {
        let ignored = self.breaks(Broken::DriftIgnored) || self.breaks(Broken::DriftIgnoredByHolder);
        if ignored { promise } else { promise / DRIFT_FACTOR }
    }

    /// How long a giver must honour a promise, by its clock: rounded up.
    pub(crate) fn honoured(&self, promise: u8) -> u8 {
        let ignored = self.breaks(Broken::DriftIgnored) || self.breaks(Broken::DriftIgnoredByGiver);
        if ignored { promise } else { promise * DRIFT_FACTOR }
    }

    /// The promise that may be used for `usable`.
    pub(crate) fn promise(&self, usable: u8) -> u8 {
        let ignored = self.breaks(Broken::DriftIgnored) || self.breaks(Broken::DriftIgnoredByHolder);
        if ignored { usable } else { usable * DRIFT_FACTOR }
    }

    /// How long the leases of a leader may run after the last acknowledgement, by a giver's clock.
    pub(crate) fn old_leases(&self) -> u8 {
        self.honoured(self.bounds.duration)
    }

    /// Whether nodes may go by an instant that they read before a pause.
    pub(crate) fn clocks_lag(&self) -> bool {
        use Broken::{StaleInstantAtElection, StaleInstantAtGiver, StaleInstantAtVoter};
        [StaleInstantAtElection, StaleInstantAtGiver, StaleInstantAtVoter].into_iter().any(|rule| self.breaks(rule))
    }

    pub(crate) fn node_numbers(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.bounds.nodes
    }

    pub(crate) fn others(&self, node: usize) -> impl Iterator<Item = usize> + use<> {
        self.node_numbers().filter(move |other| *other != node)
    }

    /// The latest configuration in a node's log.
    pub(crate) fn latest(&self, node: &Node) -> Configuration {
        self.bounds.configuration(node.log.change().is_some())
    }

    /// The latest configuration that a node knows to be committed.
    pub(crate) fn latest_committed(&self, node: &Node) -> Configuration {
        self.bounds.configuration(node.log.change().is_some_and(|index| index <= node.commit))
    }

    /// All that can happen, in a fixed order.
    pub(crate) fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.clear();
        actions.extend(Paces::all(&self.bounds).map(Action::Tick));
        for number in self.node_numbers() {
            let node = &state.nodes[number];
            let name = number as u8;
            match &node.role {
                Role::Leader(_) => self.leader_actions(state, number, actions),
                Role::Candidate(_) => {
                    self.vote_actions(state, number, actions);
                    self.campaign_actions(state, number, actions);
                }
                Role::Follower => {
                    self.campaign_actions(state, number, actions);
                    self.grant_actions(state, number, actions);
                }
            }
            if state.restarts_left > 0 {
                actions.push(Action::Restart(name));
            }
            if node.lag > 0 {
                actions.push(Action::LookAtClock(name));
            }
            self.read_actions(state, number, actions);
        }
        if state.slow_append.is_some() {
            actions.push(Action::Arrive);
        }
    }

    fn leader_actions(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let (node, name) = (&state.nodes[number], number as u8);
        let room = node.log.length() < self.bounds.entries;
        if room && state.writes_left > 0 {
            actions.push(Action::Write(name));
        }
        // A change needs a committed entry of the leader's own term, and there is one in these bounds.
        if room && self.bounds.after.is_some() && node.log.change().is_none() && node.term_committed() {
            actions.push(Action::Change(name));
        }
        if node.term < self.bounds.rounds_below {
            actions.push(Action::Round(name));
        }
        self.commit_actions(state, number, actions);
        self.append_actions(state, number, actions);
    }

    /// What an action makes of a state.
    pub(crate) fn step(&self, state: &State, action: Action) -> Result<State, Violation> {
        let mut next = *state;
        match action {
            Action::Tick(paces) => self.tick(&mut next, paces),
            Action::Campaign(node) => self.campaign(&mut next, node.into())?,
            Action::Vote { voter, candidate } => self.vote(&mut next, voter.into(), candidate.into())?,
            Action::Write(leader) => {
                next.writes_left -= 1;
                self.take(&mut next, leader.into(), Kind::Write);
            }
            Action::Change(leader) => self.take(&mut next, leader.into(), Kind::Change),
            Action::Append { leader, to, length } => {
                let append = self.append_of(&next, leader.into(), to.into(), length);
                self.append(&mut next, append)?;
            }
            Action::Send { leader, to, length } => {
                next.slow_append = Some(self.append_of(&next, leader.into(), to.into(), length));
            }
            Action::Arrive => {
                if let Some(append) = next.slow_append.take() {
                    self.append(&mut next, append)?;
                }
            }
            Action::Acknowledged { leader, by } => self.acknowledged(&mut next, leader.into(), by.into())?,
            Action::Round(leader) => self.round(&mut next, leader.into())?,
            Action::Commit { leader, index } => self.commit(&mut next, leader.into(), index)?,
            Action::Grant { leader, to, usable } => self.grant(&mut next, leader.into(), to.into(), usable),
            Action::Granted(node) => self.granted(&mut next, node.into()),
            Action::Restart(node) => self.restart(&mut next, node.into()),
            Action::LookAtClock(node) => next.nodes[usize::from(node)].lag = 0,
            Action::Check(node) => self.check(&mut next, node.into()),
            Action::Note(node) => self.note(&mut next, node.into()),
        }
        self.forget_what_does_not_matter(&mut next);
        self.answer(&mut next)?;
        Ok(next)
    }

    fn take(&self, state: &mut State, leader: usize, kind: Kind) {
        let node = &mut state.nodes[leader];
        node.log = node.log.with(node.term, kind);
        node.verified = node.log.length();
    }

    /// Memory is lost; term, vote and log are not, and what is under way goes on.
    fn restart(&self, state: &mut State, number: usize) {
        state.restarts_left -= 1;
        let before = state.nodes[number];
        let mut node = Node { term: before.term, vote: before.vote, log: before.log, ..Node::default() };
        if self.breaks(Broken::RestartedVoterSaysLongAgo) {
            node.stamp = self.old_leases();
        }
        if self.breaks(Broken::GrantOfEarlierLife) {
            node.grant = before.grant;
            if let Some(grant) = &mut node.grant {
                grant.earlier_life = true;
            }
        }
        state.nodes[number] = node;
        match state.read {
            Read::Checked { node, .. } | Read::Noted { node, .. } if usize::from(node) == number => {
                state.read = Read::None;
            }
            _ => {}
        }
    }

    fn tick(&self, state: &mut State, paces: Paces) {
        let (longest, longest_use) = (self.old_leases(), self.usable(self.bounds.duration));
        for (number, node) in state.nodes.iter_mut().enumerate().take(self.bounds.nodes) {
            let pace = paces.of(number);
            let (holder, giver) = (pace.holder(), pace.giver());
            node.stamp = (node.stamp + giver).min(longest);
            node.lease.left = node.lease.left.saturating_sub(holder);
            if self.clocks_lag() {
                node.lag = (node.lag + giver).min(longest);
            }
            if let Some(grant) = &mut node.grant {
                grant.age = (grant.age + holder).min(longest_use);
            }
            match &mut node.role {
                Role::Follower => {}
                Role::Candidate(candidate) => {
                    candidate.wait = candidate.wait.saturating_sub(giver);
                    if self.breaks(Broken::CountedFromCampaignStart) {
                        candidate.age = (candidate.age + giver).min(longest);
                    }
                }
                Role::Leader(leader) => {
                    leader.own = leader.own.saturating_sub(holder);
                    leader.wait = leader.wait.saturating_sub(giver);
                    for left in &mut leader.holders {
                        *left = left.saturating_sub(giver);
                    }
                    if let Some(round) = &mut leader.round {
                        round.age = (round.age + holder).min(longest_use);
                    }
                }
            }
        }
    }

    /// Makes states equal that differ only in what nothing depends on any more.
    fn forget_what_does_not_matter(&self, state: &mut State) {
        let longest_use = self.usable(self.bounds.duration);
        let grants_stay = self.breaks(Broken::FollowerLeaseFromReceipt) || self.breaks(Broken::GrantOfEarlierLife);
        for node in state.nodes.iter_mut().take(self.bounds.nodes) {
            // Nobody is left who could ask.
            if node.term == self.bounds.terms {
                node.stamp = self.old_leases();
            }
            self.settle_lease(node);
            if let Some(grant) = node.grant
                && grant.age >= self.usable(grant.promise)
                && !grants_stay
            {
                node.grant = None;
            }
            let term_committed = node.term_committed();
            let Role::Leader(leader) = &mut node.role else { continue };
            // A leader acknowledges itself as long as it leads.
            if !self.breaks(Broken::OldLeaderNotCounted) && node.term < self.bounds.terms {
                node.stamp = 0;
            }
            if term_committed {
                (leader.fresh.0, leader.wait) = (u8::MAX, 0);
            }
            if let Some(round) = leader.round
                && round.age >= longest_use
                && !round.misses
                && !self.breaks(Broken::LeaderLeaseFromReceipt)
            {
                leader.round = None;
            }
            self.forget_answers(leader);
        }
        if let Some(append) = state.slow_append
            && append.term < state.nodes[usize::from(append.to)].term
        {
            state.slow_append = None;
        }
    }
}
