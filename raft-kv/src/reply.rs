//! Answers to queries, as bytes; [`query`](crate::query) has the table.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use raft_core::types::Index;

use crate::codec::{Fields, Short};
use crate::engine::{Header, Meta};
use crate::marks::{Mark, Marks};
#[cfg(doc)]
use crate::query::Query;
use crate::settings::{Setting, Settings};

/// Instead of a value, or none: the revision is outside the window.
const OUTSIDE: u8 = 2;

/// A value with its revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The entry that wrote it.
    pub revision: Index,
    /// The entry that made the key; a delete ends the key, and the next put makes it anew.
    pub created: Index,
    /// Writes since the key was made, 1 for the first.
    pub version: u64,
    /// Its bytes.
    pub bytes: Bytes,
}

/// Answer to [`Query::Get`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found(
    /// The value; `None` when the key does not exist.
    pub Option<Value>,
);

/// Answer to [`Query::GetAt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundAt {
    /// The value as of that revision; `None` when the key did not exist then.
    Value(Option<Value>),
    /// That revision cannot be read: it is forgotten, or not applied yet.
    Outside {
        /// The oldest revision that can be read.
        oldest: Index,
        /// The newest one, which is the applied entry's.
        newest: Index,
    },
}

/// Answer to [`Query::Marks`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The oldest revision that can be read.
    pub oldest: Index,
    /// The newest marks, at most 64, oldest first; the last is the newest mark that was passed. Empty when none was. At
    /// one that lies before `oldest` nothing can be read any more.
    pub marks: Vec<Mark>,
}

/// Answer to [`Query::Settings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overview {
    /// The replicated settings.
    pub settings: Settings,
    /// How many keys exist.
    pub keys: u64,
    /// How many idempotency keys are remembered.
    pub idempotency_keys: u64,
}

/// Answer to [`Query::Digest`]. Two replicas that have applied the same entry have the same digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// How many keys exist.
    pub keys: u64,
    /// How many idempotency keys are remembered.
    pub idempotency_keys: u64,
    /// BLAKE3 over keys, values and revisions, idempotency keys and their answers, settings and time.
    pub hash: [u8; 32],
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, idempotency_keys, hash } = self;
        write!(f, "{keys} keys, {idempotency_keys} idempotency keys, ")?;
        hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Bytes that are not the answer to this kind of query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes do not answer this query")]
pub struct QueryAnswerError;

impl From<Short> for QueryAnswerError {
    fn from(Short: Short) -> Self {
        Self
    }
}

impl Found {
    pub(crate) fn encode_value(header: Header, value: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + 24 + value.len());
        out.put_u8(1);
        out.put_u64(header.revision.0);
        out.put_u64(header.created.0);
        out.put_u64(header.version);
        out.put_slice(value);
        out.freeze()
    }

    pub(crate) fn encode_absent() -> Bytes {
        Bytes::from_static(&[0])
    }

    /// Reads the answer. The value shares the memory of `bytes`.
    ///
    /// # Errors
    /// When it is no answer to [`Query::Get`].
    pub fn decode(bytes: Bytes) -> Result<Self, QueryAnswerError> {
        let mut fields = Fields::new(bytes);
        match fields.byte()? {
            0 if fields.is_empty() => Ok(Self(None)),
            1 => Ok(Self(Some(Value {
                revision: Index(fields.long()?),
                created: Index(fields.long()?),
                version: fields.long()?,
                bytes: fields.rest(),
            }))),
            _ => Err(QueryAnswerError),
        }
    }
}

impl FoundAt {
    pub(crate) fn encode_outside(oldest: Index, newest: Index) -> Bytes {
        let mut out = BytesMut::with_capacity(17);
        out.put_u8(OUTSIDE);
        out.put_u64(oldest.0);
        out.put_u64(newest.0);
        out.freeze()
    }

