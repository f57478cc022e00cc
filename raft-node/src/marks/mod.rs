//! Marks: consistent cuts of the state that every replica passes at the same index.
//!
//! The leader proposes one now and then ([`MarkPolicy`]), none while nothing changes. The state machine's answer to a
//! mark is its digest; the next mark carries what the members answered to the one before, so that whoever applies it
//! sees whether its state is that of the majority. A replica that finds itself in the minority fences itself
//! ([`Fence`]): it serves no reads and leads nobody until its state was rebuilt from a snapshot. Its log is sound, so it
//! goes on voting. Without a majority all report and none is fenced.

mod fence;
mod journal;
mod payload;
mod proposer;
mod rebuild;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::ports::StateReader;
use raft_core::types::{Index, LogId, NodeName};

#[cfg(feature = "http")]
pub(crate) use fence::hex;
pub use fence::{Fence, FenceStore, FileFence, MemFence};
pub(crate) use journal::{Journal, unix_milliseconds};
pub use payload::{MarkPayload, PayloadError};
pub(crate) use proposer::{mark_here, propose_when_due};
pub use rebuild::RebuildRefused;
pub(crate) use rebuild::{rebuild, serve_snapshot_wanted};

/// When the leader makes a mark: whichever comes first after the last one, and never while nothing but marks and no-ops
/// was applied since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkPolicy {
    /// So much time after the last mark.
    pub interval: Duration,
    /// So many entries after the last mark.
    pub entries: u64,
}

impl Default for MarkPolicy {
    /// 10 seconds or 100,000 entries.
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), entries: 100_000 }
    }
}

/// What the node has to know of a state machine's marks. Asked by the leader's task and by requests, with the read side
/// of the state.
pub trait MarkRules: Send + Sync {
    /// How often marks are made. All members should say the same, so it is best a replicated setting.
    fn policy(&self, state: &dyn StateReader) -> MarkPolicy;

    /// What the state machine answered to the mark at this index, as the state remembers it over restarts. The node
    /// remembers the newest few by itself as long as it runs.
    fn digest(&self, state: &dyn StateReader, mark: Index) -> Option<Bytes>;

    /// The newest mark that the state has passed, as it remembers it over restarts.
    fn newest(&self, state: &dyn StateReader) -> Option<Index>;
}

/// The rules of a state machine that keeps neither settings nor marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FixedMarks(
    /// How often.
    pub MarkPolicy,
);

impl MarkRules for FixedMarks {
    fn policy(&self, _: &dyn StateReader) -> MarkPolicy {
        self.0
    }

    fn digest(&self, _: &dyn StateReader, _: Index) -> Option<Bytes> {
        None
    }

    fn newest(&self, _: &dyn StateReader) -> Option<Index> {
        None
    }
}

/// What of a node's [`Parts`](crate::Parts) concerns marks.
#[derive(Clone)]
pub struct MarkParts {
    /// When marks are made, and what the state remembers of them.
    pub rules: Arc<dyn MarkRules>,
    /// Where a fence is kept over restarts.
    pub fence: Arc<dyn FenceStore>,
}

impl Default for MarkParts {
    /// The default policy, and a fence in memory.
    fn default() -> Self {
        Self { rules: Arc::new(FixedMarks::default()), fence: Arc::new(MemFence::default()) }
    }
}

impl std::fmt::Debug for MarkParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MarkParts").finish_non_exhaustive()
    }
}

/// A mark as this node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkMade {
    /// Its entry.
    pub id: LogId,
    /// When the leader made it, in milliseconds since the Unix epoch by the leader's clock; `None` when its payload
    /// cannot be read.
    pub stamp_ms: Option<u64>,
    /// How long ago it was passed here; `None` when that was in an earlier life.
    pub passed_ago: Option<Duration>,
}

impl MarkMade {
    /// How old the mark's state is: by the wall clocks of its leader and of this node, and never less than the time since
    /// it was passed here.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let by_clock = self.stamp_ms.map(|made| unix_milliseconds().saturating_sub(made));
        by_clock.map(Duration::from_millis).max(self.passed_ago)
    }
}

/// Members whose states differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// At which mark.
    pub mark: Index,
    /// Those that differ from the majority; all that gave a digest when there is no majority.
    pub members: Vec<NodeName>,
    /// Whether a majority agrees.
    pub majority: bool,
}

/// What a node knows of marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkStatus {
    /// The newest mark passed here; `None` when none was since the start and the state remembers none.
    pub newest: Option<Index>,
    /// Why this node's state is not to be read, when it differs from the majority's.
    pub fence: Option<Fence>,
    /// What the newest comparison found, unless all agreed.
    pub mismatch: Option<Mismatch>,
    /// Whether the state is being replaced by a snapshot on request.
    pub rebuilding: bool,
}
