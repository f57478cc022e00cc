//! The directory of a state on disk: a file that says what it is, one that says which generation counts, and the
//! generations: databases of which each took the place of the one before when a snapshot was restored.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::settings::SettingError;

/// Says what the directory is, in a line that a person can read.
const FORMAT_FILE: &str = "FORMAT";
const FORMAT_PREFIX: &str = "raft-kv state ";
const FORMAT_VERSION: u32 = 2;
/// Read of the format file at most; all of them are shorter.
const FORMAT_BYTES_MAX: u64 = 64;
/// Names the generation that counts.
const CURRENT_FILE: &str = "CURRENT";
/// Read of that file at most; all of them are shorter.
const CURRENT_BYTES_MAX: u64 = 128;
const GENERATION_PREFIX: &str = "gen-";
const FIRST_GENERATION: u64 = 1;

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
        "{path} holds a state of format {found}, and this version knows format {FORMAT_VERSION}; run the version that wrote it, \
         or remove the directory if the format is an earlier one: the log builds it again"
    )]
    UnknownFormat {
        /// The directory.
        path: PathBuf,
        /// What its format file says.
        found: String,
    },
    /// The state is not what was written.
    #[error(
        "the state in {path} is damaged: {reason}; move the whole data directory away and let this node join as a new one, \
         or restore it from a copy"
    )]
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
    /// The files are no snapshot of a state, or of another one than was asked for.
    #[error("{path} cannot be restored: {reason}; fetch the snapshot again")]
    Snapshot {
        /// The snapshot's directory, or a file in it.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A first setting is outside its range.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

/// A state's directory, and which generation in it counts.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    root: PathBuf,
    generation: u64,
}

impl StateDirectory {
    /// Checks the directory's format, or makes the directory. Then the generation that counts is there, if only as an
    /// empty directory.
    pub(crate) fn prepare(root: &Path) -> Result<Self, OpenError> {
        let path = root.join(FORMAT_FILE);
        fs::create_dir_all(root).map_err(at(root))?;
        match read_start(&path, FORMAT_BYTES_MAX) {
            Ok(text) => check_format(root, &String::from_utf8_lossy(&text))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                check_blank(root)?;
                let format = format!("{FORMAT_PREFIX}{FORMAT_VERSION}\n");
                replace_file(&path, format.as_bytes()).map_err(at(&path))?;
            }
            Err(error) => return Err(at(&path)(error)),
        }
        let directory = Self { root: root.to_owned(), generation: current_generation(root)? };
        let database = directory.database();
        fs::create_dir_all(&database).map_err(at(&database))?;
        // Every time, since an earlier start may have been cut short before this. RocksDB makes durable what is in its
        // directory, and not the directory's own name: without it a flush that has returned is gone with the power.
        sync_names(root).map_err(at(root))?;
        let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty());
        match parent.map_or(Ok(()), sync_names) {
            // It was not made by one that may not read the directory above, or where nothing can be made.
            Err(error)
                if [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem].contains(&error.kind()) => {}
            synced => synced.map_err(at(root))?,
        }
        Ok(directory)
    }

    /// Where the database of the generation that counts is.
    pub(crate) fn database(&self) -> PathBuf {
        self.path(self.generation)
    }

    fn path(&self, generation: u64) -> PathBuf {
        self.root.join(format!("{GENERATION_PREFIX}{generation}"))
    }

    /// Makes an empty directory for the next generation, which does not count yet.
    pub(crate) fn begin(&self) -> io::Result<PathBuf> {
        let path = self.path(self.generation + 1);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// From now on the generation that was begun counts, durably. Its files have to be durable already. After an error
    /// it is unknown which one counts.
    pub(crate) fn publish(&mut self) -> io::Result<()> {
        // The name of the new one first.
        sync_names(&self.root)?;
        replace_file(&self.root.join(CURRENT_FILE), current_text(self.generation + 1).as_bytes())?;
        self.generation += 1;
        Ok(())
    }

    /// Removes what a restore that was cut short has left, and generations that do not count any more. Only while the
    /// one that counts is open, and so locked: another process may be about to publish one.
    pub(crate) fn collect(&self) -> Result<(), OpenError> {
        for file in fs::read_dir(&self.root).map_err(at(&self.root))? {
            let path = file.map_err(at(&self.root))?.path();
            if generation_of(&path).is_some_and(|generation| generation != self.generation) {
                fs::remove_dir_all(&path).map_err(at(&path))?;
            }
        }
        let left_over = unfinished(&self.root.join(CURRENT_FILE));
        match fs::remove_file(&left_over) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&left_over)(error)),
            _ => Ok(()),
        }
    }
}

fn generation_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(GENERATION_PREFIX)?.parse().ok()
}

/// The file's whole text, with a checksum at its end, so that no flipped bit names another generation.
fn current_text(generation: u64) -> String {
    let line = format!("raft-kv generation {generation} ");
    let checksum = blake3::hash(line.as_bytes()).to_hex();
    format!("{line}{}\n", &checksum[..16])
}

/// Reads which generation counts; in a directory without any, the first one does from now on.
fn current_generation(root: &Path) -> Result<u64, OpenError> {
    let path = root.join(CURRENT_FILE);
    let damaged = |reason: &str| OpenError::Damaged { path: path.clone(), reason: reason.into() };
    match read_start(&path, CURRENT_BYTES_MAX) {
        Ok(text) => {
            let text = String::from_utf8_lossy(&text);
            let generation = text.split(' ').nth(2).and_then(|number| number.parse().ok());
            generation
                .filter(|generation| (FIRST_GENERATION..u64::MAX).contains(generation))
                .filter(|generation| current_text(*generation) == text)
                .ok_or_else(|| damaged("it names no generation, or its checksum does not fit"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            for file in fs::read_dir(root).map_err(at(root))? {
                if generation_of(&file.map_err(at(root))?.path()).is_some() {
                    return Err(damaged("it is missing, and there are generations"));
                }
            }
            replace_file(&path, current_text(FIRST_GENERATION).as_bytes()).map_err(at(&path))?;
            Ok(FIRST_GENERATION)
        }
        Err(error) => Err(at(&path)(error)),
    }
}

/// A small file, or the beginning of what stands in its place.
fn read_start(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(bytes_max).read_to_end(&mut text)?;
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

/// Nothing but what an interrupted start leaves may be there.
fn check_blank(directory: &Path) -> Result<(), OpenError> {
    let left_over = unfinished(&directory.join(FORMAT_FILE));
    for file in fs::read_dir(directory).map_err(at(directory))? {
        if file.map_err(at(directory))?.path() != left_over {
            return Err(OpenError::NotAState { path: directory.to_owned() });
        }
    }
    Ok(())
}

/// Puts a small file in the place of one of that name, whole or not at all, durably.
fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = unfinished(path);
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), sync_names)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_names(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
