//! What a node measures of itself: `/metrics` of its ops listener.

use std::time::{Duration, SystemTime};

use super::Thresholds;
use super::disk::judge_sync;
use super::finding::{Check, Report};
use crate::cli::client::{Client, Endpoints};
use crate::cli::exit::CliError;

/// Between two looks at what is counted.
const PAUSE: Duration = Duration::from_secs(1);
/// Syncs that a node has to have done before their times say anything.
const SYNCS_MIN: f64 = 50.0;

/// A disk that failed no longer ago is told of: the node has started again since, and may have hidden it.
const FAILURE_RECENT: Duration = Duration::from_secs(24 * 3600);

/// What one scrape says.
struct Metrics(String);

impl Metrics {
    async fn of(client: &Client) -> Result<Self, String> {
        let (status, reply) = client.answer("/metrics").await.map_err(|error| error.to_string())?;
        if !status.is_success() {
            return Err(format!("it answers {status}"));
        }
        Ok(Self(String::from_utf8_lossy(&reply.body).into_owned()))
    }

    /// The series of a name, as labels and value.
    fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let (series, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            let is_it = series.is_empty() || series.starts_with('{');
            Some((series, value.parse().ok()?)).filter(|_| is_it)
        })
    }

    fn sum(&self, name: &str) -> f64 {
        self.series(name).map(|(_, value)| value).sum()
    }

    /// The least bound of a histogram that holds this part of what it counted, in seconds; none when it counted little.
    fn quantile(&self, histogram: &str, part: f64) -> Option<Duration> {
        let count = self.sum(&format!("{histogram}_count"));
        let bucket = format!("{histogram}_bucket");
        let bounds = self.series(&bucket).filter(|(_, below)| *below >= part * count);
        let bound = bounds.filter_map(|(labels, _)| label(labels, "le")?.parse::<f64>().ok()).min_by(f64::total_cmp);
        let bound = bound.filter(|bound| bound.is_finite() && count >= SYNCS_MIN)?;
        Some(Duration::from_secs_f64(bound))
    }
}

/// The value of a label.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split_once(&format!("{name}=\""))?.1.split('"').next()
}

/// Looks at one node's metrics. The election timeout is known when a node's settings were given; all nodes of a cluster
/// have the same.
pub(super) async fn examine(
    endpoints: &Endpoints,
    url: &str,
    election_timeout: Option<Duration>,
    thresholds: &Thresholds,
    report: &mut Report,
) -> Result<(), CliError> {
    // As probes are asked: in plain HTTP, and showing nothing of who asks.
    let client = Client::to(vec![url.to_owned()], endpoints.timeout())?;
    let first = match Metrics::of(&client).await {
        Ok(metrics) => metrics,
        Err(error) => {
            report.not_looked_at.push(format!("metrics at {url}: {error}"));
            return Ok(());
        }
    };
    report.looked_at.push(format!("metrics at {url}"));
    certificates(&first, url, thresholds, report);
    if first.sum("raft_storage_failed") > 0.0 {
        let fix = "read the node's log for the call that failed; replace the disk, then start the node";
        report.find(Check::NodeFailed, "a node's disk has failed", url, "raft_storage_failed is 1", fix);
    }
    earlier_failure(&first, url, report);
    if let (Some(timeout), Some(slow)) = (election_timeout, first.quantile("raft_log_sync_duration_seconds", 0.99)) {
        let evidence = format!("one of a hundred writes of its log takes more than half of {slow:?}");
        // A bucket's bound is up to twice what was measured.
        judge_sync(slow / 2, timeout, url, evidence, report);
    }
    tokio::time::sleep(PAUSE).await;
    let Ok(second) = Metrics::of(&client).await else { return Ok(()) };
    let slow = second.sum("raft_slow_rounds_total") - first.sum("raft_slow_rounds_total");
    if slow > 0.0 {
        report.find(
            Check::ElectionTimeoutShort,
            "the election timeout is too short for this network and these disks",
            url,
            format!("within {PAUSE:?} a quorum answered {slow} rounds only after a third of the election timeout"),
            "find what is slow (disk, network, CPU); if it is as it is, set election_timeout to twice of what it is, \
             and heartbeat_interval to a fifth of that, on all nodes, one after the other",
        );
    }
    Ok(())
}

