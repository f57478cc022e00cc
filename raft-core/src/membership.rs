//! Who decides.

use crate::mutant::{Mutant, unless};
use crate::types::NodeId;

/// The voters in force. A quorum is a majority of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    voters: Vec<NodeId>,
}

impl Configuration {
    /// A configuration of these voters; order and repetition do not matter.
    #[must_use]
    pub fn new(voters: impl IntoIterator<Item = NodeId>) -> Self {
        let mut voters: Vec<_> = voters.into_iter().collect();
        voters.sort_unstable();
        voters.dedup();
        Self { voters }
    }

    /// The voters in rising order.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// Whether `id` votes.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.binary_search(&id).is_ok()
    }

    /// How many voters make a quorum.
    #[must_use]
    pub fn quorum(&self) -> usize {
        let majority = self.voters.len() / 2 + 1;
        unless(Mutant::QuorumTooSmall, majority, (majority - 1).max(1))
    }
}
