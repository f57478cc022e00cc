//! Five real replicas on one thread, with links that are there or not, a client that never stops writing, and nothing
//! random but the election timeouts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use bytes::Bytes;
use raft_core::config::Config;
use raft_core::membership::Configuration;
use raft_core::message::PeerMessage;
use raft_core::ports::LogStore;
use raft_core::replica::{ApplyBatch, Input, Now, Output, Persist, Proposal, Replica, read_all};
use raft_core::status::Role;
use raft_core::testing::{MemDisk, MemLog};
use raft_core::types::{Entry, GroupId, Index, LogId, NodeId, Payload, Term};

use crate::shape::{NODES, Shape};

/// The election timeout, T.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(200);
const LATENCY: Duration = Duration::from_millis(1);
const SYNC: Duration = Duration::from_micros(500);
/// A client asks every node that says that it leads, this often.
const WRITE_EVERY: Duration = Duration::from_millis(10);

/// When a write was asked for.
type Asked = Duration;

struct Node {
    replica: Replica<Asked>,
    store: MemLog,
    syncing: bool,
    writes: Vec<Persist>,
}

enum What {
    Arrives(PeerMessage),
    Synced(usize),
}

struct Event {
    at: Duration,
    sequence: u64,
    what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// The cluster, its network and its client.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    shape: Shape,
    /// Messages from the leader to these get lost (bits), whatever the shape says: how followers come to lag.
    missed: u32,
    heap: BinaryHeap<Reverse<Event>>,
    sequence: u64,
    now: Duration,
    writes: bool,
    write_due: Duration,
    /// When the writes were acknowledged that were asked for since the shape came into force.
    acknowledged: Vec<Duration>,
    shaped_at: Duration,
    committed: Vec<Term>,
}

fn replica(place: usize, seed: u64, store: &mut MemLog) -> Replica<Asked> {
    let founders = Configuration::new((1..=NODES as u64).map(NodeId));
    let config = Config {
        seed,
        life: 1,
        election_timeout: TIMEOUT,
        // Some messages carry several entries, and more entries need several messages.
        append_entries_max: 3,
        ..Config::new(NodeId(place as u64 + 1), founders)
    };
    let recovered = store.recover(GroupId::FIRST).unwrap();
    Replica::new(config, recovered, Index::ZERO, Now::default()).unwrap()
}

impl Cluster {
    /// A healthy cluster that node 1 leads; all hold one entry.
    pub(crate) fn led_by_first(seed: u64) -> Self {
        let nodes = (0..NODES)
            .map(|place| {
                let mut store = MemDisk::new().open();
                let replica = replica(place, seed, &mut store);
                Node { replica, store, syncing: false, writes: Vec::new() }
            })
            .collect();
        let mut cluster = Self {
            nodes,
            shape: Shape::WHOLE,
            missed: 0,
            heap: BinaryHeap::new(),
            sequence: 0,
            now: 2 * TIMEOUT,
            writes: false,
            write_due: Duration::ZERO,
            acknowledged: Vec::new(),
            shaped_at: Duration::ZERO,
            committed: Vec::new(),
        };
        // Only the first node's clock has moved that far: nobody else looks before it has heard of its leader.
        cluster.step(0, Input::Tick);
        while cluster.nodes.iter().any(|node| node.replica.raft().leader() != Some(NodeId(1))) {
            let Some(Reverse(event)) = cluster.heap.pop() else { panic!("node 1 was not elected") };
            cluster.now = event.at;
            cluster.happen(event.what);
        }
        cluster.run(Duration::from_millis(20));
        cluster
    }

    /// The leader appends `count` entries that never reach the nodes in `missed`.
    pub(crate) fn write_past(&mut self, missed: u32, count: u64) {
        self.missed |= missed;
        for _ in 0..count {
            self.propose(0);
        }
        self.run(Duration::from_millis(10));
    }

    /// From now on these links work and no others; what is on its way over the others is lost.
    pub(crate) fn cut(&mut self, shape: Shape) {
        self.missed = 0;
        self.shape = shape;
        self.shaped_at = self.now;
        self.writes = true;
        self.acknowledged.clear();
    }

    /// How long it took since the cut, at most, from one acknowledged write to the next one, up to now.
    pub(crate) fn longest_gap(&self) -> Duration {
        let ends = self.acknowledged.iter().copied().chain([self.now]);
        let begins = [self.shaped_at].into_iter().chain(self.acknowledged.iter().copied());
        ends.zip(begins).map(|(end, begin)| end - begin).max().unwrap_or_default()
    }

    /// How long after the cut the first write was acknowledged that was asked for after it.
    pub(crate) fn first_write(&self) -> Option<Duration> {
        self.acknowledged.first().map(|at| *at - self.shaped_at)
    }

