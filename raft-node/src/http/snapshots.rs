//! `POST /v1/node/snapshot`, and what `/v1/node` and `/v1/cluster` say of snapshots.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use raft_core::types::NodeId;
use serde::{Deserialize, Serialize};

use crate::http::parameters::Parameters;
use crate::http::problem::{Code, Problem};
use crate::http::shared::{Shared, json, millis};
use crate::snapshots::{KeptSnapshot, MemberSnapshot, SnapshotProgress, TakeError};
use crate::status::NodeStatus;

/// A snapshot that a node keeps; the answer of `POST /v1/node/snapshot`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSnapshotView {
    /// Which.
    pub id: String,
    /// The last entry whose effects it holds.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// How many files.
    pub files: u64,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// How far a snapshot is that is being taken, sent or received.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgressView {
    /// The last entry whose effects it holds; 0 while that is not known.
    pub index: u64,
    /// How much is there, 0 to 100.
    pub percent: f64,
    /// Bytes that are there, those of earlier tries included.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes per second of this try.
    pub bytes_per_second: u64,
    /// How long the rest takes at this rate; null while nothing moves.
    pub eta_ms: Option<u64>,
    /// Since when this try goes on.
    pub running_ms: u64,
}

/// The snapshot that a leader sends a member, in `GET /v1/cluster`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberSnapshotView {
    /// `waiting`, `sending` or `installing`.
    pub state: String,
    /// How far it is.
    #[serde(flatten)]
    pub progress: ProgressView,
}

/// A snapshot on its way from a leader, in `GET /v1/node`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SendingView {
    /// Who gets it.
    pub to: String,
    /// How far it is.
    #[serde(flatten)]
    pub progress: ProgressView,
}

/// The snapshots of a node, in `GET /v1/node`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SnapshotsView {
    /// The newest that is kept.
    pub newest: Option<KeptSnapshotView>,
    /// Bytes on the disk that only snapshots hold.
    pub pinned_bytes: u64,
    /// What is being taken.
    pub taking: Option<ProgressView>,
    /// What is being received.
    pub receiving: Option<ProgressView>,
    /// Whether one is on its way into the log and the state.
    pub installing: bool,
    /// What is being sent; leaders only.
    pub sending: Vec<SendingView>,
}

impl KeptSnapshotView {
    fn of(kept: &KeptSnapshot) -> Self {
        Self {
            id: kept.id.to_string(),
            index: kept.last.index.0,
            term: kept.last.term.0,
            bytes: kept.bytes,
            files: kept.files as u64,
            created_ms: kept.created_millis,
        }
    }
}

impl ProgressView {
    fn of(progress: &SnapshotProgress) -> Self {
        Self {
            index: progress.last.index.0,
            // To a tenth: more digits say nothing.
            percent: (progress.ratio() * 1000.0).floor() / 10.0,
            done_bytes: progress.done_bytes,
            total_bytes: progress.total_bytes,
            bytes_per_second: progress.bytes_per_second,
            eta_ms: progress.left().map(millis),
            running_ms: millis(progress.running),
        }
    }
}

impl MemberSnapshotView {
    pub(super) fn of(snapshot: &MemberSnapshot) -> Self {
        Self { state: snapshot.stage.name().into(), progress: ProgressView::of(&snapshot.progress) }
    }
}

impl SnapshotsView {
    pub(super) fn of(status: &NodeStatus) -> Self {
        let snapshots = &status.snapshots;
        let name_of = |id: NodeId| {
            let member = status.members.iter().find(|member| member.id == id);
            member.map_or_else(|| id.to_string(), |member| member.name.to_string())
        };
        let sending = |to: NodeId, progress: &SnapshotProgress| SendingView {
            to: name_of(to),
            progress: ProgressView::of(progress),
        };
        Self {
            newest: snapshots.newest.as_ref().map(KeptSnapshotView::of),
            pinned_bytes: snapshots.pinned_bytes,
            taking: snapshots.taking.as_ref().map(ProgressView::of),
            receiving: snapshots.receiving.as_ref().map(ProgressView::of),
            installing: status.raft.installing,
            sending: snapshots.sending.iter().map(|(to, progress)| sending(*to, progress)).collect(),
        }
    }
}

/// `POST /v1/node/snapshot`.
pub(crate) async fn take(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    let timeout = Parameters::read(&uri, &["timeout"])?.timeout(shared.limits())?;
    match shared.node.take_snapshot(timeout).await {
        Ok(kept) => Ok(json(&KeptSnapshotView::of(&kept))),
        Err(error @ TakeError::Deadline) => {
            Err(Problem::new(Code::Deadline, format!("{error}; GET /v1/node shows how far it is")))
        }
        Err(TakeError::Failed(error)) => Err(Problem::new(Code::SnapshotFailed, error.to_string())),
    }
}
