//! Grants, and the three steps of a read under a lease.

use crate::action::Action;
use crate::bounds::Order;
use crate::broken::Broken;
use crate::model::{Model, Violation};
use crate::state::{Grant, Lease, Node, Read, Role, State};

impl Model {
    /// What a follower may be granted, and the grant that is on its way to it.
    pub(crate) fn grant_actions(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let (node, to) = (&state.nodes[number], number as u8);
        if node.grant.is_some() {
            actions.push(Action::Granted(to));
        }
        for other in self.others(number).filter(|_| self.bounds.askers.has(number)) {
            let giver = &state.nodes[other];
            let Some(leads) = giver.leader().filter(|_| giver.term == node.term) else { continue };
            if !self.latest(giver).members().has(number)
                || !self.latest_committed(giver).members().has(number) && !self.breaks(Broken::GrantToUncommittedMember)
            {
                continue;
            }
            let longest = self.usable(self.bounds.duration);
            let least = if self.breaks(Broken::GrantBeyondOwnLease) && leads.own > 0 { longest } else { 1 };
            let most = if self.breaks(Broken::GrantBeyondOwnLease) && leads.own > 0 { longest } else { leads.own };
            for usable in least..=most {
                actions.push(Action::Grant { leader: other as u8, to, usable });
            }
        }
    }

    /// Rule 2. The part of the grant that may be used ends within the part of the leader's own lease that may be used, if
    /// both are measured by the leader's clock; this is the most that a leader could give.
    pub(crate) fn grant(&self, state: &mut State, leader: usize, to: usize, usable: u8) {
        let giver = &mut state.nodes[leader];
        let (named, lag) = (giver.log.length(), giver.lag);
        let promise = self.promise(usable);
        let honoured = self.honoured(promise);
        if let Role::Leader(leads) = &mut giver.role {
            let counted_before = if self.breaks(Broken::StaleInstantAtGiver) { lag } else { 0 };
            leads.holders[to] = leads.holders[to].max(honoured.saturating_sub(counted_before));
        }
        state.nodes[to].grant = Some(Grant { promise, age: 0, named, earlier_life: false });
    }

    /// The follower counts from its request. What it holds keeps its named index; after a gap the new one holds.
    pub(crate) fn granted(&self, state: &mut State, number: usize) {
        let node = &mut state.nodes[number];
        let Some(grant) = node.grant.take() else { return };
        let from_receipt = self.breaks(Broken::FollowerLeaseFromReceipt) || grant.earlier_life;
        let age = if from_receipt { 0 } else { grant.age };
        let left = self.usable(grant.promise).saturating_sub(age);
        if left == 0 || !self.latest(node).members().has(number) {
            return;
        }
        let named = if self.breaks(Broken::UsedBeforeNamedIndex) { 0 } else { grant.named };
        let named = if node.lease.left > 0 { node.lease.named.min(named) } else { named };
        // Without a lease nothing is reached.
        let reached = node.lease.reached;
        node.lease = Lease { left: left.max(node.lease.left), named, reached };
    }

    /// Notes that the named index is verified, and drops what is over.
    pub(crate) fn settle_lease(&self, node: &mut Node) {
        if node.lease.left == 0 {
            let kept = node.lease.reached && self.breaks(Broken::NamedIndexKeptOverGap);
            node.lease = Lease { reached: kept, ..Lease::default() };
            return;
        }
        node.lease.reached |= node.verified >= node.lease.named;
        // Only who notes first asks again for the index.
        if node.lease.reached && self.bounds.order == Order::CheckThenNote {
            node.lease.named = 0;
        }
    }

    /// Whether a node may read under its lease now, and whether it is the leader's.
    fn usable_lease(&self, node: &Node) -> Option<bool> {
        match &node.role {
            Role::Leader(leader) => {
                let first_entry = node.term_committed() || self.breaks(Broken::LeaderReadsBeforeItsTermCommits);
                Some(true).filter(|_| leader.own > 0 && first_entry)
            }
            Role::Follower | Role::Candidate(_) => Some(false).filter(|_| node.lease.left > 0 && node.lease.reached),
        }
    }

