//! The shared read side.

use std::sync::Arc;

use raft_core::ports::{LogReader, ReadError};
use raft_core::types::{Entry, GroupId, Index};
use rocksdb::ReadOptions;

use crate::database::{Database, Stop};

/// Reads entries on any thread while the store writes. What it sees is durable: RocksDB shows a batch only once its
/// sync is over.
#[derive(Clone)]
pub struct RocksLogReader {
    database: Arc<Database>,
}

impl RocksLogReader {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self { database }
    }
}

impl LogReader for RocksLogReader {
    /// A damaged entry that is not the first ends the answer before it, so that the sound ones can still be used; asked
    /// for as the first one, it is the error.
    fn read(&self, group: GroupId, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        let missing = || ReadError::Missing { group, index: first };
        if first == Index::ZERO || first > last {
            return Err(missing());
        }
        let mut cursor = self.database.cursor(group, first, last, ReadOptions::default());
        let mut entries: Vec<Entry> = Vec::new();
        let (mut due, mut bytes) = (first, 0);
        while due <= last {
            let entry = match cursor.next(due) {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(_) if !entries.is_empty() => break,
                Err(stop) => return Err(explain(stop, group, first)),
            };
            bytes += entry.size();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            due = due.next();
            entries.push(entry);
        }
        if entries.is_empty() { Err(missing()) } else { Ok(entries) }
    }
}

fn explain(stop: Stop, group: GroupId, index: Index) -> ReadError {
    match stop {
        Stop::Damaged(reason) => ReadError::Damaged { group, index, reason },
        Stop::Failed(reason) => ReadError::Io { reason },
    }
}
