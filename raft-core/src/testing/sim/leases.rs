//! Read leases: clocks within the bound on drift, settings that change, and what every lease that runs anywhere rests
//! on.
//!
//! A stale read needs a rare fault beside a lease that is wrong, so the leases themselves are looked at, in true time,
//! after every event: whoever may read has all that anybody committed; no lease outlasts what a quorum promised; every
//! leader waits for whatever may run elsewhere.

use std::collections::VecDeque;
use std::time::Duration;

use crate::lease::LeaseSettings;
use crate::membership::{Change, Configuration};
use crate::message::{Envelope, Message};
use crate::raft::RoleState;
use crate::random::Random;
use crate::reads::ReadMode;
use crate::replica::Output;
use crate::status::Role;
use crate::testing::sim::goals::Goal;
use crate::testing::sim::members::quorum;
use crate::testing::sim::network::place;
use crate::testing::sim::node::{Node, Seen, Waiter};
use crate::testing::sim::plan::Plan;
use crate::testing::sim::world::World;
use crate::types::{Index, NodeId, Term};

/// What clocks round off, in nanoseconds.
const ROUNDING: u64 = 1_000;

/// Leases so long outlast the time between two rounds by far.
const ROLLS_FROM: Duration = Duration::from_millis(150);

/// The settings of a run: `millis` and `holders` change, the bound on clocks is what it is.
pub(super) fn lease_settings(plan: &Plan, millis: u64, holders: u64) -> LeaseSettings {
    LeaseSettings {
        duration: Duration::from_millis(millis),
        drift_permille: u16::try_from(plan.lease_drift).unwrap_or(u16::MAX),
        min_holders: u16::try_from(holders).unwrap_or(u16::MAX),
    }
}

/// How fast a clock runs, in thousandths of true time. Where there are leases the rates are at the ends of what is
/// allowed more often than not.
pub(super) fn clock_rate(plan: &Plan, random: &mut Random) -> u64 {
    if plan.lease == 0 {
        return 1_000 + random.below(2 * plan.drift + 1) - plan.drift;
    }
    let drift = if plan.beyond == 0 { plan.lease_drift } else { plan.beyond };
    let (slowest, fastest) = (1_000_000u64.div_ceil(1_000 + drift), 1_000 + drift);
    match random.below(4) {
        _ if plan.lockstep != 0 => 1_000,
        0 => slowest,
        1 => fastest,
        2 => 1_000,
        _ => slowest + random.below(fastest - slowest + 1),
    }
}

/// A lease that has not run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    term: Term,
    /// On the clock of whoever has it that goes on while the machine sleeps.
    end: Duration,
    /// It is the leader's own.
    leads: bool,
    /// Reads are served under it now.
    usable: bool,
}

/// What is known of a node that it need not know itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// When it last acknowledged a leader, or led, in any of its lives.
    word_at: Option<u64>,
    /// The term in which it voted, or campaigned, and what that was then.
    word_when_voted: (Term, Option<u64>),
    /// The lease that it was seen with last.
    lease: Option<Lease>,
    /// As leader of this term ...
    term: Term,
    /// ... it sent these rounds, which are not confirmed, then.
    sent: VecDeque<(u64, u64)>,
    /// The newest one that was sent.
    round: u64,
    /// When the newest confirmed one was sent.
    confirmed_sent: Option<u64>,
    /// Until when it waits for leases of earlier leaders.
    waits_until: Option<Duration>,
    /// A quorum has entries that it may not commit.
    held_back: bool,
    /// How many may hold a lease.
    holders: usize,
    clock_jumps: u64,
    passed_over: u64,
}

impl Known {
    /// A leader of its term spoke to it.
    pub(super) fn heard_leader(&mut self, now: u64) {
        self.word_at = Some(now);
    }

    /// The process died.
    pub(super) fn process_ended(&mut self, led: bool, now: u64) {
        let word_at = if led { Some(now) } else { self.word_at };
        *self = Self { word_at, word_when_voted: self.word_when_voted, ..Self::default() };
    }
}

