//! A file on a disk that loses power, fails, fills up and stalls.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use super::{DiskFault, PowerCut};
use crate::random::Random;

/// A file in memory, and the disk that it lies on: for the lab of a store or state machine whose engine lets you put an
/// implementation of your own under its files (redb's `StorageBackend`, SQLite's VFS, an interface of your own).
///
/// What is written may be read at once, and is safe when [`FaultyFile::sync`] has returned. A power cut keeps any part
/// of what was not synced: each write wholly, its first bytes, or nothing of it, independently of the others, and so
/// with each change of the length. Where a write takes the place of bytes that are safe, it tears between two sectors
/// of 512 bytes, as a disk writes them. Every call may be the one inside which the power goes.
///
/// Clones are handles to the same file, as a process has them. Those from before a power cut fail for ever, so what a
/// store that was left behind still writes is lost; [`FaultyFile::reopen`] gives the power back, and a new handle.
///
/// The three methods of a lab that break its disk are one line each:
/// ```
/// use raft_core::testing::{DiskFault, FaultyFile, PowerCut, Random};
///
/// // `fresh` of a lab begins with a new file.
/// let mut file = FaultyFile::new();
/// file.write_at(0, b"safe")?;
/// file.sync()?;
/// file.write_at(4, b", and not")?;
///
/// // `cut_power`: what was synced is there afterwards, and any part of the rest.
/// file.cut_power(PowerCut::Now, &mut Random::new(1));
/// assert!(file.write_at(0, b"late").is_err(), "the power is gone");
/// // `reopen` of a lab begins with this.
/// file = file.reopen();
/// let mut bytes = [0; 4];
/// file.read_at(0, &mut bytes)?;
/// assert_eq!(&bytes, b"safe");
///
/// // `inject` and `mend`.
/// file.inject(DiskFault::Full);
/// assert_eq!(file.write_at(4, b"!").unwrap_err().kind(), std::io::ErrorKind::StorageFull);
/// file.mend();
/// file.write_at(4, b"!")?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Where files are named, made, renamed or deleted, that has to be durable too (a sync of the directory); a single file
/// knows nothing of it.
#[derive(Clone, Default)]
pub struct FaultyFile {
    disk: Arc<Disk>,
    /// How many power cuts the disk had when the handle was made.
    life: u64,
}

#[derive(Debug, Default)]
struct Disk {
    state: Mutex<State>,
    /// Something has changed for who waits in a sync.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What a process reads.
    cached: Vec<u8>,
    /// What is left without power.
    durable: Vec<u8>,
    /// What was changed since the last sync, in order.
    dirty: Vec<Change>,
    fault: Option<DiskFault>,
    /// The power goes at the call of this number from now.
    cut_at: Option<(u64, Random)>,
    life: u64,
    /// Calls that change something since the last sync, and the most that were seen between two.
    calls: u64,
    calls_max: u64,
}

#[derive(Debug)]
enum Change {
    Bytes { at: usize, bytes: Vec<u8> },
    Length(usize),
}

/// Bytes that a disk writes all at once or not at all.
const SECTOR: usize = 512;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

impl FaultyFile {
    /// An empty file on a sound disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The file after a restart of the process: a new handle. Gives the power back if it was gone; a cut that was to
    /// come inside the next call and has not yet comes now.
    #[must_use]
    pub fn reopen(&self) -> Self {
        let mut state = self.disk.lock();
        if let Some((_, mut random)) = state.cut_at.take() {
            state.cut_power(&mut random);
        }
        Self { disk: Arc::clone(&self.disk), life: state.life }
    }

    /// The length in bytes.
    ///
    /// # Errors
    /// When the handle is from before a power cut.
    pub fn len(&self) -> io::Result<u64> {
        let state = self.disk.lock();
        self.check(&state)?;
        Ok(state.cached.len() as u64)
    }

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// As [`FaultyFile::len`].
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `bytes` from the position `at` on.
    ///
    /// # Errors
    /// `EIO` while [`DiskFault::ReadFails`] lasts and when the handle is from before a power cut; `UnexpectedEof` when
    /// the file ends sooner.
    pub fn read_at(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let state = self.disk.lock();
        self.check(&state)?;
        if state.fault == Some(DiskFault::ReadFails) {
            return Err(errno(EIO));
        }
        let from = position(at)?;
        let found = from.checked_add(bytes.len()).and_then(|end| state.cached.get(from..end));
        bytes.copy_from_slice(found.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    /// Puts `bytes` at the position `at`. The file grows if it has to; a gap is filled with zeros.
    ///
    /// # Errors
    /// `ENOSPC` while [`DiskFault::Full`] lasts, also where the file has bytes already: a file system that copies on
    /// write needs space for those too. `EIO` when the power goes or is gone.
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let at = position(at)?;
        position(at.saturating_add(bytes.len()) as u64)?;
        let mut state = self.begin_change()?;
        if state.fault == Some(DiskFault::Full) {
            return Err(errno(ENOSPC));
        }
        let change = Change::Bytes { at, bytes: bytes.to_vec() };
        change.apply(&mut state.cached, bytes.len());
        state.dirty.push(change);
        Ok(())
    }

    /// Cuts the file to this length, or fills it up with zeros.
    ///
    /// # Errors
    /// `ENOSPC` when it would grow while [`DiskFault::Full`] lasts; `EIO` when the power goes or is gone.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        let length = position(length)?;
        let mut state = self.begin_change()?;
        if state.fault == Some(DiskFault::Full) && length > state.cached.len() {
            return Err(errno(ENOSPC));
        }
        let change = Change::Length(length);
        change.apply(&mut state.cached, 0);
        state.dirty.push(change);
        Ok(())
    }

