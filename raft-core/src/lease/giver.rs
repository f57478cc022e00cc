//! A leader's side of read leases: its own, the grants that it gave, and the wait for those of the leaders before it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::effect::Effect;
use crate::leader::Leader;
use crate::member::Member;
use crate::message::Message;
use crate::mutant::{Mutant, broken, unless};
use crate::progress::{Progress, State};
use crate::types::{Index, NodeId};

/// A lease that a follower may hold, as this leader knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    /// Commits wait for the holder until then, on the clock that never runs ahead.
    pub(crate) until: Duration,
    /// Its nominal end on the clock of the own lease, by which holders are kept apart.
    end: Duration,
    /// The promise that was given last.
    promise: Duration,
}

/// Leases of the leaders before this one may run.
#[derive(Clone, Debug)]
struct Predecessors {
    /// They are over then, whoever holds one.
    until: Duration,
    /// Members who have not said anything in this term; who has, has dropped its lease before.
    silent: BTreeSet<NodeId>,
}

/// Commits wait for leases.
#[derive(Clone, Copy, Debug)]
struct HeldBack {
    /// Since when something has waited.
    since: Duration,
    /// What may be committed, and since when it is that and no more.
    allowed: Index,
    stands_since: Duration,
}

/// What a leader knows of leases.
#[derive(Debug, Default)]
pub(crate) struct Giver {
    /// When the newest round that a quorum answered was sent, on the clock that goes on while the machine sleeps: the
    /// ground of the own lease.
    word: Option<Duration>,
    /// Who may hold a lease. Never filtered by a configuration: who was removed may hold one still.
    table: BTreeMap<NodeId, Grant>,
    predecessors: Option<Predecessors>,
    /// A quorum has more than may be committed.
    held_back: Option<HeldBack>,
    /// Whom the leader wants to hold a lease.
    wanted: BTreeSet<NodeId>,
    /// Since when the configuration in force is known committed, and which.
    committed_since: Option<(Index, Duration)>,
}

impl Giver {
    /// A leader begins. `latest_word` is the latest time at which one of those who elected it may have acknowledged an
    /// earlier leader. \[RL-NEW-LEADER\]
    pub(crate) fn begin(member: &Member, latest_word: Duration) -> Self {
        let wait = member.lease_wait();
        let audience = if broken(Mutant::NewLeaderWaitsForVotersOnly) {
            member.peers().into_iter().collect()
        } else if broken(Mutant::PreviousMembersNotAsked) {
            member.configurations.in_force().seats().iter().map(|seat| seat.id).collect()
        } else {
            member.configurations.audience(member.commit_index)
        };
        let silent: BTreeSet<NodeId> = audience.into_iter().filter(|peer| *peer != member.id()).collect();
        let until = latest_word + wait;
        let waits = !wait.is_zero() && member.now < until && !silent.is_empty();
        let predecessors = (waits && !broken(Mutant::NewLeaderDoesNotWait)).then_some(Predecessors { until, silent });
        Self { predecessors, ..Self::default() }
    }

    /// The usable end of the own lease, by the settings in use now: before a leader has committed anything of its own
    /// term it may take old ones for those, and what it measured by them must not outlive that.
    pub(crate) fn own_end(&self, member: &Member) -> Duration {
        let settings = member.leases_in_use();
        self.word.map_or(Duration::ZERO, |word| word + settings.usable(settings.duration))
    }

