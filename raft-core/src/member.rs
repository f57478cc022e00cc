//! What is true of a node whatever its role: its term and vote, its log, what is durable, committed and applied.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::configurations::Configurations;
use crate::effect::{Append, Apply, Effect, Rejection, Source, Write};
use crate::event::Now;
use crate::handover::Asked;
use crate::log::Log;
use crate::membership::Configuration;
use crate::message::{Envelope, Message};
use crate::mutant::{Mutant, broken, unless};
use crate::ports::Recovered;
use crate::proposals::Proposals;
use crate::random::Random;
use crate::reads::FollowerReads;
use crate::runs::Span;
use crate::snapshot::SnapshotMeta;
use crate::status::Counters;
use crate::types::{Entry, HardState, Index, LogId, NodeId, Term, Ticket, WriteId};

/// A write that was asked for and is not known durable.
#[derive(Clone, Copy, Debug)]
struct PendingWrite {
    id: WriteId,
    /// The log ends here once it is durable; lowered when a later write truncates below it, so that a late completion
    /// never counts for entries that are gone.
    last: Index,
    hard_state: HardState,
    asked_at: Duration,
}

/// Writes that may wait for the disk before answers are dropped instead of queued behind them: whoever waits for one
/// asks again, so a disk that stalls for an hour leaves no hour of answers.
const WRITES_PENDING_MAX: usize = 4096;

/// A snapshot that waits until the applier is done with what it was given: it may have to read that from the log, which
/// will not hold it any more.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) from: NodeId,
    pub(crate) term: Term,
    pub(crate) meta: SnapshotMeta,
}

/// A snapshot on its way into the log and then the state. Nothing is applied meanwhile.
#[derive(Clone, Debug)]
struct Install {
    meta: SnapshotMeta,
    /// The write that is the commit point; none once it is durable and the state is being replaced.
    write: Option<WriteId>,
}

/// The facts of one member of one group.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) config: Config,
    pub(crate) random: Random,
    pub(crate) now: Duration,
    /// The clock that goes on while the machine sleeps.
    pub(crate) boottime: Duration,
    /// When this node last acknowledged any leader in any term, or itself as one; at first its start, since it does not
    /// know. On the clock that never runs ahead. Read leases may rest on it.
    pub(crate) stamped_at: Duration,
    /// The last request for a read lease.
    pub(crate) lease_numbers: u64,
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
    pub(crate) log: Log,
    pub(crate) configurations: Configurations,
    /// The committed configuration that leaves this node out.
    pub(crate) removed: Option<Index>,
    /// The version of the configurations that was told of last, and whether it was committed.
    told_of: (u64, bool),
    pub(crate) commit_index: Index,
    pub(crate) durable_index: Index,
    pub(crate) applied_index: Index,
    /// Applied, and there after a loss of power too.
    pub(crate) applied_durable_index: Index,
    /// The last index that was handed to the applier.
    applying_index: Index,
    /// What the applier holds: (last index, bytes).
    applying: VecDeque<(Index, u64)>,
    applying_bytes: u64,
    pub(crate) proposals: Proposals,
    pub(crate) reads: FollowerReads,
    pub(crate) counters: Counters,
    /// The disk once acknowledged up to here and has lost it: no vote before the log is back.
    pub(crate) lost: Option<LogId>,
    /// The disk failed: nothing is promised any more.
    pub(crate) failed: bool,
    /// The state differs from that of the others: this node must not lead, since its answers would be wrong.
    pub(crate) fenced: bool,
    /// The node rests, or is about to stop: it is not to lead.
    pub(crate) drained: bool,
    /// Who waits for a handover.
    pub(crate) handover_asked: Option<Asked>,
    /// The state is to be replaced by the next snapshot; until then nothing is applied to it.
    rebuild: bool,
    arrived: Option<Arrived>,
    install: Option<Install>,
    durable_hard_state: HardState,
    written_commit: Index,
    pending: VecDeque<PendingWrite>,
    writes_asked: u64,
    /// The write of the step that is under way.
    write: Write,
}

