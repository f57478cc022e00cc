//! Giving the leadership to another voter, on purpose. Thesis 3.10 \[TH-TRANSFER\].
//!
//! The leader brings the target's log up to its own end, and when all of it is committed, tells it to campaign at once
//! (TimeoutNow): no caller is left in doubt. Proposals are taken while the target catches up with what was there when
//! the handover began, and are refused only for the rest: what came meanwhile, the telling and the election. So a
//! target that is far behind or dead costs no write. Both parts last one election timeout at most; after that the
//! leader leads on, and takes proposals again.
//!
//! A leader also hands over by itself: when its node is drained, when its disk stalls, when its state is found to
//! differ from the others' (it leads only to hand over then), and to a voter of higher priority.

use std::time::Duration;

use crate::candidate::Candidate;
use crate::effect::{Effect, Rejection};
use crate::leader::Leader;
use crate::member::Member;
use crate::message::Message;
use crate::mutant::{Mutant, broken};
use crate::progress::{Progress, State};
use crate::raft::{Raft, RoleState};
use crate::status::Role;
use crate::types::{Index, LogId, NodeId, Term, Ticket};

/// How much a node is wanted as leader, 0 to 100. A voter of higher priority that is up to date is handed the
/// leadership; one of priority 0 campaigns by itself only when nobody else does for a long time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub u8);

impl Priority {
    /// Never by itself.
    pub const NEVER: Self = Self(0);
    /// The greatest.
    pub const MAX: Self = Self(100);
}

impl Default for Priority {
    fn default() -> Self {
        Self(50)
    }
}

impl std::fmt::Display for Priority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a node may be handed the leadership, by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Fit(Priority),
    /// It can, and would rather not: it is drained. Only a leader that must not serve hands over to it, when it finds
    /// no other.
    Reluctant,
    /// It must not: its log has lost its end, its state differs or is being replaced, its disk stalls, or it does not
    /// vote.
    Unfit,
}

impl Default for Standing {
    fn default() -> Self {
        Self::Fit(Priority::default())
    }
}

/// Why a leader hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// It was asked to.
    Request,
    /// Its node is drained: it is to stop, or to rest.
    Drain,
    /// Its disk stalls.
    Stall,
    /// Its state differs from that of the others, or is to be replaced.
    State,
    /// Another voter has a higher priority.
    Priority,
}

impl Cause {
    /// The name in metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Drain => "drain",
            Self::Stall => "stall",
            Self::State => "state",
            Self::Priority => "priority",
        }
    }
}

/// The leadership was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedOver {
    /// Who leads now.
    pub leader: NodeId,
    /// In which term.
    pub term: Term,
}

/// Why a leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandoverRefused {
    /// This node does not lead; ask the leader.
    #[error("this node is not the leader")]
    NotLeader,
    /// The target leads already.
    #[error("{0} leads already; name another voter, or none")]
    Itself(NodeId),
    /// The target is no voter of this cluster.
    #[error("{0} is no voter of this cluster; name one, or none")]
    NotAVoter(NodeId),
    /// The target says of itself that it must not lead.
    #[error(
        "{0} must not lead: its log or its state is not whole, its disk stalls, or it is drained; see its status, \
         or name another voter"
    )]
    Unfit(NodeId),
    /// Nothing was heard of the target for an election timeout.
    #[error("{0} was not heard from for an election timeout; see whether it runs, or name another voter")]
    Silent(NodeId),
    /// No voter can take over.
    #[error("no other voter is heard from and may lead")]
    NoCandidate,
    /// A handover to another node is under way.
    #[error("a handover to {0} is under way; it ends within two election timeouts, ask again then")]
    Busy(NodeId),
    /// The target did not catch up, or did not take over, within an election timeout. The leader leads on.
    #[error("{0} did not catch up and take over within an election timeout; the leader leads on")]
    TimedOut(NodeId),
    /// The leadership moved, but another node than the named one was elected.
    #[error("{0} was elected instead")]
    OtherLeader(NodeId),
    /// This node leads no more, and no leader was heard of yet.
    #[error("this node leads no more, and no other leader is known yet")]
    NobodyYet,
    /// Too many callers wait; try again later.
    #[error("too many callers wait; try again later")]
    Overloaded,
    /// The node is stopping, or its disk failed.
    #[error("the node is stopping, or its disk failed")]
    Stopping,
}

