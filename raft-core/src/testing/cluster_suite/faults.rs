//! What goes wrong, and what is asked of the cluster meanwhile.

use super::node::Inside;
use super::world::{What, World};
use crate::membership::{Change, Wanted, WantedMember};
use crate::replica::Input;
use crate::testing::DiskFault;
use crate::types::NodeId;

/// Where the weight of power cuts inside calls stands among [`Plan::weights`](super::plan::Plan).
pub(super) const CUT_INSIDE: usize = 3;
/// Nodes that a run makes at most.
const NODES_MAX: usize = 8;
/// Voters below which none is removed without another in its place.
const VOTERS_MIN: usize = 3;

impl World<'_> {
    /// One fault, of a kind that the plan draws; the next one comes later.
    pub(super) fn fault(&mut self) {
        if self.healed_at.is_some() {
            return;
        }
        let wait = self.about(self.plan.fault_every);
        self.after(wait, What::Fault);
        let total: u64 = self.plan.weights.iter().sum();
        let mut drawn = self.random.below(total.max(1));
        let kind = self.plan.weights.iter().position(|weight| {
            let here = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            here
        });
        let running = self.running();
        if running.is_empty() {
            return;
        }
        let drawn = running[self.random.below(running.len() as u64) as usize];
        // Whoever leads is hit as often as all others together.
        let leader = self.leaders().first().copied().filter(|_| self.random.below(2) == 0);
        self.tally.faults += 1;
        self.bring_about(kind.unwrap_or(0), leader.unwrap_or(drawn), &running);
    }

    fn bring_about(&mut self, kind: usize, id: NodeId, running: &[NodeId]) {
        match kind {
            0 => self.kill(id),
            1 => self.cut_power(id),
            2 => running.iter().for_each(|id| self.cut_power(*id)),
            CUT_INSIDE => {
                let calls = [
                    Inside::Log,
                    Inside::Log,
                    Inside::Log,
                    Inside::Parts,
                    Inside::Install,
                    Inside::Apply,
                    Inside::Flush,
                    Inside::Restore,
                ];
                let inside = calls[self.random.below(calls.len() as u64) as usize];
                self.node(id).cut_inside = Some(inside);
            }
            4 => {
                let effects = self.random.below(40);
                if let Some(process) = &mut self.node(id).process {
                    process.dies_in = Some(effects);
                }
            }
            5 => self.cut_links(id),
            6 => {
                let until = self.now + self.about(150_000);
                self.node(id).frozen_until = until;
                self.tell(format!("{id} stands still"));
            }
            7 => self.node(id).slow_sync = 150_000,
            8 => self.break_log(id),
            9 => self.break_machine(id),
            10 => self.hand_over(),
            11 => self.change_members(),
            _ => self.want_snapshot(),
        }
    }

    /// Some links of a node are cut for a while, in one direction or both.
    fn cut_links(&mut self, id: NodeId) {
        let draw = self.random.next_u64();
        for (nth, other) in self.nodes.keys().copied().collect::<Vec<_>>().into_iter().enumerate() {
            let (out, inward) = (draw >> (2 * nth) & 1 == 0, draw >> (2 * nth + 1) & 1 == 0);
            let all = draw >> 60 & 1 == 0;
            if other != id && (out || all) {
                self.cuts.insert((id, other));
            }
            if other != id && (inward || all) {
                self.cuts.insert((other, id));
            }
        }
        self.tally.link_cuts += 1;
        self.tell(format!("links of {id} are cut"));
        let wait = self.about(250_000);
        self.after(wait, What::HealLinks);
    }

    fn break_log(&mut self, id: NodeId) {
        let faults = [DiskFault::SyncFails, DiskFault::Full, DiskFault::ReadFails];
        let fault = faults[self.random.below(3) as usize];
        let node = self.node(id);
        if node.log_fault.is_some() {
            return;
        }
        if node.log_lab.inject(fault) {
            node.log_fault = Some(fault);
            self.tally.disk_faults += 1;
            self.tell(format!("the disk of the log of {id} has a fault: {fault:?}"));
        } else {
            self.lacks.insert(("a failing disk below a log", fault.name()));
        }
        self.dies_later(id);
    }

    fn break_machine(&mut self, id: NodeId) {
        let fault = [DiskFault::SyncFails, DiskFault::Full][self.random.below(2) as usize];
        let node = self.node(id);
        if node.machine_fault.is_some() {
            return;
        }
        if node.machine_lab.inject(fault) {
            node.machine_fault = Some(fault);
            self.tally.disk_faults += 1;
            self.tell(format!("the disk of the state of {id} has a fault: {fault:?}"));
        } else {
            self.lacks.insert(("a failing disk below a state machine", fault.name()));
        }
        self.dies_later(id);
    }

    /// A broken disk is repaired before the next start, so that comes in any case.
    fn dies_later(&mut self, id: NodeId) {
        let (life, wait) = (self.nodes[&id].life, self.about(100_000));
        self.after(wait, What::Die { node: id, life });
    }

    fn hand_over(&mut self) {
        let Some(leader) = self.leaders().first().copied() else { return };
        let waiter = self.begin();
        self.step(leader, Input::HandOver { to: None, waiter });
    }

    /// A follower shall have a snapshot though the log may hold what it needs.
    fn want_snapshot(&mut self) {
        let Some(leader) = self.leaders().first().copied() else { return };
        let others: Vec<_> = self.nodes.keys().copied().filter(|id| *id != leader).collect();
        let to = others[self.random.below(others.len() as u64) as usize];
        self.take_snapshot(leader);
        self.step(leader, Input::SnapshotWanted { to });
    }

    /// The leader is asked for other members: one more, one less, or one in the place of another.
    fn change_members(&mut self) {
        let Some(leader) = self.leaders().first().copied() else { return };
        let Some(process) = &self.nodes[&leader].process else { return };
        let configuration = process.replica.raft().configuration().clone();
        let mut wanted = Wanted { less_tolerance: true, ..Wanted::of(&configuration) };
        let draw = self.random.below(3);
        let (grows, shrinks) = (draw != 1 && self.nodes.len() < NODES_MAX, draw != 0);
        if shrinks && (grows || wanted.voters.len() > VOTERS_MIN) {
            let place = self.random.below(wanted.voters.len() as u64) as usize;
            wanted.voters.remove(place);
        }
        if grows {
            let id = configuration.next_id();
            wanted.voters.push(WantedMember::with_context(id, bytes::Bytes::from_static(b"new")));
            if !self.nodes.contains_key(&id) {
                self.make_node(id);
            }
        }
        self.tell(format!(
            "{leader} is asked for the voters {:?}",
            wanted.voters.iter().map(|it| it.id.0).collect::<Vec<_>>()
        ));
        let deadline = self.clock().monotonic + std::time::Duration::from_secs(2);
        let waiter = self.begin();
        self.step(leader, Input::ChangeMembership { change: Change::Members(wanted), deadline, waiter });
    }
}
