//! Transports that carry snapshots with one fault each.
#![allow(clippy::disallowed_methods)] // One of the faults is a clock of its own.

use std::collections::BTreeSet;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::message::PeerMessage;
use raft_core::ports::{Inbound, RemoteIdentity, SnapshotError, SnapshotOffer, SnapshotSink, SnapshotSource};
use raft_core::types::NodeId;

use super::{Fault, STALL_TIMEOUT};

/// Gives every chunk the bytes of its neighbour.
pub(super) struct Swapped(pub(super) Arc<dyn SnapshotSource>);

impl SnapshotSource for Swapped {
    fn chunk(&self, number: u32) -> Result<Bytes, SnapshotError> {
        self.0.chunk(number ^ 1).or_else(|_| self.0.chunk(number))
    }
}

/// Puts a fault between a transport and what takes the snapshots.
pub(super) struct FaultyInbound {
    pub(super) fault: Fault,
    pub(super) inner: Arc<dyn Inbound>,
}

#[async_trait]
impl Inbound for FaultyInbound {
    fn receive(&self, message: PeerMessage) {
        self.inner.receive(message);
    }

    fn unreachable(&self, peer: NodeId) {
        self.inner.unreachable(peer);
    }

    async fn request(&self, from: RemoteIdentity, request: Bytes) -> Bytes {
        self.inner.request(from, request).await
    }

    fn snapshot(&self, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        let chunks = offer.chunks;
        let inner = match self.inner.snapshot(offer) {
            Err(SnapshotError::Refused(_)) if self.fault == Fault::RefusesWithoutAWord => {
                return Err(SnapshotError::Refused(String::new()));
            }
            result => result?,
        };
        let (fault, inner) = (self.fault, ManuallyDrop::new(inner));
        Ok(Box::new(FaultySink { fault, chunks, inner, begun: Instant::now(), put: BTreeSet::new() }))
    }
}

struct FaultySink {
    fault: Fault,
    chunks: u32,
    inner: ManuallyDrop<Box<dyn SnapshotSink>>,
    begun: Instant,
    put: BTreeSet<u32>,
}

impl SnapshotSink for FaultySink {
    fn missing(&self) -> Vec<Range<u32>> {
        match self.fault {
            Fault::SendsAllChunks | Fault::StartsAgain => {
                (0..self.chunks).filter(|number| !self.put.contains(number)).map(|number| number..number + 1).collect()
            }
            _ => self.inner.missing(),
        }
    }

    fn put(&mut self, number: u32, bytes: Bytes) -> Result<(), SnapshotError> {
        if self.fault == Fault::EndsWhatIsSlow && self.begun.elapsed() > STALL_TIMEOUT + Duration::from_millis(1) {
            return Err(SnapshotError::Interrupted("it took too long".into()));
        }
        let result = self.inner.put(number, bytes);
        self.put.insert(number);
        if result.is_err() && self.fault == Fault::StartsAgain {
            self.put.clear();
            return Ok(());
        }
        result
    }

    fn finish(&mut self) -> Result<(), SnapshotError> {
        self.inner.finish()
    }
}

impl Drop for FaultySink {
    fn drop(&mut self) {
        if self.fault != Fault::KeepsSinks {
            drop(std::mem::replace(&mut *self.inner, Box::new(Nothing)));
        }
    }
}

/// Stands where a sink was.
struct Nothing;

impl SnapshotSink for Nothing {
    fn missing(&self) -> Vec<Range<u32>> {
        Vec::new()
    }

    fn put(&mut self, _number: u32, _bytes: Bytes) -> Result<(), SnapshotError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SnapshotError> {
        Ok(())
    }
}
