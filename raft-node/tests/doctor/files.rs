//! Faults of settings, certificates and data directories: found before a node is started.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use crate::support::{TestCluster, TestNode, await_that, certificates, cli, expired};
use crate::{Operator, doctor, doctor_with, endpoint, settings, shim};

/// One node that is prepared and has not run yet.
fn prepared() -> TestCluster {
    TestCluster::prepare(1, &["--election-timeout", "2s", "--heartbeat-interval", "200ms"])
}

/// One node that runs alone.
fn running() -> TestCluster {
    let mut cluster = prepared();
    cluster.nodes[0].start();
    cluster.await_leader();
    cluster
}

/// The flags of a node with another pair of certificate and key.
fn with_pair(node: &TestNode, directory: &Path, name: &str) -> Vec<String> {
    let file = |ending: &str| directory.join(format!("{name}.{ending}")).to_str().unwrap().to_owned();
    settings(node, &[("peer-tls-cert", &file("pem")), ("peer-tls-key", &file("key"))])
}

#[test]
fn a_node_that_may_be_started_has_nothing_wrong() {
    let cluster = prepared();
    let diagnosis = doctor(&settings(&cluster.nodes[0], &[]));
    assert_eq!(diagnosis.code, Some(0), "{}", diagnosis.said);
    assert!(!cluster.nodes[0].data_dir.exists(), "a look has made the data directory");
}

#[test]
fn certificates_that_end_or_name_another_node_are_found() {
    let cluster = prepared();
    let (node, certs) = (&cluster.nodes[0], cluster.dir.path().join("certs"));
    let of = |name: &str| cluster.dir.path().join(name);

    // Soon: of the cluster's own authority, for a few days.
    copy_authority(&certs, &of("short"));
    let short = of("short");
    let made = ["init-certs", "--dir", short.to_str().unwrap(), "--cluster", "test", "--names", "n1", "--days", "3"];
    assert!(cli(&made).status.success());
    let diagnosis = doctor(&with_pair(node, &of("short"), "n1"));
    diagnosis.has(
        "certificate-expires",
        "raft-node init-certs --dir D --cluster test --names n1",
        "peer.tls.cert holds",
    );
    diagnosis.only(&["certificate-expires"]);
    let mut patient = with_pair(node, &of("short"), "n1");
    patient.extend(["--certificate-days".to_owned(), "2".to_owned()]);
    assert_eq!(doctor(&patient).code, Some(0));

    // Long ago.
    expired(&certs, &of("over"));
    let diagnosis = doctor(&with_pair(node, &of("over"), "n1"));
    diagnosis.has("certificate-expired", "put certificate and key in their places", "2001-01-01");
    diagnosis.only(&["certificate-expired"]);

    // Another's.
    certificates(&certs, "test", &["n2"]);
    let diagnosis = doctor(&with_pair(node, &certs, "n2"));
    diagnosis.has("certificate-refused", "a new one for raft://test/n1", "names raft://test/n2");
    // Of another authority.
    certificates(&of("other"), "test", &["n1"]);
    let diagnosis = doctor(&with_pair(node, &of("other"), "n1"));
    diagnosis.has("certificate-refused", "raft-node config check", "peer.tls.ca");
}

