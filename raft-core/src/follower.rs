//! A node that follows a leader, or waits for one. Raft §5.2, §5.3.

use std::time::Duration;

use crate::effect::Effect;
use crate::lease::holder::Holder;
use crate::member::Member;
use crate::message::Message;
use crate::mutant::{Mutant, broken, unless};
use crate::reads::ReadMode;
use crate::runs::Span;
use crate::snapshot::SnapshotMeta;
use crate::types::{Index, NodeId};

/// No correct leader does it.
const CONTRADICTS_COMMITTED: &str = "an append that conflicts with a committed entry";

/// What only a follower knows.
#[derive(Debug)]
pub(crate) struct Follower {
    /// The leader of this term, once heard.
    pub(crate) leader: Option<NodeId>,
    /// When it was last heard.
    pub(crate) contact: Option<Duration>,
    /// When to ask for votes if nobody is heard.
    pub(crate) election_deadline: Duration,
    /// The log is known to equal this leader's up to here, durable or not.
    pub(crate) verified: Index,
    /// The read lease that it has of this leader.
    pub(crate) holder: Holder,
    /// Election timers that ran out in a row without a campaign, since this node leaves that to others.
    pub(crate) timers_passed: u32,
}

impl Follower {
    pub(crate) fn new(member: &mut Member, leader: Option<NodeId>) -> Self {
        if leader.is_some() {
            member.counters.leader_changes += 1;
        }
        Self {
            leader,
            contact: leader.map(|_| member.now),
            election_deadline: member.election_deadline(),
            verified: Index::ZERO,
            holder: Holder::default(),
            timers_passed: 0,
        }
    }

    /// Whether a leader was heard so recently that nobody has reason to depose it. Thesis 9.6, 4.2.3 \[TH-PREVOTE\].
    pub(crate) fn has_live_leader(&self, member: &Member) -> bool {
        self.contact.is_some_and(|contact| member.now < contact + member.config.election_timeout)
    }

    /// Words from the leader of this term: follow it, and be patient for another election timeout.
    /// Raft Figure 2 \[F2-FOLLOWER-TIMEOUT\].
    fn hear(&mut self, member: &mut Member, from: NodeId) {
        member.stamp();
        if self.leader != Some(from) {
            self.leader = Some(from);
            member.counters.leader_changes += 1;
            member.reads.restart();
        }
        self.contact = Some(member.now);
        self.timers_passed = 0;
        self.election_deadline = member.election_deadline();
    }

    /// AppendEntries, receiver's part. Raft Figure 2 \[F2-FOLLOWER-RESPOND\].
    pub(crate) fn on_append(
        &mut self,
        member: &mut Member,
        from: NodeId,
        span: &Span,
        commit: Index,
        effects: &mut Vec<Effect>,
    ) {
        self.hear(member, from);
        // The consistency check: the entry before the first must be here. Raft §5.3 [F2-APPEND-PREV]
        if !member.log.holds(span.prev) {
            let Some(hint) = member.log.newest_that_could_match(span.prev) else {
                effects.push(Effect::Refused { from, reason: CONTRADICTS_COMMITTED });
                return;
            };
            let rejected = Message::AppendRejected { prev: span.prev.index, hint };
            member.say(from, rejected, Index::ZERO, effects);
            return;
        }
        if member.log.contradicts_base(span) {
            effects.push(Effect::Refused { from, reason: CONTRADICTS_COMMITTED });
            return;
        }
        // A repeated, older or shorter append finds no mismatch and changes nothing: entries that match are never
        // truncated, since they may be acknowledged. [F2-APPEND-CONFLICT] [F2-APPEND-NEW]
        if let Some(first) = first_to_write(member, span) {
            if first <= member.commit_index {
                // No correct leader sends this (leader completeness, Raft §5.4.3).
                effects.push(Effect::Refused { from, reason: CONTRADICTS_COMMITTED });
                return;
            }
            if first <= member.log.last().index {
                member.truncate(first);
                // Only a faulty leader takes back its own words; they are not believed then.
                self.verified = self.verified.min(first.prev());
            }
            member.append_received(span, first);
            self.drop_lease_if_left_out(member);
        }
        let last_of_message = span.last().index;
        self.verified = self.verified.max(last_of_message);
        // What follows this message here may be another leader's: it is not the leader's word yet.
        // [F2-APPEND-COMMIT]
        let own_end = member.log.last().index;
        member.commit_to(commit.min(unless(Mutant::CommitPastMessage, last_of_message, own_end)));
        let matched = unless(Mutant::AcknowledgedBeyondMessage, last_of_message, own_end);
        let backed_by = unless(Mutant::AcknowledgedBeforeWrite, matched, Index::ZERO);
        member.say(from, Message::AppendAccepted { matched }, backed_by, effects);
    }

