//! A whole state machine out of a plain type: for states that fit in memory.
//!
//! A [`StateMachine`] applies, answers marks, makes itself durable, takes snapshots beside all that and restores them
//! through crashes. None of it depends on what your state is. So write what does ([`SmallState`]: apply, query, encode,
//! decode) and let [`InMemory`] do the rest.
//!
//! # What it costs
//! The state lies in memory, once. A flush, a snapshot and a mark encode all of it; a flush and a restore write it into
//! one file, beside the present one, synced and then moved there. It is flushed when the node stops, when its log has to
//! be cut, and by itself once [`FLUSH_AFTER_BYTES`] of entries were applied and four times its own size, which bounds
//! what a restart applies again. Marks come every ten seconds at most ([`MarkPolicy`](crate::marks::MarkPolicy)). That is
//! right for megabytes. Above [`STATE_BYTES_MAX`] nothing is written any more; a larger state belongs into a store of its
//! own, behind your own [`StateMachine`].
//!
//! Queries run on their callers' threads and wait at most for one command, one encoding or one restore that is being
//! put in place: never for the disk. A query that takes long makes the next command wait.
//!
//! # Example
//! ```
//! use bytes::Bytes;
//! use raft_core::ports::StateMachine;
//! use raft_core::types::{Entry, EntryKind, Index, LogId, Payload, Term};
//! use raft_node::small_state::{InMemory, SmallState};
//!
//! /// A number that every command adds to.
//! #[derive(Default)]
//! struct Sum(u64);
//!
//! impl SmallState for Sum {
//!     fn apply(&mut self, command: &[u8]) -> Bytes {
//!         // What is no number, or too much, is the same on every replica: an answer, and no reason to stop.
//!         let number = std::str::from_utf8(command).ok().and_then(|text| text.parse::<u64>().ok());
//!         let Some(sum) = number.and_then(|number| self.0.checked_add(number)) else { return "refused".into() };
//!         self.0 = sum;
//!         sum.to_string().into()
//!     }
//!
//!     fn query(&self, _query: &[u8]) -> Result<Bytes, String> {
//!         Ok(self.0.to_string().into())
//!     }
//!
//!     fn encode(&self) -> Vec<u8> {
//!         self.0.to_le_bytes().to_vec()
//!     }
//!
//!     fn decode(bytes: &[u8]) -> Result<Self, String> {
//!         let bytes = bytes.try_into().map_err(|_| format!("a sum has 8 bytes, not {}", bytes.len()))?;
//!         Ok(Self(u64::from_le_bytes(bytes)))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let mut machine = InMemory::open(directory.path().join("state"), Sum::default())?;
//! let entry = |index, command: &'static [u8]| Entry {
//!     id: LogId::new(Index(index), Term(1)),
//!     kind: EntryKind::Command,
//!     payload: Payload::new(Bytes::from_static(command)),
//! };
//! let mut answers = Vec::new();
//! machine.apply(&[entry(1, b"40"), entry(2, b"2"), entry(3, b"much")], &mut answers)?;
//! assert_eq!(answers, ["40", "42", "refused"]);
//! assert_eq!(machine.reader().query(b"")?.bytes, "42");
//! machine.flush()?;
//! drop(machine);
//! let machine = InMemory::open(directory.path().join("state"), Sum::default())?;
//! assert_eq!(machine.applied(), LogId::new(Index(3), Term(1)));
//! # Ok(())
//! # }
//! ```
//!
//! In [`Parts`](crate::Parts) it stands as `state_machine: InMemory::factory(directory, Sum::default)`. Run
//! `raft_core::testing::state_machine_suite` over it all the same: it finds an `apply` that is not deterministic and an
//! `encode` that forgets something.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use raft_core::ports::{ApplyError, QueryAnswer, QueryError, SnapshotError, Snapshotter, StateMachine, StateReader};
use raft_core::types::{Entry, EntryKind, Index, LogId, Term};

use crate::parts::StateMachineFactory;
use crate::snapshots::files;

/// Bytes of an encoded state. A larger one is not written: the flush or the snapshot fails, and the error says so. Keep
/// away from it by refusing commands in [`SmallState::apply`], which is an answer and the same everywhere.
pub const STATE_BYTES_MAX: usize = 1 << 30;

/// Bytes of entries that are applied before the state is made durable by itself, if that is also four times its size.
pub const FLUSH_AFTER_BYTES: u64 = 16 << 20;

