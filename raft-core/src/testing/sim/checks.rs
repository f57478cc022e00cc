//! What is checked after every event, and what is noticed on the way.

use crate::membership::Configuration;
use crate::message::{Envelope, Message};
use crate::replica::{Output, Replica};
use crate::runs::Span;
use crate::status::Role;
use crate::testing::sim::disk::Marks;
use crate::testing::sim::goals::Goal;
use crate::testing::sim::machine::Answer;
use crate::testing::sim::members::{may_have_decided, quorum};
use crate::testing::sim::network::place;
use crate::testing::sim::node::{Job, Node, Seen, Waiter};
use crate::testing::sim::world::{What, World, small};
use crate::types::{Entry, EntryKind, Index, LogId, NodeId, Term};

/// How often the bounds on memory are looked at, in events.
const BOUNDS_EVERY: u64 = 64;

impl World {
    /// Looks at a replica that has just taken a step, before its outputs are carried out.
    pub(super) fn observe(&mut self, node: usize, outputs: &[Output<Waiter>]) {
        let (configuration, committed) = (self.believed(node), self.ghost.last());
        for output in outputs {
            if let Output::Persist(persist) = output {
                if let Some(meta) = &persist.write.snapshot {
                    self.note_install(node, meta);
                }
                self.log_written(node, persist.write.truncate_from, &persist.write.entries);
            }
        }
        let entry = &mut self.nodes[node];
        let Some(replica) = &entry.replica else { return };
        let seen = look(replica);
        let before = std::mem::replace(&mut entry.seen, seen);
        assert!(seen.term >= before.term, "[monotone term] it fell to {}", seen.term);
        assert!(seen.commit >= before.commit, "[monotone commit] it fell to {}", seen.commit);
        assert!(seen.applied >= before.applied, "[monotone applied] it fell to {}", seen.applied);
        if seen.role == Role::Leader && (before.role != Role::Leader || before.term != seen.term) {
            self.elected(node, seen.term);
        }
        if seen.role != before.role || seen.term != before.term {
            self.note_role(node, before, seen);
        }
        self.note_handover(node, before, seen);
        if seen.commit > before.commit {
            self.check_commit(node, seen.commit, seen.term, &configuration);
            self.note_committed_configuration(node, seen.commit);
        }
        self.check_configuration(node);
        self.check_rounds(node, &configuration);
        self.observe_leases(node, before, committed, outputs);
        if self.tally.events.is_multiple_of(BOUNDS_EVERY) {
            self.check_bounds(node);
        }
    }

    /// A write was asked for: the process believes in this log from now on.
    fn log_written(&mut self, node: usize, truncate_from: Option<Index>, entries: &[Entry]) {
        if let Some(from) = truncate_from {
            self.note_truncation(node, from);
            self.note_configurations_truncated(node, from);
        }
        let entry = &mut self.nodes[node];
        let mut index = truncate_from.map_or_else(|| entry.log.last(), |from| entry.log.last().min(from.prev()));
        entry.log.write_parts(truncate_from, entries);
        for written in entries {
            index = index.next();
            if written.kind == EntryKind::Configuration {
                self.note_configuration(node, written);
                let span = Span::of(LogId::new(index.prev(), written.id.term), std::slice::from_ref(written));
                let span = span.expect("it was read before");
                self.nodes[node].configurations.append(span.configurations);
            }
            let mark = *self.nodes[node].log.at(index).expect("an entry just written");
            self.ghost.appended(index, &mark);
            if let Some(attempt) = self.attempt_of(written) {
                self.check_proposal(node, written);
                self.clients.appended(attempt, node, written.id);
            }
        }
    }

