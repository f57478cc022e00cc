//! `raft_core::raft::Raft`: decides, and sees no payload.

use std::collections::VecDeque;
use std::time::Duration;

use raft_core::config::Config;
use raft_core::effect::{Apply, Effect};
use raft_core::event::{Event, Now};
use raft_core::membership::Configuration;
use raft_core::ports::Recovered;
use raft_core::raft::Raft;
use raft_core::types::{Entry, Index, NodeId, Ticket};

use super::{Anything, KEPT_ENTRIES, Members, PAYLOAD_BYTES};

/// Three cores.
#[derive(Debug)]
pub struct CoreCluster {
    members: Vec<Raft>,
    events: VecDeque<(usize, Event)>,
    effects: Vec<Effect>,
    now: Duration,
    ticket: u64,
}

/// Settings of both of ours.
pub(super) fn config(id: u64) -> Config {
    let mut config = Config::new(NodeId(id), Configuration::new((1..=3).map(NodeId)));
    config.retain_entries_max = KEPT_ENTRIES;
    config.inflight_bytes_max = 64 << 20;
    config
}

pub(super) fn position(id: NodeId) -> usize {
    usize::try_from(id.0).unwrap_or_default() - 1
}

impl CoreCluster {
    /// A new cluster, whose first member leads.
    ///
    /// # Errors
    /// When the settings cannot work.
    pub fn new() -> Result<Self, Anything> {
        let member = |id| Raft::new(config(id), Recovered::default(), Index::ZERO, Now::default());
        let members = (1..=3).map(member).collect::<Result<_, _>>()?;
        let (events, effects) = (VecDeque::new(), Vec::new());
        // The first one's election timeout alone passes.
        let mut cluster = Self { members, events, effects, now: Duration::from_secs(1), ticket: 0 };
        cluster.events.push_back((0, Event::Tick));
        cluster.run();
        Ok(cluster)
    }

    fn run(&mut self) {
        let now = Now::at(self.now);
        while let Some((at, event)) = self.events.pop_front() {
            self.members[at].step(now, event, &mut self.effects);
            for effect in self.effects.drain(..) {
                match effect {
                    Effect::Persist(write) => {
                        self.events.push_back((at, Event::Persisted(write.id)));
                        let released = write.release.into_iter();
                        self.events.extend(released.map(|envelope| (position(envelope.to), Event::Receive(envelope))));
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
}

impl Members for CoreCluster {
    fn commit(&mut self, commands: u64) -> Result<(), Anything> {
        self.now += Duration::from_micros(50);
        let (first, bytes) = (Ticket(self.ticket), commands * (Entry::OVERHEAD + PAYLOAD_BYTES as u64));
        self.ticket += commands;
        self.events.push_back((0, Event::Propose { first, count: commands, bytes }));
        if self.members[0].deadline() <= self.now {
            self.events.push_back((0, Event::Tick));
        }
        self.run();
        Ok(())
    }

    fn settle(&mut self) -> Result<[u64; 3], Anything> {
        self.now += Duration::from_millis(50);
        self.events.push_back((0, Event::Tick));
        self.run();
        Ok([0, 1, 2].map(|member: usize| self.members[member].applied_index().0))
    }
}
