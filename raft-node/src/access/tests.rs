#![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
use std::time::Duration;

use super::*;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens.toml");
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

fn entry(name: &str, token: &str) -> String {
    format!("[[identity]]\nname = \"{name}\"\ntoken_sha256 = \"{}\"\n", TokenDigest::of(token).hex())
}

fn name(access: &Access, shown: Shown<'_>, peer: Option<&PeerNames>) -> Result<String, String> {
    match access.caller(shown, peer) {
        Ok(Caller::Named(identity)) => Ok(identity.name.clone()),
        Ok(other) => Ok(format!("{other:?}")),
        Err(Unnamed(why)) => Err(why),
    }
}

#[test]
fn what_is_no_single_bearer_token_names_nobody() {
    let read = |headers: &[&'static str]| Shown::read(headers.iter().map(|header| header.as_bytes()));
    assert!(matches!(read(&[]), Shown::Nothing));
    assert!(matches!(read(&["Bearer abc"]), Shown::Token("abc")));
    assert!(matches!(read(&["bEARER  abc=="]), Shown::Token("abc==")));
    for wrong in ["", "Bearer", "Bearer ", "abc", "Basic abc", "Bearer a b", "Bearer a,b", "Bearer =", "Bearer é"] {
        assert!(matches!(read(&[wrong]), Shown::Unreadable), "{wrong}");
    }
    assert!(matches!(read(&["Bearer abc", "Bearer abc"]), Shown::Unreadable), "two headers");
    assert!(matches!(Shown::read([&b"Bearer \xff"[..]].into_iter()), Shown::Unreadable));
}

#[test]
fn a_token_goes_before_a_certificate_and_a_wrong_one_is_not_made_good_by_it() {
    let text = format!("{}[[identity]]\nname = \"cert\"\ncertificate = \"c.example\"\n", entry("tok", "abc"));
    let (_directory, path) = file(&text);
    let access = Access::from_file(&path).unwrap();
    let later = SystemTime::now() + Duration::from_secs(3600);
    let peer = PeerNames { names: ["c.example".into()].into(), ends: later };
    assert_eq!(name(&access, Shown::Token("abc"), Some(&peer)).unwrap(), "tok");
    assert_eq!(name(&access, Shown::Nothing, Some(&peer)).unwrap(), "cert");
    assert!(name(&access, Shown::Token("abd"), Some(&peer)).is_err());
    assert!(name(&access, Shown::Unreadable, Some(&peer)).is_err());
    assert!(name(&access, Shown::Nothing, None).unwrap_err().contains("Authorization: Bearer"));
    let ended = PeerNames { ends: SystemTime::now(), ..peer.clone() };
    assert!(name(&access, Shown::Nothing, Some(&ended)).unwrap_err().contains("expired"));
    let stranger = PeerNames { names: ["d.example".into()].into(), ..peer };
    assert!(name(&access, Shown::Nothing, Some(&stranger)).is_err());
}

#[test]
fn who_has_expired_is_nobody() {
    let (_directory, path) = file(&format!("{}expires = 2001-01-01T00:00:00Z\n", entry("old", "abc")));
    let access = Access::from_file(&path).unwrap();
    assert_eq!(name(&access, Shown::Token("abc"), None).unwrap_err(), "`old` has expired");
}

#[test]
fn without_a_file_anybody_may_do_everything() {
    let access = Access::open_to_all();
    let caller = access.caller(Shown::Unreadable, None).unwrap();
    assert!(caller.may(Need::Admin) && caller.may(Need::Key(Role::Write, b"k")));
    assert!(access.is_current() && !access.reload().unwrap() && !access.is_controlled());
}

#[test]
fn a_reload_uses_what_is_good_and_keeps_what_was() {
    let (_directory, path) = file(&entry("a", "abc"));
    let access = Access::from_file(&path).unwrap();
    assert!(!access.reload().unwrap(), "nothing has changed");
    std::fs::write(&path, entry("b", "abd")).unwrap();
    assert!(access.reload().unwrap());
    assert_eq!(name(&access, Shown::Token("abd"), None).unwrap(), "b");
    assert!(name(&access, Shown::Token("abc"), None).is_err(), "what was taken away is gone");
    std::fs::write(&path, "[[identity]").unwrap();
    assert!(access.reload().unwrap_err().to_string().contains("line 1"));
    assert!(!access.reload().unwrap() && !access.is_current(), "said once, and known on");
    assert_eq!(name(&access, Shown::Token("abd"), None).unwrap(), "b");
    std::fs::remove_file(&path).unwrap();
    assert!(access.reload().is_err() && !access.reload().unwrap() && !access.is_current());
    std::fs::write(&path, entry("b", "abd")).unwrap();
    assert!(!access.reload().unwrap() && access.is_current(), "taken back");
}

#[test]
fn the_local_token_is_for_stopping_this_node_alone() {
    let (_directory, path) = file("");
    let access = Access::from_file(&path).unwrap();
    let secret = Secret::random().unwrap();
    access.admit_local(&secret.digest());
    let caller = access.caller(Shown::Token(secret.expose()), None).unwrap();
    assert!(caller.may(Need::Stop) && caller.may(Need::NodeStatus));
    for need in [Need::Admin, Need::Status, Need::SomeWrite, Need::Key(Role::Read, b"k")] {
        assert!(!caller.may(need), "{need:?}");
    }
}

#[test]
fn a_file_without_end_is_refused() {
    let (_directory, path) = file("");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
    assert!(Access::from_file(&path).unwrap_err().to_string().contains("longer than"));
}
