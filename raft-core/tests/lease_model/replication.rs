//! Appends, their answers, rounds, and the commit rule.

use crate::action::Action;
use crate::bounds::Nodes;
use crate::broken::Broken;
use crate::model::{Model, Violation};
use crate::state::{Acknowledgement, Leader, Lease, Node, Role, Round, SlowAppend, State};

impl Model {
    /// Appends to every node: which ones the leader would send to is left open.
    pub(crate) fn append_actions(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let node = &state.nodes[number];
        let Some(leads) = node.leader() else { return };
        let leader = number as u8;
        for other in self.others(number) {
            let (to, receiver) = (other as u8, &state.nodes[other]);
            if leads.inbox[other].is_some() {
                actions.push(Action::Acknowledged { leader, by: to });
            }
            if receiver.term > node.term {
                continue;
            }
            let verified = if receiver.term == node.term { receiver.verified } else { 0 };
            let least = if self.bounds.partial_appends { verified.max(1) } else { node.log.length() };
            for length in least..=node.log.length() {
                actions.push(Action::Append { leader, to, length });
                if self.bounds.slow_appends && state.slow_append.is_none() {
                    actions.push(Action::Send { leader, to, length });
                }
            }
        }
    }

    /// What the leader sends. Any part of its log: an earlier append may be the one that arrives.
    pub(crate) fn append_of(&self, state: &State, leader: usize, to: usize, length: u8) -> SlowAppend {
        let node = &state.nodes[leader];
        let of_round = node.leader().is_some_and(|leads| leads.round.is_some());
        let (log, commit) = (node.log.prefix(length), node.commit.min(length));
        SlowAppend { leader: leader as u8, to: to as u8, term: node.term, log, commit, of_round }
    }

    /// An append arrives, and its answer is on its way.
    pub(crate) fn append(&self, state: &mut State, append: SlowAppend) -> Result<(), Violation> {
        let number = usize::from(append.to);
        let node = &mut state.nodes[number];
        if append.term < node.term {
            return Ok(());
        }
        self.adopt(node, append.term);
        node.role = Role::Follower;
        let length = append.log.length();
        if !node.log.begins_with(append.log) {
            if !append.log.begins_with(node.log.prefix(node.commit)) {
                return Err(Violation::CommittedEntryDropped { node: append.to });
            }
            node.log = append.log;
        }
        node.verified = node.verified.max(length);
        node.commit = node.commit.max(append.commit);
        // Rule 4: stamped at receipt, whatever becomes of the answer.
        if !self.breaks(Broken::AcknowledgementNotStamped) {
            node.stamp = if self.breaks(Broken::StaleInstantAtVoter) { node.lag } else { 0 };
        }
        // Rule 2: a node that is no member has no lease, before it acknowledges.
        if !self.latest(node).members().has(number) && !self.breaks(Broken::RemovedMemberKeepsLease) {
            (node.lease, node.grant) = (Lease::default(), None);
        }
        let matched = node.verified;
        let sender = &mut state.nodes[usize::from(append.leader)];
        if let Role::Leader(leader) = &mut sender.role
            && sender.term == append.term
        {
            let of_round = append.of_round && leader.round.is_some();
            let earlier = leader.inbox[number].unwrap_or(Acknowledgement { matched: 0, of_round: false });
            let (matched, of_round) = (matched.max(earlier.matched), of_round || earlier.of_round);
            leader.inbox[number] = Some(Acknowledgement { matched, of_round });
        }
        Ok(())
    }

    /// Drops answers that would tell the leader nothing.
    pub(crate) fn forget_answers(&self, leader: &mut Leader) {
        for number in self.node_numbers() {
            let Some(answer) = &mut leader.inbox[number] else { continue };
            answer.of_round &= leader.round.is_some_and(|round| !round.acknowledged.has(number));
            if !answer.of_round && answer.matched <= leader.matched[number] && leader.fresh.has(number) {
                leader.inbox[number] = None;
            }
        }
    }

