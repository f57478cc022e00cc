//! The metrics as Prometheus sees them. Names, types and units are listed in `docs/metrics.md`.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Counter, Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};
use raft_core::status::{Role, Status};

use super::access::AccessMetrics;
use super::certificates::CertificateMetrics;
use super::leases::LeaseMetrics;
use super::marks::MarkMetrics;
use super::members::MemberMetrics;
use super::peers::PeerMetrics;
use super::snapshots::SnapshotMetrics;
use crate::status::NodeStatus;

/// Buckets of every duration: 50 µs to 10 s.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_5, 0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5,
    3.0, 6.0, 10.0,
];
/// Buckets of every number of entries in a batch.
const ENTRIES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];

/// All that a node counts, in a registry of its own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    proposals: IntCounterVec,
    proposals_in_flight: IntGauge,
    commit_seconds: Histogram,
    apply_seconds: Histogram,
    apply_batch_entries: Histogram,
    log_sync_seconds: Histogram,
    log_batch_entries: Histogram,
    reads: IntCounterVec,
    tick_delay_seconds: Histogram,
    inbound_dropped: IntCounterVec,
    messages_refused: IntCounter,
    fills_failed: IntCounter,
    access: AccessMetrics,
    certificates: CertificateMetrics,
    marks: MarkMetrics,
    snapshots: SnapshotMetrics,
    views: Views,
}

/// What is taken from the node's status when somebody looks.
#[derive(Debug)]
struct Views {
    has_leader: IntGauge,
    is_leader: IntGauge,
    role: IntGaugeVec,
    phase: IntGaugeVec,
    term: IntGauge,
    commit_index: IntGauge,
    applied_index: IntGauge,
    last_index: IntGauge,
    first_index: IntGauge,
    durable_index: IntGauge,
    uncommitted_bytes: IntGauge,
    disk_failed: IntGauge,
    broadcast_seconds: Gauge,
    leader_contact_seconds: Gauge,
    elections: IntCounterVec,
    pre_votes: IntCounter,
    leader_changes: IntCounter,
    check_quorum_step_downs: IntCounter,
    disk_stall_step_downs: IntCounter,
    handovers: IntCounterVec,
    append_rejections: IntCounter,
    slow_rounds: IntCounter,
    transport_refusals: IntCounterVec,
    leases: LeaseMetrics,
    members: MemberMetrics,
    peers: PeerMetrics,
}

/// Registers as it builds. A name that cannot be registered is a mistake of this file, which every test would meet.
pub(super) struct Builder<'a>(pub(super) &'a Registry);

