//! The store's lab: redb on a file in memory that can break.

use std::io;

use log_redb::{DataFile, RedbStore};
use raft_core::ports::LogStore;
use raft_core::testing::log_store_suite::LogStoreLab;
use raft_core::testing::{DiskFault, FaultyFile, PowerCut, Random};
use redb::StorageBackend;

/// The seam between redb and its file.
#[derive(Debug)]
pub(crate) struct Backend(pub(crate) FaultyFile);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

/// How the store is opened on the file.
pub(crate) type Open = fn(FaultyFile) -> Box<dyn LogStore>;

pub(crate) fn sound(file: FaultyFile) -> Box<dyn LogStore> {
    Box::new(RedbStore::new(&DataFile::open_with(Backend(file)).unwrap()))
}

pub(crate) struct RedbLab {
    file: FaultyFile,
    open: Open,
}

impl RedbLab {
    pub(crate) fn new(open: Open) -> Self {
        Self { file: FaultyFile::new(), open }
    }
}

impl LogStoreLab for RedbLab {
    fn fresh(&mut self) -> Box<dyn LogStore> {
        self.file = FaultyFile::new();
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn LogStore> {
        self.file = self.file.reopen();
        (self.open)(self.file.clone())
    }

    fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
        self.file.cut_power(when, random);
        true
    }

    fn inject(&mut self, fault: DiskFault) -> bool {
        self.file.inject(fault);
        true
    }

    fn mend(&mut self) {
        self.file.mend();
    }
}
