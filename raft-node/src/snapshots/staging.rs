//! A snapshot that is being received: its manifest, and as many of its chunks as are here.
//!
//! Nothing but the files says which chunks are here: after a restart they are read and checked one by one, so that
//! exactly those are missing that are, and one that was damaged meanwhile counts as missing.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::ports::SnapshotError;
use raft_core::types::SnapshotId;

use super::files::{failed, free_bytes, remove, sync_directory, sync_file, write_synced};
use super::kept::{FILES, Kept, MANIFEST, read_manifest, read_place};
use super::manifest::{Manifest, Place};
use super::store::{INCOMING, SnapshotStore};

/// Bytes that are written before they are synced. The disk gets each chunk at once ([`begin_writeback`]), so that no
/// mountain of them gathers that the log's own syncs would wait for; and a sync itself is seldom, since each is a commit of
/// the file system's journal, for which they wait too.
const SYNC_BYTES: u64 = 32 << 20;
/// What is left free on the disk when a snapshot is taken in.
const FREE_BYTES_MIN: u64 = 64 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Staging {
    manifest: Manifest,
    places: Vec<Place>,
    directory: PathBuf,
    /// Per chunk, whether it is here.
    present: Vec<bool>,
    /// Bytes of those that are here.
    present_bytes: u64,
    /// Chunks before this one have been looked at since the start.
    looked: usize,
    /// The file that was written last.
    open: Option<(usize, File)>,
    unsynced_bytes: u64,
    /// A sync has failed. What it was to save may be gone from the page cache though it can still be read, and a second
    /// sync says nothing about it: no chunk counts any more.
    spoilt: bool,
}

impl Staging {
    /// Begins to receive this snapshot, or goes on with what an earlier life of the node has received of it: see
    /// [`Staging::look`]. Any other that was begun is abandoned.
    ///
    /// # Errors
    /// When it cannot fit on the disk, or the disk fails.
    pub(crate) fn begin(store: &SnapshotStore, manifest: Manifest, encoded: &Bytes) -> Result<Self, SnapshotError> {
        let id = manifest.id;
        store.abandon_incoming(Some(id));
        let directory = store.directory().join(format!("{INCOMING}{id}"));
        let known = read_manifest(&directory).is_ok_and(|(_, bytes)| bytes == *encoded);
        let held = if known { held_bytes(&directory.join(FILES)) } else { 0 };
        let (wanted, free) = (manifest.bytes().saturating_sub(held), free_bytes(store.directory())?);
        if free < wanted.saturating_add(FREE_BYTES_MIN) {
            return Err(no_room(wanted, free));
        }
        // An earlier life may have ended before the manifest that is read now was synced.
        let prepared =
            if known { sync_file(&directory.join(MANIFEST)) } else { prepare(store.directory(), &directory, encoded) };
        if let Err(error) = prepared {
            remove(&directory)?;
            return Err(error);
        }
        let places = manifest.places();
        let present = vec![false; places.len()];
        let looked = if known { 0 } else { places.len() };
        Ok(Self {
            manifest,
            places,
            directory,
            present,
            present_bytes: 0,
            looked,
            open: None,
            unsynced_bytes: 0,
            spoilt: false,
        })
    }

    /// Whether a sync has failed: nothing of it is to be relied on, and it is to be discarded.
    pub(crate) fn is_spoilt(&self) -> bool {
        self.spoilt
    }