    /// Who may hold a lease now, and for how long commits wait for it.
    pub(crate) fn holders(&self, now: Duration) -> impl Iterator<Item = (NodeId, Duration)> + '_ {
        let running = move |(id, grant): (&NodeId, &Grant)| (grant.until > now).then(|| (*id, grant.until - now));
        self.table.iter().filter_map(running)
    }

    /// How long this leader still waits at most for leases of those before it.
    pub(crate) fn predecessors_wait(&self, now: Duration) -> Option<Duration> {
        let wait = self.predecessors.as_ref().map(|predecessors| predecessors.until.saturating_sub(now));
        wait.filter(|wait| !wait.is_zero())
    }

    /// Until when commits wait for what this node, which has not said anything in this term, may hold of an earlier
    /// leader.
    #[cfg(feature = "testing")]
    pub(crate) fn waits_for(&self, id: NodeId) -> Option<Duration> {
        self.predecessors.as_ref().filter(|predecessors| predecessors.silent.contains(&id)).map(|it| it.until)
    }

    /// Until when commits wait for this holder.
    #[cfg(feature = "testing")]
    pub(crate) fn given_until(&self, id: NodeId) -> Option<Duration> {
        self.table.get(&id).map(|grant| grant.until)
    }

    /// A member said something in this term.
    pub(crate) fn heard(&mut self, from: NodeId) {
        if let Some(predecessors) = &mut self.predecessors {
            predecessors.silent.remove(&from);
        }
    }

    /// Whether this follower shall hold a lease, as far as the leader wants.
    pub(crate) fn wants(&self, peer: NodeId) -> bool {
        self.wanted.contains(&peer)
    }

    /// Forgets what has run out. Returns whether commits may have waited for it.
    fn expire(&mut self, now: Duration) -> bool {
        let over = |predecessors: &Predecessors| now >= predecessors.until || predecessors.silent.is_empty();
        let opened = self.predecessors.as_ref().is_some_and(over);
        if opened {
            self.predecessors = None;
        }
        let before = self.table.len();
        if !self.table.is_empty() {
            self.table.retain(|_, grant| now < grant.until);
        }
        opened || self.table.len() < before
    }

    /// The highest index that leases let be committed, when a quorum has `reached`: none while those of the leaders before
    /// may run. \[RL-COMMIT\]
    fn allows(&self, reached: Index, now: Duration, held: impl Fn(NodeId) -> Index) -> Option<Index> {
        if self.predecessors.is_some() {
            return None;
        }
        if self.table.is_empty() || broken(Mutant::CommitIgnoresHolders) {
            return Some(reached);
        }
        Some(self.holders(now).map(|(id, _)| held(id)).fold(reached, Index::min))
    }

    /// The clocks jumped: whatever was given may run for as long as if it were given now, and the own lease is not known
    /// to run any more. \[RL-JUMP\]
    pub(crate) fn restart(&mut self, member: &Member) {
        self.word = None;
        let settings = member.leases_in_use();
        for grant in self.table.values_mut() {
            let again = settings.honoured(grant.promise.max(settings.duration));
            grant.until = grant.until.max(member.now + again);
        }
        if let Some(predecessors) = &mut self.predecessors {
            predecessors.until = predecessors.until.max(member.now + member.lease_wait());
        }
    }
}

impl Leader {
    /// A quorum has acknowledged a round that was sent at `sent`: this leader may serve for some time from there on.
    /// \[RL-LEADER\]
    pub(crate) fn renew_own_lease(&mut self, member: &Member, sent: Duration) {
        // A leader that can make nothing durable shall make room for another one.
        if !member.disk_stalls() && !member.failed {
            let sent = unless(Mutant::LeaderLeaseFromReceipt, sent, member.boottime);
            self.leases.word = self.leases.word.max(Some(sent));
        }
    }

    /// Whether this leader may answer without asking anybody. Whoever is told to campaign may lead at any moment: that is
    /// no question of safety, but the sooner nobody relies on this lease the better. \[RL-LEADER\] \[RL-TRANSFER\]
    pub(crate) fn own_lease_is_usable(&self, member: &Member) -> bool {
        member.boottime < self.leases.own_end(member)
            && member.commit_index >= self.first_of_term
            && member.leases_in_use().is_on()
            && !self.was_handing_over()
            && !member.is_caretaker()
            && !member.failed
    }

    /// The index at which a read under the own lease is served: what this leader has committed. \[RL-LEADER\]
    pub(crate) fn read_under_lease(&self, member: &Member) -> Option<Index> {
        let index = unless(Mutant::LeaderReadsAtApplied, member.commit_index, member.applied_index);
        self.own_lease_is_usable(member).then_some(index)
    }

