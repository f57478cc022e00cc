//! A directory whose disk the labs of the port suites can break: in a process under the preload library, which records
//! what is written and synced there and fails or holds calls by a plan.

// A test that cannot set itself up has to stop at once; no test binary uses everything here.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use raft_core::testing::{DiskFault, Effort, PowerCut, Random, Summary};

use crate::preload::{Disk, DiskLab, Image, Record, replace_plan};

/// A frame of the record begins with the length of its payload.
const FRAME_HEADER: usize = 32;

/// Runs the test `name` of this binary again, in a process of its own under the library. What it prints shows when this one
/// fails, or is not captured: it is much.
pub(crate) fn run_under_the_library(name: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let output = DiskLab::new(scratch.path()).child(name).stdin(Stdio::null()).output().unwrap();
    eprint!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let status = output.status;
    assert!(status.success(), "the test `{name}`, run under the preload library, ended with {status}; see above");
}

/// Whether this process is the one under the library; a test that needs it returns at once in any other.
pub(crate) fn is_under_the_library() -> bool {
    std::env::var_os("RAFT_DISK_ROOT").is_some()
}

/// The numbers of a run, as reports want them: cases, operations, cuts, other faults.
pub(crate) fn counts(summary: &Summary) -> [(&'static str, u64); 4] {
    let work = summary.work();
    let cases = summary.held().len() as u64;
    [("cases", cases), ("operations", work.operations), ("power-cuts", work.cuts), ("other-faults", work.faults)]
}

/// How long random cases run: `RAFT_SUITE_SEEDS` seeds, if it is set, from `RAFT_SUITE_SEED` on.
pub(crate) fn effort(seeds: u64, steps: u64, rounds: u64) -> Effort {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse::<u64>().unwrap());
    let first = number("RAFT_SUITE_SEED").unwrap_or(0);
    Effort { seeds: first..first + number("RAFT_SUITE_SEEDS").unwrap_or(seeds), steps, rounds }
}

/// A directory on a disk that breaks when it is told to.
pub(crate) struct FaultyDirectory {
    root: PathBuf,
    record: PathBuf,
    control: PathBuf,
    /// What was on the disk when the record was last begun anew; nobody had the directory open then.
    base: Disk,
    /// How the names of RocksDB's directories in it begin. RocksDB relies on what ext4 and XFS keep: names are lost from the
    /// end, and a file does not grow before its bytes are there.
    database: &'static str,
    /// How many directories were made before this one; the one before it may still be in use.
    number: u64,
    cut: Option<Cut>,
    /// Files that cannot be read now, with what they hold.
    unreadable: BTreeMap<PathBuf, Vec<u8>>,
}

/// A moment at which the power went, as bytes of the record.
struct Cut {
    earliest: usize,
    /// The end of the record when the directory is opened again, if nothing else is said.
    latest: Option<usize>,
    random: Random,
}

impl FaultyDirectory {
    /// Only in a process under the library.
    pub(crate) fn new(database: &'static str) -> Self {
        let path = |name: &str| PathBuf::from(std::env::var_os(name).unwrap());
        let mut directory = Self {
            root: path("RAFT_DISK_ROOT"),
            record: path("RAFT_DISK_RECORD"),
            control: path("RAFT_DISK_CONTROL"),
            base: Disk::empty(),
            database,
            number: 0,
            cut: None,
            unreadable: BTreeMap::new(),
        };
        directory.clear();
        directory
    }

    /// Its name stays over power cuts.
    fn name(&self) -> String {
        format!("store{}", self.number)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.root.join(self.name())
    }

    /// Makes it new and empty.
    pub(crate) fn clear(&mut self) {
        self.mend();
        self.cut = None;
        if let Some(old) = self.number.checked_sub(1) {
            remove(&self.root.join(format!("store{old}")));
        }
        self.number += 1;
        remove(&self.path());
        fs::create_dir(self.path()).unwrap();
        self.begin_record(Disk::of_directory(&self.root));
    }

    fn begin_record(&mut self, base: Disk) {
        OpenOptions::new().write(true).open(&self.record).unwrap().set_len(0).unwrap();
        self.base = base;
    }

    pub(crate) fn cut_power(&mut self, when: PowerCut, random: &mut Random) {
        let now = fs::metadata(&self.record).unwrap().len() as usize;
        let latest = (when == PowerCut::Now).then_some(now);
        self.cut = Some(Cut { earliest: now, latest, random: Random::new(random.next_u64()) });
    }

    /// Before it is opened again: gives the power back, if it was cut. Nobody may have it open.
    pub(crate) fn settle(&mut self) {
        let Some(mut cut) = self.cut.take() else { return };
        let mut image = self.image_of(&mut cut);
        let (name, below) = (self.name(), format!("{}/", self.name()));
        image.directories.retain(|path| *path == name || path.starts_with(&below));
        image.files.retain(|path, _| path.starts_with(&below));
        // Shown when the test fails.
        eprintln!("the power was cut: {}", image.story);
        remove(&self.path());
        image.write_to(&self.root);
        fs::create_dir_all(self.path()).unwrap();
        self.begin_record(Disk::of_image(&image));
    }

    fn image_of(&self, cut: &mut Cut) -> Image {
        let bytes = fs::read(&self.record).unwrap();
        let mut ends = vec![0];
        while let Some(length) = bytes.get(ends[ends.len() - 1]..).and_then(|rest| rest.first_chunk::<4>()) {
            ends.push(ends[ends.len() - 1] + FRAME_HEADER + u32::from_le_bytes(*length) as usize);
        }
        let frames_before = |moment: usize| ends.iter().rposition(|end| *end <= moment).unwrap();
        let earliest = frames_before(cut.earliest);
        let latest = frames_before(cut.latest.unwrap_or(bytes.len()));
        let moment = earliest + cut.random.below((latest - earliest) as u64 + 1) as usize;
        let mut disk = self.base.clone();
        disk.keep_order_below(&format!("{}/{}", self.name(), self.database));
        let record = Record::load(&self.record);
        record.events()[..moment].iter().for_each(|event| disk.apply(event));
        disk.image(&mut cut.random)
    }

    pub(crate) fn inject(&mut self, fault: DiskFault) {
        let plan = match fault {
            DiskFault::SyncFails => "sync:*:1+:eio;dirsync:*:1+:eio",
            DiskFault::Full => "write:*:1+:enospc;create:*:1+:enospc;truncate:*:1+:enospc",
            DiskFault::SyncStalls => "sync:*:1+:stall;dirsync:*:1+:stall",
            DiskFault::ReadFails => return self.hide_tables(),
            other => panic!("{other:?} is new: let the preload library cause it"),
        };
        replace_plan(&self.control, plan);
    }

    /// The library does not see reads. So the tables lose their bytes for a while, under the eyes of who has them open.
    fn hide_tables(&mut self) {
        for path in files_below(&self.path()).into_iter().filter(|path| path.extension().is_some_and(|it| it == "sst"))
        {
            self.unreadable.insert(path.clone(), fs::read(&path).unwrap());
            OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
        }
    }

    pub(crate) fn mend(&mut self) {
        replace_plan(&self.control, "");
        for (path, bytes) in std::mem::take(&mut self.unreadable) {
            OpenOptions::new().write(true).open(path).unwrap().write_all_at(&bytes, 0).unwrap();
        }
    }
}

fn remove(path: &Path) {
    if path.exists() {
        fs::remove_dir_all(path).unwrap();
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(files_below(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

/// Copies a directory with all that is in it to where nothing is.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in files_below(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        File::create(target).unwrap().write_all_at(&fs::read(file).unwrap(), 0).unwrap();
    }
}