/// A handover as it can be seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandoverStatus {
    /// To whom.
    pub to: NodeId,
    /// Why.
    pub cause: Cause,
    /// Whether proposals are refused meanwhile.
    pub holds: bool,
}

/// How far a handover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Proposals are taken, until the target has everything up to here.
    CatchUp { goal: Index },
    /// They are refused, until the target has the whole log and all of it is committed.
    Hold,
    /// The target was told to campaign, last at this time.
    Told { at: Duration },
}

/// A handover that is under way.
#[derive(Clone, Copy, Debug)]
struct Handover {
    to: NodeId,
    cause: Cause,
    phase: Phase,
    /// It ends an election timeout after this: the beginning, or when proposals were first refused.
    since: Duration,
}

/// After the election of a leader, and after it handed over in vain, this many election timeouts pass before it looks
/// for a voter of higher priority, or one that is not drained: what moves too often serves nobody.
const PRIORITY_PAUSE: u32 = 10;
/// The pause doubles with every handover in vain, so often.
const PRIORITY_PAUSE_DOUBLINGS_MAX: u32 = 4;
/// Election timeouts until whoever asked is told that nobody leads yet.
const ANSWER_AFTER: u32 = 6;
/// Election timers that run out in a row, and nobody leads: then a node campaigns that has reasons not to.
pub(crate) const LAST_RESORT_TIMERS: u32 = 4;

/// What a leader knows of handing over.
#[derive(Debug)]
pub(crate) struct Succession {
    running: Option<Handover>,
    /// No voter is sought by itself before.
    next_try: Duration,
    /// Handovers in vain in a row.
    failures: u32,
    /// Who did not take over; others are tried first.
    failed: Option<NodeId>,
    /// Since its disk stalls, it tried already.
    tried_since_stall: bool,
}

impl Succession {
    pub(crate) fn new(member: &Member) -> Self {
        // One that is drained serves first, too: it was elected since nobody else was, and perhaps nobody else reaches a
        // majority. Handing over at once, again and again, would leave no time for a write.
        let pause = member.config.election_timeout * PRIORITY_PAUSE;
        let next_try = if member.state_is_sound() { member.now + pause } else { member.now };
        Self { running: None, next_try, failures: 0, failed: None, tried_since_stall: false }
    }
}

/// Who asked for the handover of a term, until it is known what became of it: that outlives the leader's role.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Each with whether it named the target.
    tickets: Vec<(Ticket, bool)>,
    to: NodeId,
    term: Term,
    deadline: Duration,
}

impl Member {
    /// Whether the state is that of the others, and is not about to be replaced.
    pub(crate) fn state_is_sound(&self) -> bool {
        !self.fenced && !self.waits_for_rebuild()
    }

    /// Whether this node, where it leads, leads only in order to hand over: its log is sound, its state is not.
    pub(crate) fn is_caretaker(&self) -> bool {
        !self.state_is_sound() && !broken(Mutant::CaretakerServes)
    }

    /// Whether this node wants another leader as soon as there is one to be had.
    fn wants_successor(&self) -> bool {
        self.drained || !self.state_is_sound()
    }

    /// Whether this node leaves it to others to campaign, as long as there are any.
    pub(crate) fn is_reluctant(&self) -> bool {
        self.config.priority == Priority::NEVER || self.wants_successor()
    }

