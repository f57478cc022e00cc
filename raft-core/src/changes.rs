//! A leader that changes who votes. Raft §6, thesis 4.
//!
//! It takes one step at a time and appends the next configuration only when the present one is committed, so that whoever
//! leads next finds what to go on with in its own log.

use std::time::Duration;

use crate::configurations::CONFIGURATIONS_KEPT_MAX;
use crate::effect::{Effect, Rejection};
use crate::leader::Leader;
use crate::member::Member;
use crate::membership::{Answered, Change, ChangeRefusal, Configuration, Patience, Phase, Standing, Wanted, preflight};
use crate::mutant::{Mutant, broken};
use crate::progress::Progress;
use crate::raft::{Raft, RoleState};
use crate::status::Role;
use crate::types::{Index, LogId, NodeId, Ticket};

/// A caller who waits for a change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) ticket: Ticket,
    until: Until,
}

/// When it is through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// When this entry is committed.
    Entry(Index),
    /// When the change that began with this entry has come to its end.
    Settled(Index),
    /// When this entry, which cancels it, is committed.
    Cancelled(Index),
}

impl Raft {
    pub(crate) fn change(&mut self, ticket: Ticket, change: &Change, effects: &mut Vec<Effect>) {
        if self.member.failed {
            return Member::reject(ticket, 1, Rejection::Stopping, effects);
        }
        match &mut self.role {
            RoleState::Leader(leader) => leader.change(&mut self.member, ticket, change, effects),
            _ => Member::reject(ticket, 1, Rejection::NotLeader, effects),
        }
    }

    /// The next step of a change of the members, and the end of a leader that it leaves out.
    pub(crate) fn go_on_with_change(&mut self, effects: &mut Vec<Effect>) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        leader.drive_change(&mut self.member, effects);
        if leader.has_to_leave(&self.member) {
            leader.take_leave(&mut self.member, effects);
            self.become_follower(None, effects);
        }
    }

    /// "You are no member any more": true for ever, whoever says it and in whatever term. Only a later configuration that
    /// is committed could prove it a lie; one that is not may be of a leader that nobody followed.
    pub(crate) fn on_removed(&mut self, from: NodeId, configuration: Index, effects: &mut Vec<Effect>) {
        let known = self.member.configurations.at(self.member.commit_index);
        if known.contains(self.member.id()) && known.index() >= configuration {
            return self.refuse(from, "a removal by a configuration that has this node", effects);
        }
        if self.role() != Role::Follower {
            self.become_follower(None, effects);
        }
        self.member.note_removal(configuration, effects);
    }
}

impl Leader {
    /// Somebody wants other members.
    pub(crate) fn change(&mut self, member: &mut Member, ticket: Ticket, change: &Change, effects: &mut Vec<Effect>) {
        if let Some(why) = self.refuses_proposals(member) {
            return Member::reject(ticket, 1, why, effects);
        }
        let planned = self.plan(member, change);
        let (configuration, until) = match planned {
            Ok(planned) => planned,
            Err(why) => return effects.push(Effect::ChangeRefused { ticket, why }),
        };
        let index = configuration.index();
        if let Until::Entry(by) = until
            && *change == Change::Cancel
        {
            for pending in &mut self.changes {
                if let Until::Settled(_) = pending.until {
                    pending.until = Until::Cancelled(by);
                }
            }
        }
        self.changes.push(Pending { ticket, until });
        effects.push(Effect::ChangeBegun { ticket, entry: LogId::new(index, member.term) });
        self.append_configuration(member, configuration, effects);
    }

    /// The configuration to append for a change, and when the change is through.
    fn plan(&self, member: &Member, change: &Change) -> Result<(Configuration, Until), ChangeRefusal> {
        // Before an entry of its own term is committed a leader may not know which configuration is, and could begin a
        // change on top of one that another leader's quorum knows nothing of. [TH-OWN-TERM-FIRST]
        if !self.knows_committed(member) {
            return Err(ChangeRefusal::NotReady);
        }
        let in_force = member.configurations.in_force();
        let committed = member.configurations.is_committed(member.commit_index);
        let next = member.log.last().index.next();
        let change_running = match in_force.phase() {
            Phase::Settled => in_force.index(),
            Phase::CatchingUp | Phase::Joint => in_force.change(),
        };
        let running = ChangeRefusal::Running { change: change_running, phase: in_force.phase() };
        if let Change::Cancel = change {
            return match in_force.phase() {
                Phase::Settled if committed => Err(ChangeRefusal::NothingToCancel),
                Phase::Settled => Err(ChangeRefusal::TooLateToCancel { index: in_force.index() }),
                Phase::CatchingUp | Phase::Joint => Ok((in_force.cancelled(next), Until::Entry(next))),
            };
        }
        // One at a time. [TH-ONE-CHANGE]
        if !committed && !broken(Mutant::ChangeOverUncommitted) {
            return Err(running);
        }
        if member.configurations.len() > CONFIGURATIONS_KEPT_MAX {
            return Err(ChangeRefusal::TooManyKept { limit: CONFIGURATIONS_KEPT_MAX });
        }
        match change {
            Change::Contexts(contexts) => Ok((in_force.with_contexts(next, contexts)?, Until::Entry(next))),
            Change::Leases(settings) => Ok((in_force.with_lease_settings(next, *settings)?, Until::Entry(next))),
            Change::Members(_) if in_force.phase() != Phase::Settled => Err(running),
            Change::Members(wanted) => {
                let changed = in_force.changed(next, wanted, member.config.members_max)?;
                preflight(in_force, wanted, &self.answered(member), patience(member))?;
                let settled = changed.phase() == Phase::Settled;
                Ok((changed, if settled { Until::Entry(next) } else { Until::Settled(next) }))
            }
            Change::Cancel => Err(ChangeRefusal::NothingToCancel),
        }
    }

