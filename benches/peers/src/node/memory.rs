//! The least that a node of ours can be made of: a log in memory, a state of nothing but its applied index, and a network
//! that calls the receiver.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::kept_log::{KeptLog, LogReading};
use raft_core::message::PeerMessage;
use raft_core::ports::{
    ApplyError, Inbound, LocalIdentity, LogReader, LogStore, LogWrite, Peer, PeerStatus, QueryAnswer, QueryError,
    ReadError, Recovered, RefusalCounts, RemoteIdentity, RequestError, SnapshotError, SnapshotOffer, SnapshotSent,
    SnapshotSource, Snapshotter, StateMachine, StateReader, StoreError, Transport,
};
use raft_core::types::{Entry, GroupId, Index, LogId, NodeId, NodeName};

/// No thread of ours panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A log that trusts memory.
#[derive(Default)]
pub(super) struct Log {
    kept: KeptLog,
    entries: Arc<Mutex<VecDeque<Entry>>>,
}

impl LogStore for Log {
    fn recover(&mut self, _group: GroupId) -> Result<Recovered, StoreError> {
        let reading = LogReading::new(self.kept.hard_state(), self.kept.commit(), self.kept.beginning());
        reading.finish().map(|(recovered, _)| recovered)
    }

    fn write(&mut self, writes: &[LogWrite]) -> Result<(), StoreError> {
        let mut entries = lock(&self.entries);
        for write in writes {
            let change = self.kept.write(write)?;
            if let Some(from) = change.drop_from {
                while entries.back().is_some_and(|entry| entry.id.index >= from) {
                    entries.pop_back();
                }
            }
            entries.extend(write.entries.iter().cloned());
        }
        Ok(())
    }

    fn compact(&mut self, _group: GroupId, upto: Index) -> Result<(), StoreError> {
        self.kept.compact(upto)?;
        let mut entries = lock(&self.entries);
        while entries.front().is_some_and(|entry| entry.id.index <= upto) {
            entries.pop_front();
        }
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(Reader(self.entries.clone()))
    }
}

struct Reader(Arc<Mutex<VecDeque<Entry>>>);

impl LogReader for Reader {
    fn read(&self, group: GroupId, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        let entries = lock(&self.0);
        let begin = entries.partition_point(|entry| entry.id.index < first);
        let mut bytes = 0;
        let fits = entries.range(begin..).take_while(|entry| {
            let before = bytes;
            bytes += entry.size();
            entry.id.index <= last && (before == 0 || bytes <= bytes_max)
        });
        let read: Vec<Entry> = fits.cloned().collect();
        if read.first().is_none_or(|entry| entry.id.index != first) {
            return Err(ReadError::Missing { group, index: first });
        }
        Ok(read)
    }
}

/// A state that knows how far it is.
#[derive(Clone, Default)]
pub(super) struct State(Arc<Mutex<LogId>>);

impl StateMachine for State {
    fn applied(&self) -> LogId {
        *lock(&self.0)
    }

    fn apply(&mut self, entries: &[Entry], answers: &mut Vec<Bytes>) -> Result<(), ApplyError> {
        if let Some(last) = entries.last() {
            answers.extend(entries.iter().map(|_| Bytes::new()));
            *lock(&self.0) = last.id;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<Index, ApplyError> {
        Ok(lock(&self.0).index)
    }

    fn durable(&mut self) -> Result<Index, ApplyError> {
        Ok(lock(&self.0).index)
    }

    fn snapshotter(&self) -> Arc<dyn Snapshotter> {
        Arc::new(self.clone())
    }

    fn restore(&mut self, _directory: &Path, last: LogId) -> Result<(), ApplyError> {
        *lock(&self.0) = last;
        Ok(())
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        Arc::new(self.clone())
    }
}

impl Snapshotter for State {
    fn take(&self, directory: &Path) -> Result<LogId, SnapshotError> {
        let applied = *lock(&self.0);
        let made = std::fs::create_dir(directory)
            .and_then(|()| std::fs::write(directory.join("state"), applied.index.0.to_le_bytes()));
        made.map_err(|error| SnapshotError::Io { doing: "taking a snapshot".into(), reason: error.to_string() })?;
        Ok(applied)
    }
}

impl StateReader for State {
    fn applied(&self) -> LogId {
        *lock(&self.0)
    }

    fn query(&self, _query: &[u8]) -> Result<QueryAnswer, QueryError> {
        Ok(QueryAnswer { bytes: Bytes::new(), applied: *lock(&self.0) })
    }
}

/// Who can be called, by name and by id.
#[derive(Clone, Default)]
pub(super) struct Network(Arc<RwLock<Table>>);

#[derive(Default)]
struct Table {
    by_name: BTreeMap<NodeName, Arc<dyn Inbound>>,
    by_id: BTreeMap<NodeId, Arc<dyn Inbound>>,
}

impl Network {
    pub(super) fn wire(&self, name: &NodeName) -> Wire {
        Wire { network: self.clone(), name: name.clone(), local: Mutex::new(None), peers: Mutex::default() }
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// One node's end of the network.
pub(super) struct Wire {
    network: Network,
    name: NodeName,
    local: Mutex<Option<LocalIdentity>>,
    peers: Mutex<Vec<NodeName>>,
}

#[async_trait]
impl Transport for Wire {
    async fn start(&self, inbound: Arc<dyn Inbound>) -> Result<(), String> {
        let id = lock(&self.local).as_ref().and_then(|local| local.id);
        self.network.change(|table| {
            table.by_id.extend(id.map(|id| (id, inbound.clone())));
            table.by_name.insert(self.name.clone(), inbound);
        });
        Ok(())
    }

    fn set_peers(&self, local: LocalIdentity, peers: Vec<Peer>) {
        let id = local.id;
        *lock(&self.local) = Some(local);
        *lock(&self.peers) = peers.into_iter().map(|peer| peer.name).collect();
        self.network.change(|table| {
            if let (Some(id), Some(inbound)) = (id, table.by_name.get(&self.name)) {
                table.by_id.insert(id, inbound.clone());
            }
        });
    }

    fn send(&self, to: NodeId, message: PeerMessage) {
        // The receiver puts it into a queue.
        if let Some(inbound) = self.network.0.read().unwrap_or_else(PoisonError::into_inner).by_id.get(&to) {
            inbound.receive(message);
        }
    }

    async fn request(&self, to: &NodeName, request: Bytes, _timeout: Duration) -> Result<Bytes, RequestError> {
        let inbound = self.network.0.read().unwrap_or_else(PoisonError::into_inner).by_name.get(to).cloned();
        let local = lock(&self.local).clone();
        let (Some(inbound), Some(local)) = (inbound, local) else {
            return Err(RequestError::NotSent(format!("{to} is not there yet")));
        };
        let LocalIdentity { name, incarnation, cluster, id } = local;
        Ok(inbound.request(RemoteIdentity { name, incarnation, cluster, id }, request).await)
    }

    async fn send_snapshot(
        &self,
        _offer: SnapshotOffer,
        _source: Arc<dyn SnapshotSource>,
    ) -> Result<SnapshotSent, SnapshotError> {
        Err(SnapshotError::Refused("nobody is behind here".into()))
    }

    fn status(&self) -> (Vec<(NodeName, PeerStatus)>, RefusalCounts) {
        let peers = lock(&self.peers).clone();
        let connected = |name| (name, PeerStatus { connected: true, ..PeerStatus::default() });
        (peers.into_iter().map(connected).collect(), Vec::new())
    }

    async fn stop(&self) {
        self.network.change(|table| *table = Table::default());
    }
}
