//! Whole clusters of the real core and the real glue under random schedules: lost, repeated and reordered messages,
//! crashes with unfinished writes, cuts, slow disks. After every step the safety properties of Raft are checked; in the
//! end the cluster is healed and must agree. A failure prints its seed; the seed repeats the run exactly.
#![cfg(feature = "testing")]
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use raft_core::config::{Config, LogRepair};
use raft_core::membership::Configuration;
use raft_core::message::{Envelope, Message, PeerMessage};
use raft_core::ports::{LogStore, LogWrite};
use raft_core::random::Random;
use raft_core::replica::{
    Answer, ApplyBatch, Input, Now, Outcome, Output, Persist, Proposal, Rejection, Replica, read_all,
};
use raft_core::status::Role;
use raft_core::testing::{MemDisk, MemLog, Report};
use raft_core::types::{Entry, EntryKind, GroupId, Index, LogId, NodeId, Payload, Term, WriteId};

/// A caller: the number of its operation.
type Op = u64;

struct Node {
    disk: MemDisk,
    store: MemLog,
    replica: Replica<Op>,
    /// Writes that the disk has not finished.
    writes: VecDeque<Persist>,
    /// Writes that are durable, and whose messages have left, while the replica has not heard of it.
    finished: VecDeque<WriteId>,
    applies: VecDeque<ApplyBatch<Op>>,
    /// The state machine's own durable state, which may lag behind.
    applied: Index,
    lives: u64,
    /// What its log held some time ago: where a disk that lies may take it back to.
    long_ago: Vec<Entry>,
    /// The store's mark of a loss, which outlives restarts until the log is back.
    lost: Option<LogId>,
}

/// What is true of the whole cluster over all its history.
#[derive(Default)]
struct History {
    leaders: BTreeMap<Term, NodeId>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    committed: BTreeMap<Index, (Term, Bytes)>,
    /// Writes whose callers were told that they are applied.
    acknowledged: BTreeMap<Op, Index>,
    /// Writes whose callers were told that they never will be.
    rejected: BTreeSet<Op>,
    unknown: BTreeMap<Op, LogId>,
    answered: BTreeSet<Op>,
    /// What a read that began then must see.
    reads: BTreeMap<Op, Index>,
    reads_served: u64,
    /// Disks that forgot.
    losses: u64,
}

struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    network: Vec<PeerMessage>,
    cut: BTreeSet<(NodeId, NodeId)>,
    now: Duration,
    random: Random,
    history: History,
    next_op: Op,
}

fn config(id: NodeId, voters: u64, life: u64, seed: u64) -> Config {
    let founders = Configuration::new((1..=voters).map(NodeId));
    let mut random = Random::new(seed);
    Config {
        seed,
        life,
        log_repair: if random.below(4) == 0 { LogRepair::StepBack } else { LogRepair::TermHints },
        // Small bounds, so that they are reached.
        append_bytes_max: 200,
        inflight_appends_max: 3,
        inflight_entries_max: 12,
        inflight_bytes_max: 600,
        uncommitted_bytes_max: 2_000,
        applying_bytes_max: 300,
        cache_bytes_max: random.below(2) * 400,
        ..Config::new(id, founders)
    }
}

impl Cluster {
    fn new(voters: u64, seed: u64) -> Self {
        let nodes = (1..=voters)
            .map(|id| {
                let disk = MemDisk::new();
                let mut store = disk.open();
                let recovered = store.recover(GroupId::FIRST).unwrap();
                let config = config(NodeId(id), voters, 1, seed);
                let replica = Replica::new(config, recovered, Index::ZERO, Now::default()).unwrap();
                let (writes, finished, applies) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
                let applied = Index::ZERO;
                (
                    NodeId(id),
                    Node {
                        disk,
                        store,
                        replica,
                        writes,
                        finished,
                        applies,
                        applied,
                        lives: 1,
                        long_ago: Vec::new(),
                        lost: None,
                    },
                )
            })
            .collect();
        let network = Vec::new();
        let random = Random::new(seed.wrapping_mul(77) + 5);
        let cut = BTreeSet::new();
        Self { nodes, network, cut, now: Duration::ZERO, random, history: History::default(), next_op: 0 }
    }

