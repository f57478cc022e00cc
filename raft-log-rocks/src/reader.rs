//! The shared read side.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use raft_core::ports::{LogReader, ReadError};
use raft_core::types::{Entry, GroupId, Index};
use rocksdb::ReadOptions;

use crate::database::{Database, Stop};

/// Where the groups' logs begin, for those who read while the store writes. A base is raised here **before** the batch
/// that moves it is written: who sees anything of that batch then knows of the base.
#[derive(Debug, Default)]
pub(crate) struct Bases(RwLock<BTreeMap<GroupId, Index>>);

impl Bases {
    /// The index before the first one that the log of `group` may still hold.
    pub(crate) fn of(&self, group: GroupId) -> Index {
        // Nothing panics while it is held that would leave it half changed.
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&group).copied().unwrap_or_default()
    }

    /// What `read` finds from `first` on, unless that is gone by the end: then the base may have moved meanwhile, what was
    /// found may be half of what was and half of what is, and what was not found is no damage.
    fn guard(
        &self,
        group: GroupId,
        first: Index,
        read: impl FnOnce() -> Result<Vec<Entry>, ReadError>,
    ) -> Result<Vec<Entry>, ReadError> {
        let missing = Err(ReadError::Missing { group, index: first });
        if first <= self.of(group) {
            return missing;
        }
        let read = read();
        if first <= self.of(group) { missing } else { read }
    }

    /// Moves a base up. Says whether it was lower.
    pub(crate) fn raise(&self, group: GroupId, base: Index) -> bool {
        if base <= self.of(group) {
            return false;
        }
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(group, base);
        true
    }
}

/// Reads entries on any thread while the store writes. What it sees is durable: RocksDB shows a batch only once its
/// sync is over.
#[derive(Clone)]
pub struct RocksLogReader {
    database: Arc<Database>,
    bases: Arc<Bases>,
}

impl RocksLogReader {
    pub(crate) fn new(database: Arc<Database>, bases: Arc<Bases>) -> Self {
        Self { database, bases }
    }

    /// Reads what the database holds from `first` on, whether the log still begins before it or not.
    fn read_held(&self, group: GroupId, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
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
        if entries.is_empty() { Err(ReadError::Missing { group, index: first }) } else { Ok(entries) }
    }
}

impl LogReader for RocksLogReader {
    /// A damaged entry that is not the first ends the answer before it, so that the sound ones can still be used; asked
    /// for as the first one, it is the error.
    fn read(&self, group: GroupId, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        if first > last {
            return Err(ReadError::Missing { group, index: first });
        }
        self.bases.guard(group, first, || self.read_held(group, first, last, bytes_max))
    }
}

fn explain(stop: Stop, group: GroupId, index: Index) -> ReadError {
    match stop {
        Stop::Damaged(reason) => ReadError::Damaged { group, index, reason },
        Stop::Failed(reason) => ReadError::Io { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_while_the_base_passes_it_is_missing_whatever_was_found() {
        let group = GroupId::FIRST;
        let missing = |index| Err(ReadError::Missing { group, index: Index(index) });
        let bases = Bases::default();
        assert!(bases.raise(group, Index(5)) && !bases.raise(group, Index(5)) && !bases.raise(group, Index(4)));
        assert_eq!((bases.of(group), bases.of(GroupId(2))), (Index(5), Index::ZERO));
        let untouched = bases.guard(group, Index(5), || panic!("read before the base"));
        assert_eq!((untouched, bases.guard(group, Index(6), || Ok(Vec::new()))), (missing(5), Ok(Vec::new())));
        let damaged = ReadError::Damaged { group, index: Index(7), reason: "it is missing".into() };
        assert_eq!(bases.guard(group, Index(7), || Err(damaged.clone())), Err(damaged.clone()));
        for found in [Ok(Vec::new()), Err(damaged)] {
            let base = bases.of(group).next();
            let passed = || {
                bases.raise(group, base.next());
                found
            };
            assert_eq!(bases.guard(group, base, passed), missing(base.0));
        }
    }
}
