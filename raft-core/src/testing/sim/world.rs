//! The cluster and its heap of events.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::membership::Configuration;
use crate::message::{Envelope, PeerMessage};
use crate::mutant::{Mutant, broken};
use crate::random::Random;
use crate::replica::{Fill, Input, Output};
use crate::snapshot::Transfer;
use crate::testing::sim::clients::Clients;
use crate::testing::sim::ghost::Ghost;
use crate::testing::sim::goals::{Goal, Goals};
use crate::testing::sim::handovers::Handovers;
use crate::testing::sim::leases::clock_rate;
use crate::testing::sim::members::Changes;
use crate::testing::sim::network::{Arrival, Network, place};
use crate::testing::sim::node::{Job, Node, Waiter};
use crate::testing::sim::plan::Plan;
use crate::testing::sim::snapshots::{Library, Sending};
use crate::types::{GroupId, NodeId, Term, WriteId};

/// What will happen. `life` is the process life that it is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A message arrives.
    Deliver { slot: u32 },
    /// A replica's deadline comes.
    Tick { node: u8 },
    /// The sync under way ends.
    Synced { node: u8, life: u32 },
    /// The replica hears of a completed write.
    Heard { node: u8, life: u32, write: WriteId },
    /// The applier is done with a batch.
    Applied { node: u8, life: u32 },
    /// Entries for a follower are read.
    Filled { node: u8, life: u32, slot: u32 },
    /// The commands that gathered at a node go in.
    Propose { node: u8, life: u32 },
    /// A chunk of a snapshot arrives.
    Chunk { slot: u32 },
    /// A replica hears that the sending of a snapshot began.
    Transfer { node: u8, life: u32, to: u8, how: u128 },
    /// A replica hears how it ended: which snapshot arrived; 0 for none.
    TransferEnded { node: u8, life: u32, to: u8, how: u128 },
    /// A whole snapshot is given to a replica.
    SnapshotHere { node: u8, life: u32, from: u8, term: u64, id: u128 },
    /// A node whose state waits to be replaced asks for a snapshot.
    AskSnapshot { node: u8, life: u32 },
    /// A node's transport says that a peer is unreachable.
    Unreachable { node: u8, life: u32, peer: u8 },
    /// A caller does its next step.
    Call { client: u32 },
    /// A caller has waited long enough for a try.
    GiveUp { attempt: u32 },
    /// The faults change.
    Fault,
    /// A process dies.
    Die { node: u8, life: u32 },
    /// A process starts.
    Start { node: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timed {
    at: u64,
    sequence: u64,
    what: What,
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Events after the phase of changing faults: a run that takes more spins, or never comes to rest.
const EVENTS_AFTER_FAULTS_MAX: u64 = 1_000_000;

/// What a run did, to be sure that it did something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Events taken from the heap.
    pub events: u64,
    /// Simulated nanoseconds.
    pub time: u64,
    /// Messages that were delivered.
    pub messages: u64,
    /// Syncs that completed.
    pub syncs: u64,
    /// Entries applied, on all nodes.
    pub applied: u64,
    /// Changes of the faults.
    pub faults: u64,
    /// Processes that died.
    pub crashes: u64,
    /// Elections won.
    pub elections: u64,
    /// Writes acknowledged.
    pub writes: u64,
    /// Reads served.
    pub reads: u64,
    /// Those of them that were served under a lease, by leaders and by followers.
    pub lease_reads: (u64, u64),
    /// Leases, and renewals of one, that followers took.
    pub leases: u64,
    /// Operations of the histories that were checked.
    pub checked: u64,
    /// Nanoseconds until a connected majority committed, with the faults still on; zero when there was none.
    pub majority_went_on_after: u64,
    /// Runs with a node that reached a majority of nodes that did not all reach each other, and those of them in which
    /// writes went on.
    pub partial_majorities: (u64, u64),
}

/// Everything.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) now: u64,
    pub(super) random: Random,
    heap: BinaryHeap<Reverse<Timed>>,
    sequence: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) clients: Clients,
    pub(super) ghost: Ghost,
    pub(super) changes: Changes,
    pub(super) fills: Vec<Option<Fill>>,
    pub(super) library: Library,
    pub(super) handovers: Handovers,
    pub(super) sendings: Vec<Option<Sending>>,
    pub(super) tally: Tally,
    pub(super) goals: Goals,
    /// Suffixes that were truncated, on all nodes.
    pub(super) truncations: u64,
    /// How long a caller lets a node try, in nanoseconds.
    pub(super) patience: u64,
    pub(super) faults_change: bool,
    /// The first try after everything was healed.
    pub(super) healed_at: Option<u32>,
    outputs: Vec<Output<Waiter>>,
}