/// How the file begins, with its version.
const MAGIC: &[u8; 8] = b"rksmall1";
/// Before the state: the magic, index and term of the last applied entry, the length of the state.
const HEADER_BYTES: usize = 32;
/// Behind the state: the CRC-32C of all before.
const CHECKSUM_BYTES: usize = 4;
/// The state's file, in its own directory and in snapshots.
const FILE: &str = "state";

/// What is yours of a state machine: a plain value, what changes it, what is asked of it, and its bytes.
///
/// **All of it must be deterministic.** The same commands in the same order give the same answers and the same bytes on
/// every replica, in every process, today and in a year: no clock, no random numbers, no iteration over a `HashMap`, no
/// address or name of the node, no environment, no floating point that depends on the machine. Time comes with the
/// command ([`Stamp`](crate::parts::Stamp)).
pub trait SmallState: Send + Sync + Sized + 'static {
    /// Carries out a command and gives its answer. Whatever is wrong with a command (malformed, refused, too large) is
    /// an answer too, and changes nothing. It must not panic: a command that makes one replica panic stops them all, at
    /// every start again. Called on the applier's thread.
    fn apply(&mut self, command: &[u8]) -> Bytes;

    /// Answers a query, on the thread of whoever asks.
    ///
    /// # Errors
    /// What is wrong with the query, for whoever wrote it.
    fn query(&self, query: &[u8]) -> Result<Bytes, String>;

    /// The state as bytes, all of it: what is missing here is gone after a restart or a snapshot. Equal states must
    /// have equal bytes (use a `BTreeMap`): replicas compare them by [`SmallState::digest`]. While a cluster is upgraded, old
    /// and new programs must give the same bytes for the same state, or the fewer of them are fenced at the next mark, and
    /// the old ones cannot read the snapshots of the new ones: write another encoding only once a **command** has switched
    /// it on, which you send when all nodes run the new program.
    fn encode(&self) -> Vec<u8>;

    /// The state that these bytes are of. They are what [`SmallState::encode`] gave, perhaps of an earlier version of
    /// your program; damage was found before, by a checksum.
    ///
    /// # Errors
    /// What does not fit. The node does not start then, or does not take the snapshot.
    fn decode(bytes: &[u8]) -> Result<Self, String>;

    /// Whether this version of your program knows the command. Where it says no the node stops before the command is
    /// applied, and names the remedy: to run the version that the others run. Say no only to a version number in the
    /// command that is higher than any that you write; what is merely malformed gets an answer, or any client could
    /// stop the cluster.
    #[must_use]
    fn knows(_command: &[u8]) -> bool {
        true
    }

    /// What replicas compare at a mark: the CRC-32C of [`SmallState::encode`]. A replica that is alone with its own is
    /// fenced. For a state whose encoding takes long, keep a digest up to date and give that.
    #[must_use]
    fn digest(&self) -> Bytes {
        Bytes::copy_from_slice(&crc32c::crc32c(&self.encode()).to_be_bytes())
    }
}

struct Current<S> {
    applied: LogId,
    state: S,
}

/// A [`StateMachine`] that holds a [`SmallState`] in memory and keeps it in a directory. See the module.
pub struct InMemory<S> {
    /// Only this value writes to it; readers and snapshots look.
    current: Arc<RwLock<Current<S>>>,
    directory: PathBuf,
    durable: Index,
    /// Bytes of entries that were applied since.
    unflushed_bytes: u64,
    /// Of the file.
    file_bytes: u64,
    /// Why its disk can be trusted no more. Everything fails from then on.
    failed: Option<String>,
}