    /// Whether an entry of this term is committed: then all that was ever committed is known to be.
    fn knows_committed(&self, member: &Member) -> bool {
        member.commit_index >= self.first_of_term || broken(Mutant::ChangeWithoutOwnEntry)
    }

    /// Who answered when, this node included.
    fn answered(&self, member: &Member) -> Vec<Answered> {
        let heard = |(id, peer): (&NodeId, &Progress)| Answered {
            id: *id,
            ago: peer.heard.then(|| member.now.saturating_sub(peer.contact)),
            matched: peer.match_index,
        };
        let own = Answered { id: member.id(), ago: Some(Duration::ZERO), matched: member.log.last().index };
        self.progress.iter().map(heard).chain([own]).collect()
    }

    /// Appends a configuration and sends it to everybody whom it is about: those whom it leaves out learn of it too.
    fn append_configuration(&mut self, member: &mut Member, configuration: Configuration, effects: &mut Vec<Effect>) {
        let last = member.log.last().index;
        for seat in configuration.seats().iter().filter(|seat| seat.id != member.id()) {
            self.progress.entry(seat.id).or_insert_with(|| Progress::new(last, member.now));
        }
        member.append_configuration(configuration);
        self.parting_until = None;
        self.replicate_to_all(member, effects);
        self.recheck_handover(member, effects);
    }

    /// Takes the next step of a change, if its time has come. Called at the end of every step of the core.
    pub(crate) fn drive_change(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        self.watch_learners(member);
        self.answer_changes(member, effects);
        self.forget_parted(member);
        let committed = member.configurations.is_committed(member.commit_index);
        // Nor while the leadership is being handed over: the target has the whole log, and goes on with the change.
        let hands_over = self.refuses_proposals(member).is_some();
        if !member.may_append() || !self.knows_committed(member) || member.failed || hands_over {
            return;
        }
        let forgets_longer = self.may_forget_longer(member);
        let in_force = member.configurations.in_force();
        let next = member.log.last().index.next();
        let following = match in_force.phase() {
            Phase::CatchingUp if committed && self.may_join(member, in_force) => Some(in_force.joined(next)),
            // Not before C_old,new is committed: until then a majority of the voters before may decide alone. Raft §6
            // [TH-JOINT-FIRST]
            Phase::Joint if committed || broken(Mutant::NewBeforeJointCommitted) => Some(in_force.settled(next)),
            Phase::Settled if forgets_longer => Some(in_force.without_longer_leases(next)),
            Phase::Settled if committed => {
                self.seeded(member, in_force, next).or_else(|| self.promotion(member, in_force, next))
            }
            Phase::Settled | Phase::CatchingUp | Phase::Joint => None,
        };
        if let Some(configuration) = following {
            self.append_configuration(member, configuration, effects);
        }
    }

    /// The first settings of read leases, which the node that leads then brings along. Not into a log that has configurations
    /// already: binaries may serve there that do not know such settings.
    fn seeded(&self, member: &Member, in_force: &Configuration, next: Index) -> Option<Configuration> {
        let is_new = in_force.index() == Index::ZERO && !in_force.has_lease_settings();
        let seed = member.config.lease_seed.filter(|_| is_new)?;
        in_force.with_lease_settings(next, seed).ok()
    }

    /// Notes since when each learner has lacked little.
    fn watch_learners(&mut self, member: &Member) {
        let (last, lag_max) = (member.log.last().index, member.config.catch_up_entries_max);
        let timeout = member.config.election_timeout;
        let in_force = member.configurations.in_force();
        for learner in in_force.learners() {
            let Some(progress) = self.progress.get_mut(&learner) else { continue };
            let silent = !progress.heard || member.now >= progress.contact + timeout;
            let behind = last.since(progress.match_index) > lag_max || progress.match_index == Index::ZERO;
            if silent || behind {
                progress.caught_up_since = None;
            } else {
                progress.caught_up_since.get_or_insert(member.now);
            }
        }
    }

    fn has_caught_up(&self, member: &Member, id: NodeId) -> bool {
        let since = self.progress.get(&id).and_then(|progress| progress.caught_up_since);
        since.is_some_and(|since| member.now >= since + member.config.catch_up_time)
    }