impl World {
    /// Somebody wants other leases: longer, shorter, none.
    pub(super) fn change_leases(&mut self, draw: u64) {
        let Some(leader) = self.nodes.iter().position(Node::leads) else { return };
        if self.nodes[leader].frozen_until > self.now {
            return;
        }
        let mut random = Random::new(draw);
        let millis = match random.below(4) {
            0 => 0,
            1 => self.plan.lease,
            _ => 10 + random.below(self.plan.lease - 9),
        };
        let settings = lease_settings(&self.plan, millis, random.below(3));
        let wait = Duration::from_millis(random.below(4_000));
        self.ask_change(leader, Change::Leases(settings), wait);
    }

    /// The clocks of a machine run at another rate, within the same bound.
    pub(super) fn slew_clock(&mut self, node: usize, draw: u64) {
        if self.nodes[node].frozen_until > self.now {
            return;
        }
        let rate = clock_rate(&self.plan, &mut Random::new(draw));
        self.nodes[node].clock.run_at(rate, self.now);
        self.goals.reach(Goal::ClockSlewed);
        self.schedule_tick(node);
    }

    /// The lease of a node that runs at this moment.
    fn lease(&self, node: usize) -> Option<Lease> {
        let entry = &self.nodes[node];
        let raft = entry.replica.as_ref()?.raft();
        let (end, leads, usable) = match &raft.role {
            // Before it has committed anything of its term it has none, whatever it measured.
            RoleState::Leader(leader) if raft.member.commit_index < leader.first_of_term => return None,
            RoleState::Leader(leader) => {
                (leader.leases.own_end(&raft.member), true, leader.own_lease_is_usable(&raft.member))
            }
            RoleState::Follower(follower) => {
                let end = follower.holder.end().filter(|_| raft.member.may_hold_lease())?;
                (end, false, follower.lease_is_usable(&raft.member))
            }
            RoleState::PreCandidate(..) | RoleState::Candidate(_) => return None,
        };
        let runs = end > entry.clock.read(self.now).boottime;
        runs.then_some(Lease { term: raft.term(), end, leads, usable })
    }

    /// Everything works: where some follower is to hold a lease, some follower does at every instant. \[RL-ROLL\]
    /// \[RL-RENEW\]
    pub(super) fn roll_leases(&mut self) {
        let settings = self.changes.committed.leases().settings();
        let others = self.changes.committed.seats().len() > 1;
        // A leadership that moves takes all leases with it.
        let moves = self.plan.priorities != 0;
        if !self.is_calm() || settings.duration < ROLLS_FROM || settings.min_holders == 0 || !others || moves {
            return;
        }
        let configuration = self.newest_configuration();
        self.run_for(1_000_000_000);
        let until = self.now + 2_000_000_000;
        while self.now < until {
            self.next();
            // Members that were about to change did.
            if self.newest_configuration() != configuration {
                return;
            }
            let holds = |node: usize| self.lease(node).is_some_and(|lease| lease.usable && !lease.leads);
            let held = (0..self.nodes.len()).any(holds);
            assert!(held, "[some follower holds a lease] none does at {} ns: {}", self.now, self.picture());
        }
        self.goals.reach(Goal::LeasesRolled);
    }

    /// When a lease is over, in true time.
    fn over_at(&self, node: usize, lease: Lease) -> u64 {
        self.nodes[node].clock.when_boottime(lease.end)
    }

