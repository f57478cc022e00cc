//! A disk with one file, which can lose power, fail, fill up and stall.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard};

use raft_core::testing::{DiskFault, Random};

/// A file and the disk that it lies on.
#[derive(Default)]
pub(super) struct Device {
    file: Mutex<File>,
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct File {
    /// What a process reads.
    cached: Vec<u8>,
    /// What is left without power.
    durable: Vec<u8>,
    /// Bytes that were written since the last sync, and where.
    dirty: Vec<(usize, Vec<u8>)>,
    pub(super) fault: Option<DiskFault>,
    /// The power goes at the call of this number from now.
    pub(super) cut_at: Option<(u64, Random)>,
    without_power: bool,
}

pub(super) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

pub(super) const EIO: i32 = 5;
pub(super) const ENOSPC: i32 = 28;

impl File {
    pub(super) fn cut_power(&mut self, random: &mut Random) {
        // Any part of what is not safe: each write or none of it, or its first bytes.
        for (at, bytes) in std::mem::take(&mut self.dirty) {
            let kept = match random.below(3) {
                0 => 0,
                1 => bytes.len(),
                _ => random.below(bytes.len() as u64 + 1) as usize,
            };
            put(&mut self.durable, at, &bytes[..kept]);
        }
        self.without_power = true;
        self.cut_at = None;
    }

    /// Every call on the file begins here.
    fn call(&mut self) -> io::Result<()> {
        match self.cut_at.take() {
            Some((0, mut random)) => self.cut_power(&mut random),
            Some((calls, random)) => self.cut_at = Some((calls - 1, random)),
            None => {}
        }
        if self.without_power { Err(errno(EIO)) } else { Ok(()) }
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if !bytes.is_empty() {
        file.resize(file.len().max(at + bytes.len()), 0);
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl Device {
    pub(super) fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap()
    }

    /// Gives the power back, if it was gone.
    pub(super) fn switch_on(&self) {
        let mut file = self.file();
        if let Some((_, mut random)) = file.cut_at.take() {
            file.cut_power(&mut random);
        }
        if std::mem::take(&mut file.without_power) {
            file.cached = file.durable.clone();
        }
    }

    pub(super) fn write(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.file();
        file.call()?;
        if file.fault == Some(DiskFault::Full) {
            return Err(errno(ENOSPC));
        }
        put(&mut file.cached, at, bytes);
        file.dirty.push((at, bytes.to_vec()));
        Ok(())
    }

    /// Cuts the file to this length, at once and durably, for the sake of a small model.
    pub(super) fn truncate(&self, length: usize) -> io::Result<()> {
        let mut file = self.file();
        file.call()?;
        file.cached.truncate(length);
        file.durable.truncate(length);
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        let mut file = self.file();
        file.call()?;
        while file.fault == Some(DiskFault::SyncStalls) && !file.without_power {
            file = self.changed.wait(file).unwrap();
        }
        if file.without_power {
            return Err(errno(EIO));
        }
        let dirty = std::mem::take(&mut file.dirty);
        if file.fault == Some(DiskFault::SyncFails) {
            return Err(errno(EIO));
        }
        dirty.into_iter().for_each(|(at, bytes)| put(&mut file.durable, at, &bytes));
        Ok(())
    }

    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let file = self.file();
        if file.fault == Some(DiskFault::ReadFails) { Err(errno(EIO)) } else { Ok(file.cached.clone()) }
    }
}

impl Device {
    pub(super) fn sync_if(&self, wanted: bool) -> io::Result<()> {
        if wanted { self.sync() } else { Ok(()) }
    }
}
