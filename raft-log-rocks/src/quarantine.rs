//! The mark of a log that is known to have lost what it acknowledged. It stays over restarts, until the log has reached
//! the lost end again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use raft_core::types::{GroupId, Index, LogId, Term};

use crate::evidence::GROUPS_MAX;
use crate::small_file::{Fields, Kind, SmallFileError};

const QUARANTINE: Kind = Kind { file_name: "QUARANTINE", tag: *b"QUAR", body_bytes_max: 2 + GROUPS_MAX * 24 };

/// The lost ends, by group. The file is there only while there is one.
#[derive(Debug)]
pub(crate) struct Quarantine {
    directory: PathBuf,
    lost: BTreeMap<GroupId, LogId>,
}

impl Quarantine {
    pub(crate) fn open(directory: &Path) -> Result<Self, SmallFileError> {
        let lost = match QUARANTINE.read(directory)? {
            Some(body) => parse(&body).map_err(|reason| QUARANTINE.damaged(directory, reason))?,
            None => BTreeMap::new(),
        };
        Ok(Self { directory: directory.into(), lost })
    }

    /// The lost end of `group`'s log.
    pub(crate) fn lost(&self, group: GroupId) -> Option<LogId> {
        self.lost.get(&group).copied()
    }

    /// The groups that are marked.
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        self.lost.keys().copied().collect()
    }

    /// Marks `group`. Of two losses the more up-to-date end counts (by term, then by index, as votes go): a log that
    /// reaches it holds whatever was committed of the other. Durable on return.
    pub(crate) fn mark(&mut self, group: GroupId, end: LogId) -> Result<(), SmallFileError> {
        if self.lost(group).is_some_and(|held| held.at_least_as_up_to_date_as(end)) {
            return Ok(());
        }
        self.lost.insert(group, end);
        self.save()
    }

    /// Takes the mark off when a log that now ends at `last`, durably, is at least as up to date.
    pub(crate) fn release(&mut self, group: GroupId, last: LogId) -> Result<(), SmallFileError> {
        match self.lost(group) {
            Some(end) if last.at_least_as_up_to_date_as(end) => {
                self.lost.remove(&group);
                tracing::info!(%group, %end, "the log has reached its lost end again");
                self.save()
            }
            _ => Ok(()),
        }
    }

    fn save(&self) -> Result<(), SmallFileError> {
        if self.lost.is_empty() {
            return QUARANTINE.remove(&self.directory);
        }
        let mut body = (self.lost.len() as u16).to_be_bytes().to_vec();
        for (group, end) in &self.lost {
            for number in [group.0, end.index.0, end.term.0] {
                body.extend_from_slice(&number.to_be_bytes());
            }
        }
        QUARANTINE.replace(&self.directory, &body)
    }
}

fn parse(body: &[u8]) -> Result<BTreeMap<GroupId, LogId>, String> {
    let mut fields = Fields::new(body);
    let mut lost = BTreeMap::new();
    for _ in 0..fields.u16()? {
        let group = GroupId(fields.u64()?);
        lost.insert(group, LogId::new(Index(fields.u64()?), Term(fields.u64()?)));
    }
    fields.finish()?;
    Ok(lost)
}

#[cfg(test)]
mod tests {
    // A test that cannot set itself up has to stop at once.
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_mark_stays_until_the_log_is_as_up_to_date_and_the_newer_of_two_counts() {
        let directory = tempfile::tempdir().unwrap();
        let end = LogId::new(Index(8), Term(2));
        let mut quarantine = Quarantine::open(directory.path()).unwrap();
        quarantine.mark(GroupId(1), end).unwrap();
        let newer = LogId::new(Index(6), Term(3));
        quarantine.mark(GroupId(1), newer).unwrap();
        quarantine.mark(GroupId(1), LogId::new(Index(9), Term(1))).unwrap();
        quarantine.release(GroupId(1), LogId::new(Index(99), Term(2))).unwrap();
        quarantine.release(GroupId(2), LogId::new(Index(99), Term(9))).unwrap();
        let mut quarantine = Quarantine::open(directory.path()).unwrap();
        assert_eq!(quarantine.lost(GroupId(1)), Some(newer));
        quarantine.release(GroupId(1), LogId::new(Index(5), Term(4))).unwrap();
        let quarantine = Quarantine::open(directory.path()).unwrap();
        assert_eq!(quarantine.groups(), vec![]);
        assert!(!QUARANTINE.path(directory.path()).exists());
    }
}
