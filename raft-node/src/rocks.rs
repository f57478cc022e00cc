//! The data directory of `raft-log-rocks` as a node's identity and log.

use std::sync::Arc;

use parking_lot::Mutex;
use raft_core::ports::StoreError;
use raft_core::types::{Incarnation, NodeName};
use raft_log_rocks::{DataDir, LogOptions};

use crate::parts::{AcceptedFounding, IdentityStore, LogFactory};

/// A data directory that a node's identity and its log share.
#[derive(Clone)]
pub struct SharedDataDir(Arc<Mutex<DataDir>>);

impl std::fmt::Debug for SharedDataDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SharedDataDir").field(&self.0.lock().path()).finish()
    }
}

impl SharedDataDir {
    /// Takes an open data directory.
    #[must_use]
    pub fn new(directory: DataDir) -> Self {
        Self(Arc::new(Mutex::new(directory)))
    }

    /// Opens the log in the directory when the node asks for it.
    #[must_use]
    pub fn log(&self, options: LogOptions) -> LogFactory {
        let directory = self.clone();
        Box::new(move || {
            let log = directory.0.lock().open_log(options)?;
            Ok(Box::new(log))
        })
    }
}

impl IdentityStore for SharedDataDir {
    fn name(&self) -> NodeName {
        self.0.lock().name().clone()
    }

    fn incarnation(&self) -> Incarnation {
        self.0.lock().incarnation()
    }

    fn start_count(&self) -> u64 {
        self.0.lock().start().count
    }

    fn founding(&self) -> Result<Option<AcceptedFounding>, StoreError> {
        let accepted = self.0.lock().founding();
        Ok(accepted.map(|(cluster, id, record)| AcceptedFounding { cluster, id, record }))
    }

    fn accept_founding(&mut self, founding: &AcceptedFounding) -> Result<(), StoreError> {
        let AcceptedFounding { cluster, id, record } = founding;
        let accepted = self.0.lock().accept_founding(*cluster, *id, record.clone());
        accepted.map_err(|error| StoreError::Refused { reason: error.to_string() })
    }
}
