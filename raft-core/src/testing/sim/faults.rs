//! What goes wrong: processes die, stand still and start; links are cut; disks stall, fail and forget.

use crate::replica::Replica;
use crate::status::Role;
use crate::testing::sim::checks::look;
use crate::testing::sim::disk::SyncFault;
use crate::testing::sim::goals::Goal;
use crate::testing::sim::node::{Job, Seen};
use crate::testing::sim::world::{What, World, small};
use crate::types::Index;

/// A change of the faults.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Crash,
    CrashBetween,
    CrashAll,
    CutOneWay,
    CutPair,
    Isolate,
    Split,
    Heal,
    Freeze,
    Stall,
    SyncError,
    LoseDisk,
    Unreachable,
    Rebuild,
    ChangeMembers,
    HandOver,
    Drain,
    ChangeLeases,
}

impl World {
    fn weights(&self) -> [(Fault, u64); 18] {
        let plan = &self.plan;
        [
            (Fault::Crash, plan.crash),
            (Fault::CrashBetween, plan.crash_between),
            (Fault::CrashAll, plan.crash_all.div_ceil(3)),
            (Fault::CutOneWay, plan.cut_one_way),
            (Fault::CutPair, plan.cut_pair),
            (Fault::Isolate, plan.isolate),
            (Fault::Split, plan.split),
            (Fault::Heal, plan.heal),
            (Fault::Freeze, plan.freeze),
            (Fault::Stall, plan.stall),
            (Fault::SyncError, plan.sync_error),
            (Fault::LoseDisk, plan.lose_disk),
            (Fault::Unreachable, plan.unreachable),
            (Fault::Rebuild, plan.rebuild),
            (Fault::ChangeMembers, plan.change),
            (Fault::HandOver, plan.handover),
            (Fault::Drain, plan.drain),
            (Fault::ChangeLeases, plan.lease_change),
        ]
    }

    /// Changes the faults once, and plans the next change.
    pub(super) fn change_faults(&mut self) {
        if !self.faults_change {
            return;
        }
        self.tally.faults += 1;
        let weights = self.weights();
        let mut drawn = self.random.below(weights.iter().map(|(_, weight)| weight).sum());
        let fault = weights.iter().find_map(|(fault, weight)| {
            if drawn < *weight {
                return Some(*fault);
            }
            drawn -= weight;
            None
        });
        if let Some(fault) = fault {
            self.bring_about(fault);
        }
        let wait = self.about(self.plan.fault_every);
        self.after(wait, What::Fault);
    }

    pub(super) fn pick(&mut self) -> usize {
        usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap_or(0)
    }

    /// A node to hit: often the leader.
    fn victim(&mut self) -> usize {
        let aims = self.random.below(1_000) < self.plan.aim_at_leader;
        let leader = self.nodes.iter().position(|node| node.leads());
        match leader {
            Some(leader) if aims => leader,
            _ => self.pick(),
        }
    }

