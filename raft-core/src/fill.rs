//! Appends whose entries are not all in memory, and what it takes to complete them.

use crate::message::PeerMessage;
use crate::ports::{LogReader, ReadError};
use crate::types::{Entry, GroupId, Index};

/// An append or a suffix whose entries are not all in memory. Complete it on a thread that may read the disk, then send
/// it; until then, keep later messages with entries to the same peer behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// The message without its entries.
    pub message: PeerMessage,
    /// Entries from the end of the span that were in memory, which may be ahead of the disk.
    pub tail: Vec<Entry>,
}

/// Why a [`Fill`] was dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// The entries are not those that the append names (a truncation came first): the message must not be sent.
    #[error("the log changed meanwhile")]
    Stale,
    /// They cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Fill {
    /// Reads the missing entries and checks that they are exactly those that the append names.
    ///
    /// # Errors
    /// When the log has changed meanwhile or cannot be read: nothing may be sent then, and the replica is told by
    /// [`Input::FillFailed`](crate::replica::Input::FillFailed).
    pub fn complete(self, reader: &dyn LogReader) -> Result<PeerMessage, FillError> {
        let Self { mut message, tail } = self;
        let Some(span) = message.envelope.message.entries_mut() else {
            return Ok(message);
        };
        let last_to_read = tail.first().map_or_else(|| span.last().index, |entry| entry.id.index.prev());
        let mut entries = read_all(reader, message.group, span.prev.index.next(), last_to_read)?;
        entries.extend(tail);
        if !span.names(&entries) {
            return Err(FillError::Stale);
        }
        span.bytes = entries.iter().map(Entry::size).sum();
        message.entries = entries;
        Ok(message)
    }
}

/// Bytes per call of [`LogReader::read`] when a known range is read.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Reads all entries from `first` to `last`, in as many calls as it takes.
///
/// # Errors
/// When one of them is missing or damaged.
pub fn read_all(reader: &dyn LogReader, group: GroupId, first: Index, last: Index) -> Result<Vec<Entry>, ReadError> {
    let mut entries = Vec::new();
    let mut next = first;
    while next <= last {
        let read = reader.read(group, next, last, READ_BYTES_MAX)?;
        let Some(end) = read.last().map(|entry| entry.id.index) else {
            return Err(ReadError::Missing { group, index: next });
        };
        entries.extend(read);
        next = end.next();
    }
    Ok(entries)
}
