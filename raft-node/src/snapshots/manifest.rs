//! What a snapshot consists of: its name, its files and the checksum of each chunk.
//!
//! Chunks are numbered from 0 through all files in their order. None spans two files: the last one of a file may be
//! shorter, and an empty file has none. So whoever reads a chunk can check it, and whoever holds a part of a snapshot
//! finds out which chunks are missing by reading what is there. The bytes are listed in `docs/storage-format.md`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft_core::membership::{Configuration, MEMBERS_MAX};
use raft_core::snapshot::SnapshotMeta;
use raft_core::types::{ClusterId, GroupId, Index, LogId, NodeId, SnapshotId, Term};

/// The first bytes of every manifest.
const MAGIC: &[u8; 8] = b"RAFTSNAP";
/// The version that this binary writes.
const VERSION: u32 = 2;
/// Read too: it has the voters alone, of founders without contexts.
const VERSION_OF_VOTERS: u32 = 1;
/// Bytes of a chunk of the snapshots that are made here.
pub(crate) const CHUNK_BYTES: u32 = 1 << 20;
/// Longest chunk that is taken of others; one is held in memory whole.
const CHUNK_BYTES_MAX: u32 = 4 << 20;
/// Most chunks: 4 TiB in chunks of 1 MiB, and 16 MiB of checksums.
const CHUNKS_MAX: u64 = 1 << 22;
/// Most files.
const FILES_MAX: usize = 100_000;
/// Longest name of a file.
const NAME_BYTES_MAX: usize = 255;
/// Most voters of version 1.
const VOTERS_MAX: usize = 1024;

/// Why bytes are no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("it is no manifest of a snapshot")]
    Magic,
    #[error("its format is version {found}, this binary knows {VERSION}; run the version that wrote it")]
    Version { found: u32 },
    #[error("its checksum does not fit")]
    Checksum,
    #[error("it ends too early")]
    Short,
    #[error("{0}")]
    Wrong(String),
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ManifestFile {
    /// A plain name.
    pub(crate) name: String,
    /// Its bytes.
    pub(crate) length: u64,
    /// CRC-32C of each of its chunks.
    pub(crate) checksums: Vec<u32>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) id: SnapshotId,
    pub(crate) cluster: ClusterId,
    pub(crate) group: GroupId,
    /// The last entry whose effects it holds.
    pub(crate) last: LogId,
    /// The configuration as of that entry.
    pub(crate) configuration: Configuration,
    /// When it was made, in milliseconds since the Unix epoch.
    pub(crate) created_millis: u64,
    pub(crate) chunk_bytes: u32,
    /// In the rising order of their names.
    pub(crate) files: Vec<ManifestFile>,
}

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which file.
    pub(crate) file: usize,
    /// Its first byte in that file.
    pub(crate) offset: u64,
    /// Its bytes.
    pub(crate) length: u32,
    /// Its CRC-32C.
    pub(crate) checksum: u32,
}

