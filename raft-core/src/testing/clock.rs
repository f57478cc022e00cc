//! The clocks of a simulated machine.

use std::time::Duration;

use crate::event::Now;

/// A clock that showed `local` at `true_time`, and stands still until then. In nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Hand {
    local: u64,
    true_time: u64,
}

impl Hand {
    fn read(self, rate: u64, now: u64) -> Duration {
        Duration::from_nanos(self.local + now.saturating_sub(self.true_time) * rate / 1_000)
    }

    /// When it will show `time`.
    fn when(self, rate: u64, time: Duration) -> u64 {
        self.true_time.saturating_add(nanos(time).saturating_sub(self.local).saturating_mul(1_000).div_ceil(rate))
    }

    /// It shows what it shows now until `until`, and goes on then.
    fn stand_still(&mut self, rate: u64, now: u64, until: u64) {
        *self = Self { local: nanos(self.read(rate, now)), true_time: until };
    }
}

/// As a number, as large as it gets.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The two clocks of a machine, at a rate of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Thousandths of true time.
    pub(super) rate: u64,
    monotonic: Hand,
    boottime: Hand,
}

impl Clock {
    /// At true time zero both show `local` nanoseconds.
    pub(super) fn new(rate: u64, local: u64) -> Self {
        let hand = Hand { local, true_time: 0 };
        Self { rate, monotonic: hand, boottime: hand }
    }

    pub(super) fn read(&self, now: u64) -> Now {
        Now { monotonic: self.monotonic.read(self.rate, now), boottime: self.boottime.read(self.rate, now) }
    }

    /// When the one that never runs ahead will show `deadline`.
    pub(super) fn when(&self, deadline: Duration) -> u64 {
        self.monotonic.when(self.rate, deadline)
    }

    /// When the one that goes on while the machine sleeps will show `time`.
    pub(super) fn when_boottime(&self, time: Duration) -> u64 {
        self.boottime.when(self.rate, time)
    }

    /// Both stand still from now until `until`, as those of a guest that is paused.
    pub(super) fn stand_still(&mut self, now: u64, until: u64) {
        self.sleep(now, until);
        self.boottime.stand_still(self.rate, now, until);
    }

    /// The machine sleeps from now until `until`.
    pub(super) fn sleep(&mut self, now: u64, until: u64) {
        self.monotonic.stand_still(self.rate, now, until);
    }

    /// From now on it runs at another rate.
    pub(super) fn run_at(&mut self, rate: u64, now: u64) {
        self.stand_still(now, now);
        self.rate = rate;
    }
}
