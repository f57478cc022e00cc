//! Makes a snapshot out of what the state machine puts into a directory: reads all of it once, for the checksums, makes
//! it durable, and writes the manifest.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use raft_core::membership::Configuration;
use raft_core::ports::{SnapshotError, Snapshotter};
use raft_core::types::{ClusterId, GroupId, Index, SnapshotId};

use super::files::{failed, sync_directory, write_synced};
use super::kept::{FILES, MANIFEST};
use super::manifest::{Manifest, ManifestFile};
use super::progress::Moving;
use super::store::{SnapshotStore, TAKING};

/// What a new snapshot is called.
pub(crate) struct Label {
    pub(crate) id: SnapshotId,
    pub(crate) cluster: ClusterId,
    /// That as of an entry; asked for the last one that the state has applied. None when it is not known any more.
    pub(crate) configuration: Arc<dyn Fn(Index) -> Option<Configuration> + Send + Sync>,
    pub(crate) chunk_bytes: u32,
}

/// Makes it, in a directory that [`SnapshotStore::admit`] takes. `begun` gets what there is to see of it, `pace` is
/// asked before so many bytes are read.
///
/// # Errors
/// When the state machine, the disk or `pace` refuses.
pub(crate) fn make(
    store: &SnapshotStore,
    snapshotter: &dyn Snapshotter,
    label: Label,
    begun: impl FnOnce(Arc<Moving>),
    pace: impl Fn(u64) -> Result<(), SnapshotError>,
) -> Result<PathBuf, SnapshotError> {
    let directory = store.directory().join(format!("{TAKING}{}", label.id));
    let files = directory.join(FILES);
    fs::create_dir_all(&directory).map_err(failed("making", &directory))?;
    let last = snapshotter.take(&files)?;
    // At once: to read the files takes minutes, and what is applied meanwhile makes the replica forget what was before.
    let configuration = (label.configuration)(last.index).ok_or_else(|| {
        SnapshotError::Abandoned(format!("the members as of entry {} are not known any more", last.index))
    })?;
    let found = list(&files)?;
    let moving = Moving::new(last, found.iter().map(|(_, length)| length).sum(), 0);
    begun(moving.clone());
    let mut read = Vec::with_capacity(found.len());
    for (name, length) in found {
        let checksums = read_file(&files.join(&name), length, label.chunk_bytes, |bytes| {
            pace(bytes)?;
            moving.done(bytes);
            Ok(())
        })?;
        read.push(ManifestFile { name, length, checksums });
    }
    let manifest = Manifest {
        id: label.id,
        cluster: label.cluster,
        group: GroupId::FIRST,
        last,
        configuration,
        created_millis: now_millis(),
        chunk_bytes: label.chunk_bytes,
        files: read,
    };
    manifest.check().map_err(|error| SnapshotError::Refused(format!("the snapshot cannot be kept: {error}")))?;
    write_synced(&directory.join(MANIFEST), &manifest.encode())?;
    sync_directory(&files)?;
    sync_directory(&directory)?;
    Ok(directory)
}

/// Names and lengths of the files, in order.
fn list(files: &Path) -> Result<Vec<(String, u64)>, SnapshotError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(files).map_err(failed("reading", files))? {
        let entry = entry.map_err(failed("reading", files))?;
        let look = entry.metadata().map_err(failed("reading", files))?;
        let name = entry.file_name().into_string().ok().filter(|_| look.is_file()).ok_or_else(|| {
            SnapshotError::Refused(format!("the state machine put {} into it, no plain file", entry.path().display()))
        })?;
        found.push((name, look.len()));
    }
    found.sort();
    Ok(found)
}

/// The checksums of a file's chunks; the file is durable then.
fn read_file(
    path: &Path,
    length: u64,
    chunk_bytes: u32,
    pace: impl Fn(u64) -> Result<(), SnapshotError>,
) -> Result<Vec<u32>, SnapshotError> {
    let file = File::open(path).map_err(failed("opening", path))?;
    let mut checksums = Vec::new();
    let mut bytes = Vec::new();
    for offset in (0..length).step_by(chunk_bytes as usize) {
        let part = (length - offset).min(chunk_bytes.into());
        pace(part)?;
        bytes.resize(part as usize, 0);
        file.read_exact_at(&mut bytes, offset).map_err(failed("reading", path))?;
        checksums.push(crc32c::crc32c(&bytes));
    }
    file.sync_all().map_err(failed("syncing", path))?;
    Ok(checksums)
}

/// Now, in milliseconds since the Unix epoch.
pub(crate) fn now_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