impl<S> std::fmt::Debug for InMemory<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InMemory").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl<S: SmallState> InMemory<S> {
    /// Opens the state in `directory`, which is made when it is not there and belongs to nobody else; `initial` is the
    /// state before the first entry. What was applied and not flushed before the process ended is not here, and comes
    /// again out of the log.
    ///
    /// # Errors
    /// [`ApplyError::Storage`] when the directory cannot be made or read, or its file is damaged.
    pub fn open(directory: impl Into<PathBuf>, initial: S) -> Result<Self, ApplyError> {
        let directory = directory.into();
        make_directory(&directory)
            .map_err(|error| storage(format!("making {} failed: {error}", directory.display())))?;
        let path = directory.join(FILE);
        let (current, file) = match fs::exists(&path) {
            Ok(false) => (Current { applied: LogId::ZERO, state: initial }, Vec::new()),
            Ok(true) => load(&path)?,
            Err(error) => return Err(storage(format!("looking for {} failed: {error}", path.display()))),
        };
        let (durable, file_bytes) = (current.applied.index, file.len() as u64);
        let current = Arc::new(RwLock::new(current));
        Ok(Self { current, directory, durable, unflushed_bytes: 0, file_bytes, failed: None })
    }

    /// The same as [`Parts::state_machine`](crate::Parts::state_machine) wants it. For an initial state that depends on
    /// the founding record write the closure yourself.
    pub fn factory(directory: impl Into<PathBuf>, initial: impl FnOnce() -> S + Send + 'static) -> StateMachineFactory {
        let directory = directory.into();
        Box::new(move |_founding| {
            let machine = Self::open(directory, initial()).map_err(|error| error.to_string())?;
            Ok(Box::new(machine) as Box<dyn StateMachine>)
        })
    }

    fn check(&self) -> Result<(), ApplyError> {
        self.failed.as_ref().map_or(Ok(()), |reason| Err(storage(format!("it failed before: {reason}"))))
    }

    fn apply_one(&self, entry: &Entry) -> Result<Bytes, ApplyError> {
        let id = entry.id;
        let applied = self.current.read().applied.index;
        if id.index != applied.next() {
            return Err(ApplyError::OutOfOrder { id, applied });
        }
        if !entry.payload.verify() {
            return Err(ApplyError::Damaged { id });
        }
        let command = entry.payload.bytes();
        // Readers get in between any two commands, and see none half done.
        let mut current = self.current.write();
        let answer = match entry.kind {
            EntryKind::Command if !S::knows(command) => {
                return Err(ApplyError::UnknownKind { id, kind: "a command of a later version".into() });
            }
            EntryKind::Command => current.state.apply(command),
            EntryKind::Mark => current.state.digest(),
            EntryKind::Unknown(code) => {
                return Err(ApplyError::UnknownKind { id, kind: format!("entry kind {code}") });
            }
            _ => Bytes::new(),
        };
        current.applied = id;
        Ok(answer)
    }

    /// Puts a file in the place of the present one: a crash leaves this or that. After an error nobody knows which.
    fn replace(&mut self, file: &[u8], applied: LogId) -> Result<(), ApplyError> {
        let (path, unfinished) = (self.directory.join(FILE), self.directory.join("state.new"));
        let moved = |error: io::Error| files::failed("moving", &unfinished)(error);
        let replaced = files::write_synced(&unfinished, file)
            .and_then(|()| fs::rename(&unfinished, &path).map_err(moved))
            .and_then(|()| files::sync_directory(&self.directory));
        match replaced {
            Ok(()) => {
                (self.durable, self.unflushed_bytes, self.file_bytes) = (applied.index, 0, file.len() as u64);
            }
            Err(error) => {
                self.failed = Some(error.to_string());
                return Err(storage(error.to_string()));
            }
        }
        Ok(())
    }
}

impl<S: SmallState> StateMachine for InMemory<S> {
    fn applied(&self) -> LogId {
        self.current.read().applied
    }

    fn apply(&mut self, entries: &[Entry], answers: &mut Vec<Bytes>) -> Result<(), ApplyError> {
        self.check()?;
        entries.iter().try_for_each(|entry| {
            answers.push(self.apply_one(entry)?);
            self.unflushed_bytes += entry.size();
            Ok(())
        })
    }

    fn flush(&mut self) -> Result<Index, ApplyError> {
        self.check()?;
        if self.durable < self.applied().index {
            let (file, applied) = encode(&self.current.read()).map_err(storage)?;
            self.replace(&file, applied)?;
        }
        Ok(self.durable)
    }

    fn durable(&mut self) -> Result<Index, ApplyError> {
        self.check()?;
        // The node asks about once a second while it applies.
        if self.unflushed_bytes >= FLUSH_AFTER_BYTES.max(4 * self.file_bytes) {
            self.flush()?;
        }
        Ok(self.durable)
    }

    fn snapshotter(&self) -> Arc<dyn Snapshotter> {
        Arc::new(Handle(self.current.clone()))
    }

    fn restore(&mut self, directory: &Path, last: LogId) -> Result<(), ApplyError> {
        self.check()?;
        let path = directory.join(FILE);
        let (restored, file) = load::<S>(&path)?;
        if restored.applied != last {
            let (path, found) = (path.display(), restored.applied);
            return Err(storage(format!("{path} is the state as of entry {found}, and that of {last} was wanted")));
        }
        self.replace(&file, last)?;
        *self.current.write() = restored;
        Ok(())
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        Arc::new(Handle(self.current.clone()))
    }
}

