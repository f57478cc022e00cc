//! The token of one process life, for those who can read the node's directory: `pre-stop` in a container has no other.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::digest::Secret;

/// The file's name in the data directory.
pub const LOCAL_TOKEN_FILE: &str = "local.token";

/// A token that is written beside the node's data and is valid as long as this process says so. Its file goes with it.
#[derive(Debug)]
pub struct LocalToken {
    path: PathBuf,
}

impl LocalToken {
    /// Writes a fresh token that only this user can read.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn write(directory: &Path) -> io::Result<(Self, Secret)> {
        let secret = Secret::random().map_err(io::Error::other)?;
        let path = directory.join(LOCAL_TOKEN_FILE);
        let fresh = path.with_extension("token.new");
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(secret.expose().as_bytes())?;
        std::fs::rename(&fresh, &path)?;
        Ok((Self { path }, secret))
    }
}

impl Drop for LocalToken {
    fn drop(&mut self) {
        // Without its process it opens nothing; a file that stays is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_its_owner_reads_it_and_each_start_has_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(LOCAL_TOKEN_FILE);
        // Left over by a process that was killed, and readable by everybody.
        std::fs::write(&path, "old").unwrap();
        std::fs::write(path.with_extension("token.new"), "old").unwrap();
        let (kept, secret) = LocalToken::write(directory.path()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Secret::read(&std::fs::read_to_string(&path).unwrap()).unwrap(), secret);
        drop(kept);
        assert!(!path.exists());
    }
}
