//! Generations that do not count any more.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::database::Database;

/// Closes and removes generations once their last reader is done. Neither readers nor apply wait for it: a thread does
/// it. What it does not get to do is left over, and removed when the state is opened again.
#[derive(Default)]
pub(super) struct Retired {
    waiting: Vec<(Arc<Database>, PathBuf)>,
    remover: Option<JoinHandle<()>>,
}

impl Retired {
    /// Takes over a generation that nobody can come to any more but those who read it now.
    pub(super) fn add(&mut self, database: Arc<Database>, path: PathBuf) {
        self.waiting.push((database, path));
        self.collect();
    }

    /// Looks whether readers are done.
    pub(super) fn collect(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        // We hold one handle, so when there is no other nobody can make one.
        let (done, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(database, _)| Arc::strong_count(database) == 1);
        self.waiting = waiting;
        let done: Vec<_> = done;
        if done.is_empty() {
            return;
        }
        self.join();
        let remover = thread::Builder::new().name("kv-retired".into()).spawn(move || {
            for (database, path) in done {
                drop(database);
                // Left over for the next opening when it fails.
                let _ = fs::remove_dir_all(path);
            }
        });
        self.remover = remover.ok();
    }

    fn join(&mut self) {
        if let Some(remover) = self.remover.take() {
            // It does not panic, and what it has not done is left over.
            let _ = remover.join();
        }
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        self.collect();
        self.join();
    }
}
