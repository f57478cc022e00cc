//! Campaigns, votes with their reports, and what a new leader has to wait for.

use crate::action::Action;
use crate::bounds::Nodes;
use crate::broken::Broken;
use crate::log::Kind;
use crate::model::{Model, Violation};
use crate::state::{Candidate, Leader, Lease, Node, Role, State};

impl Model {
    pub(crate) fn campaign_actions(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let node = &state.nodes[number];
        let room = node.term < self.bounds.terms && node.log.length() < self.bounds.entries;
        if room && self.latest(node).voters.has(number) && self.bounds.campaigners.has(number) {
            actions.push(Action::Campaign(number as u8));
        }
    }

    pub(crate) fn vote_actions(&self, state: &State, candidate: usize, actions: &mut Vec<Action>) {
        let node = &state.nodes[candidate];
        let voters = self.latest(node).voters;
        for voter in self.others(candidate).filter(|other| voters.has(*other)) {
            let other = &state.nodes[voter];
            if other.term < node.term || self.votes_for(other, voter, node, candidate) {
                actions.push(Action::Vote { voter: voter as u8, candidate: candidate as u8 });
            }
        }
    }

    /// Whether a voter of the candidate's term gives it a vote that it does not have. A node votes whatever it thinks of
    /// the members.
    fn votes_for(&self, voter: &Node, number: usize, candidate: &Node, candidate_number: usize) -> bool {
        let Role::Candidate(campaign) = &candidate.role else { return false };
        let free =
            self.breaks(Broken::VoteTwice) || voter.vote.is_none_or(|other| usize::from(other) == candidate_number);
        let up_to_date =
            (candidate.log.last_term(), candidate.log.length()) >= (voter.log.last_term(), voter.log.length());
        voter.term == candidate.term && free && up_to_date && !campaign.votes.has(number)
    }

    /// What a node says of how long ago it acknowledged any leader: at least so long, by true time or by any clock that is
    /// no faster than its own.
    fn report(&self, node: &Node) -> u8 {
        if self.breaks(Broken::ReportAfterTheTermClearedIt) {
            return self.old_leases();
        }
        // An old instant makes the time look shorter, unless the stamp is old as well.
        node.stamp.saturating_sub(node.lag)
    }

    /// Enters a higher term: rule 2 of leases, a node drops its lease before it acknowledges anything in it.
    pub(crate) fn adopt(&self, node: &mut Node, term: u8) {
        if term <= node.term {
            return;
        }
        (node.term, node.vote, node.role, node.grant) = (term, None, Role::Follower, None);
        if !self.breaks(Broken::OldLeaseKeptInNewTerm) {
            node.lease = Lease::default();
        }
        if !self.breaks(Broken::VerifiedInAnotherTerm) {
            node.verified = 0;
        }
    }

    pub(crate) fn campaign(&self, state: &mut State, number: usize) -> Result<(), Violation> {
        let node = &mut state.nodes[number];
        let report = if self.breaks(Broken::CandidateNotCounted) { self.old_leases() } else { self.report(node) };
        let term = node.term + 1;
        self.adopt(node, term);
        let wait = self.wait_after(report, node, 0);
        node.vote = Some(number as u8);
        node.role = Role::Candidate(Candidate { votes: Nodes::default().with(number), wait, age: 0 });
        self.win(state, number)
    }

    pub(crate) fn vote(&self, state: &mut State, voter: usize, candidate: usize) -> Result<(), Violation> {
        let asking = state.nodes[candidate];
        let node = &mut state.nodes[voter];
        let report = self.report(node);
        self.adopt(node, asking.term);
        if !self.votes_for(node, voter, &asking, candidate) {
            return Ok(());
        }
        node.vote = Some(candidate as u8);
        let Role::Candidate(campaign) = asking.role else { return Ok(()) };
        let wait = campaign.wait.max(self.wait_after(report, &asking, campaign.age));
        state.nodes[candidate].role =
            Role::Candidate(Candidate { votes: campaign.votes.with(voter), wait, ..campaign });
        self.win(state, candidate)
    }

    /// How long the leases of earlier leaders may run after a report is received.
    fn wait_after(&self, report: u8, candidate: &Node, campaign_age: u8) -> u8 {
        let wait = self.old_leases().saturating_sub(report);
        let counted_before = if self.breaks(Broken::StaleInstantAtElection) { candidate.lag } else { campaign_age };
        wait.saturating_sub(counted_before)
    }

    /// With the votes of a quorum the candidate leads at once: more votes could only make it wait longer.
    fn win(&self, state: &mut State, number: usize) -> Result<(), Violation> {
        let node = &mut state.nodes[number];
        let voters = self.latest(node).voters;
        let Role::Candidate(campaign) = node.role else { return Ok(()) };
        if !campaign.votes.majority_of(voters) {
            return Ok(());
        }
        let elected = &mut state.elected[usize::from(node.term)];
        if elected.is_some_and(|other| usize::from(other) != number) {
            return Err(Violation::TwoLeaders { term: node.term });
        }
        *elected = Some(number as u8);
        if !node.log.begins_with(state.committed) {
            return Err(Violation::CommittedEntryLost { leader: number as u8 });
        }
        let fresh = Nodes::default().with(number);
        node.role = Role::Leader(Leader { wait: campaign.wait, fresh, ..Leader::default() });
        node.log = node.log.with(node.term, Kind::Noop);
        node.verified = node.log.length();
        Ok(())
    }

    /// Rule 4: whether a new leader may commit, as far as old leases go.
    pub(crate) fn old_leases_are_over(&self, node: &Node, leader: &Leader) -> bool {
        if node.term_committed() || leader.wait == 0 || self.breaks(Broken::NewLeaderDoesNotWait) {
            return true;
        }
        let latest = self.latest(node);
        let own = if self.breaks(Broken::WaitsOnlyForVoters) { latest.voters } else { latest.members() };
        // While its own configuration is not known committed, its predecessor may have granted by the one before.
        let before = self.latest_committed(node).members();
        let all = if self.only_own_members() { own } else { own.and(before) };
        all.within(leader.fresh)
    }

    fn only_own_members(&self) -> bool {
        self.breaks(Broken::PreviousConfigurationNotCounted) || self.breaks(Broken::WaitsOnlyForVoters)
    }
}
