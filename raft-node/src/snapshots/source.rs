//! The chunks of a kept snapshot, at the rate that all transfers of the node share.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::ports::{SnapshotError, SnapshotSource};

use super::Snapshots;
use super::kept::Kept;
use super::progress::Moving;
use crate::shared::Shared;

/// See the module. A chunk that is found damaged is not sent, and its snapshot never again.
pub(crate) struct Source {
    pub(crate) shared: Arc<Shared>,
    pub(crate) kept: Arc<Kept>,
    pub(crate) moving: Arc<Moving>,
}

impl SnapshotSource for Source {
    fn chunk(&self, number: u32) -> Result<Bytes, SnapshotError> {
        let snapshots: &Snapshots = &self.shared.snapshots;
        let length = self.kept.chunk_bytes(number);
        snapshots.rate.take(length, || snapshots.is_stopped())?;
        match self.kept.read(number) {
            Ok(bytes) => {
                self.moving.moved(length, self.kept.bytes_to(number));
                self.shared.metrics.snapshot_bytes("send", length);
                Ok(bytes)
            }
            Err(error) => {
                if let SnapshotError::Damaged { .. } = &error {
                    snapshots.store.set_aside(&self.kept, &error);
                }
                Err(error)
            }
        }
    }
}