fn copy_authority(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in ["ca.pem", "ca.key"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

#[test]
fn settings_that_a_start_refuses_and_an_open_listener_are_found() {
    let cluster = prepared();
    let node = &cluster.nodes[0];
    let diagnosis = doctor(&settings(node, &[("election-timeout", "1ms")]));
    diagnosis.has("configuration-refused", "raft-node config check", "`election_timeout`");

    let open = [("client-listen", "0.0.0.0:7080"), ("client-advertise", "node:7080")];
    let diagnosis = doctor(&settings(node, &open));
    diagnosis.has("client-listener-open", "client.tls.client_ca", "client.listen is 0.0.0.0:7080");
    diagnosis.has("client-listener-open", "set auth.token_file", "");
    diagnosis.only(&["client-listener-open"]);

    let diagnosis = doctor(&settings(node, &[("storage-sync", "false")]));
    diagnosis.has("storage-sync-off", "RAFT_STORAGE_SYNC=true", "storage.sync is false");
}

#[test]
fn a_disk_that_is_too_slow_for_the_election_timeout_is_found() {
    let cluster = prepared();
    let library = shim(cluster.dir.path());
    let slow = [("LD_PRELOAD", library.to_str().unwrap()), ("SHIM_SYNC_MILLISECONDS", "60")];
    let short = [("election-timeout", "200ms"), ("heartbeat-interval", "40ms")];
    let diagnosis = doctor_with(&settings(&cluster.nodes[0], &short), &slow);
    let found = diagnosis.has("election-timeout-short", "election_timeout = \"", "of 32 syncs");
    assert!(found["what"].as_str().unwrap().contains("200ms"), "{found}");
    diagnosis.only(&["election-timeout-short"]);
    // The same disk, and a timeout for it.
    assert_eq!(doctor_with(&settings(&cluster.nodes[0], &[]), &slow).code, Some(0));
}

#[test]
fn wrong_owners_and_permissions_are_found() {
    let mut cluster = running();
    cluster.nodes[0].stop();
    let node = &cluster.nodes[0];
    let directory = node.data_dir.to_str().unwrap();
    assert_eq!(doctor(&settings(node, &[])).code, Some(0));
    for mode in [0o500, 0o777] {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode)).unwrap();
        let diagnosis = doctor(&settings(node, &[]));
        let chmod = format!("chmod 0700 {directory}");
        diagnosis.has("data-directory-permissions", &chmod, &format!("its mode is {mode:04o}"));
        diagnosis.only(&["data-directory-permissions"]);
    }
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).unwrap();
    // As after a start by somebody else. Only root may give a file away.
    if rustix::process::geteuid().is_root() {
        let file = node.data_dir.join("IDENTITY");
        chown(&file, Some(4711), None).unwrap();
        let diagnosis = doctor(&settings(node, &[]));
        diagnosis.has("data-directory-permissions", &format!(" {directory}"), "IDENTITY belongs to user 4711");
        diagnosis.has("data-directory-permissions", "chown -R 0:", "");
    }
}

#[test]
fn a_data_directory_of_another_node_cluster_or_process_is_found() {
    let (cluster, other) = (running(), running());
    let (node, stranger) = (&cluster.nodes[0], &other.nodes[0]);
    // Beside the node that has it nothing is wrong but that it is alone.
    doctor(&settings(node, &[])).only(&["no-fault-tolerance"]);
    let directory = node.data_dir.to_str().unwrap();

    certificates(&cluster.dir.path().join("certs"), "test", &["n2"]);
    let pair = |ending: &str| cluster.dir.path().join(format!("certs/n2.{ending}")).to_str().unwrap().to_owned();
    let named = [("name", "n2"), ("peer-tls-cert", &pair("pem")), ("peer-tls-key", &pair("key"))];
    let diagnosis = doctor(&settings(node, &named));
    diagnosis.has("data-directory-of-another", "RAFT_NAME=n1", "belongs to node n1");

    // The other cluster's node is about to be started on this directory, which a process has open.
    let diagnosis = doctor(&settings(stranger, &[("data-dir", directory)]));
    let stop = format!("kill {}", node.pid());
    diagnosis.has("data-directory-in-use", &stop, &format!("process {} holds its lock", node.pid()));
    diagnosis.has(
        "data-directory-of-another",
        &format!("mv {directory} {directory}.old"),
        "the cluster that answers is",
    );

    // A number out of another world of processes is nobody's whom to end.
    let lock = node.data_dir.join("LOCK");
    std::fs::write(&lock, "1\n").unwrap();
    let diagnosis = doctor(&settings(stranger, &[("data-dir", directory)]));
    let stop = format!("fuser -k {}", lock.display());
    let found = diagnosis.has("data-directory-in-use", &stop, "cannot be seen from here");
    assert!(!found["fix"].as_str().unwrap().contains("kill 1"), "{found}");

    // Something else lies there.
    let letters = cluster.dir.path().join("letters");
    std::fs::create_dir(&letters).unwrap();
    std::fs::write(letters.join("letter"), "dear").unwrap();
    let diagnosis = doctor(&settings(node, &[("data-dir", letters.to_str().unwrap())]));
    diagnosis.has("data-directory-unusable", "move the directory away", "letter");
}

