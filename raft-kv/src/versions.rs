//! Older versions of keys: which are kept, how long, and where they stand.
//!
//! When a key is written or deleted its old record goes to the versions, under the key and the index that replaced it.
//! At revision *r* a key had the record that was replaced first after *r*, if that was written at *r* or before; with
//! none, the present one. Only what was replaced is there twice, and a delete needs no row of its own.
//!
//! The log is cut into *stretches* of 64 entries. When one is over, the sum of all that was replaced in it is
//! written down, so that the sum of the state is right again when the whole stretch is forgotten, without a look at its
//! rows. Forgetting is therefore one small row for 64 entries; the rows themselves are garbage then, that the storage
//! drops when it passes.

use raft_core::types::Index;

/// Entries that are forgotten together.
pub(crate) const STRETCH: u64 = 64;
/// Stretches that one entry forgets at most, so that a window that shrinks does not stop the apply for long. A stretch
/// comes to an end with every 64th entry only, so this more than keeps up.
pub(crate) const FORGET_MAX: usize = 64;

/// The stretch in which an entry stands.
pub(crate) fn stretch_of(index: Index) -> u64 {
    index.0.saturating_sub(1) / STRETCH
}

/// The last entry of a stretch.
pub(crate) fn last_of(stretch: u64) -> Index {
    Index((stretch + 1) * STRETCH)
}

/// Ends the key within a row's key: smaller than anything that stands for a byte of it.
const END: [u8; 2] = [0, 0];
/// Stands for a zero byte.
const ZERO: [u8; 2] = [0, 0xff];
const INDEX_LENGTH: usize = 8;

/// Where the versions of a key begin: its bytes with every zero as `00 ff`, then `00 00`. So rows stand in the order of
/// their keys, and no key's rows among another's.
pub(crate) fn row_prefix(key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.len() + END.len() + INDEX_LENGTH);
    for byte in key {
        match byte {
            0 => row.extend_from_slice(&ZERO),
            byte => row.push(*byte),
        }
    }
    row.extend_from_slice(&END);
    row
}

/// Where the version stands that was replaced at this index.
pub(crate) fn row_key(key: &[u8], superseded: Index) -> Vec<u8> {
    let mut row = row_prefix(key);
    row.extend_from_slice(&superseded.0.to_be_bytes());
    row
}

/// The index at which a version was replaced, from its row's key alone. `None` when it is no row's key.
pub(crate) fn superseded_in(row: &[u8]) -> Option<Index> {
    let (_, index) = row.split_last_chunk::<INDEX_LENGTH>()?;
    Some(Index(u64::from_be_bytes(*index)))
}

/// The key and the index at which the version was replaced.
pub(crate) fn split_row_key(row: &[u8]) -> Option<(Vec<u8>, Index)> {
    let (escaped, _) = row.split_last_chunk::<INDEX_LENGTH>()?;
    let mut rest = escaped.strip_suffix(&END)?;
    let mut key = Vec::with_capacity(rest.len());
    while let Some((byte, after)) = rest.split_first() {
        key.push(*byte);
        rest = match byte {
            0 => after.strip_prefix(&ZERO[1..])?,
            _ => after,
        };
    }
    Some((key, superseded_in(row)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_keys_then_of_indexes() {
        let keys: [&[u8]; 8] =
            [&[0], &[0, 0], &[0, 0, 1], &[0, 1], &[0, 0xff], b"a", b"a\0\0\0\0\0\0\0\x01\x02", b"ab"];
        let mut rows = Vec::new();
        for key in keys {
            for index in [1, 2, 0x100, u64::MAX] {
                let row = row_key(key, Index(index));
                assert!(row.starts_with(&row_prefix(key)));
                assert_eq!(split_row_key(&row), Some((key.to_vec(), Index(index))));
                rows.push(row);
            }
        }
        let mut sorted = rows.clone();
        sorted.sort();
        let mut by_key = keys.to_vec();
        by_key.sort_unstable();
        let expected: Vec<_> =
            by_key.iter().flat_map(|key| [1, 2, 0x100, u64::MAX].map(|index| row_key(key, Index(index)))).collect();
        assert_eq!(sorted, expected);
    }

    #[test]
    fn what_is_no_row_is_refused() {
        for bad in [&b""[..], b"12345678", b"a\0\x0112345678", b"\0\0\x01\0\x0012345678", b"a\x0012345678"] {
            assert_eq!(split_row_key(bad), None, "{bad:?}");
        }
        assert_eq!(superseded_in(b"1234567"), None);
    }

    #[test]
    fn stretches_begin_after_multiples() {
        assert_eq!([1, 64, 65, 128, 129].map(|index| stretch_of(Index(index))), [0, 0, 1, 1, 2]);
        assert_eq!(last_of(0), Index(64));
    }
}
