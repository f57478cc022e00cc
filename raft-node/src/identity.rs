//! A node's identity in memory, for tests and examples.

use std::sync::Arc;

use parking_lot::Mutex;
use raft_core::ports::StoreError;
use raft_core::types::{Incarnation, NodeName};

use crate::parts::{AcceptedFounding, IdentityStore};

#[derive(Debug, Default)]
struct Kept {
    start_count: u64,
    founding: Option<AcceptedFounding>,
}

/// What a data directory would keep of a node. Clones are handles to the same one; open it for every start.
#[derive(Clone, Debug)]
pub struct MemIdentity {
    name: NodeName,
    incarnation: Incarnation,
    kept: Arc<Mutex<Kept>>,
}

impl MemIdentity {
    /// A blank one.
    #[must_use]
    pub fn new(name: NodeName, incarnation: Incarnation) -> Self {
        Self { name, incarnation, kept: Arc::default() }
    }

    /// Opens it for a start of the node, which is counted.
    #[must_use]
    pub fn open(&self) -> Box<dyn IdentityStore> {
        self.kept.lock().start_count += 1;
        Box::new(self.clone())
    }
}

impl IdentityStore for MemIdentity {
    fn name(&self) -> NodeName {
        self.name.clone()
    }

    fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    fn start_count(&self) -> u64 {
        self.kept.lock().start_count
    }

    fn founding(&self) -> Result<Option<AcceptedFounding>, StoreError> {
        Ok(self.kept.lock().founding.clone())
    }

    fn accept_founding(&mut self, founding: &AcceptedFounding) -> Result<(), StoreError> {
        let mut kept = self.kept.lock();
        match &kept.founding {
            Some(held) if held != founding => {
                Err(StoreError::Refused { reason: format!("cluster {} was accepted before", held.cluster) })
            }
            _ => {
                kept.founding = Some(founding.clone());
                Ok(())
            }
        }
    }
}
