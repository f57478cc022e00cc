//! Clients that do not behave: each is answered or cut off as docs/bad-input.md states, nothing of theirs reaches the log,
//! and the others do not notice.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use support::http::{Reply, call, raw};
use support::{PATIENCE, TestCluster, TestNode, await_that};

/// A node that is a cluster by itself and has little patience with clients.
fn one(extra: &[&str]) -> TestCluster {
    let impatient = ["--limits-header-read-timeout", "500ms"];
    let mut cluster = TestCluster::prepare(1, &[&impatient[..], extra].concat());
    cluster.nodes[0].start();
    cluster.await_leader();
    // Behind it the log stands still.
    await_that("the first write", || cluster.nodes[0].put("first", b"").is_some_and(|reply| reply.status == 200));
    cluster
}

/// The node works, has not appended anything since `before`, and never panicked.
fn unharmed(node: &TestNode, before: &serde_json::Value) {
    assert_eq!(&node.status().unwrap()["last_index"], before, "something reached the log");
    assert_eq!(node.put("still", b"works").unwrap().status, 200);
    assert_eq!(node.get("/v1/kv/still").unwrap().body, b"works");
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

fn last_index(node: &TestNode) -> serde_json::Value {
    node.status().unwrap()["last_index"].clone()
}

fn expect(case: &str, reply: Option<&Reply>, status: u16, code: &str) {
    let reply = reply.unwrap_or_else(|| panic!("{case}: no answer"));
    assert_eq!(reply.status, status, "{case}: {}", reply.text());
    if !code.is_empty() {
        let problem = reply.json();
        assert_eq!(problem["code"], code, "{case}");
        if matches!(code, "malformed_body" | "value_too_large" | "batch_too_large") {
            assert_eq!(problem["outcome"], "not_applied", "{case}");
        }
    }
}

/// A request with a head of our own.
fn with_head(head: &str, body: &[u8]) -> Vec<u8> {
    [head.as_bytes(), b"\r\n\r\n", body].concat()
}

#[test]
fn heads_that_are_none_are_refused() {
    let cluster = one(&[]);
    let node = &cluster.nodes[0];
    let before = last_index(node);
    let long = "a".repeat(70 << 10);
    let many: String = (0..200).map(|nth| format!("\r\nx-{nth}: 1")).collect();
    let cases: [(&str, Vec<u8>, u16); 12] = [
        (
            "a path beyond the longest head",
            with_head(&format!("GET /v1/kv/{long} HTTP/1.1\r\nhost: localhost"), b""),
            431,
        ),
        ("a header beyond the longest head", with_head(&format!("GET /v1/node HTTP/1.1\r\nx: {long}"), b""), 431),
        ("two hundred headers", with_head(&format!("GET /v1/node HTTP/1.1\r\nhost: localhost{many}"), b""), 431),
        ("no HTTP", with_head("\x01\x02\x03", b""), 400),
        ("a version that there is not", with_head("GET /v1/node HTTP/7.7\r\nhost: localhost", b""), 400),
        ("a space in the path", with_head("GET /v1/kv/a b HTTP/1.1\r\nhost: localhost", b""), 400),
        ("a header without a colon", with_head("GET /v1/node HTTP/1.1\r\nhost", b""), 400),
        ("a header name with a space", with_head("GET /v1/node HTTP/1.1\r\nho st: n", b""), 400),
        ("a NUL in a header", with_head("GET /v1/node HTTP/1.1\r\nhost: localhost\r\nx: \0", b""), 400),
        ("two lengths", with_head("PUT /v1/kv/k HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2", b"xy"), 400),
        ("a length below zero", with_head("PUT /v1/kv/k HTTP/1.1\r\ncontent-length: -1", b"x"), 400),
        ("chunks that are none", with_head("PUT /v1/kv/k HTTP/1.1\r\ntransfer-encoding: chunked", b"zz\r\nx"), 400),
    ];
    for (case, bytes, status) in cases {
        expect(case, raw(&node.client, &bytes).as_ref(), status, "");
    }
    for method in ["TRACE", "CONNECT", "PATCH", "BREW"] {
        let reply = raw(&node.client, &with_head(&format!("{method} /v1/node HTTP/1.1\r\nconnection: close"), b""));
        assert!(reply.is_none_or(|reply| (400..500).contains(&reply.status)), "{method}");
    }
    unharmed(node, &before);
}

#[test]
fn a_request_behind_junk_is_not_carried_out() {
    let cluster = one(&[]);
    let node = &cluster.nodes[0];
    let first = with_head("GET /v1/limits HTTP/1.1\r\nhost: localhost", b"");
    let put = with_head("PUT /v1/kv/smuggled HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1", b"x");
    let reply = raw(&node.client, &[&first[..], b"\x00junk\r\n\r\n", &put].concat()).unwrap();
    assert_eq!(reply.status, 200, "what came before the junk is answered");
    assert!(!reply.text().contains("\"revision\""), "{}", reply.text());
    // A length and chunks: one of two readers would take the rest for a request of its own. It ends the connection.
    let both = "PUT /v1/kv/k HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\nif-match: \"1\"";
    let reply = raw(&node.client, &[with_head(both, b"0\r\n\r\n"), put].concat()).unwrap();
    assert_eq!(reply.status, 412, "{}", reply.text());
    assert!(!reply.text().contains("\"revision\""), "the request behind was carried out");
    assert_eq!(node.get("/v1/kv/smuggled").unwrap().status, 404);
    let before = last_index(node);
    // HTTP/2 whose first frame is none.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut stream = TcpStream::connect(&node.client).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[&preface[..], &[0xff; 64]].concat()).unwrap();
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    unharmed(node, &before);
}

#[test]
fn bodies_that_do_not_end_or_are_too_long_cost_their_request_only() {
    let cluster = one(&[]);
    let node = &cluster.nodes[0];
    let before = last_index(node);
    let huge = 64 << 20;
    // Refused by what they announce: nothing of them is read, nor asked for.
    for expectation in ["", "\r\nexpect: 100-continue"] {
        let head = format!("PUT /v1/kv/k HTTP/1.1\r\nhost: localhost\r\ncontent-length: {huge}{expectation}");
        expect("a value of 64 MiB", raw(&node.client, &with_head(&head, b"")).as_ref(), 413, "value_too_large");
        let head = format!("POST /v1/kv/batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: {huge}{expectation}");
        expect("a batch of 64 MiB", raw(&node.client, &with_head(&head, b"")).as_ref(), 413, "batch_too_large");
    }
    let chunk = [&b"100000\r\n"[..], &vec![b'x'; 1 << 20], b"\r\n"].concat();
    let head = with_head("PUT /v1/kv/k HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked", b"");
    let reply = raw(&node.client, &[&head[..], &chunk, &chunk, b"0\r\n\r\n"].concat());
    expect("chunks of 2 MiB", reply.as_ref(), 413, "value_too_large");
    // Without an end: the deadline of the request ends the wait, and the write surely was not done.
    let dribbles = [
        ("a body that stops", "content-length: 100", &b"only this"[..]),
        ("chunks without an end", "transfer-encoding: chunked", b"4\r\nonly\r\n"),
    ];
    for (case, length, body) in dribbles {
        let head = format!("PUT /v1/kv/k?timeout=200ms HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{length}");
        let reply = raw(&node.client, &with_head(&head, body));
        expect(case, reply.as_ref(), 504, "deadline");
        assert_eq!(reply.unwrap().json()["outcome"], "not_applied", "{case}");
    }
    unharmed(node, &before);
}

#[test]
fn json_that_is_no_batch_is_refused() {
    let cluster = one(&[]);
    let node = &cluster.nodes[0];
    let before = last_index(node);
    let deep = format!("{{\"operations\":{}", "[".repeat(100_000));
    let deep_objects = "{\"operations\":".repeat(100_000);
    let with = |operation: &str| format!("{{\"operations\":[{operation}]}}").into_bytes();
    let put = |more: &str| with(&format!("{{\"op\":\"put\",\"key\":\"aw==\",\"value\":\"\"{more}}}"));
    let cases: [(&str, Vec<u8>); 16] = [
        ("arrays 100,000 deep", deep.into_bytes()),
        ("objects 100,000 deep", deep_objects.into_bytes()),
        ("a field twice", put(",\"key\":\"aw==\"")),
        ("the operation twice", put(",\"op\":\"delete\"")),
        ("the operations twice", b"{\"operations\":[],\"operations\":[]}".to_vec()),
        ("an unknown field", put(",\"if_macth\":1")),
        ("an unknown operation", with("{\"op\":\"increment\",\"key\":\"aw==\"}")),
        ("NaN", put(",\"if_match\":NaN")),
        ("a number beyond any", put(",\"if_match\":1e999")),
        ("a number beyond 64 bits", put(",\"if_match\":18446744073709551616")),
        ("a number below zero", put(",\"if_match\":-1")),
        ("a broken number", put(",\"if_match\":1.5")),
        ("bytes that are no UTF-8", [&b"{\"operations\":[{\"op\":\"\xff\xfe"[..], b"\"}]}"].concat()),
        ("half a surrogate", with("{\"op\":\"\\ud800\",\"key\":\"aw==\"}")),
        ("something behind it", [put(""), b"{}".to_vec()].concat()),
        ("an array for the object", b"[[{\"op\":\"delete\",\"key\":\"aw==\"}]]".to_vec()),
    ];
    for (case, body) in cases {
        let reply = call(&node.client, "POST", "/v1/kv/batch", &[], &body);
        expect(case, reply.as_ref(), 400, "malformed_body");
    }
    // The same reader judges what administrators send.
    for (case, body) in [("deep", "[".repeat(100_000)), ("unknown", "{\"voter\":[]}".into()), ("none", "NaN".into())] {
        let reply = call(&node.client, "PUT", "/v1/cluster/members", &[], body.as_bytes());
        let reply = reply.unwrap_or_else(|| panic!("{case}: no answer"));
        assert_eq!(reply.status, 400, "{case}: {}", reply.text());
    }
    unharmed(node, &before);
}

#[test]
fn any_bytes_are_a_key_and_no_key_is_a_path() {
    let cluster = one(&[]);
    let node = &cluster.nodes[0];
    let keys = ["..", "../../etc/passwd", "a/../b", "b", ".", "%2e%2e", "%00", "%00%0d%0a", "%ff%fe", "//", "a//b"];
    for key in keys {
        assert_eq!(node.put(key, key.as_bytes()).unwrap().status, 200, "{key}");
    }
    for key in keys {
        // `%2e%2e` is `..`: the later value stands under both.
        let value = if key == ".." { "%2e%2e" } else { key };
        assert_eq!(node.get(&format!("/v1/kv/{key}")).unwrap().text(), value, "{key}");
    }
    // A key with the ends of lines in it does not write headers.
    let missing = node.get("/v1/kv/%0d%0aset-cookie:%20a=b").unwrap();
    assert_eq!((missing.status, missing.header("set-cookie")), (404, None));
    let wrong = [("raft-token", "\u{7f}"), ("idempotency-key", ""), ("if-match", "one"), ("if-none-match", "\"x\"")];
    let before = last_index(node);
    for (header, value) in wrong {
        let reply = call(&node.client, "PUT", "/v1/kv/k", &[(header, value)], b"x").unwrap();
        assert_eq!(reply.status, 400, "{header}: {}", reply.text());
    }
    unharmed(node, &before);
}

#[test]
fn connections_that_say_nothing_are_bounded_and_make_room() {
    let cluster = one(&["--limits-connections-max", "200"]);
    let node = &cluster.nodes[0];
    let before = last_index(node);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count();
    let at_rest = descriptors();
    let idle: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(&node.client).unwrap()).collect();
    await_that("as many connections as allowed", || descriptors() >= at_rest + 190);
    assert!(descriptors() <= at_rest + 210, "{} descriptors after {at_rest}", descriptors());
    // It waits in the queue until the silent ones before it are cut off, and is answered then.
    assert_eq!(node.get("/v1/limits").unwrap().status, 200);
    // The probes have a listener of their own.
    assert_eq!(call(&node.ops, "GET", "/livez", &[], b"").unwrap().status, 200);
    for mut stream in idle {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let ended = stream.read(&mut [0; 1]);
        assert!(matches!(ended, Ok(0)) || ended.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock));
    }
    unharmed(node, &before);
}

