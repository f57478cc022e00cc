//! Gives back the space of entries that lie at or before their log's base, on a thread of its own.
//!
//! Compaction writes no tombstones: it moves the base in the group's state, and whoever reads begins behind it. The
//! keys up to the base are never written again, so whole table files of them can be dropped, which costs neither reading
//! nor writing. What shares a file with entries that are still wanted goes when the base has passed these too.
//!
//! The order is what makes it sound: the tables are flushed **before** a file is dropped. A file goes at once and for
//! good, while a batch may be lost with a damaged WAL; were the base not in a table by then, a log that begins too early
//! would come back with a hole. Flushing also ends the WAL files, and their space comes back with that of the tables.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use raft_core::ports::StoreError;
use raft_core::types::{GroupId, Index};

use crate::database::Database;
use crate::health::Health;

struct Due {
    /// Up to where entries are to go. At most one for each group, the newest.
    bases: BTreeMap<GroupId, Index>,
    stopping: bool,
}

struct Shared {
    due: Mutex<Due>,
    wake: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Due> {
        // Nothing panics while it is held that would leave it half changed.
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done next; nothing when the store is closed. What is not done then, the next start does.
    fn next(&self) -> Option<BTreeMap<GroupId, Index>> {
        let idle = |due: &mut Due| due.bases.is_empty() && !due.stopping;
        let mut due = self.wake.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        (!due.stopping).then(|| std::mem::take(&mut due.bases))
    }
}

/// The thread that drops files.
pub(crate) struct Sweeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Starts the thread, which reports a failure to `health`.
    pub(crate) fn start(database: Arc<Database>, health: Arc<Health>) -> Result<Self, StoreError> {
        let due = Due { bases: BTreeMap::new(), stopping: false };
        let shared = Arc::new(Shared { due: Mutex::new(due), wake: Condvar::new() });
        let thread = std::thread::Builder::new()
            .name("log-sweeper".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || {
                    while let Some(bases) = shared.next() {
                        if let Err(error) = sweep(&database, &bases) {
                            return health.fail(error.to_string());
                        }
                    }
                }
            })
            .map_err(|error| StoreError::Io {
                doing: "starting the thread that drops compacted files".into(),
                reason: error.to_string(),
            })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Lets the entries of `group` up to `base` go. Its state, with this base or a later one, has been written.
    pub(crate) fn sweep(&self, group: GroupId, base: Index) {
        self.shared.lock().bases.insert(group, base);
        self.shared.wake.notify_all();
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed where it happened; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

fn sweep(database: &Database, bases: &BTreeMap<GroupId, Index>) -> Result<(), StoreError> {
    database.flush()?;
    bases.iter().try_for_each(|(group, base)| database.drop_files(*group, *base))
}
