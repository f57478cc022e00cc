//! The metrics of the membership.

use prometheus::{IntCounter, IntGauge, IntGaugeVec};
use raft_core::membership::Phase;

use super::registered::{Builder, number, raise};
use crate::status::NodeStatus;

#[derive(Debug)]
pub(super) struct MemberMetrics {
    members: IntGaugeVec,
    is_voter: IntGauge,
    configuration_index: IntGauge,
    change_running: IntGauge,
    pending: IntGauge,
    removed: IntGauge,
    rolled_back: IntCounter,
}

impl MemberMetrics {
    pub(super) fn new(build: &Builder<'_>) -> Self {
        Self {
            members: build.gauges(
                "raft_members",
                "Members of the configuration in force, by standing: voter, outgoing (voters before a joint change) and \
                 learner.",
                &["standing"],
            ),
            is_voter: build.gauge("raft_is_voter", "1 when this node votes, in the configuration that it has in force."),
            configuration_index: build
                .gauge("raft_configuration_index", "The entry of the configuration in force; 0 for the founders'."),
            change_running: build.gauge(
                "raft_membership_change_phase",
                "Where a change of the members stands: 0 none, 1 catching up, 2 joint.",
            ),
            pending: build.gauge("raft_members_pending", "Nodes that are no members yet and were heard or asked for here."),
            removed: build.gauge("raft_removed", "1 when this node knows that it was removed from its cluster."),
            rolled_back: build.counter(
                "raft_membership_changes_rolled_back_total",
                "Changes of the members that this node took back as leader since the voters to be had fallen silent.",
            ),
        }
    }

    pub(super) fn show(&self, status: &NodeStatus) {
        let configuration = &status.raft.configuration;
        let counts = [
            ("voter", configuration.voters().len()),
            ("outgoing", configuration.outgoing().len()),
            ("learner", configuration.learners().count()),
        ];
        for (standing, count) in counts {
            self.members.with_label_values(&[standing]).set(number(count as u64));
        }
        let votes = status.id.is_some_and(|id| configuration.is_voter(id)) && status.raft.removed.is_none();
        self.is_voter.set(i64::from(votes));
        self.configuration_index.set(number(configuration.index().0));
        self.change_running.set(match configuration.phase() {
            Phase::Settled => 0,
            Phase::CatchingUp => 1,
            Phase::Joint => 2,
        });
        self.pending.set(number(status.pending.len() as u64));
        self.removed.set(i64::from(status.raft.removed.is_some()));
        raise(&self.rolled_back, status.raft.counters.changes_rolled_back);
    }
}