    fn bring_about(&mut self, fault: Fault) {
        let (victim, other, draw) = (self.victim(), self.pick(), self.random.next_u64());
        if self.plan.lease != 0 && draw >> 61 == 0 {
            self.slew_clock(other, draw);
        }
        match fault {
            Fault::Crash => self.die(victim),
            Fault::CrashBetween => self.nodes[victim].dies_in = Some(draw % 24),
            Fault::CrashAll => (0..self.nodes.len()).for_each(|node| self.die(node)),
            Fault::CutOneWay => {
                let (from, to) = if draw & 1 == 0 { (victim, other) } else { (other, victim) };
                self.network.link(from, to).cut = true;
                self.goals.reach_if(from != to && !self.network.is_cut(to, from), Goal::OneWayCut);
            }
            Fault::CutPair => {
                self.network.link(victim, other).cut = true;
                self.network.link(other, victim).cut = true;
            }
            Fault::Isolate => {
                self.cut_between(1 << victim);
                // Some only do not hear, some are only not heard.
                for other in (0..self.nodes.len()).filter(|other| *other != victim) {
                    match draw & 3 {
                        0 => self.network.link(victim, other).cut = false,
                        1 => self.network.link(other, victim).cut = false,
                        _ => {}
                    }
                }
            }
            Fault::Split => self.cut_between(draw),
            Fault::Heal => self.network.heal(),
            Fault::Freeze => self.freeze(victim, draw),
            Fault::Stall => self.nodes[victim].disk.fault = Some(SyncFault::Stall(100_000_000 + draw % 2_000_000_000)),
            Fault::SyncError => self.nodes[victim].disk.fault = Some(SyncFault::Fail),
            Fault::LoseDisk => self.lose_disk(victim, draw),
            Fault::Rebuild => self.begin_rebuild(victim),
            Fault::ChangeMembers => self.change_members(draw),
            Fault::HandOver => self.ask_handover(draw),
            Fault::ChangeLeases => self.change_leases(draw),
            Fault::Drain => {
                let drained = !self.nodes[victim].drained;
                self.drain(victim, drained);
            }
            Fault::Unreachable => {
                let (node, life, peer) = (small(victim), self.nodes[victim].life, small(other));
                if victim != other {
                    self.after(1, What::Unreachable { node, life, peer });
                }
            }
        }
    }

