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
//! The last [`Settings::versions_window`] entries can be read back: [`Query::GetAt`] answers with the value as it was
//! after an earlier entry, or says which revisions can be read.
//!
//! # Marks
//! A mark is an entry of its own kind, which the node proposes now and then. Its answer is a digest of the state, equal
//! on all replicas that hold the same; it costs the same however large the state is, since sums over rows are kept from
//! entry to entry. [`Query::Marks`] lists the newest marks: an index at which every replica can be read to the same
//! effect. [`Query::Digest`] reads everything, and finds a state whose sums are not those of its rows.
//!
//! # Snapshots
//! [`StateMachine::snapshotter`](raft_core::ports::StateMachine::snapshotter) takes them while entries are applied, and
//! [`StateMachine::restore`](raft_core::ports::StateMachine::restore) puts one in the place of the state. On disk that
//! is a new generation beside the old one, so a crash leaves either, whole. Whoever reads goes on reading. Marks,
//! versions and idempotency keys are part of a snapshot.
//! ```
//! use raft_core::ports::StateMachine;
//! use raft_core::types::{Entry, EntryKind, Index, LogId, Payload, Term};
//! use raft_kv::{Command, FoundAt, MemoryKv, Settings};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut kv = MemoryKv::new(Settings::default())?;
//! let id = |index| LogId::new(Index(index), Term(1));
//! let entry = |index, kind, bytes| Entry { id: id(index), kind, payload: Payload::new(bytes) };
//! let mut answers = Vec::new();
//! let first = entry(1, EntryKind::Command, Command::put("greeting", "hello").encode()?);
//! let mark = entry(2, EntryKind::Mark, "for the node".into());
//! let second = entry(3, EntryKind::Command, Command::delete("greeting").encode()?);
//! kv.apply(&[first, mark, second], &mut answers)?;
//!
//! let directory = std::env::temp_dir().join(format!("raft-kv-guide-{}", std::process::id()));
//! let last = kv.snapshotter().take(&directory)?;
//! let mut other = MemoryKv::new(Settings::default())?;
//! let reader = other.kv_reader();
//! other.restore(&directory, last)?;
//! std::fs::remove_dir_all(directory)?;
//!
//! assert_eq!(reader.get(b"greeting")?.0, None);
//! let (FoundAt::Value(Some(value)), _) = reader.get_at(b"greeting", Index(2))? else { panic!("it was there") };
//! assert_eq!(value.bytes, "hello");
//! assert_eq!(reader.marks()?.0.newest().map(|mark| &mark.digest[..]), Some(&answers[1][..]));
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//! `rocksdb` (default): the state on disk. Without it the crate is pure Rust and has only [`MemoryKv`].
//! `client`: a client of the HTTP interface that `raft-node` serves; see `raft_kv::client`.

mod answer;
mod audit;
#[cfg(feature = "client")]
pub mod client;
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
