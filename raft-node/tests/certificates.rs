//! Certificates and authorities that are replaced under load, and replacements that cannot be used.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::connection::{Connection, tls_client};
use support::http::call;
use support::{TestCluster, TestNode, await_that, certificates, expired, scratch};

/// A counter of one usage and result.
fn counted(node: &TestNode, usage: &str, result: &str) -> f64 {
    let series = format!("raft_certificate_reloads_total{{result=\"{result}\",usage=\"{usage}\"}}");
    node.metric(&series).unwrap_or_default()
}

fn reloads(node: &TestNode, result: &str) -> f64 {
    counted(node, "peer", result)
}

/// How many usages have files that cannot be used.
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

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(30);

/// An authority for clients and for what they are served with.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// Certificate and key for these hosts.
    fn issue(&self, hosts: &[String], years: (i32, i32)) -> (String, String) {
        let mut params = rcgen::CertificateParams::default();
        let address = |host: &String| rcgen::SanType::IpAddress(host.split(':').next().unwrap().parse().unwrap());
        params.subject_alt_names = hosts.iter().map(address).collect();
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(years.0, 1, 1), rcgen::date_time_ymd(years.1, 1, 1));
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

const VALID: (i32, i32) = (2020, 2200);

/// A cluster that serves clients over TLS and wants certificates of them, and the files of both sides.
struct Secured {
    cluster: TestCluster,
    files: tempfile::TempDir,
}

impl Secured {
    fn start(authority: &Authority) -> Self {
        let files = scratch();
        let path = |file: &str| files.path().join(file).to_str().unwrap().to_owned();
        let (pem, key, ca) = (path("server.pem"), path("server.key"), path("client_ca.pem"));
        // Idle connections stay: nothing but what is tested closes them.
        let idle = ["--limits-header-read-timeout", "5m"];
        let flags =
            ["--client-tls-cert", &pem, "--client-tls-key", &key, "--client-tls-client-ca", &ca, idle[0], idle[1]];
        let cluster = TestCluster::prepare(3, &flags);
        let mut secured = Self { cluster, files };
        secured.put("client_ca.pem", &authority.pem);
        secured.put("roots.pem", &authority.pem);
        secured.serve(authority.issue(&secured.cluster.clients(), VALID));
        secured.give(authority);
        for node in &mut secured.cluster.nodes {
            node.start();
        }
        for node in &secured.cluster.nodes {
            await_that("a node that is ready", || {
                call(&node.ops, "GET", "/readyz", &[], b"").is_some_and(|reply| reply.status == 200)
            });
        }
        secured
    }

    fn put(&self, file: &str, text: &str) {
        put(&self.files.path().join(file), text.as_bytes());
    }

    /// What the nodes serve clients with.
    fn serve(&self, (pem, key): (String, String)) {
        self.put("server.key", &key);
        self.put("server.pem", &pem);
    }

    /// A certificate for the clients.
    fn give(&self, authority: &Authority) {
        let (pem, key) = authority.issue(&[], VALID);
        self.put("client.key", &key);
        self.put("client.pem", &pem);
    }

    /// A client as the files say now.
    fn client(&self, protocols: &[&[u8]]) -> Arc<rustls::ClientConfig> {
        let path = |file: &str| self.files.path().join(file);
        tls_client(&path("roots.pem"), &path("client.pem"), &path("client.key"), protocols)
    }

    fn used(&self) -> Vec<f64> {
        self.cluster.nodes.iter().map(|node| counted(node, "client", "used")).collect()
    }

    /// Waits until every node uses what `change` has changed.
    fn change(&self, change: impl FnOnce(&Self)) {
        let before = self.used();
        change(self);
        for (node, before) in self.cluster.nodes.iter().zip(before) {
            await_that("a reload", || counted(node, "client", "used") > before && unusable(node) == 0.0);
        }
    }
}

