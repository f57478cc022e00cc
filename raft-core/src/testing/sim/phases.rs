//! The way of one run: changing faults, standing faults, healing, agreement, the last checks.

use std::fmt::Write as _;

use crate::replica::Replica;
use crate::testing::linear::{
    self, Action as LinearAction, Client, History, Key, Operation as LinearOperation, Outcome,
};
use crate::testing::sim::clients::{Ending, Operation, Want};
use crate::testing::sim::disk::SyncFault;
use crate::testing::sim::goals::Goal;
use crate::testing::sim::machine::{Action, Answer};
use crate::testing::sim::network::place;
use crate::testing::sim::node::Node;
use crate::testing::sim::world::{Tally, What, World, small};
use crate::types::{Index, NodeId};

/// With standing faults, a connected majority must commit a new write within this long: tens of election timeouts.
const MAJORITY_GOES_ON_WITHIN: u64 = 30_000_000_000;
/// What a partial majority is given to do the same where that is not demanded; then it is counted.
const PARTIAL_MAJORITY_WITHIN: u64 = 4_000_000_000;
/// A healed cluster must agree within this long.
const AGREES_WITHIN: u64 = 30_000_000_000;

/// How the nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// A majority whose members all reach each other.
    Majority,
    /// Some node reaches a majority.
    Partial,
    Nothing,
}

impl World {
    /// All phases, in order.
    pub(super) fn run(&mut self) {
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        for client in 0..self.clients.count() {
            let wait = self.about(self.plan.think);
            self.after(wait, What::Call { client: u32::try_from(client).unwrap_or(0) });
        }
        if self.plan.fault_every > 0 {
            self.after(0, What::Fault);
        }
        while self.tally.events < self.plan.events {
            self.next();
        }
        self.stand();
        self.heal();
        self.agree();
        self.roll_leases();
        self.move_leadership();
        self.check_end();
    }

    /// The faults stay as they are: nobody else dies, whoever was about to start does, no link changes; what loses and
    /// delays goes on. If a majority of working nodes reach each other, writes go on.
    fn stand(&mut self) {
        self.faults_change = false;
        self.patience = self.patience.max(2_000_000_000);
        for node in &mut self.nodes {
            node.dies_in = None;
            node.disk.fault = None;
            node.disk.forgets = false;
        }
        self.draw_topology();
        self.draw_disks();
        self.hand_over_in_vain();
        let reach = self.reach();
        let (began, operations) = (self.now, self.clients.operations.len());
        match reach {
            Reach::Nothing => self.goals.reach(Goal::NoMajority),
            Reach::Majority => {
                let bound = if self.keeps_time() { MAJORITY_GOES_ON_WITHIN } else { PARTIAL_MAJORITY_WITHIN };
                let went_on = self.goes_on(operations, began + bound);
                assert!(
                    went_on || !self.keeps_time(),
                    "[a majority goes on] nothing was committed for {} s though a majority is connected: {}",
                    (self.now - began) / 1_000_000_000,
                    self.picture()
                );
                if went_on && self.keeps_time() {
                    self.goals.reach(Goal::MajorityWentOn);
                    self.tally.majority_went_on_after = self.now - began;
                }
            }
            Reach::Partial => {
                self.goals.reach(Goal::PartialMajority);
                self.tally.partial_majorities.0 += 1;
                let demanded = self.keeps_time() && self.is_plainly_cut();
                let bound = if demanded { MAJORITY_GOES_ON_WITHIN } else { PARTIAL_MAJORITY_WITHIN };
                let went_on = self.goes_on(operations, began + bound);
                assert!(
                    went_on || !demanded,
                    "[a partial majority goes on] nothing was committed for {} s though a node reaches a majority: {}",
                    (self.now - began) / 1_000_000_000,
                    self.picture()
                );
                self.goals.reach_if(went_on && demanded, Goal::PartialMajorityWentOn);
                let soon = went_on && self.now <= began + PARTIAL_MAJORITY_WITHIN;
                self.tally.partial_majorities.1 += u64::from(soon);
            }
        }
    }

