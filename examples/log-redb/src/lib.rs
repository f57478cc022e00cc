//! A log store on [redb](https://docs.rs/redb), a B-tree in one file: an example of a storage that was brought along.
//!
//! Read it beside `docs/guides/storage.md`, and copy it. From the bottom up:
//!
//! - [`codec`](self) (private): what the bytes in the tables are, each value with its checksum.
//! - [`DataFile`]: opens the file, which both of the others share, in a way that survives a loss of power.
//! - [`RedbStore`] and its reader: the ports `LogStore` and `LogReader`.
//! - [`RedbIdentity`]: who the node is, the port `IdentityStore`.
//!
//! What is right and wrong in a log (gaps, truncations, snapshots, configurations) is not here: `raft_core::kept_log`
//! knows it for every store.
//!
//! ```
//! use log_redb::{DataFile, RedbStore};
//! use raft_core::ports::{LogStore, LogWrite};
//! use raft_core::types::{Entry, EntryKind, GroupId, HardState, Index, LogId, Payload, Term};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("node.redb");
//! let file = DataFile::open(&path)?;
//! let mut store = RedbStore::new(&file);
//! assert_eq!(store.recover(GroupId::FIRST)?.last(), LogId::ZERO);
//!
//! let id = LogId::new(Index(1), Term(1));
//! let entry = Entry { id, kind: EntryKind::Command, payload: Payload::new("a command".into()) };
//! let write = LogWrite {
//!     group: GroupId::FIRST,
//!     hard_state: Some(HardState { term: Term(1), vote: None }),
//!     entries: vec![entry.clone()],
//!     ..LogWrite::default()
//! };
//! // On return it survives a loss of power.
//! store.write(&[write])?;
//! assert_eq!(store.reader().read(GroupId::FIRST, Index(1), Index(1), u64::MAX)?, [entry]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod codec;
mod file;
mod identity;
mod reader;
mod store;

pub use file::DataFile;
pub use identity::RedbIdentity;
pub use reader::RedbReader;
pub use store::RedbStore;