/// A disk that failed in an earlier life of the node. A time that is far ahead says nothing: the clock was wrong.
fn earlier_failure(metrics: &Metrics, url: &str, report: &mut Report) {
    let noted = metrics.sum("raft_storage_last_failure_timestamp_seconds");
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(noted.clamp(0.0, 1e11));
    let now = SystemTime::now();
    let distance = now.duration_since(at).unwrap_or_else(|ahead| ahead.duration());
    if noted > 0.0 && distance < FAILURE_RECENT {
        let evidence = format!(
            "raft_storage_last_failure_timestamp_seconds says {}; the node has started again since",
            humantime::format_rfc3339_seconds(at)
        );
        let fix = "look at the machine's disk (dmesg, SMART, the volume's provider) and at the node's log before that \
                   start; a disk that failed once is replaced: a blank one is filled by the others";
        report.find(Check::NodeFailed, "a node's disk has failed within a day", url, evidence, fix);
    }
}

fn certificates(metrics: &Metrics, url: &str, thresholds: &Thresholds, report: &mut Report) {
    for (labels, end) in metrics.series("raft_certificate_expiry_seconds") {
        let usage = label(labels, "usage").unwrap_or("peer");
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(end.clamp(0.0, 1e11));
        let evidence = format!("the {usage} certificate in use holds until {}", humantime::format_rfc3339_seconds(end));
        let fix = format!(
            "put a new certificate and its key in the places of {usage}.tls.cert and {usage}.tls.key; no restart"
        );
        let left = end.duration_since(SystemTime::now()).map(|left| left.as_secs() / (24 * 3600));
        match left {
            Err(_) => report.find(Check::CertificateExpired, "a certificate has expired", url, evidence, fix),
            Ok(days) if days < u64::from(thresholds.certificate_days) => {
                let what = format!("a certificate expires in {days} days");
                report.find(Check::CertificateExpires, what, url, evidence, fix);
            }
            Ok(_) => {}
        }
    }
    for (labels, _) in metrics.series("raft_certificate_unusable").filter(|(_, value)| *value > 0.0) {
        let usage = label(labels, "usage").unwrap_or("peer");
        report.find(
            Check::CertificateNotReloaded,
            "a new certificate cannot be used, and the old one still is",
            url,
            format!("raft_certificate_unusable of usage {usage} is 1; the node's events say why"),
            "raft-node events --limit 20; then put good files there: they are looked at every second",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_and_quantiles_are_read() {
        let metrics = Metrics(
            "# HELP h x\nh_bucket{le=\"0.01\"} 10\nh_bucket{le=\"0.02\"} 99\nh_bucket{le=\"+Inf\"} 100\nh_count 100\n\
             a{usage=\"peer\"} 2\nab 5\n"
                .into(),
        );
        assert_eq!(metrics.sum("a"), 2.0);
        assert_eq!(metrics.quantile("h", 0.99), Some(Duration::from_millis(20)));
        assert_eq!(metrics.quantile("h", 0.999), None);
        let failed = |seconds_ago: f64| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
            let mut report = Report::default();
            let text = format!("raft_storage_last_failure_timestamp_seconds {}\n", now - seconds_ago);
            earlier_failure(&Metrics(text), "n1", &mut report);
            !report.findings.is_empty()
        };
        assert!(failed(60.0) && failed(-60.0) && !failed(100_000.0) && !failed(-100_000.0));
        assert_eq!(label("{le=\"0.5\",usage=\"x\"}", "usage"), Some("x"));
    }
}
