//! The marks of the key-value state machine: their settings are replicated, and the state remembers their digests.

use std::time::Duration;

use bytes::Bytes;
use raft_core::ports::StateReader;
use raft_core::types::Index;
use raft_kv::{MarkDigest, Overview, Passed, Query, Setting};

use crate::marks::{MarkPolicy, MarkRules};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct KvMarks;

impl KvMarks {
    fn ask<T>(
        state: &dyn StateReader,
        query: &Query,
        decode: impl FnOnce(Bytes) -> Result<T, raft_kv::QueryAnswerError>,
    ) -> Option<T> {
        let answer = state.query(&query.encode()).map_err(|error| error.to_string());
        let answer = answer.and_then(|answer| decode(answer.bytes).map_err(|error| error.to_string()));
        answer.inspect_err(|error| tracing::warn!(%error, "the state does not say what it knows of marks")).ok()
    }
}

impl MarkRules for KvMarks {
    /// The newest mark has to be readable until the next one is there, so at the latest half of the versions that are kept
    /// may lie behind it.
    fn policy(&self, state: &dyn StateReader) -> MarkPolicy {
        let Some(overview) = Self::ask(state, &Query::Settings, Overview::decode) else {
            return MarkPolicy::default();
        };
        let window = overview.setting(Setting::VersionsWindow);
        let entries = overview.setting(Setting::MarkEntries);
        MarkPolicy {
            interval: Duration::from_millis(overview.setting(Setting::MarkIntervalMs)),
            entries: if window == 0 { entries } else { entries.min((window / 2).max(1)) },
        }
    }

    fn digest(&self, state: &dyn StateReader, mark: Index) -> Option<Bytes> {
        let MarkDigest(digest) = Self::ask(state, &Query::MarkDigest { index: mark }, MarkDigest::decode)?;
        digest.map(|digest| Bytes::copy_from_slice(&digest))
    }

    fn newest(&self, state: &dyn StateReader) -> Option<Index> {
        Self::ask(state, &Query::Marks, Passed::decode)?.newest().map(|mark| mark.index)
    }
}
