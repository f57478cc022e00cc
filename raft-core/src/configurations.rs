//! The configurations that a log sets, by index: a function of the log, as its runs of terms are. Thesis 4.1
//! \[TH-ON-APPEND\].

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::membership::Configuration;
use crate::mutant::{Mutant, broken};
use crate::types::{Index, NodeId};

/// Configurations that may be kept because they are not applied yet; a leader begins no change beyond it. Followers keep
/// what their leader's log holds.
pub(crate) const CONFIGURATIONS_KEPT_MAX: usize = 32;

/// The newest configuration at or before what is applied, and all after it, in order. Never empty.
#[derive(Clone, Debug)]
pub(crate) struct Configurations {
    kept: VecDeque<Arc<Configuration>>,
    /// Rises whenever another one is in force.
    version: u64,
}

impl Configurations {
    /// Those that a store recovered, on top of the founders.
    pub(crate) fn recovered(founders: Configuration, recovered: Vec<Arc<Configuration>>) -> Self {
        let mut kept: VecDeque<_> = recovered.into_iter().filter(|configuration| !configuration.is_empty()).collect();
        if kept.front().is_some_and(|oldest| oldest.index() == Index::ZERO) && !founders.is_empty() {
            // Snapshots of earlier versions do not know the contexts of the founders.
            kept.pop_front();
        }
        if kept.front().is_none_or(|oldest| oldest.index() > Index::ZERO) {
            // Known whatever the log's beginning is; it goes with the first compaction.
            kept.push_front(Arc::new(founders));
        }
        Self { kept, version: 0 }
    }

    /// The newest one, committed or not: it acts from the moment it is appended.
    pub(crate) fn in_force(&self) -> &Arc<Configuration> {
        self.kept.back().expect("never empty")
    }

    /// The one as of entry `index`, which is not before what is applied.
    pub(crate) fn at(&self, index: Index) -> &Arc<Configuration> {
        let newer = self.kept.partition_point(|configuration| configuration.index() <= index);
        &self.kept[newer.saturating_sub(1)]
    }

    /// Whether the one in force is committed, when everything up to `commit` is.
    pub(crate) fn is_committed(&self, commit: Index) -> bool {
        self.in_force().index() <= commit
    }

    /// The one to go by. \[TH-ON-APPEND\]
    pub(crate) fn deciding(&self, commit: Index) -> &Arc<Configuration> {
        if broken(Mutant::ConfigurationOnCommit) { self.at(commit) } else { self.in_force() }
    }

    /// Whether `id` may ask to lead, when everything up to `commit` is committed: it votes, or voted in a configuration
    /// that may still turn out to be the one. The leader that appended C_new without itself may be the only one that has
    /// it: unless it campaigns, nobody can win against its log. Thesis 4.2.2
    pub(crate) fn may_campaign(&self, id: NodeId, commit: Index) -> bool {
        let from = self.at(commit).index();
        self.kept.iter().rev().take_while(|configuration| configuration.index() >= from).any(|it| it.is_voter(id))
    }

    /// All members of the configurations that may turn out to be the one, when everything up to `commit` is committed.
    pub(crate) fn audience(&self, commit: Index) -> BTreeSet<NodeId> {
        let from = self.at(commit).index();
        let may_be = self.kept.iter().filter(|configuration| configuration.index() >= from);
        may_be.flat_map(|configuration| configuration.seats()).map(|seat| seat.id).collect()
    }

    /// All that are kept, in order.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &Arc<Configuration>> {
        self.kept.iter()
    }

    /// How many are kept.
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// How often another one came into force.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// An entry was appended that sets this one.
    pub(crate) fn append(&mut self, configuration: Arc<Configuration>) {
        let before = self.in_force().index();
        assert!(configuration.index() > before, "configuration {} after {before}", configuration.index());
        self.kept.push_back(configuration);
        self.version += 1;
    }

    /// The log lost `from` and all after it.
    pub(crate) fn truncate(&mut self, from: Index) {
        while self.kept.len() > 1 && self.in_force().index() >= from && !broken(Mutant::ConfigurationNotRolledBack) {
            self.kept.pop_back();
            self.version += 1;
        }
    }

    /// A snapshot that ends with `last` took the place of the log up to there. `keeps` says whether what follows stayed.
    pub(crate) fn install(&mut self, configuration: &Configuration, last: Index, keeps: bool) {
        let before = Arc::clone(self.in_force());
        let known = Arc::clone(self.at(last));
        self.kept.retain(|later| keeps && later.index() > last);
        // What is known here may be of entries that were never committed. But snapshots of earlier versions do not know the
        // contexts of the founders.
        let founders = configuration.index() == Index::ZERO && known.index() == Index::ZERO;
        let known_is_right = configuration.is_empty() || founders;
        self.kept.push_front(if known_is_right { known } else { Arc::new(configuration.clone()) });
        self.version += u64::from(*self.in_force() != before);
    }

    /// Everything up to `applied` is applied: what was in force before is not asked for any more.
    pub(crate) fn forget_before(&mut self, applied: Index) {
        while self.kept.get(1).is_some_and(|next| next.index() <= applied) {
            self.kept.pop_front();
        }
    }
}
