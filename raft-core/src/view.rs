//! What can be seen of a core from outside.

use std::sync::Arc;
use std::time::Duration;

use crate::event::Now;
use crate::leader::Leader;
use crate::membership::Configuration;
use crate::raft::{Raft, RoleState};
use crate::status::{PeerProgress, Role, Status};
use crate::types::{Index, LogId, NodeId, Term};

impl Raft {
    /// When the next [`Event::Tick`](crate::event::Event::Tick) is wanted, on the clock of [`Now::monotonic`].
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let own = match &self.role {
            RoleState::Follower(follower) => follower.election_deadline,
            RoleState::PreCandidate(candidate, _) | RoleState::Candidate(candidate) => candidate.election_deadline,
            RoleState::Leader(leader) => leader.heartbeat_due,
        };
        let reads = self.member.reads.repeat_at(self.member.config.heartbeat_interval);
        let leases = match &self.role {
            RoleState::Follower(follower) => follower.lease_due_at(&self.member),
            RoleState::Leader(leader) => leader.leases_open_at(self.member.now),
            RoleState::PreCandidate(..) | RoleState::Candidate(_) => None,
        };
        [reads, leases].into_iter().flatten().fold(own, Duration::min)
    }

    /// The entry before the first one that this log holds.
    #[must_use]
    pub fn log_base(&self) -> LogId {
        self.member.log.base()
    }

    /// The term of the entry at `index`, if this log holds one there.
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.member.log.term_at(index)
    }

    /// The configuration in force, committed or not.
    #[must_use]
    pub fn configuration(&self) -> &Arc<Configuration> {
        self.member.configurations.in_force()
    }

    /// The configuration as of the entry `index`, which is not before what is applied: what a snapshot that ends there
    /// carries.
    #[must_use]
    pub fn configuration_at(&self, index: Index) -> &Arc<Configuration> {
        self.member.configurations.at(index)
    }

    /// The newest configuration at or before what is applied, and all after it, in order: for whoever has to know later
    /// which one was in force at an entry. Two may come into force in one step, and only the last is told of then.
    pub fn configurations(&self) -> impl Iterator<Item = &Arc<Configuration>> {
        self.member.configurations.kept()
    }

    /// How long a read under a lease waits here for what the log held when it began, before the leader is asked instead.
    pub(crate) fn lease_patience(&self) -> Duration {
        self.member.config.election_timeout
    }

    /// The last index of the log, durable or not.
    #[must_use]
    pub fn last_index(&self) -> Index {
        self.member.log.last().index
    }

    /// Known committed.
    #[must_use]
    pub fn commit_index(&self) -> Index {
        self.member.commit_index
    }

    /// Durable here.
    #[must_use]
    pub fn durable_index(&self) -> Index {
        self.member.durable_index
    }

    /// Applied here.
    #[must_use]
    pub fn applied_index(&self) -> Index {
        self.member.applied_index
    }

    /// The term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.member.term
    }

    /// The leader of this term, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            RoleState::Leader(_) => Some(self.member.id()),
            RoleState::Follower(follower) => follower.leader,
            _ => None,
        }
    }

    /// What this node is.
    #[must_use]
    pub fn role(&self) -> Role {
        match &self.role {
            RoleState::Follower(_) => Role::Follower,
            RoleState::PreCandidate(..) => Role::PreCandidate,
            RoleState::Candidate(_) => Role::Candidate,
            RoleState::Leader(_) => Role::Leader,
        }
    }

    /// One look at everything.
    #[must_use]
    pub fn status(&self, now: Now) -> Status {
        let member = &self.member;
        let (leader_contact, broadcast_time, peers) = match &self.role {
            RoleState::Follower(follower) => {
                (follower.contact.map(|contact| now.monotonic.saturating_sub(contact)), None, Vec::new())
            }
            RoleState::Leader(leader) => {
                (Some(Duration::ZERO), leader.broadcast_time, peer_progress(leader, now.monotonic))
            }
            _ => (None, None, Vec::new()),
        };
        Status {
            id: member.id(),
            role: self.role(),
            term: member.term,
            vote: member.vote,
            leader: self.leader(),
            first_index: member.log.first_index(),
            log_bytes: member.log.bytes_after(member.log.base().index),
            last: member.log.last(),
            durable_index: member.durable_index,
            commit_index: member.commit_index,
            applied_index: member.applied_index,
            applied_durable_index: member.applied_durable_index,
            voters: member.configuration().voters().to_vec(),
            configuration: Arc::clone(member.configurations.in_force()),
            configuration_committed: member.configurations.is_committed(member.commit_index),
            removed: member.removed,
            peers,
            uncommitted_bytes: member.log.bytes_after(member.commit_index),
            lost: member.lost,
            installing: member.needs_its_snapshot(),
            fenced: member.fenced,
            rebuilding: member.waits_for_rebuild(),
            drained: member.drained,
            handover: self.handover(),
            broadcast_time,
            leader_contact,
            leases: self.lease_status(now),
            counters: member.counters,
        }
    }
}

fn peer_progress(leader: &Leader, now: Duration) -> Vec<PeerProgress> {
    leader
        .progress
        .iter()
        .map(|(id, progress)| PeerProgress {
            id: *id,
            match_index: progress.match_index,
            next_index: progress.next_index,
            state: progress.state_name(),
            inflight_bytes: progress.inflight_bytes(),
            snapshot: progress.snapshot_sending(),
            caught_up_for: progress.caught_up_since.map(|since| now.saturating_sub(since)),
            last_contact: progress.heard.then(|| now.saturating_sub(progress.contact)),
            standing: progress.standing,
        })
        .collect()
}