    /// Removes all that has been received of it.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn discard(&self) -> Result<(), SnapshotError> {
        remove(&self.directory)
    }

    fn check_sound(&self) -> Result<(), SnapshotError> {
        if self.spoilt {
            let id = self.manifest.id;
            return Err(SnapshotError::Abandoned(format!(
                "what was received of snapshot {id} could not be synced; all of it is received anew"
            )));
        }
        Ok(())
    }

    fn spoilt_by<T>(&mut self, result: Result<T, SnapshotError>) -> Result<T, SnapshotError> {
        self.spoilt |= result.is_err();
        result
    }

    pub(crate) fn id(&self) -> SnapshotId {
        self.manifest.id
    }

    /// Bytes that are here.
    pub(crate) fn present_bytes(&self) -> u64 {
        self.present_bytes
    }

    /// Looks which chunks an earlier life has left, for so long at most. Returns whether all are looked at; call it
    /// again if not.
    ///
    /// # Errors
    /// When the disk fails; what is damaged is missing.
    pub(crate) fn look(&mut self, patience: Duration) -> Result<bool, SnapshotError> {
        let begun = Instant::now();
        let mut open: Option<(usize, Option<File>)> = None;
        let mut bytes = Vec::new();
        while self.looked < self.places.len() {
            let place = self.places[self.looked];
            let path = self.path(place.file);
            if open.as_ref().is_none_or(|(file, _)| *file != place.file) {
                open = Some((place.file, File::open(&path).ok()));
            }
            if let Some((_, Some(file))) = &open {
                bytes.resize(place.length as usize, 0);
                match read_place(file, &path, &place, &mut bytes) {
                    Ok(()) => self.arrived(self.looked),
                    Err(SnapshotError::Damaged { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            self.looked += 1;
            if begun.elapsed() >= patience {
                break;
            }
        }
        Ok(self.looked == self.places.len())
    }

    fn arrived(&mut self, number: usize) {
        if !std::mem::replace(&mut self.present[number], true) {
            self.present_bytes += u64::from(self.places[number].length);
        }
    }

    fn gone(&mut self, number: usize) {
        if std::mem::replace(&mut self.present[number], false) {
            self.present_bytes -= u64::from(self.places[number].length);
        }
    }

    fn path(&self, file: usize) -> PathBuf {
        self.directory.join(FILES).join(&self.manifest.files[file].name)
    }

    /// The chunks that are not here, as ranges in rising order.
    pub(crate) fn missing(&self) -> Vec<Range<u32>> {
        let mut missing: Vec<Range<u32>> = Vec::new();
        for (number, _) in (0..).zip(&self.present).filter(|(_, present)| !**present) {
            match missing.last_mut() {
                Some(range) if range.end == number => range.end = number + 1,
                _ => missing.push(number..number + 1),
            }
        }
        missing
    }

    /// Writes a chunk.
    ///
    /// # Errors
    /// When its bytes are not those that the manifest names, the disk has become full, or it fails.
    pub(crate) fn put(&mut self, number: u32, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.check_sound()?;
        let at = number as usize;
        let Some(place) = self.places.get(at).copied() else {
            let chunks = self.places.len();
            return Err(SnapshotError::Refused(format!("there is no chunk {number}: the snapshot has {chunks}")));
        };
        if bytes.len() != place.length as usize || crc32c::crc32c(bytes) != place.checksum {
            let place = format!("chunk {number} of snapshot {}", self.manifest.id);
            let reason = "its bytes are not those of the manifest".to_owned();
            return Err(SnapshotError::Damaged { place, reason });
        }
        let path = self.path(place.file);
        if self.open.as_ref().is_none_or(|(file, _)| *file != place.file) {
            self.sync()?;
            self.open = None;
            let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            self.open = Some((place.file, opened.map_err(failed("making", &path))?));
        }
        if self.unsynced_bytes == 0 {
            // Others write to this disk too: the log, and the state.
            let free = free_bytes(&self.directory)?;
            if free < FREE_BYTES_MIN {
                return Err(no_room(self.manifest.bytes() - self.present_bytes, free));
            }
        }
        if let Some((_, file)) = &self.open {
            file.write_all_at(bytes, place.offset).map_err(failed("writing", &path))?;
            begin_writeback(file, &place);
        }
        self.arrived(at);
        self.unsynced_bytes += bytes.len() as u64;
        if self.unsynced_bytes >= SYNC_BYTES { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<(), SnapshotError> {
        self.unsynced_bytes = 0;
        let synced = match &self.open {
            Some((file, open)) => open.sync_data().map_err(failed("syncing", &self.path(*file))),
            None => Ok(()),
        };
        self.spoilt_by(synced)
    }

    /// Makes all of it durable and one of the snapshots that are kept. Everything is read once more: what counts is
    /// what the disk holds.
    ///
    /// # Errors
    /// What is missing or damaged, by name: it is missing from then on. Or the disk fails.
    pub(crate) fn finish(&mut self, store: &SnapshotStore) -> Result<Arc<Kept>, SnapshotError> {
        self.check_sound()?;
        if let Some(range) = self.missing().first() {
            let (id, chunks) = (self.manifest.id, self.places.len());
            return Err(SnapshotError::Refused(format!(
                "chunk {} of {chunks} of snapshot {id} is not here yet",
                range.start
            )));
        }
        // Through the file that was written: another one may not be told what failed for this one.
        self.sync()?;
        self.open = None;
        let synced = self.sync_files();
        self.spoilt_by(synced)?;
        self.verify()?;
        let admitted = self.admit(store);
        self.spoilt_by(admitted)
    }

    /// Gives the files their lengths and makes them durable, and the manifest too.
    ///
    /// Their bytes and lengths are synced and not their times: nobody reads these, and every sync of them is a commit of
    /// the file system's journal, for which the syncs of the log wait.
    fn sync_files(&self) -> Result<(), SnapshotError> {
        self.remove_strangers()?;
        for (number, file) in self.manifest.files.iter().enumerate() {
            let path = self.path(number);
            let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            let opened = opened.map_err(failed("opening", &path))?;
            if opened.metadata().map_err(failed("looking at", &path))?.len() != file.length {
                opened.set_len(file.length).map_err(failed("cutting", &path))?;
            }
            opened.sync_data().map_err(failed("syncing", &path))?;
        }
        sync_file(&self.directory.join(MANIFEST))
    }

    fn admit(&self, store: &SnapshotStore) -> Result<Arc<Kept>, SnapshotError> {
        sync_directory(&self.directory.join(FILES))?;
        sync_directory(&self.directory)?;
        store.admit(&self.directory, self.manifest.id)
    }

    /// A file that the manifest does not name has no place in what is installed.
    fn remove_strangers(&self) -> Result<(), SnapshotError> {
        let files = self.directory.join(FILES);
        for entry in fs::read_dir(&files).map_err(failed("reading", &files))? {
            let path = entry.map_err(failed("reading", &files))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if !self.manifest.files.iter().any(|file| file.name == name) {
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                    .map_err(failed("removing", &path))?;
            }
        }
        Ok(())
    }

    fn verify(&mut self) -> Result<(), SnapshotError> {
        let mut first_wrong = None;
        let mut bytes = Vec::new();
        let mut open: Option<(usize, File)> = None;
        for number in 0..self.places.len() {
            let place = self.places[number];
            let path = self.path(place.file);
            if open.as_ref().is_none_or(|(file, _)| *file != place.file) {
                open = Some((place.file, File::open(&path).map_err(failed("opening", &path))?));
            }
            bytes.resize(place.length as usize, 0);
            let read = open.as_ref().map(|(_, file)| read_place(file, &path, &place, &mut bytes));
            if let Some(Err(error)) = read {
                self.gone(number);
                first_wrong.get_or_insert(error);
            }
        }
        first_wrong.map_or(Ok(()), Err)
    }
}

/// Has the system write a chunk to the disk soon, without waiting for it and without a word on what becomes of it: that
/// the next sync says. It is the first thing that Linux does with the advice that these pages are not needed, and all it
/// does while they are dirty; elsewhere nothing happens.
fn begin_writeback(file: &File, place: &Place) {
    #[cfg(target_os = "linux")]
    {
        let length = std::num::NonZeroU64::new(place.length.into());
        // A file system that takes no advice has its chunks written by the next sync.
        let _ = rustix::fs::fadvise(file, place.offset, length, rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, place);
}

/// Makes the directory of one of which nothing is here.
fn prepare(store: &Path, directory: &Path, encoded: &Bytes) -> Result<(), SnapshotError> {
    remove(directory)?;
    let files = directory.join(FILES);
    fs::create_dir_all(&files).map_err(failed("making", &files))?;
    write_synced(&directory.join(MANIFEST), encoded)?;
    sync_directory(directory)?;
    sync_directory(store)
}

fn no_room(wanted: u64, free: u64) -> SnapshotError {
    let keep = FREE_BYTES_MIN;
    SnapshotError::Refused(format!(
        "it needs {wanted} bytes of the disk, of which {free} are free and {keep} stay so: make room in the data \
         directory's file system"
    ))
}

/// Bytes that the files of an earlier try take.
fn held_bytes(files: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(files) else { return 0 };
    // Blocks, since a file may have holes.
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|look| look.blocks() * 512).sum()
}
