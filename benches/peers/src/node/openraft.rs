//! Three nodes of openraft on the least that it can be made of, with the settings of its own minimal benchmark.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, TryStreamExt};
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::{Config, EntryPayload, OptionalSend, Raft, impls};

use super::{Leader, PATIENCE};
use crate::rounds::Anything;

/// A command, and an answer, that carries nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Nothing;

impl fmt::Display for Nothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }
}

/// What the nodes are made of: the defaults of openraft, and answers that go back by a plain channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Types;

impl openraft::RaftTypeConfig for Types {
    type AsyncRuntime = impls::TokioRuntime;
    type Batch<T: OptionalSend + 'static> = impls::InlineBatch<T>;
    type D = Nothing;
    type Entry = openraft::alias::DefaultEntryOf<Self>;
    type ErrorSource = impls::BoxedErrorSource;
    type LeaderId = impls::leader_id_adv::LeaderId<u64, u64>;
    type Node = ();
    type NodeId = u64;
    type Payload = EntryPayload<Nothing, u64, ()>;
    type R = Nothing;
    type Responder<T: OptionalSend + 'static> = impls::OneshotResponder<Self, T>;
    type Term = u64;
    type Vote = impls::Vote<Self::LeaderId>;
}

type Node = Raft<Types, State>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    vote: Option<VoteOf<Types>>,
    purged: Option<LogIdOf<Types>>,
    /// The index of the first entry.
    first: u64,
    entries: VecDeque<EntryOf<Types>>,
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<EntryOf<Types>>> {
        let kept = lock(&self.0);
        let begin = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let position = |index: u64| (index.saturating_sub(kept.first) as usize).min(kept.entries.len());
        Ok(kept.entries.range(position(begin)..position(end).max(position(begin))).cloned().collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<Types>>> {
        Ok(lock(&self.0).vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let kept = lock(&self.0);
        let last_log_id = kept.entries.back().map(|entry| entry.log_id).or(kept.purged);
        Ok(LogState { last_purged_log_id: kept.purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> io::Result<()> {
        lock(&self.0).vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        lock(&self.0).entries.extend(entries);
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> io::Result<()> {
        let mut kept = lock(&self.0);
        let kept_entries = last.map_or(0, |last| (last.index + 1).saturating_sub(kept.first));
        kept.entries.truncate(kept_entries as usize);
        Ok(())
    }

    async fn purge(&mut self, upto: LogIdOf<Types>) -> io::Result<()> {
        let mut kept = lock(&self.0);
        while kept.entries.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
            kept.entries.pop_front();
        }
        kept.first = upto.index + 1;
        kept.purged = Some(upto);
        Ok(())
    }
}

#[derive(Clone, Default)]
pub(super) struct State(Arc<Mutex<Applied>>);

#[derive(Clone, Default)]
struct Applied {
    last: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
}

impl State {
    fn snapshot(&self) -> SnapshotOf<Types, ()> {
        let Applied { last, membership } = lock(&self.0).clone();
        let meta = SnapshotMetaOf::<Types> { last_log_id: last, last_membership: membership };
        SnapshotOf::<Types, ()> { meta, snapshot: () }
    }
}

impl RaftSnapshotBuilder<Types> for State {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, ()>> {
        Ok(self.snapshot())
    }
}

impl RaftStateMachine<Types> for State {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>)> {
        let Applied { last, membership } = lock(&self.0).clone();
        Ok((last, membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let mut applied = lock(&self.0);
            applied.last = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                applied.membership = StoredMembershipOf::<Types>::new(Some(entry.log_id), membership);
            }
            drop(applied);
            if let Some(responder) = responder {
                responder.send(Nothing);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Types>, _snapshot: ()) -> io::Result<()> {
        *lock(&self.0) = Applied { last: meta.last_log_id, membership: meta.last_membership.clone() };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, ()>>> {
        Ok(Some(self.snapshot()).filter(|snapshot| snapshot.meta.last_log_id.is_some()))
    }
}

/// Who can be called.
#[derive(Clone, Default)]
struct Network(Arc<Mutex<BTreeMap<u64, Node>>>);

impl RaftNetworkFactory<Types> for Network {
    type Network = Wire;

    async fn new_client(&mut self, target: u64, _node: &()) -> Wire {
        Wire(lock(&self.0).get(&target).cloned())
    }
}

/// The way to one node.
struct Wire(Option<Node>);

impl Wire {
    fn node(&self) -> Result<&Node, Unreachable<Types>> {
        self.0.as_ref().ok_or_else(|| Unreachable::new(&io::Error::other("not started")))
    }
}

impl RaftNetworkV2<Types> for Wire {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let answer = self.node()?.append_entries(rpc).await;
        answer.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.node()?.vote(rpc).await;
        answer.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, ()>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let answer = self.node()?.install_full_snapshot(vote, snapshot).await;
        answer.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))
    }
}

pub(super) struct Cluster {
    pub(super) leader: Node,
    nodes: Vec<Node>,
}

impl Leader for Node {
    async fn write(&self) -> Result<(), Anything> {
        self.client_write(Nothing).await?;
        Ok(())
    }
}

impl Cluster {
    pub(super) async fn start() -> Result<Self, Anything> {
        let config = Config {
            election_timeout_min: 200,
            election_timeout_max: 2000,
            purge_batch_size: 1024,
            max_payload_entries: 1024,
            ..Config::default()
        };
        let (config, network) = (Arc::new(config.validate()?), Network::default());
        let members = BTreeSet::from([0, 1, 2]);
        let mut nodes = Vec::new();
        for id in &members {
            let node = Raft::new(*id, config.clone(), network.clone(), Log::default(), State::default()).await?;
            lock(&network.0).insert(*id, node.clone());
            nodes.push(node);
        }
        nodes[0].initialize(members).await?;
        for node in &nodes {
            node.wait(Some(PATIENCE)).applied_index_at_least(Some(1), "the first entry of the leader").await?;
        }
        let leader = nodes[0].clone();
        leader.client_write(Nothing).await?;
        Ok(Self { leader, nodes })
    }

    pub(super) async fn stop(self) -> Result<(), Anything> {
        for node in &self.nodes {
            node.shutdown().await?;
        }
        Ok(())
    }
}
