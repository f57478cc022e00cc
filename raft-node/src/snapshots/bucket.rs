//! The byte rate that all transfers of a node share.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raft_core::ports::SnapshotError;

/// Nobody sleeps longer at a time, so that a stop is seen soon.
const NAP_MAX: Duration = Duration::from_millis(50);
/// What was not used for so long is forgotten: a rest is followed by no burst.
const BURST: Duration = Duration::from_millis(20);

/// A token bucket: whoever takes bytes waits until it is their turn.
#[derive(Debug)]
pub(crate) struct Bucket {
    bytes_per_second: u64,
    /// When all that was taken is paid for.
    paid_at: Mutex<Option<Instant>>,
}

impl Bucket {
    /// With a rate of 0 nobody waits.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, paid_at: Mutex::new(None) }
    }

    /// When a taker of so many bytes may go on.
    fn turn(&self, bytes: u64, now: Instant) -> Instant {
        let mut paid_at = self.paid_at.lock();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let turn = paid_at.map_or(earliest, |paid| paid.max(earliest));
        let price = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        *paid_at = Some(turn + price);
        turn
    }

    /// Waits for so many bytes.
    ///
    /// # Errors
    /// When `stopped` says so meanwhile.
    pub(crate) fn take(&self, bytes: u64, stopped: impl Fn() -> bool) -> Result<(), SnapshotError> {
        let turn = if self.bytes_per_second == 0 { None } else { Some(self.turn(bytes, Instant::now())) };
        loop {
            if stopped() {
                return Err(SnapshotError::Abandoned("the transfer is over".into()));
            }
            let left = turn.map_or(Duration::ZERO, |turn| turn.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NAP_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_at_the_rate_and_a_rest_gives_no_burst() {
        let bucket = Bucket::new(1000);
        let begun = Instant::now();
        let first = bucket.turn(500, begun);
        assert!(first <= begun);
        let second = bucket.turn(500, begun);
        assert_eq!(second - first, Duration::from_millis(500));
        assert_eq!(bucket.turn(1000, begun) - second, Duration::from_millis(500));
        let later = begun + Duration::from_secs(60);
        assert_eq!(later - bucket.turn(1, later), BURST);
    }

    #[test]
    fn without_a_rate_nobody_waits_and_a_stop_ends_the_waiting() {
        let free = Bucket::new(0);
        assert_eq!(free.take(u64::MAX, || false), Ok(()));
        let slow = Bucket::new(1);
        assert_eq!(slow.take(1 << 40, || false), Ok(()), "the first one does not wait");
        let looks = std::cell::Cell::new(0);
        let stopped = || {
            looks.set(looks.get() + 1);
            looks.get() > 2
        };
        assert!(matches!(slow.take(1, stopped), Err(SnapshotError::Abandoned(_))));
    }
}