    /// The highest term of any node, and the elections that were won.
    pub(crate) fn elections(&self) -> (Term, u64) {
        let status = |node: &Node| node.replica.status(Now::at(self.now));
        let term = self.nodes.iter().map(|node| status(node).term).max().unwrap_or_default();
        (term, self.nodes.iter().map(|node| status(node).counters.elections_won).sum())
    }

    /// The last entry of each log.
    pub(crate) fn ends(&self) -> Vec<LogId> {
        self.nodes.iter().map(|node| node.replica.status(Now::at(self.now)).last).collect()
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let event = self.heap.peek().map(|Reverse(event)| event.at);
            let deadlines = self.nodes.iter().map(|node| node.replica.deadline());
            let (due, place) = deadlines.zip(0..).min().expect("there are nodes");
            let write = if self.writes { self.write_due.max(self.now) } else { Duration::MAX };
            let next = event.unwrap_or(Duration::MAX).min(due).min(write);
            if next > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(next);
            if event == Some(next) {
                let Some(Reverse(event)) = self.heap.pop() else { continue };
                self.happen(event.what);
            } else if write == next {
                self.write_due = self.now + WRITE_EVERY;
                for place in 0..NODES {
                    self.propose(place);
                }
            } else {
                self.step(place, Input::Tick);
            }
        }
    }

    fn propose(&mut self, place: usize) {
        if self.nodes[place].replica.raft().role() == Role::Leader {
            let payload = Payload::new(Bytes::from_static(b"write"));
            let deadline = self.now + Duration::from_secs(60);
            self.step(place, Input::Propose(vec![Proposal { payload, deadline, waiter: self.now }]));
        }
    }

    fn after(&mut self, wait: Duration, what: What) {
        self.sequence += 1;
        self.heap.push(Reverse(Event { at: self.now + wait, sequence: self.sequence, what }));
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Arrives(message) => {
                let (from, to) = (place(message.envelope.from), place(message.envelope.to));
                let missed = from == 0 && self.missed & (1 << to) != 0;
                if self.shape.links(from, to) && !missed {
                    self.step(to, Input::Receive(message));
                }
            }
            What::Synced(place) => {
                let node = &mut self.nodes[place];
                node.syncing = false;
                let done = node.writes.remove(0);
                node.store.write(std::slice::from_ref(&done.write)).unwrap();
                for envelope in done.release {
                    let message = PeerMessage { group: GroupId::FIRST, envelope, entries: Vec::new() };
                    self.after(LATENCY, What::Arrives(message));
                }
                self.step(place, Input::Persisted { write: done.write.id, result: Ok(()) });
                self.sync(place);
            }
        }
    }

    fn sync(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        if !node.syncing && !node.writes.is_empty() {
            node.syncing = true;
            self.after(SYNC, What::Synced(place));
        }
    }

    fn step(&mut self, place: usize, input: Input<Asked>) {
        let (now, mut out) = (Now::at(self.now), Vec::new());
        self.nodes[place].replica.step(now, input, &mut out);
        for output in out {
            match output {
                Output::Persist(persist) => self.nodes[place].writes.push(persist),
                Output::Send(message) => self.after(LATENCY, What::Arrives(message)),
                Output::Fill(fill) => match fill.complete(&*self.nodes[place].store.reader()) {
                    Ok(message) => self.after(LATENCY, What::Arrives(message)),
                    Err(error) => panic!("an entry of the cache is gone: {error}"),
                },
                Output::Apply(batch) => self.apply(place, batch),
                Output::Answer { .. } => {}
                output => panic!("node {} asks for {output:?}", place + 1),
            }
        }
        self.sync(place);
    }

    /// Every node applies the same, and the client hears of its writes.
    fn apply(&mut self, place: usize, batch: ApplyBatch<Asked>) {
        let ApplyBatch { first, last, mut entries, waiters } = batch;
        if entries.is_empty() {
            entries = read_all(&*self.nodes[place].store.reader(), GroupId::FIRST, first, last).unwrap();
        }
        for Entry { id, .. } in entries {
            let nth = usize::try_from(id.index.0 - 1).unwrap();
            match self.committed.get(nth) {
                Some(term) => assert_eq!(*term, id.term, "node {} applies another entry at {id}", place + 1),
                None => self.committed.push(id.term),
            }
        }
        for (_, asked) in waiters {
            if self.writes && asked >= self.shaped_at {
                self.acknowledged.push(self.now);
            }
        }
        self.step(place, Input::Applied { index: last, durable: Index::ZERO });
    }
}

fn place(id: NodeId) -> usize {
    usize::try_from(id.0 - 1).unwrap()
}
