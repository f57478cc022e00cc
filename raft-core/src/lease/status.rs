//! What can be seen of read leases from outside.

use std::time::Duration;

use super::LeaseSettings;
use crate::types::NodeId;

/// A lease that a follower may hold, as its leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderStatus {
    /// Who.
    pub id: NodeId,
    /// Commits wait for what it acknowledges for so long at most, unless it is renewed.
    pub ends_in: Duration,
}

/// One look at the read leases of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The settings by which leases are given now: those of the committed configuration.
    pub settings: LeaseSettings,
    /// Whether this node may answer reads under a lease now: its own as leader, or one that its leader gave it.
    pub valid: bool,
    /// How long the lease that it has, usable or not, still runs here.
    pub ends_in: Option<Duration>,
    /// As leader: who may hold a lease.
    pub holders: Vec<HolderStatus>,
    /// As leader: a quorum has entries durably that it may not commit yet, since a holder lacks them or leases of earlier
    /// leaders may run.
    pub holds_back: bool,
    /// As leader: how long it waits at most for leases of the leaders before it; `None` once that is over.
    pub predecessors_wait: Option<Duration>,
}

impl LeaseStatus {
    /// The same some time later, if nothing has come meanwhile.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        let left = |ends_in: Duration| ends_in.checked_sub(time).filter(|left| !left.is_zero());
        self.ends_in = self.ends_in.and_then(left);
        self.valid &= self.ends_in.is_some();
        self.holders = self
            .holders
            .into_iter()
            .filter_map(|HolderStatus { id, ends_in }| left(ends_in).map(|ends_in| HolderStatus { id, ends_in }))
            .collect();
        self.predecessors_wait = self.predecessors_wait.map(|wait| wait.saturating_sub(time));
        self
    }
}
