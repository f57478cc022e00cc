//! Access control: who may do what at the client listener.
//!
//! A file names identities ([`Book`]); a request shows a bearer token or a client certificate; the door of the node that
//! takes the request decides ([ADR 0021](https://github.com/raft-kit/raft-kit/blob/main/docs/adr/0021-access-at-the-door.md)).
//! Without a file anybody who reaches the listener may do everything. `docs/access.md` is the reference.

mod digest;
mod file;
mod identity;
mod local;

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};

pub use digest::{NoRandomness, Secret, TokenDigest};
pub use file::{AccessError, Book, FILE_BYTES_MAX, GRANTS_MAX, IDENTITIES_MAX};
pub(crate) use identity::Need;
pub use identity::{Grant, Identity, Role};
pub use local::{LOCAL_TOKEN_FILE, LocalToken};

/// What the local token's holder is called in errors.
const LOCAL: &str = "local.token";

/// Who may do what. Clones share what a reload replaces.
#[derive(Clone, Debug, Default)]
pub struct Access(Option<Arc<Control>>);

/// Access that is controlled.
struct Control {
    path: PathBuf,
    book: RwLock<Arc<Book>>,
    /// What is used, and what was found when the file was looked at last: nothing when it could not be read.
    contents: Mutex<Contents>,
    /// The token of this process life for stopping this node.
    local: RwLock<Option<TokenDigest>>,
}

struct Contents {
    used: Vec<u8>,
    looked_at: Option<Vec<u8>>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Access is not controlled.
    Anybody,
    /// An identity of the file.
    Named(Arc<Identity>),
    /// Whoever can read this node's directory.
    Local,
}

/// Why a request has no caller. It shows nothing of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unnamed(pub(crate) String);

/// The names in a client's certificate, as far as it was verified.
#[derive(Clone, Debug)]
pub(crate) struct PeerNames {
    pub(crate) names: Arc<[String]>,
    /// A connection may outlive the certificate that it began with.
    pub(crate) ends: SystemTime,
}

impl Access {
    /// Anybody may do everything.
    #[must_use]
    pub fn open_to_all() -> Self {
        Self(None)
    }

    /// Reads the token file.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub fn from_file(path: &Path) -> Result<Self, AccessError> {
        let used = read(path)?;
        let book = parse(path, &used)?;
        warn_of_readers(path);
        let contents = Mutex::new(Contents { looked_at: Some(used.clone()), used });
        let (book, local) = (RwLock::new(Arc::new(book)), RwLock::new(None));
        Ok(Self(Some(Arc::new(Control { path: path.to_owned(), book, contents, local }))))
    }

    /// Whether anybody is kept out.
    #[must_use]
    pub fn is_controlled(&self) -> bool {
        self.0.is_some()
    }

    /// Who is let in now; nobody is named where access is not controlled.
    #[must_use]
    pub fn book(&self) -> Arc<Book> {
        self.0.as_ref().map(|control| control.book.read().clone()).unwrap_or_default()
    }

    /// Looks at the file again and uses what it holds from the next request on, when it differs from before and is good.
    /// Returns whether something new is used.
    ///
    /// # Errors
    /// When the file cannot be read or used; then what was good last stays in use. It is said once.
    pub fn reload(&self) -> Result<bool, AccessError> {
        let Some(control) = &self.0 else { return Ok(false) };
        let mut contents = control.contents.lock();
        let found = match read(&control.path) {
            Ok(found) => found,
            // Said once.
            Err(_) if contents.looked_at.is_none() => return Ok(false),
            Err(error) => {
                contents.looked_at = None;
                return Err(error);
            }
        };
        if contents.looked_at.replace(found.clone()).is_some_and(|before| before == found) || contents.used == found {
            return Ok(false);
        }
        let book = parse(&control.path, &found)?;
        warn_of_readers(&control.path);
        *control.book.write() = Arc::new(book);
        contents.used = found;
        Ok(true)
    }

    /// Whether the file held what is in use when it was looked at last.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.0.as_ref().is_none_or(|control| {
            let contents = control.contents.lock();
            contents.looked_at.as_ref() == Some(&contents.used)
        })
    }

    /// From now on whoever shows this token may have this node prepare for its stop.
    pub(crate) fn admit_local(&self, token: &TokenDigest) {
        if let Some(control) = &self.0 {
            *control.local.write() = Some(*token);
        }
    }

    /// Who it is that shows this `Authorization` header, or else this certificate.
    pub(crate) fn caller(&self, authorization: Shown<'_>, peer: Option<&PeerNames>) -> Result<Caller, Unnamed> {
        let Some(control) = &self.0 else { return Ok(Caller::Anybody) };
        let unnamed = |why: &str| Err(Unnamed(why.to_owned()));
        let book = control.book.read().clone();
        let now = SystemTime::now();
        let found = match authorization {
            Shown::Token(token) => {
                let digest = TokenDigest::of(token);
                if control.local.read().as_ref().is_some_and(|local| local.is(&digest)) {
                    return Ok(Caller::Local);
                }
                book.by_token(&digest)
            }
            Shown::Unreadable => return unnamed("the Authorization header is no bearer token, or there are several"),
            Shown::Nothing => {
                let Some(peer) = peer else {
                    return unnamed("the request has no token; send it as `Authorization: Bearer TOKEN`");
                };
                if peer.ends <= now {
                    return unnamed("the client certificate has expired since the connection began");
                }
                let found = book.by_certificate(&peer.names).map_err(Unnamed)?;
                if found.is_none() {
                    return unnamed("the request has no token, and the client certificate names nobody who is let in");
                }
                found
            }
        };
        match found {
            Some(identity) if !identity.holds_at(now) => Err(Unnamed(format!("`{}` has expired", identity.name))),
            Some(identity) => Ok(Caller::Named(identity.clone())),
            None => unnamed("the token is known to nobody here"),
        }
    }
}