    fn pick(&mut self) -> NodeId {
        let nth = self.random.below(self.nodes.len() as u64);
        *self.nodes.keys().nth(usize::try_from(nth).unwrap()).unwrap()
    }

    fn step(&mut self, id: NodeId, input: Input<Op>) {
        let now = Now::at(self.now);
        let node = self.nodes.get_mut(&id).unwrap();
        let mut out = Vec::new();
        node.replica.step(now, input, &mut out);
        let status = node.replica.status(now);
        if status.role == Role::Leader {
            let leader = *self.history.leaders.entry(status.term).or_insert(id);
            assert_eq!(leader, id, "two leaders in term {}", status.term);
        }
        for output in out {
            self.output(id, output);
        }
    }

    fn output(&mut self, id: NodeId, output: Output<Op>) {
        let node = self.nodes.get_mut(&id).unwrap();
        match output {
            Output::Persist(persist) => node.writes.push_back(persist),
            Output::Send(message) => self.send(message),
            Output::Fill(fill) => {
                let to = fill.message.envelope.to;
                match fill.complete(&*node.store.reader()) {
                    Ok(message) => self.send(message),
                    Err(_) => self.step(id, Input::FillFailed { to }),
                }
            }
            Output::Apply(batch) => node.applies.push_back(batch),
            Output::Answer { waiter, answer } => self.answered(id, waiter, answer),
            Output::Configuration { .. } | Output::Removed { .. } => panic!("nobody changes the members: {output:?}"),
            Output::Refused { from, reason } => panic!("{id} refused {from}: {reason}"),
            Output::Restore(_) | Output::Compact { .. } | Output::SendSnapshot { .. } => {
                panic!("nothing was compacted: {output:?}")
            }
        }
    }

    fn answered(&mut self, id: NodeId, op: Op, answer: Answer) {
        assert!(self.history.answered.insert(op), "a second answer for {op}: {answer:?}");
        match answer {
            Answer::HandedOver(_) | Answer::NotHandedOver { .. } => panic!("nobody asks for a handover here"),
            Answer::Rejected { why, .. } => {
                if why == Rejection::Overwritten {
                    // Only what is decided may be told.
                    assert!(self.nodes[&id].replica.status(Now::at(self.now)).commit_index > Index::ZERO);
                }
                self.history.rejected.insert(op);
            }
            Answer::Changed { .. } | Answer::ChangeRefused { .. } => panic!("nobody changes the members: {answer:?}"),
            Answer::Unknown { token } => {
                self.history.unknown.insert(op, token);
            }
            Answer::ReadReady { index, .. } => {
                let must_see = self.history.reads[&op];
                assert!(index >= must_see, "a read at {index} misses the acknowledged {must_see}");
                let applied = self.nodes[&id].replica.raft().applied_index();
                assert!(applied >= index, "a read at {index} was let go at {applied}");
                self.history.reads_served += 1;
            }
        }
    }

    /// A message leaves: what it promises must be on the sender's disk.
    fn send(&mut self, message: PeerMessage) {
        let envelope = &message.envelope;
        let node = self.nodes.get_mut(&envelope.from).unwrap();
        let durable = node.store.recover(GroupId::FIRST).unwrap();
        let (term, vote) = (durable.hard_state.term, durable.hard_state.vote);
        match &envelope.message {
            Message::Vote { .. } => {
                assert!(term > envelope.term || (term == envelope.term && vote == Some(envelope.from)));
            }
            Message::VoteResponse { granted: true, .. } => {
                assert!(term > envelope.term || (term == envelope.term && vote == Some(envelope.to)));
                let voted = self.history.votes.entry((envelope.from, envelope.term)).or_insert(envelope.to);
                assert_eq!(*voted, envelope.to, "a second vote of {} in term {}", envelope.from, envelope.term);
            }
            Message::AppendAccepted { matched } if term == envelope.term => {
                assert!(*matched <= durable.last().index, "an acknowledgement ahead of the disk");
            }
            Message::PreVote { .. }
            | Message::PreVoteResponse { granted: true, .. }
            | Message::Suffix { .. }
            | Message::SuffixRefused { .. } => {}
            _ => assert!(term >= envelope.term, "{envelope:?} left before its term was durable"),
        }
        self.network.push(message);
    }

    fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let nth = usize::try_from(self.random.below(self.network.len() as u64)).unwrap();
        // Mostly in order, as over streams, but not always.
        let nth = if self.random.below(4) == 0 { nth } else { 0 };
        let message = if self.random.below(20) == 0 { self.network[nth].clone() } else { self.network.remove(nth) };
        let Envelope { from, to, .. } = message.envelope;
        if self.cut.contains(&(from, to)) || self.random.below(30) == 0 {
            return;
        }
        self.step(to, Input::Receive(message));
    }

    /// The disk finishes some of its writes, in order and with one sync.
    fn persist(&mut self, id: NodeId, at_most: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let count = node.writes.len().min(usize::try_from(at_most).unwrap());
        let done: Vec<Persist> = node.writes.drain(..count).collect();
        let Some(last) = done.last().map(|persist| persist.write.id) else { return };
        let writes: Vec<LogWrite> = done.iter().map(|persist| persist.write.clone()).collect();
        node.store.write(&writes).unwrap();
        for envelope in done.into_iter().flat_map(|persist| persist.release) {
            self.send(PeerMessage { group: GroupId::FIRST, envelope, entries: Vec::new() });
        }
        self.nodes.get_mut(&id).unwrap().finished.push_back(last);
    }

    /// The replica hears of what has long been durable.
    fn hear_of_writes(&mut self, id: NodeId) {
        if let Some(write) = self.nodes.get_mut(&id).unwrap().finished.pop_front() {
            self.step(id, Input::Persisted { write, result: Ok(()) });
        }
    }

    fn apply(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(batch) = node.applies.pop_front() else { return };
        let ApplyBatch { first, last, mut entries, waiters } = batch;
        if entries.is_empty() {
            entries = read_all(&*node.store.reader(), GroupId::FIRST, first, last).unwrap();
        }
        assert_eq!(first, node.applied.next(), "{id} applies with a gap");
        assert_eq!(last, entries.last().unwrap().id.index);
        node.applied = last;
        for entry in &entries {
            self.committed(id, entry);
        }
        for (index, op) in waiters {
            let payload = &entries[usize::try_from(index.0 - first.0).unwrap()].payload;
            assert_eq!(payload.bytes().as_ref(), op.to_be_bytes(), "the answer of another's entry");
            assert!(self.history.answered.insert(op), "a second answer for {op}");
            self.history.acknowledged.insert(op, index);
        }
        self.step(id, Input::Applied { index: last, durable: Index::ZERO });
    }

    /// State machine safety, and the truth of every "never applied".
    fn committed(&mut self, id: NodeId, entry: &Entry) {
        let what = (entry.id.term, entry.payload.bytes().clone());
        let known = self.history.committed.entry(entry.id.index).or_insert_with(|| what.clone());
        assert_eq!(*known, what, "{id} applies another entry at {}", entry.id);
        if entry.kind == EntryKind::Command {
            let op = Op::from_be_bytes(entry.payload.bytes().as_ref().try_into().unwrap());
            assert!(!self.history.rejected.contains(&op), "{op} was rejected, and is applied at {}", entry.id);
        }
    }

    fn propose(&mut self, id: NodeId) {
        let deadline = self.now + Duration::from_millis(100 + self.random.below(3_000));
        let proposals = (0..=self.random.below(4))
            .map(|_| {
                self.next_op += 1;
                let payload = Payload::new(Bytes::copy_from_slice(&self.next_op.to_be_bytes()));
                Proposal { payload, deadline, waiter: self.next_op }
            })
            .collect();
        self.step(id, Input::Propose(proposals));
    }

    fn read(&mut self, id: NodeId) {
        self.next_op += 1;
        let must_see = self.history.acknowledged.values().copied().max().unwrap_or_default();
        self.history.reads.insert(self.next_op, must_see);
        let deadline = self.now + Duration::from_millis(100 + self.random.below(3_000));
        self.step(id, Input::Read { mode: raft_core::replica::ReadMode::Round, deadline, waiter: self.next_op });
    }

    /// The process dies; what its disk had not finished is gone, or some of it made it to the disk unheard.
    fn crash_and_restart(&mut self, id: NodeId, voters: u64, seed: u64) {
        let finished = self.random.below(3);
        let node = self.nodes.get_mut(&id).unwrap();
        let count = node.writes.len().min(usize::try_from(finished).unwrap());
        let writes: Vec<LogWrite> = node.writes.drain(..count).map(|persist| persist.write).collect();
        if !writes.is_empty() {
            node.store.write(&writes).unwrap();
        }
        node.writes.clear();
        node.finished.clear();
        node.applies.clear();
        node.store = node.disk.open();
        node.lives += 1;
        let mut recovered = node.store.recover(GroupId::FIRST).unwrap();
        node.lost = node.lost.filter(|lost| !recovered.last().at_least_as_up_to_date_as(*lost));
        recovered.lost = node.lost;
        // The state machine has no log of its own: it comes back with less.
        node.applied = Index(self.random.below(node.applied.0 + 1));
        let now = Now::at(self.now);
        node.replica = Replica::new(config(id, voters, node.lives, seed), recovered, node.applied, now).unwrap();
    }

    /// The node's disk forgets what it had acknowledged and is back at what it held long ago. The evidence beside it
    /// knows term, vote and how far it had been. One disk at a time: a quorum that forgets has lost for good.
    fn lose_and_restart(&mut self, id: NodeId, voters: u64, seed: u64) {
        let now = Now::at(self.now);
        if voters == 1 || self.nodes.values().any(|node| node.replica.status(now).lost.is_some()) {
            return;
        }
        let node = self.nodes.get_mut(&id).unwrap();
        let held = node.store.recover(GroupId::FIRST).unwrap();
        node.disk = MemDisk::new();
        node.store = node.disk.open();
        let hard_state = Some(held.hard_state);
        let entries = std::mem::take(&mut node.long_ago);
        node.store.write(&[LogWrite { group: GroupId::FIRST, hard_state, entries, ..LogWrite::default() }]).unwrap();
        node.writes.clear();
        node.finished.clear();
        node.applies.clear();
        node.lives += 1;
        let mut recovered = node.store.recover(GroupId::FIRST).unwrap();
        if recovered.runs != held.runs {
            node.lost = Some(held.last());
        }
        recovered.lost = node.lost;
        node.replica = Replica::new(config(id, voters, node.lives, seed), recovered, node.applied, now).unwrap();
        self.history.losses += 1;
    }

    fn remember(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.long_ago = node.disk.entries(GroupId::FIRST);
    }

    fn tick(&mut self, by: Duration) {
        self.now += by;
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            if self.nodes[&id].replica.deadline() <= self.now {
                self.step(id, Input::Tick);
            }
        }
    }

    fn cut_or_heal(&mut self) {
        if self.random.below(2) == 0 {
            self.cut.clear();
        } else {
            let (from, to) = (self.pick(), self.pick());
            self.cut.insert((from, to));
            if self.random.below(2) == 0 {
                self.cut.insert((to, from));
            }
        }
    }

    /// Everything works again: the cluster must agree, serve, and hold all that it acknowledged.
    fn converge(&mut self, seed: u64) {
        self.cut.clear();
        self.network.clear();
        let mut proposed_at = Duration::ZERO;
        let mut goal = None;
        for _ in 0..200_000 {
            self.tick(Duration::from_millis(1));
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.persist(id, u64::MAX);
                self.hear_of_writes(id);
                self.apply(id);
            }
            for message in std::mem::take(&mut self.network) {
                self.step(message.envelope.to, Input::Receive(message));
            }
            let leader = self.nodes.iter().find(|(_, node)| node.replica.raft().role() == Role::Leader);
            if let Some(leader) = leader.map(|(id, _)| *id)
                && self.now > proposed_at + Duration::from_secs(2)
            {
                proposed_at = self.now;
                self.propose(leader);
                goal = Some(self.next_op);
            }
            let applied: BTreeSet<Index> = self.nodes.values().map(|node| node.applied).collect();
            if goal.is_some_and(|op| self.history.acknowledged.contains_key(&op)) && applied.len() == 1 {
                return self.check_end();
            }
        }
        for node in self.nodes.values() {
            eprintln!("{:?}", node.replica.status(Now::at(self.now)));
        }
        panic!("seed {seed}: the healed cluster does not come to rest");
    }

    fn check_end(&self) {
        for (op, index) in &self.history.acknowledged {
            let (_, payload) = &self.history.committed[index];
            assert_eq!(payload.as_ref(), op.to_be_bytes(), "acknowledged, and lost");
        }
        for (op, token) in &self.history.unknown {
            let applied = self.history.committed.get(&token.index).is_some_and(|(term, _)| *term == token.term);
            for node in self.nodes.values() {
                let outcome = node.replica.outcome(*token);
                let expected = if applied { Outcome::Applied } else { Outcome::NotApplied };
                assert!(outcome == expected || outcome == Outcome::NotKnownYet, "{op}: {outcome:?}");
            }
        }
    }
}

