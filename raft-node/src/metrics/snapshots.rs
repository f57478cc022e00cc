//! The metrics of snapshots and of the log's cuts.

use std::time::Duration;

use prometheus::{GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::registered::{Builder, Metrics, number};
use crate::snapshots::SnapshotStatus;

/// Buckets of how long a snapshot takes: 1 ms to an hour.
const SECONDS: &[f64] =
    &[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];

#[derive(Debug)]
pub(super) struct SnapshotMetrics {
    send_bytes: IntCounter,
    receive_bytes: IntCounter,
    seconds: HistogramVec,
    taken: IntCounter,
    sent: IntCounter,
    received: IntCounter,
    installed: IntCounter,
    failed: IntCounterVec,
    pinned_bytes: IntGauge,
    newest_index: IntGauge,
    progress: GaugeVec,
    compactions: IntCounter,
}

impl SnapshotMetrics {
    pub(super) fn new(build: &Builder<'_>) -> Self {
        let made = Self {
            send_bytes: build.counter("raft_snapshot_send_bytes_total", "Bytes of chunks read to be sent."),
            receive_bytes: build.counter("raft_snapshot_receive_bytes_total", "Bytes of chunks received and written."),
            seconds: build.histograms(
                "raft_snapshot_duration_seconds",
                "Time to take, send, receive or install a snapshot.",
                &["kind"],
                SECONDS,
            ),
            taken: build.counter("raft_snapshot_taken_total", "Snapshots taken here."),
            sent: build.counter("raft_snapshot_sent_total", "Snapshots that a follower has received from here."),
            received: build.counter("raft_snapshot_received_total", "Snapshots received here, whole and durable."),
            installed: build.counter("raft_snapshot_installed_total", "Snapshots that replaced the state here."),
            failed: build.counters(
                "raft_snapshot_failed_total",
                "Snapshots that could not be taken, sent or received at a try.",
                &["kind"],
            ),
            pinned_bytes: build.gauge("raft_snapshot_pinned_bytes", "Bytes on the disk that only snapshots hold."),
            newest_index: build.gauge("raft_snapshot_index", "The last entry of the newest snapshot kept; 0 for none."),
            progress: build.seconds_gauges(
                "raft_snapshot_progress_ratio",
                "How much is there of the snapshot that is taken, sent or received, 0 to 1; of several, the slowest.",
                &["direction"],
            ),
            compactions: build.counter("raft_log_compactions_total", "Times that the log's beginning was dropped."),
        };
        // They are there from the start, so that a rate can be computed of the first one too.
        for kind in ["take", "send", "receive"] {
            made.failed.with_label_values(&[kind]);
        }
        made
    }

    pub(super) fn show(&self, status: &SnapshotStatus) {
        self.pinned_bytes.set(number(status.pinned_bytes));
        self.newest_index.set(number(status.newest.as_ref().map_or(0, |newest| newest.last.index.0)));
        self.progress.reset();
        let slowest = status.sending.iter().map(|(_, progress)| progress.ratio()).min_by(f64::total_cmp);
        for (direction, ratio) in [
            ("take", status.taking.as_ref().map(|progress| progress.ratio())),
            ("send", slowest),
            ("receive", status.receiving.as_ref().map(|progress| progress.ratio())),
        ] {
            if let Some(ratio) = ratio {
                self.progress.with_label_values(&[direction]).set(ratio);
            }
        }
    }
}

impl Metrics {
    /// A snapshot was taken, sent, received or installed.
    pub(crate) fn snapshot_done(&self, kind: &str, within: Duration) {
        let metrics = self.snapshots();
        metrics.seconds.with_label_values(&[kind]).observe(within.as_secs_f64());
        match kind {
            "take" => metrics.taken.inc(),
            "send" => metrics.sent.inc(),
            "receive" => metrics.received.inc(),
            _ => metrics.installed.inc(),
        }
    }

    pub(crate) fn snapshot_failed(&self, kind: &str) {
        self.snapshots().failed.with_label_values(&[kind]).inc();
    }

    pub(crate) fn snapshot_bytes(&self, direction: &str, bytes: u64) {
        let metrics = self.snapshots();
        if direction == "send" { metrics.send_bytes.inc_by(bytes) } else { metrics.receive_bytes.inc_by(bytes) }
    }

    pub(crate) fn log_compacted(&self) {
        self.snapshots().compactions.inc();
    }
}
