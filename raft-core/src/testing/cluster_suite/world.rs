//! The cluster, its queue of events, and what is done with the outputs of a replica.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::calls::Call;
use super::judge::Judge;
use super::node::{ApplyJob, LogJob, Node};
use super::plan::Plan;
use super::snapshots::{Image, Sending};
use super::{ClusterLab, Tally};
use crate::message::PeerMessage;
use crate::random::Random;
use crate::replica::{Input, Now, Output};
use crate::snapshot::Transfer;
use crate::status::Role;
use crate::types::{GroupId, NodeId, SnapshotId, Term, WriteId};

/// Who waits for an answer: the number of a call.
pub(super) type Waiter = u64;

/// Lines of the story that a failure tells.
const STORY_LINES: usize = 40;
/// A run with more events than this, or than so many for each of its calls, does not end by itself.
const EVENTS_MAX: u64 = 3_000_000;
const EVENTS_PER_CALL_MAX: u64 = 5_000;

/// What will happen. `life` is the process that it is meant for.
pub(super) enum What {
    Deliver(Box<PeerMessage>),
    Tick { node: NodeId, life: u32 },
    Written { node: NodeId, life: u32 },
    Heard { node: NodeId, life: u32, writes: Vec<WriteId> },
    Applied { node: NodeId, life: u32 },
    Piece { sending: u64 },
    Transfer { node: NodeId, life: u32, to: NodeId, transfer: Transfer },
    SnapshotHere { node: NodeId, life: u32, from: NodeId, term: Term, id: SnapshotId },
    FillFailed { node: NodeId, life: u32, to: NodeId },
    Call,
    Fault,
    HealLinks,
    Die { node: NodeId, life: u32 },
    Start { node: NodeId },
}

impl What {
    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Deliver(message) => Some(message.envelope.to),
            Self::Tick { node, .. }
            | Self::Written { node, .. }
            | Self::Heard { node, .. }
            | Self::Applied { node, .. }
            | Self::Transfer { node, .. }
            | Self::SnapshotHere { node, .. }
            | Self::FillFailed { node, .. } => Some(*node),
            _ => None,
        }
    }

    fn life(&self) -> Option<u32> {
        match self {
            Self::Tick { life, .. }
            | Self::Written { life, .. }
            | Self::Heard { life, .. }
            | Self::Applied { life, .. }
            | Self::Transfer { life, .. }
            | Self::SnapshotHere { life, .. }
            | Self::FillFailed { life, .. }
            | Self::Die { life, .. } => Some(*life),
            _ => None,
        }
    }
}

/// Everything.
pub(super) struct World<'a> {
    pub(super) lab: &'a mut dyn ClusterLab,
    pub(super) plan: Plan,
    pub(super) random: Random,
    pub(super) now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), What>,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) cuts: BTreeSet<(NodeId, NodeId)>,
    pub(super) judge: Judge,
    pub(super) calls: BTreeMap<Waiter, Call>,
    pub(super) next_call: Waiter,
    pub(super) images: BTreeMap<SnapshotId, Image>,
    pub(super) sendings: BTreeMap<u64, Sending>,
    pub(super) next_sending: u64,
    pub(super) healed_at: Option<u64>,
    /// A call that began after that was acknowledged.
    pub(super) went_on: bool,
    pub(super) tally: Tally,
    /// What the labs were asked for in vain.
    pub(super) lacks: BTreeSet<(&'static str, &'static str)>,
    story: VecDeque<String>,
}

impl<'a> World<'a> {
    pub(super) fn new(lab: &'a mut dyn ClusterLab, plan: Plan) -> Self {
        let random = Random::new(plan.seed ^ 0x5EED_0F5A_11C1_0573);
        let judge = Judge::new(lab.twin());
        let mut world = Self {
            lab,
            random,
            now: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            nodes: BTreeMap::new(),
            cuts: BTreeSet::new(),
            judge,
            calls: BTreeMap::new(),
            next_call: 0,
            images: BTreeMap::new(),
            sendings: BTreeMap::new(),
            next_sending: 0,
            healed_at: None,
            went_on: false,
            tally: Tally::default(),
            lacks: BTreeSet::new(),
            story: VecDeque::new(),
            plan,
        };
        for id in (1..=world.plan.nodes).map(NodeId) {
            world.make_node(id);
        }
        world
    }

