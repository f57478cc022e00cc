//! The metrics of a build without Prometheus.

use std::time::Duration;

/// Counts nothing: this build has no feature `metrics`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metrics;

// The same methods as the registered ones, which do take `&self`.
#[expect(clippy::unused_self, reason = "the callers do not know which of the two they call")]
impl Metrics {
    /// Metrics that count nothing.
    #[must_use]
    pub fn new() -> Self {
        Self
    }

    pub(crate) fn write_begun(&self) {}

    pub(crate) fn write_ended(&self, _result: &str) {}

    pub(crate) fn committed(&self, _after: Duration) {}

    pub(crate) fn applied(&self, _within: Duration, _entries: usize) {}

    pub(crate) fn log_written(&self, _within: Duration, _entries: usize) {}

    pub(crate) fn read_ended(&self, _mode: &str, _result: &str) {}

    pub(crate) fn tick_delayed(&self, _by: Duration) {}

    pub(crate) fn inbound_dropped(&self, _bound: &str) {}

    pub(crate) fn message_refused(&self) {}

    pub(crate) fn fill_failed(&self) {}

    pub(crate) fn marks(&self) -> &Self {
        self
    }

    pub(crate) fn proposed(&self, _result: &str) {}

    pub(crate) fn digests_differed(&self) {}

    pub(crate) fn snapshot_done(&self, _kind: &str, _within: Duration) {}

    pub(crate) fn snapshot_failed(&self, _kind: &str) {}

    pub(crate) fn snapshot_bytes(&self, _direction: &str, _bytes: u64) {}

    pub(crate) fn log_compacted(&self) {}
}
