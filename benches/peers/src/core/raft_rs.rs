//! The crate `raft` on its own `MemStorage`, with append batching.

use std::collections::VecDeque;
use std::hint::black_box;

use raft::eraftpb::{ConfState, Entry, Message};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};

use crate::members::{KEPT_ENTRIES, Members, PAYLOAD_BYTES};
use crate::rounds::Anything;

pub(super) struct Cluster {
    members: Vec<Member>,
    messages: VecDeque<Message>,
}

struct Member {
    raw: RawNode<MemStorage>,
    applied: u64,
    compacted: u64,
}

impl Cluster {
    pub(super) fn new() -> Result<Self, Anything> {
        let nobody_listens = slog::Logger::root(slog::Discard, slog::o!());
        let members = (1..=3).map(|id| {
            let config = Config {
                id,
                max_size_per_msg: 1 << 20,
                batch_append: true,
                check_quorum: true,
                pre_vote: true,
                ..Config::default()
            };
            let storage = MemStorage::new_with_conf_state(ConfState::from((vec![1, 2, 3], Vec::new())));
            let raw = RawNode::new(&config, storage, &nobody_listens)?;
            Ok::<_, raft::Error>(Member { raw, applied: 0, compacted: 0 })
        });
        let mut cluster = Self { members: members.collect::<Result<_, _>>()?, messages: VecDeque::new() };
        cluster.members[0].raw.campaign()?;
        cluster.run()?;
        if cluster.members[0].raw.raft.state != StateRole::Leader {
            return Err("the only candidate was not elected".into());
        }
        Ok(cluster)
    }

    fn run(&mut self) -> Result<(), Anything> {
        loop {
            // All that waits is stepped before anybody looks for what is ready, as a driver does that finds it waiting.
            while let Some(message) = self.messages.pop_front() {
                let to = usize::try_from(message.to)? - 1;
                self.members[to].raw.step(message)?;
            }
            let mut idle = true;
            for member in &mut self.members {
                if member.raw.has_ready() {
                    member.carry_out(&mut self.messages)?;
                    idle = false;
                }
            }
            if idle {
                return Ok(());
            }
        }
    }
}

impl Member {
    fn carry_out(&mut self, messages: &mut VecDeque<Message>) -> Result<(), Anything> {
        let mut ready = self.raw.ready();
        messages.extend(ready.take_messages());
        self.apply(ready.take_committed_entries());
        let mut storage = self.raw.store().wl();
        storage.append(ready.entries())?;
        if let Some(hard_state) = ready.hs() {
            storage.set_hardstate(hard_state.clone());
        }
        drop(storage);
        messages.extend(ready.take_persisted_messages());
        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.raw.store().wl().mut_hard_state().commit = commit;
        }
        messages.extend(light.take_messages());
        self.apply(light.take_committed_entries());
        self.raw.advance_apply();
        if self.applied - self.compacted > 2 * KEPT_ENTRIES {
            self.compacted = self.applied - KEPT_ENTRIES;
            self.raw.store().wl().compact(self.compacted)?;
        }
        Ok(())
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            black_box(&entry.data);
            self.applied = entry.index;
        }
    }
}

impl Members for Cluster {
    fn commit(&mut self, commands: u64) -> Result<(), Anything> {
        for _ in 0..commands {
            self.members[0].raw.propose(Vec::new(), vec![b'v'; PAYLOAD_BYTES])?;
        }
        self.run()
    }

    fn settle(&mut self) -> Result<[u64; 3], Anything> {
        self.run()?;
        Ok([0, 1, 2].map(|member: usize| self.members[member].applied))
    }
}
