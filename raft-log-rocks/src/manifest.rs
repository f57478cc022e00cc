//! A look at RocksDB's manifest before RocksDB reads it.
//!
//! RocksDB 11.8 reads a manifest for ever when one flipped bit turns the kind of a record, after the first, into one of
//! those that only a recycled write-ahead log has: it neither consumes that record nor reports it. A node would hang
//! at start with one busy core and no word. Everything else that may be wrong with a manifest RocksDB finds itself.
//!
//! `raft-kv` has the same file for its own database; the two crates share nothing but `raft-core`, which knows no
//! RocksDB.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Records do not cross the borders of blocks; what is too short for a header at a block's end is filled with zeros.
const BLOCK_BYTES: usize = 32 << 10;
/// Checksum, length, kind.
const HEADER_BYTES: usize = 7;
/// Whole, first, middle and last: the kinds of records in a manifest.
const KINDS: std::ops::RangeInclusive<u8> = 1..=4;
/// Longer than any name that `CURRENT` can hold.
const NAME_BYTES_MAX: u64 = 256;

/// The manifest of the database at `path` and what is wrong with it, if RocksDB would not survive to say so. A database
/// without a manifest is RocksDB's to judge.
pub(crate) fn unreadable(path: &Path) -> io::Result<Option<(PathBuf, String)>> {
    let mut name = String::new();
    // Not text, or no such file: RocksDB says what is wrong with it, or makes a new database.
    let Ok(Ok(_)) = File::open(path.join("CURRENT")).map(|file| file.take(NAME_BYTES_MAX).read_to_string(&mut name))
    else {
        return Ok(None);
    };
    let manifest = path.join(name.trim_end());
    let Ok(mut file) = File::open(&manifest) else {
        return Ok(None);
    };
    let (mut block, mut before) = (Vec::with_capacity(BLOCK_BYTES), 0);
    loop {
        block.clear();
        (&mut file).take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if let Some((at, kind)) = foreign_record(&block) {
            let reason = format!("the record at byte {} is of kind {kind}, and a manifest has none", before + at);
            return Ok(Some((manifest, reason)));
        }
        if block.len() < BLOCK_BYTES {
            return Ok(None);
        }
        before += BLOCK_BYTES;
    }
}

/// Where in a block a record stands whose kind no manifest has, and its kind. A record that ends beyond the block is an
/// end that a crash tore off, or damage that RocksDB finds.
fn foreign_record(block: &[u8]) -> Option<(usize, u8)> {
    let mut at = 0;
    while let Some(header) = block.get(at..at + HEADER_BYTES) {
        let (length, kind) = (usize::from(u16::from_le_bytes([header[4], header[5]])), header[6]);
        if kind == 0 && length == 0 {
            return None;
        }
        if !KINDS.contains(&kind) {
            return Some((at, kind));
        }
        at += HEADER_BYTES + length;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with no content to speak of; its checksum is not looked at here.
    fn record(kind: u8, length: u16) -> Vec<u8> {
        let mut record = vec![0xcc; HEADER_BYTES + usize::from(length)];
        record[4..6].copy_from_slice(&length.to_le_bytes());
        record[6] = kind;
        record
    }

    #[test]
    fn a_record_of_a_recycled_log_is_named_by_its_place() {
        let sound = [record(1, 10), record(2, 300), record(4, 0)].concat();
        assert_eq!(foreign_record(&sound), None);
        assert_eq!(foreign_record(&[sound.clone(), record(5, 9), record(1, 1)].concat()), Some((sound.len(), 5)));
        assert_eq!(foreign_record(&[sound.clone(), record(0, 9)].concat()), Some((sound.len(), 0)));
    }

    #[test]
    fn ends_that_a_crash_leaves_are_none_of_our_business() {
        let sound = [record(1, 10), record(1, 300)].concat();
        for cut in 0..sound.len() {
            assert_eq!(foreign_record(&sound[..cut]), None, "cut at {cut}");
        }
        assert_eq!(foreign_record(&[sound, vec![0; 100]].concat()), None);
    }
}
