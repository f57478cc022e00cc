//! The clock of the driver.

use std::time::{Duration, Instant};

use raft_core::replica::Now;

/// Reads the monotonic clock as time since the node was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// What the clock says now. Read it after an event was taken, never before.
    pub(crate) fn now(&self) -> Now {
        Now::at(self.origin.elapsed())
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
