//! A node that leads: it appends, replicates, commits and confirms reads. Raft §5.3, §5.4.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::changes::Pending;
use crate::config::{LogRepair, PROBE_BYTES_MAX, PROBE_ENTRIES_MAX};
use crate::effect::{Effect, Rejection, Source};
use crate::handover::{Standing, Succession};
use crate::lease::giver::Giver;
use crate::member::Member;
use crate::message::Message;
use crate::mutant::{Mutant, broken, unless};
use crate::progress::{Progress, State, Window};
use crate::reads::{Confirmed, ReadMode, Reader, Rounds};
use crate::snapshot::Transfer;
use crate::types::{Entry, Index, LogId, NodeId, Ticket};

/// What only a leader knows. Raft Figure 2, "volatile state on leaders".
#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) progress: BTreeMap<NodeId, Progress>,
    pub(crate) rounds: Rounds,
    /// The no-op of this term: reads and everything that rests on "committed in my term" wait for it.
    pub(crate) first_of_term: Index,
    /// Callers who wait for a change of the members.
    pub(crate) changes: Vec<Pending>,
    /// Until when those who left are told so.
    pub(crate) parting_until: Option<Duration>,
    pub(crate) heartbeat_due: Duration,
    pub(crate) broadcast_time: Option<Duration>,
    pub(crate) succession: Succession,
    pub(crate) leases: Giver,
}

impl Leader {
    /// Takes over: nothing is known of the others, and the first entry is a no-op, a real one, that lets this leader
    /// commit what came before. Raft §8 \[TH-NOOP\], Figure 2 \[F2-LEADER-HEARTBEAT\].
    ///
    /// `latest_word` is the latest time at which those who elected it may have acknowledged an earlier leader.
    pub(crate) fn take_over(member: &mut Member, latest_word: Duration, effects: &mut Vec<Effect>) -> Self {
        assert!(member.hard_state_is_durable(), "a leader whose vote for itself is not durable");
        member.counters.elections_won += 1;
        member.counters.leader_changes += 1;
        if broken(Mutant::LeaderDropsUncommitted) && member.log.last().index > member.commit_index {
            member.truncate(member.commit_index.next());
        }
        let last = member.log.last().index;
        let audience =
            member.configurations.audience(member.commit_index).into_iter().filter(|peer| *peer != member.id());
        let progress = audience.map(|peer| (peer, Progress::new(last, member.now))).collect();
        let term = member.term;
        if !broken(Mutant::NoopLeftOut) {
            member.append_own(1, Entry::OVERHEAD, Source::Noop { term });
        }
        let mut leader = Self {
            progress,
            rounds: Rounds::default(),
            first_of_term: last.next(),
            changes: Vec::new(),
            parting_until: None,
            heartbeat_due: member.now,
            broadcast_time: None,
            succession: Succession::new(member),
            leases: Giver::begin(member, latest_word),
        };
        for ticket in member.reads.take_all() {
            leader.rounds.wait(Reader::Here(ticket), member.commit_index);
        }
        leader.send_round(member, effects);
        leader.replicate_to_all(member, effects);
        leader
    }

    /// Commands of clients. Raft Figure 2 \[F2-LEADER-PROPOSE\].
    pub(crate) fn propose(
        &mut self,
        member: &mut Member,
        first: Ticket,
        count: u64,
        bytes: u64,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(why) = self.refuses_proposals(member) {
            return Member::reject(first, count, why, effects);
        }
        let uncommitted = member.log.bytes_after(member.commit_index);
        if uncommitted + bytes > member.config.uncommitted_bytes_max && uncommitted > 0 {
            let why = Rejection::Overloaded { bound: "uncommitted_bytes_max" };
            Member::reject(first, count, why, effects);
            return;
        }
        let term = member.term;
        let id = LogId::new(member.log.last().index.next(), term);
        member.append_own(count, bytes, Source::Proposed { term });
        member.proposals.appended(id, first, count);
        self.replicate_to_all(member, effects);
    }

    /// A read of this node or a follower's question: waits for a round that is sent after it arrived.
    pub(crate) fn read(&mut self, member: &mut Member, reader: Reader, effects: &mut Vec<Effect>) {
        // A follower's state may be sound where this one is not, and the index is true: only reads of this state are
        // none.
        if let (Reader::Here(ticket), true) = (reader, member.is_caretaker()) {
            return Member::reject(ticket, 1, Rejection::HandingOver, effects);
        }
        if self.rounds.len >= member.config.reads_pending_max {
            if let Reader::Here(ticket) = reader {
                let why = Rejection::Overloaded { bound: "reads_pending_max" };
                Member::reject(ticket, 1, why, effects);
            }
            return;
        }
        self.rounds.wait(reader, member.commit_index);
        self.advance_reads(member, effects);
    }

