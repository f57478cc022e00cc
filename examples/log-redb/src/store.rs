//! The log: which bytes go and come with each write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use raft_core::kept_log::{Change, KeptLog, LogBeginning, LogReading};
use raft_core::ports::{LogReader, LogStore, LogWrite, Recovered, StoreError};
use raft_core::types::{GroupId, HardState, Index};
use redb::{Durability, Table};

use crate::codec::{
    decode_beginning, decode_entry, decode_hard_state, encode_beginning, encode_entry, encode_hard_state,
};
use crate::file::{BEGINNINGS, DataFile, ENTRIES, HARD_STATES, failed};
use crate::reader::RedbReader;

/// The logs of all groups in one redb file. A slice of writes is one transaction and one sync.
#[derive(Debug)]
pub struct RedbStore {
    file: DataFile,
    /// What is known of each group that was touched since the file was opened.
    logs: BTreeMap<GroupId, KeptLog>,
    /// What went wrong. Nothing is written after that: a sync that failed may have dropped what it was to save, and
    /// only what is read after a restart is known to be there.
    failed: Option<String>,
}

impl LogStore for RedbStore {
    fn recover(&mut self, group: GroupId) -> Result<Recovered, StoreError> {
        self.unless_failed(|store| store.load(group))
    }

    fn write(&mut self, writes: &[LogWrite]) -> Result<(), StoreError> {
        self.unless_failed(|store| store.write_all(writes))
    }

    fn compact(&mut self, group: GroupId, upto: Index) -> Result<(), StoreError> {
        self.unless_failed(|store| {
            let Some(change) = store.log(group)?.compact(upto)? else { return Ok(()) };
            let log = store.log(group)?;
            let beginning = encode_beginning(group, &log.beginning());
            // The commit index that allows it may have come with a write that changed nothing else.
            let hard_state = encode_hard_state(group, log.hard_state(), log.commit());
            // Not synced here: it is durable with the next write, and until then the old beginning is as good.
            store.file.write("compacting the log", Durability::None, |transaction| {
                drop_entries(&mut transaction.open_table(ENTRIES)?, group, change)?;
                transaction.open_table(HARD_STATES)?.insert(group.0, hard_state.as_slice())?;
                transaction.open_table(BEGINNINGS)?.insert(group.0, beginning.as_slice())?;
                Ok(())
            })
        })
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(RedbReader::new(self.file.clone()))
    }
}

impl RedbStore {
    /// The logs in this file.
    #[must_use]
    pub fn new(file: &DataFile) -> Self {
        Self { file: file.clone(), logs: BTreeMap::new(), failed: None }
    }

    /// Every call of the port goes through here: the first error is the last one that says what happened.
    fn unless_failed<T>(&mut self, call: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if let Some(earlier) = &self.failed {
            let reason = format!("an earlier call failed ({earlier}); restart the node");
            return Err(StoreError::Refused { reason });
        }
        call(self).inspect_err(|error| self.failed = Some(error.to_string()))
    }

    /// What is known of a group; read from the file at first.
    fn log(&mut self, group: GroupId) -> Result<&mut KeptLog, StoreError> {
        if !self.logs.contains_key(&group) {
            self.load(group)?;
        }
        Ok(self.logs.get_mut(&group).expect("it was loaded"))
    }

    /// Reads all that the file holds of a group, and checks every record.
    fn load(&mut self, group: GroupId) -> Result<Recovered, StoreError> {
        let read = self.file.read(|transaction| {
            let hard_state = transaction.open_table(HARD_STATES)?.get(group.0)?;
            let hard_state = hard_state.map(|value| decode_hard_state(group, value.value()));
            let beginning = transaction.open_table(BEGINNINGS)?.get(group.0)?;
            let beginning = beginning.map(|value| decode_beginning(group, value.value()));
            let mut reading = match reading(group, hard_state, beginning) {
                Ok(reading) => reading,
                Err(error) => return Ok(Err(error)),
            };
            for record in transaction.open_table(ENTRIES)?.range((group.0, 0)..=(group.0, u64::MAX))? {
                let (key, value) = record?;
                let index = Index(key.value().1);
                let entry = decode_entry(group, index, value.value())
                    .map_err(|reason| damaged(format!("entry {index} of {group}"), reason));
                if let Err(error) = entry.and_then(|entry| reading.push(&entry)) {
                    return Ok(Err(error));
                }
            }
            Ok(reading.finish())
        });
        let (recovered, log) = read.map_err(|error| failed("reading the log", error))??;
        self.logs.insert(group, log);
        Ok(recovered)
    }

    fn write_all(&mut self, writes: &[LogWrite]) -> Result<(), StoreError> {
        // First all of it is checked, so that nothing of a slice with a write that no log allows gets to the disk.
        let mut changes = Vec::with_capacity(writes.len());
        let (mut groups, mut begun_anew) = (BTreeSet::new(), BTreeSet::new());
        for write in writes {
            let change = self.log(write.group)?.write(write)?;
            groups.insert(write.group);
            if change.begins_anew {
                begun_anew.insert(write.group);
            }
            changes.push(change);
        }
        if writes.iter().all(LogWrite::is_empty) {
            return Ok(());
        }
        let logs = &self.logs;
        self.file.write("writing the log", Durability::Immediate, |transaction| {
            let mut entries = transaction.open_table(ENTRIES)?;
            for (write, change) in writes.iter().zip(changes) {
                drop_entries(&mut entries, write.group, change)?;
                for entry in &write.entries {
                    let record = encode_entry(write.group, entry);
                    entries.insert((write.group.0, entry.id.index.0), record.as_slice())?;
                }
            }
            // What a group has once is put once, as it is after the last of its writes.
            let mut hard_states = transaction.open_table(HARD_STATES)?;
            for group in groups {
                let value = encode_hard_state(group, logs[&group].hard_state(), logs[&group].commit());
                hard_states.insert(group.0, value.as_slice())?;
            }
            let mut beginnings = transaction.open_table(BEGINNINGS)?;
            for group in begun_anew {
                let value = encode_beginning(group, &logs[&group].beginning());
                beginnings.insert(group.0, value.as_slice())?;
            }
            Ok(())
        })
    }
}

fn reading(
    group: GroupId,
    hard_state: Option<Result<(HardState, Index), String>>,
    beginning: Option<Result<LogBeginning, String>>,
) -> Result<LogReading, StoreError> {
    // A group that was never written has none of them.
    let (hard_state, commit) = hard_state
        .transpose()
        .map_err(|reason| damaged(format!("the hard state of {group}"), reason))?
        .unwrap_or_default();
    let beginning = beginning.transpose().map_err(|reason| damaged(format!("the beginning of {group}"), reason))?;
    Ok(LogReading::new(hard_state, commit, beginning.unwrap_or_default()))
}

fn drop_entries(
    entries: &mut Table<'_, (u64, u64), &'static [u8]>,
    group: GroupId,
    change: Change,
) -> Result<(), redb::StorageError> {
    if let Some(upto) = change.drop_upto {
        entries.retain_in((group.0, 0)..=(group.0, upto.0), |_, _| false)?;
    }
    if let Some(from) = change.drop_from {
        entries.retain_in((group.0, from.0)..=(group.0, u64::MAX), |_, _| false)?;
    }
    Ok(())
}

fn damaged(place: String, reason: String) -> StoreError {
    StoreError::Damaged { place, reason }
}