    /// A node with blank disks.
    pub(super) fn make_node(&mut self, id: NodeId) {
        let node = Node::new(id, self.lab.log(id), self.lab.state_machine(id));
        self.nodes.insert(id, node);
        self.after(1, What::Start { node: id });
    }

    /// Runs with faults, then heals everything and looks at what is there.
    pub(super) fn run(&mut self) {
        self.after(1_000, What::Call);
        self.after(20_000, What::Fault);
        while self.tally.calls < self.plan.calls {
            self.next();
        }
        self.finish();
        self.tally.committed = self.judge.last().index.0;
        self.tally.simulated = Duration::from_micros(self.now);
    }

    /// The next event. There always is one: calls and nodes tick for ever.
    pub(super) fn next(&mut self) {
        let Some(((at, _), what)) = self.queue.pop_first() else { return };
        self.now = self.now.max(at);
        self.tally.events += 1;
        let most = EVENTS_MAX.max(self.plan.calls.saturating_mul(EVENTS_PER_CALL_MAX));
        assert!(self.tally.events < most, "a run of {most} events does not end by itself");
        if let Some(id) = what.node() {
            let node = &self.nodes[&id];
            if node.frozen_until > self.now {
                return self.at(node.frozen_until, what);
            }
            if node.process.is_none() || what.life().is_some_and(|life| life != node.life) {
                return;
            }
        }
        self.happen(what);
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Deliver(message) => {
                let (from, to) = (message.envelope.from, message.envelope.to);
                if !self.cuts.contains(&(from, to)) {
                    self.tally.messages += 1;
                    self.step(to, Input::Receive(*message));
                }
            }
            What::Tick { node, .. } => self.tick(node),
            What::Written { node, .. } => self.written(node),
            What::Heard { node, life, writes } => {
                for write in writes {
                    if self.lives(node, life) {
                        self.step(node, Input::Persisted { write, result: Ok(()) });
                    }
                }
            }
            What::Applied { node, .. } => self.applier(node),
            What::Piece { sending } => self.piece(sending),
            What::Transfer { node, to, transfer, .. } => self.step(node, Input::Transfer { to, transfer }),
            What::SnapshotHere { node, from, term, id, .. } => {
                let meta = self.images[&id].meta.clone();
                self.step(node, Input::SnapshotReceived { from, term, meta });
            }
            What::FillFailed { node, to, .. } => self.step(node, Input::FillFailed { to }),
            What::Call => self.call(),
            What::Fault => self.fault(),
            What::HealLinks => self.cuts.clear(),
            What::Die { node, life } => {
                if self.lives(node, life) {
                    self.kill(node);
                }
            }
            What::Start { node } => self.start(node),
        }
    }

    pub(super) fn lives(&self, node: NodeId, life: u32) -> bool {
        let node = &self.nodes[&node];
        node.process.is_some() && node.life == life
    }

    pub(super) fn at(&mut self, at: u64, what: What) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), what);
    }

    pub(super) fn after(&mut self, wait: u64, what: What) {
        self.at(self.now + wait, what);
    }

    /// A time of about so many microseconds.
    pub(super) fn about(&mut self, micros: u64) -> u64 {
        1 + self.random.below(2 * micros + 1)
    }

    pub(super) fn clock(&self) -> Now {
        // No node starts at zero of its clock.
        Now::at(Duration::from_secs(1) + Duration::from_micros(self.now))
    }

    pub(super) fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("nodes are never taken away")
    }

    /// A line of the story that a failure tells.
    pub(super) fn tell(&mut self, line: String) {
        if self.story.len() == STORY_LINES {
            self.story.pop_front();
        }
        self.story.push_back(format!("{:>6}.{:03} ms  {line}", self.now / 1_000, self.now % 1_000));
    }

    /// What happened last.
    pub(super) fn story(&self) -> String {
        self.story.iter().fold(String::new(), |story, line| story + "\n    " + line)
    }

    /// Nodes that lead, as they believe.
    pub(super) fn leaders(&self) -> Vec<NodeId> {
        let leads = |node: &&Node| {
            node.process
                .as_ref()
                .is_some_and(|process| !process.failed && process.replica.raft().role() == Role::Leader)
        };
        self.nodes.values().filter(leads).map(|node| node.id).collect()
    }

    pub(super) fn running(&self) -> Vec<NodeId> {
        self.nodes.values().filter(|node| node.process.is_some()).map(|node| node.id).collect()
    }

    fn tick(&mut self, id: NodeId) {
        let clock = self.clock().monotonic;
        let Some(process) = &mut self.node(id).process else { return };
        process.tick_at = u64::MAX;
        if process.replica.deadline() <= clock {
            self.step(id, Input::Tick);
        } else {
            self.schedule_tick(id);
        }
    }

    fn schedule_tick(&mut self, id: NodeId) {
        let (now, clock) = (self.now, self.clock().monotonic);
        let node = self.node(id);
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let wait = process.replica.deadline().saturating_sub(clock).as_micros() as u64;
        let at = now + wait.clamp(1, 1_000_000);
        if at < process.tick_at {
            process.tick_at = at;
            self.at(at, What::Tick { node: id, life });
        }
    }

    /// Steps the replica of a node that runs, and does what it says, in the order of the driver: first what is for the log,
    /// then all else.
    pub(super) fn step(&mut self, id: NodeId, input: Input<Waiter>) {
        let clock = self.clock();
        let node = self.node(id);
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let mut outputs = Vec::new();
        process.replica.step(clock, input, &mut outputs);
        let (role, term) = (process.replica.raft().role(), process.replica.raft().term());
        if role == Role::Leader && self.judge.leads(term, id, life) {
            self.tally.elections += 1;
            self.tell(format!("{id} leads in {term}"));
        }
        let for_log = |output: &Output<Waiter>| matches!(output, Output::Persist(_) | Output::Compact { .. });
        let (log, others): (Vec<_>, Vec<_>) = outputs.into_iter().partition(for_log);
        for output in log.into_iter().chain(others) {
            if self.dies_now(id) || !self.lives(id, life) {
                return;
            }
            self.carry_out(id, output);
        }
        self.start_writing(id);
        self.start_applying(id);
        self.schedule_tick(id);
    }

    fn carry_out(&mut self, id: NodeId, output: Output<Waiter>) {
        match output {
            Output::Persist(persist) => self.queue_log(id, LogJob::Persist(Box::new(persist))),
            Output::Compact { upto } => self.queue_log(id, LogJob::Compact(upto)),
            Output::Send(message) => self.send(message),
            Output::Fill(fill) => self.fill(id, fill),
            Output::Apply(batch) => self.queue_apply(id, ApplyJob::Apply(batch)),
            Output::Restore(meta) => self.queue_apply(id, ApplyJob::Restore(meta)),
            Output::SendSnapshot { to, term } => self.send_snapshot(id, to, term),
            Output::Answer { waiter, answer } => self.answer(id, waiter, &answer),
            Output::Configuration { configuration, committed } => {
                self.tally.changes += u64::from(committed);
                let (index, phase) = (configuration.index(), configuration.phase().name());
                self.tell(format!("{id} goes by the members of entry {index} ({phase}, committed: {committed})"));
            }
            Output::Removed { .. } => {
                let life = self.nodes[&id].life;
                self.node(id).removed = true;
                self.after(1, What::Die { node: id, life });
            }
            // Nobody here sends nonsense: what a lab's parts made of a message is looked at where it is applied.
            Output::Refused { .. } => {}
        }
    }

    fn queue_log(&mut self, id: NodeId, job: LogJob) {
        if let Some(process) = &mut self.node(id).process {
            process.log_jobs.push_back(job);
        }
    }

    fn queue_apply(&mut self, id: NodeId, job: ApplyJob) {
        if let Some(process) = &mut self.node(id).process {
            process.apply_jobs.push_back(job);
        }
    }

    /// Puts a message on the network.
    pub(super) fn send(&mut self, message: PeerMessage) {
        let link = (message.envelope.from, message.envelope.to);
        if self.cuts.contains(&link) || !self.nodes.contains_key(&link.1) {
            return;
        }
        let healed = self.healed_at.is_some();
        let draw = self.random.next_u64();
        if !healed && draw % 1_000 < self.plan.loss {
            return;
        }
        let spread = if healed { 100 } else { self.plan.spread };
        let twice = !healed && (draw >> 16) % 1_000 < self.plan.duplicate;
        for _ in 0..=u64::from(twice) {
            let wait = self.plan.latency + self.random.below(spread + 1);
            self.after(wait, What::Deliver(Box::new(message.clone())));
        }
    }

    /// The group that all this is about.
    pub(super) const GROUP: GroupId = GroupId::FIRST;
}
