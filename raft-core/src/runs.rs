//! Which terms a stretch of the log holds, without its entries.

use std::sync::Arc;

use crate::membership::{Configuration, ConfigurationError};
use crate::types::{Entry, EntryKind, Index, LogId, Term};

/// A stretch of entries of one term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermRun {
    /// Their term.
    pub term: Term,
    /// The last index of the stretch; it begins after the run before it.
    pub last: Index,
}

/// What the core knows of the entries of one message: where they begin, which terms they have and how many bytes they
/// are. A thousand entries of one term cost what one costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The entry before the first one.
    pub prev: LogId,
    /// Runs of equal terms, in order; empty when there are no entries.
    pub runs: Vec<TermRun>,
    /// Sum of [`Entry::size`].
    pub bytes: u64,
    /// The configurations among them, in order: they act on append. Known where the entries are; a span that only names
    /// them has none.
    pub configurations: Vec<Arc<Configuration>>,
}

/// Why a list of entries is not a stretch of any log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// The indexes have a gap or repeat.
    #[error("entry {found} stands where index {expected} belongs")]
    NotContiguous {
        /// The index that was due.
        expected: Index,
        /// What stood there.
        found: LogId,
    },
    /// A term is lower than the one before it.
    #[error("entry {found} has a lower term than the entry before it ({before})")]
    TermFalls {
        /// The term before.
        before: Term,
        /// The offending entry.
        found: LogId,
    },
    /// A no-op that carries bytes.
    #[error("no-op {found} carries bytes")]
    NoopWithPayload {
        /// The offending entry.
        found: LogId,
    },
    /// A configuration that cannot be read.
    #[error("configuration {found} cannot be read: {reason}")]
    Configuration {
        /// The offending entry.
        found: LogId,
        /// What does not fit.
        reason: ConfigurationError,
    },
    /// An index or a term beyond [`Index::LIMIT`] or [`Term::LIMIT`].
    #[error("{found} is beyond the highest index or term that is accepted")]
    BeyondLimit {
        /// The offending log id.
        found: LogId,
    },
}

impl Span {
    /// Describes `entries`, which follow `prev`.
    ///
    /// # Errors
    /// When they are no stretch of a log; the caller refuses the message they came in.
    pub fn of(prev: LogId, entries: &[Entry]) -> Result<Self, SpanError> {
        let mut span = Self { prev, ..Self::default() };
        let mut before = prev;
        if before.index >= Index::LIMIT || before.term >= Term::LIMIT {
            return Err(SpanError::BeyondLimit { found: before });
        }
        for entry in entries {
            let id = entry.id;
            if id.index >= Index::LIMIT || id.term >= Term::LIMIT {
                return Err(SpanError::BeyondLimit { found: id });
            }
            if id.index != before.index.next() {
                return Err(SpanError::NotContiguous { expected: before.index.next(), found: id });
            }
            if id.term < before.term || id.term == Term::ZERO {
                return Err(SpanError::TermFalls { before: before.term, found: id });
            }
            if entry.kind == EntryKind::Noop && !entry.payload.bytes().is_empty() {
                return Err(SpanError::NoopWithPayload { found: id });
            }
            if entry.kind == EntryKind::Configuration {
                let read = Configuration::of_entry(id.index, entry.payload.bytes());
                let configuration = read.map_err(|reason| SpanError::Configuration { found: id, reason })?;
                span.configurations.push(Arc::new(configuration));
            }
            match span.runs.last_mut() {
                Some(run) if run.term == id.term => run.last = id.index,
                _ => span.runs.push(TermRun { term: id.term, last: id.index }),
            }
            span.bytes += entry.size();
            before = id;
        }
        Ok(span)
    }

    /// The last entry, or `prev` when there are none.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.runs.last().map_or(self.prev, |run| LogId::new(run.last, run.term))
    }

    /// How many entries.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.last().index.since(self.prev.index)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The term of the entry at `index`, when the span holds it (`prev` counts).
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.prev.index {
            return Some(self.prev.term);
        }
        if index < self.prev.index {
            return None;
        }
        self.runs.iter().find(|run| index <= run.last).map(|run| run.term)
    }

    /// Whether `entries` are exactly those that this span names.
    #[must_use]
    pub fn names(&self, entries: &[Entry]) -> bool {
        entries.len() as u64 == self.count()
            && entries
                .iter()
                .zip(self.prev.index.0 + 1..)
                .all(|(entry, index)| entry.id.index.0 == index && self.term_at(entry.id.index) == Some(entry.id.term))
    }
}
