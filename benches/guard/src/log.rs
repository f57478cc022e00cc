//! Writes of the log store: checks, records, one batch, one sync, the evidence.

use bytes::Bytes;
use raft_core::ports::{LogStore, LogWrite};
use raft_core::types::{Entry, EntryKind, GroupId, HardState, Index, LogId, NodeId, Payload, Term, WriteId};
use raft_log_rocks::{LogOptions, RocksLog};

use crate::Once;
use crate::members::{Anything, PAYLOAD_BYTES};

/// Writes so many entries at a time.
pub(crate) fn write(entries: u64) -> Result<Once, Anything> {
    let directory = tempfile::tempdir()?;
    let mut store = RocksLog::open(directory.path(), LogOptions::default())?;
    store.recover(GroupId::FIRST)?;
    let hard_state = Some(HardState { term: Term(1), vote: Some(NodeId(1)) });
    store.write(&[LogWrite { group: GroupId::FIRST, hard_state, ..LogWrite::default() }])?;
    let payload = Payload::new(Bytes::from(vec![b'v'; PAYLOAD_BYTES]));
    let mut last = 0;
    Ok(Box::new(move || {
        // The directory goes when the path does.
        let _ = &directory;
        let made = (last + 1..=last + entries).map(|index| Entry {
            id: LogId::new(Index(index), Term(1)),
            kind: EntryKind::Command,
            payload: payload.clone(),
        });
        let write = LogWrite {
            id: WriteId(last + 1),
            group: GroupId::FIRST,
            commit: Some(Index(last)),
            entries: made.collect(),
            ..LogWrite::default()
        };
        last += entries;
        Ok(store.write(&[write])?)
    }))
}
