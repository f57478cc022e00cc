//! The machine: one event in, its effects out.

use std::time::Duration;

use crate::candidate::{self, Candidate, Poll};
use crate::config::{Config, ConfigError};
use crate::effect::{Effect, Rejection};
use crate::event::{Event, Now};
use crate::follower::Follower;
use crate::handover::{Cause, LAST_RESORT_TIMERS};
use crate::invariants;
use crate::leader::Leader;
use crate::member::{Arrived, Member};
use crate::message::{Envelope, Message};
use crate::mutant::{Mutant, broken, unless};
use crate::ports::Recovered;
use crate::reads::{ReadMode, Reader};
use crate::status::Role;
use crate::suffix::Ahead;
use crate::types::{Index, NodeId, Term, Ticket};

mod dispatch;

use dispatch::is_believed_though_old;

/// One member of one group, as a pure state machine: no clock, no I/O, no thread, no payload bytes.
///
/// Give it what happens with [`Raft::step`], then carry out every effect, in order, before the next event.
#[derive(Debug)]
pub struct Raft {
    pub(crate) member: Member,
    pub(crate) role: RoleState,
}

/// What only nodes of a role know, in the place where it is true.
#[derive(Debug)]
pub(crate) enum RoleState {
    Follower(Follower),
    PreCandidate(Candidate, Ahead),
    Candidate(Candidate),
    Leader(Box<Leader>),
}

impl Raft {
    /// A node that has just started, with what its disk holds and what its state machine has applied.
    ///
    /// # Errors
    /// When a setting cannot work, or the state machine is ahead of a log that knows of no loss.
    pub fn new(config: Config, recovered: Recovered, applied: Index, now: Now) -> Result<Self, ConfigError> {
        config.check()?;
        recovered.check().map_err(|problem| ConfigError {
            field: "data_dir",
            problem: format!("holds a log that its store recovered wrongly: {problem}"),
            remedy: "run the store's conformance suite (raft_core::testing::log_store_suite)".into(),
        })?;
        let last = recovered.last().index;
        if applied > last && recovered.lost.is_none() {
            return Err(ConfigError {
                field: "data_dir",
                problem: format!("holds a state that has applied entry {applied} and a log that ends at {last}"),
                remedy: "state and log must come from the same directory: restore both, or start with a blank one"
                    .into(),
            });
        }
        let base = recovered.base;
        if applied < base.index {
            return Err(ConfigError {
                field: "data_dir",
                problem: format!("holds a state that has applied entry {applied} and a log that begins after {base}"),
                remedy: "restore the state from the snapshot that the log names; without one, start with a blank \
                         directory and let this node join as a new one"
                    .into(),
            });
        }
        let mut member = Member::new(config, recovered, applied, now);
        let role = RoleState::Follower(Follower::new(&mut member, None));
        Ok(Self { member, role })
    }

    /// Takes one event and says what to do about it. `now` is read after the event was taken from its queue.
    pub fn step(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        let begin = effects.len();
        let before = invariants::Before::of(self);
        if self.member.read_clocks(now) {
            self.on_clock_jump();
        }
        match event {
            Event::Tick => self.tick(effects),
            Event::Propose { first, count, bytes } => self.propose(first, count, bytes, effects),
            Event::ChangeMembership { ticket, change } => self.change(ticket, &change, effects),
            Event::Read { ticket, mode } => self.read_by(mode, ticket, effects),
            Event::Receive(envelope) => self.receive(&envelope, effects),
            Event::Persisted(id) => {
                if self.member.persisted(id) {
                    self.member.restore_installed(effects);
                    self.on_durable(effects);
                }
            }
            Event::StorageFailed => self.on_storage_failed(effects),
            Event::Applied { index, durable } => {
                self.member.applied(index, durable);
                if let Some(arrived) = self.member.take_arrived() {
                    self.on_snapshot(arrived, effects);
                }
                self.compact(effects);
            }
            Event::SnapshotReceived { from, term, meta } => self.on_snapshot(Arrived { from, term, meta }, effects),
            Event::Restored(last) => {
                self.member.restored(last);
                self.compact(effects);
            }
            Event::Transfer { to, transfer } => {
                if let RoleState::Leader(leader) = &mut self.role {
                    leader.on_transfer(&self.member, to, transfer);
                }
            }
            Event::SnapshotWanted { to } => {
                if let RoleState::Leader(leader) = &mut self.role {
                    leader.send_snapshot(&self.member, to, effects);
                }
            }
            Event::Fenced(fenced) => {
                self.member.fenced = fenced;
                self.seek_successor(Cause::State, effects);
            }
            Event::Rebuild => {
                self.member.rebuild();
                self.seek_successor(Cause::State, effects);
            }
            Event::HandOver { ticket, to } => self.hand_over(ticket, to, effects),
            Event::Drained(drained) => self.drain(drained, effects),
            Event::Unreachable(peer) => {
                if let RoleState::Leader(leader) = &mut self.role {
                    leader.on_unreachable(peer);
                }
            }
        }
        if let RoleState::Leader(leader) = &mut self.role {
            leader.reopen_commits(&mut self.member, effects);
        }
        self.go_on_with_change(effects);
        self.member.tell_configuration(effects);
        self.answer_handover(effects);
        self.member.apply_committed(effects);
        self.member.seal_write(begin, effects);
        if broken(Mutant::RestoredBeforeWrite) {
            self.member.restore_installed(effects);
        }
        invariants::check_step(&before, self);
    }