#[test]
fn a_node_that_refuses_who_asks_is_not_taken_for_a_silent_one() {
    let mut cluster = prepared();
    let operator = Operator::new(cluster.dir.path());
    operator.guard(&mut cluster.nodes[0]);
    cluster.nodes[0].start();
    operator.await_ready(&cluster.nodes[0]);
    let node = &cluster.nodes[0];

    // Its directory is in use, by the node that does not answer us; nobody shall be told to end it.
    for args in [settings(node, &[]), endpoint(node)] {
        let diagnosis = doctor(&args);
        diagnosis.has("endpoint-refuses", "--token-file", "401");
        diagnosis.only(&["endpoint-refuses"]);
    }
    assert!(doctor(&settings(node, &[])).said.contains("whose process has"));
    // Who is in its directory may look at the node, and who is named at everything.
    let local = node.data_dir.join("local.token");
    let diagnosis = doctor_with(&settings(node, &[]), &[("RAFT_LOCAL_TOKEN_FILE", local.to_str().unwrap())]);
    assert_eq!(diagnosis.code, Some(0), "{}", diagnosis.said);
    assert!(diagnosis.said.contains("the members and their leader"), "{}", diagnosis.said);
    let diagnosis = doctor_with(&settings(node, &[]), &[("RAFT_TOKEN_FILE", operator.token.to_str().unwrap())]);
    diagnosis.has("no-fault-tolerance", "", "");
    diagnosis.only(&["no-fault-tolerance"]);
}

#[test]
fn files_that_a_start_refuses_are_told_of_the_setting_that_names_them() {
    let cluster = prepared();
    let (node, directory) = (&cluster.nodes[0], cluster.dir.path());
    let tokens = directory.join("tokens.toml");
    std::fs::write(&tokens, "nobody = 1").unwrap();
    let diagnosis = doctor(&settings(node, &[("auth-token-file", tokens.to_str().unwrap())]));
    let found = diagnosis.has("configuration-refused", "raft-node token check", "tokens.toml");
    assert_eq!(found["where"], tokens.to_str().unwrap());
    // A certificate for clients that ends soon is not mended with one for peers.
    let short = directory.join("short");
    let made = ["init-certs", "--dir", short.to_str().unwrap(), "--cluster", "test", "--names", "n1", "--days", "3"];
    assert!(cli(&made).status.success());
    let file = |ending: &str| short.join(format!("n1.{ending}")).to_str().unwrap().to_owned();
    let tls = [("client-tls-cert", &*file("pem")), ("client-tls-key", &*file("key"))];
    let diagnosis = doctor(&settings(node, &tls));
    diagnosis.has("certificate-expires", "the places of client.tls.cert and client.tls.key", "client.tls.cert holds");
    diagnosis.only(&["certificate-expires"]);
}

#[test]
fn metrics_tell_of_certificates_that_end_or_cannot_be_used() {
    let mut cluster = prepared();
    let certs = cluster.dir.path().join("certs");
    for file in ["n1.pem", "n1.key"] {
        std::fs::remove_file(certs.join(file)).unwrap();
    }
    let made = ["init-certs", "--dir", certs.to_str().unwrap(), "--cluster", "test", "--names", "n1", "--days", "3"];
    assert!(cli(&made).status.success());
    cluster.nodes[0].start();
    cluster.await_leader();
    let node = &cluster.nodes[0];
    let mut args = endpoint(node);
    args.extend(["--ops".to_owned(), node.ops.clone()]);
    doctor(&args).has("certificate-expires", "peer.tls.cert", "the peer certificate in use holds until");
    // Half a pair, as by a hand that was interrupted.
    certificates(&cluster.dir.path().join("other"), "test", &["n1"]);
    std::fs::copy(cluster.dir.path().join("other/n1.key"), certs.join("n1.key")).unwrap();
    await_that("the node to look at its files", || node.metric("raft_certificate_unusable") == Some(1.0));
    doctor(&args).has("certificate-not-reloaded", "raft-node events", "usage peer is 1");
}
