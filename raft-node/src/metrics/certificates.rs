//! Certificates: when they end, and what became of looks at their files.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec};

use super::registered::Builder;

const USED: &str = "used";
const UNUSABLE: &str = "unusable";

/// See the module.
#[derive(Debug)]
pub(crate) struct CertificateMetrics {
    expiry_seconds: GaugeVec,
    reloads: IntCounterVec,
    unusable: IntGaugeVec,
}

impl CertificateMetrics {
    pub(super) fn new(build: &Builder<'_>) -> Self {
        Self {
            expiry_seconds: build.seconds_gauges(
                "raft_certificate_expiry_seconds",
                "When the certificate in use ends, in seconds since the Unix epoch.",
                &["usage"],
            ),
            reloads: build.counters(
                "raft_certificate_reloads_total",
                "Certificates that changed while the node ran: used, or unusable.",
                &["usage", "result"],
            ),
            unusable: build.gauges(
                "raft_certificate_unusable",
                "1 while the files hold what cannot be used, and the last good certificate is used instead.",
                &["usage"],
            ),
        }
    }

    /// Shows when the certificate ends that is used for `usage`, and whether its files hold what cannot be used.
    pub(crate) fn show(&self, usage: &str, expires: SystemTime, unusable: bool) {
        let seconds = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.expiry_seconds.with_label_values(&[usage]).set(seconds);
        self.unusable.with_label_values(&[usage]).set(i64::from(unusable));
        // So that they are there before anything happens.
        for result in [USED, UNUSABLE] {
            self.reloads.with_label_values(&[usage, result]).inc_by(0);
        }
    }

    /// Counts a change of the files.
    pub(crate) fn changed(&self, usage: &str, usable: bool) {
        self.reloads.with_label_values(&[usage, if usable { USED } else { UNUSABLE }]).inc();
    }
}
