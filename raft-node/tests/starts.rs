//! Starts and requests that cannot work: each is refused with an error that names the setting and the remedy, and
//! nothing is lost.
// A panic is how a test fails; what a test measured or was told is printed.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::net::{TcpListener, UdpSocket};

use support::http::{Reply, call, raw};
use support::{BINARY, Refused, TestCluster, TestNode, await_some, await_that, certificates, command, scratch};

/// Exit codes of `docs/cli.md`.
const CONFIG: i32 = 3;
const ADDRESS: i32 = 9;
const DATA_DIRECTORY: i32 = 10;

fn expect(refused: &Refused, code: i32, parts: &[&str]) {
    println!("exit code {:?}: {}", refused.code, refused.said.trim_end());
    assert_eq!(refused.code, Some(code), "{}", refused.said);
    for part in parts {
        assert!(refused.said.contains(part), "`{part}` is missing in: {}", refused.said);
    }
    assert!(!refused.said.contains("panicked"), "{}", refused.said);
}

/// A cluster of one that holds `k` = `v`.
fn cluster_of_one() -> TestCluster {
    let cluster = TestCluster::start(1);
    await_that("a write", || cluster.nodes[0].put("k", b"v").is_some_and(|put| put.status == 200));
    cluster
}

fn holds(node: &TestNode) {
    let read = || node.get("/v1/kv/k").filter(|got| got.status == 200);
    assert_eq!(await_some("the value to be read", read).text(), "v");
}

#[test]
fn settings_that_cannot_work_name_themselves_and_the_remedy() {
    let cluster = TestCluster::prepare(1, &[]);
    let node = &cluster.nodes[0];
    let file = cluster.dir.path().join("wrong.toml");
    std::fs::write(&file, "elction_timeout = \"300ms\"\n").unwrap();
    let file = file.to_str().unwrap();
    expect(&node.refused_start(&[("config", file)]), CONFIG, &["elction_timeout", "election_timeout", "wrong.toml"]);
    let late = [("election-timeout", "200ms"), ("heartbeat-interval", "100ms")];
    expect(&node.refused_start(&late), CONFIG, &["heartbeat_interval", "a third of the election timeout"]);
    expect(&node.refused_start(&[("election-timeout", "fast")]), CONFIG, &["election_timeout", "fast"]);
    expect(&node.refused_start(&[("limits-connections-max", "0")]), CONFIG, &["limits.connections_max", "set 1 to"]);
    expect(&node.refused_start(&[("bootstrap", "")]), CONFIG, &["bootstrap"]);
    expect(&node.refused_start(&[("name", "")]), CONFIG, &["name"]);
    let unknown = command(BINARY).args(&node.args).env("RAFT_ELECTION_TIMOUT", "1s").output().unwrap();
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    let refused = Refused { code: unknown.status.code(), said };
    expect(&refused, CONFIG, &["RAFT_ELECTION_TIMOUT", "RAFT_ELECTION_TIMEOUT"]);
    assert!(!node.data_dir.exists(), "a refused start leaves nothing behind");
}

#[test]
fn certificates_that_cannot_be_used_name_the_setting_and_the_remedy() {
    let cluster = TestCluster::prepare(2, &[]);
    let node = &cluster.nodes[0];
    let file = |name: &str| cluster.dir.path().join("certs").join(name).to_str().unwrap().to_owned();
    let missing = file("missing.pem");
    expect(
        &node.refused_start(&[("peer-tls-cert", &missing)]),
        CONFIG,
        &["peer.tls.cert", "missing.pem", "init-certs"],
    );
    expect(&node.refused_start(&[("peer-tls-ca", &missing)]), CONFIG, &["peer.tls.ca", "missing.pem", "init-certs"]);
    expect(&node.refused_start(&[("peer-tls-key", &missing)]), CONFIG, &["peer.tls.key", "missing.pem", "init-certs"]);
    expect(&node.refused_start(&[("peer-tls-key", &file("n2.key"))]), CONFIG, &["peer.tls.key", "peer.tls.cert"]);
    let others = scratch();
    certificates(others.path(), "test", &["n1"]);
    let other = others.path().join("ca.pem");
    expect(&node.refused_start(&[("peer-tls-ca", other.to_str().unwrap())]), CONFIG, &["peer.tls.c"]);
    assert!(!node.data_dir.exists(), "a refused start leaves nothing behind");
}

