//! The one file of a snapshot: magic, version, checksum of the rest; applied index and term, digest, count of keys; then
//! each key and its value behind their lengths. Numbers are little-endian.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use super::Values;
use crate::ports::SnapshotError;
use crate::types::{Index, LogId, Term};

const FILE_NAME: &str = "state";
const MAGIC: [u8; 8] = *b"RAFTMEMS";
const VERSION: u32 = 1;

/// Makes the directory and writes the state into it.
pub(super) fn write(directory: &Path, values: &Values) -> Result<(), SnapshotError> {
    let make = || -> io::Result<()> {
        fs::create_dir(directory)?;
        fs::write(directory.join(FILE_NAME), encode(values))
    };
    make().map_err(|error| SnapshotError::Io {
        doing: format!("taking a snapshot into {}", directory.display()),
        reason: error.to_string(),
    })
}

/// Reads the state that has applied `last`; says what does not fit.
pub(super) fn read(directory: &Path, last: LogId) -> Result<Values, String> {
    let file = fs::read(directory.join(FILE_NAME)).map_err(|error| format!("reading `{FILE_NAME}` failed: {error}"))?;
    let values = decode(&file)?;
    if values.applied != last {
        return Err(format!("it holds a state that has applied {}", values.applied));
    }
    Ok(values)
}

fn encode(values: &Values) -> Vec<u8> {
    let head = [values.applied.index.0, values.applied.term.0, values.digest, values.values.len() as u64];
    let mut body: Vec<u8> = head.iter().flat_map(|number| number.to_le_bytes()).collect();
    for text in values.values.iter().flat_map(|(key, value)| [key, value]) {
        body.extend((text.len() as u64).to_le_bytes());
        body.extend(text.as_bytes());
    }
    let mut file = MAGIC.to_vec();
    file.extend(VERSION.to_le_bytes());
    file.extend(crc32c::crc32c(&body).to_le_bytes());
    file.extend(body);
    file
}

fn decode(file: &[u8]) -> Result<Values, String> {
    let short = || "it is too short".to_owned();
    let (magic, rest) = file.split_first_chunk::<8>().ok_or_else(short)?;
    let (version, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (checksum, mut body) = rest.split_first_chunk().ok_or_else(short)?;
    let version = u32::from_le_bytes(*version);
    if *magic != MAGIC || version != VERSION {
        return Err(format!("it is no snapshot of version {VERSION}"));
    }
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err("its checksum does not fit".into());
    }
    let rest = &mut body;
    let applied = LogId::new(Index(number(rest).ok_or_else(short)?), Term(number(rest).ok_or_else(short)?));
    let (digest, count) = (number(rest).ok_or_else(short)?, number(rest).ok_or_else(short)?);
    let mut values = BTreeMap::new();
    for _ in 0..count {
        let (key, value) = (text(rest).ok_or_else(short)?, text(rest).ok_or_else(short)?);
        values.insert(key, value);
    }
    if rest.is_empty() { Ok(Values { applied, values, digest }) } else { Err("it is too long".into()) }
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u64::from_le_bytes(*bytes))
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let values = [("a", "1"), ("colour", "red")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let applied = LogId::new(Index(7), Term(2));
        let values = Values { applied, values: values.into(), digest: 77 };
        let file = encode(&values);
        assert_eq!(decode(&file), Ok(values));
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..file.len() {
            assert!(decode(&file[..length]).is_err(), "the first {length} bytes");
        }
    }
}
