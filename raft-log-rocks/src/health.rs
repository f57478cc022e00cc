//! Whether the store may still acknowledge anything.

use std::sync::OnceLock;

use raft_core::ports::StoreError;

/// The first failure, for good. After an fsync that failed nobody knows what the disk holds, and asking again may
/// answer "ok" for pages that the kernel has already dropped.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failure: OnceLock<String>,
}

impl Health {
    /// Ends this store. Only the first failure is kept.
    pub(crate) fn fail(&self, reason: String) {
        tracing::error!(%reason, "the log store failed; nothing more is acknowledged");
        let _ = self.failure.set(reason);
    }

    /// An error once the store has failed.
    pub(crate) fn check(&self, doing: &str) -> Result<(), StoreError> {
        match self.failure.get() {
            None => Ok(()),
            Some(reason) => Err(StoreError::Io {
                doing: doing.to_owned(),
                reason: format!("an earlier failure is final, restart the node to recover: {reason}"),
            }),
        }
    }
}