impl Manifest {
    /// What the core knows of it.
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { id: self.id, last: self.last, configuration: self.configuration.clone() }
    }

    /// How many chunks it has.
    pub(crate) fn chunks(&self) -> u32 {
        // Bounded where it is made and where it is read.
        self.files.iter().map(|file| file.checksums.len() as u32).sum()
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.length).sum()
    }

    /// The places of all chunks, in their order.
    pub(crate) fn places(&self) -> Vec<Place> {
        let chunk = u64::from(self.chunk_bytes);
        let mut places = Vec::with_capacity(self.chunks() as usize);
        for (file, entry) in self.files.iter().enumerate() {
            for (offset, checksum) in (0..entry.length).step_by(self.chunk_bytes as usize).zip(&entry.checksums) {
                // At most a chunk, so it fits.
                let length = (entry.length - offset).min(chunk) as u32;
                places.push(Place { file, offset, length, checksum: *checksum });
            }
        }
        places
    }

    /// Its bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(MAGIC);
        out.put_u32(VERSION);
        out.put_u128(self.id.0);
        out.put_u128(self.cluster.0);
        out.put_u64(self.group.0);
        out.put_u64(self.last.index.0);
        out.put_u64(self.last.term.0);
        out.put_u64(self.created_millis);
        out.put_u32(self.chunk_bytes);
        let configuration = self.configuration.encode();
        out.put_u32(configuration.len() as u32);
        out.put_slice(&configuration);
        out.put_u32(self.files.len() as u32);
        for file in &self.files {
            out.put_u16(file.name.len() as u16);
            out.put_slice(file.name.as_bytes());
            out.put_u64(file.length);
            for checksum in &file.checksums {
                out.put_u32(*checksum);
            }
        }
        let checksum = crc32c::crc32c(&out);
        out.put_u32(checksum);
        out.freeze()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// Says what does not fit: the bytes are from a disk or a peer.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() < MAGIC.len() + 8 || !bytes.starts_with(MAGIC) {
            return Err(ManifestError::Magic);
        }
        let (body, mut checksum) = bytes.split_at(bytes.len() - 4);
        if checksum.get_u32() != crc32c::crc32c(body) {
            return Err(ManifestError::Checksum);
        }
        let mut input = Input(&body[MAGIC.len()..]);
        let version = input.u32()?;
        if version != VERSION && version != VERSION_OF_VOTERS {
            return Err(ManifestError::Version { found: version });
        }
        let manifest = Self {
            id: SnapshotId(input.u128()?),
            cluster: ClusterId(input.u128()?),
            group: GroupId(input.u64()?),
            last: LogId::new(Index(input.u64()?), Term(input.u64()?)),
            created_millis: input.u64()?,
            chunk_bytes: input.u32()?,
            configuration: if version == VERSION { input.configuration()? } else { input.voters()? },
            files: Vec::new(),
        };
        let manifest = Self { files: input.files(manifest.chunk_bytes)?, ..manifest };
        if !input.0.is_empty() {
            return wrong(format!("{} bytes follow its end", input.0.len()));
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// Whether this describes a snapshot at all.
    ///
    /// # Errors
    /// Says what does not fit.
    pub(crate) fn check(&self) -> Result<(), ManifestError> {
        if self.chunk_bytes == 0 || self.chunk_bytes > CHUNK_BYTES_MAX {
            return wrong(format!("its chunks are of {} bytes, 1 to {CHUNK_BYTES_MAX} are allowed", self.chunk_bytes));
        }
        if self.last.index == Index::ZERO || self.last.index >= Index::LIMIT || self.last.term == Term::ZERO {
            return wrong(format!("it ends with {}, which is no entry", self.last));
        }
        if self.files.len() > FILES_MAX {
            return wrong(format!("it has {} files, at most {FILES_MAX} are allowed", self.files.len()));
        }
        if self.configuration.seats().len() > MEMBERS_MAX {
            let members = self.configuration.seats().len();
            return wrong(format!("it has {members} members, at most {MEMBERS_MAX} are allowed"));
        }
        if self.configuration.index() > self.last.index {
            let index = self.configuration.index();
            return wrong(format!("it ends with {}, and its configuration is that of entry {index}", self.last));
        }
        let mut chunks = 0u64;
        for (position, file) in self.files.iter().enumerate() {
            check_name(&file.name)?;
            if position > 0 && self.files[position - 1].name >= file.name {
                return wrong(format!("its files are not in order: {:?} comes too late", file.name));
            }
            let expected = chunks_of(file.length, self.chunk_bytes);
            if file.checksums.len() as u64 != expected {
                let found = file.checksums.len();
                return wrong(format!("{:?} has {found} checksums, its length makes {expected}", file.name));
            }
            chunks = chunks.saturating_add(expected);
        }
        if chunks > CHUNKS_MAX {
            return wrong(format!("it has {chunks} chunks, at most {CHUNKS_MAX} are allowed"));
        }
        Ok(())
    }
}

/// How many chunks a file of this length has.
fn chunks_of(length: u64, chunk_bytes: u32) -> u64 {
    length.div_ceil(u64::from(chunk_bytes.max(1)))
}

fn wrong<T>(why: String) -> Result<T, ManifestError> {
    Err(ManifestError::Wrong(why))
}

