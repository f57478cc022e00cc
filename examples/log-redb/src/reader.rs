//! The shared read side of the log.

use raft_core::ports::{LogReader, ReadError};
use raft_core::types::{Entry, GroupId, Index};

use crate::codec::decode_entry;
use crate::file::{DataFile, ENTRIES};

/// Reads entries from any thread. redb gives each read a view of its own, so that only writes that are complete are
/// seen, and nobody waits for a writer.
#[derive(Clone, Debug)]
pub struct RedbReader {
    file: DataFile,
}

impl RedbReader {
    pub(crate) fn new(file: DataFile) -> Self {
        Self { file }
    }
}

impl LogReader for RedbReader {
    fn read(&self, group: GroupId, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        if first > last {
            return Err(ReadError::Missing { group, index: first });
        }
        let read = self.file.read(|transaction| {
            let table = transaction.open_table(ENTRIES)?;
            let records = table.range((group.0, first.0)..=(group.0, last.0))?;
            Ok(take(group, first, bytes_max, records))
        });
        read.map_err(|error| ReadError::Io { reason: error.to_string() })?
    }
}

/// The entries from `first` on that follow each other, as many as fit. What is wrong with a later one than the first is
/// told when that one is asked for first.
fn take(
    group: GroupId,
    first: Index,
    bytes_max: u64,
    records: redb::Range<'_, (u64, u64), &'static [u8]>,
) -> Result<Vec<Entry>, ReadError> {
    let (mut entries, mut bytes, mut next) = (Vec::new(), 0, first);
    for record in records {
        let entry = match record {
            Err(error) => Err(ReadError::Io { reason: error.to_string() }),
            Ok((key, _)) if key.value().1 != next.0 => Err(ReadError::Missing { group, index: next }),
            Ok((_, value)) => decode_entry(group, next, value.value()).map_err(|reason| ReadError::Damaged {
                group,
                index: next,
                reason,
            }),
        };
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if entries.is_empty() => return Err(error),
            Err(_) => break,
        };
        bytes += entry.size();
        if bytes > bytes_max && !entries.is_empty() {
            break;
        }
        entries.push(entry);
        next = next.next();
    }
    if entries.is_empty() { Err(ReadError::Missing { group, index: first }) } else { Ok(entries) }
}
