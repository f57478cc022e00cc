//! Certificates and authorities that are replaced under load, and replacements that cannot be used.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use support::http::call;
use support::{TestCluster, TestNode, await_that, certificates};

/// A counter of one usage and result.
fn reloads(node: &TestNode, result: &str) -> f64 {
    node.metric(&format!("raft_certificate_reloads_total{{result=\"{result}\",usage=\"peer\"}}")).unwrap_or_default()
}

fn unusable(node: &TestNode) -> f64 {
    node.metric("raft_certificate_unusable").unwrap_or_default()
}

/// Puts a file in the place of another one, at once.
fn put(to: &Path, bytes: &[u8]) {
    let fresh = to.with_extension("fresh");
    std::fs::write(&fresh, bytes).unwrap();
    std::fs::rename(fresh, to).unwrap();
}

/// The directory of the certificates that the cluster's nodes use.
fn directory(cluster: &TestCluster) -> PathBuf {
    cluster.dir.path().join("certs")
}

/// Waits until every node uses what the files hold, after one more change.
fn await_used(cluster: &TestCluster, before: &[f64]) {
    for (node, before) in cluster.nodes.iter().zip(before) {
        await_that("a reload", || reloads(node, "used") > *before && unusable(node) == 0.0);
    }
}

fn used(cluster: &TestCluster) -> Vec<f64> {
    cluster.nodes.iter().map(|node| reloads(node, "used")).collect()
}

/// From the authority in the files to a new one, without a gap.
fn exchange_authority(cluster: &TestCluster, name: &str) {
    let (certs, fresh) = (directory(cluster), cluster.dir.path().join(name));
    let names: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    certificates(&fresh, "test", &names);
    let (old, new) = (std::fs::read(certs.join("ca.pem")).unwrap(), std::fs::read(fresh.join("ca.pem")).unwrap());
    let before = used(cluster);
    put(&certs.join("ca.pem"), &[old, new.clone()].concat());
    await_used(cluster, &before);
    let before = used(cluster);
    for name in names {
        for file in [format!("{name}.pem"), format!("{name}.key")] {
            put(&certs.join(&file), &std::fs::read(fresh.join(&file)).unwrap());
        }
    }
    await_used(cluster, &before);
    let before = used(cluster);
    put(&certs.join("ca.pem"), &new);
    await_used(cluster, &before);
}

#[test]
fn the_authority_is_exchanged_twice_under_load_and_no_request_fails() {
    let cluster = TestCluster::start(3);
    let (over, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let (node, over, written) = (&cluster.nodes[client % 3], &over, &written);
                scope.spawn(move || {
                    let mut number = 0;
                    while !over.load(Ordering::Acquire) {
                        number += 1;
                        // Under a key, so that a node may send again what it passed on to the leader.
                        let key = format!("client{client}-{number}");
                        let path = format!("/v1/kv/{client}?timeout=5s");
                        let value = number.to_string();
                        let reply = call(&node.client, "PUT", &path, &[("Idempotency-Key", &key)], value.as_bytes());
                        let reply = reply.unwrap_or_else(|| panic!("{} gave no answer to {key}", node.name));
                        assert_eq!(reply.status, 200, "{key} at {}: {}", node.name, reply.text());
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                    number
                })
            })
            .collect();
        let exchanged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            exchange_authority(&cluster, "second");
            exchange_authority(&cluster, "third");
            // All of it works with the last authority alone: who starts now has never seen another one.
            await_that("connections", || {
                cluster.nodes.iter().all(|node| node.metric("raft_peer_connected") == Some(2.0))
            });
        }));
        over.store(true, Ordering::Release);
        for (client, thread) in clients.into_iter().enumerate() {
            let last = thread.join().unwrap();
            let reply = cluster.nodes[0].get(&format!("/v1/kv/{client}")).unwrap();
            assert_eq!(reply.text(), last.to_string(), "the last write of client {client}");
        }
        exchanged.unwrap();
    });
    assert!(written.load(Ordering::Relaxed) > 100, "hardly any load: {written:?} writes");
    for node in &cluster.nodes {
        assert!(reloads(node, "used") >= 6.0, "{}", node.name);
    }
}

#[test]
fn what_cannot_be_used_is_told_and_the_last_good_stays() {
    let mut cluster = TestCluster::start(3);
    let certs = directory(&cluster);
    let (pem, key) = (certs.join("n1.pem"), certs.join("n1.key"));
    let good = (std::fs::read(&pem).unwrap(), std::fs::read(&key).unwrap());
    let expiry = cluster.nodes[0].metric("raft_certificate_expiry_seconds").unwrap();
    let told = |node: &TestNode, wanted: &str| {
        await_that(wanted, || {
            let events = node.get("/v1/events?limit=50").unwrap().text();
            unusable(node) == 1.0 && events.contains(wanted)
        });
    };
    // The certificate of another node, of the right authority.
    put(&key, &std::fs::read(certs.join("n2.key")).unwrap());
    put(&pem, &std::fs::read(certs.join("n2.pem")).unwrap());
    told(&cluster.nodes[0], "names raft://test/n2");
    // One that has expired: made by hand, since nobody issues such a one.
    let over = cluster.dir.path().join("over");
    expired(&certs, &over);
    put(&key, &std::fs::read(over.join("n1.key")).unwrap());
    put(&pem, &std::fs::read(over.join("n1.pem")).unwrap());
    told(&cluster.nodes[0], "does not hold against peer.tls.ca");
    assert_eq!(cluster.nodes[0].metric("raft_certificate_expiry_seconds"), Some(expiry), "the last good one is used");
    // It still works with the last good one: a peer that restarts finds it.
    cluster.nodes[1].kill();
    cluster.nodes[1].start();
    await_that("a connection", || cluster.nodes[1].metric("raft_peer_connected") == Some(2.0));
    put(&key, &good.1);
    put(&pem, &good.0);
    await_that("the good one", || unusable(&cluster.nodes[0]) == 0.0);
    assert!(reloads(&cluster.nodes[0], "unusable") >= 2.0);
}

/// A certificate of n1 by the cluster's own authority that ended long ago.
fn expired(certs: &Path, directory: &Path) {
    let read = |file: &str| std::fs::read_to_string(certs.join(file)).unwrap();
    let authority = rcgen::KeyPair::from_pem(&read("ca.key")).unwrap();
    let authority = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), authority).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI("raft://test/n1".try_into().unwrap())];
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2000, 1, 1), rcgen::date_time_ymd(2001, 1, 1));
    let certificate = params.signed_by(&key, &authority).unwrap();
    std::fs::create_dir(directory).unwrap();
    std::fs::write(directory.join("n1.pem"), certificate.pem()).unwrap();
    std::fs::write(directory.join("n1.key"), key.serialize_pem()).unwrap();
}
