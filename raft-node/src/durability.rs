//! How much of what is applied would be there after a loss of power: the log is compacted no further.

use std::time::{Duration, Instant};

use raft_core::ports::{ApplyError, StateMachine};
use raft_core::types::Index;

use crate::shared::Shared;

/// The state machine is asked at least this often while it applies: each time it may read its disk.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// And after so many bytes of entries.
const LOOK_BYTES: u64 = 64 << 20;

/// When the state machine was last asked, and what it said.
#[derive(Debug)]
pub(crate) struct Durability {
    durable: Index,
    looked_at: Instant,
    bytes_since: u64,
}

impl Durability {
    /// Nothing is known yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { durable: Index::ZERO, looked_at: now, bytes_since: 0 }
    }

    /// Notes that so many bytes of entries were applied.
    pub(crate) fn applied(&mut self, bytes: u64) {
        self.bytes_since = self.bytes_since.saturating_add(bytes);
    }

    /// Notes that a restored state is durable up to here.
    pub(crate) fn restored(&mut self, last: Index) {
        self.durable = self.durable.max(last);
    }

    /// What is durable now, by the state machine's word of a moment ago. When the log has grown well beyond its bound
    /// and could not be cut because the state lags, the state is made durable.
    ///
    /// # Errors
    /// When the state's storage fails.
    pub(crate) fn look(
        &mut self,
        machine: &mut dyn StateMachine,
        applied: Index,
        shared: &Shared,
    ) -> Result<Index, ApplyError> {
        let pressed = log_is_pressed(shared, self.durable);
        if !pressed && self.bytes_since < LOOK_BYTES && self.looked_at.elapsed() < LOOK_INTERVAL {
            return Ok(self.durable);
        }
        let mut durable = machine.durable()?;
        if pressed && log_is_pressed(shared, durable) {
            durable = machine.flush()?;
        }
        // What is told is told of entries that were told as applied.
        self.durable = self.durable.max(durable.min(applied));
        self.looked_at = Instant::now();
        self.bytes_since = 0;
        Ok(self.durable)
    }
}

/// Whether the log is a quarter longer than it is to be, and could not be cut behind `durable` to what it is to keep. A
/// state that makes itself durable in time never lets it come so far.
fn log_is_pressed(shared: &Shared, durable: Index) -> bool {
    let view = shared.view();
    let status = &view.status;
    let config = &shared.config.raft;
    let entries = (status.last.index.0 + 1).saturating_sub(status.first_index.0);
    let over = |held: u64, max: u64| held > max.saturating_add(max / 4);
    let too_long = over(status.log_bytes, config.retain_bytes_max) || over(entries, config.retain_entries_max);
    // Three quarters of the bound are kept, so what was applied in the last half of that need not be durable.
    let behind = status.last.index.since(durable);
    too_long && behind > entries / 2
}
