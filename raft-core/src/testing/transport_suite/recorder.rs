//! The receiving side of the suite's nodes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::stage::Stage;
use crate::message::{Message, PeerMessage};
use crate::ports::{Inbound, RemoteIdentity, SnapshotError, SnapshotOffer, SnapshotSink};
use crate::types::NodeId;

/// Writes down what arrives and answers requests with `answer to ` and their bytes.
#[derive(Default)]
pub(super) struct Recorder {
    seen: Mutex<Seen>,
    silent: AtomicBool,
    /// Where snapshots go.
    pub(super) stage: Arc<Stage>,
}

#[derive(Default)]
struct Seen {
    messages: Vec<PeerMessage>,
    unreachable: BTreeMap<NodeId, u64>,
    requests: Vec<(RemoteIdentity, Bytes)>,
}

impl Recorder {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn messages(&self) -> Vec<PeerMessage> {
        self.seen().messages.clone()
    }

    pub(super) fn count(&self) -> usize {
        self.seen().messages.len()
    }

    pub(super) fn heartbeats_from(&self, from: NodeId) -> usize {
        let is_one = |message: &&PeerMessage| {
            message.envelope.from == from && matches!(message.envelope.message, Message::Heartbeat { .. })
        };
        self.seen().messages.iter().filter(is_one).count()
    }

    /// How often it was told that messages to this peer may be lost.
    pub(super) fn times_unreachable(&self, peer: NodeId) -> u64 {
        self.seen().unreachable.get(&peer).copied().unwrap_or(0)
    }

    pub(super) fn requests(&self) -> Vec<(RemoteIdentity, Bytes)> {
        self.seen().requests.clone()
    }

    /// From now on requests are taken and never answered.
    pub(super) fn fall_silent(&self) {
        self.silent.store(true, Ordering::Release);
    }
}

#[async_trait]
impl Inbound for Recorder {
    fn receive(&self, message: PeerMessage) {
        self.seen().messages.push(message);
    }

    fn unreachable(&self, peer: NodeId) {
        *self.seen().unreachable.entry(peer).or_default() += 1;
    }

    async fn request(&self, from: RemoteIdentity, request: Bytes) -> Bytes {
        self.seen().requests.push((from, request.clone()));
        if self.silent.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
        Bytes::from([b"answer to ", &request[..]].concat())
    }

    fn snapshot(&self, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        self.stage.begin(offer)
    }
}
