//! The protocol alone: committed entries per second of three members in one thread, without disk, network or payloads.
//!
//! `cargo run --release -p raft-benches --bin core`

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use raft_core::config::Config;
use raft_core::effect::{Apply, Effect};
use raft_core::event::{Event, Now};
use raft_core::membership::Configuration;
use raft_core::ports::Recovered;
use raft_core::raft::Raft;
use raft_core::status::Role;
use raft_core::types::{Index, NodeId, Ticket};

const MEMBERS: u64 = 3;
const ENTRY_BYTES: u64 = 256 + 32;
const RUN_AT_LEAST: Duration = Duration::from_secs(1);
const ROUNDS: usize = 5;

struct Cluster {
    members: Vec<Raft>,
    events: VecDeque<(usize, Event)>,
    effects: Vec<Effect>,
    now: Duration,
    leader: usize,
}

impl Cluster {
    fn new() -> Self {
        let founders = Configuration::new((1..=MEMBERS).map(NodeId));
        let members = (1..=MEMBERS)
            .map(|id| {
                let mut config = Config::new(NodeId(id), founders.clone());
                config.inflight_bytes_max = 64 << 20;
                Raft::new(config, Recovered::default(), Index::ZERO, Now::default()).expect("the defaults are valid")
            })
            .collect();
        let mut cluster =
            Self { members, events: VecDeque::new(), effects: Vec::new(), now: Duration::ZERO, leader: 0 };
        // The first member's timer alone passes.
        cluster.now = Duration::from_secs(1);
        cluster.events.push_back((0, Event::Tick));
        cluster.run();
        assert_eq!(cluster.members[0].role(), Role::Leader, "the only candidate is elected");
        cluster
    }

    /// Runs until nothing is left to do: every disk and every state machine is done at once.
    fn run(&mut self) {
        let now = Now::at(self.now);
        while let Some((at, event)) = self.events.pop_front() {
            self.members[at].step(now, event, &mut self.effects);
            for effect in self.effects.drain(..) {
                match effect {
                    Effect::Persist(write) => {
                        self.events.push_back((at, Event::Persisted(write.id)));
                        for envelope in write.release {
                            self.events.push_back((position(envelope.to), Event::Receive(envelope)));
                        }
                    }
                    Effect::Send(envelope) => {
                        self.events.push_back((position(envelope.to), Event::Receive(envelope)));
                    }
                    Effect::Apply(Apply { last, .. }) => {
                        self.events.push_back((at, Event::Applied { index: last, durable: last }));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Committed entries per second with `in_flight` proposals at a time, taken as one batch, as a driver does that
    /// finds them waiting together.
    fn measure(&mut self, in_flight: u64) -> f64 {
        let begin = Instant::now();
        let first = self.members[self.leader].commit_index();
        let mut ticket = 0;
        while begin.elapsed() < RUN_AT_LEAST {
            for _ in 0..100 {
                // Time passes, so that nobody campaigns.
                self.now += Duration::from_micros(50);
                let event = Event::Propose { first: Ticket(ticket), count: in_flight, bytes: in_flight * ENTRY_BYTES };
                ticket += in_flight;
                self.events.push_back((self.leader, event));
                if self.members[self.leader].deadline() <= self.now {
                    self.events.push_back((self.leader, Event::Tick));
                }
                self.run();
            }
        }
        let committed = self.members[self.leader].commit_index().since(first);
        assert!(committed >= ticket, "everything proposed is committed");
        committed as f64 / begin.elapsed().as_secs_f64()
    }
}

fn position(id: NodeId) -> usize {
    usize::try_from(id.0 - 1).expect("a small id")
}

#[allow(clippy::print_stdout, reason = "a report is what this program is for")]
fn main() {
    println!("committed entries per second, {MEMBERS} members in one thread, median of {ROUNDS} rounds");
    for in_flight in [1, 64, 1024] {
        let mut rates: Vec<f64> = (0..ROUNDS).map(|_| Cluster::new().measure(in_flight)).collect();
        rates.sort_by(f64::total_cmp);
        let (min, median, max) = (rates[0], rates[ROUNDS / 2], rates[ROUNDS - 1]);
        println!("in flight {in_flight:>5}: {median:>14.0} ({min:.0} to {max:.0})");
    }
}
