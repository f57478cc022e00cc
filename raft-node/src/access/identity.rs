//! Who may do what.

use std::fmt;
use std::time::SystemTime;

use serde::Deserialize;

use super::digest::TokenDigest;

/// Grants that an error lists; more are counted.
const GRANTS_SHOWN_MAX: usize = 8;

/// What a grant allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// To read values.
    Read,
    /// To read and to write: a write with a precondition tells whether a key exists and at which revision.
    Write,
}

impl Role {
    /// Its name in the token file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// A role for all keys that begin with these bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What is allowed.
    pub role: Role,
    /// What the keys begin with; nothing for all keys.
    pub prefix: Vec<u8>,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.as_slice() {
            b"" => write!(f, "{} every key", self.role.name()),
            prefix => write!(f, "{} keys under `{}`", self.role.name(), prefix.escape_ascii()),
        }
    }
}

/// Somebody whom the token file names.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What it is called, in errors and to people. Not a secret.
    pub name: String,
    /// SHA-256 of its token.
    pub token: Option<TokenDigest>,
    /// A DNS name or URI in its client certificate.
    pub certificate: Option<String>,
    /// Whether it may change the cluster and look into the log.
    pub admin: bool,
    /// Which keys it may read and write.
    pub grants: Vec<Grant>,
    /// From when on it is nobody any more.
    pub expires: Option<SystemTime>,
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need<'a> {
    /// Read or write this key.
    Key(Role, &'a [u8]),
    /// Write some key: which, only the body says.
    SomeWrite,
    /// Look at this node.
    NodeStatus,
    /// Look at the cluster.
    Status,
    /// Have this node prepare for its stop.
    Stop,
    /// Change the cluster or this node, or look into the log.
    Admin,
}

impl Identity {
    /// Whether it holds at this time.
    #[must_use]
    pub fn holds_at(&self, now: SystemTime) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    pub(super) fn may(&self, need: Need<'_>) -> bool {
        match need {
            Need::Key(role, key) => {
                self.grants.iter().any(|grant| grant.role >= role && key.starts_with(&grant.prefix))
            }
            Need::SomeWrite => self.grants.iter().any(|grant| grant.role >= Role::Write),
            Need::Status | Need::NodeStatus => true,
            Need::Stop | Need::Admin => self.admin,
        }
    }

    /// What it may do, for an error.
    pub(super) fn rights(&self) -> String {
        let mut rights: Vec<String> = self.grants.iter().take(GRANTS_SHOWN_MAX).map(Grant::to_string).collect();
        if self.grants.len() > GRANTS_SHOWN_MAX {
            rights.push(format!("{} more grants", self.grants.len() - GRANTS_SHOWN_MAX));
        }
        if self.admin {
            rights.push("administer".into());
        }
        if rights.is_empty() { "only look at the cluster's status".into() } else { rights.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(grants: &[(Role, &str)], admin: bool) -> Identity {
        let grants = grants.iter().map(|(role, prefix)| Grant { role: *role, prefix: prefix.as_bytes().to_vec() });
        Identity { name: "app".into(), token: None, certificate: None, admin, grants: grants.collect(), expires: None }
    }

    #[test]
    fn grants_count_by_the_bytes_of_the_key() {
        let app = identity(&[(Role::Write, "a/"), (Role::Read, "b/")], false);
        let may = |role, key: &str| app.may(Need::Key(role, key.as_bytes()));
        assert!(may(Role::Read, "a/x") && may(Role::Write, "a/x") && may(Role::Write, "a/"));
        assert!(may(Role::Read, "b/x") && !may(Role::Write, "b/x"));
        for foreign in ["a", "A/x", "/a/x", "c/a/", ""] {
            assert!(!may(Role::Read, foreign) && !may(Role::Write, foreign), "{foreign}");
        }
        assert!(identity(&[(Role::Read, "")], false).may(Need::Key(Role::Read, b"\xff")));
        assert!(app.may(Need::SomeWrite) && !identity(&[(Role::Read, "")], false).may(Need::SomeWrite));
    }

    #[test]
    fn admin_and_data_are_apart() {
        let admin = identity(&[], true);
        assert!(admin.may(Need::Admin) && admin.may(Need::Stop) && admin.may(Need::Status));
        assert!(!admin.may(Need::Key(Role::Read, b"a")) && !admin.may(Need::SomeWrite));
        let app = identity(&[(Role::Write, "")], false);
        assert!(!app.may(Need::Admin) && !app.may(Need::Stop) && app.may(Need::Status));
    }

    #[test]
    fn an_identity_ends_at_its_end() {
        let end = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(100);
        let ends = Identity { expires: Some(end), ..identity(&[], false) };
        assert!(ends.holds_at(end - std::time::Duration::from_nanos(1)) && !ends.holds_at(end));
    }

    #[test]
    fn rights_are_listed_up_to_a_bound() {
        assert_eq!(identity(&[], false).rights(), "only look at the cluster's status");
        let one = identity(&[(Role::Write, "a\u{1}"), (Role::Read, "")], true);
        assert_eq!(one.rights(), "write keys under `a\\x01`, read every key, administer");
        let many = identity(&[(Role::Read, "a"); 20], false).rights();
        assert!(many.ends_with("12 more grants"), "{many}");
    }
}
