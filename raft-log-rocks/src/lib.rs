//! The log of a Raft node on RocksDB, and the data directory that it lies in.
//!
//! # The promise
//! When [`LogStore::write`](raft_core::ports::LogStore::write) returns, everything in it survives a loss of power: all
//! writes of the call are one RocksDB batch and one `fdatasync`. Term and vote are in the same batch as the entries, so
//! no crash can separate them. After any error the store acknowledges nothing more; the node restarts and recovers.
//!
//! # What it does not trust
//! *The disk's bytes.* Every record carries a checksum that covers its key, and the payload's own checksum, computed
//! where the request entered the system. Recovery reads and checks every record, and names the index that does not fit.
//!
//! *The recovery of the WAL.* After one flipped bit RocksDB opens quietly with fewer entries than were synced. A voter
//! that forgets what it acknowledged breaks Raft, so the store keeps its own evidence beside the database and compares
//! at open. What is behind the evidence takes term and vote from it and reports its lost end in
//! [`Recovered::lost`](raft_core::ports::Recovered::lost), over restarts, until the log has reached it again.
//!
//! *The operator's hand.* [`DataDir`] refuses a directory of another node, of an unknown format, that another process
//! has open, or that is none.
//!
//! # Where a log begins
//! [`LogStore::compact`](raft_core::ports::LogStore::compact) and a snapshot in a
//! [`LogWrite`](raft_core::ports::LogWrite) move the log's beginning, in one batch and without tombstones: who reads
//! begins behind it. A thread of its own then flushes the tables and drops the files that hold nothing else, in this
//! order, so that no damage to the WAL brings back a beginning whose entries are gone. A crash anywhere leaves the old
//! beginning or the new one.
//!
//! `docs/storage-format.md` shows every byte.
//!
//! # Example
//! ```
//! use bytes::Bytes;
//! use raft_core::ports::{LogStore, LogWrite};
//! use raft_core::types::{Entry, EntryKind, GroupId, HardState, Index, LogId, NodeId, NodeName, Payload, Term};
//! use raft_log_rocks::{DataDir, LogOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let somewhere = tempfile::tempdir()?;
//! let path = somewhere.path().join("node-a");
//! let node = NodeName::new("a");
//! {
//!     let directory = DataDir::open(&path, &node)?;
//!     let mut log = directory.open_log(LogOptions::default())?;
//!     log.recover(GroupId::FIRST)?;
//!     log.write(&[LogWrite {
//!         group: GroupId::FIRST,
//!         hard_state: Some(HardState { term: Term(1), vote: Some(NodeId(1)) }),
//!         entries: vec![Entry {
//!             id: LogId::new(Index(1), Term(1)),
//!             kind: EntryKind::Command,
//!             payload: Payload::new(Bytes::from_static(b"hello")),
//!         }],
//!         ..LogWrite::default()
//!     }])?;
//!     assert_eq!(log.completed_syncs().value(), 1);
//! }
//! let directory = DataDir::open(&path, &node)?;
//! assert_eq!(directory.start().count, 2);
//! let mut log = directory.open_log(LogOptions::default())?;
//! let recovered = log.recover(GroupId::FIRST)?;
//! assert_eq!(recovered.last(), LogId::new(Index(1), Term(1)));
//! assert_eq!(recovered.hard_state.vote, Some(NodeId(1)));
//! let entries = log.reader().read(GroupId::FIRST, Index(1), Index(1), u64::MAX)?;
//! assert_eq!(&entries[0].payload.bytes()[..], b"hello");
//! # Ok(())
//! # }
//! ```

mod data_dir;
mod database;
mod evidence;
mod group;
mod health;
mod manifest;
mod quarantine;
mod reader;
mod record;
mod small_file;
mod store;
mod sweeper;

pub use data_dir::{DataDir, DataDirError, EARLIER_STARTS_MAX, FOUNDING_RECORD_BYTES_MAX, Inspection, StartRecord};
pub use reader::RocksLogReader;
pub use store::{LogOptions, RocksLog, SyncCount, SyncObserver, SyncReport};
