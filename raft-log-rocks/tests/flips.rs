//! Flipped bits, in every file that a log lies in: found, repaired, declared as a loss, or without any effect; never
//! silently wrong.
//!
//! `RAFT_FLIPS` is how many bits are flipped in RocksDB's files, `RAFT_SEED` draws others. The report is
//! `flips-log.txt`.

// A test that cannot set itself up has to stop at once; no part uses everything that is shared.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "flips/image.rs"]
mod image;
#[path = "flips/log.rs"]
mod log;
#[path = "flips/small.rs"]
mod small;
#[path = "flips/table.rs"]
mod table;

/// CRC-32C, bit by bit: a twin of the code under test, to make damage that no checksum finds.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |checksum, byte| {
        (0..8).fold(checksum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 * (sum & 1)))
    })
}