#[test]
fn what_clients_make_up_is_no_label_and_what_they_store_is_told_nowhere() {
    let cluster = one(&["--log-filter", "trace"]);
    let node = &cluster.nodes[0];
    let series = || {
        let text = call(&node.ops, "GET", "/metrics", &[], b"").unwrap().text();
        text.lines().filter(|line| line.starts_with("raft_http_")).count()
    };
    let paths = |nth: u32| [format!("/v1/kv/made-up-{nth}"), format!("/made/up/{nth}"), format!("/v1/outcomes/m{nth}")];
    let ask = |nth: u32| {
        for path in paths(nth) {
            assert!(node.get(&path).is_some());
            assert!(call(&node.client, &format!("METHOD{nth}"), &path, &[], b"").is_some());
        }
    };
    ask(0);
    let before = series();
    for nth in 1..100 {
        ask(nth);
    }
    assert_eq!(series(), before, "new series for what clients made up");
    let secrets = ["secret-of-the-key", "secret-of-the-value", "secret-of-idempotency"];
    let put = call(
        &node.client,
        "PUT",
        "/v1/kv/secret-of-the-key",
        &[("Idempotency-Key", "secret-of-idempotency")],
        b"secret-of-the-value",
    );
    assert_eq!(put.unwrap().status, 200);
    assert_eq!(node.get("/v1/kv/secret-of-the-key").unwrap().text(), "secret-of-the-value");
    let told = [
        call(&node.ops, "GET", "/metrics", &[], b"").unwrap().text(),
        call(&node.ops, "GET", "/readyz?verbose", &[], b"").unwrap().text(),
        node.get("/v1/node").unwrap().text(),
        node.get("/v1/cluster").unwrap().text(),
        node.get("/v1/events").unwrap().text(),
        node.log(),
    ];
    for secret in secrets {
        for told in &told {
            assert!(!told.contains(secret), "{secret} in {told}");
        }
    }
}

