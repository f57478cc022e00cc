//! The data directory: whose it is, who has it open, and which life of the process this is.

mod inspection;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use raft_core::ports::StoreError;
use raft_core::types::{ClusterId, Incarnation, NodeId, NodeName};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::evidence;
use crate::small_file::{self, Fields, Kind, SmallFileError};
use crate::store::{LogOptions, RocksLog};

pub use inspection::Inspection;

/// The format of directories that this binary makes.
const FORMAT_VERSION: u32 = 3;
/// The oldest binary, by the format that it makes, that can read what this one writes.
const FORMAT_READER_MIN: u32 = 3;
/// Longest name of a node, in bytes.
const NAME_BYTES_MAX: usize = 1024;
/// Earlier starts whose random numbers a start record keeps; older ones are forgotten.
pub const EARLIER_STARTS_MAX: usize = 64;
/// Longest founding record, in bytes.
pub const FOUNDING_RECORD_BYTES_MAX: usize = 1 << 20;

const LOCK: &str = "LOCK";
const FORMAT: Kind = Kind { file_name: "FORMAT", tag: *b"FORM", body_bytes_max: 8 };
const IDENTITY: Kind = Kind { file_name: "IDENTITY", tag: *b"IDEN", body_bytes_max: 18 + NAME_BYTES_MAX };
const START: Kind = Kind { file_name: "START", tag: *b"STRT", body_bytes_max: 26 + 16 * EARLIER_STARTS_MAX };
const FOUNDING: Kind = Kind { file_name: "FOUNDING", tag: *b"FOUN", body_bytes_max: 28 + FOUNDING_RECORD_BYTES_MAX };
const LOG_MADE: Kind = Kind { file_name: "LOG_MADE", tag: *b"LOGM", body_bytes_max: 0 };
/// What a file system itself may put at the top of a fresh volume.
const NOT_FOREIGN: &[&str] = &[LOCK, "lost+found"];

/// Why a data directory was not opened, or a founding record not accepted.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The system said no.
    #[error("data directory: {doing} {path} failed: {source}; check the path, its owner and the disk")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error(
        "data directory {path} is in use by {}; stop that process, or set another data_dir for this one",
        .holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds the lock, as it wrote itself down.
        holder: Option<u32>,
    },
    /// It holds files and none of them says that it is a data directory.
    #[error("{path} is no data directory and not empty (it holds {example:?}); set data_dir to an empty directory")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// One of the files.
        example: String,
    },
    /// A newer binary made it.
    #[error(
        "data directory {path} has format {found}, which can be read from format {reader_min} on; this binary \
         reads up to {FORMAT_VERSION}: run a newer one"
    )]
    UnknownFormat {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The oldest format whose binaries can read it.
        reader_min: u32,
    },
    /// It belongs to a node of another name.
    #[error(
        "data directory {path} belongs to node {found}, and this node is {expected}; set data_dir to this node's own \
         directory, or name to {found}"
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// The name in it.
        found: NodeName,
        /// Our name.
        expected: NodeName,
    },
    /// The name does not fit in the identity record.
    #[error("name has {found} bytes and may have 1 to {NAME_BYTES_MAX}; set a shorter one")]
    NameLength {
        /// Its length.
        found: usize,
    },
    /// A file does not hold what was written to it, or is not there any more.
    #[error(
        "data directory: {path} is damaged: {reason}; restore the file from a copy, or move the directory away and \
         let this node join as a new one"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The directory already belongs to a cluster.
    #[error(
        "data directory {path} already belongs to cluster {cluster} as {id}; to found or join another cluster, set \
         data_dir to an empty directory"
    )]
    Founded {
        /// The directory.
        path: PathBuf,
        /// Its cluster.
        cluster: ClusterId,
        /// Its id there.
        id: NodeId,
    },
    /// The founding record is too long.
    #[error("the founding record has {found} bytes and may have {FOUNDING_RECORD_BYTES_MAX}; name fewer founders")]
    FoundingRecordLength {
        /// Its length.
        found: usize,
    },
}

impl From<SmallFileError> for DataDirError {
    fn from(error: SmallFileError) -> Self {
        match error {
            SmallFileError::Io { doing, path, source } => Self::Io { doing, path, source },
            SmallFileError::Damaged { path, reason } => Self::Damaged { path, reason },
        }
    }
}