/// The file FORMAT of a directory that only binaries of format 9 on can read (`docs/storage-format.md`).
fn later_format(now: &[u8]) -> Vec<u8> {
    let mut later = now.to_vec();
    later[20..28].copy_from_slice(&[0, 0, 0, 9, 0, 0, 0, 9]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&later[..16]), &later[20..]);
    later[16..20].copy_from_slice(&checksum.to_be_bytes());
    later
}

#[test]
fn a_data_directory_that_is_not_this_nodes_is_refused_and_keeps_what_it_holds() {
    let mut cluster = cluster_of_one();
    let own = cluster.nodes[0].data_dir.to_str().unwrap().to_owned();
    let others = TestCluster::prepare(1, &[]);

    // A second process on the directory of a running node, with ports of its own.
    let flags = ["client-listen", "ops-listen", "peer-listen"];
    let ports = [&others.nodes[0].client, &others.nodes[0].ops, &others.nodes[0].peer];
    let elsewhere: Vec<(&str, &str)> = flags.into_iter().zip(ports.map(String::as_str)).collect();
    let second = cluster.nodes[0].refused_start(&elsewhere);
    expect(&second, DATA_DIRECTORY, &["data_dir", &own, "in use by process"]);
    assert!(cluster.nodes[0].lives());
    holds(&cluster.nodes[0]);

    // The directory of another node, by its name.
    cluster.nodes[0].kill();
    certificates(&cluster.dir.path().join("certs"), "test", &["n7"]);
    let file = |name: &str| cluster.dir.path().join("certs").join(name).to_str().unwrap().to_owned();
    let bootstrap = format!("n7={}", cluster.nodes[0].peer);
    let as_n7 = [
        ("name", "n7"),
        ("bootstrap", bootstrap.as_str()),
        ("peer-tls-cert", &file("n7.pem")),
        ("peer-tls-key", &file("n7.key")),
    ];
    expect(&cluster.nodes[0].refused_start(&as_n7), DATA_DIRECTORY, &["data_dir", &own, "n1", "n7"]);

    // A directory of something else.
    let foreign = scratch();
    std::fs::write(foreign.path().join("thesis.tex"), "mine").unwrap();
    let path = foreign.path().to_str().unwrap();
    expect(&cluster.nodes[0].refused_start(&[("data-dir", path)]), DATA_DIRECTORY, &["data_dir", path]);
    assert_eq!(std::fs::read_dir(foreign.path()).unwrap().count(), 1, "nothing was written beside what was there");

    // A format of a later version, and a damaged one.
    let format = cluster.nodes[0].data_dir.join("FORMAT");
    let kept = std::fs::read(&format).unwrap();
    std::fs::write(&format, later_format(&kept)).unwrap();
    expect(&cluster.nodes[0].refused_start(&[]), DATA_DIRECTORY, &[&own, "format 9", "newer"]);
    std::fs::write(&format, "999\n").unwrap();
    expect(&cluster.nodes[0].refused_start(&[]), DATA_DIRECTORY, &[&own, "FORMAT is damaged"]);
    std::fs::write(&format, kept).unwrap();

    cluster.nodes[0].start();
    holds(&cluster.nodes[0]);
}

#[test]
fn ports_in_use_name_the_setting_and_the_remedy() {
    let mut cluster = cluster_of_one();
    cluster.nodes[0].kill();
    let node = &cluster.nodes[0];
    for (flag, setting, address) in
        [("client-listen", "client.listen", &node.client), ("ops-listen", "ops.listen", &node.ops)]
    {
        let _taken = TcpListener::bind(address.as_str()).unwrap();
        expect(&node.refused_start(&[(flag, address)]), ADDRESS, &[setting, address, "another port"]);
    }
    {
        let _taken = UdpSocket::bind(node.peer.as_str()).unwrap();
        let refused = node.refused_start(&[]);
        expect(&refused, ADDRESS, &["peer.listen", &node.peer, "in use"]);
    }
    cluster.nodes[0].start();
    holds(&cluster.nodes[0]);
}

