//! What a message may do to whom it reaches, and what it may not.

use crate::membership::Configuration;
use crate::message::{Message, PeerMessage};
use crate::raft::RoleState;
use crate::replica::Input;
use crate::status::Role;
use crate::testing::sim::goals::Goal;
use crate::testing::sim::members::{NODES_MAX, quorum};
use crate::testing::sim::network::place;
use crate::testing::sim::world::World;
use crate::types::{Index, NodeId};

impl World {
    /// Gives a message to whom it is for, and compares before and after.
    pub(super) fn receive(&mut self, node: usize, message: PeerMessage) {
        let (from, before) = (message.envelope.from, self.nodes[node].seen);
        let leaves_the_term = match &message.envelope.message {
            Message::PreVote { .. } => Some("[a PreVote changes nothing]"),
            Message::FetchSuffix { .. } => Some("[a question for a suffix changes nothing]"),
            Message::Vote { handover: false, .. } if self.follows_another(node, from) => {
                Some("[a live leader is protected]")
            }
            Message::TimeoutNow { drained_too, .. }
                if self.is_unfit(node, *drained_too) && message.envelope.term <= before.term =>
            {
                Some("[the unfit do not take over]")
            }
            _ => None,
        };
        let answers = matches!(
            &message.envelope.message,
            Message::AppendAccepted { .. } | Message::AppendRejected { .. } | Message::HeartbeatResponse { .. }
        );
        let is_old = message.envelope.term < before.term;
        let (leads, term) = (
            matches!(&message.envelope.message, Message::Append { .. } | Message::Heartbeat { .. }),
            message.envelope.term,
        );
        let believed = self.match_index(node, from);
        if let Message::Append { .. } = &message.envelope.message {
            self.nodes[node].fetched = false;
        }
        let offered = matches!(&message.envelope.message, Message::Suffix { .. });
        let awaited = before.role == Role::PreCandidate && message.envelope.term == before.term;
        let log = offered.then(|| (self.nodes[node].log.last(), self.truncations));
        self.step(node, Input::Receive(message));
        let after = self.nodes[node].seen;
        if leads && term == after.term {
            self.nodes[node].leases.heard_leader(self.now);
        }
        if let Some((end, truncations)) = log {
            let took = self.nodes[node].log.last() != end || self.truncations > truncations;
            assert!(!took || awaited, "[a suffix is for who waits for it] n{} takes one from {from}", node + 1);
            self.nodes[node].fetched |= took;
            self.goals.reach(if took { Goal::SuffixFetched } else { Goal::SuffixCameLate });
            self.goals.reach_if(self.truncations > truncations, Goal::SuffixReplacedTail);
        }
        if let Some(property) = leaves_the_term {
            assert_eq!(after.term, before.term, "{property} n{} enters a term for {from}", node + 1);
        }
        if answers && after.role == Role::Leader {
            if is_old {
                let believes = self.match_index(node, from);
                // Who left is forgotten in any step.
                let forgotten = believes == Index::ZERO && !self.believed(node).contains(from);
                let changed = believes != believed && !forgotten;
                assert!(!changed, "[old answers change nothing] n{} of {from}: {believes}", node + 1);
            }
            self.check_progress(node, from);
        }
    }

    /// How far a leader takes a follower's log to equal its own; zero for whoever leads nobody.
    fn match_index(&self, node: usize, of: NodeId) -> Index {
        match self.nodes[node].replica.as_ref().map(|replica| &replica.raft().role) {
            Some(RoleState::Leader(leader)) => {
                leader.progress.get(&of).map(|progress| progress.match_index).unwrap_or_default()
            }
            _ => Index::ZERO,
        }
    }

    /// Whether this node has heard from a leader other than `from` within an election timeout. Thesis 4.2.3
    /// \\[TH-CHECKQUORUM\\].
    fn follows_another(&self, node: usize, from: NodeId) -> bool {
        let entry = &self.nodes[node];
        let Some(replica) = &entry.replica else { return false };
        let status = replica.status(entry.clock.read(self.now));
        let timeout = entry.config(&self.plan).election_timeout;
        status.leader.is_some_and(|leader| leader != from) && status.leader_contact.is_some_and(|ago| ago < timeout)
    }

    /// A leader believes of a follower's log only what is there, and of its rounds only what a quorum has answered.
    fn check_progress(&self, node: usize, from: NodeId) {
        let (entry, peer) = (&self.nodes[node], &self.nodes[place(from.0)]);
        let Some(replica) = &entry.replica else { return };
        let RoleState::Leader(_) = &replica.raft().role else { return };
        let term = replica.raft().term();
        let matched = self.match_index(node, from);
        // A disk of a later term follows a later leader; one that forgot is found out by the next append.
        let follows = peer.disk.durable.hard_state.term == term && peer.disk.lost.is_none() && !peer.forgot;
        if follows {
            let held = peer.disk.durable.marks.at(matched);
            assert_eq!(held, entry.log.at(matched), "[match is held] n{} of {from}, {matched}", node + 1);
        }
    }

    /// What a leader takes for confirmed in a step is answered by a quorum of the configuration before that step, or after.
    pub(super) fn check_rounds(&mut self, node: usize, before: &Configuration) {
        let entry = &self.nodes[node];
        let Some(replica) = &entry.replica else { return };
        let RoleState::Leader(leader) = &replica.raft().role else { return };
        let now = (replica.raft().term().0, leader.rounds.confirmed);
        if entry.confirmed == now {
            return;
        }
        let (in_term, mut answered) = entry.answered.clone();
        if in_term != now.0 {
            answered.fill(0);
        }
        answered[node] = leader.rounds.sent;
        let answers = |id: NodeId| answered[place(id.0)] >= now.1;
        let reached = quorum(before, &answers) || quorum(&self.believed(node), &answers);
        assert!(
            reached || now.1 == 0,
            "[rounds are answered] n{} takes round {} for confirmed, and {answered:?} are answered, of {before:?}",
            node + 1,
            now.1
        );
        self.nodes[node].confirmed = now;
    }

    /// A follower answers a round: noted for the leader of that term. One that is in a later term than the leader whom it
    /// answers confirms nothing.
    pub(super) fn note_answered_round(&mut self, node: usize, to: NodeId, term: u64, round: u64) {
        if self.ghost.leader_of(term) != Some(place(to.0)) {
            return;
        }
        let (in_term, answered) = &mut self.nodes[place(to.0)].answered;
        if term > *in_term {
            (*in_term, *answered) = (term, vec![0; NODES_MAX]);
        }
        if term == *in_term {
            answered[node] = answered[node].max(round);
        }
    }
}