#[test]
fn answers_that_nobody_takes_are_bounded_and_end() {
    let cluster = one(&["--limits-bytes-in-flight-max", "4MiB"]);
    let node = &cluster.nodes[0];
    assert_eq!(node.put("long", &vec![b'x'; 1 << 20]).unwrap().status, 200);
    let before = last_index(node);
    // Far more than the system's buffers hold: the rest has to wait at the node.
    let asked = with_head("GET /v1/kv/long HTTP/1.1\r\nhost: localhost", b"").repeat(16);
    let deaf: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(&node.client).unwrap();
            stream.write_all(&asked).unwrap();
            stream
        })
        .collect();
    // While they wait their bytes count, and once they are given up they count no more.
    let told = "raft_http_requests_total{route=\"/v1/kv/{*key}\",status=\"429\"}";
    await_that("a request that is told to come later", || node.metric(told).is_some_and(|count| count > 0.0));
    await_that("the end of those that take nothing", || {
        node.get("/v1/kv/long").is_some_and(|reply| reply.status == 200)
    });
    drop(deaf);
    unharmed(node, &before);
}

/// Between the pieces of a head that is sent too slowly.
const DRIBBLE: Duration = Duration::from_millis(50);

#[test]
fn a_head_that_dribbles_is_cut_off_however_it_goes_on() {
    let cluster = one(&[]);
    let node = &cluster.nodes[0];
    let before = last_index(node);
    let mut stream = TcpStream::connect(&node.client).unwrap();
    stream.set_read_timeout(Some(DRIBBLE)).unwrap();
    // Each byte arrives in time; the whole head does not. The bound is far above the limit of the head.
    let ended = (0..1200).any(|_| {
        let written = stream.write_all(b"G");
        let read = stream.read(&mut [0; 512]);
        written.is_err() || read.is_ok() || read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    });
    assert!(ended, "the connection stays open for a minute");
    unharmed(node, &before);
}
