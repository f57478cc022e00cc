//! Handing the leadership over: asked for at random, checked always, and demanded where nothing hinders it.

use std::collections::BTreeSet;

use crate::handover::{Cause, HandedOver, HandoverRefused, HandoverStatus};
use crate::message::Envelope;
use crate::replica::Input;
use crate::status::Role;
use crate::testing::sim::goals::Goal;
use crate::testing::sim::network::place;
use crate::testing::sim::node::{Node, Seen, Waiter, priority};
use crate::testing::sim::world::World;
use crate::types::{Entry, LogId, NodeId, Term};

/// Waiters from here on wait for a handover; those below are tries of callers.
const WAITER_FIRST: Waiter = 1 << 31;
/// Where messages and disks are fast, a leadership moves sooner than any election timer runs out.
const MOVES_WITHIN: u64 = 150_000_000;
/// So long a leader needs, mostly, to hear what its followers say of themselves.
const HEARD_OF_WITHIN: u64 = 200_000_000;
/// A leader has to look for a voter of higher priority this soon, whatever failed before.
const PRIORITY_DECIDES_WITHIN: u64 = 120_000_000_000;

/// Somebody asked for a handover.
#[derive(Clone, Copy, Debug)]
struct Try {
    node: usize,
    life: u32,
    answer: Option<Result<HandedOver, HandoverRefused>>,
}

/// What became of all handovers.
#[derive(Debug, Default)]
pub(super) struct Handovers {
    tries: Vec<Try>,
    /// Who was told to campaign, in which term.
    told: BTreeSet<(NodeId, Term)>,
    /// By node: what its leader had under way when it was looked at last.
    seen: Vec<Option<HandoverStatus>>,
}

/// Whether this waiter waits for a handover.
pub(super) fn is_handover(waiter: Waiter) -> bool {
    waiter >= WAITER_FIRST
}

impl World {
    /// Somebody asks a node, mostly the leader, for another leader, and sometimes at once for a third one; sometimes
    /// the target is drained before it hears of it.
    pub(super) fn ask_handover(&mut self, draw: u64) {
        let Some(leader) = self.nodes.iter().position(Node::leads) else { return };
        let count = self.nodes.len() as u64;
        let pick = |bits: u64| usize::try_from(bits % count).unwrap_or(0);
        let asked = if draw & 15 == 0 { pick(draw >> 8) } else { leader };
        if self.nodes[asked].frozen_until > self.now {
            return;
        }
        let to = pick(draw >> 16);
        let named = (draw & 0x30 != 0).then_some(NodeId(to as u64 + 1));
        self.hand_over(asked, named);
        if draw & 0x40 != 0 {
            let again = if draw & 0x80 == 0 { named } else { Some(NodeId(pick(draw >> 24) as u64 + 1)) };
            self.hand_over(asked, again);
        }
        if draw & 0x300 == 0 && self.plan.drain > 0 {
            self.drain(to, true);
        }
    }

    fn hand_over(&mut self, node: usize, to: Option<NodeId>) -> usize {
        let number = self.handovers.tries.len();
        self.handovers.tries.push(Try { node, life: self.nodes[node].life, answer: None });
        let waiter = WAITER_FIRST + Waiter::try_from(number).expect("few handovers");
        let before = self.nodes[node].replica.as_ref().and_then(|replica| replica.raft().handover());
        self.step(node, Input::HandOver { to, waiter });
        let joins = before.is_some_and(|running| to.is_none_or(|to| to == running.to));
        self.goals.reach_if(joins, Goal::HandoverJoined);
        number
    }

    /// Whoever asked is told.
    pub(super) fn told_handover(&mut self, waiter: Waiter, answer: Result<HandedOver, HandoverRefused>) {
        let number = waiter.checked_sub(WAITER_FIRST).expect("only who asked for a handover is told of one");
        let asked = &mut self.handovers.tries[number as usize];
        assert!(asked.answer.is_none(), "[one answer] handover {number} is answered twice");
        asked.answer = Some(answer);
        match answer {
            Ok(handed) => {
                let leader = self.ghost.leader_of(handed.term.0);
                assert_eq!(leader, Some(place(handed.leader.0)), "[handovers are true] {handed:?}");
            }
            Err(HandoverRefused::Busy(_)) => self.goals.reach(Goal::HandoverBusy),
            Err(HandoverRefused::OtherLeader(_)) => self.goals.reach(Goal::HandoverWentElsewhere),
            Err(_) => {}
        }
    }

