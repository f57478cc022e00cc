//! The token file: a TOML file of identities.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use toml::Spanned;

use super::digest::TokenDigest;
use super::identity::{Grant, Identity, Role};

/// Identities in one file. Every token that is presented is compared with all of them.
pub const IDENTITIES_MAX: usize = 1024;
/// Grants of one identity.
pub const GRANTS_MAX: usize = 256;
/// The longest file, in bytes: room for all that.
pub const FILE_BYTES_MAX: u64 = 4 << 20;
/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// A token file that cannot be used. It shows nothing of a token or its digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("auth.token_file = {path} cannot be used: {reason}")]
pub struct AccessError {
    /// The file.
    pub path: String,
    /// What is wrong, with the line where there is one, and what to do about it.
    pub reason: String,
}

impl AccessError {
    pub(super) fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self { path: path.display().to_string(), reason: reason.into() }
    }
}

/// All identities of one file.
#[derive(Clone, Debug, Default)]
pub struct Book {
    identities: Vec<Arc<Identity>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    identity: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Spanned<String>,
    token_sha256: Option<Spanned<String>>,
    certificate: Option<Spanned<String>>,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    grants: Vec<Spanned<GrantEntry>>,
    expires: Option<Spanned<toml::Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantEntry {
    role: Role,
    prefix: Option<String>,
    prefix_base64: Option<String>,
}

/// What was used by whom, to find duplicates.
#[derive(Default)]
struct Seen(BTreeMap<(&'static str, String), usize>);

impl Book {
    /// Reads what a token file holds.
    ///
    /// # Errors
    /// Says what is wrong and in which line; unknown keys and what is there twice are errors.
    pub fn parse(text: &str) -> Result<Self, String> {
        let line = |at: usize| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        let page: Page = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or_else(String::new, |span| format!("line {}: ", line(span.start)));
            format!("{at}{}", without_values(error.message()))
        })?;
        if page.identity.len() > IDENTITIES_MAX {
            return Err(format!("it names {} identities; {IDENTITIES_MAX} are the most", page.identity.len()));
        }
        let mut seen = Seen::default();
        let mut identities = Vec::with_capacity(page.identity.len());
        for entry in page.identity {
            identities.push(Arc::new(identity(entry, &mut seen, &line)?));
        }
        Ok(Self { identities })
    }

    /// All identities, in the order of the file.
    #[must_use]
    pub fn identities(&self) -> &[Arc<Identity>] {
        &self.identities
    }

    /// Whose token has this digest. Every digest is compared, so that the time does not tell which one fits.
    pub(super) fn by_token(&self, digest: &TokenDigest) -> Option<&Arc<Identity>> {
        let mut found = None;
        for identity in &self.identities {
            if identity.token.as_ref().is_some_and(|token| token.is(digest)) {
                found = Some(identity);
            }
        }
        found
    }

    /// Whom one of these names of a certificate stands for. Of two the file names, none is chosen.
    pub(super) fn by_certificate(&self, names: &[String]) -> Result<Option<&Arc<Identity>>, String> {
        let mut named = self.identities.iter().filter(|identity| {
            identity.certificate.as_ref().is_some_and(|known| names.iter().any(|name| same_name(known, name)))
        });
        match (named.next(), named.next()) {
            (Some(one), Some(other)) => {
                Err(format!("the client certificate names `{}` and `{}`", one.name, other.name))
            }
            (found, _) => Ok(found),
        }
    }
}

/// DNS names are the same in any case (RFC 4343), URIs only letter by letter.
fn same_name(left: &str, right: &str) -> bool {
    let uri = left.contains("://") || right.contains("://");
    if uri { left == right } else { left.eq_ignore_ascii_case(right) }
}

impl Seen {
    fn add(&mut self, what: &'static str, text: &str, line: usize) -> Result<(), String> {
        match self.0.insert((what, text.to_owned()), line) {
            None => Ok(()),
            Some(earlier) => Err(format!("line {line}: this {what} is that of line {earlier} already; remove one")),
        }
    }
}

fn identity(entry: Spanned<Entry>, seen: &mut Seen, line: &impl Fn(usize) -> usize) -> Result<Identity, String> {
    let begins = line(entry.span().start);
    let Entry { name, token_sha256, certificate, admin, grants, expires } = entry.into_inner();
    let (at, name) = (line(name.span().start), name.into_inner());
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(|letter| letter.is_control()) {
        return Err(format!(
            "line {at}: `name` is empty, too long or not printable; write 1 to {NAME_BYTES_MAX} bytes"
        ));
    }
    seen.add("name", &name, at)?;
    if token_sha256.is_none() && certificate.is_none() {
        let remedy = "give it `token_sha256` (raft-node token new makes one) or `certificate`";
        return Err(format!("line {begins}: nobody can be `{name}`: {remedy}"));
    }
    let token = match token_sha256 {
        None => None,
        Some(text) => {
            let at = line(text.span().start);
            let wrong =
                || format!("line {at}: `token_sha256` is not 64 hexadecimal digits; raft-node token hash makes them");
            let digest = TokenDigest::parse(text.get_ref()).ok_or_else(wrong)?;
            seen.add("token", &digest.hex(), at)?;
            Some(digest)
        }
    };
    let certificate = match certificate {
        None => None,
        Some(text) => {
            let at = line(text.span().start);
            let text = text.into_inner();
            if text.trim().is_empty() {
                return Err(format!("line {at}: `certificate` is empty; write a DNS name or URI of the certificate"));
            }
            // What is the same name has to be the same here.
            seen.add("certificate", &if text.contains("://") { text.clone() } else { text.to_ascii_lowercase() }, at)?;
            Some(text)
        }
    };
    if grants.len() > GRANTS_MAX {
        return Err(format!("line {begins}: `{name}` has {} grants; {GRANTS_MAX} are the most", grants.len()));
    }
    let grants = grants.into_iter().map(|entry| grant(entry, line)).collect::<Result<_, _>>()?;
    let expires = expires.map(|value| end(&value, line)).transpose()?;
    Ok(Identity { name, token, certificate, admin, grants, expires })
}

fn grant(entry: Spanned<GrantEntry>, line: &impl Fn(usize) -> usize) -> Result<Grant, String> {
    let at = line(entry.span().start);
    let GrantEntry { role, prefix, prefix_base64 } = entry.into_inner();
    let prefix = match (prefix, prefix_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => STANDARD
            .decode(text)
            .map_err(|_| format!("line {at}: `prefix_base64` is not base64; write RFC 4648, section 4, padded"))?,
        (None, None) => return Err(format!("line {at}: the grant has no `prefix`; write \"\" for every key")),
        (Some(_), Some(_)) => return Err(format!("line {at}: `prefix` and `prefix_base64` exclude each other")),
    };
    Ok(Grant { role, prefix })
}

fn end(value: &Spanned<toml::Value>, line: &impl Fn(usize) -> usize) -> Result<SystemTime, String> {
    let text = match value.get_ref() {
        toml::Value::String(text) => text.clone(),
        toml::Value::Datetime(time) => time.to_string(),
        _ => String::new(),
    };
    humantime::parse_rfc3339(&text).map_err(|_| {
        format!(
            "line {}: `expires` is no time; write it as in RFC 3339, in UTC: 2030-01-31T00:00:00Z",
            line(value.span().start)
        )
    })
}

/// A message of the TOML reader without what it quotes out of the file, which may be a token in the wrong place.
fn without_values(message: &str) -> String {
    let mut pieces = message.split('"');
    let mut kept = pieces.next().unwrap_or_default().to_owned();
    if let Some(last) = pieces.next_back() {
        kept.push('…');
        kept.push_str(last);
    }
    for before in ["unknown field `", "unknown variant `"] {
        if let Some((head, tail)) = kept.split_once(before)
            && let Some((_, tail)) = tail.split_once('`')
        {
            kept = format!("{head}{before}…`{tail}");
        }
    }
    kept.replace('\n', " ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use super::super::digest::Secret;
    use super::*;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_file_is_read_as_documented() {
        let text = format!(
            "[[identity]]\nname = \"app\"\ntoken_sha256 = \"{HASH}\"\nexpires = 2030-01-31T00:00:00Z\n\
             grants = [{{ role = \"write\", prefix = \"a/\" }}, {{ role = \"read\", prefix_base64 = \"AP8=\" }}]\n\
             [[identity]]\nname = \"ops\"\ncertificate = \"Ops.example\"\nadmin = true\nexpires = \"2031-01-31T00:00:00Z\"\n"
        );
        let book = Book::parse(&text).unwrap();
        let app = book.by_token(&TokenDigest::of("abc")).unwrap();
        assert_eq!((app.name.as_str(), app.admin), ("app", false));
        assert_eq!(app.grants[1], Grant { role: Role::Read, prefix: vec![0, 255] });
        assert_eq!(humantime::format_rfc3339(app.expires.unwrap()).to_string(), "2030-01-31T00:00:00Z");
        assert!(book.by_token(&TokenDigest::of("abd")).is_none());
        let named = |name: &str| book.by_certificate(&["other".into(), name.into()]).unwrap().map(|found| &found.name);
        assert_eq!(named("ops.EXAMPLE").unwrap(), "ops");
        assert!(named("ops.example.org").is_none());
        assert!(Book::parse("").unwrap().identities().is_empty(), "an empty file lets nobody in");
    }

    #[test]
    fn of_two_names_in_a_certificate_none_is_chosen() {
        let text = "[[identity]]\nname = \"a\"\ncertificate = \"a.example\"\n\
                    [[identity]]\nname = \"b\"\ncertificate = \"raft://x/b\"\n";
        let book = Book::parse(text).unwrap();
        assert!(book.by_certificate(&["a.example".into(), "raft://x/b".into()]).unwrap_err().contains("`a` and `b`"));
        assert!(book.by_certificate(&["RAFT://x/b".into()]).unwrap().is_none(), "a URI is the same letter by letter");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let one = format!("[[identity]]\nname = \"a\"\ntoken_sha256 = \"{HASH}\"\n");
        let two = |more: &str| format!("{one}[[identity]]\n{more}");
        for (text, parts) in [
            (two("name = \"a\"\ncertificate = \"x\""), ["line 5: this name", "line 2"]),
            (
                two(&format!("name = \"b\"\ntoken_sha256 = \"{}\"", HASH.to_uppercase())),
                ["line 6: this token", "line 3"],
            ),
            (
                two("name = \"b\"\ncertificate = \"x\"\n[[identity]]\nname = \"c\"\ncertificate = \"X\""),
                ["line 9", "line 6"],
            ),
            (two("name = \"b\""), ["line 4", "nobody can be `b`"]),
            (two("nmae = \"b\""), ["line 5", "unknown field"]),
            (format!("token = 1\n{one}"), ["line 1", "unknown field"]),
            (two("name = \"\"\ncertificate = \"x\""), ["line 5", "`name` is empty"]),
            (two("name = \"b\"\ntoken_sha256 = \"ab\""), ["line 6", "64 hexadecimal digits"]),
            (two("name = \"b\"\ncertificate = \" \""), ["line 6", "`certificate` is empty"]),
            (format!("{one}expires = \"tomorrow\""), ["line 4", "RFC 3339"]),
            (format!("{one}expires = 2030-01-01T00:00:00+02:00"), ["line 4", "in UTC"]),
            (format!("{one}grants = [{{ role = \"read\" }}]"), ["line 4", "no `prefix`"]),
            (format!("{one}grants = [{{ role = \"all\", prefix = \"\" }}]"), ["line 4", "expected `read` or `write`"]),
            (format!("{one}grants = [{{ role = \"read\", prefix_base64 = \"?\" }}]"), ["line 4", "not base64"]),
            (
                format!("{one}grants = [{{ role = \"read\", prefix = \"\", prefix_base64 = \"\" }}]"),
                ["line 4", "exclude"],
            ),
            (format!("{one}admin ="), ["line 4", ""]),
            (two(""), ["line 4", "missing field"]),
        ] {
            let refused = Book::parse(&text).unwrap_err();
            for part in parts {
                assert!(refused.contains(part), "{part} in: {refused}\n{text}");
            }
        }
        let many = "[[identity]]\nname = \"a\"\n".repeat(IDENTITIES_MAX + 1);
        assert!(Book::parse(&many).unwrap_err().contains("the most"));
    }

    #[test]
    fn no_error_quotes_what_may_be_a_token() {
        let token = Secret::random().unwrap();
        let token = token.expose();
        for text in [
            format!("[[identity]]\nname = \"a\"\ntoken_sha256 = \"{token}\""),
            format!("[[identity]]\nname = \"a\"\nadmin = \"{token}\""),
            format!("[[identity]]\nname = \"a\"\ngrants = \"{token}\""),
            format!("[[identity]]\nname = \"a\"\nexpires = \"{token}\"\ncertificate = \"x\""),
            format!("[[identity]]\nname = \"a\"\ntoken_sha256 = \"{token}"),
            format!("identity = \"{token}\""),
            format!("[[identity]]\nname = \"a\"\n{token} = 1"),
            format!("[[identity]]\nname = \"a\"\ngrants = [{{ role = \"{token}\", prefix = \"\" }}]"),
            format!("[[identity]]\nname = [\"{token}\"]"),
        ] {
            let refused = Book::parse(&text).unwrap_err();
            assert!(!refused.contains(token), "{refused}");
        }
    }
}
