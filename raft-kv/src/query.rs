//! Questions to the state and their answers, as bytes.
//!
//! ```text
//! query     version u8 = 1 | 1 get, then the key | 2 settings | 3 digest | 4 get at, then revision u64 and the key
//!                          | 5 marks | 6 mark digest, then index u64
//! answer    to get:          0 absent, or 1 | revision u64 | created u64 | version u64 | value
//!           to settings:     each setting u64 | keys u64 | idempotency keys u64
//!           to digest:       keys u64 | idempotency keys u64 | 32 bytes
//!           to get at:       as to get, or 2 | oldest revision u64 | newest revision u64
//!           to marks:        oldest revision u64 | (index u64 | 32 bytes) ...
//!           to mark digest:  0 unknown, or 1 | 32 bytes
//! ```

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::ports::{QueryAnswer, QueryError, StateReader};
use raft_core::types::{Index, LogId};

use crate::audit::Audit;
use crate::engine::Meta;
use crate::marks::Marks;
use crate::reply::{Digest, Found, FoundAt, MarkDigest, Overview, Passed, QueryAnswerError, Value};

const QUERY_VERSION: u8 = 1;
const GET: u8 = 1;
const SETTINGS: u8 = 2;
const DIGEST: u8 = 3;
const GET_AT: u8 = 4;
const MARKS: u8 = 5;
const MARK_DIGEST: u8 = 6;

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
    /// A digest of all of the state, and a check that the sums from which digests of marks are made are right. It reads
    /// **everything**: for tests and for comparing replicas. Answered by [`Digest`].
    Digest,
    /// The value of a key as of an earlier entry. Answered by [`FoundAt`].
    GetAt {
        /// The key.
        key: Bytes,
        /// The entry after which the state is read. A mark's index is such an entry.
        revision: Index,
    },
    /// The marks that were passed, and what can be read of the past. Answered by [`Passed`].
    Marks,
    /// The digest of the state at a mark. Answered by [`MarkDigest`].
    MarkDigest {
        /// The mark's entry.
        index: Index,
    },
}

impl Query {
    /// Asks for the value of `key`.
    #[must_use]
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self::Get { key: key.into() }
    }

    /// Asks for the value of `key` as of the entry at `revision`.
    #[must_use]
    pub fn get_at(key: impl Into<Bytes>, revision: Index) -> Self {
        Self::GetAt { key: key.into(), revision }
    }

    /// The query as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let number;
        let (code, index, key) = match self {
            Self::Get { key } => (GET, &[][..], &key[..]),
            Self::Settings => (SETTINGS, &[][..], &[][..]),
            Self::Digest => (DIGEST, &[][..], &[][..]),
            Self::GetAt { key, revision } => {
                number = revision.0.to_be_bytes();
                (GET_AT, &number[..], &key[..])
            }
            Self::Marks => (MARKS, &[][..], &[][..]),
            Self::MarkDigest { index } => {
                number = index.0.to_be_bytes();
                (MARK_DIGEST, &number[..], &[][..])
            }
        };
        [&[QUERY_VERSION, code], index, key].concat().into()
    }
}

/// The parts of the state that a [`View`] walks through, each in the order of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// Key to header and value.
    Keys,
    /// Idempotency key to record.
    Remembered,
    /// Number to the record's sum and idempotency key.
    Numbers,
    /// Key and the index that replaced it to header and value. What is forgotten is not walked through, though the
    /// storage may still hold it.
    Versions,
    /// Stretch to sum.
    Stretches,
}

impl Table {
    pub(crate) const ALL: [Self; 5] = [Self::Keys, Self::Remembered, Self::Numbers, Self::Versions, Self::Stretches];

    /// Its number in sums and in the files of snapshots of a state in memory.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Keys => 1,
            Self::Remembered => 2,
            Self::Numbers => 3,
            Self::Versions => 4,
            Self::Stretches => 5,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.code() == code)
    }
}