    /// Makes all that was changed before safe: `fsync`. Does not return while [`DiskFault::SyncStalls`] lasts and
    /// there is power.
    ///
    /// # Errors
    /// `EIO` while [`DiskFault::SyncFails`] lasts, and then what it was to save is never saved, though it can be read
    /// and later syncs succeed; `EIO` when the power goes or is gone.
    pub fn sync(&self) -> io::Result<()> {
        let mut state = self.begin_change()?;
        while state.fault == Some(DiskFault::SyncStalls) && state.life == self.life {
            state = self.disk.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.check(&state)?;
        let dirty = std::mem::take(&mut state.dirty);
        if state.fault == Some(DiskFault::SyncFails) {
            return Err(errno(EIO));
        }
        dirty.iter().for_each(|change| change.apply(&mut state.durable, change.length()));
        state.calls = 0;
        Ok(())
    }

    /// Cuts the power. What is kept of what was not synced is drawn from `random`, and for
    /// [`PowerCut::InsideTheNextCall`] also the call of this file at which it goes: somewhere between here and about as
    /// many calls later as there were between two syncs so far.
    pub fn cut_power(&self, when: PowerCut, random: &mut Random) {
        let mut state = self.disk.lock();
        match when {
            PowerCut::Now => state.cut_power(random),
            PowerCut::InsideTheNextCall => {
                let calls = state.calls_max.max(3) + 1;
                state.cut_at = Some((random.below(calls), Random::new(random.next_u64())));
            }
        }
        drop(state);
        self.disk.changed.notify_all();
    }

    /// Breaks the disk in this way, until [`FaultyFile::mend`].
    pub fn inject(&self, fault: DiskFault) {
        self.disk.lock().fault = Some(fault);
    }

    /// Ends [`FaultyFile::inject`].
    pub fn mend(&self) {
        self.disk.lock().fault = None;
        self.disk.changed.notify_all();
    }

    fn check(&self, state: &State) -> io::Result<()> {
        if state.life == self.life { Ok(()) } else { Err(errno(EIO)) }
    }

    /// Every call that changes something begins here; the power may go at any.
    fn begin_change(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.disk.lock();
        self.check(&state)?;
        state.calls += 1;
        state.calls_max = state.calls_max.max(state.calls);
        match state.cut_at.take() {
            Some((0, mut random)) => state.cut_power(&mut random),
            Some((calls, random)) => state.cut_at = Some((calls - 1, random)),
            None => {}
        }
        self.check(&state)?;
        Ok(state)
    }
}

/// Engines print their backends; the bytes would help nobody.
impl fmt::Debug for FaultyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.disk.lock();
        let length = state.cached.len();
        f.debug_struct("FaultyFile").field("length", &length).field("fault", &state.fault).finish_non_exhaustive()
    }
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn cut_power(&mut self, random: &mut Random) {
        for change in std::mem::take(&mut self.dirty) {
            match (random.below(3), change.length()) {
                (0, _) => {}
                // The first bytes of it; a length is changed or not.
                (1, length @ 2..) => {
                    let kept = change.torn(random.below(length as u64) as usize, self.durable.len());
                    change.apply(&mut self.durable, kept);
                }
                (_, length) => change.apply(&mut self.durable, length),
            }
        }
        self.cached.clone_from(&self.durable);
        (self.cut_at, self.calls) = (None, 0);
        self.life += 1;
    }
}

impl Change {
    fn length(&self) -> usize {
        match self {
            Self::Bytes { bytes, .. } => bytes.len(),
            Self::Length(_) => 0,
        }
    }

    /// How many of its first bytes are kept when it tears at `kept`, in a file of `length` bytes.
    fn torn(&self, kept: usize, length: usize) -> usize {
        match self {
            Self::Bytes { at, .. } if at + kept < length => ((at + kept) / SECTOR * SECTOR).saturating_sub(*at),
            _ => kept,
        }
    }