    /// Reads the answer. The value shares the memory of `bytes`.
    ///
    /// # Errors
    /// When it is no answer to [`Query::GetAt`].
    pub fn decode(bytes: Bytes) -> Result<Self, QueryAnswerError> {
        if bytes.first() != Some(&OUTSIDE) {
            return Found::decode(bytes).map(|Found(value)| Self::Value(value));
        }
        let mut fields = Fields::new(bytes.slice(1..));
        let outside = Self::Outside { oldest: Index(fields.long()?), newest: Index(fields.long()?) };
        if fields.is_empty() { Ok(outside) } else { Err(QueryAnswerError) }
    }
}

impl Passed {
    pub(crate) fn encode(meta: &Meta, marks: &Marks) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u64(meta.oldest.0);
        for mark in marks.iter() {
            out.put_u64(mark.index.0);
            out.put_slice(&mark.digest);
        }
        out.freeze()
    }

    /// Reads the answer.
    ///
    /// # Errors
    /// When it is no answer to [`Query::Marks`].
    pub fn decode(bytes: Bytes) -> Result<Self, QueryAnswerError> {
        let mut fields = Fields::new(bytes);
        let mut passed = Self { oldest: Index(fields.long()?), marks: Vec::new() };
        while !fields.is_empty() {
            passed.marks.push(Mark { index: Index(fields.long()?), digest: fields.array()? });
        }
        Ok(passed)
    }

    /// The newest mark.
    #[must_use]
    pub fn newest(&self) -> Option<&Mark> {
        self.marks.last()
    }
}

/// Answer to [`Query::MarkDigest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkDigest(
    /// The digest of the state at that mark; `None` when it was not passed, or is forgotten.
    pub Option<[u8; 32]>,
);

impl MarkDigest {
    pub(crate) fn encode(mark: Option<&Mark>) -> Bytes {
        mark.map_or_else(|| Bytes::from_static(&[0]), |mark| [&[1][..], &mark.digest].concat().into())
    }

    /// Reads the answer.
    ///
    /// # Errors
    /// When it is no answer to [`Query::MarkDigest`].
    pub fn decode(bytes: Bytes) -> Result<Self, QueryAnswerError> {
        let mut fields = Fields::new(bytes);
        let digest = match fields.byte()? {
            0 => None,
            1 => Some(fields.array()?),
            _ => return Err(QueryAnswerError),
        };
        if fields.is_empty() { Ok(Self(digest)) } else { Err(QueryAnswerError) }
    }
}

impl Overview {
    pub(crate) fn encode(meta: &Meta) -> Bytes {
        let mut out = Vec::new();
        meta.settings.encode(&mut out);
        out.put_u64(meta.keys);
        out.put_u64(meta.window.len());
        out.into()
    }

    /// Reads the answer.
    ///
    /// # Errors
    /// When it is no answer to [`Query::Settings`].
    pub fn decode(bytes: Bytes) -> Result<Self, QueryAnswerError> {
        let mut fields = Fields::new(bytes);
        let settings = Settings::decode(&mut fields)?;
        let overview = Self { settings, keys: fields.long()?, idempotency_keys: fields.long()? };
        if fields.is_empty() { Ok(overview) } else { Err(QueryAnswerError) }
    }

    /// The value of one setting.
    #[must_use]
    pub fn setting(&self, setting: Setting) -> u64 {
        self.settings.value(setting)
    }
}

impl Digest {
    pub(crate) fn encode(meta: &Meta, hash: &blake3::Hash) -> Bytes {
        let mut out = Vec::new();
        out.put_u64(meta.keys);
        out.put_u64(meta.window.len());
        out.extend_from_slice(hash.as_bytes());
        out.into()
    }

    /// Reads the answer.
    ///
    /// # Errors
    /// When it is no answer to [`Query::Digest`].
    pub fn decode(bytes: Bytes) -> Result<Self, QueryAnswerError> {
        let mut fields = Fields::new(bytes);
        let (keys, idempotency_keys) = (fields.long()?, fields.long()?);
        let hash = fields.rest()[..].try_into().map_err(|_| QueryAnswerError)?;
        Ok(Self { keys, idempotency_keys, hash })
    }
}
