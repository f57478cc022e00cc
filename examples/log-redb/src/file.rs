//! The file that log and identity share, and what it takes to open it safely.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

use raft_core::ports::StoreError;
use redb::backends::FileBackend;
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction,
};

/// Entries by group and index.
pub(crate) const ENTRIES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("entries");
/// Term, vote and commit index by group.
pub(crate) const HARD_STATES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("hard states");
/// Where the log begins, by group.
pub(crate) const BEGINNINGS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("beginnings");
/// Who the node is.
pub(crate) const IDENTITY: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("identity");
const FORMATS: TableDefinition<'_, &str, u64> = TableDefinition::new("format");

/// What this version writes; another is refused rather than guessed at.
const FORMAT: u64 = 1;
/// redb's own default is 1 GiB. The core keeps what is new in a cache of its own, so the log is seldom read.
const CACHE_BYTES: usize = 32 << 20;
/// How much of the file is handled at once when it is opened.
const PIECE_BYTES: u64 = 1 << 20;

/// One redb file with the log and the identity of a node, open. redb locks it: a second process is refused. Clones are
/// handles to the same one.
#[derive(Clone, Debug)]
pub struct DataFile(Arc<Database>);

impl DataFile {
    /// Opens the file at `path`, or makes it, in a directory that exists.
    ///
    /// # Errors
    /// When the file system fails, another process has the file open, it is damaged, or of another format.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let opening = |error| failed(&format!("opening {}", path.display()), error);
        if !path.try_exists().map_err(opening)? {
            create(path)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(opening)?;
        Self::open_with(FileBackend::new(file).map_err(|error| failed("locking the file", error))?)
    }

    /// Opens the database on `backend`, or makes it there: for tests, whose backends fail.
    ///
    /// # Errors
    /// As [`DataFile::open`].
    pub fn open_with(backend: impl StorageBackend) -> Result<Self, StoreError> {
        make_durable(&backend).map_err(|error| failed("making durable what the file holds", error))?;
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let database =
            builder.create_with_backend(DurableLength(backend)).map_err(|error| failed("opening the file", error))?;
        let file = Self(Arc::new(database));
        file.check_format()?;
        Ok(file)
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let found = self.write("noting the format", Durability::Immediate, |transaction| {
            for table in [HARD_STATES, BEGINNINGS] {
                transaction.open_table(table)?;
            }
            transaction.open_table(ENTRIES)?;
            transaction.open_table(IDENTITY)?;
            let mut formats = transaction.open_table(FORMATS)?;
            let found = formats.get("log")?.map_or(FORMAT, |found| found.value());
            formats.insert("log", found)?;
            Ok(found)
        })?;
        if found == FORMAT {
            return Ok(());
        }
        let reason =
            format!("the file has format {found} and this version knows format {FORMAT}; run the one that made it");
        Err(StoreError::Refused { reason })
    }

    /// One transaction that changes something: all of `body` or nothing. It has happened when this returns, and with
    /// [`Durability::Immediate`] it survives a loss of power.
    pub(crate) fn write<T>(
        &self,
        doing: &str,
        durability: Durability,
        body: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || {
            let mut transaction = self.0.begin_write()?;
            transaction.set_durability(durability)?;
            let done = body(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        run().map_err(|error: redb::Error| failed(doing, error))
    }

    /// Reads at one moment: whatever is written meanwhile is not seen.
    pub(crate) fn read<T>(
        &self,
        body: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        body(&self.0.begin_read()?)
    }
}

/// What redb says, as the port says it.
pub(crate) fn failed(doing: &str, error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(reason) => StoreError::Damaged { place: format!("the file, while {doing}"), reason },
        other => StoreError::Io { doing: doing.into(), reason: other.to_string() },
    }
}

/// Makes a file that is whole or not there. redb makes one in several steps, and refuses one whose making was cut off.
/// So it is made under another name, and gets its own by a link, which takes no other file's place should two processes
/// do this at once. The name is durable only when its directory is.
fn create(path: &Path) -> Result<(), StoreError> {
    let unfinished = path.with_extension("unfinished");
    let make = || {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&unfinished)?;
        let backend = FileBackend::new(file)?;
        // Only now: before it was locked it might have been somebody's.
        backend.set_len(0)?;
        Ok(backend)
    };
    let doing = format!("making {}", path.display());
    let backend = make().map_err(|error: redb::Error| failed(&doing, error))?;
    drop(DataFile::open_with(backend)?);
    let name = || {
        File::open(&unfinished)?.sync_all()?;
        fs::hard_link(&unfinished, path)?;
        fs::remove_file(&unfinished)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
    };
    name().map_err(|error: io::Error| failed(&doing, error))
}

/// A backend whose file is as long after a loss of power as redb believes. redb lets the file grow and notes its
/// length with the next commit, in one sync; when the length is lost and the note is not, it panics at every start
/// from then on. A file grows by doubling, so the sync is rare.
#[derive(Debug)]
struct DurableLength<B>(B);

impl<B: StorageBackend> StorageBackend for DurableLength<B> {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)?;
        self.0.sync_data()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

/// Writes the file once more as it is read, and syncs it. After a sync that failed, the system may show bytes that are
/// not on the disk and never will be; what a store recovers has to be durable, or a node acknowledges what is gone
/// after the next loss of power. It costs one pass over the file at each start.
fn make_durable(backend: &impl StorageBackend) -> io::Result<()> {
    let length = backend.len()?;
    let mut piece = Vec::new();
    for at in (0..length).step_by(PIECE_BYTES as usize) {
        piece.resize(PIECE_BYTES.min(length - at) as usize, 0);
        backend.read(at, &mut piece)?;
        backend.write(at, &piece)?;
    }
    if length > 0 { backend.sync_data() } else { Ok(()) }
}