    /// Looks at the leases of a node that has just taken a step, and at all of them if it committed something;
    /// `committed` was the end of what was known committed before.
    pub(super) fn observe_leases(&mut self, node: usize, before: Seen, committed: Index, outputs: &[Output<Waiter>]) {
        if self.plan.lease == 0 {
            return;
        }
        self.note_word_of_leader(node, before);
        self.note_vote(node, outputs);
        let (begins, opens) = self.note_leader_of_leases(node);
        let lease = self.lease(node);
        let was = std::mem::replace(&mut self.nodes[node].leases.lease, lease);
        self.note_lease(node, was, lease);
        if self.plan.blind != 0 {
            return;
        }
        self.check_silence(node, outputs);
        let commits = self.ghost.last() > committed;
        for other in 0..self.nodes.len() {
            if other == node || commits {
                self.check_usable_lease(other);
            }
        }
        let news = lease.filter(|lease| was.is_none_or(|was| was.end != lease.end || was.term != lease.term));
        if let Some(lease) = news {
            self.check_lease_limit(node, lease);
            self.check_lease_is_known(node, lease);
        }
        for other in 0..self.nodes.len() {
            if news.is_some() && other != node {
                self.check_waits(other, node);
            }
            if (begins || opens) && other != node {
                self.check_waits(node, other);
            }
        }
        if begins {
            self.check_new_leader(node);
        }
    }

    /// A leader acknowledges itself for as long as it leads.
    fn note_word_of_leader(&mut self, node: usize, before: Seen) {
        let seen = self.nodes[node].seen;
        if before.role == Role::Leader && (seen.role != Role::Leader || seen.term != before.term) {
            self.nodes[node].leases.word_at = Some(self.now);
        }
    }

    /// Notes when a leader sent the rounds that are confirmed, and whom it waits for. Returns whether it has just
    /// begun, and whether it has just ceased to wait for leases of those before it.
    fn note_leader_of_leases(&mut self, node: usize) -> (bool, bool) {
        let (now, entry) = (self.now, &mut self.nodes[node]);
        let Some(replica) = &entry.replica else { return (false, false) };
        let RoleState::Leader(leader) = &replica.raft().role else { return (false, false) };
        let (known, term, member) = (&mut entry.leases, replica.raft().term(), &replica.raft().member);
        let begins = known.term != term;
        if begins {
            let (word_at, word_when_voted) = (known.word_at, known.word_when_voted);
            *known = Known { term, word_at, word_when_voted, ..Known::default() };
        }
        while known.round < leader.rounds.sent {
            known.round += 1;
            known.sent.push_back((known.round, now));
        }
        while known.sent.front().is_some_and(|(round, _)| *round <= leader.rounds.confirmed) {
            known.confirmed_sent = known.sent.pop_front().map(|(_, at)| at);
        }
        let (clock, holders) = (member.now, leader.leases.holders(member.now).count());
        let waits = leader.leases.predecessors_wait(Duration::ZERO);
        let waited = std::mem::replace(&mut known.waits_until, waits);
        let held_back = leader.is_held_back();
        let was_held_back = std::mem::replace(&mut known.held_back, held_back);
        let had_holders = std::mem::replace(&mut known.holders, holders);
        let goals = &mut self.goals;
        let opened = waited.filter(|_| waits.is_none());
        goals.reach_if(opened.is_some_and(|until| clock >= until), Goal::NewLeaderWaited);
        goals.reach_if(opened.is_some_and(|until| clock < until), Goal::NewLeaderHeardAll);
        let others = !member.lease_wait().is_zero() && member.configurations.in_force().seats().len() > 1;
        goals.reach_if(begins && waits.is_none() && others, Goal::NewLeaderNeedNotWait);
        let by_holder = waits.is_none() && waited.is_none();
        goals.reach_if(by_holder && held_back && !was_held_back, Goal::CommitHeldBack);
        goals.reach_if(by_holder && was_held_back && !held_back && holders < had_holders, Goal::CommitReleasedByTime);
        (begins, opened.is_some())
    }

