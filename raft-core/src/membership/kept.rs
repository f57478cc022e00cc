//! The configurations of a log as a store keeps them.

use std::sync::Arc;

use super::Configuration;
use crate::types::Index;

/// The newest configuration at or before a log's beginning, if one was set, and all after it: what
/// [`Recovered::configurations`](crate::ports::Recovered::configurations) gives. A store changes it as it changes its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptConfigurations {
    kept: Vec<Arc<Configuration>>,
}

impl KeptConfigurations {
    /// Those that were kept at the log's beginning, if any.
    #[must_use]
    pub fn beginning_with(configuration: Option<Arc<Configuration>>) -> Self {
        Self { kept: configuration.into_iter().filter(|configuration| !configuration.is_empty()).collect() }
    }

    /// All of them, in order.
    #[must_use]
    pub fn all(&self) -> &[Arc<Configuration>] {
        &self.kept
    }

    /// The newest at or before `index`, if one was set.
    #[must_use]
    pub fn at(&self, index: Index) -> Option<&Arc<Configuration>> {
        let newer = self.kept.partition_point(|configuration| configuration.index() <= index);
        newer.checked_sub(1).map(|at| &self.kept[at])
    }

    /// Entries were appended that set these, as [`Span::configurations`](crate::runs::Span::configurations) gives them.
    pub fn append(&mut self, configurations: impl IntoIterator<Item = Arc<Configuration>>) {
        self.kept.extend(configurations);
    }

    /// The log lost `from` and all after it.
    pub fn truncate(&mut self, from: Index) {
        self.kept.retain(|configuration| configuration.index() < from);
    }

    /// A snapshot took the place of the log up to `last`; `keeps` says whether what follows stayed.
    pub fn install(&mut self, configuration: &Configuration, last: Index, keeps: bool) {
        let named = (!configuration.is_empty()).then(|| Arc::new(configuration.clone()));
        let known = named.or_else(|| self.at(last).cloned());
        let later = std::mem::take(&mut self.kept).into_iter().filter(|later| keeps && later.index() > last);
        self.kept = known.into_iter().chain(later).collect();
    }

    /// The log begins after `base` now.
    pub fn compact(&mut self, base: Index) {
        let before = self.kept.partition_point(|configuration| configuration.index() <= base);
        self.kept.drain(..before.saturating_sub(1));
    }
}
