//! Plain files and directories, with errors that name them.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use raft_core::ports::SnapshotError;

/// An error of the system, with what was being done to which file.
pub(crate) fn failed<'a>(doing: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> SnapshotError + use<'a> {
    move |error| SnapshotError::Io { doing: format!("{doing} {}", path.display()), reason: error.to_string() }
}

/// Bytes that are not those that were written.
pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> SnapshotError {
    SnapshotError::Damaged { place: path.display().to_string(), reason: reason.into() }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), SnapshotError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("syncing", path))
}

/// Makes what is in a file durable.
pub(crate) fn sync_file(path: &Path) -> Result<(), SnapshotError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(failed("syncing", path))
}

/// Writes a file whole and durable, but for its name.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), SnapshotError> {
    let mut file = File::create(path).map_err(failed("making", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("writing", path))
}

/// Removes a directory with all that is in it; one that is not there is no error.
pub(crate) fn remove(path: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", path)(error)),
        _ => Ok(()),
    }
}

/// Bytes that a user may still write to the file system of this directory.
pub(crate) fn free_bytes(path: &Path) -> Result<u64, SnapshotError> {
    let look = rustix::fs::statvfs(path).map_err(|error| failed("asking for the free space of", path)(error.into()))?;
    Ok(look.f_bavail.saturating_mul(look.f_frsize))
}
