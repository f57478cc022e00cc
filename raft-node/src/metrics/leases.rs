//! The metrics of read leases.

use prometheus::{Counter, Gauge, IntCounter, IntGauge};

use super::registered::{Builder, number, raise};
use crate::status::NodeStatus;

#[derive(Debug)]
pub(super) struct LeaseMetrics {
    valid: IntGauge,
    holders: IntGauge,
    duration_seconds: Gauge,
    holds_back: IntGauge,
    held: IntCounter,
    granted: IntCounter,
    passed_over: IntCounter,
    holds_back_total: IntCounter,
    held_back_seconds: Counter,
    clock_jumps: IntCounter,
}

impl LeaseMetrics {
    pub(super) fn new(build: &Builder<'_>) -> Self {
        Self {
            valid: build.gauge("raft_read_lease_valid", "1 when this node may answer reads under a lease now."),
            holders: build.gauge("raft_read_lease_holders", "As leader: followers that may hold a read lease now."),
            duration_seconds: build.seconds_gauge(
                "raft_read_lease_duration_seconds",
                "How long a read lease is promised for at most; 0 when leases are off.",
            ),
            holds_back: build.gauge(
                "raft_read_lease_holds_back",
                "As leader: 1 while a quorum has entries that wait for a holder of a lease, or for leases of earlier leaders.",
            ),
            held: build.counter(
                "raft_read_lease_held_total",
                "Read leases and renewals that this node was given as a follower.",
            ),
            granted: build.counter(
                "raft_read_lease_granted_total",
                "Read leases and renewals that this node gave as leader.",
            ),
            passed_over: build.counter(
                "raft_read_lease_requests_passed_over_total",
                "Requests for a read lease that this node did not answer as leader.",
            ),
            holds_back_total: build.counter(
                "raft_read_lease_holds_back_total",
                "Times that commits began to wait for leases though a quorum had the entries.",
            ),
            held_back_seconds: build.seconds_counter(
                "raft_read_lease_held_back_seconds_total",
                "How long commits waited for leases in all.",
            ),
            clock_jumps: build.counter(
                "raft_clock_jumps_total",
                "Times that the clocks of this machine jumped against each other, as when it slept.",
            ),
        }
    }

    pub(super) fn show(&self, status: &NodeStatus) {
        let (leases, counters) = (&status.raft.leases, &status.raft.counters);
        self.valid.set(i64::from(leases.valid));
        self.holders.set(number(leases.holders.len() as u64));
        self.duration_seconds.set(leases.settings.duration.as_secs_f64());
        self.holds_back.set(i64::from(leases.holds_back));
        raise(&self.held, counters.leases_held);
        raise(&self.granted, counters.leases_granted);
        raise(&self.passed_over, counters.lease_requests_passed_over);
        raise(&self.holds_back_total, counters.lease_holds_back);
        let seconds = counters.lease_held_back_for.as_secs_f64();
        self.held_back_seconds.inc_by((seconds - self.held_back_seconds.get()).max(0.0));
        raise(&self.clock_jumps, counters.clock_jumps);
    }
}