    /// Cuts every link between the nodes whose bit is set and the others.
    fn cut_between(&mut self, side: u64) {
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                if (side >> from) & 1 != (side >> to) & 1 {
                    self.network.link(from, to).cut = true;
                }
            }
        }
        let alone = |node: &usize| {
            self.nodes[*node].leads()
                && (0..self.nodes.len()).all(|other| other == *node || self.network.is_cut(*node, other))
        };
        let isolated = (0..self.nodes.len()).any(|node| alone(&node)) && self.nodes.len() > 1;
        self.goals.reach_if(isolated, Goal::LeaderIsolated);
    }

    fn freeze(&mut self, node: usize, draw: u64) {
        let now = self.now;
        let until = now + 1_000_000 + (draw >> 8) % 1_000_000_000;
        let entry = &mut self.nodes[node];
        if !entry.works(now) {
            return;
        }
        (entry.frozen_at, entry.frozen_until) = (now, until);
        self.goals.reach_if(entry.leads(), Goal::LeaderFroze);
        if draw & 1 == 0 {
            // The whole machine stood still, and its clocks with it; where there are leases it sleeps, which one of its
            // clocks sees.
            if self.plan.lease == 0 || self.plan.beyond != 0 {
                entry.clock.stand_still(now, until);
            } else {
                entry.clock.sleep(now, until);
            }
            entry.tick_at = until;
            self.at(until, What::Tick { node: small(node) });
        }
    }

    /// The process is gone at once: what it had not said is never said, and what was not synced is there or not.
    pub(super) fn die(&mut self, node: usize) {
        let draw = self.random.next_u64();
        let entry = &mut self.nodes[node];
        if entry.replica.take().is_none() {
            return;
        }
        self.tally.crashes += 1;
        let waiting = entry.disk.queue.len() as u64;
        let unsent_vote = entry.disk.queue.iter().any(|persist| {
            let grants = |envelope: &crate::message::Envelope| {
                matches!(envelope.message, crate::message::Message::VoteResponse { granted: true, .. })
            };
            persist.release.iter().any(grants)
        });
        let candidate_died = entry.seen.role == Role::Candidate && waiting > 0;
        let kept = if draw & 3 == 0 { 0 } else { (draw >> 8) % (waiting + 1) };
        self.goals.reach_if(waiting > kept, Goal::UnsyncedLost);
        self.goals.reach_if(waiting > kept && kept > 0, Goal::UnsyncedPartlyKept);
        self.goals.reach_if(unsent_vote && kept > 0, Goal::DiedBetweenVoteAndGrant);
        self.goals.reach_if(candidate_died, Goal::CandidateDied);
        self.goals.reach_if(entry.seen.role == Role::Leader, Goal::LeaderDied);
        entry.leases.process_ended(entry.seen.role == Role::Leader, self.now);
        entry.disk.crash(usize::try_from(kept).unwrap_or(0), &self.library);
        let installs = entry.applies.iter().any(|job| matches!(job, Job::Restore(_)));
        self.goals.reach_if(installs, Goal::DiedDuringInstall);
        let entry = &mut self.nodes[node];
        entry.rebuilds = false;
        entry.drained = false;
        let forgets = std::mem::take(&mut entry.disk.forgets);
        entry.applies.clear();
        entry.applying = false;
        entry.inbox.clear();
        entry.dies_in = None;
        entry.frozen_until = 0;
        entry.tick_at = u64::MAX;
        entry.failed = false;
        entry.stalled = false;
        self.goals.reach_if(self.nodes.iter().all(|node| node.replica.is_none()), Goal::AllDown);
        if forgets {
            self.forget(node);
        }
        for attempt in self.clients.waiting_at(node) {
            let wait = self.about(1_000);
            self.after(wait, What::GiveUp { attempt });
        }
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            // Some transports notice that the connection broke.
            if self.random.below(3) == 0 {
                let (life, wait) = (self.nodes[other].life, self.about(self.plan.latency));
                self.after(wait, What::Unreachable { node: small(other), life, peer: small(node) });
            }
        }
        let down = self.about(self.plan.down);
        self.after(down, What::Start { node: small(node) });
    }

    /// The process starts with what its disk holds.
    pub(super) fn start(&mut self, node: usize) {
        let now = self.now;
        let plan = self.plan.clone();
        let entry = &mut self.nodes[node];
        if entry.replica.is_some() {
            return;
        }
        entry.life += 1;
        entry.asked_before = entry.asked;
        let recovered = entry.disk.durable.recovered(entry.disk.lost);
        entry.machine = entry.machine_on_disk.clone();
        self.restore_again(node, recovered.snapshot.as_ref());
        let entry = &mut self.nodes[node];
        let last = recovered.last().index;
        self.goals.reach_if(entry.machine.applied < last, Goal::StateBehindLog);
        self.goals.reach_if(entry.machine.applied > last, Goal::StateAheadOfLog);
        self.goals.reach_if(recovered.commit > entry.machine.applied, Goal::CommitRemembered);
        entry.vote_found = Some(recovered.hard_state).filter(|found| found.vote.is_some());
        entry.log = entry.disk.durable.marks.clone();
        entry.configurations = entry.disk.durable.configurations.clone();
        entry.found = last;
        entry.step_downs = (0, 0);
        let (config, clock) = (entry.config(&plan), entry.clock.read(now));
        let replica = Replica::new(config, recovered, entry.machine.applied, clock);
        let replica = replica.unwrap_or_else(|refused| panic!("[restart] the node does not start: {refused}"));
        entry.seen = Seen { commit: Index::ZERO, ..look(&replica) };
        entry.replica = Some(replica);
        self.observe(node, &[]);
        self.schedule_tick(node);
    }

    /// A disk is back at what it held some time ago; one at a time, since a quorum that forgets has lost for good.
    pub(super) fn lose_disk(&mut self, node: usize, draw: u64) {
        if draw & 3 != 0 {
            let disk = &mut self.nodes[node].disk;
            disk.long_ago = Some(disk.durable.clone());
            return;
        }
        self.die(node);
        self.forget(node);
    }

    fn forget(&mut self, node: usize) {
        // Nor beside one whose state is being replaced, where logs are cut: that one leads in order to hand over, and
        // sends nobody a snapshot.
        let cut = self.plan.retain != 0;
        let busy = self.nodes.iter().any(|node| node.disk.lost.is_some() || (node.rebuilds && cut));
        if busy || !self.may_be_unsound(node) {
            return;
        }
        if self.nodes[node].disk.forget() {
            self.nodes[node].forgot = true;
            self.goals.reach(Goal::DiskForgot);
        }
    }
}