impl Builder<'_> {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        match made.and_then(|metric| self.0.register(Box::new(metric.clone())).map(|()| metric)) {
            Ok(metric) => metric,
            Err(error) => panic!("a metric of this crate cannot be registered: {error}"),
        }
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn seconds_counter(&self, name: &str, help: &str) -> Counter {
        self.add(Counter::new(name, help))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn seconds_gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::new(name, help))
    }

    pub(super) fn seconds_gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::GaugeVec {
        self.add(prometheus::GaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    ///
    /// # Panics
    /// When two metrics of this crate have the same name.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let build = Builder(&registry);
        let metrics = Self {
            proposals: build.counters(
                "raft_proposals_total",
                "Writes asked of this node, by how they ended.",
                &["result"],
            ),
            proposals_in_flight: build.gauge("raft_proposals_in_flight", "Writes that this node is serving."),
            commit_seconds: build.histogram(
                "raft_commit_duration_seconds",
                "Time from the hand-over of a command to the driver until it is known committed; leaders only.",
                SECONDS,
            ),
            apply_seconds: build.histogram(
                "raft_apply_duration_seconds",
                "Time that the state machine took for a batch.",
                SECONDS,
            ),
            apply_batch_entries: build.histogram("raft_apply_batch_entries", "Entries applied at once.", ENTRIES),
            log_sync_seconds: build.histogram(
                "raft_log_sync_duration_seconds",
                "Time to write a batch to the log and sync it.",
                SECONDS,
            ),
            log_batch_entries: build.histogram("raft_log_batch_entries", "Entries made durable by one sync.", ENTRIES),
            reads: build.counters("raft_read_total", "Reads, by mode and by how they ended.", &["mode", "result"]),
            tick_delay_seconds: build.histogram(
                "raft_tick_delay_seconds",
                "How late the driver woke for a timer of the protocol.",
                SECONDS,
            ),
            inbound_dropped: build.counters(
                "raft_inbound_dropped_total",
                "Messages of peers that were dropped because a queue was full, by the bound.",
                &["bound"],
            ),
            messages_refused: build
                .counter("raft_messages_refused_total", "Messages of peers that no correct peer sends."),
            fills_failed: build.counter(
                "raft_fills_failed_total",
                "Appends that were dropped because their entries changed meanwhile or could not be read.",
            ),
            access: AccessMetrics::new(&build),
            certificates: CertificateMetrics::new(&build),
            marks: MarkMetrics::new(&build),
            snapshots: SnapshotMetrics::new(&build),
            views: Views::new(&build),
            registry: registry.clone(),
        };
        build
            .gauges("raft_build_info", "Always 1; the labels say what runs.", &["version"])
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        #[cfg(target_os = "linux")]
        register_process(&registry);
        metrics
    }

    /// The registry, to register more with.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All metrics as Prometheus text, the views brought up to `status`.
    pub(crate) fn text(&self, status: &NodeStatus) -> String {
        self.views.show(status);
        self.marks.show(status);
        self.snapshots.show(&status.snapshots);
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics cannot be encoded");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    pub(crate) fn write_begun(&self) {
        self.proposals_in_flight.inc();
    }

    pub(crate) fn write_ended(&self, result: &str) {
        self.proposals_in_flight.dec();
        self.proposals.with_label_values(&[result]).inc();
    }

    pub(crate) fn committed(&self, after: Duration) {
        self.commit_seconds.observe(after.as_secs_f64());
    }

    pub(crate) fn applied(&self, within: Duration, entries: usize) {
        self.apply_seconds.observe(within.as_secs_f64());
        self.apply_batch_entries.observe(entries as f64);
    }

    pub(crate) fn log_written(&self, within: Duration, entries: usize) {
        self.log_sync_seconds.observe(within.as_secs_f64());
        self.log_batch_entries.observe(entries as f64);
    }

    pub(crate) fn read_ended(&self, mode: &str, result: &str) {
        self.reads.with_label_values(&[mode, result]).inc();
    }

    pub(crate) fn tick_delayed(&self, by: Duration) {
        self.tick_delay_seconds.observe(by.as_secs_f64());
    }

    pub(crate) fn inbound_dropped(&self, bound: &str) {
        self.inbound_dropped.with_label_values(&[bound]).inc();
    }

    pub(crate) fn message_refused(&self) {
        self.messages_refused.inc();
    }

    pub(crate) fn fill_failed(&self) {
        self.fills_failed.inc();
    }

    #[cfg(all(feature = "rocksdb", feature = "quic", feature = "http"))]
    pub(crate) fn access(&self) -> &AccessMetrics {
        &self.access
    }

    #[cfg(all(feature = "rocksdb", feature = "quic", feature = "http"))]
    pub(crate) fn certificates(&self) -> &CertificateMetrics {
        &self.certificates
    }

    pub(crate) fn marks(&self) -> &MarkMetrics {
        &self.marks
    }

    /// What is counted of snapshots and of the log's cuts.
    pub(super) fn snapshots(&self) -> &SnapshotMetrics {
        &self.snapshots
    }
}

#[cfg(target_os = "linux")]
fn register_process(registry: &Registry) {
    let process = prometheus::process_collector::ProcessCollector::for_self();
    if let Err(error) = registry.register(Box::new(process)) {
        tracing::warn!(%error, "the metrics of the process are missing");
    }
}