/// Runs one seed; returns what happened in it.
fn run(seed: u64) -> History {
    let mut draw = Random::new(seed);
    let voters = [1, 3, 3, 3, 5, 5][usize::try_from(draw.below(6)).unwrap()];
    let crashes = draw.below(3) * 3;
    let cuts = draw.below(3) * 4;
    let slow_disk = draw.below(4);
    let mut cluster = Cluster::new(voters, seed);
    for _ in 0..3_000 {
        let id = cluster.pick();
        match cluster.random.below(1_000) {
            0..400 => cluster.deliver(),
            400..600 => {
                if cluster.random.below(slow_disk + 1) == 0 {
                    let at_most = 1 + cluster.random.below(4);
                    cluster.persist(id, at_most);
                }
            }
            600..660 => cluster.apply(id),
            660..720 => cluster.hear_of_writes(id),
            720..850 => {
                let by = Duration::from_micros(cluster.random.below(12_000));
                cluster.tick(by);
            }
            850..910 => cluster.propose(id),
            910..950 => cluster.read(id),
            950..970 if cluster.random.below(10) < cuts => cluster.cut_or_heal(),
            970..990 if cluster.random.below(20) < crashes => cluster.crash_and_restart(id, voters, seed),
            992..994 => cluster.remember(id),
            994..995 if seed.is_multiple_of(3) => cluster.lose_and_restart(id, voters, seed),
            990..992 => {
                let peer = cluster.pick();
                cluster.step(id, Input::Unreachable(peer));
            }
            _ => cluster.deliver(),
        }
    }
    cluster.converge(seed);
    cluster.history
}