    /// What stands: the faults as they are, or the links of a graph of their own, between all nodes or those that work.
    fn draw_topology(&mut self) {
        let draw = self.random.next_u64();
        if self.plan.fault_every == 0 {
            return;
        }
        if draw & 1 == 0 {
            for node in 0..self.nodes.len() {
                self.after(1, What::Start { node: small(node) });
            }
            self.next_until(self.now + 1);
        }
        if self.plan.lockstep != 0 {
            self.power_returns();
        }
        match (draw >> 3) & 7 {
            0 => return self.deafen_leader(),
            1 if self.nodes.len() >= 4 => return self.leave_to_laggard(),
            _ => {}
        }
        let (of, both) = match (draw >> 1) & 3 {
            0 => return,
            1 => (3, false),
            2 => (3, true),
            _ => (2, true),
        };
        self.network.heal();
        for from in 0..self.nodes.len() {
            for to in 0..from {
                if self.random.below(of) == 0 {
                    self.network.link(from, to).cut = true;
                    self.network.link(to, from).cut = both;
                }
            }
        }
    }

    /// All nodes start at the same instant.
    fn power_returns(&mut self) {
        for node in 0..self.nodes.len() {
            self.die(node);
            self.after(1, What::Start { node: small(node) });
        }
        self.next_until(self.now + 1);
    }

    /// Everybody hears the leader, and it hears nobody: it must see that, or nobody else can ever lead.
    fn deafen_leader(&mut self) {
        let Some(leader) = self.nodes.iter().position(Node::leads) else { return };
        self.network.heal();
        for other in (0..self.nodes.len()).filter(|other| *other != leader) {
            self.network.link(other, leader).cut = true;
        }
    }

    /// Only the node whose log is most behind reaches a majority, by a link to each of the others that are in it: it has to
    /// fetch what it lacks.
    fn leave_to_laggard(&mut self) {
        let count = self.nodes.len();
        let end = |node: &usize| {
            let log = &self.nodes[*node].log;
            (log.at(log.last()).map_or(0, |mark| mark.term), log.last())
        };
        let mut by_log: Vec<usize> = (0..count).filter(|node| self.nodes[*node].works(self.now)).collect();
        by_log.sort_by_key(end);
        let Some((laggard, others)) = by_log.split_first() else { return };
        // With those that are most ahead.
        let linked: Vec<usize> = others.iter().rev().take(count / 2).copied().collect();
        for from in 0..count {
            for to in 0..from {
                let hub = (from == *laggard && linked.contains(&to)) || (to == *laggard && linked.contains(&from));
                self.network.link(from, to).cut = !hub;
                self.network.link(to, from).cut = !hub;
            }
        }
    }

    /// Disks that stand as they are: one has just forgotten, so that the leader stays and has to find out; one stalls for
    /// good, often the leader's.
    fn draw_disks(&mut self) {
        let draw = self.random.next_u64();
        let count = self.nodes.len();
        let drawn = usize::try_from(draw >> 32).unwrap_or(0) % count;
        if self.plan.lose_disk > 0 && !self.nodes[drawn].leads() && draw & 1 == 0 {
            self.lose_disk(drawn, 0);
        }
        if self.plan.stall > 0 && draw & 0x30 == 0 && self.stall_beside_majority() {
            return;
        }
        if self.plan.stall > 0 && draw & 6 == 0 {
            let leader = self.nodes.iter().position(Node::leads);
            let victim = leader.filter(|_| draw & 8 == 0).unwrap_or(drawn);
            self.stall_for_good(victim);
        }
        if self.plan.drain > 0 && draw & 0x40 == 0 {
            self.drain_beside_caretaker();
        }
    }

    fn stall_for_good(&mut self, node: usize) {
        let entry = &mut self.nodes[node];
        if entry.replica.is_some() && !entry.failed {
            entry.disk.fault = Some(SyncFault::Stall(1 << 60));
            entry.stalled = true;
        }
    }

    /// The leader is heard by just a quorum, and the disk of one of them stalls for good; the others, most of whom it
    /// cannot reach, are a majority. Returns whether there is room for that.
    fn stall_beside_majority(&mut self) -> bool {
        let (count, quorum) = (self.nodes.len(), self.nodes.len() / 2 + 1);
        let Some(leader) = self.nodes.iter().position(Node::leads) else { return false };
        if count < quorum + 2 {
            return false;
        }
        let others: Vec<usize> = (0..count).filter(|other| *other != leader).collect();
        self.network.heal();
        self.stall_for_good(others[0]);
        for unreached in &others[quorum - 1..] {
            self.network.link(leader, *unreached).cut = true;
        }
        true
    }

    fn next_until(&mut self, until: u64) {
        while self.now < until {
            self.next();
        }
    }

