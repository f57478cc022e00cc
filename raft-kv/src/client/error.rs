//! How a call fails.

use std::fmt;

use crate::client::session::Token;

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The deadline passed first.
    Deadline,
    /// No node could be reached, or none could serve: it has no leader, is not ready, is too far behind.
    Unavailable,
    /// A bound of the nodes is reached.
    Overloaded,
    /// What this client has seen is not in the history that the node has: the cluster was restored or rolled back, or
    /// it is another one. Nothing is merely behind, and trying again does not help: drop what was read, and go on
    /// with [`Client::with_token`](super::Client::with_token) and no token.
    Conflict,
    /// The precondition does not hold.
    Precondition,
    /// What was there is forgotten.
    Compacted,
    /// Refused for what was asked.
    Refused,
    /// The node failed.
    Fault,
    /// The call, an endpoint or a certificate cannot be used.
    Usage,
}

/// Whether a write that failed had its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was not applied and never will be.
    NotApplied,
    /// It may have been applied, or may be later. The same write under the same
    /// [idempotency key](super::Write::idempotency_key) may be tried again and has its effect once.
    Unknown,
}

/// A call that failed, after all its tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<About>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct About {
    pub(super) kind: ErrorKind,
    pub(super) outcome: Option<Outcome>,
    pub(super) code: Option<String>,
    pub(super) detail: String,
    pub(super) leader: Option<String>,
    pub(super) asks_with: Option<Token>,
    pub(super) idempotency_key: Option<String>,
    pub(super) tries: u32,
}

impl Error {
    pub(super) fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self(Box::new(About {
            kind,
            outcome: None,
            code: None,
            detail: detail.into(),
            leader: None,
            asks_with: None,
            idempotency_key: None,
            tries: 0,
        }))
    }

    /// The same with more to say.
    pub(super) fn with(mut self, say: impl FnOnce(&mut About)) -> Self {
        say(&mut self.0);
        self
    }

    pub(super) fn is(&self, code: &str) -> bool {
        self.code() == Some(code)
    }

    /// What kind of failure the last try met.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// For a write: whether it had its effect. One try in doubt leaves the whole in doubt.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.0.outcome
    }

    /// The node's own code (`docs/errors.md`), if a node answered.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// What happened, for people.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The leader's name, if the node knew it.
    #[must_use]
    pub fn leader(&self) -> Option<&str> {
        self.0.leader.as_deref()
    }

    /// For a write whose outcome is unknown: what to ask `GET /v1/outcomes/{token}` with, where a node gave it. It names an
    /// entry that may never be committed, so it is none to read by.
    #[must_use]
    pub fn outcome_token(&self) -> Option<&Token> {
        self.0.asks_with.as_ref()
    }

    /// For a write: the key that its tries carried.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<&str> {
        self.0.idempotency_key.as_deref()
    }

    /// How often it was tried.
    #[must_use]
    pub fn tries(&self) -> u32 {
        self.0.tries
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.outcome {
            Some(Outcome::NotApplied) => f.write_str("not applied: ")?,
            Some(Outcome::Unknown) => f.write_str("it is not known whether it was applied: ")?,
            None => {}
        }
        f.write_str(&self.0.detail)?;
        if let Some(code) = &self.0.code {
            write!(f, " ({code})")?;
        }
        if self.0.tries > 1 {
            write!(f, ", after {} tries", self.0.tries)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