    /// A leader never does this to its own log (Raft §5.3).
    fn note_truncation(&mut self, node: usize, from: Index) {
        let entry = &self.nodes[node];
        if let Some(replica) = &entry.replica {
            let leads = replica.raft().role() == Role::Leader;
            let led = entry.seen.role == Role::Leader && entry.seen.term == replica.raft().term();
            assert!(!(leads && led), "[leader append-only] the leader truncates at {from}");
        }
        self.truncations += 1;
        self.check_quorum_keeps(node, from);
        let entry = &self.nodes[node];
        let durable = entry.disk.durable.marks.at(from);
        let was_durable = durable.is_some() && durable == entry.log.at(from);
        let differs = |other: &Node| {
            let held = other.disk.durable.marks.at(from);
            held.is_some() && held != durable
        };
        let diverged = was_durable && self.nodes.iter().any(differs);
        self.goals.reach(Goal::SuffixTruncated);
        self.goals.reach_if(entry.found >= from, Goal::SuffixTruncatedAfterRestart);
        self.goals.reach_if(was_durable && entry.seen.durable < from, Goal::LateWriteOfTruncatedEntries);
        self.goals.reach_if(diverged, Goal::LogsDiverged);
        self.goals.reach(if was_durable { Goal::DurableSuffixTruncated } else { Goal::UnsyncedSuffixTruncated });
        let draw = if self.plan.lose_disk > 0 { self.random.next_u64() } else { 0 };
        let entry = &mut self.nodes[node];
        entry.found = entry.found.min(from.prev());
        if was_durable && self.faults_change && draw & 1 == 1 {
            // This disk says that it truncated, and does not: a crash that comes soon brings the suffix back.
            (entry.disk.long_ago, entry.disk.forgets) = (Some(entry.disk.durable.clone()), true);
            let life = entry.life;
            self.after(1 + (draw >> 8) % 10_000_000, What::Die { node: small(node), life });
        }
    }

    /// Whoever truncates is not one of the quorum that made an entry committed.
    fn check_quorum_keeps(&self, node: usize, from: Index) {
        let last = self.ghost.last().min(self.nodes[node].log.last());
        if last < from {
            return;
        }
        let committed = &self.ghost.committed[usize::try_from(last.prev().0).expect("a small index")].mark;
        let holds = |other: &usize| {
            let disk = &self.nodes[*other].disk;
            let held = |marks: &Marks| marks.at(last) == Some(committed);
            *other != node && (held(&disk.durable.marks) || (disk.lost.is_some() && held(&disk.forgotten)))
        };
        let holders: Vec<usize> = (0..self.nodes.len()).filter(holds).collect();
        let decided = may_have_decided(&self.believed_at(node, last), &|id| holders.contains(&place(id.0)));
        assert!(
            self.nodes[node].log.at(last) != Some(committed) || decided,
            "[a quorum keeps what is committed] n{} drops {last}, which {holders:?} hold, by place",
            node + 1
        );
    }

    fn elected(&mut self, node: usize, term: Term) {
        self.check_elected_by_quorum(node, term.0);
        let first = self.ghost.elected(node, term.0, &self.nodes[node].log);
        if first {
            self.tally.elections += 1;
            self.goals.reach(Goal::LeaderElected);
            self.goals.reach_if(self.believed(node).seats().len() == 1, Goal::SingleVoterElected);
            self.goals.reach_if(self.nodes[node].led, Goal::FormerLeaderElected);
            self.nodes[node].led = true;
            let fetched = std::mem::take(&mut self.nodes[node].fetched);
            self.goals.reach_if(fetched, Goal::ElectedAfterSuffix);
            let leaders = self.nodes.iter().filter(|entry| entry.leads()).count();
            self.goals.reach_if(leaders > 1, Goal::TwoLeadersAtOnce);
        }
    }