/// Seeds that once found a bug, each with what it was.
const REGRESSIONS: &[u64] = &[
    // The acknowledgement of a probe without news was lost, and nothing ended the probe any more.
    859,
];

#[test]
fn random_schedules_break_nothing() {
    let count = std::env::var("RAFT_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(3_000);
    let begin = std::env::var("RAFT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let (mut ran_clusters, mut acknowledged, mut reads, mut leaders, mut losses) = (0, 0, 0, 0, 0);
    for seed in REGRESSIONS.iter().copied().chain(begin..begin + count) {
        let ran = std::panic::catch_unwind(|| run(seed));
        let history = ran.unwrap_or_else(|_| panic!("seed {seed} failed: run RAFT_SEED={seed} RAFT_SEEDS=1"));
        ran_clusters += 1;
        acknowledged += history.acknowledged.len() as u64;
        reads += history.reads_served;
        leaders += history.leaders.len() as u64;
        losses += history.losses;
    }
    let mut report = Report::new("random-clusters");
    report
        .at_least("clusters", ran_clusters, count)
        .at_least("writes acknowledged", acknowledged, count)
        .at_least("leaders", leaders, count)
        .at_least("reads served", reads, count)
        // Every third seed has them.
        .at_least("disks that forgot", losses, count / 10);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}