/// Looks at the state from any thread.
struct Handle<S>(Arc<RwLock<Current<S>>>);

impl<S: SmallState> Snapshotter for Handle<S> {
    fn take(&self, directory: &Path) -> Result<LogId, SnapshotError> {
        let (file, applied) = encode(&self.0.read()).map_err(SnapshotError::Refused)?;
        fs::create_dir(directory).map_err(files::failed("making", directory))?;
        let path = directory.join(FILE);
        fs::write(&path, file).map_err(files::failed("writing", &path))?;
        Ok(applied)
    }
}

impl<S: SmallState> StateReader for Handle<S> {
    fn applied(&self) -> LogId {
        self.0.read().applied
    }

    fn query(&self, query: &[u8]) -> Result<QueryAnswer, QueryError> {
        let current = self.0.read();
        let bytes = current.state.query(query).map_err(QueryError::Malformed)?;
        Ok(QueryAnswer { bytes, applied: current.applied })
    }
}

fn storage(reason: String) -> ApplyError {
    ApplyError::Storage { reason }
}

fn encode<S: SmallState>(current: &Current<S>) -> Result<(Vec<u8>, LogId), String> {
    let (state, applied) = (current.state.encode(), current.applied);
    if state.len() > STATE_BYTES_MAX {
        let size = state.len();
        return Err(format!(
            "the state has {size} bytes, and {STATE_BYTES_MAX} are allowed (STATE_BYTES_MAX); have the state refuse \
             commands before it is so large, or keep it in a store of its own"
        ));
    }
    let mut file = Vec::with_capacity(HEADER_BYTES + state.len() + CHECKSUM_BYTES);
    file.extend(MAGIC);
    for number in [applied.index.0, applied.term.0, state.len() as u64] {
        file.extend(number.to_be_bytes());
    }
    file.extend(state);
    file.extend(crc32c::crc32c(&file).to_be_bytes());
    Ok((file, applied))
}

/// The state in a file, and the file.
fn load<S: SmallState>(path: &Path) -> Result<(Current<S>, Vec<u8>), ApplyError> {
    let failed = |error: io::Error| storage(format!("reading {} failed: {error}", path.display()));
    let damaged = |problem: String| {
        storage(format!(
            "{} cannot be used: {problem}; put it back as this node left it, or give the node a blank directory, so that \
             it joins its cluster anew",
            path.display()
        ))
    };
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > (HEADER_BYTES + STATE_BYTES_MAX + CHECKSUM_BYTES) as u64 {
        return Err(damaged(format!("it has {bytes} bytes, which no state has")));
    }
    let file = fs::read(path).map_err(failed)?;
    let current = decode(&file).map_err(damaged)?;
    Ok((current, file))
}

fn decode<S: SmallState>(file: &[u8]) -> Result<Current<S>, String> {
    let (body, checksum) = file.split_last_chunk::<CHECKSUM_BYTES>().ok_or("it is cut short")?;
    let (header, state) = body.split_first_chunk::<HEADER_BYTES>().ok_or("it is cut short")?;
    if !header.starts_with(MAGIC) {
        return Err("it does not begin as version 1 of a small state does".into());
    }
    if crc32c::crc32c(body) != u32::from_be_bytes(*checksum) {
        return Err("its checksum does not fit".into());
    }
    let mut numbers = header[MAGIC.len()..].chunks_exact(8).map(|bytes| {
        let mut number = [0; 8];
        number.copy_from_slice(bytes);
        u64::from_be_bytes(number)
    });
    let mut number = || numbers.next().ok_or("it is cut short");
    let (index, term, length) = (number()?, number()?, number()?);
    if length != state.len() as u64 {
        return Err(format!("it says that its state has {length} bytes, and {} are there", state.len()));
    }
    let applied = LogId::new(Index(index), Term(term));
    Ok(Current { applied, state: S::decode(state)? })
}

