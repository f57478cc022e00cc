//! What is measured of the disk under the data directory, and what is remembered of its failures: a node whose disk failed
//! ends, most often before anybody has looked at its metrics, so it tells of it after its next start.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, Registry};

/// The note in the data directory.
const NOTE: &str = "FAILED";
/// Its length. It is written over and never grows, so that it needs no room on a disk that is full.
const NOTE_BYTES: usize = 512;

/// The note of the last failure of the disk: one line, the time in seconds since the Unix epoch and what the system said,
/// filled up with spaces. Blank when there was none.
#[derive(Debug)]
pub(crate) struct FailureNote {
    file: Option<File>,
    /// What it said at the start.
    pub(crate) found: Option<(u64, String)>,
}

impl FailureNote {
    /// Opens the note, or makes room for one. A note that cannot be had is no reason to keep a node from starting.
    pub(crate) fn open(data_dir: &Path) -> Self {
        Self::try_open(&data_dir.join(NOTE)).unwrap_or_else(|error| {
            tracing::warn!(%error, "a failure of the disk could not be told after the next start");
            Self { file: None, found: None }
        })
    }

    fn try_open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        (&file).take(NOTE_BYTES as u64).read_to_end(&mut bytes)?;
        if bytes.len() < NOTE_BYTES {
            file.rewind()?;
            file.write_all(&[b' '; NOTE_BYTES])?;
            file.sync_all()?;
        }
        let text = String::from_utf8_lossy(&bytes);
        let found = text.trim().split_once(' ').and_then(|(at, reason)| Some((at.parse().ok()?, reason.to_owned())));
        Ok(Self { file: Some(file), found })
    }

    /// Notes that the disk has failed now. The same disk has to take it, which it may not.
    pub(crate) fn write(&mut self, reason: &str) {
        let Some(file) = &mut self.file else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut line = format!("{now} {}", reason.replace('\n', " ")).into_bytes();
        line.resize(NOTE_BYTES, b' ');
        let written = file.rewind().and_then(|()| file.write_all(&line)).and_then(|()| file.sync_data());
        if let Err(error) = written {
            tracing::warn!(%error, "the failure of the disk could not be noted, since the disk failed");
        }
    }
}

/// Between two looks at the room on the disk.
const SPACE_PERIOD: Duration = Duration::from_secs(5);

/// Room on the disk. A thread of its own measures it: on a volume that is reached over a network the question may
/// hang, and whoever scrapes shall not hang with it. So the figures are as old as the last answer.
struct Space {
    free: IntGauge,
    size: IntGauge,
    /// While nothing was measured there are no figures.
    measured: Arc<AtomicBool>,
    /// The thread ends when this is dropped.
    _lives: SyncSender<()>,
}

impl Space {
    fn watch(path: PathBuf, free: IntGauge, size: IntGauge) -> Self {
        let measured = Arc::new(AtomicBool::new(measure(&path, &free, &size)));
        let (lives, ends) = std::sync::mpsc::sync_channel(0);
        let (thread_free, thread_size, told) = (free.clone(), size.clone(), measured.clone());
        let watch = move || {
            while ends.recv_timeout(SPACE_PERIOD) == Err(RecvTimeoutError::Timeout) {
                told.store(measure(&path, &thread_free, &thread_size), Ordering::Release);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("raft-disk-space".into()).spawn(watch) {
            tracing::warn!(%error, "the room on the disk is measured at the start only");
        }
        Self { free, size, measured, _lives: lives }
    }
}

/// Whether the disk could be asked.
fn measure(path: &Path, free: &IntGauge, size: &IntGauge) -> bool {
    let Ok(found) = rustix::fs::statvfs(path) else { return false };
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(found.f_frsize)).unwrap_or(i64::MAX);
    free.set(bytes(found.f_bavail));
    size.set(bytes(found.f_blocks));
    true
}

impl Collector for Space {
    fn desc(&self) -> Vec<&Desc> {
        [self.free.desc(), self.size.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // A disk that cannot be asked has no figures.
        if !self.measured.load(Ordering::Acquire) {
            return Vec::new();
        }
        [self.free.collect(), self.size.collect()].concat()
    }
}

/// Registers what is measured of the disk, and when it last failed.
pub(crate) fn register(registry: &Registry, data_dir: &Path, note: &FailureNote) -> prometheus::Result<()> {
    let free = IntGauge::new("raft_storage_free_bytes", "Free for this process on the file system of data_dir.")?;
    let size = IntGauge::new("raft_storage_size_bytes", "Size of the file system of data_dir.")?;
    registry.register(Box::new(Space::watch(data_dir.to_owned(), free, size)))?;
    let failed = IntGauge::new(
        "raft_storage_last_failure_timestamp_seconds",
        "When the log's disk failed in an earlier life of this node, in seconds since the Unix epoch; 0 for never.",
    )?;
    failed.set(note.found.as_ref().map_or(0, |(at, _)| i64::try_from(*at).unwrap_or(i64::MAX)));
    registry.register(Box::new(failed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use super::*;

    #[test]
    fn a_failure_is_found_at_the_next_start_and_the_note_never_grows() {
        let directory = tempfile::tempdir().unwrap();
        let length = || std::fs::metadata(directory.path().join(NOTE)).unwrap().len();
        let mut note = FailureNote::open(directory.path());
        assert_eq!((note.found.clone(), length()), (None, NOTE_BYTES as u64));
        for reason in ["Input/output error\n(os error 5)".to_owned(), "x".repeat(2 * NOTE_BYTES)] {
            note.write(&reason);
            note = FailureNote::open(directory.path());
            let (at, found) = note.found.clone().unwrap();
            assert!(at > 1_600_000_000 && reason.replace('\n', " ").starts_with(&found), "{found}");
            assert_eq!(length(), NOTE_BYTES as u64);
        }
        std::fs::write(directory.path().join(NOTE), [0xff; 40]).unwrap();
        assert_eq!(FailureNote::open(directory.path()).found, None, "damage is no note");
    }

    #[test]
    fn the_disk_is_measured() {
        let (registry, directory) = (Registry::new(), tempfile::tempdir().unwrap());
        register(&registry, directory.path(), &FailureNote::open(directory.path())).unwrap();
        let value = |name: &str| {
            let all = registry.gather();
            all.iter().find(|family| family.name() == name).unwrap().get_metric()[0].get_gauge().get_value()
        };
        assert!(value("raft_storage_free_bytes") > 0.0);
        assert!(value("raft_storage_size_bytes") >= value("raft_storage_free_bytes"));
        assert!(value("raft_storage_last_failure_timestamp_seconds").abs() < 0.5);
    }
}
