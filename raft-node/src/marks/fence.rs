//! Why a node's state is not to be read, kept over restarts: the state is still different then.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::ports::StoreError;
use raft_core::types::Index;

/// The first line of the file.
const HEADER: &str = "raft-kit fence 1";
/// A longer file is no fence of ours.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// This node's state differs from that of a majority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The mark at which it was found to differ; zero when what the disk says about the fence cannot be read.
    pub mark: Index,
    /// The digest of this node's state there.
    pub own: Bytes,
    /// The digest of the majority.
    pub majority: Bytes,
    /// When it was found, in milliseconds since the Unix epoch by this node's clock.
    pub found_ms: u64,
}

impl std::fmt::Display for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the state of this node differs from that of the majority since mark {}", self.mark)
    }
}

/// Keeps a node's fence over restarts. A small port of the node; [`FileFence`] is the product's.
pub trait FenceStore: Send + Sync {
    /// The fence that was kept.
    ///
    /// # Errors
    /// When the disk cannot be read. A fence whose bytes make no sense is still a fence and no error.
    fn load(&self) -> Result<Option<Fence>, StoreError>;

    /// Keeps a fence, or forgets it; durable on return.
    ///
    /// # Errors
    /// When the disk fails.
    fn store(&self, fence: Option<&Fence>) -> Result<(), StoreError>;
}

/// A fence in memory, for tests and examples. Keep it over the starts of a node.
#[derive(Debug, Default)]
pub struct MemFence(Mutex<Option<Fence>>);

impl FenceStore for MemFence {
    fn load(&self) -> Result<Option<Fence>, StoreError> {
        Ok(self.0.lock().clone())
    }

    fn store(&self, fence: Option<&Fence>) -> Result<(), StoreError> {
        *self.0.lock() = fence.cloned();
        Ok(())
    }
}

/// A fence as the file `FENCED` in a data directory. Its being there is what counts; what it says is for people.
#[derive(Clone, Debug)]
pub struct FileFence {
    directory: PathBuf,
}

impl FileFence {
    /// The fence in `directory`, which exists.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("FENCED")
    }

    fn replace(&self, fence: &Fence) -> io::Result<()> {
        let unfinished = self.directory.join("FENCED.tmp");
        let mut file = File::create(&unfinished)?;
        file.write_all(encode(fence).as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, self.path())?;
        sync_directory(&self.directory)
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.and_then(|()| sync_directory(&self.directory)),
        }
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

impl FenceStore for FileFence {
    fn load(&self) -> Result<Option<Fence>, StoreError> {
        let failed = |error: io::Error| failed("reading", &self.path(), &error);
        let bytes = match fs::metadata(self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
            Ok(found) if found.len() > FILE_BYTES_MAX => Vec::new(),
            Ok(_) => fs::read(self.path()).map_err(failed)?,
        };
        let fence = std::str::from_utf8(&bytes).ok().and_then(decode);
        if fence.is_none() {
            tracing::error!(file = %self.path().display(), "the fence cannot be read; the node is fenced all the same");
        }
        let unreadable = || Fence { mark: Index::ZERO, own: Bytes::new(), majority: Bytes::new(), found_ms: 0 };
        Ok(Some(fence.unwrap_or_else(unreadable)))
    }

    fn store(&self, fence: Option<&Fence>) -> Result<(), StoreError> {
        let result = fence.map_or_else(|| self.remove(), |fence| self.replace(fence));
        result.map_err(|error| failed("writing", &self.path(), &error))
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Io { doing: format!("{what} {}", path.display()), reason: error.to_string() }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encode(fence: &Fence) -> String {
    let Fence { mark, own, majority, found_ms } = fence;
    format!("{HEADER}\nmark {mark}\nown {}\nmajority {}\nfound_ms {found_ms}\n", hex(own), hex(majority))
}

fn decode(text: &str) -> Option<Fence> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    if field("raft-kit fence") != HEADER.strip_prefix("raft-kit fence ") {
        return None;
    }
    let fence = Fence {
        mark: Index(field("mark")?.parse().ok()?),
        own: unhex(field("own")?)?,
        majority: unhex(field("majority")?)?,
        found_ms: field("found_ms")?.parse().ok()?,
    };
    lines.next().is_none().then_some(fence)
}

fn unhex(text: &str) -> Option<Bytes> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| match pair {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    });
    bytes.collect::<Option<Vec<u8>>>().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use super::*;

    fn fence() -> Fence {
        Fence { mark: Index(42), own: vec![0, 255].into(), majority: Bytes::from_static(b"m"), found_ms: 7 }
    }

    #[test]
    fn a_fence_survives_until_it_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let kept = FileFence::new(directory.path());
        assert_eq!(kept.load().unwrap(), None);
        kept.store(None).unwrap();
        kept.store(Some(&fence())).unwrap();
        assert_eq!(FileFence::new(directory.path()).load().unwrap(), Some(fence()));
        kept.store(None).unwrap();
        assert_eq!(kept.load().unwrap(), None);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn the_bytes_stay_the_same() {
        assert_eq!(encode(&fence()), "raft-kit fence 1\nmark 42\nown 00ff\nmajority 6d\nfound_ms 7\n");
        assert_eq!(decode(&encode(&fence())), Some(fence()));
    }

    /// The state would be read again if damage to the file took the fence away.
    #[test]
    fn a_damaged_fence_is_a_fence() {
        let directory = tempfile::tempdir().unwrap();
        let kept = FileFence::new(directory.path());
        let whole = encode(&fence()).into_bytes();
        let cut = (0..whole.len()).map(|end| whole[..end].to_vec());
        let flipped = (0..whole.len() * 8).map(|bit| {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        });
        for bytes in cut.chain(flipped).chain([vec![b'x'; FILE_BYTES_MAX as usize + 1]]) {
            fs::write(kept.path(), &bytes).unwrap();
            assert!(kept.load().unwrap().is_some(), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn a_disk_that_cannot_be_written_is_an_error_with_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let gone = FileFence::new(directory.path().join("gone"));
        let error = gone.store(Some(&fence())).unwrap_err().to_string();
        assert!(error.contains("FENCED"), "{error}");
    }
}
