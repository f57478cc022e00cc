//! What a message says, once its term is dealt with.

use super::*;

impl Raft {
    /// A message of this node's own term.
    pub(super) fn dispatch(&mut self, envelope: &Envelope, effects: &mut Vec<Effect>) {
        let from = envelope.from;
        match &envelope.message {
            Message::Append { .. } | Message::Heartbeat { .. } => self.on_leader_message(envelope, effects),
            Message::Vote { last, .. } => {
                if candidate::on_vote(&mut self.member, from, *last, effects) {
                    // Having voted, give the candidate an election timeout. [F2-FOLLOWER-TIMEOUT]
                    if let RoleState::Follower(follower) = &mut self.role {
                        follower.election_deadline = self.member.election_deadline();
                    }
                }
            }
            Message::VoteResponse { granted, silence } => {
                if let RoleState::Candidate(candidate) = &mut self.role {
                    if *granted {
                        candidate.hear_silence(&self.member, *silence);
                    }
                    let poll = candidate.on_answer(&self.member, from, *granted);
                    self.on_poll(poll, effects);
                }
            }
            Message::PreVoteResponse { ahead, .. } => self.on_pre_vote_refused(from, *ahead, effects),
            Message::TimeoutNow { last, drained_too } => self.on_timeout_now(from, *last, *drained_too, effects),
            Message::ReadIndexResponse { number, index } => {
                if let RoleState::Follower(follower) = &self.role {
                    follower.on_read_index_response(&mut self.member, from, *number, *index, effects);
                }
            }
            Message::LeaseGrant { number, usable, index } => {
                if let RoleState::Follower(follower) = &mut self.role {
                    follower.on_lease_grant(&mut self.member, from, *number, *usable, *index);
                }
            }
            _ => self.on_message_for_leader(envelope, effects),
        }
        // Decided without touching any term, above.
        assert!(!matches!(envelope.message, Message::PreVote { .. }), "a PreVote was dispatched by its term");
    }

    /// Words of the leader of this term. A candidate learns that it has lost. \[F2-CAND-YIELD\]
    fn on_leader_message(&mut self, envelope: &Envelope, effects: &mut Vec<Effect>) {
        let from = envelope.from;
        if !self.follow(from, effects) {
            return;
        }
        let RoleState::Follower(follower) = &mut self.role else { return };
        match &envelope.message {
            Message::Append { entries, commit } => {
                if entries.last().term > envelope.term {
                    return self.refuse(from, "entries of a later term than their leader's", effects);
                }
                follower.on_append(&mut self.member, from, entries, *commit, effects);
            }
            Message::Heartbeat { commit, round, wants_holder } => {
                if *wants_holder {
                    follower.want_lease(&self.member);
                }
                follower.on_heartbeat(&mut self.member, from, *commit, *round, effects);
            }
            _ => {}
        }
    }

    /// `from` leads this term, so this node follows it; false when another is known to lead.
    pub(super) fn follow(&mut self, from: NodeId, effects: &mut Vec<Effect>) -> bool {
        match &self.role {
            RoleState::Follower(follower) if follower.leader.is_none_or(|leader| leader == from) => true,
            RoleState::PreCandidate(..) | RoleState::Candidate(_) => {
                self.become_follower(Some(from), effects);
                true
            }
            RoleState::Leader(_) | RoleState::Follower(_) => {
                self.refuse(from, "a second leader in this term", effects);
                false
            }
        }
    }

    fn on_message_for_leader(&mut self, envelope: &Envelope, effects: &mut Vec<Effect>) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let (member, from) = (&mut self.member, envelope.from);
        match envelope.message {
            Message::AppendAccepted { matched } => leader.on_accepted(member, from, matched, effects),
            Message::AppendRejected { prev, hint } => leader.on_rejected(member, from, prev, hint, effects),
            Message::HeartbeatResponse { round, verified, matched, standing } => {
                if matched > verified {
                    return self.refuse(from, "more durable than verified", effects);
                }
                let held = unless(Mutant::VerifiedCountsAsHeld, matched, verified);
                leader.on_durable_repeated(member, from, held, effects);
                leader.on_heartbeat_response(member, from, round, verified, standing, effects);
            }
            Message::ReadIndex { number } => leader.read(member, Reader::Peer { from, number }, effects),
            Message::LeaseRequest { number } => leader.on_lease_request(member, from, number, effects),
            _ => {}
        }
    }

    /// A grant names the term that would be campaigned in. One that answers an earlier asking for the same term counts
    /// too: it promises nothing, and the votes decide.
    pub(super) fn on_pre_vote_granted(&mut self, envelope: &Envelope, effects: &mut Vec<Effect>) {
        let asked_now = envelope.term == self.member.term.next();
        let taken_for_vote = envelope.term == self.member.term && broken(Mutant::PreVoteCountsAsVote);
        let poll = match &mut self.role {
            RoleState::PreCandidate(candidate, _) if asked_now => {
                candidate.on_answer(&self.member, envelope.from, true)
            }
            RoleState::Candidate(candidate) if taken_for_vote => candidate.on_answer(&self.member, envelope.from, true),
            _ => return,
        };
        self.fetch_or_give_up(poll, effects);
    }

    /// A message of an older term has no effect but to teach its sender, if it leads or asks to lead.
    /// Raft §5.1 \[F2-APPEND-TERM\] \[F2-VOTE-TERM\].
    pub(super) fn on_old_term(&mut self, envelope: &Envelope, effects: &mut Vec<Effect>) {
        let (member, from) = (&mut self.member, envelope.from);
        let answer = match &envelope.message {
            // Round 0 was never sent: when the old leader leads this node's term by now, an answer that named the round,
            // or the append, would be taken for one of this term's, and confirm reads that it knows nothing of.
            Message::Append { .. } | Message::Heartbeat { .. } => {
                let round = match envelope.message {
                    Message::Heartbeat { round, .. } if broken(Mutant::OldRoundEchoed) => round,
                    _ => 0,
                };
                let standing = member.standing();
                Message::HeartbeatResponse { round, verified: Index::ZERO, matched: Index::ZERO, standing }
            }
            Message::Vote { .. } if broken(Mutant::OldVoteRequestGranted) => {
                let answer = Message::VoteResponse { granted: true, silence: Duration::ZERO };
                return member.say_in_term(from, envelope.term, answer, effects);
            }
            Message::Vote { .. } => Message::VoteResponse { granted: false, silence: Duration::ZERO },
            _ => return,
        };
        member.say(from, answer, Index::ZERO, effects);
    }
}

/// Whether a rule is broken by which this message, of an older term, would count for nothing.
pub(super) fn is_believed_though_old(message: &Message) -> bool {
    match message {
        Message::Append { .. } | Message::Heartbeat { .. } => broken(Mutant::OldLeaderObeyed),
        Message::AppendAccepted { .. } => broken(Mutant::OldAcknowledgementCounts),
        Message::VoteResponse { .. } => broken(Mutant::OldVoteCounts),
        Message::TimeoutNow { .. } => broken(Mutant::OldTimeoutNowObeyed),
        _ => false,
    }
}