impl Member {
    pub(crate) fn new(config: Config, recovered: Recovered, applied: Index, now: Now) -> Self {
        let Recovered { hard_state, commit, base, snapshot: _, runs, batches, configurations, lost } = recovered;
        let log = Log::recovered(base, runs, batches);
        let last = log.last().index;
        let forgets_term = broken(Mutant::TermForgottenAtRestart);
        let forgets_vote = forgets_term || broken(Mutant::VoteForgottenAtRestart);
        // What was applied was committed. A log that lost its end may be behind the state; it comes back from peers.
        let known = if lost.is_some() { commit } else { commit.max(applied) };
        let commit_index = known.min(last);
        // Both are mixed: with seeds that differ by a step of the generator, one node's timeouts would be another's, one
        // draw later, and the two would campaign at the same time again and again.
        let seed = Random::new(config.seed).next_u64() ^ Random::new(!config.id.0).next_u64();
        Self {
            reads: FollowerReads::new(config.life),
            random: Random::new(seed),
            now: now.monotonic,
            boottime: now.boottime,
            stamped_at: unless(Mutant::RestartedVoterSaysLongAgo, now.monotonic, Duration::ZERO),
            lease_numbers: Self::lease_numbers_of(unless(Mutant::GrantOfEarlierLife, config.life, 0)),
            term: if forgets_term { log.last().term } else { hard_state.term },
            vote: if forgets_vote { None } else { hard_state.vote },
            log,
            configurations: Configurations::recovered(config.founders.clone(), configurations),
            removed: None,
            told_of: (0, true),
            commit_index,
            durable_index: last,
            applied_index: applied,
            applied_durable_index: Index::ZERO,
            applying_index: unless(
                Mutant::ReplayRepeats,
                unless(Mutant::ReplaySkips, applied, commit_index.max(applied)),
                applied.prev(),
            ),
            applying: VecDeque::new(),
            applying_bytes: 0,
            proposals: Proposals::default(),
            counters: Counters::default(),
            lost,
            failed: false,
            fenced: false,
            drained: false,
            handover_asked: None,
            rebuild: false,
            arrived: None,
            install: None,
            durable_hard_state: hard_state,
            written_commit: commit,
            pending: VecDeque::new(),
            writes_asked: 0,
            write: Write::default(),
            config,
        }
    }

    /// This node's id.
    pub(crate) fn id(&self) -> NodeId {
        self.config.id
    }

    fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote }
    }

    /// Enters a later term, without a vote in it. Raft §5.1 \[F2-TERM-ADOPT\].
    pub(crate) fn adopt_term(&mut self, term: Term) {
        assert!(term > self.term, "term {} to {term}: terms never fall", self.term);
        self.term = term;
        self.vote = None;
        if broken(Mutant::StampClearedByTerm) {
            self.stamped_at = Duration::ZERO;
        }
        if !broken(Mutant::TermNotWritten) {
            self.write.hard_state = Some(self.hard_state());
        }
    }

    /// Gives the one vote of this term. Raft §5.2 \[F2-VOTE-ONCE\].
    pub(crate) fn vote_for(&mut self, candidate: NodeId) {
        assert!(
            self.vote.is_none_or(|vote| vote == candidate),
            "a second vote in term {}: {:?}, then {candidate}",
            self.term,
            self.vote
        );
        self.vote = Some(candidate);
        self.write.hard_state = Some(self.hard_state());
    }

    /// Whether the term and the vote that this node speaks with are durable.
    pub(crate) fn hard_state_is_durable(&self) -> bool {
        self.durable_hard_state == self.hard_state()
    }

    /// Says something that promises this node's term and vote, and its log up to `backed_by`. It leaves at once when
    /// all that is durable, else with the write that makes it so. Raft Figure 2 \[F2-PERSIST\], ADR 10.
    pub(crate) fn say(&mut self, to: NodeId, message: Message, backed_by: Index, effects: &mut Vec<Effect>) {
        let envelope = Envelope { from: self.id(), to, term: self.term, message };
        if self.hard_state_is_durable() && backed_by <= self.durable_index {
            effects.push(Effect::Send(envelope));
        } else if self.pending.len() < WRITES_PENDING_MAX || matches!(envelope.message, Message::Vote { .. }) {
            self.write.release.push(envelope);
        }
    }

    /// Says something that promises nothing of this node's state (PreVote), in a term of the caller's choice.
    pub(crate) fn say_in_term(&self, to: NodeId, term: Term, message: Message, effects: &mut Vec<Effect>) {
        effects.push(Effect::Send(Envelope { from: self.id(), to, term, message }));
    }

    /// Appends entries of this node's own term: the no-op, or proposals.
    pub(crate) fn append_own(&mut self, count: u64, bytes: u64, source: Source) {
        let first = self.log.last().index.next();
        self.log.append(self.term, count, bytes);
        self.note_append(Append { first, last: self.log.last().index, source });
    }

    /// Appends a configuration, which is in force from now on.
    pub(crate) fn append_configuration(&mut self, configuration: Configuration) {
        assert_eq!(configuration.index(), self.log.last().index.next(), "a configuration of another entry");
        let (term, size) = (self.term, Entry::OVERHEAD + configuration.encode().len() as u64);
        self.configurations.append(Arc::new(configuration));
        self.append_own(1, size, Source::Configuration { term });
    }

    /// Whether this step has appended nothing yet: a step appends once.
    pub(crate) fn may_append(&self) -> bool {
        self.write.append.is_none()
    }

    /// Appends the entries of a leader's message from `first` on; what conflicts with them was dropped before.
    pub(crate) fn append_received(&mut self, span: &Span, first: Index) {
        self.log.append_span(span, first);
        for configuration in span.configurations.iter().filter(|configuration| configuration.index() >= first) {
            self.configurations.append(Arc::clone(configuration));
        }
        self.note_append(Append { first, last: self.log.last().index, source: Source::Received });
    }

    fn note_append(&mut self, append: Append) {
        assert!(self.write.append.is_none(), "two appends in one step");
        self.write.append = Some(append);
    }

    /// Drops a suffix that conflicts with the leader's log. Raft §5.3 \[F2-APPEND-CONFLICT\].
    pub(crate) fn truncate(&mut self, from: Index) {
        assert!(from > self.commit_index, "truncation at {from} would drop what is committed ({})", self.commit_index);
        assert!(self.write.append.is_none(), "truncation after an append in one step");
        self.log.truncate(from);
        // Thesis 4.1 [TH-ON-APPEND]
        self.configurations.truncate(from);
        self.durable_index = self.durable_index.min(from.prev());
        for pending in &mut self.pending {
            pending.last = pending.last.min(unless(Mutant::LateWriteCountsForOthers, from.prev(), pending.last));
        }
        self.write.truncate_from = Some(from);
    }

    /// Ends a step: the one write that it needs, before everything else that it asked for from `begin` on.
    pub(crate) fn seal_write(&mut self, begin: usize, effects: &mut Vec<Effect>) {
        let write = &mut self.write;
        if write.is_empty() && write.release.is_empty() {
            return;
        }
        if self.failed {
            // The disk failed: nothing can be promised.
            self.write = Write::default();
            return;
        }
        self.writes_asked += 1;
        write.id = WriteId(self.writes_asked);
        if self.commit_index > self.written_commit && !write.is_empty() {
            write.commit = Some(self.commit_index);
            self.written_commit = self.commit_index;
        }
        if write.snapshot.is_some()
            && let Some(install) = &mut self.install
        {
            install.write = Some(write.id);
        }
        self.pending.push_back(PendingWrite {
            id: write.id,
            last: self.log.last().index,
            hard_state: HardState { term: self.term, vote: self.vote },
            asked_at: self.now,
        });
        effects.insert(begin, Effect::Persist(std::mem::take(&mut self.write)));
    }

    /// The write and all before it are durable. Returns whether that was news.
    pub(crate) fn persisted(&mut self, id: WriteId) -> bool {
        let mut news = false;
        let all = broken(Mutant::OneWriteCountsForAll);
        while let Some(pending) = self.pending.front().copied().filter(|pending| pending.id <= id || all) {
            self.pending.pop_front();
            self.durable_hard_state = pending.hard_state;
            let end = self.log.last().index;
            self.durable_index = unless(Mutant::LateWriteCountsForOthers, pending.last, pending.last.min(end));
            news = true;
        }
        assert!(self.durable_index <= self.log.last().index, "durable beyond the log's end");
        let durable = LogId::new(self.durable_index, self.log.term_at(self.durable_index).unwrap_or_default());
        let long_enough = |lost: LogId| broken(Mutant::LostLogRefilledByIndex) && durable.index >= lost.index;
        if self.lost.is_some_and(|lost| durable.at_least_as_up_to_date_as(lost) || long_enough(lost)) {
            self.lost = None;
        }
        news
    }

    /// Takes a snapshot in the place of the log up to its last entry. What follows that entry stays if the entry is here:
    /// it may be acknowledged. Raft Figure 13, steps 6 and 7 \[F13-RETAIN\] \[F13-RESET\].
    pub(crate) fn install(&mut self, meta: SnapshotMeta) {
        assert!(self.install.is_none(), "a snapshot over another one that is not in place yet");
        let (last, committed) = (meta.last, self.commit_index);
        let keeps = self.log.term_at(last.index) == Some(last.term) && !broken(Mutant::SnapshotDropsSuffix);
        self.configurations.install(&meta.configuration, last.index, keeps);
        if keeps {
            self.log.compact_to(last.index);
        } else {
            assert!(
                last.index > committed,
                "the snapshot {last} is not of this log, which is committed to {committed}"
            );
            self.log.reset(last);
            // What was committed is in the snapshot, and on this disk until the snapshot is; nothing else counts.
            self.durable_index = self.durable_index.min(committed);
            for pending in &mut self.pending {
                pending.last = pending.last.min(committed);
            }
        }
        self.commit_to(last.index);
        self.proposals.forget_to(last.index);
        self.write.snapshot = Some(meta.clone());
        if self.state_needs(last.index) {
            self.applying_index = last.index;
            self.install = Some(Install { meta, write: None });
        }
    }

    /// Whether a snapshot that ends with `last` is wanted: it holds more than is committed here, or the state is to be
    /// replaced whatever the log holds.
    pub(crate) fn wants_snapshot(&self, last: Index) -> bool {
        let for_state = self.rebuild && last >= self.log.base().index && last >= self.applying_index;
        last > self.commit_index || for_state || broken(Mutant::OldSnapshotInstalled)
    }

    /// Whether the state has to be replaced by one that has applied `last`. A log that lost its end may need a snapshot
    /// that the state has passed: a state never goes back.
    fn state_needs(&self, last: Index) -> bool {
        let rebuilds = self.rebuild && last >= self.applying_index;
        last > self.applying_index || rebuilds || broken(Mutant::OldSnapshotInstalled)
    }

    /// Whether a snapshot is on its way into the log or the state.
    pub(crate) fn is_installing(&self) -> bool {
        self.install.is_some()
    }

    /// Whether a snapshot that was given to this node is needed here: it waits for the applier, or is being installed.
    pub(crate) fn needs_its_snapshot(&self) -> bool {
        self.install.is_some() || self.arrived.is_some()
    }

    /// Keeps a snapshot until the applier is done with what it has; false when that is so already.
    pub(crate) fn waits_for_applier(&mut self, arrived: Arrived) -> bool {
        let waits = !self.applying.is_empty() && !broken(Mutant::InstalledUnderApplier);
        if waits {
            self.arrived = Some(arrived);
        }
        waits
    }

    /// The snapshot that waited, once the applier is done.
    pub(crate) fn take_arrived(&mut self) -> Option<Arrived> {
        if self.applying.is_empty() { self.arrived.take() } else { None }
    }

    /// Once the log has the snapshot for good, the state follows.
    pub(crate) fn restore_installed(&mut self, effects: &mut Vec<Effect>) {
        let Some(install) = &mut self.install else { return };
        let durable = install.write.is_some_and(|write| self.pending.front().is_none_or(|oldest| oldest.id > write));
        if durable || (install.write.is_some() && broken(Mutant::RestoredBeforeWrite)) {
            install.write = None;
            effects.push(Effect::Restore(install.meta.clone()));
        }
    }

    /// The state of the installed snapshot is in place.
    pub(crate) fn restored(&mut self, last: LogId) {
        let installed = self.install.take().map(|install| install.meta.last);
        assert_eq!(installed, Some(last), "another snapshot was restored than the one that is installed");
        self.rebuild = false;
        self.fenced = false;
        self.applied(last.index, last.index);
    }

    /// From now on nothing is applied, until a snapshot has taken the place of the state.
    pub(crate) fn rebuild(&mut self) {
        self.rebuild = true;
    }

    /// Whether the state waits for a snapshot to replace it.
    pub(crate) fn waits_for_rebuild(&self) -> bool {
        self.rebuild
    }

    /// Drops the beginning of the log once it is longer than wanted: never what the state has not made durable, and
    /// nothing that `followers` still need, up to twice the bound. Raft §7 \[F13-COMPACT\].
    pub(crate) fn compact(&mut self, followers: Index, effects: &mut Vec<Effect>) {
        let (bytes_max, entries_max) = (self.config.retain_bytes_max, self.config.retain_entries_max);
        let begin = self.log.base().index;
        let (bytes, entries) = (self.log.bytes_after(begin), self.log.last().index.since(begin));
        if (bytes <= bytes_max && entries <= entries_max) || self.install.is_some() {
            return;
        }
        // The store drops nothing that it does not know committed, and it learns that with the writes.
        let durable = self.applied_durable_index.min(self.written_commit).min(self.durable_index);
        let may_go = unless(Mutant::CompactsUndurable, durable, self.applied_index.min(self.durable_index));
        let too_much = bytes > bytes_max.saturating_mul(2) || entries > entries_max.saturating_mul(2);
        let needed = if too_much { may_go } else { followers.min(may_go) };
        let upto = self.log.index_leaving(bytes_max / 4 * 3, entries_max / 4 * 3).min(needed);
        // Seldom and much: each cut costs a tombstone and a write.
        let much = bytes - self.log.bytes_after(upto.max(begin)) >= bytes_max / 16
            || upto.since(begin) >= (entries_max / 16).max(1);
        if upto > begin && much {
            self.log.compact_to(upto);
            effects.push(Effect::Compact { upto });
        }
    }

    /// Whether the oldest write has not come back for longer than the disk may stall.
    pub(crate) fn disk_stalls(&self) -> bool {
        self.pending.front().is_some_and(|oldest| self.now >= oldest.asked_at + self.config.disk_stall_timeout)
    }

    /// Moves the commit index. Raft §5.3.
    pub(crate) fn commit_to(&mut self, index: Index) {
        if index > self.commit_index {
            let last = self.log.last().index;
            assert!(index <= last, "commit of {index} beyond the log's end {last}");
            self.commit_index = index;
        }
    }

    /// Hands what is committed, durable here and not yet handed out to the applier, as far as its bound allows.
    /// Raft Figure 2 \[F2-APPLY\].
    pub(crate) fn apply_committed(&mut self, effects: &mut Vec<Effect>) {
        // The state of a snapshot comes first, and what follows it goes on top of that.
        let waits = self.install.is_some() || self.arrived.is_some() || self.rebuild;
        if waits && !broken(Mutant::AppliedDuringInstall) {
            return;
        }
        let committed = unless(Mutant::AppliedBeforeCommit, self.commit_index, self.durable_index);
        let ready = committed.min(unless(Mutant::AppliedBeforeWrite, self.durable_index, committed));
        while self.applying_index < ready && self.applying_bytes < self.config.applying_bytes_max {
            let first = self.applying_index.next();
            let room = self.config.applying_bytes_max - self.applying_bytes;
            let (last, bytes) = self.log.reach(first, room.min(self.config.append_bytes_max), u64::MAX);
            let last = last.min(ready);
            let tickets =
                if self.proposals.is_empty() { Vec::new() } else { self.proposals.take_to(last, &self.log, effects) };
            effects.push(Effect::Apply(Apply { first, last, tickets }));
            self.applying_index = last;
            self.applying.push_back((last, bytes));
            self.applying_bytes += bytes;
        }
    }

    /// The applier has done everything up to `index`, and everything up to `durable` is there after a loss of power.
    pub(crate) fn applied(&mut self, index: Index, durable: Index) {
        assert!(index <= self.applying_index, "applied {index}, but only {} was handed out", self.applying_index);
        assert!(durable <= index, "the state is durable up to {durable}, but applied only up to {index}");
        self.applied_index = self.applied_index.max(index);
        self.applied_durable_index = self.applied_durable_index.max(durable);
        self.configurations.forget_before(self.applied_index);
        let stuck = broken(Mutant::ApplyWindowNeverFreed);
        while let Some((_, bytes)) = self.applying.front().filter(|(last, _)| *last <= index && !stuck) {
            self.applying_bytes -= bytes;
            self.applying.pop_front();
        }
    }

    /// A random time from T to 2T from now. Raft §5.2.
    pub(crate) fn election_deadline(&mut self) -> Duration {
        let timeout = self.config.election_timeout;
        let spread = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        self.now + timeout + Duration::from_nanos(self.random.below(unless(Mutant::TimeoutsAreEqual, spread, 0)))
    }

    /// A random time from T/2 to T from now, to ask anew whether one would be elected: that costs nobody anything, and
    /// those who still heard a leader may hear none any more. So a refusal costs less than T.
    pub(crate) fn pre_vote_deadline(&mut self) -> Duration {
        let half = self.config.election_timeout / 2;
        let spread = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        self.now + half + Duration::from_nanos(self.random.below(unless(Mutant::TimeoutsAreEqual, spread, 0)))
    }

    /// Whether this node may vote: its memory is whole. Whether it is a voter is known to those who ask: this log may not
    /// say so yet. Thesis 4.2.1, 4.2.2 \[TH-OTHERS-VOTERS\]
    pub(crate) fn may_vote(&self) -> bool {
        let whole = self.lost.is_none() || broken(Mutant::LostLogVotes);
        let learner = !self.configurations.in_force().is_voter(self.id()) && broken(Mutant::LearnerRefusesVote);
        !self.failed && whole && !learner
    }

    /// The configuration that decides now.
    pub(crate) fn configuration(&self) -> &Arc<Configuration> {
        self.configurations.deciding(self.commit_index)
    }

    /// Whether the configuration in force leaves this node out, and is committed.
    pub(crate) fn is_left_out(&self) -> bool {
        let in_force = self.configurations.in_force();
        self.configurations.is_committed(self.commit_index) && in_force.was_removed(self.id())
    }

    /// A committed configuration leaves this node out: its own log says so, or a member. Reads that wait will hear of no
    /// leader here: their callers are better off elsewhere.
    pub(crate) fn note_removal(&mut self, configuration: Index, effects: &mut Vec<Effect>) {
        if self.removed.is_none() {
            self.removed = Some(configuration);
            effects.push(Effect::Removed { configuration });
            for ticket in self.reads.take_all() {
                Self::reject(ticket, 1, Rejection::NotLeader, effects);
            }
        }
    }

    /// Tells a node that was removed that it was, if it is known here. Thesis 4.2.3 \[TH-REMOVED\]
    pub(crate) fn tells_removed(&mut self, node: NodeId, effects: &mut Vec<Effect>) -> bool {
        let committed = self.configurations.at(self.commit_index);
        let removed = committed.was_removed(node) && !broken(Mutant::RemovalNotTold);
        if removed {
            let configuration = committed.index();
            self.say(node, Message::Removed { configuration }, Index::ZERO, effects);
        }
        removed
    }

    /// Tells of the configuration in force, when it is another one, or committed, since it was told of last.
    pub(crate) fn tell_configuration(&mut self, effects: &mut Vec<Effect>) {
        let committed = self.configurations.is_committed(self.commit_index);
        let now = (self.configurations.version(), committed);
        if self.told_of != now {
            self.told_of = now;
            let configuration = Arc::clone(self.configurations.in_force());
            effects.push(Effect::Configuration { configuration, committed });
        }
        if self.removed.is_none() && self.is_left_out() {
            self.note_removal(self.configurations.in_force().index(), effects);
        }
    }

    /// Whether this node is able to lead: it may vote, is or may be a voter, its disk works, and no snapshot is on its way
    /// into it.
    pub(crate) fn may_campaign(&self) -> bool {
        let counts = self.configurations.may_campaign(self.id(), self.commit_index);
        let learner = self.configurations.in_force().contains(self.id()) && broken(Mutant::LearnerCampaigns);
        let member = self.removed.is_none() && (counts || learner);
        self.may_vote() && member && !self.disk_stalls() && !self.needs_its_snapshot()
    }

    /// The other voters, of both sets while the configuration is joint.
    pub(crate) fn peers(&self) -> Vec<NodeId> {
        let own = self.id();
        let configuration = self.configuration();
        let mut peers = [configuration.voters(), configuration.outgoing()].concat();
        peers.sort_unstable();
        peers.dedup();
        peers.retain(|peer| *peer != own);
        peers
    }

    /// Rejects commands.
    pub(crate) fn reject(first: Ticket, count: u64, why: Rejection, effects: &mut Vec<Effect>) {
        effects.push(Effect::Reject { first, count, why });
    }
}