    /// Commits as far as a quorum and the leases allow. Returns by how far, if anything holds back what a quorum has.
    pub(crate) fn leases_allow(&mut self, member: &mut Member, reached: Index) -> Index {
        self.leases.expire(member.now);
        let held = |id: NodeId| self.progress.get(&id).map_or(Index::ZERO, |peer| peer.match_index);
        // Who acknowledged in this term that it is no member any more uses no lease from there on.
        let in_force = member.configurations.in_force();
        self.leases.table.retain(|id, _| in_force.contains(*id) || held(*id) < in_force.index());
        let removed =
            |id: NodeId| !member.configurations.in_force().contains(id) && broken(Mutant::CommitIgnoresRemovedHolder);
        let held = |id: NodeId| if removed(id) { reached } else { held(id) };
        let allowed = self.leases.allows(reached, member.now, held).unwrap_or(Index::ZERO).max(member.commit_index);
        if allowed < reached {
            member.counters.lease_holds_back += u64::from(self.leases.held_back.is_none());
            let now = member.now;
            let held_back = self.leases.held_back.get_or_insert(HeldBack { since: now, allowed, stands_since: now });
            if held_back.allowed < allowed {
                (held_back.allowed, held_back.stands_since) = (allowed, now);
            }
        } else if let Some(HeldBack { since, .. }) = self.leases.held_back.take() {
            member.counters.lease_held_back_for += member.now.saturating_sub(since);
        }
        allowed.min(reached.max(member.commit_index))
    }

    /// Whether commits wait for leases only.
    pub(crate) fn is_held_back(&self) -> bool {
        self.leases.held_back.is_some()
    }

    /// When what holds commits back is over at the latest, if anything does.
    pub(crate) fn leases_open_at(&self, now: Duration) -> Option<Duration> {
        self.leases.held_back?;
        let predecessors = self.leases.predecessors.iter().map(|predecessors| predecessors.until);
        predecessors.chain(self.leases.holders(now).map(|(_, left)| now + left)).min()
    }

    /// What held commits back may be over, at the end of any step: a member spoke, or time passed.
    pub(crate) fn reopen_commits(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        if self.is_held_back() && self.leases.expire(member.now) && !broken(Mutant::HeldBackForGood) {
            self.advance_commit(member, effects);
            self.advance_handover(member, effects);
        }
    }

    /// A follower asks for a lease: it gets a part of this leader's own, if it is a member for good, keeps up, and holds
    /// nobody up. \[RL-GRANT\]
    pub(crate) fn on_lease_request(
        &mut self,
        member: &mut Member,
        from: NodeId,
        number: u64,
        effects: &mut Vec<Effect>,
    ) {
        if self.stands_still(member, from) || !self.may_grant(member, from) {
            member.counters.lease_requests_passed_over += 1;
            return;
        }
        let settings = member.leases_in_use();
        let longest = settings.duration.min(self.leases.own_end(member).saturating_sub(member.boottime));
        let longest = unless(Mutant::GrantBeyondOwnLease, longest, settings.duration);
        let promise = self.kept_apart(member, from, longest, settings.duration / 4);
        let until = member.now + settings.honoured(promise);
        let before = self.leases.table.get(&from).map_or(until, |grant| grant.until);
        let grant = Grant { until: until.max(before), end: member.boottime + promise, promise };
        self.leases.table.insert(from, grant);
        member.counters.leases_granted += 1;
        let (usable, index) = (settings.usable(promise), member.log.last().index);
        member.say(from, Message::LeaseGrant { number, usable, index }, Index::ZERO, effects);
    }

    /// Whether this follower lacks something and has acknowledged nothing since it asked before: it has to catch up
    /// first, or it would hold commits up again and again.
    fn stands_still(&mut self, member: &Member, id: NodeId) -> bool {
        let Some(peer) = self.progress.get_mut(&id) else { return false };
        if !is_behind(member, peer) {
            peer.asked_behind = None;
            return false;
        }
        let before = peer.asked_behind.filter(|(had, _)| *had == peer.match_index);
        let (_, since) = *peer.asked_behind.insert(before.unwrap_or((peer.match_index, member.now)));
        member.now >= since + member.config.heartbeat_interval
    }

