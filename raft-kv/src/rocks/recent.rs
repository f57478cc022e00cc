//! Records that were written lately, for the next change of the same keys.
//!
//! A put has to look up what it replaces: its version is kept, and its sum is subtracted. For keys that change often, that
//! would be a search through the memory tables and now and then a block from a file, on every replica.

use std::collections::HashMap;

use bytes::Bytes;

/// What records may take, keys and bookkeeping included. The half of it that was written last is surely here.
const BYTES_MAX: usize = 32 << 20;
/// A longer record is not copied for this; looking it up costs little beside writing it.
const RECORD_BYTES_MAX: usize = 4 << 10;
/// Of an entry beside its key and its record, about: two allocations, two handles, its share of a table that is half full.
const OVERHEAD: usize = 200;

/// Two generations: what is written goes to the young one, and when that has its half of the bytes the old one is dropped.
#[derive(Default)]
pub(super) struct Recent {
    young: HashMap<Bytes, Bytes>,
    old: HashMap<Bytes, Bytes>,
    young_bytes: usize,
}

impl Recent {
    /// What stands under `key`, if that was written lately.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Notes what is written under `key`.
    pub(super) fn put(&mut self, key: &[u8], record: &[u8]) {
        let bytes = key.len() + record.len() + OVERHEAD;
        if record.len() > RECORD_BYTES_MAX {
            self.remove(key);
            return;
        }
        if self.young_bytes + bytes > BYTES_MAX / 2 {
            std::mem::swap(&mut self.young, &mut self.old);
            // It keeps its room: growing again would take longer than the rest.
            self.young.clear();
            self.young_bytes = 0;
        }
        // Copied: a slice would keep the message in memory in which the command came.
        let record = Bytes::copy_from_slice(record);
        match self.young.get_mut(key) {
            Some(before) => {
                self.young_bytes = self.young_bytes - before.len() + record.len();
                *before = record;
            }
            None => {
                self.young_bytes += bytes;
                self.young.insert(Bytes::copy_from_slice(key), record);
            }
        }
    }

    /// Nothing stands under `key` any more, or nobody knows here what does.
    pub(super) fn remove(&mut self, key: &[u8]) {
        if let Some(record) = self.young.remove(key) {
            self.young_bytes -= key.len() + record.len() + OVERHEAD;
        }
        self.old.remove(key);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_record_of_a_key_is_found_and_a_removed_one_is_not() {
        let mut recent = Recent::default();
        recent.put(b"a", b"1");
        recent.put(b"b", b"2");
        recent.put(b"a", b"3");
        assert_eq!(recent.get(b"a").map(|record| &record[..]), Some(&b"3"[..]));
        recent.remove(b"a");
        assert_eq!(recent.get(b"a"), None);
        recent.put(b"b", &[0; RECORD_BYTES_MAX + 1]);
        assert_eq!(recent.get(b"b"), None, "a long one is not kept, and the one before is no more");
        recent.put(b"b", b"4");
        recent.clear();
        assert_eq!(recent.get(b"b"), None);
    }

    #[test]
    fn it_keeps_the_half_that_was_written_last_and_no_more_than_all() {
        let mut recent = Recent::default();
        let record = [7; 1000];
        let each = 8 + record.len() + OVERHEAD;
        let half = (BYTES_MAX / 2 / each) as u64;
        for number in 0..half * 5 {
            recent.put(&number.to_be_bytes(), &record);
            let kept = recent.young.len() + recent.old.len();
            assert!(kept * each <= BYTES_MAX, "{kept} records after {number}");
            assert!(recent.get(&number.saturating_sub(half - 1).to_be_bytes()).is_some(), "at {number}");
        }
        assert_eq!(recent.young_bytes, recent.young.len() * each);
        // An old generation does not answer for what was removed or replaced since.
        let last = (half * 5 - 1).to_be_bytes();
        recent.put(b"fills", &record);
        recent.put(&last, b"newer");
        assert_eq!(recent.get(&last).map(|record| &record[..]), Some(&b"newer"[..]));
        recent.remove(&last);
        assert_eq!(recent.get(&last), None);
    }
}