    fn note_role(&mut self, node: usize, before: Seen, seen: Seen) {
        if before.role == Role::Leader && seen.role != Role::Leader {
            self.goals.reach_if(seen.term > before.term, Goal::LeaderDeposedByLaterTerm);
            let woke = self.nodes[node].frozen_until;
            let just_woke = woke > 0 && self.now < woke + 50_000_000;
            self.goals.reach_if(seen.term > before.term && just_woke, Goal::LeaderWokeDeposed);
            let now = self.nodes[node].clock.read(self.now);
            let counters = self.nodes[node].replica.as_ref().map(|replica| replica.status(now).counters);
            if let Some(counters) = counters {
                let (quorum, stall) = self.nodes[node].step_downs;
                self.goals.reach_if(counters.check_quorum_step_downs > quorum, Goal::CheckQuorumStepDown);
                self.goals.reach_if(counters.disk_stall_step_downs > stall, Goal::DiskStallStepDown);
                self.nodes[node].step_downs = (counters.check_quorum_step_downs, counters.disk_stall_step_downs);
            }
        }
        let campaigns = |seen: &Seen| seen.role == Role::Candidate;
        if campaigns(&seen) && !campaigns(&before) {
            let rival = self.nodes.iter().any(|other| {
                other.replica.is_some()
                    && other.id != self.nodes[node].id
                    && campaigns(&other.seen)
                    && other.seen.term == seen.term
            });
            self.goals.reach_if(rival, Goal::TwoCandidatesInOneTerm);
        }
        self.goals.reach_if(campaigns(&before) && seen.role == Role::PreCandidate, Goal::CandidateTriedAgain);
        let yielded = campaigns(&before) && seen.role == Role::Follower && seen.term == before.term;
        self.goals.reach_if(yielded, Goal::CandidateYielded);
    }

    /// A node says that entries are committed: they are what everybody says, and a quorum holds them durably. Who says so
    /// first leads; it has gone by the configuration `before` this step, at whose end it may have appended another one.
    pub(super) fn check_commit(&mut self, node: usize, commit: Index, term: Term, before: &Configuration) {
        let Some(first) = self.ghost.committed(commit, term.0, &mut self.clients.ticks, &self.nodes[node].log) else {
            return;
        };
        let mark = *self.nodes[node].log.at(commit).expect("what is committed is in the log");
        assert!(
            self.nodes[node].seen.role != Role::Leader || mark.term == term.0,
            "[commit of its own term] the leader of term {term} commits {commit}@{}",
            mark.term
        );
        let holds = |place: &usize| {
            let disk = &self.nodes[*place].disk;
            // A disk that forgot is known to have, and its node votes for nobody whose log is behind what it held.
            let held = |marks: &Marks| marks.at(commit) == Some(&mark);
            held(&disk.durable.marks) || (disk.lost.is_some() && held(&disk.forgotten))
        };
        let holders: Vec<u64> = (0..self.nodes.len()).filter(holds).map(|place| place as u64 + 1).collect();
        assert!(
            quorum(before, &|id| holders.contains(&id.0)),
            "[commit on a quorum] n{} commits {commit} in term {term}, which {holders:?} hold durably, of {before:?}",
            node + 1
        );
        let entry = &self.nodes[node];
        self.goals.reach_if(entry.disk.durable.marks.at(commit) != Some(&mark), Goal::CommittedBeforeOwnDisk);
        let first_mark = entry.log.at(first).expect("what is committed is in the log");
        let earlier = first_mark.term < term.0;
        let of_another = earlier && self.ghost.leader_of(first_mark.term).is_some_and(|leader| leader != node);
        self.goals.reach_if(earlier, Goal::EarlierTermCommitted);
        self.goals.reach_if(of_another, Goal::DeposedLeadersEntryCommitted);
    }