impl World {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut random = Random::new(plan.seed.wrapping_mul(0x5851_F42D_4C95_7F2D) ^ 0x1234_5678);
        let count = usize::try_from(plan.nodes).expect("few nodes");
        assert!((1..=9).contains(&count), "a plan of {count} nodes: set 1 to 9");
        assert!((1..=8).contains(&plan.keys), "a plan of {} keys: set 1 to 8", plan.keys);
        let nodes: Vec<Node> = (0..count).map(|place| Node::new(place, plan, clock_rate(plan, &mut random))).collect();
        let founders = Configuration::new((1..=plan.nodes).map(NodeId));
        let mut goals = Goals::default();
        let apart = nodes.iter().any(|a| nodes.iter().any(|b| a.clock.rate > b.clock.rate + 100));
        goals.reach_if(apart, Goal::ClocksApart);
        Self {
            now: 0,
            random,
            heap: BinaryHeap::new(),
            sequence: 0,
            nodes,
            network: Network::new(plan),
            clients: Clients::new(plan),
            ghost: Ghost::new(count),
            changes: Changes::new(founders),
            fills: Vec::new(),
            library: Library::default(),
            handovers: Handovers::default(),
            sendings: Vec::new(),
            truncations: 0,
            tally: Tally::default(),
            goals,
            patience: plan.patience * 1_000,
            faults_change: true,
            healed_at: None,
            outputs: Vec::new(),
            plan: plan.clone(),
        }
    }

    pub(super) fn at(&mut self, at: u64, what: What) {
        self.sequence += 1;
        self.heap.push(Reverse(Timed { at, sequence: self.sequence, what }));
    }

    pub(super) fn after(&mut self, wait: u64, what: What) {
        self.at(self.now + wait, what);
    }

    /// A random time with about this mean, in nanoseconds.
    pub(super) fn about(&mut self, micros: u64) -> u64 {
        1 + self.random.below(2 * micros * 1_000 + 1)
    }

    /// Takes the next event. There always is one: nodes tick for ever.
    pub(super) fn next(&mut self) {
        let Reverse(Timed { at, what, .. }) = self.heap.pop().expect("nodes tick for ever");
        self.now = self.now.max(at);
        if let Some(thaw) = self.thaw_of(what) {
            // Whoever stands still takes it up later.
            self.at(thaw, what);
            return;
        }
        self.tally.events += 1;
        assert!(
            self.tally.events < self.plan.events + EVENTS_AFTER_FAULTS_MAX,
            "[bounded run] it does not end; at {} ns comes {what:?}",
            self.now
        );
        self.tally.time = self.now;
        self.happen(what);
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Deliver { slot } => self.deliver(slot),
            What::Tick { node } => self.tick(node.into(), self.now),
            What::Synced { node, life } if self.lives(node, life) => self.synced(node.into()),
            What::Heard { node, life, write } if self.lives(node, life) => self.heard(node.into(), write),
            What::Applied { node, life } if self.lives(node, life) => self.applied(node.into()),
            What::Filled { node, life, slot } => {
                let fill = self.fills[slot as usize].take().expect("a fill ends once");
                if self.lives(node, life) {
                    self.filled(node.into(), fill);
                }
            }
            What::Propose { node, life } if self.lives(node, life) => {
                let proposals = std::mem::take(&mut self.nodes[usize::from(node)].inbox);
                self.step(node.into(), Input::Propose(proposals));
            }
            What::Unreachable { node, life, peer } if self.lives(node, life) => {
                let peer = self.nodes[usize::from(peer)].id;
                self.step(node.into(), Input::Unreachable(peer));
            }
            What::Chunk { slot } => self.chunk(slot as usize),
            What::Transfer { node, life, to, how } if self.lives(node, life) => {
                let transfer = if how == 0 { Transfer::Failed } else { Transfer::Began(self.last_of(how)) };
                self.tell_transfer(node.into(), to.into(), transfer);
            }
            What::TransferEnded { node, life, to, how } if self.lives(node, life) => {
                let transfer = if how == 0 { Transfer::Failed } else { Transfer::Arrived(self.last_of(how)) };
                self.tell_transfer(node.into(), to.into(), transfer);
            }
            What::SnapshotHere { node, life, from, term, id } if self.lives(node, life) => {
                self.snapshot_here(node.into(), from.into(), Term(term), id);
            }
            What::AskSnapshot { node, life } if self.lives(node, life) => self.ask_snapshot(node.into()),
            What::Call { client } => self.call(client as usize),
            What::GiveUp { attempt } => self.give_up(attempt),
            What::Fault => self.change_faults(),
            What::Die { node, life } if self.lives(node, life) => self.die(node.into()),
            What::Start { node } => self.start(node.into()),
            _ => {}
        }
    }

    fn lives(&self, node: u8, life: u32) -> bool {
        let node = &self.nodes[usize::from(node)];
        node.replica.is_some() && node.life == life
    }

    /// When the process that this is for wakes, if it stands still now.
    fn thaw_of(&self, what: What) -> Option<u64> {
        let node = match what {
            What::Deliver { slot } => self.network.addresses(slot).1,
            What::Tick { node }
            | What::Synced { node, .. }
            | What::Heard { node, .. }
            | What::Applied { node, .. }
            | What::Filled { node, .. }
            | What::Propose { node, .. }
            | What::Transfer { node, .. }
            | What::TransferEnded { node, .. }
            | What::SnapshotHere { node, .. }
            | What::AskSnapshot { node, .. }
            | What::Unreachable { node, .. } => node.into(),
            _ => return None,
        };
        let node = &self.nodes[node];
        (node.frozen_until > self.now && node.replica.is_some()).then_some(node.frozen_until)
    }

    fn tick(&mut self, node: usize, at: u64) {
        let entry = &mut self.nodes[node];
        let Some(replica) = &entry.replica else { return };
        if at < entry.tick_at {
            return;
        }
        entry.tick_at = u64::MAX;
        if replica.deadline() <= entry.clock.read(self.now).monotonic {
            self.step(node, Input::Tick);
        } else {
            self.schedule_tick(node);
        }
    }

    pub(super) fn schedule_tick(&mut self, node: usize) {
        let entry = &mut self.nodes[node];
        let Some(replica) = &entry.replica else { return };
        let at = entry.clock.when(replica.deadline()).max(self.now + 1);
        if at < entry.tick_at {
            entry.tick_at = at;
            self.at(at, What::Tick { node: small(node) });
        }
    }

    /// Gives one input to a replica, checks what became of it, and carries out what it asks for: all of it, or as much
    /// as it gets to before it dies.
    pub(super) fn step(&mut self, node: usize, input: Input<Waiter>) {
        let mut outputs = std::mem::take(&mut self.outputs);
        let entry = &mut self.nodes[node];
        let woke = entry.frozen_until == self.now && broken(Mutant::StaleInstants);
        let now = entry.clock.read(if woke { entry.frozen_at } else { self.now });
        let Some(replica) = &mut entry.replica else { return };
        replica.step(now, input, &mut outputs);
        self.observe(node, &outputs);
        for output in outputs.drain(..) {
            if let Some(effects) = &mut self.nodes[node].dies_in {
                if *effects == 0 {
                    self.goals.reach(Goal::DiedBetweenEffects);
                    self.die(node);
                    break;
                }
                *effects -= 1;
            }
            self.carry_out(node, output);
        }
        outputs.clear();
        self.outputs = outputs;
        self.schedule_tick(node);
    }

    fn carry_out(&mut self, node: usize, output: Output<Waiter>) {
        match output {
            Output::Persist(persist) => {
                self.nodes[node].disk.queue.push_back(persist);
                self.start_sync(node);
            }
            Output::Send(message) => self.depart(node, message),
            Output::Fill(fill) => self.start_fill(node, fill),
            Output::Apply(batch) => {
                self.nodes[node].applies.push_back(Job::Apply(batch));
                self.start_apply(node);
            }
            Output::Answer { waiter, answer } => self.answer(node, waiter, answer),
            Output::Restore(meta) => {
                self.nodes[node].applies.push_back(Job::Restore(meta));
                self.start_apply(node);
            }
            Output::Compact { upto } => self.compact(node, upto),
            Output::SendSnapshot { to, term } => self.send_snapshot(node, to, term),
            Output::Configuration { configuration, committed } => {
                let known = configuration.index() <= self.ghost.last();
                assert!(known || !committed, "[configurations are committed] {configuration:?} is said to be");
            }
            Output::Removed { configuration } => self.note_removed(node, configuration),
            Output::Refused { from, reason } => {
                panic!("[no refusals] n{} refused {from}, which is correct: {reason}", node + 1)
            }
        }
    }

    /// A message leaves: what it promises must be durable.
    pub(super) fn depart(&mut self, node: usize, message: PeerMessage) {
        self.check_departure(node, &message.envelope);
        let to = place(message.envelope.to.0);
        if to >= self.nodes.len() {
            // It is being made.
            return;
        }
        let life = self.nodes[node].life;
        let sent = self.network.send(self.now, (node, to), life, message, &mut self.random);
        self.goals.reach_if(sent.first.is_none(), Goal::MessageLost);
        self.goals.reach_if(sent.second.is_some(), Goal::MessageRepeated);
        self.goals.reach_if(sent.overtook, Goal::MessageOvertook);
        self.goals.reach_if(sent.replayed.is_some(), Goal::OldMessageReplayed);
        for Arrival { at, slot } in [sent.first, sent.second, sent.replayed].into_iter().flatten() {
            self.at(at, What::Deliver { slot });
        }
    }

    /// A message without entries leaves.
    pub(super) fn release(&mut self, node: usize, envelope: Envelope) {
        self.depart(node, PeerMessage { group: GroupId::FIRST, envelope, entries: Vec::new() });
    }

    fn deliver(&mut self, slot: u32) {
        let (from, to) = self.network.addresses(slot);
        let arrived = self.network.take(slot);
        if self.network.is_cut(from, to) {
            self.goals.reach(Goal::MessageCut);
            return;
        }
        if self.nodes[to].replica.is_none() {
            return;
        }
        self.tally.messages += 1;
        self.goals.reach_if(arrived.life < self.nodes[from].life, Goal::MessageFromFormerLife);
        self.note_arrival(to, &arrived.message.envelope);
        self.receive(to, arrived.message);
    }
}

/// Places are few.
pub(super) fn small(place: usize) -> u8 {
    u8::try_from(place).expect("few nodes")
}
