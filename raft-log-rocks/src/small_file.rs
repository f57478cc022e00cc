//! Small files that are replaced as a whole: written under another name, synced, renamed, and their directory synced,
//! so that a crash leaves the old content or the new one.
//!
//! Every one has the same frame, in every version: magic, kind, version, length and a CRC-32C over all of it, so that
//! a flipped bit anywhere is told apart from a version that this binary does not know.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use raft_core::ports::StoreError;

const MAGIC: [u8; 4] = *b"RAFT";
const VERSION: u16 = 1;
/// Magic, kind, version, two zero bytes, body length, checksum.
const HEADER: usize = 20;
/// Where the checksum stands in the header; it covers everything before it and the body.
const CHECKSUM_AT: usize = 16;

/// Which small file: its name, the four letters in its frame and how long its body may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// File name in its directory.
    pub(crate) file_name: &'static str,
    /// Letters in the frame, so that a file under another's name is refused.
    pub(crate) tag: [u8; 4],
    /// Longest body; a longer one is refused, when written and when read.
    pub(crate) body_bytes_max: usize,
}

/// Why a small file could not be read or replaced.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SmallFileError {
    #[error("{doing} {path} failed: {source}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
}

impl From<SmallFileError> for StoreError {
    fn from(error: SmallFileError) -> Self {
        match error {
            SmallFileError::Io { doing, path, source } => {
                Self::Io { doing: format!("{doing} {}", path.display()), reason: source.to_string() }
            }
            SmallFileError::Damaged { path, reason } => Self::Damaged { place: path.display().to_string(), reason },
        }
    }
}

impl Kind {
    /// Where this file lies in `directory`.
    pub(crate) fn path(&self, directory: &Path) -> PathBuf {
        directory.join(self.file_name)
    }

    /// The name under which new content is written before it takes the place of the old.
    pub(crate) fn temporary_name(&self) -> String {
        format!("{}.tmp", self.file_name)
    }

    /// The body of the file, or `None` when there is no such file.
    pub(crate) fn read(&self, directory: &Path) -> Result<Option<Vec<u8>>, SmallFileError> {
        let path = self.path(directory);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SmallFileError::Io { doing: "opening", path, source }),
        };
        let mut content = Vec::new();
        let bytes_max = (HEADER + self.body_bytes_max) as u64;
        // One byte more than allowed, so that a file that is too long shows.
        file.take(bytes_max + 1).read_to_end(&mut content).map_err(|source| SmallFileError::Io {
            doing: "reading",
            path: path.clone(),
            source,
        })?;
        match self.open_frame(&content) {
            Ok(body) => Ok(Some(body.to_vec())),
            Err(reason) => Err(SmallFileError::Damaged { path, reason }),
        }
    }

    /// Puts `body` in the place of what the file held. Durable on return.
    pub(crate) fn replace(&self, directory: &Path, body: &[u8]) -> Result<(), SmallFileError> {
        assert!(body.len() <= self.body_bytes_max, "{} bytes for {}", body.len(), self.file_name);
        let path = self.path(directory);
        let temporary = directory.join(self.temporary_name());
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&self.frame(body))?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|source| SmallFileError::Io { doing: "writing", path: path.clone(), source })?;
        sync_directory(directory)
    }

    /// Removes the file, if it is there. Durable on return.
    pub(crate) fn remove(&self, directory: &Path) -> Result<(), SmallFileError> {
        let path = self.path(directory);
        match fs::remove_file(&path) {
            Ok(()) => sync_directory(directory),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(SmallFileError::Io { doing: "removing", path, source }),
        }
    }

    /// A body that parses into nothing that this kind of file says.
    pub(crate) fn damaged(&self, directory: &Path, reason: impl Into<String>) -> SmallFileError {
        SmallFileError::Damaged { path: self.path(directory), reason: reason.into() }
    }

    fn frame(&self, body: &[u8]) -> Vec<u8> {
        let mut content = Vec::with_capacity(HEADER + body.len());
        content.extend_from_slice(&MAGIC);
        content.extend_from_slice(&self.tag);
        content.extend_from_slice(&VERSION.to_be_bytes());
        content.extend_from_slice(&[0, 0]);
        content.extend_from_slice(&(body.len() as u32).to_be_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&content), body);
        content.extend_from_slice(&checksum.to_be_bytes());
        content.extend_from_slice(body);
        content
    }

    /// The body inside a frame. The checksum comes before the version: the frame is the same in all versions, so a
    /// flipped bit in the version is damage, and only an intact frame can be of an unknown version.
    fn open_frame<'a>(&self, content: &'a [u8]) -> Result<&'a [u8], String> {
        let mut fields = Fields::new(content);
        let (magic, tag) = (fields.bytes(4)?, fields.bytes(4)?);
        let (version, zero, length) = (fields.u16()?, fields.u16()?, fields.u32()?);
        let checksum = fields.u32()?;
        let body = fields.rest();
        if magic != MAGIC {
            return Err("it does not begin with the magic number of our files".into());
        }
        if body.len() != length as usize || body.len() > self.body_bytes_max {
            return Err(format!("its body has {} bytes where {length} are named", body.len()));
        }
        if crc32c::crc32c_append(crc32c::crc32c(&content[..CHECKSUM_AT]), body) != checksum {
            return Err("its checksum does not fit".into());
        }
        if tag != self.tag {
            return Err(format!("it is another file of ours, of kind {}", tag.escape_ascii()));
        }
        if version != VERSION || zero != 0 {
            return Err(format!("it has version {version}; this binary knows {VERSION}: run a newer one"));
        }
        Ok(body)
    }
}