    /// Time passed: heartbeats are due, or a quorum has not been heard for an election timeout, or the disk stalls.
    /// Returns whether to go on leading. Thesis 6.2 \[TH-CHECKQUORUM\].
    pub(crate) fn tick(&mut self, member: &mut Member, effects: &mut Vec<Effect>) -> bool {
        let timeout = member.config.election_timeout;
        let now = member.now;
        let heard_since: Vec<NodeId> =
            self.progress.iter().filter(|(_, peer)| now < peer.contact + timeout).map(|(id, _)| *id).collect();
        let own = member.id();
        let heard = |id: NodeId| id == own || heard_since.contains(&id);
        let enough = member.configuration().is_quorum(heard) || self.leave_towards_old(member, heard, effects);
        if !enough && !broken(Mutant::QuorumUnchecked) {
            member.counters.check_quorum_step_downs += 1;
            return false;
        }
        if !self.tick_handover(member, effects) {
            return false;
        }
        if member.now >= self.heartbeat_due {
            self.send_round(member, effects);
            self.advance_reads(member, effects);
        }
        true
    }

    /// Sends a numbered round of heartbeats. Raft Figure 2 \[F2-LEADER-HEARTBEAT\].
    pub(crate) fn send_round(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        self.heartbeat_due = member.now + member.config.heartbeat_interval;
        let round = self.rounds.begin(member.now, member.boottime);
        self.choose_holders(member);
        for (peer, progress) in &self.progress {
            // Never beyond what this follower has: what it holds after that may be another leader's.
            let held = unless(Mutant::HeartbeatCommitUnbounded, progress.match_index, member.commit_index);
            let commit = member.commit_index.min(held);
            if !broken(Mutant::HeartbeatsLeftOut) {
                let wants_holder = self.leases.wants(*peer);
                member.say(*peer, Message::Heartbeat { commit, round, wants_holder }, Index::ZERO, effects);
            }
        }
        let own = member.id();
        if member.configuration().is_quorum(|id| id == own)
            && let Some(confirmed) = self.rounds.confirm(round, member.now)
        {
            self.renew_own_lease(member, confirmed.sent);
        }
    }

    /// Sends whatever each follower has room for.
    pub(crate) fn replicate_to_all(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        for (peer, progress) in &mut self.progress {
            replicate(member, *peer, progress, effects);
        }
    }

    fn heard(&mut self, member: &Member, from: NodeId) -> Option<&mut Progress> {
        let progress = self.progress.get_mut(&from)?;
        progress.contact = member.now;
        progress.heard = true;
        self.leases.heard(from);
        Some(progress)
    }

    /// The follower has everything up to `matched`, durably. \[F2-LEADER-MATCH\]
    pub(crate) fn on_accepted(&mut self, member: &mut Member, from: NodeId, matched: Index, effects: &mut Vec<Effect>) {
        if matched > member.log.last().index {
            effects.push(Effect::Refused { from, reason: "an acknowledgement of entries that were never sent" });
            return;
        }
        let Some(progress) = self.heard(member, from) else { return };
        let news = matched > progress.match_index;
        progress.accepted(matched);
        replicate(member, from, progress, effects);
        if news {
            self.advance_commit(member, effects);
            self.advance_handover(member, effects);
        }
    }

    /// A heartbeat's answer says again what is durable there: news only if the acknowledgement was lost.
    pub(crate) fn on_durable_repeated(
        &mut self,
        member: &mut Member,
        from: NodeId,
        matched: Index,
        effects: &mut Vec<Effect>,
    ) {
        if self.progress.get(&from).is_some_and(|progress| progress.would_learn_from(matched)) {
            self.on_accepted(member, from, matched, effects);
        }
    }

    /// The follower's log parts from ours before the first entry of an append: look further back.
    /// Raft Figure 2 \[F2-LEADER-BACKTRACK\], §5.3 \[TH-FASTBACK\].
    pub(crate) fn on_rejected(
        &mut self,
        member: &mut Member,
        from: NodeId,
        prev: Index,
        hint: LogId,
        effects: &mut Vec<Effect>,
    ) {
        if prev == Index::ZERO {
            effects.push(Effect::Refused { from, reason: "a rejection of what every log holds" });
            return;
        }
        let Some(progress) = self.heard(member, from) else { return };
        if !progress.rejection_is_current(prev) {
            return;
        }
        member.counters.append_rejections += 1;
        // It once acknowledged this entry and holds it no more: its disk lost it. What it had must not be counted
        // for what comes; what is committed stays so.
        if prev <= progress.match_index && !broken(Mutant::LostEntriesCountOn) {
            progress.match_index = Index::ZERO;
        }
        if broken(Mutant::HintCountsAsHeld) {
            progress.match_index = progress.match_index.max(hint.index.min(prev.prev()));
        }
        let next = match member.config.log_repair {
            LogRepair::StepBack => Some(prev),
            LogRepair::TermHints => {
                let at = LogId::new(hint.index.min(prev.prev()), hint.term);
                member.log.newest_that_could_match(at).map(|newest| newest.index.next())
            }
        };
        // None: the logs meet before the beginning of this one. What is asked for then is a snapshot.
        progress.probe_from(next.unwrap_or_else(|| member.log.base().index), true);
        replicate(member, from, progress, effects);
    }

