//! Where chunks come from and go to.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use raft_core::ports::{SnapshotError, SnapshotSink, SnapshotSource};

use super::CHUNK_BYTES;

/// Chunks of one file.
const FILE_CHUNKS: u32 = 128;
/// Different chunks in memory: more than the caches hold.
const MEMORY_CHUNKS: usize = 64;

/// The bytes of a chunk: none like another.
fn pattern(number: u32) -> Vec<u8> {
    let mut state = u64::from(number) + 1;
    let words = std::iter::repeat_with(|| {
        // A generator of the xorshift kind.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(CHUNK_BYTES / 8).flatten().collect()
}

fn failed(doing: &str, error: &io::Error) -> SnapshotError {
    SnapshotError::Io { doing: doing.into(), reason: error.to_string() }
}

/// Chunks in memory.
pub struct Memory(Vec<Bytes>);

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// As many chunks as take more room than the caches have.
    #[must_use]
    pub fn new() -> Self {
        Self((0..MEMORY_CHUNKS as u32).map(|number| pattern(number).into()).collect())
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, number: u32) -> Bytes {
        self.0[number as usize % MEMORY_CHUNKS].clone()
    }
}

impl SnapshotSource for Memory {
    fn chunk(&self, number: u32) -> Result<Bytes, SnapshotError> {
        Ok(self.get(number))
    }
}

/// Counts what comes.
pub struct Forgetful {
    chunks: u32,
    taken: u32,
}

impl Forgetful {
    /// Takes so many.
    #[must_use]
    pub fn new(chunks: u32) -> Self {
        Self { chunks, taken: 0 }
    }
}

fn ranges(taken: u32, chunks: u32) -> Vec<Range<u32>> {
    if taken < chunks { std::iter::once(taken..chunks).collect() } else { Vec::new() }
}

impl SnapshotSink for Forgetful {
    fn missing(&self) -> Vec<Range<u32>> {
        ranges(self.taken, self.chunks)
    }

    fn put(&mut self, _number: u32, _bytes: Bytes) -> Result<(), SnapshotError> {
        self.taken += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SnapshotError> {
        Ok(())
    }
}

/// Files with a checksum for each chunk.
pub struct Files {
    files: Vec<File>,
    checksums: Vec<u32>,
}

impl Files {
    /// Writes them below `directory`.
    ///
    /// # Errors
    /// When the disk takes no files.
    pub fn make(directory: &Path, chunks: u32) -> io::Result<Self> {
        let mut files = Vec::new();
        let mut checksums = Vec::new();
        for number in 0..chunks {
            if number % FILE_CHUNKS == 0 {
                let path = directory.join(format!("source-{}", number / FILE_CHUNKS));
                files.push(File::options().read(true).write(true).create(true).truncate(true).open(path)?);
            }
            let bytes = pattern(number);
            files[(number / FILE_CHUNKS) as usize].write_all_at(&bytes, offset(number))?;
            checksums.push(crc32c::crc32c(&bytes));
        }
        for file in &files {
            file.sync_all()?;
        }
        Ok(Self { files, checksums })
    }
}

/// Where a chunk lies in its file.
fn offset(number: u32) -> u64 {
    u64::from(number % FILE_CHUNKS) * CHUNK_BYTES as u64
}

impl SnapshotSource for Files {
    fn chunk(&self, number: u32) -> Result<Bytes, SnapshotError> {
        let mut bytes = BytesMut::zeroed(CHUNK_BYTES);
        let file = &self.files[(number / FILE_CHUNKS) as usize];
        file.read_exact_at(&mut bytes, offset(number)).map_err(|error| failed("reading", &error))?;
        if crc32c::crc32c(&bytes) != self.checksums[number as usize] {
            let place = format!("chunk {number}");
            return Err(SnapshotError::Damaged { place, reason: "its checksum does not fit".into() });
        }
        Ok(bytes.freeze())
    }
}

/// Writes chunks into files of its own.
pub struct DiskSink {
    files: Vec<File>,
    chunks: u32,
    taken: u32,
    /// Checksums of what came, as a manifest would be compared.
    checksums: Vec<u32>,
}

impl DiskSink {
    /// Makes the files anew below `directory`.
    ///
    /// # Errors
    /// When the disk takes no files.
    pub fn begin(directory: &Path, chunks: u32) -> Result<Self, SnapshotError> {
        let make = |number: u32| {
            let path = directory.join(format!("sink-{number}"));
            // A new inode each time: nothing is overwritten in place.
            let _ = std::fs::remove_file(&path);
            File::create(path)
        };
        let files = (0..chunks.div_ceil(FILE_CHUNKS)).map(make).collect::<io::Result<_>>();
        let files = files.map_err(|error| failed("making files", &error))?;
        Ok(Self { files, chunks, taken: 0, checksums: vec![0; chunks as usize] })
    }
}

impl SnapshotSink for DiskSink {
    fn missing(&self) -> Vec<Range<u32>> {
        ranges(self.taken, self.chunks)
    }

    fn put(&mut self, number: u32, bytes: Bytes) -> Result<(), SnapshotError> {
        self.checksums[number as usize] = crc32c::crc32c(&bytes);
        let file = &self.files[(number / FILE_CHUNKS) as usize];
        file.write_all_at(&bytes, offset(number)).map_err(|error| failed("writing", &error))?;
        self.taken += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SnapshotError> {
        let synced = self.files.iter().try_for_each(File::sync_all);
        synced.map_err(|error| failed("syncing", &error))
    }
}
