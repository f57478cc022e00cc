//! The log as the core sees it: which term stands at which index, and how many bytes stretches of it are. No payloads,
//! no I/O.
//!
//! Invariants, each asserted where it could break: indexes are contiguous from the one after `base`; terms never fall;
//! what is committed is never truncated (the caller's duty, asserted there). What lies at or before `base` is committed,
//! so every correct leader holds the same there.

use std::collections::VecDeque;

use crate::mutant::{Mutant, broken};
use crate::runs::{Span, TermRun};
use crate::types::{Index, LogId, Term};

/// A stretch of the log whose size is known as a whole.
#[derive(Clone, Copy, Debug)]
struct Batch {
    last: Index,
    /// Bytes of the log from its beginning to the end of this batch.
    bytes_to: u64,
}

/// Small neighbours are kept as one batch up to this size, so that a log of tiny entries costs little memory.
const BATCH_MERGED_BYTES: u64 = 16 * 1024;

/// Terms and sizes of the entries of one log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// The entry before the first one here: all up to it was compacted, or stands in a snapshot. Raft §7.
    base: LogId,
    /// Bytes of the log from its beginning to `base`, as [`Batch::bytes_to`] counts them.
    bytes_to_base: u64,
    runs: VecDeque<TermRun>,
    batches: VecDeque<Batch>,
}

impl Log {
    /// The log that a store recovered, checked by [`Recovered::check`](crate::ports::Recovered::check).
    pub(crate) fn recovered(base: LogId, runs: Vec<TermRun>, batches: Vec<(Index, u64)>) -> Self {
        let mut log = Self { base, bytes_to_base: 0, runs: runs.into(), batches: VecDeque::new() };
        let mut bytes_to = 0;
        for (last, bytes) in batches {
            bytes_to += bytes;
            log.batches.push_back(Batch { last, bytes_to });
        }
        log
    }

    /// The entry before the first one that the log holds.
    pub(crate) fn base(&self) -> LogId {
        self.base
    }

    /// The first index that the log holds, or will hold.
    pub(crate) fn first_index(&self) -> Index {
        self.base.index.next()
    }

    /// The last entry.
    pub(crate) fn last(&self) -> LogId {
        self.runs.back().map_or(self.base, |run| LogId::new(run.last, run.term))
    }

