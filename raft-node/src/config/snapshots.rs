//! The settings of snapshots and of the log's bounds.

use raft_core::config::ConfigError;

use super::settings::{Reader, Settings};
use super::value::Value;
use crate::snapshots::SnapshotConfig;

/// Less than a few batches of the log cannot be a bound.
const LOG_BYTES_MIN: u64 = 1 << 20;

impl Reader<'_> {
    pub(super) fn snapshot(&self) -> SnapshotConfig {
        SnapshotConfig {
            interval_entries: self.number("snapshot.interval_entries"),
            interval_bytes: self.number("snapshot.interval_bytes"),
            interval: match self.layers.value("snapshot.interval") {
                Some(Value::Duration(interval)) => Some(*interval),
                _ => None,
            },
            bytes_per_second_max: self.number("snapshot.max_bytes_per_second"),
            concurrency: usize::try_from(self.number("snapshot.concurrency")).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn check_snapshots(&mut self, settings: &Settings) {
        if settings.log_bytes_max < LOG_BYTES_MIN {
            let problem = format!("is {}", settings.log_bytes_max);
            self.refuse("log.bytes_max", problem, format!("set at least {LOG_BYTES_MIN}"));
        }
        if settings.keep_entries == 0 {
            self.refuse("snapshot.keep_entries", "is 0", "set at least 1");
        }
        if let Err(ConfigError { field, problem, remedy }) = settings.snapshot.check() {
            self.refuse(field, problem, remedy);
        }
    }
}
