//! What was refused, counted by reason and logged once per peer and reason.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use raft_core::ports::RefusalCounts;

/// Pairs of peer and reason whose first occurrence was logged. When it is full, later pairs are only counted.
const LOGGED_MAX: usize = 1024;

/// Counters by reason. Reasons are words of this crate, so there are few.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    logged: Mutex<BTreeSet<(String, &'static str)>>,
}

impl Refusals {
    /// Counts `reason`, and logs `text` when it is the first time for this peer.
    pub(crate) fn record(&self, peer: &dyn std::fmt::Display, reason: &'static str, text: &dyn std::fmt::Display) {
        self.count(reason);
        if self.is_first(peer, reason) {
            tracing::warn!(%peer, reason, "{text} (further ones of this peer are only counted)");
        }
    }

    /// Counts without a word in the log.
    pub(crate) fn count(&self, reason: &'static str) {
        *self.counts.lock().entry(reason).or_insert(0) += 1;
    }

    fn is_first(&self, peer: &dyn std::fmt::Display, reason: &'static str) -> bool {
        let mut logged = self.logged.lock();
        logged.len() < LOGGED_MAX && logged.insert((peer.to_string(), reason))
    }

    pub(crate) fn counts(&self) -> RefusalCounts {
        self.counts.lock().iter().map(|(reason, count)| (*reason, *count)).collect()
    }
}