    /// Broadcast time << election timeout (Raft §5.6), or there is nothing to demand.
    fn keeps_time(&self) -> bool {
        let plan = &self.plan;
        plan.latency + plan.latency_spread <= 20_000
            && plan.sync + plan.sync_spread <= 20_000
            && plan.loss <= 150
            && plan.hear <= 20_000
            // One entry back per rejection takes as long as the log is.
            && plan.step_back == 0
    }

    /// A message and its answer take so little that no timer is in danger.
    pub(super) fn is_calm(&self) -> bool {
        let plan = &self.plan;
        plan.latency + plan.latency_spread <= 5_000 && plan.sync + plan.sync_spread <= 5_000 && plan.hear <= 5_000
    }

    /// Whether links are there or not, for both directions, and nobody needs more than the entries of others: no snapshot, and
    /// no state or disk of its own to repair.
    fn is_plainly_cut(&self) -> bool {
        let count = self.nodes.len();
        let same = |a: usize, b: usize| self.network.is_cut(a, b) == self.network.is_cut(b, a);
        let whole = |node: &Node| !node.rebuilds && node.disk.lost.is_none();
        let cores = || self.nodes.iter().filter_map(|node| node.replica.as_ref().map(Replica::raft));
        let begin = cores().map(|raft| raft.log_base().index).max().unwrap_or_default();
        let reached = cores().map(|raft| raft.commit_index()).min().unwrap_or_default();
        (0..count).all(|a| (0..a).all(|b| same(a, b))) && self.nodes.iter().all(whole) && begin <= reached
    }

    /// Whether a write that was called from now on is acknowledged by `until`.
    fn goes_on(&mut self, operations: usize, until: u64) -> bool {
        let mut looked = operations;
        while self.now < until {
            self.next();
            while looked < self.clients.operations.len() {
                match self.clients.operations[looked].ending {
                    Ending::Wrote(_) => return true,
                    Ending::Open => break,
                    _ => looked += 1,
                }
            }
            let newer = &self.clients.operations[looked..];
            if newer.iter().any(|operation| matches!(operation.ending, Ending::Wrote(_))) {
                return true;
            }
        }
        false
    }

    fn reach(&self) -> Reach {
        let count = self.nodes.len();
        let works = |node: usize| {
            let entry = &self.nodes[node];
            entry.works(self.now) && entry.disk.lost.is_none() && !entry.rebuilds
        };
        let pair = |a: usize, b: usize| a == b || !(self.network.is_cut(a, b) || self.network.is_cut(b, a));
        let all_reach = |set: &u32| {
            let members: Vec<usize> = (0..count).filter(|node| (set >> node) & 1 == 1).collect();
            members.iter().all(|a| works(*a) && members.iter().all(|b| pair(*a, *b)))
                && self.decides(&|id| members.contains(&place(id.0)))
        };
        if (0..1u32 << count).any(|set| all_reach(&set)) {
            return Reach::Majority;
        }
        let reaches = |node: usize, id: NodeId| {
            let other = place(id.0);
            other < count && works(other) && pair(node, other)
        };
        let some = (0..count).any(|node| works(node) && self.could_lead(node) && self.decides(&|id| reaches(node, id)));
        if some { Reach::Partial } else { Reach::Nothing }
    }

    /// Everything works again, and nobody begins anything new after a while. In half of the runs each node that gets a
    /// snapshot yet dies with the first one, so that the leader stays and has to find out.
    fn heal(&mut self) {
        self.network.be_kind();
        let die_with_snapshots = self.plan.fault_every != 0 && self.random.next_u64() & 1 == 0;
        self.healed_at = u32::try_from(self.clients.attempts.len()).ok();
        for node in 0..self.nodes.len() {
            let entry = &mut self.nodes[node];
            entry.dies_with_snapshot = die_with_snapshots;
            entry.frozen_until = entry.frozen_until.min(self.now);
            if entry.failed || entry.stalled {
                self.die(node);
            }
            let wait = self.about(1_000);
            self.after(wait, What::Start { node: small(node) });
        }
        self.end_drains();
        (self.plan.fill_error, self.plan.chunk_loss, self.plan.chunk_damage) = (0, 0, 0);
        let until = self.now + 500_000_000;
        self.next_until(until);
        self.clients.closing = true;
    }

