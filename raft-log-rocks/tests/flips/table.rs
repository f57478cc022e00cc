//! Where the parts of a RocksDB table lie: as much of the format as is needed to flip a bit in each part.

// A test that cannot set itself up has to stop at once.
#![allow(clippy::unwrap_used)]

use std::ops::Range;

/// Checksum type, 40 bytes by version, version, magic number.
const FOOTER: usize = 53;
/// Compression type and checksum behind every block.
const TRAILER: usize = 5;
/// From this version on the footer has a checksum and names the metaindex alone, by its size.
const CHECKED_FOOTER_FROM: u32 = 6;

/// What every table ends with.
const MAGIC: u64 = 0x88e2_41b7_85f4_cff7;

/// Whether a table was written to its end.
pub(crate) fn is_whole(content: &[u8]) -> bool {
    content.len() > FOOTER && content.ends_with(&MAGIC.to_le_bytes())
}

/// The parts of a table, in no order; every byte of the file is in one.
pub(crate) fn places(content: &[u8]) -> Vec<(&'static str, Range<usize>)> {
    let footer = content.len() - FOOTER;
    let version = u32::from_le_bytes(content[content.len() - 12..content.len() - 8].try_into().unwrap());
    let mut parts = Vec::new();
    let (from, size) = if version >= CHECKED_FOOTER_FROM {
        let size = u32::from_le_bytes(content[footer + 13..footer + 17].try_into().unwrap()) as usize;
        (footer - TRAILER - size, size)
    } else {
        let mut handles = &content[footer + 1..];
        let metaindex = handle(&mut handles);
        let (from, size) = handle(&mut handles);
        parts.push(("table: index", from..from + size + TRAILER));
        metaindex
    };
    parts.push(("table: metaindex", from..from + size + TRAILER));
    parts.push(("table: footer", footer..content.len()));
    for (name, (from, size)) in metaindex(&content[from..from + size]) {
        let place = match name.as_str() {
            "rocksdb.index" => "table: index",
            "rocksdb.properties" => "table: properties",
            name if name.starts_with("fullfilter.") => "table: filter",
            _ => panic!("a block {name} that these tests do not know"),
        };
        parts.push((place, from..from + size + TRAILER));
    }
    parts.sort_by_key(|(_, range)| range.start);
    let data = 0..parts[0].1.start;
    for window in parts.windows(2) {
        assert_eq!(window[0].1.end, window[1].1.start, "{window:?}");
    }
    if !data.is_empty() {
        parts.push(("table: entries", data));
    }
    parts
}

/// Names and handles in the block that lists the others.
fn metaindex(block: &[u8]) -> Vec<(String, (usize, usize))> {
    let restarts = u32::from_le_bytes(block[block.len() - 4..].try_into().unwrap()) as usize;
    let mut rest = &block[..block.len() - 4 - 4 * restarts];
    let (mut found, mut name) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        let (shared, own, value) = (varint(&mut rest), varint(&mut rest), varint(&mut rest));
        name.truncate(shared);
        name.extend_from_slice(&rest[..own]);
        let mut position = &rest[own..own + value];
        found.push((String::from_utf8(name.clone()).unwrap(), handle(&mut position)));
        rest = &rest[own + value..];
    }
    found
}

/// Offset and size of a block.
fn handle(bytes: &mut &[u8]) -> (usize, usize) {
    (varint(bytes), varint(bytes))
}

fn varint(bytes: &mut &[u8]) -> usize {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
    }
    panic!("a number that does not end");
}
