//! The directory of a state on disk: a file that says what it is, and the database beside it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::settings::SettingError;

/// Says what the directory is, in a line that a person can read.
const FORMAT_FILE: &str = "FORMAT";
const FORMAT_PREFIX: &str = "raft-kv state ";
const FORMAT_VERSION: u32 = 1;
/// Read of the format file at most; all of them are shorter.
const FORMAT_BYTES_MAX: u64 = 64;
const DATABASE: &str = "db";

/// Why a state cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made, read or written.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory holds files and is no state directory.
    #[error("{path} is not empty and holds no key-value state; name another directory, or empty it")]
    NotAState {
        /// The directory.
        path: PathBuf,
    },
    /// The state was written in a format that this version does not know.
    #[error(
        "{path} holds a state of format {found}, and this version knows format {FORMAT_VERSION}; run the version that wrote it"
    )]
    UnknownFormat {
        /// The directory.
        path: PathBuf,
        /// What its format file says.
        found: String,
    },
    /// The state is not what was written.
    #[error("the state in {path} is damaged: {reason}; remove the directory, and it is built again from the others")]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The database cannot be opened; another process may have it open.
    #[error("cannot open the state in {path}: {reason}")]
    Storage {
        /// The directory.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
    /// A first setting is outside its range.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

/// Checks the directory's format, or makes the directory. Returns the path of the database in it.
pub(crate) fn prepare(directory: &Path) -> Result<PathBuf, OpenError> {
    let path = directory.join(FORMAT_FILE);
    fs::create_dir_all(directory).map_err(at(directory))?;
    match read_start(&path) {
        Ok(text) => check_format(directory, &String::from_utf8_lossy(&text))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            check_blank(directory)?;
            write_format(directory, &path)?;
        }
        Err(error) => return Err(at(&path)(error)),
    }
    let database = directory.join(DATABASE);
    fs::create_dir_all(&database).map_err(at(&database))?;
    // Every time, since an earlier start may have been cut short before this. RocksDB makes durable what is in its
    // directory, and not the directory's own name: without it a flush that has returned is gone with the power.
    sync_names(directory)?;
    match directory.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_names) {
        // It was not made by one that may not read the directory above, or where nothing can be made.
        Err(OpenError::Io { source, .. })
            if [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem].contains(&source.kind()) => {}
        synced => synced?,
    }
    Ok(database)
}

/// The format file, or the beginning of what stands in its place.
fn read_start(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(FORMAT_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn at(path: &Path) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io { path: path.to_owned(), source }
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

fn check_format(directory: &Path, text: &str) -> Result<(), OpenError> {
    let Some(version) = text.strip_prefix(FORMAT_PREFIX) else {
        return Err(OpenError::NotAState { path: directory.to_owned() });
    };
    if version.trim_end() != FORMAT_VERSION.to_string() {
        let found = version.trim_end().chars().take(20).collect();
        return Err(OpenError::UnknownFormat { path: directory.to_owned(), found });
    }
    Ok(())
}

/// Nothing but what an interrupted [`write_format`] leaves may be there.
fn check_blank(directory: &Path) -> Result<(), OpenError> {
    let left_over = unfinished(&directory.join(FORMAT_FILE));
    for file in fs::read_dir(directory).map_err(at(directory))? {
        if file.map_err(at(directory))?.path() != left_over {
            return Err(OpenError::NotAState { path: directory.to_owned() });
        }
    }
    Ok(())
}

/// Writes the format file, whole or not at all, durably: a database that is there without it would be taken for
/// something else.
fn write_format(directory: &Path, path: &Path) -> Result<(), OpenError> {
    let new = unfinished(path);
    let mut file = File::create(&new).map_err(at(&new))?;
    writeln!(file, "{FORMAT_PREFIX}{FORMAT_VERSION}").map_err(at(&new))?;
    file.sync_all().map_err(at(&new))?;
    fs::rename(&new, path).map_err(at(path))?;
    sync_names(directory)
}

/// Makes the names in a directory durable.
fn sync_names(directory: &Path) -> Result<(), OpenError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(at(directory))
}
