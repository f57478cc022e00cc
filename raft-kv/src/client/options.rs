//! How a call is to be carried out, and what it comes to.

use std::time::Duration;

use bytes::Bytes;

use crate::Precondition;
use crate::client::session::Token;

/// How a value is read: what the answer may be behind, and how long the call may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    pub(super) mode: Mode,
    pub(super) staleness_max: Option<Duration>,
    pub(super) within: Option<Duration>,
}

/// See `docs/consistency.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Linearizable,
    Lease,
    Verified,
    Local,
    Snapshot,
    Mark(u64),
    Revision(u64),
}

impl Read {
    /// Sees every write that was acknowledged before the read began. The default.
    #[must_use]
    pub fn linearizable() -> Self {
        Self::default()
    }

    /// The same, answered by a node that holds a lease, without a word to others. Nodes that serve no leases refuse it.
    #[must_use]
    pub fn lease() -> Self {
        Self::of(Mode::Lease)
    }

    /// Never older than anything that this client has seen ([`Client::token`](super::Client::token)), from any node. A
    /// client that has seen nothing yet reads as with [`Read::linearizable`].
    #[must_use]
    pub fn verified() -> Self {
        Self::of(Mode::Verified)
    }

    /// Whatever the node that is asked has applied; possibly stale.
    #[must_use]
    pub fn local() -> Self {
        Self::of(Mode::Local)
    }

    /// The same, from a node whose state is surely no older than this.
    #[must_use]
    pub fn local_within(staleness_max: Duration) -> Self {
        Self { staleness_max: Some(staleness_max), ..Self::local() }
    }

    /// The state at the newest mark that the node has passed.
    #[must_use]
    pub fn snapshot() -> Self {
        Self::of(Mode::Snapshot)
    }

    /// The state at this mark: the same from every node.
    #[must_use]
    pub fn at_mark(mark: u64) -> Self {
        Self::of(Mode::Mark(mark))
    }

    /// The state right after this revision: the same from every node.
    #[must_use]
    pub fn at_revision(revision: u64) -> Self {
        Self::of(Mode::Revision(revision))
    }

    /// With a deadline of its own.
    #[must_use]
    pub fn within(self, deadline: Duration) -> Self {
        Self { within: Some(deadline), ..self }
    }

    fn of(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// The query that asks for it, after its `?`.
    pub(super) fn query(&self, has_token: bool) -> String {
        let mode = match self.mode {
            Mode::Linearizable => "linearizable",
            Mode::Verified if !has_token => "linearizable",
            Mode::Lease => "lease",
            Mode::Verified => "verified",
            Mode::Local => "local",
            Mode::Snapshot => "snapshot",
            Mode::Mark(mark) => return format!("at_mark={mark}"),
            Mode::Revision(revision) => return format!("at_revision={revision}"),
        };
        let bound = self.staleness_max.map(|max| format!("&max_staleness={}ms", max.as_millis())).unwrap_or_default();
        format!("consistency={mode}{bound}")
    }

    /// Whether the answer sees all that any client had seen when it was asked.
    pub(super) fn is_newest(&self) -> bool {
        matches!(self.mode, Mode::Linearizable | Mode::Lease)
    }
}

/// How a write is carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    pub(super) precondition: Precondition,
    pub(super) within: Option<Duration>,
    pub(super) idempotency_key: Option<String>,
}

impl Write {
    /// Only if this holds; else the call ends with [`ErrorKind::Precondition`](super::ErrorKind::Precondition). In a
    /// batch every change has a precondition of its own, and this one is not looked at.
    #[must_use]
    pub fn only_if(self, precondition: Precondition) -> Self {
        Self { precondition, ..self }
    }

    /// With a deadline of its own.
    #[must_use]
    pub fn within(self, deadline: Duration) -> Self {
        Self { within: Some(deadline), ..self }
    }

    /// Under this idempotency key, for a write that goes on being tried after this call. Otherwise a UUIDv7 is drawn,
    /// which all tries of the call carry.
    #[must_use]
    pub fn idempotency_key(self, key: impl Into<String>) -> Self {
        Self { idempotency_key: Some(key.into()), ..self }
    }
}

/// A value that stood under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The value.
    pub bytes: Bytes,
    /// The write that put it there: for [`Precondition::Revision`].
    pub revision: u64,
}

/// An answered read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The value; `None` when there is none.
    pub value: Option<Stored>,
    /// The log position that the answer reflects; `None` when the cluster does not know it any more (a revision whose
    /// entry was compacted).
    pub token: Option<Token>,
    /// The name of the node that answered.
    pub served_by: Option<String>,
    /// For reads at a mark: which.
    pub mark: Option<u64>,
    /// How old the answer may be, where it may be stale and that is known.
    pub staleness: Option<Duration>,
}

/// A write that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The log entry that carried it: the revision of the keys that it changed.
    pub revision: u64,
    /// Its term.
    pub term: u64,
    /// Whether an earlier try under the same idempotency key had applied it.
    pub replayed: bool,
    /// For each change of a delete or a batch: whether its key existed before. Empty for a put.
    pub existed: Vec<bool>,
    /// The log position that the answer reflects.
    pub token: Option<Token>,
}
