//! A replicated key-value store, as a state machine for [`raft_core`].
//!
//! Keys and values are bytes. A client's request is a [`Command`]; encoded, it is the payload of a log entry. The leader
//! writes its clock into it with [`stamp`] just before it proposes it. Every replica applies the committed entries in
//! order and comes to the same [`Answer`]: the same bytes from the same log, on disk ([`KvStateMachine`]) and in memory
//! ([`MemoryKv`]), since both run one logic.
//!
//! ```
//! use raft_core::ports::StateMachine;
//! use raft_core::types::{Entry, EntryKind, Index, LogId, Payload, Term};
//! use raft_kv::{Answer, Command, Change, MemoryKv, Precondition, Settings, Verdict, stamp};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut kv = MemoryKv::new(Settings::default())?;
//! let reader = kv.kv_reader();
//!
//! // What a leader does with a request, and Raft with the entry.
//! let mut commit = |index: u64, command: Command| -> Result<Answer, Box<dyn std::error::Error>> {
//!     let payload = Payload::new(stamp(command.encode()?, 1_700_000_000_000 + index));
//!     let entry = Entry { id: LogId::new(Index(index), Term(1)), kind: EntryKind::Command, payload };
//!     let mut answers = Vec::new();
//!     kv.apply(&[entry], &mut answers)?;
//!     Ok(Answer::decode(answers.remove(0))?)
//! };
//!
//! let answer = commit(1, Command::put("greeting", "hello"))?;
//! assert_eq!(answer.verdict, Verdict::Written { existed: vec![false] });
//!
//! // A value's revision is the index of the entry that wrote it. Compare and set:
//! let newer = Change::put("greeting", "good morning").only_if(Precondition::Revision(Index(1)));
//! assert_eq!(commit(2, Command::batch(vec![newer.clone()]))?.verdict, Verdict::Written { existed: vec![true] });
//! let again = commit(3, Command::batch(vec![newer]))?;
//! assert_eq!(again.verdict, Verdict::PreconditionFailed { change: 0, current: Some(Index(2)) });
//!
//! let (value, applied) = reader.get(b"greeting")?;
//! assert_eq!(value.map(|value| value.bytes), Some("good morning".into()));
//! assert_eq!(applied, LogId::new(Index(3), Term(1)));
//! # Ok(())
//! # }
//! ```
//!
//! # Retries
//! A command under an [`IdempotencyKey`] is decided once. A retry, however late and through whichever leader, gets the
//! first answer with [`Answer::replayed`] set; another request under the same key gets
//! [`Verdict::IdempotencyConflict`]. Whatever a well-formed command came to is remembered, failures too: a client that
//! was told that nothing happened must not find out later that a stray retry did happen.
//!
//! The last [`Settings::idempotency_window`] keys are remembered, in the order of the log; they are part of the state,
//! so a restart or another replica does not forget them. A UUIDv7 that may have been forgotten is refused with
//! [`Verdict::IdempotencyForgotten`]: whether its request was done is unknown. Every other key is exact only inside the
//! window. So is a UUIDv7 of a client whose clock is more than 10 seconds ahead of the leader's.
//!
//! # What is deterministic
//! Nothing in here reads a clock, a random number or a local setting. Time is the leader's stamp, which never goes back.
//! Sizes are judged by the replicated [`Settings`], so a command that is too large on one replica is too large on all.
//! What no version could make sense of is an answer, [`Verdict::Malformed`]. A command version or an operation that
//! *this* version does not know stops the node ([`ApplyError::UnknownKind`](raft_core::ports::ApplyError)), since
//! skipping it would make the replicas differ.
//!
//! # Reads
//! [`KvReader`] answers a [`Query`] from any thread while entries are applied, and says which applied entry the answer
//! reflects.
//!
//! # Features
//! `rocksdb` (default): the state on disk. Without it the crate is pure Rust and has only [`MemoryKv`].

mod answer;
mod audit;
mod codec;
mod command;
mod digest;
#[cfg(feature = "rocksdb")]
mod directory;
mod engine;
mod idempotency;
mod image;
mod machine;
#[cfg(feature = "rocksdb")]
mod manifest;
mod marks;
mod memory;
mod query;
mod reply;
#[cfg(feature = "rocksdb")]
mod rocks;
mod settings;
mod step;
mod versions;

pub use answer::{Answer, AnswerError, Verdict};
pub use command::{
    CHANGES_MAX, COMMAND_VERSION, Change, Command, CommandError, Effect, Malformed, Operation, Precondition, stamp,
};
#[cfg(feature = "rocksdb")]
pub use directory::OpenError;
pub use idempotency::{IdempotencyKey, IdempotencyKeyError};
pub use marks::Mark;
pub use memory::{MemoryDisk, MemoryKv};
pub use query::{KvReader, Query};
pub use reply::{Digest, Found, FoundAt, MarkDigest, Overview, Passed, QueryAnswerError, Value};
#[cfg(feature = "rocksdb")]
pub use rocks::KvStateMachine;
pub use settings::{Setting, SettingError, Settings};