    /// Every queue has its bound.
    fn check_bounds(&self, node: usize) {
        let entry = &self.nodes[node];
        let Some(replica) = &entry.replica else { return };
        let config = entry.config(&self.plan);
        let status = replica.status(entry.clock.read(self.now));
        // An entry is at most this much here, and every bound lets one more through.
        let one = 400 + config.append_bytes_max.min(4_096);
        // Before it has committed an entry of its own term a leader may not know of much that others committed.
        let knows = entry.log.at(status.commit_index).is_some_and(|mark| mark.term == status.term.0);
        assert!(
            status.role != Role::Leader
                || !knows
                || status.uncommitted_bytes <= 3 * (config.uncommitted_bytes_max + one) + 20_000,
            "[bounded memory] {} bytes are uncommitted",
            status.uncommitted_bytes
        );
        for peer in &status.peers {
            assert!(
                peer.inflight_bytes <= config.inflight_bytes_max + config.append_bytes_max + 20_000,
                "[bounded memory] {} bytes are on their way to {}",
                peer.inflight_bytes,
                peer.id
            );
        }
        let handed: u64 = entry.applies.iter().map(job_bytes).sum();
        let bound = config.applying_bytes_max + config.append_bytes_max + 20_000;
        assert!(handed <= bound, "[bounded memory] {handed} bytes wait for the applier");
        let waiting_max = 16 * self.clients.count() + 64;
        assert!(replica.waiting() <= waiting_max, "[bounded memory] {} tries wait", replica.waiting());
        assert!(entry.disk.queue.len() <= 8_192, "[bounded memory] {} writes wait", entry.disk.queue.len());
    }

    /// A promise leaves only when its write is durable. \[F2-PERSIST\]
    pub(super) fn check_departure(&mut self, node: usize, envelope: &Envelope) {
        let entry = &self.nodes[node];
        let (durable, term) = (&entry.disk.durable, envelope.term);
        let hard_state = durable.hard_state;
        let lost = entry.disk.lost;
        let voted = |candidate| {
            assert!(lost.is_none(), "[no vote with a lost log] {envelope:?} leaves, and {lost:?} is lost");
            assert!(
                hard_state.term > term || (hard_state.term == term && hard_state.vote == Some(candidate)),
                "[write before message] {envelope:?} leaves, and the disk holds {hard_state:?}"
            );
        };
        match &envelope.message {
            // They promise nothing.
            Message::PreVote { .. }
            | Message::PreVoteResponse { granted: true, .. }
            | Message::Suffix { .. }
            | Message::SuffixRefused { .. } => return,
            Message::Vote { handover, .. } => {
                voted(envelope.from);
                self.ghost.voted(node, term.0, envelope.from.0);
                self.check_handover_vote(node, term, *handover);
                return;
            }
            Message::VoteResponse { granted: true, .. } => {
                voted(envelope.to);
                let again = self.ghost.voted(node, term.0, envelope.to.0);
                self.goals.reach_if(again, Goal::VoteGrantedAgain);
                return;
            }
            _ => {}
        }
        assert!(
            hard_state.term >= term,
            "[write before message] {envelope:?} leaves, and the disk holds {hard_state:?}"
        );
        match &envelope.message {
            Message::AppendAccepted { matched } => self.check_acknowledgement(node, envelope, *matched),
            Message::HeartbeatResponse { matched, round, .. } => {
                self.note_answered_round(node, envelope.to, term.0, *round);
                self.check_acknowledgement(node, envelope, *matched);
            }
            Message::TimeoutNow { last, .. } => self.check_timeout_now(node, envelope, *last),
            Message::ReadIndex { number } => {
                let entry = &mut self.nodes[node];
                let before = entry.asked_before;
                assert!(*number > before, "[numbers are new] question {number}: a former life went to {before}");
                entry.asked = entry.asked.max(*number);
            }
            Message::Append { commit, .. } | Message::Heartbeat { commit, .. } => {
                let leader = self.ghost.leader_of(term.0);
                assert_eq!(leader, Some(node), "[leaders are elected] {envelope:?} leaves");
                assert!(*commit <= self.ghost.last(), "[commit is true] {envelope:?} leaves");
            }
            Message::AppendRejected { .. } => {
                self.nodes[node].rejections += 1;
                self.goals.reach(Goal::AppendRejected);
                self.goals.reach_if(self.nodes[node].rejections == 3, Goal::LongRepair);
            }
            Message::PreVoteResponse { ahead, .. } => {
                self.goals.reach(Goal::PreVoteRefused);
                self.goals.reach_if(ahead.is_some(), Goal::RefusedForItsLog);
            }
            Message::VoteResponse { .. } => self.note_refused_vote(node, envelope),
            Message::LeaseGrant { .. } => self.check_grant(node, envelope.to),
            _ => {}
        }
    }

