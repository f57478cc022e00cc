//! What the core knows of a snapshot: what it contains, not its bytes.

use crate::membership::Configuration;
use crate::types::{LogId, SnapshotId};

/// Names a snapshot and says what it stands for. It is labelled with what the state holds, which may be less than the
/// log's end. Raft §7, Figure 13.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Which snapshot.
    pub id: SnapshotId,
    /// The last entry whose effects it holds.
    pub last: LogId,
    /// The configuration as of that entry.
    pub configuration: Configuration,
}

/// How the sending of a snapshot to a follower goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// A snapshot that ends with this entry is on its way: the log behind it is kept meanwhile, as far as the bounds
    /// allow.
    Began(LogId),
    /// The follower has all of it, verified and durable, and has been asked to install it.
    Arrived(LogId),
    /// It was given up; when the follower still needs one, it is asked for again.
    Failed,
}