    /// A vote is given, or a campaign begins: what the voter knows of leaders then is what counts.
    fn note_vote(&mut self, node: usize, outputs: &[Output<Waiter>]) {
        let entry = &mut self.nodes[node];
        let gives = |envelope: &Envelope| {
            matches!(envelope.message, Message::VoteResponse { granted: true, .. } | Message::Vote { .. })
                .then_some(envelope.term)
        };
        for output in outputs {
            let term = match output {
                Output::Persist(persist) => persist.release.iter().find_map(gives),
                Output::Send(message) => gives(&message.envelope),
                _ => None,
            };
            if let Some(term) = term.filter(|term| *term > entry.leases.word_when_voted.0) {
                entry.leases.word_when_voted = (term, entry.leases.word_at);
            }
        }
    }

    /// A new leader waits for all members, by whatever configuration may be the one, and for as long as what a quorum
    /// acknowledged before may be the ground of leases. \[RL-NEW-LEADER\]
    fn check_new_leader(&self, node: usize) {
        let entry = &self.nodes[node];
        let Some(raft) = entry.replica.as_ref().map(|replica| replica.raft()) else { return };
        let RoleState::Leader(leader) = &raft.role else { return };
        let (term, waits) = (raft.term(), leader.leases.predecessors_wait(Duration::ZERO));
        let from = self.believed_at(node, entry.seen.commit);
        let later = entry.configurations.all().iter().filter(|it| it.index() > from.index());
        let members = || [&from].into_iter().chain(later.clone()).flat_map(|it| it.seats()).map(|seat| seat.id);
        let left_out = members().find(|id| *id != entry.id && leader.leases.waits_for(*id).is_none());
        assert!(
            waits.is_none() || left_out.is_none(),
            "[new leaders wait] n{} leads term {term} and does not wait for the word of {left_out:?}",
            node + 1
        );
        let wait = raft.member.lease_wait().as_nanos() * 1_000 / u128::from(1_000 + self.plan.lease_drift);
        let until = waits.map_or(self.now, |until| entry.clock.when(until));
        let long_enough = |id: NodeId| {
            let voter = &self.nodes[place(id.0)].leases;
            let when_voted = Some(voter.word_when_voted).filter(|(in_term, _)| *in_term == term);
            let word = if id == entry.id { voter.word_at } else { when_voted.and_then(|(_, word)| word) };
            let voted = id == entry.id || self.ghost.voted_for(place(id.0), term.0) == Some(entry.id.0);
            voted && word.is_none_or(|word| u128::from(until + ROUNDING) >= u128::from(word) + wait)
        };
        let alone = members().all(|id| id == entry.id);
        assert!(
            alone || quorum(&self.believed(node), &long_enough),
            "[new leaders wait] n{} leads term {term} and waits until {until}, and not {wait} ns after the last words \
             of those who voted for it",
            node + 1
        );
    }

    /// Whoever leads later waits for all leases that run: so says every configuration. \[RL-SETTINGS\]
    pub(super) fn check_lease_wait(&self, term: Term, next: &Configuration) {
        if self.plan.lease == 0 || self.plan.blind != 0 {
            return;
        }
        let drift = u128::from(1_000 + self.plan.lease_drift);
        let wait = u64::try_from(next.leases().wait().as_nanos() * 1_000 / drift).unwrap_or(u64::MAX);
        for node in 0..self.nodes.len() {
            let over = self.lease(node).filter(|lease| lease.term <= term).map(|lease| self.over_at(node, lease));
            assert!(
                over.is_none_or(|over| over <= self.now + wait + ROUNDING),
                "[waits outlast leases] in term {term} {next:?} is appended; n{} has {:?} until {over:?}, it is {}",
                node + 1,
                self.lease(node),
                self.now
            );
        }
    }