    /// Whether all who join have caught up, and a quorum of the voters to be answers. \[TH-LEARNERS-FIRST\]
    fn may_join(&self, member: &Member, configuration: &Configuration) -> bool {
        let (now, timeout) = (member.now, member.config.election_timeout);
        let answers = |id: NodeId| {
            let peer = self.progress.get(&id);
            id == member.id() || peer.is_some_and(|peer| peer.heard && now < peer.contact + timeout)
        };
        let next = configuration.seats().iter().filter(|seat| seat.next == Standing::Voter);
        let next = Configuration::new(next.map(|seat| seat.id));
        let caught_up = configuration.joining().all(|id| self.has_caught_up(member, id));
        (caught_up && next.is_quorum(answers)) || broken(Mutant::PromotedUnprepared)
    }

    /// Makes voters of the learners that are to become some and have caught up, all in one change.
    fn promotion(&self, member: &Member, configuration: &Configuration, next: Index) -> Option<Configuration> {
        let ready =
            |id: NodeId| configuration.seat(id).is_some_and(|seat| seat.promotes) && self.has_caught_up(member, id);
        if !configuration.seats().iter().any(|seat| seat.promotes && self.has_caught_up(member, seat.id)) {
            return None;
        }
        let mut wanted = Wanted::of(configuration);
        let (promoted, stay) = wanted.learners.into_iter().partition(|learner| ready(learner.id));
        wanted.learners = stay;
        wanted.voters.extend::<Vec<_>>(promoted);
        let changed = configuration.changed(next, &wanted, member.config.members_max).ok()?;
        preflight(configuration, &wanted, &self.answered(member), patience(member)).ok()?;
        Some(changed)
    }

    /// Tells those whose change is through.
    fn answer_changes(&mut self, member: &Member, effects: &mut Vec<Effect>) {
        let (in_force, commit) = (member.configurations.in_force(), member.commit_index);
        let settled = in_force.phase() == Phase::Settled && in_force.index() <= commit;
        self.changes.retain(|Pending { ticket, until }| {
            let ticket = *ticket;
            match *until {
                Until::Entry(index) if index <= commit => effects.push(Effect::Changed { ticket, index }),
                Until::Settled(change) if settled && in_force.change() >= change => {
                    effects.push(Effect::Changed { ticket, index: in_force.index() });
                }
                Until::Cancelled(by) if by <= commit => {
                    effects.push(Effect::ChangeRefused { ticket, why: ChangeRefusal::Cancelled { by } });
                }
                _ => return true,
            }
            false
        });
    }

    /// Those who left have some time to learn of it: they are sent the entry that leaves them out and that it is
    /// committed. Thesis 4.2.3
    fn forget_parted(&mut self, member: &Member) {
        let in_force = member.configurations.in_force();
        let parted = self.progress.keys().any(|id| !in_force.contains(*id));
        if !parted || !member.configurations.is_committed(member.commit_index) {
            return;
        }
        let until = *self.parting_until.get_or_insert(member.now + 2 * member.config.election_timeout);
        if member.now >= until {
            self.progress.retain(|id, _| in_force.contains(*id));
            self.parting_until = None;
        }
    }

    /// The voters to be have fallen silent, and nothing can be committed any more: back to the voters before, if those
    /// answer. Without it nobody could lead until the others come back. Returns whether that is done.
    pub(crate) fn leave_towards_old(
        &mut self,
        member: &mut Member,
        heard: impl Fn(NodeId) -> bool,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let in_force = member.configurations.in_force();
        let old = Configuration::new(in_force.outgoing().iter().copied());
        if !in_force.is_joint() || !old.is_quorum(heard) || !member.may_append() || !self.knows_committed(member) {
            return false;
        }
        let index = member.log.last().index.next();
        let cancelled = in_force.cancelled(index);
        for pending in &mut self.changes {
            if let Until::Settled(_) = pending.until {
                pending.until = Until::Cancelled(index);
            }
        }
        member.counters.changes_rolled_back += 1;
        self.append_configuration(member, cancelled, effects);
        true
    }

    /// Whether C_new leaves this leader without a vote. It takes no proposals from there on: so whoever makes C_new
    /// committed has all of this log and can take over at once, and no caller is left in doubt. \[TH-LEADER-LEAVES\]
    pub(crate) fn is_parting(member: &Member) -> bool {
        !member.configurations.in_force().is_voter(member.id()) && !broken(Mutant::RemovedLeaderStays)
    }

    /// Whether a committed configuration leaves this leader without a vote: its work is done. Raft §6
    /// \[TH-LEADER-LEAVES\]
    pub(crate) fn has_to_leave(&self, member: &Member) -> bool {
        member.configurations.is_committed(member.commit_index) && Self::is_parting(member)
    }

    /// The last words of a leader that has to leave: what is committed, and who is to campaign at once.
    pub(crate) fn take_leave(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        self.send_round(member, effects);
        self.appoint_successor(member, effects);
    }
}

fn patience(member: &Member) -> Patience {
    Patience {
        silence: member.config.election_timeout,
        last: member.log.last().index,
        lag_entries_max: member.config.catch_up_entries_max,
    }
}