/// One start of a process on a data directory. The same count with another nonce is a cloned disk, and so is a later start
/// that does not come after one that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartRecord {
    /// How many times the directory was opened, this time included.
    pub count: u64,
    /// Drawn anew at every start.
    pub nonce: u128,
    /// The nonces of the starts before this one, the newest first, at most [`EARLIER_STARTS_MAX`]. Fewer than there were
    /// when a directory comes from a build that did not keep them.
    pub earlier: Vec<u128>,
}

struct Founding {
    cluster: ClusterId,
    id: NodeId,
    record: Bytes,
}

/// A data directory that this process holds. The lock is given back when this is dropped, or the process ends in
/// whatever way.
pub struct DataDir {
    path: PathBuf,
    name: NodeName,
    incarnation: Incarnation,
    start: StartRecord,
    founding: Option<Founding>,
    /// Why writing a founding record failed.
    failed: Option<String>,
    /// Holds the lock.
    _lock: File,
}

impl DataDir {
    /// Opens the data directory of the node `name`, or makes one where there is nothing yet, and syncs a new start
    /// record.
    ///
    /// # Errors
    /// When another process has it, when it is no data directory and not empty, has an unknown format, belongs to
    /// another node or is damaged; each names the remedy.
    pub fn open(path: impl AsRef<Path>, name: &NodeName) -> Result<Self, DataDirError> {
        let path = path.as_ref();
        if name.as_str().is_empty() || name.as_str().len() > NAME_BYTES_MAX {
            return Err(DataDirError::NameLength { found: name.as_str().len() });
        }
        small_file::create_directory(path)?;
        // Looked at before anything is written: not even a lock file goes into somebody else's directory.
        refuse_foreign(path)?;
        let lock = lock(path)?;
        let format = open_format(path)?;
        let incarnation = open_identity(path, name)?;
        let founding = read_founding(path)?;
        let start = count_start(path, founding.is_some())?;
        if format < FORMAT_VERSION {
            // Before anything is written that an older binary would take for damage.
            write_format(path)?;
            tracing::info!(directory = %path.display(), from = format, to = FORMAT_VERSION, "the format was raised");
        }
        Ok(Self { path: path.to_owned(), name: name.clone(), incarnation, start, founding, failed: None, _lock: lock })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node that it belongs to.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// This directory's life, drawn when it was made.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// This start of the process.
    #[must_use]
    pub fn start(&self) -> &StartRecord {
        &self.start
    }

    /// Where the log lies.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where the state machine lies.
    #[must_use]
    pub fn state_path(&self) -> PathBuf {
        self.path.join("state")
    }

    /// Opens the log in this directory. The first time, the directory notes durably that there is a log before anything
    /// can be acknowledged from it; later a log that is gone as a whole is refused, not made anew.
    ///
    /// # Errors
    /// As [`RocksLog::open`], and when the log was there and is not any more.
    pub fn open_log(&self, options: LogOptions) -> Result<RocksLog, StoreError> {
        let made = LOG_MADE.read(&self.path)?.is_some();
        if made && !RocksLog::exists(self.log_path()) {
            return Err(StoreError::Damaged {
                place: self.log_path().display().to_string(),
                reason: "the log that was here is gone, and with it this node's votes; put it back, or move the data \
                         directory away and let this node join as a new one"
                    .into(),
            });
        }
        // The evidence was durable before the directory noted the log. A database that lost its all looks like one that
        // never held anything, and must not be given new evidence.
        if made {
            evidence::demand(&self.log_path())?;
        }
        let log = RocksLog::open(self.log_path(), options)?;
        if !made {
            LOG_MADE.replace(&self.path, &[])?;
        }
        Ok(log)
    }

    /// The cluster, this node's id in it and the founding record, once accepted.
    #[must_use]
    pub fn founding(&self) -> Option<(ClusterId, NodeId, Bytes)> {
        self.founding.as_ref().map(|founding| (founding.cluster, founding.id, founding.record.clone()))
    }

    /// Accepts a founding record, once and for ever. Durable on return. The same one again is no error.
    ///
    /// # Errors
    /// When another one was accepted before, when it is too long, or when the disk fails. A failure of the disk is final
    /// for this process: nobody knows what it left there, and the next start looks.
    pub fn accept_founding(&mut self, cluster: ClusterId, id: NodeId, record: Bytes) -> Result<(), DataDirError> {
        if let Some(held) = &self.founding {
            if (held.cluster, held.id, &held.record) == (cluster, id, &record) {
                return Ok(());
            }
            return Err(DataDirError::Founded { path: self.path.clone(), cluster: held.cluster, id: held.id });
        }
        if record.len() > FOUNDING_RECORD_BYTES_MAX {
            return Err(DataDirError::FoundingRecordLength { found: record.len() });
        }
        if let Some(reason) = &self.failed {
            let source =
                io::Error::other(format!("an earlier failure is final, restart the node to recover: {reason}"));
            return Err(DataDirError::Io { doing: "writing", path: FOUNDING.path(&self.path), source });
        }
        let mut body = Vec::with_capacity(28 + record.len());
        body.extend_from_slice(&cluster.0.to_be_bytes());
        body.extend_from_slice(&id.0.to_be_bytes());
        body.extend_from_slice(&(record.len() as u32).to_be_bytes());
        body.extend_from_slice(&record);
        // A crash between the two only means that the next start notes it.
        let written = FOUNDING.replace(&self.path, &body).and_then(|()| write_start(&self.path, &self.start, true));
        if let Err(error) = written {
            self.failed = Some(error.to_string());
            return Err(error.into());
        }
        self.founding = Some(Founding { cluster, id, record });
        Ok(())
    }
}

/// Refuses a directory that holds something and is no data directory.
fn refuse_foreign(path: &Path) -> Result<(), DataDirError> {
    if FORMAT.path(path).exists() {
        return Ok(());
    }
    let failed = |source| DataDirError::Io { doing: "listing", path: path.into(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    let ours = [IDENTITY, START, FOUNDING, LOG_MADE].map(|kind| kind.file_name);
    if names.iter().any(|name| ours.contains(&name.as_str())) {
        return Err(FORMAT.damaged(path, "it is missing, and other files of a data directory are here").into());
    }
    // An interrupted first start leaves its lock and perhaps a format file that had not got its name yet.
    let leftover = FORMAT.temporary_name();
    match names.into_iter().find(|name| !NOT_FOREIGN.contains(&name.as_str()) && *name != leftover) {
        Some(example) => Err(DataDirError::Foreign { path: path.into(), example }),
        None => Ok(()),
    }
}

/// Takes the lock and writes down who has it. The kernel gives it back when the process ends.
fn lock(path: &Path) -> Result<File, DataDirError> {
    let lock_path = path.join(LOCK);
    let failed = |doing, source| DataDirError::Io { doing, path: lock_path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(|source| failed("opening", source))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // Who holds it is a courtesy: the refusal stands without it.
            let holder = (&file).take(32).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(DataDirError::InUse { path: path.into(), holder });
        }
        Err(errno) => return Err(failed("locking", errno.into())),
    }
    file.set_len(0)
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
        .map_err(|source| failed("writing", source))?;
    Ok(file)
}

fn write_format(path: &Path) -> Result<(), SmallFileError> {
    FORMAT.replace(path, &[FORMAT_VERSION.to_be_bytes(), FORMAT_READER_MIN.to_be_bytes()].concat())
}

/// The directory's format, which this binary can read. A blank directory gets this binary's.
fn open_format(path: &Path) -> Result<u32, DataDirError> {
    let Some(body) = FORMAT.read(path)? else {
        write_format(path)?;
        return Ok(FORMAT_VERSION);
    };
    let (found, reader_min) = parse_format(path, &body)?;
    if reader_min > FORMAT_VERSION {
        return Err(DataDirError::UnknownFormat { path: path.into(), found, reader_min });
    }
    Ok(found)
}

/// A directory's format, and the oldest that can read it.
fn parse_format(path: &Path, body: &[u8]) -> Result<(u32, u32), DataDirError> {
    let parse = || {
        let mut fields = Fields::new(body);
        let versions = (fields.u32()?, fields.u32()?);
        fields.finish()?;
        Ok::<_, String>(versions)
    };
    parse().map_err(|reason| FORMAT.damaged(path, reason).into())
}

fn open_identity(path: &Path, name: &NodeName) -> Result<Incarnation, DataDirError> {
    let Some(body) = IDENTITY.read(path)? else {
        if START.path(path).exists() {
            return Err(IDENTITY.damaged(path, "it is missing, and the directory was in use before").into());
        }
        let incarnation = Incarnation(random(path)?);
        let mut body = incarnation.0.to_be_bytes().to_vec();
        body.extend_from_slice(&(name.as_str().len() as u16).to_be_bytes());
        body.extend_from_slice(name.as_str().as_bytes());
        IDENTITY.replace(path, &body)?;
        return Ok(incarnation);
    };
    let (incarnation, found) = parse_identity(path, &body)?;
    if found != *name {
        return Err(DataDirError::OtherNode { path: path.into(), found, expected: name.clone() });
    }
    Ok(incarnation)
}

/// Whose a directory is.
fn parse_identity(path: &Path, body: &[u8]) -> Result<(Incarnation, NodeName), DataDirError> {
    let parse = || {
        let mut fields = Fields::new(body);
        let (incarnation, length) = (fields.u128()?, fields.u16()?);
        let found = std::str::from_utf8(fields.bytes(length.into())?).map_err(|error| error.to_string())?;
        fields.finish()?;
        Ok::<_, String>((Incarnation(incarnation), NodeName::new(found)))
    };
    parse().map_err(|reason| IDENTITY.damaged(path, reason).into())
}

/// Counts this start, and notes whether there is a founding record by now, so that one that goes missing is noticed.
fn count_start(path: &Path, founded: bool) -> Result<StartRecord, DataDirError> {
    let (before, earlier) = match START.read(path)? {
        Some(body) => {
            let (before, was_founded) = parse_start(&body).map_err(|reason| START.damaged(path, reason))?;
            if was_founded && !founded {
                return Err(FOUNDING.damaged(path, "it is missing, and this node belonged to a cluster").into());
            }
            let mut earlier = vec![before.nonce];
            earlier.extend(before.earlier.into_iter().take(EARLIER_STARTS_MAX - 1));
            (before.count, earlier)
        }
        None if LOG_MADE.path(path).exists() || founded => {
            return Err(START.damaged(path, "it is missing, and the directory was in use before").into());
        }
        None => (0, Vec::new()),
    };
    let start = StartRecord { count: before.saturating_add(1), nonce: random(path)?, earlier };
    write_start(path, &start, founded)?;
    Ok(start)
}

/// The start that a body tells of, and whether there was a founding record.
fn parse_start(body: &[u8]) -> Result<(StartRecord, bool), String> {
    let mut fields = Fields::new(body);
    let (count, nonce, founded) = (fields.u64()?, fields.u128()?, fields.u8()?);
    // Bodies end here that were written before earlier starts were kept.
    let known = if body.len() == 25 { 0 } else { usize::from(fields.u8()?) };
    if known > EARLIER_STARTS_MAX {
        return Err(format!("it names {known} earlier starts, and may name {EARLIER_STARTS_MAX}"));
    }
    let earlier = (0..known).map(|_| fields.u128()).collect::<Result<_, _>>()?;
    fields.finish()?;
    Ok((StartRecord { count, nonce, earlier }, founded != 0))
}

fn write_start(path: &Path, start: &StartRecord, founded: bool) -> Result<(), SmallFileError> {
    let mut body = Vec::with_capacity(START.body_bytes_max);
    body.extend_from_slice(&start.count.to_be_bytes());
    body.extend_from_slice(&start.nonce.to_be_bytes());
    body.extend_from_slice(&[u8::from(founded), start.earlier.len() as u8]);
    start.earlier.iter().for_each(|nonce| body.extend_from_slice(&nonce.to_be_bytes()));
    START.replace(path, &body)
}

fn read_founding(path: &Path) -> Result<Option<Founding>, DataDirError> {
    let Some(body) = FOUNDING.read(path)? else {
        return Ok(None);
    };
    let parse = || {
        let mut fields = Fields::new(&body);
        let (cluster, id, length) = (ClusterId(fields.u128()?), NodeId(fields.u64()?), fields.u32()?);
        let record = Bytes::copy_from_slice(fields.bytes(length as usize)?);
        fields.finish()?;
        Ok::<_, String>(Founding { cluster, id, record })
    };
    Ok(Some(parse().map_err(|reason| FOUNDING.damaged(path, reason))?))
}

/// 128 random bits.
fn random(path: &Path) -> Result<u128, DataDirError> {
    let mut bytes = [0; 16];
    let filled = getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|errno| DataDirError::Io {
        doing: "drawing random bits for",
        path: path.into(),
        source: errno.into(),
    })?;
    // Up to 256 bytes are never cut short (getrandom(2)).
    assert_eq!(filled, bytes.len(), "the system's random numbers");
    Ok(u128::from_ne_bytes(bytes))
}