    fn note_refused_vote(&mut self, node: usize, envelope: &Envelope) {
        self.goals.reach(Goal::VoteRefused);
        let entry = &self.nodes[node];
        let hard_state = entry.disk.durable.hard_state;
        let kept = hard_state.term == envelope.term && hard_state.vote.is_some_and(|vote| vote != envelope.to);
        let in_former_life = entry.vote_found == Some(hard_state);
        self.goals.reach_if(kept && in_former_life, Goal::VoteRememberedAcrossRestart);
    }

    /// What is acknowledged is durable here, and is what the leader of that term has.
    fn check_acknowledgement(&mut self, node: usize, envelope: &Envelope, matched: Index) {
        let entry = &self.nodes[node];
        if entry.disk.durable.hard_state.term != envelope.term || matched == Index::ZERO {
            return;
        }
        let held = entry.disk.durable.marks.at(matched);
        assert!(held.is_some(), "[write before message] {envelope:?} leaves, and the disk ends before");
        let leader = &self.nodes[place(envelope.to.0)];
        if leader.leads() && leader.seen.term == envelope.term {
            assert_eq!(held, leader.log.at(matched), "[acknowledged is equal] {envelope:?} leaves");
        }
        self.nodes[node].rejections = 0;
        if self.nodes[node].disk.lost.is_none() && self.nodes[node].forgot {
            self.nodes[node].forgot = false;
            self.goals.reach(Goal::ForgetfulNodeWhole);
        }
    }

    /// Notices what a message is about to do.
    pub(super) fn note_arrival(&mut self, node: usize, envelope: &Envelope) {
        let entry = &self.nodes[node];
        let (seen, stale) = (entry.seen, envelope.term < entry.seen.term);
        match &envelope.message {
            Message::PreVote { .. } => self.goals.reach_if(envelope.term <= seen.term, Goal::StalePreVoteDelivered),
            Message::Vote { .. } => self.goals.reach_if(stale, Goal::StaleVoteDelivered),
            Message::TimeoutNow { .. } => self.goals.reach_if(stale, Goal::StaleTimeoutNowDelivered),
            Message::VoteResponse { granted: true, .. } => {
                let over = stale || seen.role != Role::Candidate;
                self.goals.reach_if(over, Goal::GrantArrivedLate);
            }
            Message::Append { entries, commit } => {
                self.goals.reach_if(entries.runs.len() > 1, Goal::AppendOfSeveralTerms);
                let last = entries.last();
                let held = entry.log.at(last.index).is_some_and(|mark| mark.term == last.term.0);
                self.goals.reach_if(held && !entries.is_empty(), Goal::AppendRepeated);
                self.goals.reach_if(last.index < entry.log.last(), Goal::ShortAppendDelivered);
                let learns = held && seen.commit < (*commit).min(last.index);
                self.goals.reach_if(learns, Goal::CommitLearnedFromAppend);
            }
            Message::Heartbeat { commit, .. } => {
                self.goals.reach_if(!stale && *commit > seen.commit, Goal::CommitLearnedFromHeartbeat);
            }
            Message::AppendAccepted { matched } if seen.role == Role::Leader => {
                self.goals.reach_if(stale, Goal::StaleAcknowledgementDelivered);
                if !stale {
                    self.note_figure_8(node, *matched);
                }
            }
            Message::AppendRejected { .. } if seen.role == Role::Leader => {
                self.goals.reach_if(stale, Goal::StaleRejectionDelivered);
                let forgot = self.nodes[place(envelope.from.0)].forgot;
                self.goals.reach_if(forgot && !stale, Goal::ForgetfulFollowerRepaired);
            }
            Message::ReadIndexResponse { .. } => self.goals.reach_if(stale, Goal::StaleReadIndexResponse),
            Message::SuffixRefused { prev, hint } => {
                self.goals.reach(if hint.is_some() { Goal::SuffixHinted } else { Goal::SuffixNotToBeHad });
                let against = hint.is_some() && *prev <= seen.commit && seen.role == Role::PreCandidate;
                self.goals.reach_if(against, Goal::AheadAgainstCommitted);
            }
            _ => {}
        }
    }

