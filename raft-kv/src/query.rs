//! Questions to the state and their answers, as bytes.
//!
//! ```text
//! query     version u8 = 1 | 1 get, then the key | 2 settings | 3 digest
//! answer    to get:       0 absent, or 1 | revision u64 | created u64 | version u64 | value
//!           to settings:  each setting u64 | keys u64 | idempotency keys u64
//!           to digest:    keys u64 | idempotency keys u64 | 32 bytes
//! ```

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use raft_core::ports::{QueryAnswer, QueryError, StateReader};
use raft_core::types::{Index, LogId};

use crate::codec::{Fields, Short};
use crate::engine::{Header, Meta};
use crate::settings::{Setting, Settings};

const QUERY_VERSION: u8 = 1;
const GET: u8 = 1;
const SETTINGS: u8 = 2;
const DIGEST: u8 = 3;

/// A question to the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// The value of a key. One point lookup. Answered by [`Found`].
    Get {
        /// The key.
        key: Bytes,
    },
    /// The replicated settings and how full the state is. Answered by [`Overview`].
    Settings,
    /// A digest of all of the state. It reads **everything**: for tests and for comparing replicas. Answered by
    /// [`Digest`].
    Digest,
}

impl Query {
    /// Asks for the value of `key`.
    #[must_use]
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self::Get { key: key.into() }
    }

    /// The query as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (code, key) = match self {
            Self::Get { key } => (GET, &key[..]),
            Self::Settings => (SETTINGS, &[][..]),
            Self::Digest => (DIGEST, &[][..]),
        };
        [&[QUERY_VERSION, code], key].concat().into()
    }
}

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

impl Overview {
    fn encode(meta: &Meta) -> Bytes {
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
}

impl Digest {
    fn encode(meta: &Meta, hash: &blake3::Hash) -> Bytes {
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

/// The parts of the state that a [`View`] walks through, each in the order of its keys.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Table {
    /// Key to header and value.
    Keys,
    /// Idempotency key to record.
    Remembered,
    /// Number to idempotency key.
    Numbers,
}

impl Table {
    pub(crate) const ALL: [Self; 3] = [Self::Keys, Self::Remembered, Self::Numbers];
}

/// Takes the rows of a table, one by one: the table, the key, then the record in two parts.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(Table, &[u8], &[&[u8]]);

/// The read side of an engine. Every method reads at one applied index.
pub(crate) trait View: Send + Sync {
    /// See [`StateReader::applied`].
    fn applied(&self) -> LogId;

    /// The encoded [`Found`].
    fn get(&self, key: &[u8]) -> Result<QueryAnswer, QueryError>;

    /// The record of the whole state.
    fn meta(&self) -> Result<Meta, QueryError>;

    /// Walks through everything. Returns the record of the state that was walked through.
    fn walk(&self, visit: Visit<'_>) -> Result<Meta, QueryError>;
}

/// Reads the state from any thread while entries are applied.
#[derive(Clone)]
pub struct KvReader {
    view: Arc<dyn View>,
}

impl fmt::Debug for KvReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvReader").field("applied", &self.view.applied()).finish()
    }
}

impl KvReader {
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        Self { view }
    }

    /// The value of `key`, and the applied entry that the answer reflects.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn get(&self, key: &[u8]) -> Result<(Option<Value>, LogId), QueryError> {
        let QueryAnswer { bytes, applied } = self.view.get(key)?;
        let Found(value) = Found::decode(bytes).map_err(unreadable)?;
        Ok((value, applied))
    }

    /// The replicated settings and how full the state is.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn overview(&self) -> Result<(Overview, LogId), QueryError> {
        let meta = self.view.meta()?;
        let overview = Overview::decode(Overview::encode(&meta)).map_err(unreadable)?;
        Ok((overview, meta.applied))
    }

    /// A digest of all of the state. Reads everything.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn digest(&self) -> Result<(Digest, LogId), QueryError> {
        let QueryAnswer { bytes, applied } = self.encoded_digest()?;
        Ok((Digest::decode(bytes).map_err(unreadable)?, applied))
    }

    fn encoded_digest(&self) -> Result<QueryAnswer, QueryError> {
        let mut hasher = blake3::Hasher::new();
        let meta = self.view.walk(&mut |table, key, record| {
            // Lengths are part of it, so that no two states run together to the same bytes.
            let length = record.iter().map(|part| part.len()).sum::<usize>();
            hasher.update(&[table as u8]);
            hasher.update(&(key.len() as u64).to_be_bytes());
            hasher.update(&(length as u64).to_be_bytes());
            hasher.update(key);
            record.iter().for_each(|part| {
                hasher.update(part);
            });
        })?;
        hasher.update(&meta.encode());
        Ok(QueryAnswer { bytes: Digest::encode(&meta, &hasher.finalize()), applied: meta.applied })
    }
}

fn unreadable(error: QueryAnswerError) -> QueryError {
    QueryError::Storage(error.to_string())
}

impl StateReader for KvReader {
    fn applied(&self) -> LogId {
        self.view.applied()
    }

    fn query(&self, query: &[u8]) -> Result<QueryAnswer, QueryError> {
        let malformed = |what: String| Err(QueryError::Malformed(what));
        match query {
            [QUERY_VERSION, GET] => malformed("the key is empty".into()),
            [QUERY_VERSION, GET, key @ ..] => self.view.get(key),
            [QUERY_VERSION, SETTINGS] => {
                let meta = self.view.meta()?;
                Ok(QueryAnswer { bytes: Overview::encode(&meta), applied: meta.applied })
            }
            [QUERY_VERSION, DIGEST] => self.encoded_digest(),
            [QUERY_VERSION, code, ..] => malformed(format!("unknown or overlong query {code}")),
            [QUERY_VERSION] | [] => malformed("the query ends in the middle of a field".into()),
            [version, ..] => malformed(format!("unknown query version {version}")),
        }
    }
}

impl Overview {
    /// The value of one setting.
    #[must_use]
    pub fn setting(&self, setting: Setting) -> u64 {
        self.settings.value(setting)
    }
}