    /// Whoever may read has all that anybody has committed. \[RL-COMMIT\] \[RL-NEW-LEADER\]
    fn check_usable_lease(&self, node: usize) {
        let Some(lease) = self.lease(node).filter(|lease| lease.usable) else { return };
        let (entry, last) = (&self.nodes[node], self.ghost.last());
        if lease.leads {
            assert!(
                entry.seen.commit >= last,
                "[leases miss nothing] n{} leads with {lease:?} and knows of {}; {last} is committed",
                node + 1,
                entry.seen.commit
            );
            return;
        }
        let believed = self.believed(node);
        assert!(
            believed.contains(entry.id),
            "[members hold leases] n{} has {lease:?}, and its log says {believed:?}",
            node + 1
        );
        let known = last.0.checked_sub(1).and_then(|at| self.ghost.committed.get(usize::try_from(at).ok()?));
        assert!(
            known.is_none_or(|known| entry.log.at(last) == Some(&known.mark)),
            "[leases miss nothing] n{} has {lease:?}, and lacks {last}, which is committed; its log ends with {}",
            node + 1,
            entry.log.last()
        );
    }

    /// No lease outlasts D after the sending of the newest round that its leader knows answered by a quorum.
    /// \[RL-LEADER\] \[RL-GRANT\]
    fn check_lease_limit(&self, node: usize, lease: Lease) {
        let Some(leader) = self.ghost.leader_of(lease.term.0) else { return };
        let known = &self.nodes[leader].leases;
        if known.term != lease.term {
            return;
        }
        let limit = known.confirmed_sent.map_or(0, |sent| sent + self.plan.lease * 1_000_000);
        let over = self.over_at(node, lease);
        assert!(
            over <= limit + ROUNDING,
            "[leases rest on a quorum] n{} has {lease:?} until {over}, and n{} has the word of a quorum until {limit}",
            node + 1,
            leader + 1
        );
    }

    /// The leader that gave a lease waits for its holder for as long as it may run. \[RL-HOLDER\]
    fn check_lease_is_known(&self, node: usize, lease: Lease) {
        let Some(giver) = self.ghost.leader_of(lease.term.0).filter(|_| !lease.leads) else { return };
        let giver = &self.nodes[giver];
        let Some(raft) = giver.replica.as_ref().map(|replica| replica.raft()) else { return };
        let RoleState::Leader(leader) = &raft.role else { return };
        if raft.term() != lease.term {
            return;
        }
        let until = leader.leases.given_until(self.nodes[node].id).map_or(0, |until| giver.clock.when(until));
        let over = self.over_at(node, lease);
        assert!(
            over <= until + ROUNDING,
            "[holders are known] n{} has {lease:?} until {over}, and its leader {} waits until {until}",
            node + 1,
            giver.id
        );
    }

    /// A leader commits nothing while a lease of an earlier term may run. \[RL-NEW-LEADER\]
    fn check_waits(&self, leader: usize, holder: usize) {
        let at = &self.nodes[leader];
        let Some(raft) = at.replica.as_ref().map(|replica| replica.raft()) else { return };
        let RoleState::Leader(leads) = &raft.role else { return };
        let Some(lease) = self.lease(holder).filter(|lease| lease.term < raft.term()) else { return };
        let until = leads.leases.waits_for(self.nodes[holder].id).map_or(0, |until| at.clock.when(until));
        let over = self.over_at(holder, lease);
        assert!(
            over <= until + ROUNDING,
            "[new leaders wait] n{} has {lease:?} until {over}, and n{}, which leads term {}, waits until {until}; it is \
             {}",
            holder + 1,
            leader + 1,
            raft.term(),
            self.now
        );
    }

    /// A voter never says that it was silent for longer than it was. \[RL-STAMP\]
    fn check_silence(&self, node: usize, outputs: &[Output<Waiter>]) {
        let Some(word_at) = self.nodes[node].leases.word_at else { return };
        let ago = self.now - word_at;
        let most = u128::from(ago) * u128::from(1_000 + self.plan.lease_drift) / 1_000 + u128::from(ROUNDING);
        let check = |envelope: &Envelope| {
            if let Message::VoteResponse { granted: true, silence } = envelope.message {
                assert!(
                    silence.as_nanos() <= most,
                    "[voters tell their silence] n{} says {silence:?}, and acknowledged a leader {ago} ns ago",
                    node + 1
                );
            }
        };
        for output in outputs {
            match output {
                Output::Persist(persist) => persist.release.iter().for_each(check),
                Output::Send(message) => check(&message.envelope),
                _ => {}
            }
        }
    }