/// Expects a problem with a status and a code; a write says that it was not applied.
fn problem(reply: Option<Reply>, status: u16, code: &str, parts: &[&str]) {
    let reply = reply.expect("an answer");
    println!("{} {}", reply.status, reply.text());
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let body = reply.json();
    assert_eq!(body["code"], code);
    let detail = body["detail"].as_str().unwrap();
    for part in parts {
        assert!(detail.contains(part), "`{part}` is missing in: {detail}");
    }
}

fn problem_of_write(reply: Option<Reply>, status: u16, code: &str, parts: &[&str]) {
    assert_eq!(reply.as_ref().expect("an answer").json()["outcome"], "not_applied");
    problem(reply, status, code, parts);
}

#[test]
fn requests_that_cannot_work_name_the_limit_and_lose_nothing() {
    let cluster = cluster_of_one();
    let node = &cluster.nodes[0];
    let before = node.status().unwrap()["last_index"].clone();
    let put = |path: &str, body: &[u8]| call(&node.client, "PUT", path, &[], body);
    let batch = |body: &str| call(&node.client, "POST", "/v1/kv/batch", &[], body.as_bytes());

    let key = "a".repeat(8193);
    problem_of_write(put(&format!("/v1/kv/{key}"), b"v"), 413, "key_too_large", &["limits.key_bytes_max", "8192"]);
    problem(node.get(&format!("/v1/kv/{key}")), 413, "key_too_large", &["limits.key_bytes_max"]);
    let value = vec![b'v'; 1_572_865];
    problem_of_write(put("/v1/kv/k", &value), 413, "value_too_large", &["limits.value_bytes_max", "1572864"]);
    for malformed in ["%", "a%2", "a%zz"] {
        problem_of_write(put(&format!("/v1/kv/{malformed}"), b"v"), 400, "malformed_key", &["%", "%25"]);
    }
    problem_of_write(put("/v1/kv/", b"v"), 400, "malformed_key", &["empty"]);
    problem(node.get("/v1/kv/k?consistency=eventual"), 400, "unknown_consistency", &["eventual", "linearizable"]);
    problem(node.get("/v1/kv/k?consistancy=local"), 400, "malformed_parameter", &["consistancy", "consistency"]);
    problem_of_write(put("/v1/kv/k?timeout=1h", b"v"), 400, "malformed_parameter", &["limits.request_timeout_max"]);
    for json in ["", "{", "[]", "{\"operations\":[]}", "{\"operations\":[{\"op\":\"put\",\"key\":\"aw==\"}]}"] {
        problem_of_write(batch(json), 400, "malformed_body", &[]);
    }
    let not_base64 = "{\"operations\":[{\"op\":\"put\",\"key\":\"*\",\"value\":\"\"}]}";
    problem_of_write(batch(not_base64), 400, "malformed_body", &["base64", "key"]);
    let operation = "{\"op\":\"delete\",\"key\":\"aw==\"}";
    let many = format!("{{\"operations\":[{}]}}", vec![operation; 129].join(","));
    problem_of_write(batch(&many), 413, "batch_too_large", &["limits.batch_operations_max", "128"]);
    problem(node.get("/v1/nothing"), 404, "route_not_found", &[]);
    problem(call(&node.client, "POST", "/v1/kv/k", &[], b"v"), 405, "method_not_allowed", &[]);

    let garbage = raw(&node.client, b"\x16\x03\x01 this is no HTTP\r\n\r\n");
    assert!(garbage.is_none_or(|reply| reply.status == 400), "garbage is answered with 400 or closed");
    let status = node.status().unwrap();
    assert_eq!(status["last_index"], before, "none of them reached the log");
    holds(node);

    // At the limits, not beyond: these work.
    let key = "b".repeat(8192);
    assert_eq!(put(&format!("/v1/kv/{key}"), &value[1..]).unwrap().status, 200);
    assert_eq!(node.get(&format!("/v1/kv/{key}")).unwrap().body, &value[1..]);
    let limits = node.get("/v1/limits").unwrap().json();
    assert_eq!(
        (&limits["node"]["limits.key_bytes_max"], &limits["cluster"]["kv.value_bytes_max"]),
        (&8192.into(), &1_572_864.into())
    );
}