    /// Whether a read that begins at a node now could miss a write. If the log has them all it cannot, since what is
    /// committed stays; if the leader knows them committed it cannot either.
    fn may_miss(&self, state: &State, node: &Node) -> bool {
        let must_see = state.committed.prefix(state.committed.last_write());
        let knows = if node.leader().is_some() { node.log.prefix(node.commit) } else { node.log };
        must_see.length() > 0 && (self.bounds.all_reads || !knows.begins_with(must_see))
    }

    /// The least that a read may be answered as of: the last write that the log holds, or that the leader knows
    /// committed. Other entries do not touch what is read, so nobody need wait for them.
    fn index_to_note(node: &Node, leads: bool) -> u8 {
        if leads { node.log.prefix(node.commit).last_write() } else { node.log.last_write() }
    }

    pub(crate) fn read_actions(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let (node, name) = (&state.nodes[number], number as u8);
        let usable = self.usable_lease(node).is_some();
        let check_is_older = self.breaks(Broken::CheckOlderThanRead);
        match state.read {
            Read::None if self.notes_first() => {
                if self.may_miss(state, node) {
                    actions.push(Action::Note(name));
                }
            }
            Read::None => {
                if usable && (check_is_older || self.may_miss(state, node)) {
                    actions.push(Action::Check(name));
                }
            }
            Read::Checked { node, .. } if node == name => actions.push(Action::Note(name)),
            Read::Noted { node, checked: false, .. } if node == name && usable => actions.push(Action::Check(name)),
            Read::Checked { .. } | Read::Noted { .. } => {}
        }
    }

    fn notes_first(&self) -> bool {
        self.bounds.order == Order::NoteThenCheck || self.breaks(Broken::NoteOlderThanLease)
    }

    /// The first step of a read, which then begins just before it: an earlier beginning would ask for less. Or the second
    /// one, when the index is noted already.
    pub(crate) fn check(&self, state: &mut State, number: usize) {
        let must_see = state.committed.last_write();
        let node = &state.nodes[number];
        let Some(leads) = self.usable_lease(node) else { return };
        state.read = match state.read {
            Read::Noted { node: name, must_see, noted, .. } => {
                // A follower's lease names the index that had to be verified, a leader's its commit index.
                let named = if leads { Self::index_to_note(node, true) } else { node.lease.named };
                let noted = if self.breaks(Broken::NoteOlderThanLease)
                    || leads && self.breaks(Broken::LeaderKeepsIndexNotedFirst)
                {
                    noted
                } else {
                    noted.max(named)
                };
                Read::Noted { node: name, must_see, noted, checked: true }
            }
            _ => {
                let begun = !self.breaks(Broken::CheckOlderThanRead);
                Read::Checked { node: number as u8, must_see: begun.then_some(must_see), leads }
            }
        };
    }

    pub(crate) fn note(&self, state: &mut State, number: usize) {
        let acknowledged = state.committed.last_write();
        let node = &state.nodes[number];
        let (must_see, leads, checked) = match state.read {
            Read::Checked { must_see, leads, .. } => (must_see.unwrap_or(acknowledged), leads, true),
            _ => (acknowledged, node.leader().is_some(), false),
        };
        let noted = Self::index_to_note(node, leads);
        state.read = Read::Noted { node: number as u8, must_see, noted, checked };
    }

    /// The last step: once the noted index is committed, and so can be applied, the read is answered as of it; also when
    /// the entry was another one then, since that a read falls back where its index was truncated must not matter. A read
    /// that cannot go wrong any more is let go.
    pub(crate) fn answer(&self, state: &mut State) -> Result<(), Violation> {
        let Read::Noted { node, must_see, noted, checked } = state.read else { return Ok(()) };
        if noted >= must_see {
            state.read = Read::None;
        } else if checked && state.nodes[usize::from(node)].commit >= noted {
            return Err(Violation::StaleLeaseRead { node, must_see, answered: noted });
        }
        Ok(())
    }
}
