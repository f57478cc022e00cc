//! A process begins, dies, and loses its power.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::faults::CUT_INSIDE;
use super::node::{Inside, Process};
use super::rules::{DURABLE_SURVIVES, LOG_INVENTS_NOTHING, LOG_READS, NO_FALSE_LOSS, NODE_STARTS, SAME_STATE};
use super::words_of;
use super::world::{What, World};
use crate::ports::{LogStore, Recovered, StateMachine};
use crate::random::Random;
use crate::replica::{Input, Replica, read_all};
use crate::testing::PowerCut;
use crate::testing::disk_fault::POWER_CUTS;
use crate::types::{Index, NodeId};

impl World<'_> {
    /// Opens both parts in the order of a node, looks at what they hold, and lets the replica begin.
    pub(super) fn start(&mut self, id: NodeId) {
        if self.nodes[&id].process.is_some() || self.nodes[&id].removed {
            return;
        }
        let node = self.node(id);
        if node.log_fault.take().is_some() {
            node.log_lab.mend();
        }
        if node.machine_fault.take().is_some() {
            node.machine_lab.mend();
        }
        node.life += 1;
        let life = node.life;
        let (mut store, machine) = self.open(id);
        let recovered = store.recover(Self::GROUP).unwrap_or_else(|error| {
            NODE_STARTS.fail(format!("the log of {id} cannot be recovered at start {life}: {error}"))
        });
        self.demand_recovered(id, &recovered, &*store);
        let (applied, base, last) = (machine.applied(), recovered.base, recovered.last());
        self.tell(format!("{id} starts ({life}): its log goes from {base} to {last}, its state to {applied}"));
        self.judge.knows(id, applied, "at a start");
        let durable = self.nodes[&id].durable;
        DURABLE_SURVIVES.demand(applied.index >= durable, || {
            format!("{id} starts with a state that has applied {applied}; entry {durable} was said to be durable")
        });
        let (log, state, snapshotter) = (store.reader(), machine.reader(), machine.snapshotter());
        // Stands in until the state is whole.
        let replica_of_nothing =
            Replica::new(self.plan.config(id, life), Recovered::default(), Index::ZERO, self.clock());
        let replica = replica_of_nothing.unwrap_or_else(|error| panic!("the suite's own settings: {error}"));
        let process = Process {
            replica,
            store,
            log,
            machine,
            state,
            snapshotter,
            log_jobs: VecDeque::new(),
            writing: 0,
            apply_jobs: VecDeque::new(),
            applying: false,
            told_durable: Index::ZERO,
            tick_at: u64::MAX,
            dies_in: None,
            failed: false,
        };
        self.node(id).process = Some(process);
        self.demand_state(id, SAME_STATE, "at a start");
        self.tally.starts += 1;
        self.begin_replica(id, recovered);
    }

    /// Finishes what a crash left between log and state; then the replica begins.
    fn begin_replica(&mut self, id: NodeId, recovered: Recovered) {
        let applied = |world: &Self| {
            world.nodes[&id].process.as_ref().map_or(Index::ZERO, |process| process.machine.applied().index)
        };
        if let Some(meta) = recovered.snapshot.as_ref().filter(|meta| applied(self) < meta.last.index) {
            self.tally.restores_again += 1;
            if self.put_in_place(id, meta).is_none() {
                return;
            }
        }
        let (applied, config) = (applied(self), self.plan.config(id, self.nodes[&id].life));
        let replica = Replica::new(config, recovered, applied, self.clock())
            .unwrap_or_else(|error| NODE_STARTS.fail(format!("{id} cannot start: {error}")));
        if let Some(process) = &mut self.node(id).process {
            process.replica = replica;
        }
        self.step(id, Input::Tick);
    }

    fn open(&mut self, id: NodeId) -> (Box<dyn LogStore>, Box<dyn StateMachine>) {
        let node = self.node(id);
        let first = node.life == 1;
        let opened = catch_unwind(AssertUnwindSafe(|| {
            if first {
                (node.log_lab.fresh(), node.machine_lab.fresh())
            } else {
                (node.log_lab.reopen(), node.machine_lab.reopen())
            }
        }));
        opened.unwrap_or_else(|panic| {
            let words = words_of(&*panic);
            NODE_STARTS.fail(format!("log or state machine of {id} cannot be opened: {words}"))
        })
    }

    /// What was recovered is what was acknowledged.
    fn demand_recovered(&mut self, id: NodeId, recovered: &Recovered, store: &dyn LogStore) {
        if let Err(problem) = recovered.check() {
            LOG_INVENTS_NOTHING.fail(format!("what is recovered of the log of {id} is no log: {problem}"));
        }
        if !self.lab.compares_logs() {
            return;
        }
        let lost = recovered.lost;
        NO_FALSE_LOSS
            .demand(lost.is_none(), || format!("the log of {id} says that it has lost what came up to {lost:?}"));
        let (first, last) = (recovered.base.index.next(), recovered.last().index);
        let read = read_all(&*store.reader(), Self::GROUP, first, last);
        let entries = read.unwrap_or_else(|error| {
            LOG_READS.fail(format!("the log of {id} recovers entries {first} to {last}, and cannot read them: {error}"))
        });
        let node = self.node(id);
        let in_doubt = std::mem::take(&mut node.in_doubt);
        if let Err((rule, said)) = node.ledger.settle_with(&in_doubt, recovered, &entries) {
            rule.fail(format!("the log of {id} at a start: {said}"));
        }
    }

    /// The process ends between two effects. What it has written is in the caches of its machine.
    pub(super) fn kill(&mut self, id: NodeId) {
        self.tell(format!("{id} dies"));
        self.tally.crashes += 1;
        self.end(id);
    }

    /// The power goes, for the log and the state machine at once.
    pub(super) fn cut_power(&mut self, id: NodeId) {
        self.tell(format!("{id} loses power"));
        self.cut_log(id);
        self.cut_machine(id);
        self.end(id);
    }

    /// The power went inside a call of one part: it goes for the other one too.
    pub(super) fn power_is_gone(&mut self, id: NodeId, inside: Inside) {
        match inside {
            Inside::Log | Inside::Parts | Inside::Install => self.cut_machine(id),
            Inside::Apply | Inside::Flush | Inside::Restore => self.cut_log(id),
        }
        self.end(id);
    }

    fn cut_log(&mut self, id: NodeId) {
        let mut random = Random::new(self.random.next_u64());
        if self.node(id).log_lab.cut_power(PowerCut::Now, &mut random) {
            self.tally.power_cuts += 1;
        } else {
            self.lacks.insert(("power cuts of a log", POWER_CUTS));
        }
    }

    fn cut_machine(&mut self, id: NodeId) {
        let mut random = Random::new(self.random.next_u64());
        if !self.node(id).machine_lab.cut_power(PowerCut::Now, &mut random) {
            self.lacks.insert(("power cuts of a state machine", POWER_CUTS));
        }
    }

    /// The process and all that it has open go. It is started again after a while.
    fn end(&mut self, id: NodeId) {
        // What is owed to the state at the next start may be cut short too.
        let again = self.healed_at.is_none() && self.plan.weights[CUT_INSIDE] > 0 && self.random.below(4) == 0;
        let node = self.node(id);
        node.process = None;
        let stays =
            node.cut_inside.filter(|inside| matches!(inside, Inside::Parts | Inside::Install | Inside::Restore));
        (node.cut_inside, node.slow_sync) = (stays.or_else(|| again.then_some(Inside::Restore)), 0);
        // Some are away for so long that the log goes on without them.
        let away = if self.healed_at.is_none() && self.random.below(4) == 0 { 600_000 } else { 60_000 };
        let wait = self.about(away);
        self.after(wait, What::Start { node: id });
    }

    /// Whether the process dies at this effect.
    pub(super) fn dies_now(&mut self, id: NodeId) -> bool {
        let Some(process) = &mut self.node(id).process else { return true };
        match &mut process.dies_in {
            Some(0) => {
                self.kill(id);
                true
            }
            Some(effects) => {
                *effects -= 1;
                false
            }
            None => false,
        }
    }
}
