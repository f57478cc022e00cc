//! A whole snapshot on this disk, and the reading of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::ports::SnapshotError;

use super::files::{damaged, failed};
use super::manifest::{Manifest, Place};
use super::progress::KeptSnapshot;

/// The manifest's file in the directory of a snapshot.
pub(crate) const MANIFEST: &str = "MANIFEST";
/// The directory of its files.
pub(crate) const FILES: &str = "files";
/// Longest manifest that is read: 100,000 long names and 4 Mi checksums take less.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// See the module. It stays on the disk as long as somebody holds it.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) manifest: Manifest,
    /// The manifest's bytes, as they are offered.
    pub(crate) encoded: Bytes,
    pub(crate) directory: PathBuf,
    places: Vec<Place>,
    /// The file that was read last: chunks are mostly read in their order.
    open: Mutex<Option<(usize, File)>>,
}

/// Reads a manifest.
///
/// # Errors
/// When it cannot be read or is none.
pub(crate) fn read_manifest(directory: &Path) -> Result<(Manifest, Bytes), SnapshotError> {
    let path = directory.join(MANIFEST);
    let length = fs::metadata(&path).map_err(failed("reading", &path))?.len();
    if length > MANIFEST_BYTES_MAX {
        return Err(damaged(&path, format!("it has {length} bytes, a manifest has at most {MANIFEST_BYTES_MAX}")));
    }
    let bytes = fs::read(&path).map_err(failed("reading", &path))?;
    let manifest = Manifest::decode(&bytes).map_err(|error| damaged(&path, error.to_string()))?;
    Ok((manifest, bytes.into()))
}

impl Kept {
    /// Takes a directory that holds a snapshot. Its chunks are checked when they are read.
    ///
    /// # Errors
    /// When the manifest cannot be used.
    pub(crate) fn open(directory: PathBuf) -> Result<Self, SnapshotError> {
        let (manifest, encoded) = read_manifest(&directory)?;
        let places = manifest.places();
        Ok(Self { manifest, encoded, directory, places, open: Mutex::new(None) })
    }

    /// It for people.
    pub(crate) fn view(&self) -> KeptSnapshot {
        KeptSnapshot {
            id: self.manifest.id,
            last: self.manifest.last,
            bytes: self.manifest.bytes(),
            files: self.manifest.files.len(),
            created_millis: self.manifest.created_millis,
        }
    }

    /// Where its files lie.
    pub(crate) fn files(&self) -> PathBuf {
        self.directory.join(FILES)
    }

    /// Where the bytes before the end of this chunk end, counted through all files.
    pub(crate) fn bytes_to(&self, number: u32) -> u64 {
        self.places.get(number as usize).map_or(0, |place| {
            let before: u64 = self.manifest.files[..place.file].iter().map(|file| file.length).sum();
            before + place.offset + u64::from(place.length)
        })
    }

    /// How long this chunk is; 0 when there is none.
    pub(crate) fn chunk_bytes(&self, number: u32) -> u64 {
        self.places.get(number as usize).map_or(0, |place| place.length.into())
    }

    /// Reads a chunk and checks it.
    ///
    /// # Errors
    /// When it cannot be read or is not what the manifest says.
    pub(crate) fn read(&self, number: u32) -> Result<Bytes, SnapshotError> {
        let place = self.places.get(number as usize).ok_or_else(|| {
            let chunks = self.places.len();
            SnapshotError::Refused(format!("there is no chunk {number}: the snapshot has {chunks}"))
        })?;
        let path = self.files().join(&self.manifest.files[place.file].name);
        let mut open = self.open.lock();
        if open.as_ref().is_none_or(|(file, _)| *file != place.file) {
            *open = Some((place.file, open_file(&path)?));
        }
        let mut bytes = vec![0; place.length as usize];
        if let Some((_, file)) = &*open {
            read_place(file, &path, place, &mut bytes)?;
        }
        Ok(bytes.into())
    }

    /// Reads and checks everything; `go_on` is asked before each chunk and is told its bytes.
    ///
    /// # Errors
    /// What is damaged or missing, by its file; or the error of `go_on`.
    pub(crate) fn verify(&self, mut go_on: impl FnMut(u64) -> Result<(), SnapshotError>) -> Result<(), SnapshotError> {
        for file in &self.manifest.files {
            let path = self.files().join(&file.name);
            let length = open_file(&path)?.metadata().map_err(failed("reading", &path))?.len();
            if length != file.length {
                return Err(damaged(&path, format!("it has {length} bytes and had {}", file.length)));
            }
        }
        for number in 0..self.manifest.chunks() {
            go_on(self.chunk_bytes(number))?;
            self.read(number)?;
        }
        Ok(())
    }
}

/// Opens a file of a snapshot. One that is gone is a damage: it was there.
fn open_file(path: &Path) -> Result<File, SnapshotError> {
    File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => damaged(path, "it is missing"),
        _ => failed("opening", path)(error),
    })
}

/// Reads the bytes of a chunk and checks them.
pub(crate) fn read_place(file: &File, path: &Path, place: &Place, bytes: &mut [u8]) -> Result<(), SnapshotError> {
    let offset = place.offset;
    file.read_exact_at(bytes, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(path, format!("it ends within the chunk at byte {offset}")),
        _ => failed("reading", path)(error),
    })?;
    let found = crc32c::crc32c(bytes);
    if found == place.checksum {
        return Ok(());
    }
    let expected = place.checksum;
    Err(damaged(path, format!("the checksum of the chunk at byte {offset} is {found:08x} and was {expected:08x}")))
}

/// Bytes in the directory of a snapshot that no other name holds.
pub(crate) fn pinned_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory.join(FILES)) else { return 0 };
    let looks = entries.flatten().filter_map(|entry| entry.metadata().ok());
    looks.filter(|look| look.nlink() <= 1).map(|look| look.len()).sum()
}