/// Puts until told to stop; every single request has to succeed, at its first try. A client that keeps its connection makes
/// a new one when an answer says that it was the last.
fn put_until(node: &TestNode, number: usize, over: &AtomicBool, config: &Mutex<Arc<rustls::ClientConfig>>) -> u64 {
    let (mut kept, mut done): (Option<Connection>, u64) = (None, 0);
    while !over.load(Ordering::Acquire) {
        let fresh = || Connection::secure(&node.client, &config.lock().unwrap(), LIMIT).expect("a connection");
        let mut connection = kept.take().unwrap_or_else(fresh);
        let key = format!("tls{number}-{done}");
        let path = format!("/v1/kv/tls{number}?timeout=10s");
        let answer = connection.call("PUT", &path, &[("Idempotency-Key", &key)], key.as_bytes(), LIMIT);
        let answer = answer.unwrap_or_else(|| panic!("{} gave no answer to {key}", node.name));
        assert_eq!(answer.status, 200, "{key} at {}: {}", node.name, answer.text());
        done += 1;
        if number.is_multiple_of(2) && !answer.closes() {
            kept = Some(connection);
        }
    }
    done
}

#[test]
fn the_clients_authority_is_exchanged_twice_under_load_and_no_request_fails() {
    let mut current = Authority::new("first");
    let secured = Secured::start(&current);
    let (over, config) = (AtomicBool::new(false), Mutex::new(secured.client(&[b"http/1.1"])));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|number| {
                let (node, over, config) = (&secured.cluster.nodes[number % 3], &over, &config);
                scope.spawn(move || put_until(node, number, over, config))
            })
            .collect();
        let exchanged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for name in ["second", "third"] {
                let next = Authority::new(name);
                let both = format!("{}{}", current.pem, next.pem);
                // Both sides trust both; then each side gets its new certificate; then the old authority goes.
                secured.put("roots.pem", &both);
                secured.change(|secured| secured.put("client_ca.pem", &both));
                *config.lock().unwrap() = secured.client(&[b"http/1.1"]);
                secured.change(|secured| secured.serve(next.issue(&secured.cluster.clients(), VALID)));
                secured.give(&next);
                secured.put("roots.pem", &next.pem);
                *config.lock().unwrap() = secured.client(&[b"http/1.1"]);
                secured.change(|secured| secured.put("client_ca.pem", &next.pem));
                current = next;
            }
        }));
        over.store(true, Ordering::Release);
        let done: Vec<u64> = clients.into_iter().map(|thread| thread.join().unwrap()).collect();
        exchanged.unwrap();
        assert!(done.iter().all(|done| *done > 10), "hardly any load: {done:?}");
    });
    for node in &secured.cluster.nodes {
        assert!(counted(node, "client", "used") >= 6.0, "{}", node.name);
    }
}

/// A request over HTTP/2 by hand (RFC 9113): preface, settings, and `GET /` in stream 1.
fn second_version(host: &str) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // Indexed fields of the static table (RFC 7541, appendix A): GET, https, `/`; and `:authority`, as a literal.
    let mut fields = vec![0x82, 0x87, 0x84, 0x41, u8::try_from(host.len()).unwrap()];
    fields.extend_from_slice(host.as_bytes());
    bytes.extend_from_slice(&[0, 0, u8::try_from(fields.len()).unwrap(), 1, 0x05, 0, 0, 0, 1]);
    bytes.extend_from_slice(&fields);
    bytes
}

/// Reads frames until one is of this type.
fn await_frame(connection: &mut Connection, wanted: u8) {
    loop {
        let head = connection.take(9, LIMIT).expect("a frame");
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        connection.take(length, LIMIT).expect("the rest of a frame");
        if head[3] == wanted {
            return;
        }
    }
}