    /// Does it, or the first `kept` bytes of it.
    fn apply(&self, file: &mut Vec<u8>, kept: usize) {
        match self {
            Self::Length(length) => file.resize(*length, 0),
            Self::Bytes { at, bytes } if kept > 0 => {
                let end = at + kept;
                file.resize(file.len().max(end), 0);
                file[*at..end].copy_from_slice(&bytes[..kept]);
            }
            Self::Bytes { .. } => {}
        }
    }
}

/// A position or length that a file in memory can have.
fn position(at: u64) -> io::Result<usize> {
    usize::try_from(at).ok().filter(|at| *at <= isize::MAX as usize).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &FaultyFile) -> Vec<u8> {
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_cut_keeps_what_was_synced_and_any_part_of_the_rest() {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let file = FaultyFile::new();
            file.write_at(0, b"ab").unwrap();
            file.sync().unwrap();
            file.write_at(2, b"cd").unwrap();
            file.write_at(4, b"ef").unwrap();
            file.cut_power(PowerCut::Now, &mut Random::new(seed));
            outcomes.insert(read(&file.reopen()));
        }
        // Each of the two writes whole, torn or gone: nine ways, two of which look alike where zeros fill the gap.
        let texts: Vec<&[u8]> =
            vec![b"ab", b"ab\0\0e", b"ab\0\0ef", b"abc", b"abc\0e", b"abc\0ef", b"abcd", b"abcde", b"abcdef"];
        assert_eq!(outcomes.iter().map(Vec::as_slice).collect::<Vec<_>>(), texts);
    }

    #[test]
    fn bytes_that_were_safe_are_replaced_by_whole_sectors() {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let file = FaultyFile::new();
            file.write_at(0, &[b'a'; 1500]).unwrap();
            file.sync().unwrap();
            file.write_at(100, &[b'b'; 1300]).unwrap();
            file.cut_power(PowerCut::Now, &mut Random::new(seed));
            outcomes.insert(read(&file.reopen()).iter().filter(|byte| **byte == b'b').count());
        }
        assert_eq!(outcomes, [0, 412, 924, 1300].into());
    }

    #[test]
    fn a_cut_inside_the_next_call_comes_at_any_call_or_at_the_restart() {
        let mut survived = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let file = FaultyFile::new();
            file.cut_power(PowerCut::InsideTheNextCall, &mut Random::new(seed));
            let calls = (0..10).take_while(|at| file.write_at(*at, b"x").is_ok()).count();
            survived.insert(calls);
            assert!(file.len().is_err() && file.sync().is_err(), "the handle outlives its power");
            assert!(file.reopen().sync().is_ok());
        }
        assert_eq!(survived, (0..4).collect());

        let file = FaultyFile::new();
        file.cut_power(PowerCut::InsideTheNextCall, &mut Random::new(1));
        let again = file.reopen();
        assert!(file.sync().is_err(), "the cut that was due was left out");
        assert!(again.sync().is_ok());
    }

    #[test]
    fn what_a_failed_sync_was_to_save_can_be_read_and_is_gone_after_a_cut() {
        let file = FaultyFile::new();
        file.write_at(0, b"gone").unwrap();
        file.inject(DiskFault::SyncFails);
        assert!(file.sync().is_err());
        file.mend();
        file.sync().unwrap();
        assert_eq!(read(&file), b"gone");
        file.cut_power(PowerCut::Now, &mut Random::new(1));
        assert!(file.reopen().is_empty().unwrap());
    }

    #[test]
    fn a_stalled_sync_ends_with_the_fault_or_with_the_power() {
        for mended in [true, false] {
            let file = FaultyFile::new();
            file.write_at(0, b"x").unwrap();
            file.inject(DiskFault::SyncStalls);
            let syncing = file.clone();
            let thread = std::thread::Builder::new().spawn(move || syncing.sync().is_ok()).unwrap();
            if mended {
                file.mend();
            } else {
                file.cut_power(PowerCut::Now, &mut Random::new(1));
            }
            assert_eq!(thread.join().unwrap(), mended);
        }
    }

    #[test]
    fn lengths_come_and_go_and_faults_are_named() {
        let file = FaultyFile::new();
        file.set_len(3).unwrap();
        assert_eq!(read(&file), [0; 3]);
        file.inject(DiskFault::Full);
        assert_eq!(file.set_len(4).unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.set_len(1).unwrap();
        file.inject(DiskFault::ReadFails);
        assert!(file.read_at(0, &mut [0]).is_err());
        file.mend();
        assert_eq!(file.read_at(1, &mut [0]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(file.read_at(u64::MAX, &mut [0]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(file.write_at(isize::MAX as u64, &[0]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