    fn may_grant(&self, member: &Member, to: NodeId) -> bool {
        let Some(peer) = self.progress.get(&to) else { return false };
        let (in_force, committed) = (member.configurations.in_force(), member.configurations.at(member.commit_index));
        let is_member = in_force.contains(to) && (committed.contains(to) || broken(Mutant::GrantToUncommittedMember));
        let patience = member.config.heartbeat_interval;
        // Not one that is only a batch behind the others while all go on.
        let stuck = self.leases.held_back.is_some_and(|held_back| member.now >= held_back.stands_since + patience);
        let keeps_up = matches!(peer.state, State::Replicate { .. }) && !(stuck && is_behind(member, peer));
        let longest = self.leases.own_end(member).saturating_sub(member.boottime);
        let worth_it = longest >= member.leases_in_use().duration / 8;
        self.own_lease_is_usable(member) && is_member && keeps_up && worth_it && !Self::is_parting(member)
    }

    /// Ends of leases are kept apart, so that no moment comes at which all of them are about to run out: every second
    /// holder's is cut a little where it would end beside another's, and is renewed sooner from then on. \[RL-ROLL\]
    fn kept_apart(&self, member: &Member, to: NodeId, longest: Duration, apart: Duration) -> Duration {
        let end = member.boottime + longest;
        let near = |grant: &Grant| grant.end.abs_diff(end) < apart;
        let others = || self.leases.table.iter().filter(|(id, _)| **id != to);
        // Of two that are near to each other one gives way, always the same: the one that came later by its id.
        let gives_way = others().any(|(id, grant)| *id < to && near(grant));
        let odd = others().filter(|(id, _)| **id < to).count() % 2 == 1;
        if gives_way && odd && longest > 2 * apart { longest - apart } else { longest }
    }

    /// Chooses whom to ask to hold leases: one more than [`min_holders`], so that when one dies there is another; those who
    /// hold one already before others. Called with every round. \[RL-ROLL\]
    ///
    /// [`min_holders`]: crate::lease::LeaseSettings::min_holders
    pub(crate) fn choose_holders(&mut self, member: &Member) {
        let settings = member.leases_in_use();
        if settings.min_holders == 0 || !settings.is_on() {
            self.leases.wanted.clear();
            return;
        }
        let patience = 3 * member.config.heartbeat_interval;
        let fit = |peer: &Progress| {
            let is_heard = peer.heard && member.now < peer.contact + patience;
            is_heard && matches!(peer.state, State::Replicate { .. })
        };
        let mut able: Vec<_> = self.progress.iter().filter(|(_, peer)| fit(peer)).map(|(id, _)| *id).collect();
        able.sort_by_key(|id| (!self.leases.table.contains_key(id), *id));
        self.leases.wanted = able.into_iter().take(usize::from(settings.min_holders) + 1).collect();
    }

    /// Holders that miss nothing are told at once what is committed: their reads wait for it, and nothing else is on its
    /// way that would tell them.
    pub(crate) fn tell_holders_commit(&self, member: &mut Member, effects: &mut Vec<Effect>) {
        let last = member.log.last().index;
        let idle =
            |id: &NodeId| self.progress.get(id).filter(|peer| peer.match_index == last && peer.inflight_bytes() == 0);
        let told: Vec<_> = self.leases.holders(member.now).map(|(id, _)| id).filter(|id| idle(id).is_some()).collect();
        let round = self.rounds.sent;
        for id in told {
            let (commit, wants_holder) = (member.commit_index, self.leases.wants(id));
            member.say(id, Message::Heartbeat { commit, round, wants_holder }, Index::ZERO, effects);
        }
    }

    /// The entry that ends what shorter settings left behind, once all leases of the longer ones are surely over: it is
    /// appended no sooner than that after their successor was committed. \[RL-SETTINGS\]
    pub(crate) fn may_forget_longer(&mut self, member: &Member) -> bool {
        let in_force = member.configurations.in_force();
        let outlives = in_force.leases().outlives;
        if outlives.is_zero() || !member.configurations.is_committed(member.commit_index) {
            return false;
        }
        let index = in_force.index();
        let known = self.leases.committed_since.filter(|(of, _)| *of == index);
        let (_, since) = *self.leases.committed_since.insert(known.unwrap_or((index, member.now)));
        member.now >= since + outlives || broken(Mutant::LongerLeaseForgotten)
    }
}

/// Whether this follower lacks something.
fn is_behind(member: &Member, peer: &Progress) -> bool {
    peer.match_index < member.log.last().index
}
