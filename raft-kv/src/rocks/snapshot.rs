//! Snapshots of the state: taking one of a database, and making a database of one.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_core::ports::{SnapshotError, Snapshotter};
use raft_core::types::LogId;
use rocksdb::checkpoint::Checkpoint;

use super::Current;
use super::database::Database;
use crate::directory::{OpenError, sync_names};

/// Copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// What a file of RocksDB is to a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Rows. Never changed once it is whole.
    Table,
    /// Which tables there are.
    Manifest,
    /// The name of the manifest.
    Current,
    /// Nothing: RocksDB makes it anew.
    Other,
}

fn kind_of(name: &str) -> Kind {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match name {
        "CURRENT" => Kind::Current,
        _ if name.strip_suffix(".sst").is_some_and(is_number) => Kind::Table,
        _ if name.strip_prefix("MANIFEST-").is_some_and(is_number) => Kind::Manifest,
        _ => Kind::Other,
    }
}

/// Takes snapshots of the generation that counts when it is asked.
pub(super) struct RocksSnapshotter(pub(super) Arc<Current>);

impl Snapshotter for RocksSnapshotter {
    /// A checkpoint: what is in memory is written to files, and the files are linked.
    fn take(&self, directory: &Path) -> Result<LogId, SnapshotError> {
        let io = |doing: &str| {
            let doing = format!("{doing} {}", directory.display());
            move |reason: String| SnapshotError::Io { doing, reason }
        };
        let database = self.0.database();
        Checkpoint::new(&database.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(directory))
            .map_err(|error| io("taking a snapshot into")(error.to_string()))?;
        drop(database);
        let seen = Database::look_into(directory).map_err(|error| io("reading")(error.to_string()))?;
        prune(directory).map_err(|error| io("cleaning")(error.to_string()))?;
        Ok(seen.meta.applied)
    }
}

/// Removes what a snapshot need not carry.
fn prune(directory: &Path) -> io::Result<()> {
    for file in fs::read_dir(directory)? {
        let file = file?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        if kind_of(&name) != Kind::Other {
            continue;
        }
        // The state is written without one, and all of it was flushed.
        if name.ends_with(".log") && file.metadata()?.len() > 0 {
            return Err(io::Error::other(format!("{name} holds changes that are in no table")));
        }
        fs::remove_file(file.path())?;
    }
    Ok(())
}

/// Puts the files of a snapshot into `to`, an empty directory, durably, and checks that together they are a state that
/// has applied `last`. Tables are linked where that is possible, all others are copied.
pub(super) fn install(from: &Path, to: &Path, last: LogId) -> Result<(), OpenError> {
    let mut tables = BTreeSet::new();
    let (mut current, mut manifests) = (false, 0);
    for file in fs::read_dir(from).map_err(at(from))? {
        let file = file.map_err(at(from))?;
        let (path, name) = (file.path(), file.file_name().to_string_lossy().into_owned());
        if !file.file_type().map_err(at(&path))?.is_file() {
            return Err(damaged(&path, "it is no plain file".into()));
        }
        let target = to.join(&name);
        match kind_of(&name) {
            Kind::Table => {
                if fs::hard_link(&path, &target).is_err() {
                    copy(&path, &target).map_err(at(&path))?;
                }
                tables.insert(name);
            }
            Kind::Manifest => {
                copy(&path, &target).map_err(at(&path))?;
                manifests += 1;
            }
            Kind::Current => {
                copy(&path, &target).map_err(at(&path))?;
                current = true;
            }
            Kind::Other => return Err(damaged(&path, "a snapshot of this state has no such file".into())),
        }
    }
    if !current || manifests != 1 {
        let found = if current { "a CURRENT" } else { "no CURRENT" };
        return Err(damaged(from, format!("it has {found} and {manifests} manifests, and a snapshot has one of each")));
    }
    for name in &tables {
        let table = to.join(name);
        // Nothing is written, but not every system syncs a file that was opened to be read. Its bytes only: they are
        // there already as a rule, and to sync the count of its names too would be a commit of the file system's journal
        // for each table, for which the syncs of the log wait. The name itself is the directory's.
        OpenOptions::new().write(true).open(&table).and_then(|file| file.sync_data()).map_err(at(&table))?;
    }
    sync_names(to).map_err(at(to))?;
    check(from, to, &tables, last)
}

fn check(from: &Path, to: &Path, tables: &BTreeSet<String>, last: LogId) -> Result<(), OpenError> {
    let seen = Database::look_into(to)?;
    if seen.meta.applied != last {
        return Err(damaged(from, format!("it holds the state at {}, and not at {last}", seen.meta.applied)));
    }
    let needed: BTreeSet<_> = seen.tables.into_iter().collect();
    if let Some(foreign) = tables.difference(&needed).next() {
        return Err(damaged(&from.join(foreign), "no manifest knows it".into()));
    }
    // RocksDB found all that its manifest names.
    assert!(needed.is_subset(tables), "a database of {} tables was opened with {}", needed.len(), tables.len());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let (mut source, mut target) = (File::open(from)?, File::create_new(to)?);
    let mut bytes = vec![0; COPY_BYTES];
    loop {
        match source.read(&mut bytes)? {
            0 => return target.sync_all(),
            count => target.write_all(&bytes[..count])?,
        }
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> OpenError {
    let path: PathBuf = path.to_owned();
    move |source| OpenError::Io { path: path.clone(), source }
}

fn damaged(path: &Path, reason: String) -> OpenError {
    OpenError::Snapshot { path: path.to_owned(), reason }
}