/// Takes the rows of the tables, one by one: the table, the key, then the record, of keys and versions as header and
/// value.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(Table, &[u8], &[&[u8]]) -> Result<(), QueryError>;

/// The read side of an engine. Every method reads at one applied index.
pub(crate) trait View: Send + Sync {
    /// See [`StateReader::applied`].
    fn applied(&self) -> LogId;

    /// The encoded [`Found`].
    fn get(&self, key: &[u8]) -> Result<QueryAnswer, QueryError>;

    /// The encoded [`FoundAt`].
    fn get_at(&self, key: &[u8], revision: Index) -> Result<QueryAnswer, QueryError>;

    /// The record of the whole state.
    fn meta(&self) -> Result<Meta, QueryError>;

    /// The record of the whole state, and the marks that it has passed.
    fn marks(&self) -> Result<(Meta, Marks), QueryError>;

    /// Walks through everything, table by table. Returns the records of the state that was walked through.
    fn walk(&self, visit: Visit<'_>) -> Result<(Meta, Marks), QueryError>;
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

    /// The value of `key` as of the entry at `revision`, and the applied entry that the answer reflects.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn get_at(&self, key: &[u8], revision: Index) -> Result<(FoundAt, LogId), QueryError> {
        let QueryAnswer { bytes, applied } = self.view.get_at(key, revision)?;
        Ok((FoundAt::decode(bytes).map_err(unreadable)?, applied))
    }

    /// The marks that were passed, and what can be read of the past.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn marks(&self) -> Result<(Passed, LogId), QueryError> {
        let (meta, marks) = self.view.marks()?;
        Ok((Passed { oldest: meta.oldest, marks: marks.iter().copied().collect() }, meta.applied))
    }

    /// The digest of the state at a mark, if it was passed and is remembered.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn mark_digest(&self, index: Index) -> Result<(Option<[u8; 32]>, LogId), QueryError> {
        let (meta, marks) = self.view.marks()?;
        Ok((marks.at(index).map(|mark| mark.digest), meta.applied))
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
    /// When the storage fails, or the state's sums are not those of its rows.
    pub fn digest(&self) -> Result<(Digest, LogId), QueryError> {
        let QueryAnswer { bytes, applied } = self.encoded_digest()?;
        Ok((Digest::decode(bytes).map_err(unreadable)?, applied))
    }

    fn encoded_digest(&self) -> Result<QueryAnswer, QueryError> {
        let mut audit = Audit::default();
        let (meta, marks) = self.view.walk(&mut |table, key, record| audit.visit(table, key, record))?;
        let hash = audit.finish(&meta, &marks)?;
        Ok(QueryAnswer { bytes: Digest::encode(&meta, &hash), applied: meta.applied })
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
            [QUERY_VERSION, GET_AT, fields @ ..] => match fields.split_first_chunk() {
                Some((_, [])) => malformed("the key is empty".into()),
                Some((revision, key)) => self.view.get_at(key, Index(u64::from_be_bytes(*revision))),
                None => malformed("the query ends in the middle of a field".into()),
            },
            [QUERY_VERSION, MARKS] => {
                let (meta, marks) = self.view.marks()?;
                Ok(QueryAnswer { bytes: Passed::encode(&meta, &marks), applied: meta.applied })
            }
            [QUERY_VERSION, MARK_DIGEST, fields @ ..] => {
                let Ok(index) = <[u8; 8]>::try_from(fields) else {
                    return malformed("a mark's index has 8 bytes".into());
                };
                let (meta, marks) = self.view.marks()?;
                let mark = marks.at(Index(u64::from_be_bytes(index)));
                Ok(QueryAnswer { bytes: MarkDigest::encode(mark), applied: meta.applied })
            }
            [QUERY_VERSION, code, ..] => malformed(format!("unknown or overlong query {code}")),
            [QUERY_VERSION] | [] => malformed("the query ends in the middle of a field".into()),
            [version, ..] => malformed(format!("unknown query version {version}")),
        }
    }
}