/// Only plain names, so that no snapshot writes outside of its directory.
fn check_name(name: &str) -> Result<(), ManifestError> {
    let plain = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name != "." && name != "..";
    if plain && !name.bytes().any(|byte| byte == b'/' || byte == 0) {
        return Ok(());
    }
    wrong(format!("{name:?} is no plain name of a file"))
}

/// Bytes that are being read.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn u32(&mut self) -> Result<u32, ManifestError> {
        self.0.try_get_u32().map_err(|_| ManifestError::Short)
    }

    fn u64(&mut self) -> Result<u64, ManifestError> {
        self.0.try_get_u64().map_err(|_| ManifestError::Short)
    }

    fn u128(&mut self) -> Result<u128, ManifestError> {
        self.0.try_get_u128().map_err(|_| ManifestError::Short)
    }

    /// A number of things of at least so many bytes each, which must be there.
    fn count(&mut self, bytes_each: usize) -> Result<usize, ManifestError> {
        let count = self.u32()? as usize;
        if count > self.0.len() / bytes_each { Err(ManifestError::Short) } else { Ok(count) }
    }

    fn configuration(&mut self) -> Result<Configuration, ManifestError> {
        let length = self.count(1)?;
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        Configuration::decode(bytes).map_err(|error| ManifestError::Wrong(format!("its configuration: {error}")))
    }

    fn voters(&mut self) -> Result<Configuration, ManifestError> {
        let count = self.count(8)?;
        let mut voters = Vec::with_capacity(count.min(VOTERS_MAX));
        for _ in 0..count {
            voters.push(NodeId(self.u64()?));
        }
        if !voters.is_sorted_by(|a, b| a < b) {
            return wrong("its voters are not in order".into());
        }
        Ok(Configuration::new(voters))
    }

    fn files(&mut self, chunk_bytes: u32) -> Result<Vec<ManifestFile>, ManifestError> {
        let count = self.count(10)?;
        let mut files = Vec::with_capacity(count.min(FILES_MAX));
        for _ in 0..count {
            let name_bytes = self.0.try_get_u16().map_err(|_| ManifestError::Short)? as usize;
            if name_bytes > self.0.len() {
                return Err(ManifestError::Short);
            }
            let (name, rest) = self.0.split_at(name_bytes);
            let name =
                std::str::from_utf8(name).map_err(|_| ManifestError::Wrong("a file's name is no text".into()))?;
            let name = name.to_owned();
            self.0 = rest;
            let length = self.u64()?;
            let chunks = chunks_of(length, chunk_bytes);
            if chunks > (self.0.len() / 4) as u64 {
                return Err(ManifestError::Short);
            }
            let mut checksums = Vec::with_capacity(chunks as usize);
            for _ in 0..chunks {
                checksums.push(self.u32()?);
            }
            files.push(ManifestFile { name, length, checksums });
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, length: u64, chunk_bytes: u32) -> ManifestFile {
        let checksums = (0..chunks_of(length, chunk_bytes)).map(|number| number as u32 * 7 + 1).collect();
        ManifestFile { name: name.into(), length, checksums }
    }

    fn manifest() -> Manifest {
        Manifest {
            id: SnapshotId(0x1234_5678_9abc_def0_1122_3344_5566_7788),
            cluster: ClusterId(77),
            group: GroupId::FIRST,
            last: LogId::new(Index(100), Term(3)),
            configuration: Configuration::new([NodeId(1), NodeId(2), NodeId(3)]),
            created_millis: 1_700_000_000_000,
            chunk_bytes: 8,
            files: vec![file("CURRENT", 17, 8), file("a.sst", 0, 8), file("b.sst", 8, 8), file("c.sst", 0, 8)],
        }
    }

    #[test]
    fn it_comes_back_and_its_chunks_lie_where_they_should() {
        let manifest = manifest();
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest.clone()));
        assert_eq!((manifest.chunks(), manifest.bytes()), (4, 25));
        let places: Vec<_> =
            manifest.places().into_iter().map(|place| (place.file, place.offset, place.length)).collect();
        assert_eq!(places, [(0, 0, 8), (0, 8, 8), (0, 16, 1), (2, 0, 8)]);
    }

    /// The golden bytes: a change of the format is a change of `VERSION` and of `docs/storage-format.md`.
    #[test]
    fn the_bytes_are_those_of_the_format() {
        let small = Manifest { files: vec![file("f", 9, 8)], chunk_bytes: 8, ..manifest() };
        let expected: &[&[u8]] = &[
            b"RAFTSNAP\0\0\0\x02",
            &0x1234_5678_9abc_def0_1122_3344_5566_7788_u128.to_be_bytes(),
            &77u128.to_be_bytes(),
            &GroupId::FIRST.0.to_be_bytes(),
            &[0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 3],
            &1_700_000_000_000u64.to_be_bytes(),
            &[0, 0, 0, 8],
            &70u32.to_be_bytes(),
            &manifest().configuration.encode(),
            b"\0\0\0\x01\0\x01f\0\0\0\0\0\0\0\x09\0\0\0\x01\0\0\0\x08",
        ];
        let mut expected = expected.concat();
        expected.extend(crc32c::crc32c(&expected).to_be_bytes());
        assert_eq!(small.encode(), expected);
    }

    #[test]
    fn version_1_names_the_voters_alone() {
        let voters: &[&[u8]] = &[&3u32.to_be_bytes(), &1u64.to_be_bytes(), &2u64.to_be_bytes(), &3u64.to_be_bytes()];
        let sealed = |voters: &[u8]| {
            let now = manifest().encode();
            let (head, tail) = (&now[..80], &now[80 + 4 + manifest().configuration.encode().len()..now.len() - 4]);
            let mut old = [head, voters, tail].concat();
            old[11] = 1;
            let checksum = crc32c::crc32c(&old).to_be_bytes();
            old.extend(checksum);
            Manifest::decode(&old)
        };
        assert_eq!(sealed(&voters.concat()), Ok(manifest()));
        let disordered: &[&[u8]] = &[&2u32.to_be_bytes(), &2u64.to_be_bytes(), &1u64.to_be_bytes()];
        assert!(matches!(sealed(&disordered.concat()), Err(ManifestError::Wrong(why)) if why.contains("not in order")));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let bytes = manifest().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Manifest::decode(&longer).is_err());
    }

    /// A peer can compute a checksum too: what it names must make sense all the same.
    #[test]
    fn nonsense_with_a_good_checksum_is_refused() {
        let with_name = |name: &str| Manifest { files: vec![file(name, 1, 8)], ..manifest() };
        let wrong = [
            with_name(""),
            with_name("."),
            with_name(".."),
            with_name("../escape"),
            with_name("/etc/passwd"),
            with_name("nul\0"),
            with_name(&"x".repeat(256)),
            Manifest { chunk_bytes: 0, files: Vec::new(), ..manifest() },
            Manifest { chunk_bytes: CHUNK_BYTES_MAX + 1, files: Vec::new(), ..manifest() },
            Manifest { last: LogId::default(), ..manifest() },
            Manifest { last: LogId::new(Index::LIMIT, Term(1)), ..manifest() },
            Manifest { files: vec![file("b", 1, 8), file("a", 1, 8)], ..manifest() },
            Manifest { files: vec![file("a", 1, 8), file("a", 1, 8)], ..manifest() },
            Manifest { files: vec![ManifestFile { name: "a".into(), length: 9, checksums: vec![1] }], ..manifest() },
            Manifest { configuration: Configuration::new((1..=1025).map(NodeId)), ..manifest() },
        ];
        for manifest in wrong {
            assert!(Manifest::decode(&manifest.encode()).is_err(), "{manifest:?}");
        }
        let mut huge = manifest().encode().to_vec();
        // The length of the first file, whose chunks would fill the memory.
        let at = huge.windows(7).position(|part| part == b"CURRENT").unwrap() + 7;
        huge[at..at + 8].copy_from_slice(&u64::MAX.to_be_bytes());
        let end = huge.len() - 4;
        let checksum = crc32c::crc32c(&huge[..end]).to_be_bytes();
        huge[end..].copy_from_slice(&checksum);
        assert_eq!(Manifest::decode(&huge), Err(ManifestError::Short));
    }
}