/// What a request shows of itself.
#[derive(Clone, Copy)]
pub(crate) enum Shown<'a> {
    Nothing,
    Token(&'a str),
    /// A header that is no bearer token.
    Unreadable,
}

impl<'a> Shown<'a> {
    /// Reads the `Authorization` headers of a request (RFC 6750, 2.1).
    pub(crate) fn read(mut headers: impl Iterator<Item = &'a [u8]>) -> Self {
        let Some(header) = headers.next() else { return Self::Nothing };
        let token =
            std::str::from_utf8(header).ok().and_then(|text| text.split_once(' ')).and_then(|(scheme, token)| {
                (scheme.eq_ignore_ascii_case("bearer") && digest::is_token(token.trim_start()))
                    .then(|| token.trim_start())
            });
        match (token, headers.next()) {
            (Some(token), None) => Self::Token(token),
            _ => Self::Unreadable,
        }
    }
}

impl Caller {
    /// Whether the caller may do this.
    pub(crate) fn may(&self, need: Need<'_>) -> bool {
        match self {
            Self::Anybody => true,
            Self::Named(identity) => identity.may(need),
            Self::Local => matches!(need, Need::Stop | Need::NodeStatus),
        }
    }

    /// Who the caller is and what it may do, for an error.
    pub(crate) fn described(&self) -> String {
        match self {
            Self::Anybody => "anybody may do everything".into(),
            Self::Named(identity) => format!("`{}` may {}", identity.name, identity.rights()),
            Self::Local => format!("the holder of {LOCAL} may only look at this node and have it prepare for its stop"),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, AccessError> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| AccessError::new(path, format!("it cannot be read: {error}"));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(AccessError::new(path, format!("it is longer than {FILE_BYTES_MAX} bytes; name fewer identities")));
    }
    Ok(bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Book, AccessError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        AccessError::new(path, format!("it is no text: the byte {} is not UTF-8", error.valid_up_to()))
    })?;
    Book::parse(text).map_err(|reason| AccessError::new(path, reason))
}

/// The file holds digests, no tokens; still nobody else needs to know who there is.
fn warn_of_readers(path: &Path) {
    let Ok(found) = std::fs::metadata(path) else { return };
    // Where somebody else owns it, as in a mounted Secret, the node reads it by its group.
    let by_group = found.mode() & 0o040 != 0 && found.uid() == rustix::process::geteuid().as_raw();
    if found.mode() & 0o022 != 0 {
        let mode = format!("{:o}", found.mode() & 0o777);
        tracing::warn!(
            path = %path.display(),
            mode,
            "auth.token_file can be written by others, who so become administrators; chmod 600 keeps them out"
        );
    } else if by_group || found.mode() & 0o004 != 0 {
        let mode = format!("{:o}", found.mode() & 0o777);
        tracing::warn!(path = %path.display(), mode, "auth.token_file can be read by others; chmod 600 keeps them out");
    }
}

#[cfg(test)]
mod tests;
