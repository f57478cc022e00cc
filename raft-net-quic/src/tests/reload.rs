//! Certificates and authorities that change while the transport runs.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;
use crate::SetupError;

/// Puts other certificates in the place of those of a node.
fn put(files: &TlsFiles, from: &TlsFiles) {
    for (to, from) in [(&files.cert, &from.cert), (&files.key, &from.key)] {
        std::fs::copy(from, to).unwrap();
    }
}

fn pem(authority: &Authority) -> String {
    std::fs::read_to_string(authority.path("ca.pem")).unwrap()
}

/// A node whose files are its own, so that they can be replaced alone.
fn own(authority: &Authority, directory: &Path, node: &str) -> TlsFiles {
    let issued = authority.node(CLUSTER, node);
    let own = |file: &str| directory.join(format!("{node}.{file}"));
    let files = TlsFiles { ca: own("ca"), cert: own("cert"), key: own("key") };
    std::fs::write(&files.ca, pem(authority)).unwrap();
    put(&files, &issued);
    files
}

#[tokio::test]
async fn both_authorities_are_exchanged_without_a_gap() {
    let (old, new) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let files = [own(&old, directory.path(), "n1"), own(&old, directory.path(), "n2")];
    let one = Node::start(1, files[0].clone()).await;
    let two = Node::start(2, files[1].clone()).await;
    one.knows(&[&two]);
    two.knows(&[&one]);
    one.reaches(&two).await;
    two.reaches(&one).await;
    let reload = |expected: bool| {
        assert_eq!(one.transport.reload_certificates(|_| Ok(())), Ok(expected));
        assert_eq!(two.transport.reload_certificates(|_| Ok(())), Ok(expected));
    };
    reload(false);
    // First everybody trusts both, then everybody has new certificates, then nobody trusts the old authority.
    files.iter().for_each(|files| std::fs::write(&files.ca, pem(&old) + &pem(&new)).unwrap());
    reload(true);
    assert!(one.is_connected(2) && two.is_connected(1), "whoever is trusted stays connected");
    put(&files[0], &new.node(CLUSTER, "n1"));
    put(&files[1], &new.node(CLUSTER, "n2"));
    reload(true);
    files.iter().for_each(|files| std::fs::write(&files.ca, pem(&new)).unwrap());
    reload(true);
    // The connections were made with the old certificates: they are replaced.
    one.reaches(&two).await;
    two.reaches(&one).await;
    // A node with an old certificate is let in no more.
    let late = Node::start(3, own(&old, directory.path(), "n3")).await;
    late.knows(&[&one]);
    one.transport.set_peers(member(1), vec![peer(2, two.address), peer(3, late.address)]);
    until("the refusal", || one.refusals("tls") > 0 && late.refusals("tls") > 0).await;
    assert!(!late.is_connected(1));
}

#[tokio::test]
async fn a_peer_whose_authority_is_gone_is_cut_off() {
    let (old, new) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let files = [own(&old, directory.path(), "n1"), own(&old, directory.path(), "n2")];
    let one = Node::start(1, files[0].clone()).await;
    let two = Node::start(2, files[1].clone()).await;
    one.knows(&[&two]);
    two.knows(&[&one]);
    one.reaches(&two).await;
    put(&files[0], &new.node(CLUSTER, "n1"));
    std::fs::write(&files[0].ca, pem(&new)).unwrap();
    assert_eq!(one.transport.reload_certificates(|_| Ok(())), Ok(true));
    until("the end of the connection", || !one.is_connected(2) && !two.is_connected(1)).await;
    until("refusals on both sides", || one.refusals("tls") > 0 && two.refusals("tls") > 0).await;
}

#[tokio::test]
async fn what_cannot_be_used_is_said_once_and_the_last_good_stays() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let files = own(&authority, directory.path(), "n1");
    let one = Node::start(1, files.clone()).await;
    let before = one.transport.certificate_expires();
    let over = authority.issue_with("over", &[San::Uri("raft://test/n1")], |params| {
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    });
    let good =
        TlsFiles { cert: directory.path().join("good"), key: directory.path().join("good-key"), ..files.clone() };
    std::fs::copy(&files.cert, &good.cert).unwrap();
    std::fs::copy(&files.key, &good.key).unwrap();

    put(&files, &over);
    let error = one.transport.reload_certificates(|_| Ok(())).unwrap_err();
    assert_eq!(error.setting, "peer.tls.cert");
    assert!(error.problem.contains("does not hold"), "{error}");
    assert_eq!(one.transport.reload_certificates(|_| Ok(())), Ok(false), "said once");
    assert!(!one.transport.certificates_are_current());
    // A certificate without its key, as in the middle of a replacement.
    put(&files, &good);
    std::fs::copy(&over.key, &files.key).unwrap();
    assert_eq!(one.transport.reload_certificates(|_| Ok(())).unwrap_err().setting, "peer.tls.key");
    std::fs::remove_file(&files.key).unwrap();
    assert_eq!(one.transport.reload_certificates(|_| Ok(())).unwrap_err().setting, "peer.tls.key");
    assert_eq!(one.transport.reload_certificates(|_| Ok(())), Ok(false), "said once");
    assert_eq!(one.transport.certificate_expires(), before);
    // And what was there before is no change.
    put(&files, &good);
    assert_eq!(one.transport.reload_certificates(|_| Ok(())), Ok(false));
    assert!(one.transport.certificates_are_current());
    let two = Node::start(2, authority.node(CLUSTER, "n2")).await;
    one.knows(&[&two]);
    two.knows(&[&one]);
    one.reaches(&two).await;

    let longer = authority.issue_with("longer", &[San::Uri("raft://test/n1")], |params| {
        params.not_after = rcgen::date_time_ymd(2100, 1, 1);
    });
    // What nobody but the caller knows of a certificate.
    put(&files, &longer);
    let unfit = SetupError { setting: "peer.tls.cert", problem: "names another node".into(), remedy: "another".into() };
    assert_eq!(one.transport.reload_certificates(|_| Err(unfit.clone())), Err(unfit));
    assert_eq!(one.transport.certificate_expires(), before);
    put(&files, &good);
    assert_eq!(one.transport.reload_certificates(|_| Ok(())), Ok(false));
    put(&files, &longer);
    assert_eq!(one.transport.reload_certificates(|_| Ok(())), Ok(true));
    let expires = one.transport.certificate_expires();
    assert_eq!(expires, SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800), "the first second of 2100");
}

#[tokio::test]
async fn a_swapped_link_to_the_directory_is_a_change() {
    // How Kubernetes replaces the files of a Secret: they are links into a directory to which another link points.
    let authority = Authority::new();
    let root = tempfile::tempdir().unwrap();
    for version in ["first", "second"] {
        let directory = root.path().join(version);
        std::fs::create_dir(&directory).unwrap();
        own(&authority, &directory, "n1");
    }
    let point = |version: &str| {
        let fresh = root.path().join("fresh");
        std::os::unix::fs::symlink(version, &fresh).unwrap();
        std::fs::rename(fresh, root.path().join("..data")).unwrap();
    };
    point("first");
    let file = |name: &str| {
        let link = root.path().join(name);
        std::os::unix::fs::symlink(format!("..data/{name}"), &link).unwrap();
        link
    };
    let files = TlsFiles { ca: file("n1.ca"), cert: file("n1.cert"), key: file("n1.key") };
    let one = Node::start(1, files).await;
    assert_eq!(one.transport.reload_certificates(|_| Ok(())), Ok(false));
    point("second");
    assert_eq!(one.transport.reload_certificates(|_| Ok(())), Ok(true));
}