    /// What a leader is told about this node.
    pub(crate) fn standing(&self) -> Standing {
        if !self.may_campaign() || !self.state_is_sound() {
            Standing::Unfit
        } else if self.drained {
            Standing::Reluctant
        } else {
            Standing::Fit(self.config.priority)
        }
    }
}

impl Leader {
    /// What is under way.
    pub(crate) fn handover(&self) -> Option<HandoverStatus> {
        let running = self.succession.running?;
        let holds = !matches!(running.phase, Phase::CatchUp { .. });
        Some(HandoverStatus { to: running.to, cause: running.cause, holds })
    }

    /// Whether the target was told to campaign.
    pub(crate) fn was_handing_over(&self) -> bool {
        matches!(self.succession.running, Some(Handover { phase: Phase::Told { .. }, .. }))
    }

    /// Why no proposal is taken now, if none is. Thesis 3.10, step 1 \[TH-TRANSFER\].
    pub(crate) fn refuses_proposals(&self, member: &Member) -> Option<Rejection> {
        let holds = self.handover().is_some_and(|handover| handover.holds) && !broken(Mutant::ProposalsDuringHandover);
        (holds || member.is_caretaker() || Self::is_parting(member)).then_some(Rejection::HandingOver)
    }

    /// Whether this leader may hand over to a member that says this of itself.
    fn may_be_handed(member: &Member, standing: Standing) -> bool {
        match standing {
            Standing::Fit(_) => true,
            // Drained it serves, and whoever leads now does not.
            Standing::Reluctant => member.is_caretaker() && !broken(Mutant::DrainedNeverLead),
            Standing::Unfit => false,
        }
    }

    /// The voter to hand over to: the named one if it can be, else the best: one that keeps up before one that does
    /// not, one that stays before one that is about to leave, a drained one after all others, then the highest priority,
    /// then the longest log. One that is to be avoided comes last of those that keep up and stay.
    fn choose(&self, member: &Member, named: Option<NodeId>, avoid: Option<NodeId>) -> Result<NodeId, HandoverRefused> {
        let timeout = member.config.election_timeout;
        let is_heard = |peer: &Progress| member.now < peer.contact + timeout;
        if let Some(to) = named {
            let progress = self.progress.get(&to).filter(|_| member.configuration().is_voter(to));
            return match progress {
                _ if to == member.id() => Err(HandoverRefused::Itself(to)),
                None => Err(HandoverRefused::NotAVoter(to)),
                Some(peer) if !is_heard(peer) => Err(HandoverRefused::Silent(to)),
                Some(peer) if peer.standing.is_some_and(|standing| !Self::may_be_handed(member, standing)) => {
                    Err(HandoverRefused::Unfit(to))
                }
                Some(_) => Ok(to),
            };
        }
        let rank = |(id, peer): (&NodeId, &Progress)| {
            let standing = peer.standing.filter(|standing| Self::may_be_handed(member, *standing))?;
            let priority = if let Standing::Fit(priority) = standing { Some(priority) } else { None };
            let may = peer.heard && is_heard(peer) && member.configuration().is_voter(*id);
            let keeps_up = matches!(peer.state, State::Replicate { .. });
            let stays = member.configuration().voters().contains(id);
            let fresh = avoid != Some(*id);
            may.then_some((keeps_up, stays, fresh, priority, peer.match_index, std::cmp::Reverse(*id)))
        };
        let best = self.progress.iter().filter_map(rank).max();
        best.map(|(.., id)| id.0).ok_or(HandoverRefused::NoCandidate)
    }