    /// A node is not to lead, or may again.
    pub(super) fn drain(&mut self, node: usize, drained: bool) {
        if self.nodes[node].replica.is_some() && self.nodes[node].frozen_until <= self.now {
            self.nodes[node].drained = drained;
            self.step(node, Input::Drained(drained));
        }
    }

    /// With standing faults: the leader's state is found to differ, and all others are drained. One of them has to lead.
    pub(super) fn drain_beside_caretaker(&mut self) {
        let Some(leader) = self.nodes.iter().position(Node::leads) else { return };
        for other in (0..self.nodes.len()).filter(|other| *other != leader) {
            self.drain(other, true);
        }
        self.run_for(HEARD_OF_WITHIN);
        if let Some(leader) = self.nodes.iter().position(Node::leads) {
            self.begin_rebuild(leader);
        }
    }

    pub(super) fn end_drains(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].drained {
                self.nodes[node].frozen_until = 0;
                self.drain(node, false);
            }
        }
    }

    /// With standing faults: a leader hands over, and its target never hears of it.
    pub(super) fn hand_over_in_vain(&mut self) {
        let count = self.nodes.len();
        let Some(leader) = self.nodes.iter().position(Node::leads).filter(|_| self.plan.handover > 0 && count > 2)
        else {
            return;
        };
        let draw = self.random.next_u64();
        let target = (leader + 1 + usize::try_from(draw >> 8).unwrap_or(0) % (count - 1)) % count;
        if draw & 3 == 0 && self.nodes[leader].works(self.now) {
            self.hand_over(leader, Some(NodeId(target as u64 + 1)));
            self.network.link(leader, target).cut = true;
            self.network.link(target, leader).cut = true;
        }
    }

    /// Everything works: the leadership goes where it is wanted, and stays where it is wanted most.
    pub(super) fn move_leadership(&mut self) {
        if !self.is_calm() || self.changes.committed.voters().len() < 2 {
            return;
        }
        self.run_for(1_000_000_000);
        if let Some(leader) = self.nodes.iter().position(Node::leads) {
            let voters = self.changes.committed.voters();
            let at = voters.iter().position(|id| place(id.0) == leader).unwrap_or_default();
            let to = voters[(at + 1) % voters.len()];
            let (began, number) = (self.now, self.hand_over(leader, Some(to)));
            while self.handovers.tries[number].answer.is_none() && self.now < began + 10 * MOVES_WITHIN {
                self.next();
            }
            let (answer, took) = (self.handovers.tries[number].answer, self.now - began);
            // A leader may hand over by itself at that moment.
            let busy = matches!(answer, Some(Err(HandoverRefused::Busy(_))));
            let moved = matches!(answer, Some(Ok(handed)) if handed.leader == to) && took <= MOVES_WITHIN;
            assert!(moved || busy, "[leadership moves] {answer:?} of {to} after {took} ns: {}", self.picture());
        }
        if self.plan.priorities != 0 {
            self.await_priority();
        }
        let until = self.now + 30_000_000_000;
        while !self.at_rest() {
            assert!(self.now < until, "[a healed cluster agrees] after a handover: {}", self.picture());
            self.next();
        }
    }

    pub(super) fn run_for(&mut self, nanos: u64) {
        let until = self.now + nanos;
        while self.now < until {
            self.next();
        }
    }

    fn await_priority(&mut self) {
        let most = self.changes.committed.voters().iter().map(|id| priority(&self.plan, *id)).max();
        let until = self.now + PRIORITY_DECIDES_WITHIN;
        let decided =
            |world: &Self| world.nodes.iter().any(|node| node.leads() && Some(priority(&world.plan, node.id)) == most);
        while !decided(self) {
            assert!(self.now < until, "[priority decides] it does not: {}", self.picture());
            self.next();
        }
    }

    /// Whether this node must not be handed a leadership; a caretaker's is taken by one that is drained, too.
    pub(super) fn is_unfit(&self, node: usize, drained_too: bool) -> bool {
        let entry = &self.nodes[node];
        (entry.drained && !drained_too)
            || entry.rebuilds
            || entry.replica.as_ref().is_some_and(|replica| replica.raft().member.lost.is_some())
    }

    /// A leader hands over to a log that is its own, durably. \[TH-TRANSFER\]
    pub(super) fn check_timeout_now(&mut self, node: usize, envelope: &Envelope, last: LogId) {
        let (leader, target) = (&self.nodes[node], &self.nodes[place(envelope.to.0)]);
        assert_eq!(leader.log.last(), last.index, "[hand over to an equal log] {envelope:?} leaves");
        let held = target.disk.durable.marks.at(last.index);
        assert!(
            held == leader.log.at(last.index) || target.disk.lost.is_some(),
            "[hand over to an equal log] {envelope:?} leaves, and the target holds {held:?}"
        );
        self.handovers.told.insert((envelope.to, envelope.term));
    }

    /// Nobody overrules a live leader who was not told to by that leader. Thesis 4.2.3 \[TH-TRANSFER\].
    pub(super) fn check_handover_vote(&self, node: usize, term: Term, handover: bool) {
        let was_told = || self.handovers.told.contains(&(self.nodes[node].id, Term(term.0 - 1)));
        assert!(!handover || was_told(), "[only whom the leader wants] n{} campaigns in term {term}", node + 1);
    }

    /// A leader that hands over, or whose state differs, takes no proposals. \[TH-TRANSFER\]
    pub(super) fn check_proposal(&self, node: usize, entry: &Entry) {
        let at = &self.nodes[node];
        let own = at.seen.role == Role::Leader && at.seen.term == entry.id.term;
        assert!(!(own && at.seen.holds), "[no proposals in a handover] n{} appends {}", node + 1, entry.id);
        assert!(!(own && at.rebuilds), "[a caretaker takes nothing] n{} appends {}", node + 1, entry.id);
    }

    /// Notices what became of the handover of a leader.
    pub(super) fn note_handover(&mut self, node: usize, before: Seen, seen: Seen) {
        self.handovers.seen.resize(self.nodes.len(), None);
        let now = self.nodes[node].replica.as_ref().and_then(|replica| replica.raft().handover());
        let was = std::mem::replace(&mut self.handovers.seen[node], now);
        let elected = seen.role == Role::Leader && before.role != Role::Leader;
        self.goals.reach_if(elected && self.nodes[node].rebuilds, Goal::CaretakerElected);
        let Some(was) = was.filter(|was| now.is_none_or(|now| now.to != was.to)) else { return };
        let led_on = seen.role == Role::Leader && seen.term == before.term;
        self.goals.reach_if(led_on, Goal::HandoverGivenUp);
        if !led_on && was.holds && seen.term.0 == before.term.0 + 1 {
            self.goals.reach(Goal::HandedOver);
            self.goals.reach_if(was.cause == Cause::Priority, Goal::PriorityHandedOver);
            self.goals.reach_if(was.cause == Cause::Stall, Goal::StallHandedOver);
            self.goals.reach_if(was.cause == Cause::Drain, Goal::DrainHandedOver);
            let drained = self.nodes[place(was.to.0)].drained;
            self.goals.reach_if(was.cause == Cause::State && drained, Goal::DrainedTookOver);
        }
    }

    /// Whoever asked a process that still lives was told.
    pub(super) fn check_handovers_answered(&self) {
        for (number, asked) in self.handovers.tries.iter().enumerate() {
            assert!(
                asked.answer.is_some() || self.nodes[asked.node].life != asked.life,
                "[one answer] handover {number} at n{} was never answered",
                asked.node + 1
            );
        }
    }
}
