//! Marks and the comparison of states.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::registered::{Builder, number};
use crate::status::NodeStatus;

/// See the module.
#[derive(Debug)]
pub(crate) struct MarkMetrics {
    proposed: IntCounterVec,
    mismatches: IntCounter,
    mark_index: IntGauge,
    fenced: IntGauge,
    rebuilding: IntGauge,
}

impl MarkMetrics {
    pub(super) fn new(build: &Builder<'_>) -> Self {
        Self {
            proposed: build.counters("raft_marks_total", "Marks that this node made, by how they ended.", &["result"]),
            mismatches: build
                .counter("raft_digest_mismatch_total", "Marks at which the states of members were seen to differ."),
            mark_index: build.gauge("raft_mark_index", "The newest mark passed here."),
            fenced: build.gauge("raft_fenced", "1 when the state here differs from the majority's and is not read."),
            rebuilding: build.gauge("raft_rebuilding", "1 when the state is being replaced on request."),
        }
    }

    pub(super) fn show(&self, status: &NodeStatus) {
        self.mark_index.set(number(status.marks.newest.unwrap_or_default().0));
        self.fenced.set(i64::from(status.marks.fence.is_some()));
        self.rebuilding.set(i64::from(status.marks.rebuilding));
    }

    pub(crate) fn proposed(&self, result: &str) {
        self.proposed.with_label_values(&[result]).inc();
    }

    pub(crate) fn digests_differed(&self) {
        self.mismatches.inc();
    }
}