    /// The last word of a leader that a committed configuration leaves out: a voter that has all of its log campaigns at
    /// once. It is told once, and not waited for; who says that it must not lead may have said so as a learner, and decides
    /// itself. Thesis 4.2.2 \[TH-LEADER-LEAVES\] \[TH-TRANSFER\]
    pub(crate) fn appoint_successor(&self, member: &mut Member, effects: &mut Vec<Effect>) {
        let last = member.log.last();
        let timeout = member.config.election_timeout;
        let rank = |(id, peer): (&NodeId, &Progress)| {
            let fit = if let Some(Standing::Fit(priority)) = peer.standing { Some(priority) } else { None };
            let is_heard = peer.heard && member.now < peer.contact + timeout;
            let may = is_heard && peer.match_index == last.index && member.configuration().is_voter(*id);
            may.then_some((fit, std::cmp::Reverse(*id)))
        };
        let best = self.progress.iter().filter_map(rank).max();
        if let Some((_, std::cmp::Reverse(to))) = best {
            member.say(to, Message::TimeoutNow { last, drained_too: false }, Index::ZERO, effects);
        }
    }

    fn begin_handover(&mut self, member: &mut Member, to: NodeId, cause: Cause, effects: &mut Vec<Effect>) {
        assert!(self.succession.running.is_none(), "a handover to {to} over another one");
        member.counters.handovers_begun += 1;
        let phase = Phase::CatchUp { goal: member.log.last().index };
        self.succession.running = Some(Handover { to, cause, phase, since: member.now });
        self.advance_handover(member, effects);
    }

    /// Goes on with the handover as far as the target's log allows. Thesis 3.10, steps 2 and 3 \[TH-TRANSFER\].
    pub(crate) fn advance_handover(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        let Some(handover) = &mut self.succession.running else { return };
        let Some(matched) = self.progress.get(&handover.to).map(|peer| peer.match_index) else { return };
        let last = member.log.last();
        if let Phase::CatchUp { goal } = handover.phase
            && (matched >= goal || broken(Mutant::TimeoutNowBeforeMatch))
        {
            (handover.phase, handover.since) = (Phase::Hold, member.now);
        }
        // What is committed is answered here and now; what is not would be in doubt for whoever waits for it. Without
        // its own disk this node may be unable to commit.
        let is_committed = member.commit_index == last.index || member.disk_stalls();
        let is_done = matched == last.index && is_committed;
        if handover.phase == Phase::Hold && (is_done || broken(Mutant::TimeoutNowBeforeMatch)) {
            handover.phase = Phase::Told { at: member.now };
            let drained_too = member.is_caretaker();
            member.say(handover.to, Message::TimeoutNow { last, drained_too }, Index::ZERO, effects);
        }
    }

    /// Time passed: a handover that takes too long is given up, what may be lost is said again, and one that is wanted
    /// begins by itself. Returns whether to go on leading.
    pub(crate) fn tick_handover(&mut self, member: &mut Member, effects: &mut Vec<Effect>) -> bool {
        self.continue_handover(member, effects);
        if member.disk_stalls() && !broken(Mutant::StalledDiskLeads) {
            return self.hand_over_stalled(member, effects);
        }
        self.succession.tried_since_stall = false;
        if self.succession.running.is_none() && member.now >= self.succession.next_try {
            if member.wants_successor() {
                let cause = if member.state_is_sound() { Cause::Drain } else { Cause::State };
                self.hand_over_because(member, cause, effects);
            } else if let Some(to) = self.preferred(member) {
                self.begin_handover(member, to, Cause::Priority, effects);
            }
        }
        true
    }

    fn continue_handover(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        let Some(handover) = &mut self.succession.running else { return };
        if member.now >= handover.since + member.config.election_timeout && !broken(Mutant::HandoverNeverEnds) {
            let why = HandoverRefused::TimedOut(handover.to);
            return self.give_handover_up(member, why, effects);
        }
        match handover.phase {
            Phase::Told { at } if member.now >= at + member.config.heartbeat_interval => {
                handover.phase = Phase::Hold;
                self.advance_handover(member, effects);
            }
            Phase::Told { .. } => {}
            Phase::CatchUp { .. } | Phase::Hold => self.advance_handover(member, effects),
        }
    }

