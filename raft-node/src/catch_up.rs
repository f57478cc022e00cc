//! How fast entries are sent to followers that are behind.
//!
//! A follower that was away, or that has just installed a snapshot, takes what it misses as fast as it comes: it writes,
//! syncs and applies at the speed of its disk and of its cores, and the leader reads and encrypts as much. On a small
//! machine, or on a disk that others use too, that is time that the puts of everybody else wait for. So what is sent to it
//! has a rate: far above what is written meanwhile, and no faster than need be.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raft_core::types::{Entry, Index};

/// What may be sent in a second, at least.
const PRICE_PER_SECOND: u64 = 16 << 20;
/// An entry costs its bytes and this: small ones cost a follower far more than their bytes.
const ENTRY_PRICE: u64 = 4 << 10;
/// How often it is looked how much is written.
const WINDOW: Duration = Duration::from_secs(1);
/// When entries wait for so long to be committed, they may wait for those who are behind: then nothing holds these back.
const LATE: Duration = Duration::from_millis(250);
/// No follower waits longer for its next entries, nor longer than half the time between two heartbeats: when it has answered
/// two of them without having got any, the leader takes them for lost.
const WAIT_MAX: Duration = Duration::from_millis(20);

/// What an entry or many of them cost.
pub(crate) fn price(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.size() + ENTRY_PRICE).sum()
}

/// See the module.
#[derive(Debug)]
pub(crate) struct CatchUp {
    /// The price of all that was written here so far.
    written: AtomicU64,
    pace: Mutex<Pace>,
}

impl CatchUp {
    pub(crate) fn new(now: Instant, heartbeat_interval: Duration) -> Self {
        Self { written: AtomicU64::new(0), pace: Mutex::new(Pace::new(now, heartbeat_interval)) }
    }

    /// Notes what is written to the log of this node.
    pub(crate) fn writes(&self, entries: &[Entry]) {
        self.written.fetch_add(price(entries), Ordering::Relaxed);
    }

    /// How long to wait before entries of this price are sent to one of so many followers that are behind, when the log
    /// is committed up to `commit` and ends with `last`.
    pub(crate) fn wait(&self, price: u64, followers: usize, commit: Index, last: Index) -> Duration {
        let look = Look { now: Instant::now(), written: self.written.load(Ordering::Relaxed), commit, last };
        self.pace.lock().wait(price, followers, look)
    }
}

/// What is known at a moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    now: Instant,
    written: u64,
    commit: Index,
    last: Index,
}

#[derive(Debug)]
struct Pace {
    /// When it was last looked how much is written, and how much it was.
    looked: (Instant, u64),
    /// Price per second of what is written; none while nothing is that could be in a hurry.
    written: Option<u64>,
    /// Where the log ended a while ago, and when.
    end: (Instant, Index),
    /// Whether what it ended with was committed in time.
    late: bool,
    /// When all that was sent is paid for.
    paid_at: Instant,
    wait_max: Duration,
}

impl Pace {
    fn new(now: Instant, heartbeat_interval: Duration) -> Self {
        let wait_max = WAIT_MAX.min(heartbeat_interval / 2);
        Self { looked: (now, 0), written: None, end: (now, Index::ZERO), late: false, paid_at: now, wait_max }
    }

    fn wait(&mut self, price: u64, followers: usize, look: Look) -> Duration {
        self.look(look);
        let now = look.now;
        let Some(written) = self.written.filter(|_| !self.late) else {
            self.paid_at = now;
            return Duration::ZERO;
        };
        // Each gets what is written meanwhile, in turns, and all together as much once more: so each comes nearer.
        let shares = u32::try_from(followers.max(1)).unwrap_or(u32::MAX);
        let rate = written.saturating_mul(u64::from(shares) + 1).max(PRICE_PER_SECOND);
        let most = self.wait_max / shares;
        let wait = self.paid_at.saturating_duration_since(now).min(most);
        self.paid_at = now + wait + Duration::from_secs_f64(price as f64 / rate as f64);
        wait
    }

    fn look(&mut self, Look { now, written, commit, last }: Look) {
        let since = now.saturating_duration_since(self.looked.0);
        if since >= WINDOW {
            let written_now = written.saturating_sub(self.looked.1);
            let per_second = (written_now as f64 / since.as_secs_f64()) as u64;
            self.written = (written_now > 0).then_some(per_second);
            self.looked = (now, written);
        }
        if now.saturating_duration_since(self.end.0) >= LATE {
            self.late = commit < self.end.1;
            self.end = (now, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_millis(40);

    /// A cluster that writes so much a second and commits it `lag` entries later: the price that goes to those who are behind
    /// within a second, after some seconds, in pieces of so much.
    fn sent_in_a_second(written_per_second: u64, piece: u64, lag: u64, followers: usize) -> u64 {
        let begin = Instant::now();
        let mut pace = Pace::new(begin, HEARTBEAT);
        let (mut now, mut sent) = (begin, 0);
        let (from, to) = (begin + Duration::from_secs(4), begin + Duration::from_secs(5));
        while now < to {
            let seconds = now.duration_since(begin).as_secs_f64();
            let written = (seconds * written_per_second as f64) as u64;
            let last = Index(1000 + written / 1000);
            let look = Look { now, written, commit: Index(last.0.saturating_sub(lag)), last };
            now += pace.wait(piece, followers, look);
            sent += if now >= from { piece } else { 0 };
            // The reading of it.
            now += Duration::from_micros(100);
        }
        sent
    }

    #[test]
    fn what_is_sent_has_a_rate_and_it_is_above_what_is_written() {
        let near = |sent: u64, rate: u64| (rate * 9 / 10..=rate * 11 / 10).contains(&sent);
        let piece = 256 << 10;
        let sent = sent_in_a_second(1 << 20, piece, 0, 1);
        assert!(near(sent, PRICE_PER_SECOND), "{sent}");
        for followers in 1..5 {
            let sent = sent_in_a_second(100 << 20, piece, 0, followers);
            assert!(near(sent, (followers as u64 + 1) * (100 << 20)), "{sent}: each gets more than what is written");
        }
    }

    #[test]
    fn where_nothing_is_written_or_commits_wait_nobody_is_held_back() {
        let piece = 256 << 10;
        let free = 10_000 * piece;
        assert_eq!(sent_in_a_second(0, piece, 0, 1), free);
        // Entries of more than a quarter of a second are not committed: perhaps because whoever is behind is needed.
        assert_eq!(sent_in_a_second(1 << 20, piece, 600, 1), free);
    }

    #[test]
    fn no_follower_waits_so_long_that_its_entries_are_taken_for_lost() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin, HEARTBEAT);
        let mut look = Look { now: begin, written: 0, commit: Index(1), last: Index(1) };
        pace.wait(1, 1, look);
        look.now += WINDOW;
        look.written = 1;
        // A second's worth at once.
        pace.wait(PRICE_PER_SECOND, 1, look);
        assert_eq!(pace.wait(PRICE_PER_SECOND, 1, look), WAIT_MAX);
        assert_eq!(pace.wait(PRICE_PER_SECOND, 4, look), WAIT_MAX / 4);
        assert_eq!(Pace::new(begin, Duration::from_millis(10)).wait_max, Duration::from_millis(5));
    }
}
