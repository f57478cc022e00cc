//! `raft_core::replica::Replica`: with payloads, their checksums, the cache of entries and callers that wait, over a log
//! in memory.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use raft_core::event::Now;
use raft_core::ports::Recovered;
use raft_core::replica::{Input, Output, Proposal, Replica};
use raft_core::types::{Entry, Index, Payload};

use super::core::{config, position};
use super::{Anything, Members, PAYLOAD_BYTES};

/// Three replicas.
#[derive(Debug)]
pub struct ReplicaCluster {
    members: Vec<Replica<u64>>,
    logs: [VecDeque<Entry>; 3],
    inputs: VecDeque<(usize, Input<u64>)>,
    outputs: Vec<Output<u64>>,
    answered: u64,
    proposed: u64,
    now: Duration,
}

impl ReplicaCluster {
    /// A new cluster, whose first member leads.
    ///
    /// # Errors
    /// When the settings cannot work.
    pub fn new() -> Result<Self, Anything> {
        let member = |id| Replica::new(config(id), Recovered::default(), Index::ZERO, Now::default());
        let mut cluster = Self {
            members: (1..=3).map(member).collect::<Result<_, _>>()?,
            logs: Default::default(),
            inputs: VecDeque::new(),
            outputs: Vec::new(),
            answered: 0,
            proposed: 0,
            now: Duration::from_secs(1),
        };
        // The first one's election timeout alone passes.
        cluster.inputs.push_back((0, Input::Tick));
        cluster.run()?;
        Ok(cluster)
    }

    fn run(&mut self) -> Result<(), Anything> {
        let now = Now::at(self.now);
        while let Some((at, input)) = self.inputs.pop_front() {
            self.members[at].step(now, input, &mut self.outputs);
            for output in self.outputs.drain(..) {
                match output {
                    Output::Persist(persist) => {
                        let write = persist.write.id;
                        self.logs[at].extend(persist.write.entries);
                        self.inputs.push_back((at, Input::Persisted { write, result: Ok(()) }));
                        for envelope in persist.release {
                            let (to, group) = (position(envelope.to), persist.write.group);
                            let message = raft_core::message::PeerMessage { group, envelope, entries: Vec::new() };
                            self.inputs.push_back((to, Input::Receive(message)));
                        }
                    }
                    Output::Send(message) => {
                        self.inputs.push_back((position(message.envelope.to), Input::Receive(message)));
                    }
                    Output::Apply(batch) => {
                        batch.entries.iter().for_each(|entry| _ = black_box(entry.payload.bytes()));
                        self.answered += batch.waiters.len() as u64;
                        self.inputs.push_back((at, Input::Applied { index: batch.last, durable: batch.last }));
                    }
                    Output::Compact { upto } => {
                        let first = self.logs[at].front().map_or(Index::ZERO, |entry| entry.id.index);
                        let dropped = usize::try_from(upto.next().since(first))?;
                        self.logs[at].drain(..dropped);
                    }
                    Output::Configuration { .. } => {}
                    other => return Err(format!("nothing goes wrong here, and yet: {other:?}").into()),
                }
            }
        }
        Ok(())
    }
}

impl Members for ReplicaCluster {
    fn commit(&mut self, commands: u64) -> Result<(), Anything> {
        self.now += Duration::from_micros(50);
        let deadline = self.now + Duration::from_secs(3600);
        let proposals = (0..commands).map(|waiter| Proposal {
            payload: Payload::new(Bytes::from(vec![b'v'; PAYLOAD_BYTES])),
            deadline,
            waiter,
        });
        self.inputs.push_back((0, Input::Propose(proposals.collect())));
        if self.members[0].deadline() <= self.now {
            self.inputs.push_back((0, Input::Tick));
        }
        self.run()?;
        self.proposed += commands;
        if self.answered != self.proposed {
            return Err(format!("{} of {} callers were answered", self.answered, self.proposed).into());
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<[u64; 3], Anything> {
        self.now += Duration::from_millis(50);
        self.inputs.push_back((0, Input::Tick));
        self.run()?;
        Ok([0, 1, 2].map(|member: usize| self.members[member].raft().applied_index().0))
    }
}
