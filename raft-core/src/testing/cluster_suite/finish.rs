//! Everything is healed; then the cluster has to go on, come to rest, and hold all that was acknowledged.

use std::collections::BTreeSet;

use super::rules::{PROGRESS, REPLICAS_AGREE};
use super::world::{What, World};
use crate::types::{Index, NodeId};

/// Microseconds that a healed cluster has.
const TIME_TO_HEAL: u64 = 30_000_000;
/// Events between two looks whether it has come to rest.
const LOOK_EVERY: u64 = 64;

impl World<'_> {
    pub(super) fn finish(&mut self) {
        self.heal();
        let until = self.now + TIME_TO_HEAL;
        while !self.is_at_rest() {
            for _ in 0..LOOK_EVERY {
                self.next();
            }
            PROGRESS.demand(self.now < until, || self.what_is_missing());
        }
        let members = self.members();
        for id in &members {
            let applied =
                self.nodes[id].process.as_ref().map_or(Index::ZERO, |process| process.machine.applied().index);
            self.judge.holds_all(*id, applied);
            self.demand_state(*id, REPLICAS_AGREE, "in the end");
        }
        self.lose_power_once_more();
    }

    /// Links work, disks work, and whoever is down or about to be starts.
    fn heal(&mut self) {
        self.tell("everything is healed".into());
        self.healed_at = Some(self.now);
        self.cuts.clear();
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            let node = self.node(id);
            (node.frozen_until, node.cut_inside, node.slow_sync) = (0, None, 0);
            if let Some(process) = &mut node.process {
                process.dies_in = None;
            }
            let broken = node.log_fault.is_some() || node.machine_fault.is_some();
            let failed = node.process.as_ref().is_some_and(|process| process.failed);
            if broken || failed {
                self.kill(id);
            }
            self.after(1, What::Start { node: id });
        }
    }

    /// The members by the newest leader's word.
    fn members(&self) -> BTreeSet<NodeId> {
        let term = |id: &NodeId| self.nodes[id].process.as_ref().map(|process| process.replica.raft().term());
        let leader = self.leaders().into_iter().max_by_key(term);
        let process = leader.and_then(|leader| self.nodes[&leader].process.as_ref());
        let seats = process.map(|process| process.replica.raft().configuration().seats().to_vec());
        seats.unwrap_or_default().into_iter().map(|seat| seat.id).collect()
    }

    /// Whether a call after healing was acknowledged, and all members have applied all that there is.
    fn is_at_rest(&self) -> bool {
        let members = self.members();
        self.went_on && !members.is_empty() && members.iter().all(|id| self.lacks_nothing(*id))
    }

    fn lacks_nothing(&self, id: NodeId) -> bool {
        let newest = self.judge.last().index;
        self.nodes[&id]
            .process
            .as_ref()
            .is_some_and(|process| process.machine.applied().index == newest && process.apply_jobs.is_empty())
    }

    fn what_is_missing(&self) -> String {
        let seconds = TIME_TO_HEAL / 1_000_000;
        let members = self.members();
        if members.is_empty() {
            return format!("{seconds} s (simulated) after everything was healed nobody leads");
        }
        if !self.went_on {
            return format!("{seconds} s (simulated) after everything was healed no write was acknowledged");
        }
        let lag = |id: &NodeId| {
            let applied = self.nodes[id].process.as_ref().map(|process| process.machine.applied());
            format!("{id}: {}", applied.map_or_else(|| "down".into(), |applied| applied.to_string()))
        };
        let lags: Vec<_> = members.iter().map(lag).collect();
        let newest = self.judge.last();
        format!("{seconds} s (simulated) after everything was healed members lag behind {newest}: {}", lags.join(", "))
    }

    /// The last look: all nodes lose their power at once, and what they find at the next start is judged.
    fn lose_power_once_more(&mut self) {
        for id in self.running() {
            self.cut_power(id);
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.start(id);
        }
    }
}