impl Views {
    fn new(build: &Builder<'_>) -> Self {
        Self {
            has_leader: build.gauge("raft_has_leader", "1 when this node knows a leader."),
            is_leader: build.gauge("raft_is_leader", "1 when this node leads."),
            role: build.gauges("raft_role", "1 for the role that this node has.", &["role"]),
            phase: build.gauges("raft_node_phase", "1 for the phase of its life that this node is in.", &["phase"]),
            term: build.gauge("raft_term", "The term."),
            commit_index: build.gauge("raft_commit_index", "Known committed."),
            applied_index: build.gauge("raft_applied_index", "Applied here."),
            last_index: build.gauge("raft_last_index", "The last entry of the log here."),
            first_index: build.gauge("raft_first_index", "The first entry of the log here."),
            durable_index: build.gauge("raft_durable_index", "The log is synced here up to this entry."),
            uncommitted_bytes: build.gauge("raft_uncommitted_bytes", "Bytes proposed and not committed; leaders only."),
            disk_failed: build.gauge("raft_storage_failed", "1 when the log's disk failed; nothing is acknowledged."),
            broadcast_seconds: build.seconds_gauge(
                "raft_broadcast_time_seconds",
                "The last time until a quorum answered a round; far below the election timeout when all is well.",
            ),
            leader_contact_seconds: build
                .seconds_gauge("raft_leader_contact_seconds", "Time since this node last heard from a leader."),
            elections: build.counters("raft_elections_total", "Elections that this node began or won.", &["result"]),
            pre_votes: build.counter("raft_pre_votes_total", "Rounds of PreVote that this node began."),
            leader_changes: build.counter("raft_leader_changes_total", "Times that the known leader changed."),
            check_quorum_step_downs: build
                .counter("raft_check_quorum_step_downs_total", "Times that it stepped down, hearing from no quorum."),
            disk_stall_step_downs: build
                .counter("raft_disk_stall_step_downs_total", "Times that it stepped down because its disk stalled."),
            handovers: build.counters(
                "raft_handovers_total",
                "Handovers of the leadership: begun by this node as leader, done or given up; taken by it as target.",
                &["result"],
            ),
            append_rejections: build
                .counter("raft_append_rejections_total", "Appends of this leader that a follower's log did not fit."),
            slow_rounds: build.counter(
                "raft_slow_rounds_total",
                "Rounds that a quorum answered only after a third of the election timeout.",
            ),
            transport_refusals: build.counters(
                "raft_transport_refusals_total",
                "Frames and connections that were refused, by reason.",
                &["reason"],
            ),
            leases: LeaseMetrics::new(build),
            members: MemberMetrics::new(build),
            peers: PeerMetrics::new(build),
        }
    }

    fn show(&self, status: &NodeStatus) {
        let raft = &status.raft;
        self.show_position(raft);
        self.show_counts(raft);
        for phase in ["founding", "replaying", "running", "stopping", "stopped", "failed"] {
            self.phase.with_label_values(&[phase]).set(i64::from(status.phase.name() == phase));
        }
        self.disk_failed.set(i64::from(status.disk_failed.is_some()));
        for (reason, count) in &status.refusals {
            raise(&self.transport_refusals.with_label_values(&[*reason]), *count);
        }
        self.leases.show(status);
        self.members.show(status);
        self.peers.show(status);
    }

    fn show_position(&self, raft: &Status) {
        self.has_leader.set(i64::from(raft.leader.is_some()));
        self.is_leader.set(i64::from(raft.role == Role::Leader));
        for role in [Role::Follower, Role::PreCandidate, Role::Candidate, Role::Leader] {
            self.role.with_label_values(&[role.name()]).set(i64::from(raft.role == role));
        }
        self.term.set(number(raft.term.0));
        self.commit_index.set(number(raft.commit_index.0));
        self.applied_index.set(number(raft.applied_index.0));
        self.last_index.set(number(raft.last.index.0));
        self.first_index.set(number(raft.first_index.0));
        self.durable_index.set(number(raft.durable_index.0));
        self.uncommitted_bytes.set(number(raft.uncommitted_bytes));
        self.broadcast_seconds.set(raft.broadcast_time.unwrap_or_default().as_secs_f64());
        self.leader_contact_seconds.set(raft.leader_contact.unwrap_or_default().as_secs_f64());
    }

    fn show_counts(&self, raft: &Status) {
        let counts = &raft.counters;
        raise(&self.elections.with_label_values(&["started"]), counts.elections_started);
        raise(&self.elections.with_label_values(&["won"]), counts.elections_won);
        raise(&self.pre_votes, counts.pre_votes_started);
        raise(&self.leader_changes, counts.leader_changes);
        raise(&self.check_quorum_step_downs, counts.check_quorum_step_downs);
        raise(&self.disk_stall_step_downs, counts.disk_stall_step_downs);
        raise(&self.handovers.with_label_values(&["begun"]), counts.handovers_begun);
        raise(&self.handovers.with_label_values(&["done"]), counts.handovers_done);
        raise(&self.handovers.with_label_values(&["given_up"]), counts.handovers_given_up);
        raise(&self.handovers.with_label_values(&["taken"]), counts.handovers_taken);
        raise(&self.append_rejections, counts.append_rejections);
        raise(&self.slow_rounds, counts.slow_rounds);
    }
}

/// Brings a counter up to a count that is kept elsewhere. Two that look at once may add twice at worst what came
/// between their looks, which a lock of the registry's callers would not be worth.
pub(super) fn raise(counter: &IntCounter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