    /// A follower heard a round: it confirms this leader for reads, and tells of appends that were lost.
    pub(crate) fn on_heartbeat_response(
        &mut self,
        member: &mut Member,
        from: NodeId,
        round: u64,
        verified: Index,
        standing: Standing,
        effects: &mut Vec<Effect>,
    ) {
        if round > self.rounds.sent || verified > member.log.last().index {
            effects.push(Effect::Refused { from, reason: "an answer to a heartbeat that was never sent" });
            return;
        }
        let (patience, install_patience) = (member.config.heartbeat_interval, member.config.election_timeout);
        let proved = unless(Mutant::AnswerConfirmsAnyRound, round, self.rounds.sent);
        let Some(progress) = self.heard(member, from) else { return };
        if round == 0 {
            // An answer to an older term: it tells that the peer lives, and nothing of what this leader sent.
            return;
        }
        progress.answered_round = progress.answered_round.max(proved);
        progress.standing = Some(standing);
        // A bare probe, too, is due when none is out: a follower may miss nothing and still not be known to match.
        if progress.heartbeat_answered(verified, member.now, patience, install_patience) {
            replicate(member, from, progress, effects);
        }
        self.advance_rounds(member, effects);
    }

    /// How the snapshot for this follower fares.
    pub(crate) fn on_transfer(&mut self, member: &Member, to: NodeId, transfer: Transfer) {
        let Some(progress) = self.progress.get_mut(&to) else { return };
        match transfer {
            Transfer::Began(last) => progress.snapshot_began(last),
            Transfer::Arrived(last) => progress.snapshot_arrived(last, member.now),
            Transfer::Failed => progress.snapshot_failed(),
        }
    }

    /// This follower is sent a snapshot whatever its log holds. Where that needs none it goes on taking entries, so that it
    /// counts for commits meanwhile.
    pub(crate) fn send_snapshot(&mut self, member: &Member, to: NodeId, effects: &mut Vec<Effect>) {
        if let Some(progress) = self.progress.get_mut(&to).filter(|_| !member.is_caretaker()) {
            if progress.next_index <= member.log.base().index {
                progress.needs_snapshot(member.log.base().index);
            }
            effects.push(Effect::SendSnapshot { to });
        }
    }

    /// The first index that some follower still needs: what it has not acknowledged, if it is there; what follows the
    /// snapshot that it is being sent. Whoever is silent needs a snapshot in the end.
    pub(crate) fn followers_need_after(&self, member: &Member) -> Index {
        let timeout = member.config.election_timeout;
        let need = |peer: &Progress| match &peer.state {
            // Before it is known which snapshot it gets, what follows the present beginning may be what it needs then.
            State::Snapshot { needs, sending, .. } => Some(sending.map_or(*needs, |last| last.index)),
            State::Probe { .. } | State::Replicate { .. } => {
                (peer.heard && member.now < peer.contact + timeout).then_some(peer.match_index)
            }
        };
        self.progress.values().filter_map(need).min().unwrap_or_else(|| member.log.last().index)
    }

    /// What was sent to this follower may be lost: ask where it stands.
    pub(crate) fn on_unreachable(&mut self, peer: NodeId) {
        if let Some(progress) = self.progress.get_mut(&peer) {
            progress.lost_contact();
        }
    }

