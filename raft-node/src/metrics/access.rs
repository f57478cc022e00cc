//! Access control: what became of looks at the token file.

use prometheus::{IntCounterVec, IntGauge};

use super::registered::Builder;

const USED: &str = "used";
const UNUSABLE: &str = "unusable";

/// See the module.
#[derive(Debug)]
pub(crate) struct AccessMetrics {
    reloads: IntCounterVec,
    unusable: IntGauge,
    identities: IntGauge,
}

impl AccessMetrics {
    pub(super) fn new(build: &Builder<'_>) -> Self {
        let reloads = build.counters(
            "raft_access_reloads_total",
            "Token files that changed while the node ran: used, or unusable.",
            &["result"],
        );
        // So that they are there before anything happens.
        for result in [USED, UNUSABLE] {
            reloads.with_label_values(&[result]).inc_by(0);
        }
        Self {
            reloads,
            unusable: build.gauge(
                "raft_access_unusable",
                "1 while the token file holds what cannot be used, and the last good one is used instead.",
            ),
            identities: build.gauge("raft_access_identities", "Identities that are let in; 0 when anybody is."),
        }
    }

    /// Shows how many identities there are, and whether the file holds what cannot be used.
    pub(crate) fn show(&self, identities: usize, unusable: bool) {
        self.identities.set(i64::try_from(identities).unwrap_or(i64::MAX));
        self.unusable.set(i64::from(unusable));
    }

    /// Counts a change of the file.
    pub(crate) fn changed(&self, usable: bool) {
        self.reloads.with_label_values(&[if usable { USED } else { UNUSABLE }]).inc();
    }
}