    /// All callers get their answers, and all nodes the same state.
    fn agree(&mut self) {
        let until = self.now + AGREES_WITHIN;
        while !self.at_rest() {
            assert!(self.now < until, "[a healed cluster agrees] it does not: {}", self.picture());
            for _ in 0..20 {
                self.next();
            }
        }
        self.goals.reach(Goal::Converged);
    }

    /// What there is to see, for a failure.
    pub(super) fn picture(&self) -> String {
        let mut picture = format!(
            "committed up to {}; callers idle {}; {:?} committed, {} newest",
            self.ghost.last(),
            self.clients.idle(),
            self.changes.committed,
            self.newest_configuration()
        );
        for (place, node) in self.nodes.iter().enumerate() {
            let cut: Vec<usize> =
                (0..self.nodes.len()).filter(|to| self.network.is_cut(place, *to)).map(|to| to + 1).collect();
            let status = node.replica.as_ref().map(|replica| replica.status(node.clock.read(self.now)));
            let _ = write!(
                picture,
                "\n  n{}: applied {}, {} callers, {} batches and {} writes wait, rebuilds {}, cannot send to {cut:?}, {:?}, \
                 {status:?}",
                place + 1,
                node.machine.applied,
                node.replica.as_ref().map_or(0, Replica::waiting),
                node.applies.len(),
                node.disk.queue.len(),
                node.rebuilds,
                node.disk.durable.hard_state,
            );
        }
        picture
    }

    pub(super) fn at_rest(&self) -> bool {
        let last = self.ghost.last();
        let rests = |node: &Node| {
            node.replica.as_ref().is_some_and(|replica| replica.waiting() == 0)
                && node.machine.applied == last
                && node.log.last() == last
                && node.disk.queue.is_empty()
                && node.disk.lost.is_none()
                && !node.rebuilds
        };
        let members = self.final_members();
        let others = (0..self.nodes.len()).filter(|node| !members.contains(node));
        last > Index::ZERO
            && self.clients.idle()
            && members.iter().all(|node| rests(&self.nodes[*node]))
            && self.changes.committed.index() == self.newest_configuration()
            && others.into_iter().all(|node| self.knows_its_removal(node) && self.nodes[node].waits_for_nobody())
    }

    fn check_end(&mut self) {
        let digests: Vec<u64> = self.final_members().iter().map(|node| self.nodes[*node].machine.digest).collect();
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "[equal state] the digests are {digests:?}");
        self.check_answered();
        self.check_handovers_answered();
        self.check_answers();
        let mut history = History::new();
        for operation in self.clients.operations.iter().filter_map(recorded) {
            history.record(operation);
        }
        match linear::check(&history) {
            Ok(checked) => self.tally.checked += checked.operations,
            Err(error) => panic!("[linearizable] {error}"),
        }
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }
}

/// The operation as the checker of histories knows it. What became of a write whose caller was never told is known by
/// now: it took effect at the instant of its commit, or it never will.
fn recorded(operation: &Operation) -> Option<LinearOperation> {
    let action = match operation.want {
        Want::Read => LinearAction::Get,
        Want::Write(Action::Put(value)) => LinearAction::Put(value),
        Want::Write(Action::Delete) => LinearAction::Delete,
        Want::Write(Action::Increment) => LinearAction::Increment,
        Want::Write(Action::CompareAndSet { expected, new }) => {
            LinearAction::CompareAndSet { expected, new: Some(new) }
        }
    };
    let wrote = |answer| match answer {
        Answer::Swapped(yes) => Outcome::Compared(yes),
        Answer::Sum(sum) => Outcome::Sum(sum),
        Answer::Done | Answer::Late => Outcome::Done,
    };
    let (called, returned, outcome) = match (operation.ending, operation.effect) {
        (Ending::NoEffect, Some(_)) => panic!("[rejected is never applied] {operation:?}"),
        (Ending::NoEffect, None) => (operation.called, operation.returned, Outcome::NotApplied),
        (Ending::Read(value), _) => (operation.called, operation.returned, Outcome::Saw(value)),
        (Ending::Wrote(answer), _) => (operation.called, operation.returned, wrote(answer)),
        (Ending::Open | Ending::Unknown, Some((committed, answer))) => (committed, committed + 1, wrote(answer)),
        (Ending::Open | Ending::Unknown, None) => return None,
    };
    Some(LinearOperation {
        client: Client(operation.client.into()),
        key: Key(operation.key.into()),
        action,
        called,
        returned: Some((returned, outcome)),
    })
}