    /// Starts or continues what time alone brings about.
    fn tick(&mut self, effects: &mut Vec<Effect>) {
        match &mut self.role {
            RoleState::Follower(follower) => {
                if self.member.now >= follower.election_deadline {
                    self.ask_before_campaign(effects);
                } else {
                    follower.ask_for_reads(&mut self.member, effects);
                    follower.ask_for_lease(&mut self.member, effects);
                }
            }
            RoleState::PreCandidate(candidate, _) | RoleState::Candidate(candidate) => {
                // A split vote, or answers that never came: ask again, after another random time. [F2-CAND-TIMEOUT]
                if self.member.now >= candidate.election_deadline {
                    if broken(Mutant::CandidateNeverRetries) {
                        candidate.election_deadline = self.member.election_deadline();
                        return;
                    }
                    self.ask_before_campaign(effects);
                }
            }
            RoleState::Leader(leader) => {
                if !leader.tick(&mut self.member, effects) {
                    self.become_follower(None, effects);
                }
            }
        }
    }

    /// Nobody was heard for too long. A node that may not vote, or whose disk stalls, has no business to lead; one that
    /// should not lead waits whether others do, and then leads in order to hand over: somebody has to.
    pub(crate) fn ask_before_campaign(&mut self, effects: &mut Vec<Effect>) {
        let passed = if let RoleState::Follower(follower) = &self.role { follower.timers_passed } else { 0 };
        let waits = self.member.is_reluctant()
            && (passed < LAST_RESORT_TIMERS || broken(Mutant::NoLastResort))
            && self.role() == Role::Follower;
        if !self.member.may_campaign() || waits {
            let mut follower = Follower::new(&mut self.member, None);
            follower.timers_passed = passed.saturating_add(1);
            self.role = RoleState::Follower(follower);
            // Whom they were asked of is forgotten: a question that stays out would want a tick at once, for ever.
            if !broken(Mutant::QuestionOutlivesLeader) {
                self.member.reads.restart();
            }
            return;
        }
        self.member.reads.restart();
        let candidate = Candidate::ask_before(&mut self.member, effects);
        let poll = candidate.poll(&self.member);
        self.role = RoleState::PreCandidate(candidate, self.logs_ahead());
        self.on_poll(poll, effects);
    }

    pub(crate) fn on_poll(&mut self, poll: Poll, effects: &mut Vec<Effect>) {
        match (poll, &self.role) {
            (Poll::Won, RoleState::PreCandidate(..)) => {
                self.role = RoleState::Candidate(Candidate::campaign(&mut self.member, false, effects));
            }
            // [F2-CAND-WIN]
            (Poll::Won, RoleState::Candidate(candidate)) => {
                let latest_word = candidate.latest_word(&self.member);
                self.role = RoleState::Leader(Box::new(Leader::take_over(&mut self.member, latest_word, effects)));
            }
            (Poll::Lost, RoleState::PreCandidate(candidate, _)) => {
                let ask_again = candidate.election_deadline;
                self.become_follower(None, effects);
                if let RoleState::Follower(follower) = &mut self.role {
                    follower.election_deadline = ask_again;
                }
            }
            (Poll::Lost, _) => self.become_follower(None, effects),
            _ => {}
        }
    }