    /// The disk stalls: this node can acknowledge nothing, but its followers can. They are told who shall lead, once;
    /// without one it steps down.
    fn hand_over_stalled(&mut self, member: &mut Member, effects: &mut Vec<Effect>) -> bool {
        if self.succession.running.is_some() {
            return true;
        }
        let begun = !std::mem::replace(&mut self.succession.tried_since_stall, true)
            && self.hand_over_because(member, Cause::Stall, effects);
        if !begun {
            member.counters.disk_stall_step_downs += 1;
        }
        begun
    }

    /// Hands over to the best voter, if there is one and nothing is under way. Returns whether it began.
    pub(crate) fn hand_over_because(&mut self, member: &mut Member, cause: Cause, effects: &mut Vec<Effect>) -> bool {
        if self.succession.running.is_some() {
            return false;
        }
        match self.choose(member, None, self.succession.failed) {
            Ok(to) => {
                self.begin_handover(member, to, cause, effects);
                true
            }
            Err(_) => false,
        }
    }

    /// A voter of higher priority that is up to date.
    fn preferred(&self, member: &Member) -> Option<NodeId> {
        let to = self.choose(member, None, None).ok()?;
        let peer = self.progress.get(&to)?;
        let higher = matches!(peer.standing, Some(Standing::Fit(priority)) if priority > member.config.priority);
        let up_to_date = peer.match_index >= member.commit_index;
        (higher && up_to_date && !broken(Mutant::PriorityIgnored)).then_some(to)
    }

    /// Other members are in force: who votes no more is nobody to hand over to.
    pub(crate) fn recheck_handover(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        let Some(Handover { to, .. }) = self.succession.running else { return };
        if !member.configuration().is_voter(to) {
            self.give_handover_up(member, HandoverRefused::NotAVoter(to), effects);
        }
    }

    /// The target did not take over: this node leads on, and takes proposals again. Thesis 3.10 \[TH-TRANSFER\].
    fn give_handover_up(&mut self, member: &mut Member, why: HandoverRefused, effects: &mut Vec<Effect>) {
        let Some(Handover { to, cause, .. }) = self.succession.running.take() else { return };
        member.counters.handovers_given_up += 1;
        let timeout = member.config.election_timeout;
        let pause = if member.wants_successor() || cause == Cause::Request {
            timeout
        } else {
            timeout * (PRIORITY_PAUSE << self.succession.failures.min(PRIORITY_PAUSE_DOUBLINGS_MAX))
        };
        self.succession.failures += 1;
        self.succession.failed = Some(to);
        self.succession.next_try = self.succession.next_try.max(member.now + pause);
        for (ticket, _) in member.handover_asked.take().into_iter().flat_map(|asked| asked.tickets) {
            effects.push(Effect::Handover { ticket, result: Err(why) });
        }
    }
}

impl Raft {
    /// Somebody wants another leader: `to`, or the best there is. Who asks for what is under way joins it.
    pub(crate) fn hand_over(&mut self, ticket: Ticket, to: Option<NodeId>, effects: &mut Vec<Effect>) {
        if let Err(why) = self.try_hand_over(ticket, to, effects) {
            effects.push(Effect::Handover { ticket, result: Err(why) });
        }
    }

    fn try_hand_over(
        &mut self,
        ticket: Ticket,
        to: Option<NodeId>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), HandoverRefused> {
        if self.member.failed {
            return Err(HandoverRefused::Stopping);
        }
        let RoleState::Leader(leader) = &mut self.role else { return Err(HandoverRefused::NotLeader) };
        let running = leader.succession.running.map(|running| running.to);
        let target = match (running, to) {
            (Some(running), None) => running,
            (Some(running), Some(to)) if running == to => running,
            (Some(running), Some(_)) => return Err(HandoverRefused::Busy(running)),
            (None, to) => leader.choose(&self.member, to, leader.succession.failed)?,
        };
        let (term, deadline) = (self.member.term, self.member.now + self.member.config.election_timeout * ANSWER_AFTER);
        let asked =
            self.member.handover_asked.get_or_insert_with(|| Asked { tickets: Vec::new(), to: target, term, deadline });
        asked.tickets.push((ticket, to.is_some()));
        if running.is_none() {
            leader.begin_handover(&mut self.member, target, Cause::Request, effects);
        }
        Ok(())
    }