/// Makes a directory and those above it, so that they are there after a loss of power.
fn make_directory(path: &Path) -> io::Result<()> {
    let above = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    if !above.is_dir() {
        make_directory(above)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        // Also when it is there: whoever made it may have been stopped before this.
        _ => fs::File::open(above)?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use super::*;

    struct Text(String);

    impl SmallState for Text {
        fn apply(&mut self, command: &[u8]) -> Bytes {
            self.0.push_str(&String::from_utf8_lossy(command));
            Bytes::new()
        }

        fn query(&self, _: &[u8]) -> Result<Bytes, String> {
            Ok(self.0.clone().into())
        }

        fn encode(&self) -> Vec<u8> {
            self.0.clone().into_bytes()
        }

        fn decode(bytes: &[u8]) -> Result<Self, String> {
            String::from_utf8(bytes.to_vec()).map(Self).map_err(|error| error.to_string())
        }

        fn knows(command: &[u8]) -> bool {
            command != b"later"
        }
    }

    fn text(current: &Current<Text>) -> (LogId, &str) {
        (current.applied, &current.state.0)
    }

    fn file() -> Vec<u8> {
        let current = Current { applied: LogId::new(Index(7), Term(2)), state: Text("abc".into()) };
        encode(&current).unwrap().0
    }

    fn command(index: u64, command: &'static [u8]) -> Entry {
        let (id, payload) = (LogId::new(Index(index), Term(1)), raft_core::types::Payload::new(command.into()));
        Entry { id, kind: EntryKind::Command, payload }
    }

    #[test]
    fn the_bytes_stay_the_same() {
        let mut expected = b"rksmall1\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03abc".to_vec();
        expected.extend([0xe1, 0x74, 0xeb, 0x64]);
        assert_eq!(file(), expected);
        assert_eq!(text(&decode(&expected).unwrap()), (LogId::new(Index(7), Term(2)), "abc"));
    }

    #[test]
    fn no_damage_to_the_file_goes_unnoticed() {
        let file = file();
        for end in 0..file.len() {
            assert!(decode::<Text>(&file[..end]).is_err(), "cut to {end} bytes");
        }
        for bit in 0..8 * file.len() {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<Text>(&flipped).is_err(), "bit {bit} flipped");
        }
        assert!(decode::<Text>(&[&file[..], b"x"].concat()).is_err(), "a byte more");
    }

    #[test]
    fn a_damaged_file_is_named_with_the_remedy_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        fs::write(&path, &file()[1..]).unwrap();
        let error = InMemory::open(directory.path(), Text(String::new())).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("put it back"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), &file()[1..]);
    }

    #[test]
    fn a_command_of_a_later_version_stops_before_it_is_applied() {
        let directory = tempfile::tempdir().unwrap();
        let mut machine = InMemory::open(directory.path().join("a/b"), Text(String::new())).unwrap();
        let mut answers = Vec::new();
        let stopped = machine.apply(&[command(1, b"x"), command(2, b"later"), command(3, b"y")], &mut answers);
        assert!(matches!(stopped, Err(ApplyError::UnknownKind { id, .. }) if id.index == Index(2)), "{stopped:?}");
        assert_eq!((machine.applied().index, answers.len()), (Index(1), 1));
        assert_eq!(machine.reader().query(b"").unwrap().bytes, "x");
    }

    #[test]
    fn much_that_was_applied_is_made_durable_by_itself() {
        let directory = tempfile::tempdir().unwrap();
        let mut machine = InMemory::open(directory.path(), Text(String::new())).unwrap();
        let long: &'static [u8] = vec![b'x'; 1 << 20].leak();
        let mut apply = |count: u64| {
            let next = machine.applied().index.next().0;
            let entries: Vec<Entry> = (next..next + count).map(|index| command(index, long)).collect();
            machine.apply(&entries, &mut Vec::new()).unwrap();
            machine.durable().unwrap().0
        };
        assert_eq!([apply(15), apply(1)], [0, 16]);
        // Then four times its size, which is 16 MiB by now.
        assert_eq!([apply(16), apply(16), apply(33)], [16, 16, 81]);
    }

    #[test]
    fn a_flush_that_finds_nothing_new_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut machine = InMemory::open(directory.path(), Text(String::new())).unwrap();
        assert_eq!(machine.flush().unwrap(), Index::ZERO);
        assert!(!directory.path().join(FILE).exists());
        machine.apply(&[command(1, b"x")], &mut Vec::new()).unwrap();
        assert_eq!(machine.flush().unwrap(), Index(1));
        fs::remove_file(directory.path().join(FILE)).unwrap();
        assert_eq!(machine.flush().unwrap(), Index(1));
        assert!(!directory.path().join(FILE).exists());
    }
}
