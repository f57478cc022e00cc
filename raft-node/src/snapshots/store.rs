//! The snapshots on this disk: plain files, no database.
//!
//! | name | what |
//! |---|---|
//! | `<id>` | a whole snapshot: `MANIFEST` and `files/` |
//! | `incoming-<id>` | one that is being received, with its manifest; goes on after a restart |
//! | `taking-<id>` | one that is being taken; garbage after a restart |
//! | `garbage-<id>` | one that is being removed |
//! | `damaged-<id>` | one that was found damaged: never sent, never installed, there to be looked at |
//!
//! A directory gets its last name when all in it is durable, so what has that name is whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use raft_core::ports::SnapshotError;
use raft_core::types::SnapshotId;

use super::files::{failed, remove, sync_directory};
use super::kept::{Kept, pinned_bytes};

pub(crate) const INCOMING: &str = "incoming-";
pub(crate) const TAKING: &str = "taking-";
const GARBAGE: &str = "garbage-";
const DAMAGED: &str = "damaged-";

/// See the module.
#[derive(Debug)]
pub(crate) struct SnapshotStore {
    directory: PathBuf,
    shelf: Mutex<Shelf>,
    pinned_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Shelf {
    /// In the rising order of their last entries; of those that end alike, the one that came last is the last.
    kept: Vec<Arc<Kept>>,
    /// One that is to be installed: it stays, however old.
    needed: Option<SnapshotId>,
}

impl SnapshotStore {
    /// Of this directory, which is looked at by [`SnapshotStore::open`].
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, shelf: Mutex::default(), pinned_bytes: AtomicU64::new(0) }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Finds what is kept, and removes what a crash has left. One that is `needed` stays, however old.
    ///
    /// # Errors
    /// When the directory cannot be used. A snapshot whose manifest is damaged is set aside.
    pub(crate) fn open(&self, needed: Option<SnapshotId>) -> Result<(), SnapshotError> {
        let directory = &self.directory;
        fs::create_dir_all(directory).map_err(failed("making", directory))?;
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed("reading", directory))? {
            let entry = entry.map_err(failed("reading", directory))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(TAKING) || name.starts_with(GARBAGE) {
                remove(&entry.path())?;
            } else if let Some(id) = id_of(&name) {
                match Kept::open(entry.path()) {
                    Ok(kept) if kept.manifest.id == id => found.push(Arc::new(kept)),
                    Ok(kept) => {
                        let error = super::files::damaged(&entry.path(), format!("it holds {}", kept.manifest.id));
                        self.put_away(&entry.path(), &name, &error);
                    }
                    Err(error) => self.put_away(&entry.path(), &name, &error),
                }
            }
        }
        found.sort_by_key(|kept| (kept.manifest.last.index, kept.manifest.created_millis));
        *self.shelf.lock() = Shelf { kept: found, needed };
        self.collect();
        Ok(())
    }

    /// The newest one.
    pub(crate) fn newest(&self) -> Option<Arc<Kept>> {
        self.shelf.lock().kept.last().cloned()
    }

    /// This one.
    pub(crate) fn find(&self, id: SnapshotId) -> Option<Arc<Kept>> {
        self.shelf.lock().kept.iter().find(|kept| kept.manifest.id == id).cloned()
    }

    /// The directory of a whole snapshot of this name.
    pub(crate) fn place_of(&self, id: SnapshotId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    /// Gives a directory in which all is durable its last name, and keeps what it holds.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn admit(&self, from: &Path, id: SnapshotId) -> Result<Arc<Kept>, SnapshotError> {
        let place = self.place_of(id);
        fs::rename(from, &place).map_err(failed("renaming", from))?;
        let opened = sync_directory(&self.directory).and_then(|()| Kept::open(place));
        // Nobody knows under which name it is on the disk, so it must not be found as a whole one later.
        let kept = Arc::new(opened.inspect_err(|_| self.throw_away(id))?);
        let mut shelf = self.shelf.lock();
        let last = kept.manifest.last.index;
        let at = shelf.kept.partition_point(|other| other.manifest.last.index <= last);
        shelf.kept.insert(at, kept.clone());
        Ok(kept)
    }

    /// From now on this one stays, whatever else comes. Returns false, and changes nothing, while another one is needed.
    #[must_use]
    pub(crate) fn need(&self, id: SnapshotId) -> bool {
        *self.shelf.lock().needed.get_or_insert(id) == id
    }

    /// Whether one is to be installed.
    pub(crate) fn needs_one(&self) -> bool {
        self.shelf.lock().needed.is_some()
    }

    /// This one is not to be installed any more.
    pub(crate) fn need_no_more(&self, id: SnapshotId) {
        self.shelf.lock().needed.take_if(|needed| *needed == id);
    }

    /// Never sends or installs this one again: it was found damaged.
    pub(crate) fn set_aside(&self, damaged: &Kept, error: &SnapshotError) {
        let id = damaged.manifest.id;
        let mut shelf = self.shelf.lock();
        let before = shelf.kept.len();
        shelf.kept.retain(|kept| kept.manifest.id != id);
        let was_kept = shelf.kept.len() < before;
        drop(shelf);
        if was_kept {
            self.put_away(&damaged.directory, &id.to_string(), error);
        }
    }

    fn put_away(&self, path: &Path, name: &str, error: &SnapshotError) {
        tracing::error!(snapshot = name, %error, "a snapshot is damaged; it is set aside, and never sent or installed");
        // The one before has been looked at or never will be.
        self.remove_all(|other| other.starts_with(DAMAGED));
        let aside = self.directory.join(format!("{DAMAGED}{name}"));
        if let Err(error) = fs::rename(path, &aside).map_err(failed("renaming", path)) {
            tracing::error!(%error, "a damaged snapshot cannot be set aside");
        }
    }

    /// Removes all snapshots but the newest, those that somebody holds and the one that is needed.
    pub(crate) fn collect(&self) {
        let mut shelf = self.shelf.lock();
        let Some(newest) = shelf.kept.last().map(|kept| kept.manifest.id) else {
            drop(shelf);
            return self.measure();
        };
        let needed = shelf.needed;
        let mut removed = Vec::new();
        shelf.kept.retain(|kept| {
            let id = kept.manifest.id;
            // Whoever holds one got it from here, under this lock.
            let stays = id == newest || needed == Some(id) || Arc::strong_count(kept) > 1;
            if !stays {
                removed.push(id);
            }
            stays
        });
        drop(shelf);
        for id in removed {
            self.throw_away(id);
        }
        self.measure();
    }

    /// Removes one that is not on the shelf. A crash in the middle must not leave a part under the name of the whole.
    fn throw_away(&self, id: SnapshotId) {
        let (place, garbage) = (self.place_of(id), self.directory.join(format!("{GARBAGE}{id}")));
        let renamed = fs::rename(&place, &garbage).map_err(failed("renaming", &place));
        if let Err(error) = renamed.and_then(|()| remove(&garbage)) {
            tracing::warn!(%error, "a snapshot cannot be removed; it is tried again at the next start");
        }
    }

    /// Keeps this one and no other: the others may hold what was replaced by it.
    pub(crate) fn keep_only(&self, id: SnapshotId) {
        self.shelf.lock().kept.sort_by_key(|kept| kept.manifest.id == id);
        self.collect();
    }

    /// Removes what was begun to be received, but for this one.
    pub(crate) fn abandon_incoming(&self, but: Option<SnapshotId>) {
        let stays = but.map(|id| format!("{INCOMING}{id}"));
        self.remove_all(|name| name.starts_with(INCOMING) && Some(name) != stays.as_deref());
    }

    fn remove_all(&self, which: impl Fn(&str) -> bool) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten().filter(|entry| which(&entry.file_name().to_string_lossy())) {
            if let Err(error) = remove(&entry.path()) {
                tracing::warn!(%error, "what is left of a snapshot cannot be removed");
            }
        }
    }

    /// Looks how much disk the snapshots take.
    pub(crate) fn measure(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let bytes = entries.flatten().map(|entry| pinned_bytes(&entry.path())).sum();
        self.pinned_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes on the disk that only snapshots hold, whole ones or not, as of the last look.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes.load(Ordering::Relaxed)
    }
}

/// The snapshot that a directory of this name holds whole.
fn id_of(name: &str) -> Option<SnapshotId> {
    let id: SnapshotId = name.parse().ok()?;
    (id.to_string() == name).then_some(id)
}
