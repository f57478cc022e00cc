//! What a data directory says of itself to somebody who only looks.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use raft_core::types::{ClusterId, Incarnation, NodeId, NodeName};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{DataDir, DataDirError, IDENTITY, LOCK, parse_format, parse_identity, read_founding, refuse_foreign};
use super::{FORMAT, FORMAT_VERSION};

/// What a data directory says of itself. See [`DataDir::inspect`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Whether a process has it open.
    pub in_use: bool,
    /// That process, as it wrote itself down; of a directory that is not in use, the last one that had it.
    pub holder: Option<u32>,
    /// The node that it belongs to, and its life; absent when it is still blank.
    pub identity: Option<(NodeName, Incarnation)>,
    /// The cluster, and this node's number in it, once it belongs to one.
    pub cluster: Option<(ClusterId, NodeId)>,
}

impl DataDir {
    /// Looks at a data directory and changes nothing in it; for tools, beside a running node too. `None` when there is
    /// no such directory, or nothing in it. The log and the state are not looked at.
    ///
    /// Whether it is in use is found by asking for the lock, which is given back at once: a node that starts in that
    /// very moment is refused, as by another node.
    ///
    /// # Errors
    /// When it cannot be read, is no data directory and not empty, has an unknown format, or is damaged.
    pub fn inspect(path: impl AsRef<Path>) -> Result<Option<Inspection>, DataDirError> {
        let path = path.as_ref();
        match std::fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
            Ok(false) => {}
            Ok(true) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DataDirError::Io { doing: "listing", path: path.into(), source }),
        }
        refuse_foreign(path)?;
        if let Some(body) = FORMAT.read(path)? {
            let (found, reader_min) = parse_format(path, &body)?;
            if reader_min > FORMAT_VERSION {
                return Err(DataDirError::UnknownFormat { path: path.into(), found, reader_min });
            }
        }
        let (in_use, holder) = holder(path)?;
        let identity = IDENTITY.read(path)?.map(|body| parse_identity(path, &body)).transpose()?;
        let cluster = read_founding(path)?.map(|founding| (founding.cluster, founding.id));
        Ok(Some(Inspection {
            in_use,
            holder,
            identity: identity.map(|(incarnation, name)| (name, incarnation)),
            cluster,
        }))
    }
}

/// Whether somebody holds the lock, and who wrote itself into it last.
fn holder(path: &Path) -> Result<(bool, Option<u32>), DataDirError> {
    let lock_path = path.join(LOCK);
    let failed = |doing, source| DataDirError::Io { doing, path: lock_path.clone(), source };
    let file = match File::open(&lock_path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((false, None)),
        Err(source) => return Err(failed("opening", source)),
    };
    let mut text = String::new();
    let holder = (&file).take(32).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok((false, holder)),
        Err(Errno::WOULDBLOCK) => Ok((true, holder)),
        Err(errno) => Err(failed("locking", errno.into())),
    }
}