    /// Figure 8 (c): a quorum holds an entry of an earlier term than its leader's, and it is not committed.
    fn note_figure_8(&mut self, node: usize, matched: Index) {
        if matched <= self.ghost.last() {
            return;
        }
        let entry = &self.nodes[node];
        let Some(mark) = entry.log.at(matched) else { return };
        if mark.term < entry.seen.term.0 {
            let holds = |id: NodeId| {
                self.nodes.get(place(id.0)).is_some_and(|it| it.disk.durable.marks.at(matched) == Some(mark))
            };
            let held = quorum(&self.believed(node), &holds);
            self.goals.reach_if(held, Goal::Figure8c);
        }
    }

    /// What is handed to the applier follows what it has, is durable here, and is whole.
    pub(super) fn check_batch(&self, node: usize, first: Index, last: Index, entries: &[Entry]) {
        let entry = &self.nodes[node];
        assert_eq!(first, entry.machine.applied.next(), "[apply order] a batch leaves a gap");
        let ends = entries.last().map(|entry| entry.id.index);
        assert_eq!(ends, Some(last), "[apply order] a batch ends elsewhere than it says");
        let durable = &entry.disk.durable.marks;
        assert!(durable.last() >= last, "[apply what is durable] {last} is applied before it is durable");
        if entry.disk.lost.is_none() {
            let known = self.ghost.committed.get(usize::try_from(last.prev().0).expect("a small index"));
            let held = durable.at(last);
            assert!(known.is_none_or(|known| held == Some(&known.mark)), "[state machine safety] {last} is applied");
        }
    }

    pub(super) fn note_applied(&mut self, node: usize, entry: &Entry, answer: Option<Answer>, repeated: bool) {
        let digest = self.nodes[node].machine.digest;
        let first = self.ghost.applied(entry, digest);
        self.goals.reach_if(repeated, Goal::RepeatedWriteAnswered);
        self.goals.reach_if(answer == Some(Answer::Late), Goal::LateWriteOfSession);
        if let Some(attempt) = self.attempt_of(entry) {
            assert!(
                !self.clients.attempts[attempt as usize].rejected,
                "[rejected is never applied] try {attempt} was rejected, and is applied as {}",
                entry.id
            );
            if let Some(answer) = answer.filter(|_| first && !repeated) {
                let at = usize::try_from(entry.id.index.prev().0).expect("a small index");
                self.clients.took_effect(attempt, self.ghost.committed[at].tick, answer);
            }
        }
    }
}

fn job_bytes(job: &Job) -> u64 {
    match job {
        Job::Apply(batch) => batch.entries.iter().map(Entry::size).sum(),
        Job::Restore(_) => 0,
    }
}

/// What can be seen of a replica at little cost.
pub(super) fn look(replica: &Replica<Waiter>) -> Seen {
    let raft = replica.raft();
    Seen {
        role: raft.role(),
        term: raft.term(),
        commit: raft.commit_index(),
        applied: raft.applied_index(),
        durable: raft.durable_index(),
        holds: raft.handover().is_some_and(|handover| handover.holds),
    }
}