    /// Follows from now on; reads that waited for a round of this node are asked for anew.
    pub(crate) fn become_follower(&mut self, leader: Option<NodeId>, effects: &mut Vec<Effect>) {
        let mut follower = Follower::new(&mut self.member, leader);
        if let (RoleState::Follower(was), None) = (&self.role, leader) {
            // A later term alone is no reason for more patience. [F2-FOLLOWER-TIMEOUT]
            follower.election_deadline = was.election_deadline.max(self.member.now);
            follower.timers_passed = was.timers_passed;
        }
        if leader.is_some() && broken(Mutant::SuffixCountsAsVerified) && self.member.counters.suffixes_fetched > 0 {
            follower.verified = self.member.log.last().index;
        }
        if let (RoleState::Follower(was), true) = (&self.role, broken(Mutant::VerifiedOutlivesLeader)) {
            follower.verified = was.verified;
        }
        if let (RoleState::Follower(was), true) = (&self.role, broken(Mutant::LeaseOutlivesTerm)) {
            follower.holder = was.holder;
        }
        let was = std::mem::replace(&mut self.role, RoleState::Follower(follower));
        self.member.reads.restart();
        if let RoleState::Leader(was) = was {
            // It acknowledged itself for as long as it led.
            if !broken(Mutant::OldLeaderWordNotCounted) {
                self.member.stamp();
            }
            effects.extend(was.changes.iter().map(|pending| Effect::ChangeUnknown { ticket: pending.ticket }));
            self.member.counters.handovers_done += u64::from(was.was_handing_over());
            for ticket in was.rounds.into_local_reads() {
                self.member.reads.push(ticket);
            }
        }
        if let RoleState::Follower(follower) = &self.role {
            follower.ask_for_reads(&mut self.member, effects);
        }
    }

    fn propose(&mut self, first: Ticket, count: u64, bytes: u64, effects: &mut Vec<Effect>) {
        if count == 0 {
            return;
        }
        if self.member.failed {
            return Member::reject(first, count, Rejection::Stopping, effects);
        }
        match &mut self.role {
            RoleState::Leader(leader) => leader.propose(&mut self.member, first, count, bytes, effects),
            _ => Member::reject(first, count, Rejection::NotLeader, effects),
        }
    }

    pub(crate) fn read(&mut self, ticket: Ticket, effects: &mut Vec<Effect>) {
        if self.member.failed {
            return Member::reject(ticket, 1, Rejection::Stopping, effects);
        }
        // No leader will ever be heard of here: the caller is better off elsewhere than waiting.
        if self.member.removed.is_some() {
            return Member::reject(ticket, 1, Rejection::NotLeader, effects);
        }
        if let RoleState::Leader(leader) = &mut self.role {
            return leader.read(&mut self.member, Reader::Here(ticket), effects);
        }
        if self.member.reads.len() >= self.member.config.reads_pending_max {
            let why = Rejection::Overloaded { bound: "reads_pending_max" };
            return Member::reject(ticket, 1, why, effects);
        }
        if broken(Mutant::FollowerReadsUnasked) {
            return effects.push(Effect::ReadReady { ticket, index: self.member.commit_index, mode: ReadMode::Round });
        }
        self.member.reads.push(ticket);
        if let RoleState::Follower(follower) = &self.role {
            follower.ask_for_reads(&mut self.member, effects);
        }
    }

    /// Something this node wrote is durable: its own vote and its own entries count now, and not before.
    fn on_durable(&mut self, effects: &mut Vec<Effect>) {
        match &mut self.role {
            RoleState::Candidate(candidate) if self.member.hard_state_is_durable() => {
                let poll = candidate.own_vote_is_durable(&self.member);
                self.on_poll(poll, effects);
            }
            RoleState::Leader(leader) => {
                leader.advance_commit(&mut self.member, effects);
                leader.advance_handover(&mut self.member, effects);
            }
            _ => {}
        }
    }

    /// The disk failed: lead no more, promise nothing more. Whatever waits learns of it from the driver.
    fn on_storage_failed(&mut self, effects: &mut Vec<Effect>) {
        self.member.failed = true;
        self.become_follower(None, effects);
    }

    /// Drops the log's beginning where it is longer than wanted.
    fn compact(&mut self, effects: &mut Vec<Effect>) {
        let followers = match &self.role {
            RoleState::Leader(leader) => leader.followers_need_after(&self.member),
            _ => self.member.log.last().index,
        };
        self.member.compact(followers, effects);
    }

