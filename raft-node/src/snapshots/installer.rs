//! Puts the state of a snapshot in the place of the present one: on the applier's thread, in order behind what was to be
//! applied before; and at a start, when a crash came between the log's word and the state's.

use std::time::Instant;

use raft_core::ports::{SnapshotError, StateMachine};
use raft_core::snapshot::SnapshotMeta;

use super::Snapshots;
use super::kept::Kept;
use crate::metrics::Metrics;

/// Installs the snapshot that the log names.
///
/// # Errors
/// Final: the node stops, and tries again at its next start.
pub(crate) fn restore(
    machine: &mut dyn StateMachine,
    meta: &SnapshotMeta,
    snapshots: &Snapshots,
    metrics: &Metrics,
) -> Result<(), String> {
    let Some(kept) = snapshots.store.find(meta.id) else { return Err(missing(meta, snapshots)) };
    install(machine, &kept, meta, metrics)?;
    drop(kept);
    snapshots.taker.restored();
    // Whatever else is kept is of the state that this one has replaced.
    snapshots.store.keep_only(meta.id);
    snapshots.store.need_no_more(meta.id);
    Ok(())
}

/// Opens the snapshots of a node that starts. When the log names one that the state does not hold yet, it is installed
/// now, before anything is served. It is checked first: it may have lain there for long.
///
/// # Errors
/// When the directory cannot be used, or the snapshot that is needed is missing or damaged.
pub(crate) fn open(
    machine: &mut dyn StateMachine,
    installed: Option<&SnapshotMeta>,
    snapshots: &Snapshots,
    metrics: &Metrics,
) -> Result<(), String> {
    let owed = installed.filter(|meta| machine.applied().index < meta.last.index);
    let opened = snapshots.store.open(owed.map(|meta| meta.id));
    opened.map_err(|error| format!("opening the snapshots: {error}"))?;
    let Some(meta) = owed else { return Ok(()) };
    let applied = machine.applied();
    tracing::info!(snapshot = %meta.id, last = %meta.last, %applied, "a snapshot is installed that the log names");
    let Some(kept) = snapshots.store.find(meta.id) else { return Err(missing(meta, snapshots)) };
    if let Err(error) = kept.verify(|_| Ok(())) {
        if let SnapshotError::Damaged { .. } = &error {
            snapshots.store.set_aside(&kept, &error);
        }
        return Err(format!("the snapshot {} that the log names cannot be installed: {error}; {REMEDY}", meta.id));
    }
    drop(kept);
    restore(machine, meta, snapshots, metrics)
}

/// What helps when the state's own files and the snapshot are both of no use.
const REMEDY: &str = "put the data directory back as this node left it, or start with a blank one and let this node \
                      join as a new one";

fn missing(meta: &SnapshotMeta, snapshots: &Snapshots) -> String {
    format!(
        "the log begins after {}, with the snapshot {}, which is not in {}; {REMEDY}",
        meta.last,
        meta.id,
        snapshots.store.directory().display()
    )
}

fn install(machine: &mut dyn StateMachine, kept: &Kept, meta: &SnapshotMeta, metrics: &Metrics) -> Result<(), String> {
    let begun = Instant::now();
    let of = kept.manifest.last;
    if of != meta.last {
        return Err(format!(
            "the snapshot {} ends with {of}, and the log says that it ends with {}",
            meta.id, meta.last
        ));
    }
    machine.restore(&kept.files(), meta.last).map_err(|error| {
        format!("the snapshot {} that ends with {} cannot be installed: {error}", meta.id, meta.last)
    })?;
    let applied = machine.applied();
    if applied != meta.last {
        return Err(format!("the snapshot {} ends with {}, and its state with {applied}", meta.id, meta.last));
    }
    let took = begun.elapsed();
    tracing::info!(snapshot = %meta.id, last = %meta.last, ?took, "the snapshot is installed");
    metrics.snapshot_done("install", took);
    Ok(())
}