/// Makes the names in a directory durable: created, renamed and removed files.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), SmallFileError> {
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(|source| SmallFileError::Io {
        doing: "syncing the directory",
        path: directory.into(),
        source,
    })
}

/// Makes `directory` with whatever is missing above it, every name durable.
pub(crate) fn create_directory(directory: &Path) -> Result<(), SmallFileError> {
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if directory.is_dir() {
        // A process before this one may have made it and not lived to make its name durable.
        return match sync_directory(parent) {
            // It was not made by one that may not read the directory above, or where nothing can be made.
            Err(SmallFileError::Io { source, .. })
                if [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem].contains(&source.kind()) =>
            {
                Ok(())
            }
            synced => synced,
        };
    }
    create_directory(parent)?;
    match fs::create_dir(directory) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(SmallFileError::Io { doing: "creating the directory", path: directory.into(), source })
        }
        _ => sync_directory(parent),
    }
}

/// Takes big-endian fields off bytes that came from a disk. Running out of bytes is an error, never a panic.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| "it ends too early".to_owned())?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, String> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, String> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, String> {
        self.array().map(u128::from_be_bytes)
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Says whether anything is left that nobody asked for.
    pub(crate) fn finish(self) -> Result<(), String> {
        if self.rest.is_empty() { Ok(()) } else { Err(format!("{} bytes too many", self.rest.len())) }
    }
}

#[cfg(test)]
mod tests {
    // A test that cannot set itself up has to stop at once.
    #![allow(clippy::unwrap_used)]

    use super::*;

    const KIND: Kind = Kind { file_name: "SAMPLE", tag: *b"SMPL", body_bytes_max: 64 };

    #[test]
    fn what_was_written_is_read_back_and_a_missing_file_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(KIND.read(directory.path()).unwrap(), None);
        KIND.replace(directory.path(), b"first").unwrap();
        KIND.replace(directory.path(), b"second").unwrap();
        assert_eq!(KIND.read(directory.path()).unwrap().as_deref(), Some(&b"second"[..]));
        KIND.remove(directory.path()).unwrap();
        KIND.remove(directory.path()).unwrap();
        assert_eq!(KIND.read(directory.path()).unwrap(), None);
    }

    #[test]
    fn every_flipped_bit_every_cut_and_every_extra_byte_is_found() {
        let whole = KIND.frame(b"some body");
        assert_eq!(KIND.open_frame(&whole).unwrap(), b"some body");
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(KIND.open_frame(&flipped).is_err(), "bit {bit}");
        }
        for cut in 0..whole.len() {
            assert!(KIND.open_frame(&whole[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(KIND.open_frame(&longer).is_err());
    }

    #[test]
    fn another_kind_under_this_name_is_refused_by_its_name() {
        let other = Kind { tag: *b"OTHR", ..KIND };
        let reason = KIND.open_frame(&other.frame(b"")).unwrap_err();
        assert!(reason.contains("OTHR"), "{reason}");
    }

    #[test]
    fn an_interrupted_replacement_leaves_the_old_content() {
        let directory = tempfile::tempdir().unwrap();
        KIND.replace(directory.path(), b"old").unwrap();
        fs::write(directory.path().join(KIND.temporary_name()), b"half of the n").unwrap();
        assert_eq!(KIND.read(directory.path()).unwrap().as_deref(), Some(&b"old"[..]));
        KIND.replace(directory.path(), b"new").unwrap();
        assert_eq!(KIND.read(directory.path()).unwrap().as_deref(), Some(&b"new"[..]));
    }
}
