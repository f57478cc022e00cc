//! Entries in memory: all that are not durable yet, and the newest of the others.

use std::collections::VecDeque;

use crate::types::{Entry, Index};

/// A contiguous end of the log in memory. Entries that are not durable stay whatever they cost (the bounds on what may
/// be uncommitted and in flight keep them few); older ones go when the bound in bytes is passed.
#[derive(Debug)]
pub(crate) struct EntryCache {
    entries: VecDeque<Entry>,
    /// The index before the first entry here.
    before: Index,
    bytes: u64,
    bytes_max: u64,
}

impl EntryCache {
    /// An empty cache of a log that ends at `last`.
    pub(crate) fn new(last: Index, bytes_max: u64) -> Self {
        Self { entries: VecDeque::new(), before: last, bytes: 0, bytes_max }
    }

    fn last(&self) -> Index {
        self.before.plus(self.entries.len() as u64)
    }

    /// Drops `from` and all after it.
    pub(crate) fn truncate(&mut self, from: Index) {
        let keep = usize::try_from(from.prev().since(self.before)).unwrap_or(usize::MAX);
        while self.entries.len() > keep {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= entry.size();
            }
        }
        // A cut below what is here leaves the log's end outside: begin anew there.
        if from <= self.before {
            self.before = from.prev();
        }
    }

    /// Drops the beginning up to `upto`, which is durable and never read again.
    pub(crate) fn compact(&mut self, upto: Index) {
        while self.before < upto {
            let Some(entry) = self.entries.pop_front() else { return };
            self.bytes -= entry.size();
            self.before = self.before.next();
        }
    }

    /// A snapshot took the place of the log up to `upto`; the log ends at `last` now.
    pub(crate) fn install(&mut self, upto: Index, last: Index) {
        if self.last() == last && last >= upto {
            return self.compact(upto);
        }
        *self = Self::new(last, self.bytes_max);
    }

    /// Takes the entries that were appended at `first`.
    pub(crate) fn append(&mut self, first: Index, entries: &[Entry]) {
        assert_eq!(first, self.last().next(), "the cache ends at {}, the log grows at {first}", self.last());
        for entry in entries {
            self.bytes += entry.size();
            self.entries.push_back(entry.clone());
        }
    }

    /// Lets go of the oldest durable entries beyond the bound.
    pub(crate) fn evict(&mut self, durable: Index) {
        while self.bytes > self.bytes_max && self.before < durable {
            let Some(entry) = self.entries.pop_front() else { return };
            self.bytes -= entry.size();
            self.before = self.before.next();
        }
    }

    /// The entries from `first` to `last` that are here: all, none, or the end of the range.
    pub(crate) fn range(&self, first: Index, last: Index) -> Vec<Entry> {
        let begin = first.max(self.before.next());
        if begin > last {
            return Vec::new();
        }
        let skip = usize::try_from(begin.prev().since(self.before)).unwrap_or(usize::MAX);
        let take = usize::try_from(last.since(begin.prev())).unwrap_or(usize::MAX);
        self.entries.range(skip.min(self.entries.len())..).take(take).cloned().collect()
    }
}
