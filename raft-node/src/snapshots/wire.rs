//! How far a snapshot is, as nodes tell each other.

use std::time::Duration;

use raft_core::types::{Index, LogId, Term};

use super::progress::{MemberSnapshot, MemberStage, SnapshotProgress};

/// [`MemberSnapshot`] in the answer about the cluster.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireSnapshot {
    #[prost(uint32, tag = "1")]
    pub(crate) stage: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) last_index: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) last_term: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) done_bytes: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) total_bytes: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) bytes_per_second: u64,
    #[prost(uint64, tag = "7")]
    pub(crate) running_millis: u64,
}

impl WireSnapshot {
    pub(crate) fn of(snapshot: &MemberSnapshot) -> Self {
        let SnapshotProgress { last, done_bytes, total_bytes, bytes_per_second, running } = snapshot.progress;
        Self {
            stage: match snapshot.stage {
                MemberStage::Waiting => 1,
                MemberStage::Sending => 2,
                MemberStage::Installing => 3,
            },
            last_index: last.index.0,
            last_term: last.term.0,
            done_bytes,
            total_bytes,
            bytes_per_second,
            running_millis: u64::try_from(running.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// A stage of a newer version is one of waiting, as far as this one can tell.
    pub(crate) fn snapshot(&self) -> MemberSnapshot {
        MemberSnapshot {
            stage: match self.stage {
                2 => MemberStage::Sending,
                3 => MemberStage::Installing,
                _ => MemberStage::Waiting,
            },
            progress: SnapshotProgress {
                last: LogId::new(Index(self.last_index), Term(self.last_term)),
                done_bytes: self.done_bytes,
                total_bytes: self.total_bytes,
                bytes_per_second: self.bytes_per_second,
                running: Duration::from_millis(self.running_millis),
            },
        }
    }
}