    /// The term of the entry at `index`, the one before the first included; none beyond either end.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index {
            return None;
        }
        self.runs.get(self.run_of(index)).map(|run| run.term)
    }

    /// Drops the beginning up to `upto`, which is here.
    pub(crate) fn compact_to(&mut self, upto: Index) {
        if upto <= self.base.index {
            return;
        }
        let term = self.term_at(upto).expect("what is compacted is in the log");
        while self.runs.front().is_some_and(|run| run.last <= upto) {
            self.runs.pop_front();
        }
        while let Some(batch) = self.batches.front().copied().filter(|batch| batch.last <= upto) {
            self.bytes_to_base = batch.bytes_to;
            self.batches.pop_front();
        }
        self.base = LogId::new(upto, term);
        assert!(self.last().index >= upto, "compaction up to {upto} passed the log's end");
    }

    /// Drops everything: the log begins anew after `base`, the last entry of a snapshot. Raft Figure 13, step 7.
    pub(crate) fn reset(&mut self, base: LogId) {
        *self = Self { base, ..Self::default() };
    }

    /// Up to where the beginning has to go so that at most `bytes` bytes and `entries` entries stay, as exactly as sizes
    /// are known: stretches are kept or dropped as a whole.
    pub(crate) fn index_leaving(&self, bytes: u64, entries: u64) -> Index {
        let total = self.batches.back().map_or(self.bytes_to_base, |batch| batch.bytes_to);
        let surplus = total.saturating_sub(bytes);
        let by_bytes = if surplus <= self.bytes_to_base {
            self.base.index
        } else {
            let at = self.batches.partition_point(|batch| batch.bytes_to < surplus);
            self.batches.get(at).map_or(self.base.index, |batch| batch.last)
        };
        by_bytes.max(Index(self.last().index.0.saturating_sub(entries)))
    }

    /// Whether the entry `id` stands here, or lies before the log's beginning: what was there is committed, and the same
    /// in every log that may follow it.
    pub(crate) fn holds(&self, id: LogId) -> bool {
        if id.index < self.base.index {
            return true;
        }
        self.term_at(id.index).is_some_and(|term| term == id.term || broken(Mutant::PrevTermIgnored))
    }

    /// Where in `runs` the index lies.
    fn run_of(&self, index: Index) -> usize {
        // Nearly every question is about the log's end.
        match self.runs.len() {
            0 => 0,
            n if n == 1 || self.runs[n - 2].last < index => {
                if index <= self.runs[n - 1].last {
                    n - 1
                } else {
                    n
                }
            }
            _ => self.runs.partition_point(|run| run.last < index),
        }
    }

    /// Where in `batches` the index lies.
    fn batch_of(&self, index: Index) -> usize {
        // Nearly every question is about the log's end.
        match self.batches.len() {
            0 => 0,
            n if n == 1 || self.batches[n - 2].last < index => {
                if index <= self.batches[n - 1].last {
                    n - 1
                } else {
                    n
                }
            }
            _ => self.batches.partition_point(|batch| batch.last < index),
        }
    }

    /// Appends `count` entries of `term`, of `bytes` in all.
    pub(crate) fn append(&mut self, term: Term, count: u64, bytes: u64) {
        let last = self.last();
        assert!(term >= last.term, "append of term {term} after {last}: terms never fall");
        assert!(count > 0, "append of nothing");
        let end = last.index.plus(count);
        match self.runs.back_mut() {
            Some(run) if run.term == term => run.last = end,
            _ => self.runs.push_back(TermRun { term, last: end }),
        }
        self.account(end, bytes);
    }

    /// Appends the entries of `span` from `first` on, which follows the log's end.
    pub(crate) fn append_span(&mut self, span: &Span, first: Index) {
        assert_eq!(first, self.last().index.next(), "append leaves a gap");
        let mut before = first.prev();
        for run in span.runs.iter().filter(|run| run.last >= first) {
            let last = self.last();
            assert!(run.term >= last.term, "append of term {} after {last}: terms never fall", run.term);
            match self.runs.back_mut() {
                Some(own) if own.term == run.term => own.last = run.last,
                _ => self.runs.push_back(*run),
            }
            before = run.last;
        }
        assert_eq!(before, span.last().index, "a span's runs end at its last entry");
        self.account(before, span.bytes);
    }

    fn account(&mut self, last: Index, bytes: u64) {
        let bytes_to = self.batches.back().map_or(self.bytes_to_base, |batch| batch.bytes_to) + bytes;
        let before = self.batches.len().checked_sub(2).map_or(self.bytes_to_base, |at| self.batches[at].bytes_to);
        match self.batches.back_mut() {
            Some(batch) if bytes_to - before <= BATCH_MERGED_BYTES => *batch = Batch { last, bytes_to },
            _ => self.batches.push_back(Batch { last, bytes_to }),
        }
    }

    /// Drops `from` and all after it.
    pub(crate) fn truncate(&mut self, from: Index) {
        assert!(from > self.base.index, "truncation at {from} of a log that begins after {}", self.base);
        let keep = from.prev();
        let runs = self.run_of(from);
        self.runs.truncate(runs + 1);
        if let Some(run) = self.runs.back_mut() {
            run.last = run.last.min(keep);
            let begins_after = self.runs.len().checked_sub(2).map_or(self.base.index, |at| self.runs[at].last);
            if self.runs.back().is_some_and(|run| run.last <= begins_after) {
                self.runs.pop_back();
            }
        }
        let batches = self.batches.partition_point(|batch| batch.last < from);
        self.batches.truncate(batches + 1);
        if let Some(batch) = self.batches.back_mut() {
            // What is left of a batch keeps the size of the whole: an upper bound is what the windows need.
            batch.last = batch.last.min(keep);
            let begins_after = self.batches.len().checked_sub(2).map_or(self.base.index, |at| self.batches[at].last);
            if self.batches.back().is_some_and(|batch| batch.last <= begins_after) {
                self.batches.pop_back();
            }
        }
        assert_eq!(
            self.last().index,
            self.batches.back().map_or(self.base.index, |batch| batch.last),
            "runs and batches end together"
        );
    }

    /// The newest entry that could equal the other log's at or before `at`: its index is at most `at.index` and its
    /// term at most `at.term`. Both sides of a repair use it, so each rejection skips a whole term of one of the two
    /// logs. None when only what lies before this log's beginning could. Raft §5.3 \[TH-FASTBACK\].
    pub(crate) fn newest_that_could_match(&self, at: LogId) -> Option<LogId> {
        let mut index = at.index.min(self.last().index);
        while index > self.base.index {
            let run = self.run_of(index);
            let term = self.runs[run].term;
            if term <= at.term {
                return Some(LogId::new(index, term));
            }
            index = run.checked_sub(1).map_or(self.base.index, |before| self.runs[before].last);
        }
        (index == self.base.index && self.base.term <= at.term).then_some(self.base)
    }

    /// The first index of `span` (after its `prev`, which matches) at which this log holds no entry or one of another
    /// term; none when it holds them all. What lies before the log's beginning matches.
    pub(crate) fn first_mismatch(&self, span: &Span) -> Option<Index> {
        let mut index = span.prev.index.max(self.base.index).next();
        for run in span.runs.iter().filter(|run| run.last > self.base.index) {
            let own = self.run_of(index);
            match self.runs.get(own) {
                Some(held) if held.term == run.term && held.last >= run.last => index = run.last.next(),
                // The next own entry has another term or is not there.
                Some(held) if held.term == run.term => return Some(held.last.next()),
                _ => return Some(index),
            }
        }
        None
    }

    /// Whether `span` holds another entry than this log where this log begins: no correct leader's span does, since what
    /// was compacted is committed.
    pub(crate) fn contradicts_base(&self, span: &Span) -> bool {
        span.term_at(self.base.index).is_some_and(|term| term != self.base.term)
    }

    /// How far a message that begins at `first` may reach: at most `entries_max` entries and about `bytes_max` bytes,
    /// but at least one stretch whose size is known. Returns its last index and an upper bound of its bytes.
    pub(crate) fn reach(&self, first: Index, bytes_max: u64, entries_max: u64) -> (Index, u64) {
        assert!(first <= self.last().index, "nothing at {first} to send");
        assert!(first > self.base.index, "what is at {first} was compacted, up to {}", self.base);
        let begin = self.batch_of(first);
        let bytes_before = begin.checked_sub(1).map_or(self.bytes_to_base, |before| self.batches[before].bytes_to);
        let limit = bytes_before + bytes_max;
        let fits = match self.batches.back() {
            Some(newest) if newest.bytes_to <= limit => self.batches.len(),
            _ => self.batches.partition_point(|batch| batch.bytes_to <= limit),
        };
        let end = fits.saturating_sub(1).max(begin);
        let last = self.batches[end].last.min(Index(first.0.saturating_add(entries_max.max(1) - 1)));
        (last, self.batches[end].bytes_to - bytes_before)
    }

    /// Names the entries from `first` to `last`, which are here. `bytes` is the caller's bound of their size.
    pub(crate) fn span(&self, first: Index, last: Index, bytes: u64) -> Span {
        let prev = first.prev();
        let prev = LogId::new(prev, self.term_at(prev).expect("the entry before one of ours is ours"));
        let mut runs = Vec::new();
        let mut index = first;
        while index <= last {
            let run = self.runs[self.run_of(index)];
            runs.push(TermRun { term: run.term, last: run.last.min(last) });
            index = run.last.next();
        }
        Span { prev, runs, bytes, configurations: Vec::new() }
    }

    /// An upper bound of the bytes of all entries after `index`.
    pub(crate) fn bytes_after(&self, index: Index) -> u64 {
        let total = self.batches.back().map_or(self.bytes_to_base, |batch| batch.bytes_to);
        // Batches that end at or before the index lie behind it.
        let behind = if index <= self.base.index { 0 } else { self.batch_of(index.next()) };
        total - behind.checked_sub(1).map_or(self.bytes_to_base, |at| self.batches[at].bytes_to)
    }
}