    /// A snapshot is here, from the leader of `term` as of the time when it was offered. Its term counts as a message's
    /// does. One of an older term is not believed to be this leader's word: it is offered again.
    fn on_snapshot(&mut self, arrived: Arrived, effects: &mut Vec<Effect>) {
        let Arrived { from, term, ref meta } = arrived;
        let old = term < self.member.term && !broken(Mutant::OldTermSnapshotBelieved);
        if self.member.failed || old {
            return;
        }
        if term.0 > self.member.term.0 + Term::JUMP_MAX || from == NodeId(0) || from == self.member.id() {
            return self.refuse(from, "a snapshot of an impossible term or sender", effects);
        }
        if meta.last.term > term || meta.last.index == Index::ZERO {
            return self.refuse(from, "a snapshot of a later term than its leader's, or of nothing", effects);
        }
        if term > self.member.term {
            self.member.adopt_term(term);
            self.become_follower(Some(from), effects);
        }
        if !self.follow(from, effects) {
            return;
        }
        if self.member.wants_snapshot(meta.last.index) && self.member.waits_for_applier(arrived.clone()) {
            return;
        }
        if let RoleState::Follower(follower) = &mut self.role {
            follower.on_snapshot(&mut self.member, from, arrived.meta, effects);
        }
    }

    /// A message: first what its term means, then what it says.
    fn receive(&mut self, envelope: &Envelope, effects: &mut Vec<Effect>) {
        if self.member.failed {
            return;
        }
        let from = envelope.from;
        if envelope.to != self.member.id() || from == self.member.id() || from == NodeId(0) {
            return self.refuse(from, "a message with wrong addresses", effects);
        }
        if envelope.term.0 > self.member.term.0 + Term::JUMP_MAX {
            return self.refuse(from, "a term beyond what is accepted", effects);
        }
        if let Message::Removed { configuration } = envelope.message {
            return self.on_removed(from, configuration, effects);
        }
        let asks = matches!(envelope.message, Message::PreVote { .. } | Message::Vote { .. });
        if asks && self.member.tells_removed(from, effects) {
            return;
        }
        if let Message::PreVote { last } = envelope.message {
            // Decided without touching any term.
            let live_leader = self.live_leader();
            candidate::on_pre_vote(&mut self.member, envelope, last, live_leader, effects);
            if broken(Mutant::PreVoteRaisesTerm) && envelope.term > self.member.term {
                self.member.adopt_term(envelope.term);
                self.become_follower(None, effects);
            }
            return;
        }
        match &envelope.message {
            Message::PreVoteResponse { granted: true, .. } => return self.on_pre_vote_granted(envelope, effects),
            Message::FetchSuffix { prev } => return self.on_fetch_suffix(envelope, *prev, effects),
            Message::Suffix { .. } | Message::SuffixRefused { .. } => return self.on_suffix_answer(envelope, effects),
            _ => {}
        }
        if envelope.term > self.member.term {
            // A candidate that cannot reach the leader must not depose it for those who can. Thesis 4.2.3
            // [TH-CHECKQUORUM]
            // But one whom its leader wants elected is answered by all.
            let asks_for_vote = match envelope.message {
                Message::Vote { handover, .. } => !handover || broken(Mutant::HandoverVoteStopped),
                _ => false,
            };
            let content_with_leader = self.live_leader().is_some_and(|leader| leader != from);
            if asks_for_vote && content_with_leader && !broken(Mutant::LiveLeaderDeposed) {
                return;
            }
            self.member.adopt_term(envelope.term);
            let lagged = matches!(self.role, RoleState::PreCandidate(..));
            let leads = matches!(envelope.message, Message::Append { .. } | Message::Heartbeat { .. });
            if self.role() != Role::Leader || !broken(Mutant::HigherTermKeepsLeader) {
                self.become_follower(leads.then_some(from), effects);
            }
            if lagged {
                self.ask_soon();
            }
        } else if envelope.term < self.member.term && !is_believed_though_old(&envelope.message) {
            return self.on_old_term(envelope, effects);
        }
        self.dispatch(envelope, effects);
    }

    /// The leader that this node has no reason to doubt: itself, or one heard within an election timeout.
    pub(crate) fn live_leader(&self) -> Option<NodeId> {
        match &self.role {
            RoleState::Leader(_) => Some(self.member.id()),
            RoleState::Follower(follower) if follower.has_live_leader(&self.member) => follower.leader,
            _ => None,
        }
    }

    pub(crate) fn refuse(&mut self, from: NodeId, reason: &'static str, effects: &mut Vec<Effect>) {
        self.member.counters.messages_refused += 1;
        effects.push(Effect::Refused { from, reason });
    }

    /// Nobody waits for these reads any more (in rising order): they no longer count against the bound.
    pub fn forget_reads(&mut self, tickets: &[Ticket]) {
        if tickets.is_empty() {
            return;
        }
        let waits = |ticket: Ticket| tickets.binary_search(&ticket).is_err();
        self.member.reads.retain(waits);
        if let RoleState::Leader(leader) = &mut self.role {
            leader.rounds.retain(waits);
        }
    }
}