    /// This node is drained, or not any more: meanwhile it hands over what it leads and is handed nothing.
    pub(crate) fn drain(&mut self, drained: bool, effects: &mut Vec<Effect>) {
        self.member.drained = drained;
        self.seek_successor(Cause::Drain, effects);
    }

    /// Hands over where this node leads and wants to lead no more; where it asks for votes it asks no more.
    pub(crate) fn seek_successor(&mut self, cause: Cause, effects: &mut Vec<Effect>) {
        if !self.member.wants_successor() {
            return;
        }
        match &mut self.role {
            RoleState::Leader(leader) => {
                // What failed before may have failed for another reason.
                leader.succession.next_try = self.member.now;
                leader.hand_over_because(&mut self.member, cause, effects);
            }
            RoleState::PreCandidate(..) | RoleState::Candidate(_) => self.become_follower(None, effects),
            RoleState::Follower(_) => {}
        }
    }

    /// The leader of this term wants this node to lead: campaign at once, without asking first. `last` is the end of
    /// the leader's log; a log that ends elsewhere was told long ago, or was meant to be another. A drained node may
    /// have been chosen before it was; it obeys (`drained_too`) a leader that must not serve. Thesis 3.10
    /// \[TH-TRANSFER\].
    pub(crate) fn on_timeout_now(&mut self, from: NodeId, last: LogId, drained_too: bool, effects: &mut Vec<Effect>) {
        let RoleState::Follower(follower) = &self.role else { return };
        let is_its_word = follower.leader == Some(from) || broken(Mutant::OldTimeoutNowObeyed);
        let is_fit = match self.member.standing() {
            Standing::Fit(_) => true,
            Standing::Reluctant => drained_too || broken(Mutant::UnfitObeysTimeoutNow),
            Standing::Unfit => broken(Mutant::UnfitObeysTimeoutNow) && !self.member.failed,
        };
        let is_equal = self.member.log.last() == last || broken(Mutant::OldTimeoutNowObeyed);
        if is_its_word && is_fit && (is_equal || broken(Mutant::TimeoutNowBeforeMatch)) {
            self.member.counters.handovers_taken += 1;
            self.member.reads.restart();
            self.role = RoleState::Candidate(Candidate::campaign(&mut self.member, true, effects));
        }
    }

    /// Whoever asked for a handover is told when it is known who leads, or for too long nobody is known to.
    pub(crate) fn answer_handover(&mut self, effects: &mut Vec<Effect>) {
        let Some(asked) = &self.member.handover_asked else { return };
        let leads_on = self.role() == Role::Leader && self.member.term == asked.term;
        let heard = self.leader().filter(|_| self.member.term > asked.term);
        if leads_on || (heard.is_none() && self.member.now < asked.deadline) || broken(Mutant::HandoverUnanswered) {
            return;
        }
        let Some(Asked { tickets, to, .. }) = self.member.handover_asked.take() else { return };
        for (ticket, named) in tickets {
            let result = match heard {
                Some(leader) if leader == to || !named => Ok(HandedOver { leader, term: self.member.term }),
                Some(leader) => Err(HandoverRefused::OtherLeader(leader)),
                None => Err(HandoverRefused::NobodyYet),
            };
            effects.push(Effect::Handover { ticket, result });
        }
    }

    /// What this node hands over now, as leader.
    #[must_use]
    pub fn handover(&self) -> Option<HandoverStatus> {
        match &self.role {
            RoleState::Leader(leader) => leader.handover(),
            _ => None,
        }
    }
}