    /// Only who is a member for good gets a lease. \[RL-GRANT\]
    pub(super) fn check_grant(&self, leader: usize, to: NodeId) {
        let committed = self.believed_at(leader, self.nodes[leader].seen.commit);
        let is_member = committed.contains(to) && self.believed(leader).contains(to);
        assert!(
            is_member || self.plan.blind != 0,
            "[members hold leases] n{} gives one to {to}; {committed:?} is committed",
            leader + 1
        );
    }

    /// Notices what became of the lease of a node.
    fn note_lease(&mut self, node: usize, was: Option<Lease>, lease: Option<Lease>) {
        let entry = &mut self.nodes[node];
        let Some(raft) = entry.replica.as_ref().map(|replica| replica.raft()) else { return };
        let (counters, known) = (&raft.member.counters, &mut entry.leases);
        let jumps = std::mem::replace(&mut known.clock_jumps, counters.clock_jumps);
        let passed_over = std::mem::replace(&mut known.passed_over, counters.lease_requests_passed_over);
        self.goals.reach_if(counters.clock_jumps > jumps, Goal::ClocksJumped);
        self.goals.reach_if(counters.lease_requests_passed_over > passed_over, Goal::LeaseRefused);
        let was = was.filter(|was| !was.leads);
        let Some(lease) = lease.filter(|lease| !lease.leads) else {
            let over = was.is_some_and(|was| was.term == raft.term() && raft.role() == Role::Follower);
            return self.goals.reach_if(over, Goal::LeaseRanOut);
        };
        let before = was.filter(|was| was.term == lease.term);
        if before.is_none_or(|before| before.end < lease.end) {
            self.tally.leases += 1;
            self.goals.reach(if before.is_some() { Goal::LeaseRenewed } else { Goal::LeaseHeld });
            let learns = !raft.configuration().is_voter(raft.member.id());
            self.goals.reach_if(learns, Goal::LearnerHeldLease);
        }
    }

    /// A configuration was appended: what it does to leases.
    pub(super) fn note_lease_step(&mut self, before: &Configuration, next: &Configuration) {
        let (was, is) = (before.leases().outlives, next.leases().outlives);
        self.goals.reach_if(was.is_zero() && !is.is_zero(), Goal::LongerLeasesOutlived);
        self.goals.reach_if(!was.is_zero() && is.is_zero(), Goal::LongerLeasesForgotten);
        let removed = |node: usize| before.contains(self.nodes[node].id) && !next.contains(self.nodes[node].id);
        let holds = |node: usize| self.lease(node).is_some_and(|lease| !lease.leads);
        let holder_removed = self.plan.lease != 0 && (0..self.nodes.len()).any(|node| removed(node) && holds(node));
        self.goals.reach_if(holder_removed, Goal::HolderRemoved);
    }

    /// A read was served: how it was to be, and how it was.
    pub(super) fn note_lease_read(&mut self, node: usize, wanted: ReadMode, mode: ReadMode) {
        let leads = self.nodes[node].leads();
        match (wanted, mode) {
            (_, ReadMode::Lease) if leads => {
                self.tally.lease_reads.0 += 1;
                self.goals.reach(Goal::LeaseReadByLeader);
            }
            (_, ReadMode::Lease) => {
                self.tally.lease_reads.1 += 1;
                self.goals.reach(Goal::LeaseReadByFollower);
            }
            (ReadMode::Lease, ReadMode::Round) => self.goals.reach_if(self.plan.lease != 0, Goal::LeaseReadFellBack),
            (ReadMode::Round, ReadMode::Round) => {}
        }
    }
}
