//! The clocks of the driver.

use std::time::{Duration, Instant};

use raft_core::replica::Now;
use rustix::time::{ClockId, clock_gettime};

/// Reads both clocks as time since the node was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
    boot_origin: Duration,
}

/// The clock that goes on while the machine sleeps, since the machine was started. Where a system has none the monotonic
/// one takes its place; holders of read leases must not rely on it there if that one stands still in sleep.
fn boottime() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = ClockId::Monotonic;
    // Neither says anything before the start of the machine.
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now(), boot_origin: boottime() }
    }

    /// What the clocks say now. Read it after an event was taken, never before.
    pub(crate) fn now(&self) -> Now {
        Now { monotonic: self.origin.elapsed(), boottime: boottime().saturating_sub(self.boot_origin) }
    }

    /// An instant in the replica's terms.
    pub(crate) fn at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.origin)
    }

    /// An instant in the system's terms; far in the future when it is beyond what the system can name.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        const FAR: Duration = Duration::from_secs(86_400);
        self.origin.checked_add(at).unwrap_or_else(|| Instant::now() + FAR)
    }
}
