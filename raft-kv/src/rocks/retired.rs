//! Generations that do not count any more.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::database::Database;

/// Bytes of a file that are given back at once, and the pause after it. Blocks of a gigabyte that are freed at once hold
/// up every sync on that disk for a tenth of a second, more where the file system tells the disk of each.
const STEP_BYTES: u64 = 2 << 20;
const STEP_PAUSE: Duration = Duration::from_millis(30);

/// Closes and removes generations once their last reader is done. Neither readers nor apply wait for it: a thread does
/// it. What it does not get to do is left over, and removed when the state is opened again.
#[derive(Default)]
pub(super) struct Retired {
    waiting: Vec<(Arc<Database>, PathBuf)>,
    remover: Option<JoinHandle<()>>,
    /// The thread is waited for: it takes no pauses any more.
    hurry: Arc<AtomicBool>,
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
        self.hurry = Arc::default();
        let hurry = Arc::clone(&self.hurry);
        let remover = thread::Builder::new().name("kv-retired".into()).spawn(move || {
            for (database, path) in done {
                drop(database);
                // What it does not get to do is done at once.
                let _ = shrink_all(&path, &hurry);
                // Left over for the next opening when it fails.
                let _ = fs::remove_dir_all(path);
            }
        });
        self.remover = remover.ok();
    }

    fn join(&mut self) {
        if let Some(remover) = self.remover.take() {
            self.hurry.store(true, Ordering::Release);
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

/// Makes the files of a directory short, little by little, until told to hurry.
fn shrink_all(directory: &Path, hurry: &AtomicBool) -> io::Result<()> {
    for file in fs::read_dir(directory)? {
        shrink(&file?.path(), hurry)?;
    }
    Ok(())
}

fn shrink(path: &Path, hurry: &AtomicBool) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let look = file.metadata()?;
    // A file with another name is part of a snapshot too: it stays as it is, and frees nothing when this name goes.
    if !look.is_file() || look.nlink() != 1 {
        return Ok(());
    }
    let mut length = look.len();
    while length > STEP_BYTES && !hurry.load(Ordering::Acquire) {
        length -= STEP_BYTES;
        file.set_len(length)?;
        thread::sleep(STEP_PAUSE);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    #[test]
    fn files_are_made_short_but_for_those_that_a_snapshot_shares() {
        let root = tempfile::tempdir().unwrap();
        let (retired, kept) = (root.path().join("retired"), root.path().join("kept"));
        fs::create_dir(&retired).unwrap();
        let bytes = vec![7; 2 * STEP_BYTES as usize + 1];
        for name in ["own", "shared"] {
            fs::write(retired.join(name), &bytes).unwrap();
        }
        fs::hard_link(retired.join("shared"), &kept).unwrap();
        shrink_all(&retired, &AtomicBool::new(false)).unwrap();
        assert_eq!(fs::metadata(retired.join("own")).unwrap().len(), 1);
        assert_eq!(fs::read(&kept).unwrap(), bytes);
    }

    #[test]
    fn whoever_is_waited_for_leaves_the_rest_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("own");
        fs::write(&path, vec![7; 2 * STEP_BYTES as usize]).unwrap();
        shrink_all(root.path(), &AtomicBool::new(true)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * STEP_BYTES);
    }
}
