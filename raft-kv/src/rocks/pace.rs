//! How fast a database that was just restored is compacted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Bytes of rows a second, over all compactions. Far below what a disk can do. Where more than that is written meanwhile,
/// files gather in level 0 and nothing is held back any more, see [`Database::look_at_pace`](super::database::Database).
const BYTES_PER_SECOND: u64 = 24 << 20;
/// Rows are counted, and time is looked at after so many bytes of them.
const STRIDE_BYTES: u64 = 256 << 10;
/// The longest sleep: a close of the database waits for it.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// Holds back the compactions of a database that came from a snapshot.
///
/// A snapshot is taken in the middle of writes, so its database may be owed a rewriting of most of its files, which
/// RocksDB begins at once and does as fast as the disk can. Just then the node has caught up, and its log, or that of a
/// neighbour on the same disk, has to be synced at every write. Once nothing is owed any more, or once files gather in
/// level 0, so that soon writes would have to wait for compactions, they run free for ever.
///
/// It works from within the compaction filters, since RocksDB's own limit cannot be lifted in an open database.
#[derive(Debug)]
pub(super) struct Pace {
    free: AtomicBool,
    /// Bytes since time was looked at.
    counted: AtomicU64,
    /// From when on the next stride may begin.
    next: Mutex<Instant>,
    /// Compactions that wait for it.
    sleepers: AtomicU64,
}

impl Pace {
    /// For a database that was not just restored.
    pub(super) fn free() -> Self {
        Self {
            free: AtomicBool::new(true),
            counted: AtomicU64::new(0),
            next: Mutex::new(Instant::now()),
            sleepers: AtomicU64::new(0),
        }
    }

    pub(super) fn held_back() -> Self {
        Self { free: AtomicBool::new(false), ..Self::free() }
    }

    pub(super) fn is_free(&self) -> bool {
        self.free.load(Ordering::Relaxed)
    }

    pub(super) fn let_go(&self) {
        self.free.store(true, Ordering::Relaxed);
    }

    /// Called by a compaction that has come to a row of so many bytes; it may sleep.
    pub(super) fn row(&self, bytes: usize) {
        if self.is_free() {
            return;
        }
        let bytes = bytes as u64;
        if self.counted.fetch_add(bytes, Ordering::Relaxed) + bytes < STRIDE_BYTES {
            return;
        }
        let due = self.after(self.counted.swap(0, Ordering::Relaxed), Instant::now());
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        loop {
            let ahead = due.saturating_duration_since(Instant::now());
            if ahead.is_zero() || self.is_free() {
                break;
            }
            thread::sleep(ahead.min(SLEEP_MAX));
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn sleepers(&self) -> u64 {
        self.sleepers.load(Ordering::Relaxed)
    }

    /// Makes the next row of some size wait for as long as so many bytes take.
    #[cfg(test)]
    pub(super) fn spend_for_tests(&self, bytes: u64) {
        self.after(bytes, Instant::now());
    }

    /// When whoever has spent so many bytes may go on. Time in which nothing was spent is not saved up.
    fn after(&self, bytes: u64, now: Instant) -> Instant {
        let mut next = self.next.lock();
        *next = (*next).max(now) + Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND as f64);
        *next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_over_all_compactions_and_rest_is_not_saved_up() {
        let pace = Pace::held_back();
        let now = Instant::now() + Duration::from_secs(1);
        assert_eq!(pace.after(BYTES_PER_SECOND, now), now + Duration::from_secs(1));
        assert_eq!(pace.after(BYTES_PER_SECOND / 2, now), now + Duration::from_millis(1500));
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.after(BYTES_PER_SECOND / 4, later), later + Duration::from_millis(250));
    }

    #[test]
    fn whoever_is_let_go_sleeps_no_more() {
        let pace = Pace::held_back();
        // It would sleep for days.
        pace.spend_for_tests(1 << 50);
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| pace.row(1 << 20));
            pace.let_go();
            sleeper.join()
        })
        .expect("it ends");
    }
}