    pub(crate) fn acknowledged(&self, state: &mut State, leader: usize, by: usize) -> Result<(), Violation> {
        let node = &mut state.nodes[leader];
        let voters = self.latest(node).voters;
        let Role::Leader(leads) = &mut node.role else { return Ok(()) };
        let Some(answer) = leads.inbox[by].take() else { return Ok(()) };
        leads.matched[by] = leads.matched[by].max(answer.matched);
        leads.fresh = leads.fresh.with(by);
        let Some(round) = leads.round.filter(|_| answer.of_round) else { return Ok(()) };
        let round = Round { acknowledged: round.acknowledged.with(by), ..round };
        leads.round = Some(round);
        if !round.acknowledged.with(leader).majority_of(voters) {
            return Ok(());
        }
        if round.misses {
            return Err(Violation::StaleLinearizableRead { leader: leader as u8 });
        }
        // Rule 1: from when the round was sent.
        let age = if self.breaks(Broken::LeaderLeaseFromReceipt) { 0 } else { round.age };
        leads.own = leads.own.max(self.usable(self.bounds.duration).saturating_sub(age));
        leads.round = None;
        Ok(())
    }

    /// A new round. A linearizable read that waits for it is answered as of the leader's commit index now, which is the
    /// least that it may be; it has to wait for the leader's first entry.
    pub(crate) fn round(&self, state: &mut State, number: usize) -> Result<(), Violation> {
        let must_see = state.committed.last_write();
        let node = &mut state.nodes[number];
        let misses = node.term_committed() && node.commit < must_see;
        if misses && self.breaks(Broken::ReadWithoutRound) {
            return Err(Violation::StaleLinearizableRead { leader: number as u8 });
        }
        let Role::Leader(leader) = &mut node.role else { return Ok(()) };
        leader.round = Some(Round { age: 0, acknowledged: Nodes::default(), misses });
        for answer in leader.inbox.iter_mut().flatten() {
            answer.of_round = false;
        }
        if let Some(append) = &mut state.slow_append
            && usize::from(append.leader) == number
        {
            append.of_round = false;
        }
        Ok(())
    }

    pub(crate) fn commit_actions(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let node = &state.nodes[number];
        let Some(leader) = node.leader() else { return };
        for index in node.commit + 1..=node.log.length() {
            if self.may_commit(node, number, leader, index) {
                actions.push(Action::Commit { leader: number as u8, index });
            }
        }
    }

    /// Raft's commit rule and what leases add to it: every holder has the entry, or its lease has run out.
    fn may_commit(&self, node: &Node, number: usize, leader: &Leader, index: u8) -> bool {
        let has = |other: usize| other == number || leader.matched[other] >= index;
        let owners = self.node_numbers().filter(|other| has(*other)).fold(Nodes::default(), Nodes::with);
        let own_term = node.log.term(index) == node.term || self.breaks(Broken::CommitOfEarlierTermByCounting);
        if !own_term || !owners.majority_of(self.latest(node).voters) || !self.old_leases_are_over(node, leader) {
            return false;
        }
        let members = self.latest(node).members();
        self.node_numbers().filter(|other| leader.holders[*other] > 0).all(|holder| {
            has(holder)
                || self.breaks(Broken::CommitIgnoresHolders)
                || self.breaks(Broken::CommitIgnoresRemovedHolder) && !members.has(holder)
        })
    }

    pub(crate) fn commit(&self, state: &mut State, number: usize, index: u8) -> Result<(), Violation> {
        let node = &mut state.nodes[number];
        let log = node.log.prefix(index);
        let (shorter, longer) =
            if log.length() <= state.committed.length() { (log, state.committed) } else { (state.committed, log) };
        if !longer.begins_with(shorter) {
            return Err(Violation::TwoEntriesCommitted { leader: number as u8, index });
        }
        state.committed = longer;
        node.commit = index;
        // A leader that is no member any more steps down.
        if node.log.change().is_some_and(|change| change <= index) && !self.latest(node).voters.has(number) {
            node.role = Role::Follower;
        }
        Ok(())
    }
}