#[test]
fn connections_of_an_authority_that_was_dropped_are_asked_to_end_and_then_closed() {
    const HEADERS: u8 = 1;
    const GO_AWAY: u8 = 7;
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let secured = Secured::start(&old);
    let host = &secured.cluster.nodes[0].client;
    let connect = |protocol: &[u8]| Connection::secure(host, &secured.client(&[protocol]), LIMIT).unwrap();
    let ask = |connection: &mut Connection| connection.call("GET", "/v1/limits", &[], b"", LIMIT).expect("an answer");
    secured.change(|secured| secured.put("client_ca.pem", &format!("{}{}", old.pem, new.pem)));
    let (mut first, mut idle, mut second) = (connect(b"http/1.1"), connect(b"http/1.1"), connect(b"h2"));
    secured.give(&new);
    let mut kept = connect(b"http/1.1");
    for connection in [&mut first, &mut idle, &mut kept] {
        let answer = ask(connection);
        assert!(answer.status == 200 && !answer.closes(), "{answer:?}");
    }
    second.send(&second_version(host));
    await_frame(&mut second, HEADERS);
    secured.change(|secured| secured.put("client_ca.pem", &new.pem));
    // HTTP/1: the next answer is the last. HTTP/2: it is told at once. Nothing is said to one that is idle: it is closed.
    let answer = ask(&mut first);
    assert!(answer.status == 200 && answer.closes(), "{answer:?}");
    assert_eq!(first.until_closed(LIMIT), Some(Vec::new()));
    await_frame(&mut second, GO_AWAY);
    assert!(second.until_closed(LIMIT).is_some(), "HTTP/2 goes on");
    assert_eq!(idle.until_closed(LIMIT), Some(Vec::new()), "it is still open");
    let answer = ask(&mut kept);
    assert!(answer.status == 200 && !answer.closes(), "one of the authority that stays: {answer:?}");
}

#[test]
fn what_clients_cannot_be_served_with_is_told_and_the_last_good_stays() {
    let authority = Authority::new("ours");
    let secured = Secured::start(&authority);
    let (node, hosts) = (&secured.cluster.nodes[0], secured.cluster.clients());
    let good = authority.issue(&hosts, VALID);
    secured.change(|secured| secured.serve(good.clone()));
    let series = "raft_certificate_expiry_seconds{usage=\"client\"}";
    let expiry = node.metric(series);
    let ask = || {
        let mut connection = Connection::secure(&node.client, &secured.client(&[b"http/1.1"]), LIMIT).unwrap();
        connection.call("GET", "/v1/events?limit=50", &[], b"", LIMIT).expect("an answer by the last good one").text()
    };
    let told = |change: &dyn Fn(), wanted: &str| {
        let before = counted(node, "client", "unusable");
        change();
        await_that(wanted, || {
            counted(node, "client", "unusable") > before && unusable(node) == 1.0 && ask().contains(wanted)
        });
    };
    told(&|| secured.serve(authority.issue(&hosts, (2000, 2001))), "it has expired");
    told(&|| secured.serve(authority.issue(&hosts, (2150, 2200))), "it is not valid yet");
    // A pair that is half replaced, and stays so.
    let other = authority.issue(&hosts, VALID);
    told(&|| secured.serve((other.0.clone(), good.1.clone())), "keys may not be consistent");
    told(&|| secured.put("client_ca.pem", "nothing"), "it holds no certificate");
    assert_eq!(node.metric(series), expiry, "the last good one is used");
    secured.put("client_ca.pem", &authority.pem);
    secured.serve(good);
    await_that("the good one", || unusable(node) == 0.0);
    assert!(counted(node, "client", "unusable") >= 4.0);
    // At a start nobody could be served with one that is not valid yet.
    let (pem, key) = authority.issue(&hosts, (2150, 2200));
    let early = scratch();
    let (early_pem, early_key) = (early.path().join("early.pem"), early.path().join("early.key"));
    std::fs::write(&early_pem, pem).unwrap();
    std::fs::write(&early_key, key).unwrap();
    let flags = [("client-tls-cert", early_pem.to_str().unwrap()), ("client-tls-key", early_key.to_str().unwrap())];
    let refused = TestCluster::prepare(1, &[]).nodes[0].refused_start(&flags);
    assert!(refused.code == Some(3) && refused.said.contains("it is not valid yet"), "{refused:?}");
}
