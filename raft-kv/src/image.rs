//! A state in memory as one file: what a snapshot of it holds.
//!
//! ```text
//! file   "raft-kv memory 1\n" | meta length u32, meta | marks length u32, marks | row ... | 0 u8 | BLAKE3 hash
//! row    table u8 | key length u32 | key | record length u32 | record
//! ```
//! The hash is of all before it. Tables, keys and records are those of the state on disk; a version's key is its row's
//! key.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use bytes::Bytes;
use raft_core::ports::QueryError;
use raft_core::types::LogId;

use crate::audit::Audit;
use crate::digest::Sum;
use crate::engine::{Header, Meta};
use crate::marks::Marks;
use crate::memory::State;
use crate::query::Table;
use crate::versions;

const FILE: &str = "state";
const MAGIC: &[u8; 17] = b"raft-kv memory 1\n";
/// After the last row.
const END: u8 = 0;
/// Longer than any key or record: a length beyond it is refused before anything is taken for it.
const FIELD_BYTES_MAX: u32 = 64 << 20;

/// Makes the directory and writes the state into it, durably.
pub(crate) fn write(state: &State, directory: &Path) -> io::Result<()> {
    fs::create_dir(directory)?;
    let mut out = Hashed::new(BufWriter::new(File::create_new(directory.join(FILE))?));
    out.write_all(MAGIC)?;
    out.write_field(&[&state.meta.encode()])?;
    out.write_field(&[&state.marks.encode()])?;
    let mut failed = Ok(());
    let walked = state.walk(&mut |table, key, record| {
        failed = out.row(table, key, record);
        // The walk ends; what it says is not looked at.
        failed.as_ref().map_or_else(|error| Err(QueryError::Storage(error.to_string())), |()| Ok(()))
    });
    failed?;
    walked.map_err(io::Error::other)?;
    out.write_all(&[END])?;
    let hash = out.hasher.finalize();
    out.write_all(hash.as_bytes())?;
    let file = out.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    File::open(directory)?.sync_all()
}

/// Reads the state that `directory` holds, which has applied `last`.
///
/// # Errors
/// Says what does not fit.
pub(crate) fn read(directory: &Path, last: LogId) -> Result<State, String> {
    for file in fs::read_dir(directory).map_err(|error| error.to_string())? {
        let name = file.map_err(|error| error.to_string())?.file_name();
        if name != FILE {
            return Err(format!("a snapshot of this state has no file {}", name.display()));
        }
    }
    let file = File::open(directory.join(FILE)).map_err(|error| format!("the file {FILE}: {error}"))?;
    let state = read_from(&mut Hashed::new(BufReader::new(file))).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("the file {FILE} ends early"),
        _ => format!("the file {FILE}: {error}"),
    })?;
    if state.meta.applied != last {
        return Err(format!("it holds the state at {}, and not at {last}", state.meta.applied));
    }
    // Rows are there twice or not at all, or not where they belong.
    let mut audit = Audit::default();
    let audited = state.walk(&mut |table, key, record| audit.visit(table, key, record));
    audited.and_then(|()| audit.finish(&state.meta, &state.marks)).map_err(|error| error.to_string())?;
    Ok(state)
}

fn read_from(file: &mut Hashed<BufReader<File>>) -> io::Result<State> {
    if file.array()? != *MAGIC {
        return Err(damaged("it is no snapshot of a state in memory, or one of another version"));
    }
    let meta = Meta::decode(&file.field()?).map_err(|reason| damaged(&format!("the meta record has {reason}")))?;
    let mut state = State::new(meta);
    state.marks = Marks::decode(&file.field()?, meta.applied.index)
        .map_err(|reason| damaged(&format!("the record of marks has {reason}")))?;
    loop {
        let [code] = file.array()?;
        if code == END {
            break;
        }
        let table = Table::from_code(code).ok_or_else(|| damaged(&format!("it has a row of table {code}")))?;
        let (key, record) = (Bytes::from(file.field()?), Bytes::from(file.field()?));
        let bad = || damaged(&format!("the row of {} in {table:?} is damaged", key.escape_ascii()));
        place(&mut state, table, &key, &record).ok_or_else(bad)?;
    }
    let hash = file.hasher.finalize();
    if file.array()? != *hash.as_bytes() {
        return Err(damaged("its checksum does not fit"));
    }
    if file.inner.read(&mut [0])? != 0 {
        return Err(damaged("it goes on after its end"));
    }
    state.superseded.make_contiguous().sort();
    Ok(state)
}

fn place(state: &mut State, table: Table, key: &Bytes, record: &Bytes) -> Option<()> {
    let number = || Some(u64::from_be_bytes(key[..].try_into().ok()?));
    let split = || Header::split(record).map(|(header, _)| (header, record.slice(Header::LENGTH..)));
    match table {
        Table::Keys => drop(state.keys.insert(key.clone(), split()?)),
        Table::Remembered => drop(state.remembered.insert(key.clone(), record.clone())),
        Table::Numbers => {
            let (sum, _) = record.split_first_chunk()?;
            state.numbers.insert(number()?, (Sum::from_bytes(*sum), record.slice(Sum::LENGTH..)));
        }
        Table::Versions => {
            state.superseded.push_back((versions::superseded_in(key)?, key.clone()));
            state.versions.insert(key.clone(), split()?);
        }
        Table::Stretches => drop(state.stretches.insert(number()?, Sum::from_bytes(record[..].try_into().ok()?))),
    }
    Some(())
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

/// A file with a hash of all that went through.
struct Hashed<F> {
    inner: F,
    hasher: blake3::Hasher,
}

impl<F> Hashed<F> {
    fn new(inner: F) -> Self {
        Self { inner, hasher: blake3::Hasher::new() }
    }
}

impl<F: Write> Hashed<F> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)
    }

    fn write_field(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length).ok().filter(|length| *length <= FIELD_BYTES_MAX);
        let length = length.ok_or_else(|| damaged("a row is longer than a snapshot can carry"))?;
        self.write_all(&length.to_be_bytes())?;
        parts.iter().try_for_each(|part| self.write_all(part))
    }

    fn row(&mut self, table: Table, key: &[u8], record: &[&[u8]]) -> io::Result<()> {
        self.write_all(&[table.code()])?;
        self.write_field(&[key])?;
        self.write_field(record)
    }
}

impl<F: Read> Hashed<F> {
    fn array<const LENGTH: usize>(&mut self) -> io::Result<[u8; LENGTH]> {
        let mut array = [0; LENGTH];
        self.inner.read_exact(&mut array)?;
        self.hasher.update(&array);
        Ok(array)
    }

    fn field(&mut self) -> io::Result<Vec<u8>> {
        let length = u32::from_be_bytes(self.array()?);
        if length > FIELD_BYTES_MAX {
            return Err(damaged(&format!("a field of {length} bytes")));
        }
        let mut field = Vec::new();
        (&mut self.inner).take(u64::from(length)).read_to_end(&mut field)?;
        if field.len() != length as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.hasher.update(&field);
        Ok(field)
    }
}
