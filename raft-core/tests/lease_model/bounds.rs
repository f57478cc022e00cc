//! What one search covers.

use crate::log::{ENTRIES_MAX, TERMS_MAX};

/// The most nodes of a model.
pub(crate) const NODES_MAX: usize = 4;

/// A clock may run at any rate from 1/2 to 2 times true time. With this factor both margins are exact in small numbers:
/// a tick of true time is two units, which a slow clock shows as one unit and a fast one as four. A promise of `d` units
/// is used for `d / 2` of the holder's units, which are `d / 2` ticks (`d` units of true time) when its clock is slow,
/// and honoured for `2 d` of the giver's units, which are the same `d / 2` ticks when its clock is fast.
pub(crate) const DRIFT_FACTOR: u8 = 2;

/// The nodes in a set, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Nodes(pub(crate) u8);

impl Nodes {
    pub(crate) const ALL: Self = Self(u8::MAX);

    pub(crate) const fn has(self, node: usize) -> bool {
        self.0 >> node & 1 == 1
    }

    pub(crate) const fn with(self, node: usize) -> Self {
        Self(self.0 | 1 << node)
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether these are a majority of `voters`.
    pub(crate) const fn majority_of(self, voters: Self) -> bool {
        2 * (self.0 & voters.0).count_ones() > voters.0.count_ones()
    }
}

/// Who votes and who learns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Configuration {
    pub(crate) voters: Nodes,
    pub(crate) learners: Nodes,
}

impl Configuration {
    pub(crate) const fn voters(voters: u8) -> Self {
        Self { voters: Nodes(voters), learners: Nodes(0) }
    }

    pub(crate) const fn members(self) -> Nodes {
        self.voters.and(self.learners)
    }
}

/// How the clocks of the nodes move while a tick of true time passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Clocks {
    /// What a node holds is measured by a clock as slow as may be, what it gave by one as fast as may be. No other rates
    /// allow more: a holder with a faster clock is one that does not use the end of its lease, and a giver with a slower
    /// one is a leader that puts off a commit, both of which a node may do anyway.
    Worst,
    /// Each node at each tick: slow, fast, or asleep (the holder's clock goes on, the giver's stands still).
    Any,
}

/// In which order a read under a lease looks at the lease and at the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// Check, then note the last index.
    CheckThenNote,
    /// Note, then check, then wait for the higher of the noted index and the one that the lease names.
    NoteThenCheck,
}

/// The limits and the variant of one search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) name: &'static str,
    pub(crate) nodes: usize,
    /// The configuration that the search starts with.
    pub(crate) before: Configuration,
    /// The one that a leader may change to.
    pub(crate) after: Option<Configuration>,
    /// Who campaigns: a node that does not might as well have a long election timeout.
    pub(crate) campaigners: Nodes,
    /// Who asks for leases: a node that does not serves no such reads.
    pub(crate) askers: Nodes,
    /// The highest term.
    pub(crate) terms: u8,
    /// The longest log.
    pub(crate) entries: u8,
    /// Writes that leaders take, over all terms.
    pub(crate) writes: u8,
    /// Restarts, over all nodes.
    pub(crate) restarts: u8,
    /// D, the lease duration, in units: even, so that it is a whole number of ticks.
    pub(crate) duration: u8,
    pub(crate) clocks: Clocks,
    pub(crate) order: Order,
    /// Whether an append may carry a part of what the leader has, as one does that was sent earlier.
    pub(crate) partial_appends: bool,
    /// Leaders of terms below this one send rounds, and so have leases and give them. Nobody succeeds the leader of the last
    /// term: what it holds and gives cannot be too old.
    pub(crate) rounds_below: u8,
    /// Whether an append may be on its way while anything happens. Else it arrives as it is sent (any part of the log, at
    /// any time while the leader leads), and its answer alone is on its way.
    pub(crate) slow_appends: bool,
    /// Whether reads are followed whose node has all writes that the read must see: none of them can go wrong unless a
    /// committed entry is lost, and that is looked for as well.
    pub(crate) all_reads: bool,
}

impl Bounds {
    /// Bounds that the types cannot hold are refused.
    pub(crate) fn checked(self) -> Self {
        assert!(self.nodes <= NODES_MAX, "{}: {} nodes, {NODES_MAX} at most", self.name, self.nodes);
        assert!(self.terms <= TERMS_MAX, "{}: {} terms, {TERMS_MAX} at most", self.name, self.terms);
        assert!(self.entries <= ENTRIES_MAX, "{}: {} entries, {ENTRIES_MAX} at most", self.name, self.entries);
        assert!(self.duration.is_multiple_of(2) && self.duration > 0, "{}: a duration of {}", self.name, self.duration);
        self
    }

    /// The configuration that is in force in a log that holds the change, or does not.
    pub(crate) fn configuration(&self, changed: bool) -> Configuration {
        match self.after {
            Some(after) if changed => after,
            _ => self.before,
        }
    }
}