    /// Commits what a quorum holds durably, if it is of this term; what is older is committed with it.
    /// Raft §5.4.2, Figure 8 \[F2-LEADER-COMMIT\].
    pub(crate) fn advance_commit(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        let held = |peer: &Progress| unless(Mutant::SentCountsAsHeld, peer.match_index, peer.next_index.prev());
        // The own disk is one of the quorum, in parallel with the others. Thesis 10.2.1 [TH-DISK-PARALLEL]
        let own = unless(Mutant::OwnEntriesBeforeWrite, member.durable_index, member.log.last().index);
        let id = member.id();
        let configuration = member.configuration();
        // A leader that is to leave does not count itself. Raft §6 [TH-LEADER-LEAVES]
        let stranger = !configuration.is_voter(id) && broken(Mutant::RemovedLeaderCounts);
        let once_more = (stranger || broken(Mutant::LeaderCountsTwice)).then_some(member.durable_index);
        let durable = |peer| if peer == id { own } else { self.progress.get(&peer).map_or(Index::ZERO, held) };
        let reached = configuration.reached_with(once_more, durable);
        // What is left of it, or nothing: what counting may not commit does not wait for leases either.
        let counts = |member: &Member, index: Index| {
            let of_this_term = member.log.term_at(index) == Some(member.term);
            index > member.commit_index && (of_this_term || broken(Mutant::OldTermCommittedByCounting))
        };
        let wanted = if counts(member, reached) { reached } else { member.commit_index };
        let allowed = self.leases_allow(member, wanted);
        if counts(member, allowed) {
            let opens_reads = member.commit_index < self.first_of_term;
            member.commit_to(allowed);
            self.tell_holders_commit(member, effects);
            if opens_reads {
                self.advance_reads(member, effects);
            }
        }
    }

    /// Notes which rounds a quorum has answered; the leader's own answer counts.
    fn advance_rounds(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        let (own, sent) = (member.id(), self.rounds.sent);
        let answered = |id| if id == own { sent } else { self.progress.get(&id).map_or(0, |peer| peer.answered_round) };
        let confirmed = member.configuration().reached(answered);
        if let Some(Confirmed { took, sent }) = self.rounds.confirm(confirmed, member.now) {
            self.renew_own_lease(member, sent);
            self.broadcast_time = Some(took);
            // Raft §5.6: broadcast time << election timeout.
            if took * 3 > member.config.election_timeout {
                member.counters.slow_rounds += 1;
            }
        }
        self.advance_reads(member, effects);
    }

    /// Serves the reads whose round is confirmed, once an entry of this term is committed: before that, the commit
    /// index may lag behind what the last leader answered. Sends the next round for those that came meanwhile.
    fn advance_reads(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        if self.rounds.wants_round() {
            self.send_round(member, effects);
        }
        let early = broken(Mutant::ReadBeforeOwnCommit);
        if member.commit_index < self.first_of_term && !early {
            return;
        }
        while let Some((readers, index)) = self.rounds.pop_confirmed() {
            let index = if early { index } else { index.max(self.first_of_term) };
            for reader in readers {
                match reader {
                    Reader::Here(ticket) if member.is_caretaker() => {
                        Member::reject(ticket, 1, Rejection::HandingOver, effects);
                    }
                    Reader::Here(ticket) => effects.push(Effect::ReadReady { ticket, index, mode: ReadMode::Round }),
                    Reader::Peer { from, number } => {
                        member.say(from, Message::ReadIndexResponse { number, index }, Index::ZERO, effects);
                    }
                }
            }
        }
    }
}

/// Sends one follower as many appends as its window has room for. Raft Figure 2 \[F2-LEADER-NEXT\], thesis 10.2.1
/// \[TH-PIPELINE\].
fn replicate(member: &mut Member, peer: NodeId, progress: &mut Progress, effects: &mut Vec<Effect>) {
    let config = &member.config;
    let window = Window {
        appends: config.inflight_appends_max,
        entries: config.inflight_entries_max,
        bytes: config.inflight_bytes_max,
    };
    let (append_bytes_max, append_entries_max) = (config.append_bytes_max, config.append_entries_max);
    while let Some(room) = progress.room(window) {
        // The entry before the first one is not here any more. Raft §7 [F13-SEND]
        if progress.next_index <= member.log.base().index {
            // A state that differs is no snapshot for anybody: the next leader sends one.
            if !member.is_caretaker() {
                progress.needs_snapshot(member.log.base().index);
                effects.push(Effect::SendSnapshot { to: peer });
            }
            return;
        }
        let first = progress.next_index;
        let last = member.log.last().index;
        let probing = progress.state_name() == "probe";
        let (bytes_max, entries_max) = if probing {
            (append_bytes_max.min(PROBE_BYTES_MAX), append_entries_max.min(PROBE_ENTRIES_MAX))
        } else {
            (append_bytes_max, append_entries_max)
        };
        let entries_max = room.min(entries_max);
        let (reach, bytes) = if entries_max == 0 || first > last {
            if !probing {
                return;
            }
            (first.prev(), 0)
        } else {
            member.log.reach(first, bytes_max, entries_max)
        };
        let entries = member.log.span(first, reach, bytes);
        let commit = member.commit_index;
        // The leader's term is durable, so this leaves beside the write of its own entries.
        member.say(peer, Message::Append { entries, commit }, Index::ZERO, effects);
        progress.sent(reach, bytes, member.now);
    }
}