    /// A snapshot of this leader is here, whole and durable. What it holds is committed, so it is equal to what this log
    /// holds up to its end, if the log reaches that far. Raft Figure 13 \[F13-INSTALL\].
    pub(crate) fn on_snapshot(
        &mut self,
        member: &mut Member,
        from: NodeId,
        meta: SnapshotMeta,
        effects: &mut Vec<Effect>,
    ) {
        member.stamp();
        if self.leader != Some(from) {
            // It was on its way for long, so it does not show that the leader lives now.
            self.leader = Some(from);
            member.counters.leader_changes += 1;
            member.reads.restart();
        }
        let last = meta.last.index;
        if last <= member.commit_index && member.log.term_at(last).is_some_and(|term| term != meta.last.term) {
            effects.push(Effect::Refused { from, reason: "a snapshot that conflicts with a committed entry" });
            return;
        }
        // One that comes while another is on its way into the state is offered again later.
        if member.wants_snapshot(last) && !member.is_installing() {
            member.install(meta);
        } else if last > member.commit_index {
            return;
        }
        self.verified = self.verified.max(last);
        let backed_by = unless(Mutant::SnapshotAcknowledgedBeforeWrite, last, Index::ZERO);
        member.say(from, Message::AppendAccepted { matched: last }, backed_by, effects);
    }

    /// A heartbeat: the leader lives; what it knows committed and this log is verified to hold is committed here.
    pub(crate) fn on_heartbeat(
        &mut self,
        member: &mut Member,
        from: NodeId,
        commit: Index,
        round: u64,
        effects: &mut Vec<Effect>,
    ) {
        self.hear(member, from);
        member.commit_to(commit.min(unless(Mutant::HeartbeatCommitUnbounded, self.verified, member.log.last().index)));
        if member.disk_stalls() && !broken(Mutant::StalledDiskAnswers) {
            // It can acknowledge nothing, so it must not be heard: a leader that hears a quorum of which too few can
            // acknowledge would lead for ever and commit nothing. [TH-CHECKQUORUM]
            return self.ask_for_reads(member, effects);
        }
        let durable = unless(Mutant::HeartbeatAcknowledgesUndurable, member.durable_index, self.verified);
        let matched = self.verified.min(durable);
        let standing = member.standing();
        let answer = Message::HeartbeatResponse { round, verified: self.verified, matched, standing };
        member.say(from, answer, Index::ZERO, effects);
        self.ask_for_reads(member, effects);
        self.ask_for_lease(member, effects);
    }

    /// Asks the leader for an index to read at, if reads wait and it is known.
    pub(crate) fn ask_for_reads(&self, member: &mut Member, effects: &mut Vec<Effect>) {
        let Some(leader) = self.leader else { return };
        if let Some(number) = member.reads.ask(member.now, member.config.heartbeat_interval) {
            member.say(leader, Message::ReadIndex { number }, Index::ZERO, effects);
        }
    }

    /// The leader has confirmed that it led after the question: reads up to that number may be served at `index`.
    pub(crate) fn on_read_index_response(
        &self,
        member: &mut Member,
        from: NodeId,
        number: u64,
        index: Index,
        effects: &mut Vec<Effect>,
    ) {
        if self.leader != Some(from) {
            return;
        }
        for ticket in member.reads.answered(number) {
            effects.push(Effect::ReadReady { ticket, index, mode: ReadMode::Round });
        }
        self.ask_for_reads(member, effects);
    }
}

/// Where the entries of an append (whose `prev` is here) begin that must be written: at the first one that conflicts
/// with this log or is not in it; none when it holds them all.
fn first_to_write(member: &Member, span: &Span) -> Option<Index> {
    let (end, last_of_message) = (member.log.last().index, span.last().index);
    if broken(Mutant::MatchingTruncated) && last_of_message > member.commit_index.max(span.prev.index) {
        return Some(member.commit_index.max(span.prev.index).next());
    }
    if broken(Mutant::ConflictKept) {
        return Some(end.next()).filter(|first| *first <= last_of_message);
    }
    member.log.first_mismatch(span)
}
