//! The contract of the HTTP interface, against a node in this process: routes, statuses, headers, problems.
// A test that cannot set itself up should stop.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use raft_node::config::{Layers, Settings};
use raft_node::http::view::{ClusterView, LogView, MarkView, NodeView, OutcomeView, WriteView};
use raft_node::http::{ProblemBody, WriteOutcome};
use raft_node::product::Product;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Far above what any step takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node that is a cluster by itself, and a client of it.
struct One {
    product: Product,
    http: reqwest::Client,
    _directory: tempfile::TempDir,
}

impl One {
    async fn start(more: &[(&'static str, &str)]) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = |file: &str| directory.path().join(file).to_string_lossy().into_owned();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let authority = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().unwrap();
        let mut node = CertificateParams::default();
        node.subject_alt_names.push(SanType::URI("raft://raft/n1".try_into().unwrap()));
        let node_pem = node.signed_by(&key, &authority).unwrap().pem();
        std::fs::write(path("ca.pem"), ca_pem).unwrap();
        std::fs::write(path("n1.pem"), node_pem).unwrap();
        std::fs::write(path("n1.key"), key.serialize_pem()).unwrap();

        let mut flags: Vec<(&'static str, String)> = vec![
            ("name", "n1".into()),
            ("data_dir", path("data")),
            ("client.listen", "127.0.0.1:0".into()),
            ("ops.listen", "127.0.0.1:0".into()),
            ("peer.listen", "127.0.0.1:0".into()),
            ("peer.tls.ca", path("ca.pem")),
            ("peer.tls.cert", path("n1.pem")),
            ("peer.tls.key", path("n1.key")),
            ("bootstrap", "n1=127.0.0.1:1".into()),
        ];
        flags.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
        let mut layers = Layers::merge(None, std::iter::empty(), &flags).unwrap();
        let product = Product::start(&Settings::new(&mut layers).unwrap()).await.unwrap();
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let redirect = reqwest::redirect::Policy::none();
        let http = reqwest::Client::builder().no_proxy().redirect(redirect).timeout(PATIENCE).build().unwrap();
        let one = Self { product, http, _directory: directory };
        tokio::time::timeout(PATIENCE, async {
            while one.product.node.ready().is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the node becomes ready");
        one
    }

    fn url(&self, target: &str) -> String {
        format!("{}{target}", self.product.client_url)
    }

    async fn call(&self, method: Method, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut request = self.http.request(method, self.url(target)).body(body.to_vec());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn put(&self, key: &str, value: &[u8], headers: &[(&str, &str)]) -> Response {
        self.call(Method::PUT, &format!("/v1/kv/{key}"), headers, value).await
    }

    async fn get(&self, target: &str) -> Response {
        self.call(Method::GET, target, &[], b"").await
    }

    async fn ops(&self, target: &str) -> (u16, String) {
        let response = self.http.get(format!("{}{target}", self.product.ops_url)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// The problem in an answer, which has to have this status and code.
async fn problem(response: Response, status: u16, code: &str) -> ProblemBody {
    assert_eq!(response.status().as_u16(), status, "{code}");
    assert_eq!(header(&response, "content-type"), "application/problem+json");
    if !response.url().path().is_empty() && response.url().path().starts_with("/v1/") {
        assert_eq!(header(&response, "raft-served-by"), "n1", "{code}");
    }
    let body: ProblemBody = response.json().await.unwrap();
    assert_eq!((body.status, body.code.as_str()), (status, code), "{}", body.detail);
    body
}

#[tokio::test]
async fn a_value_is_put_read_and_deleted() {
    let one = One::start(&[]).await;
    let put = one.put("greeting", b"hello", &[]).await;
    assert_eq!(put.status(), 200);
    let token = header(&put, "raft-token").to_owned();
    assert_eq!((header(&put, "raft-leader"), header(&put, "raft-served-by")), ("n1", "n1"));
    let revision = header(&put, "raft-revision").to_owned();
    let view: WriteView = put.json().await.unwrap();
    assert_eq!((view.revision.to_string(), view.replayed, view.deleted), (revision.clone(), false, None));

    let got = one.get("/v1/kv/greeting").await;
    assert_eq!(header(&got, "etag"), format!("\"{revision}\""));
    assert_eq!(header(&got, "raft-consistency"), "linearizable");
    assert_eq!(header(&got, "raft-staleness-ms"), "");
    assert_eq!(header(&got, "raft-token"), token);
    assert_eq!(got.bytes().await.unwrap(), "hello");

    let local = one.get("/v1/kv/greeting?consistency=local").await;
    assert_eq!((local.status().as_u16(), header(&local, "raft-consistency")), (200, "local"));
    assert_ne!(header(&local, "raft-staleness-ms"), "");

    let outcome: OutcomeView = one.get(&format!("/v1/outcomes/{token}")).await.json().await.unwrap();
    assert_eq!((outcome.outcome.as_str(), outcome.revision), ("applied", view.revision));

    for expected in [true, false] {
        let deleted: WriteView = one.call(Method::DELETE, "/v1/kv/greeting", &[], b"").await.json().await.unwrap();
        assert_eq!(deleted.deleted, Some(expected));
    }
    let gone = one.get("/v1/kv/greeting").await;
    assert_eq!(header(&gone, "raft-consistency"), "linearizable");
    problem(gone, 404, "key_not_found").await;
    one.product.stop().await.unwrap();
}

#[tokio::test]
async fn the_past_is_read_at_marks_and_revisions() {
    let one = One::start(&[("versions.window", "200"), ("mark.interval", "1h")]).await;
    problem(one.get("/v1/kv/k?consistency=snapshot").await, 503, "no_mark").await;
    let first: WriteView = one.put("k", b"1", &[]).await.json().await.unwrap();
    let made = one.call(Method::POST, "/v1/cluster/mark", &[], b"").await;
    assert_eq!((made.status().as_u16(), header(&made, "raft-served-by")), (200, "n1"));
    let mark: MarkView = made.json().await.unwrap();
    assert!(mark.index > first.revision);
    let second: WriteView = one.put("k", b"2", &[]).await.json().await.unwrap();

    for target in ["consistency=snapshot".to_owned(), format!("at_mark={}", mark.index)] {
        let read = one.get(&format!("/v1/kv/k?{target}")).await;
        assert_eq!(header(&read, "raft-consistency"), "snapshot");
        let index = mark.index.to_string();
        assert_eq!((header(&read, "raft-mark"), header(&read, "raft-revision")), (index.as_str(), index.as_str()));
        assert_eq!(header(&read, "raft-term"), mark.term.to_string());
        assert!(header(&read, "raft-staleness-ms").parse::<u64>().is_ok() && !header(&read, "raft-token").is_empty());
        assert_eq!(header(&read, "etag"), format!("\"{}\"", first.revision));
        assert_eq!(read.text().await.unwrap(), "1");
    }
    let before = one.get(&format!("/v1/kv/k?at_revision={}", second.revision - 1)).await;
    assert_eq!((header(&before, "raft-mark"), header(&before, "raft-staleness-ms")), ("", ""));
    assert_eq!(header(&before, "raft-revision"), (second.revision - 1).to_string());
    assert_eq!(before.text().await.unwrap(), "1");
    let at = one.get(&format!("/v1/kv/k?consistency=snapshot&at_revision={}", second.revision)).await;
    assert_eq!(at.text().await.unwrap(), "2");
    let absent = one.get(&format!("/v1/kv/k?at_revision={}", first.revision - 1)).await;
    assert_eq!(header(&absent, "raft-consistency"), "snapshot");
    problem(absent, 404, "key_not_found").await;

    problem(one.get("/v1/kv/k?at_revision=1000000").await, 404, "revision_not_found").await;
    let wrong = one.get(&format!("/v1/kv/k?at_mark={}", second.revision)).await;
    assert!(problem(wrong, 404, "mark_not_found").await.detail.contains(&mark.index.to_string()));
    for target in ["at_mark=1&at_revision=1", "consistency=local&at_mark=1", "at_mark=0"] {
        problem(one.get(&format!("/v1/kv/k?{target}")).await, 400, "malformed_parameter").await;
    }
    problem(one.get("/v1/cluster/settings?consistency=snapshot").await, 400, "malformed_parameter").await;

    for _ in 0..400 {
        assert_eq!(one.put("k", b"more", &[]).await.status(), 200);
    }
    let forgotten = problem(one.get(&format!("/v1/kv/k?at_revision={}", first.revision)).await, 410, "compacted").await;
    assert!(forgotten.detail.contains("revisions"), "{}", forgotten.detail);
    // Marks follow the window, whatever the interval: the newest one can be read.
    tokio::time::timeout(PATIENCE, async {
        while one.get("/v1/kv/k?consistency=snapshot").await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the newest mark can be read");
    problem(one.get(&format!("/v1/kv/k?at_mark={}", mark.index)).await, 410, "compacted").await;

    let node: NodeView = one.get("/v1/node").await.json().await.unwrap();
    assert!(node.marks.newest > Some(mark.index) && node.marks.fenced.is_none() && !node.marks.rebuilding);
    let log: LogView = one.get(&format!("/v1/node/log?from={}&limit=1", mark.index)).await.json().await.unwrap();
    assert_eq!(log.entries[0].kind, "mark");
    assert!(log.entries[0].command.as_ref().unwrap()["stamp_ms"].as_u64() > Some(0));
    problem(one.call(Method::POST, "/v1/node/rebuild", &[], b"").await, 409, "rebuild_refused").await;
    let forced = one.call(Method::POST, "/v1/node/rebuild?force=true", &[], b"").await;
    assert!(problem(forced, 409, "rebuild_refused").await.detail.contains("no other member"));
    assert!(one.ops("/metrics").await.1.contains("raft_mark_index"));
    one.product.stop().await.unwrap();
}

#[tokio::test]
async fn keys_are_the_raw_path() {
    let one = One::start(&[]).await;
    for (target, value) in [("a%2Fb", "1"), ("batch", "2"), ("%00%FF", "3"), ("x//y", "4"), ("%25", "5")] {
        assert_eq!(one.put(target, value.as_bytes(), &[]).await.status(), 200, "{target}");
    }
    for (target, value) in
        [("a/b", "1"), ("a%2fb", "1"), ("batch", "2"), ("%00%ff", "3"), ("x%2F/y", "4"), ("%25", "5")]
    {
        assert_eq!(one.get(&format!("/v1/kv/{target}")).await.text().await.unwrap(), value, "{target}");
    }
    problem(one.get("/v1/kv/").await, 400, "malformed_key").await;
    let malformed = problem(one.put("a%zz", b"", &[]).await, 400, "malformed_key").await;
    assert_eq!(malformed.outcome, Some(WriteOutcome::NotApplied));
    one.product.stop().await.unwrap();
}

#[tokio::test]
async fn preconditions_and_idempotency_keys_hold() {
    let one = One::start(&[]).await;
    let first: WriteView = one.put("k", b"1", &[("if-none-match", "*")]).await.json().await.unwrap();
    problem(one.put("k", b"2", &[("if-none-match", "*")]).await, 412, "precondition_failed").await;
    let tag = format!("\"{}\"", first.revision);
    assert_eq!(one.put("k", b"2", &[("if-match", &tag)]).await.status(), 200);
    let stale = problem(one.put("k", b"3", &[("if-match", &tag)]).await, 412, "precondition_failed").await;
    assert_eq!(stale.outcome, Some(WriteOutcome::NotApplied));
    problem(one.put("k", b"3", &[("if-match", "3")]).await, 400, "malformed_parameter").await;

    let key = [("idempotency-key", "once")];
    let first: WriteView = one.put("i", b"x", &key).await.json().await.unwrap();
    let again: WriteView = one.put("i", b"x", &key).await.json().await.unwrap();
    assert_eq!((again.revision, again.replayed, first.replayed), (first.revision, true, false));
    problem(one.put("i", b"y", &key).await, 422, "idempotency_key_reused").await;
    let expired = one.put("i", b"z", &[("idempotency-key", &"k".repeat(129))]).await;
    problem(expired, 400, "malformed_parameter").await;
    one.product.stop().await.unwrap();
}

#[tokio::test]
async fn a_batch_is_done_whole_or_not_at_all() {
    let one = One::start(&[("limits.batch_operations_max", "3"), ("limits.batch_bytes_max", "1KiB")]).await;
    let batch = |body: Value| one.call(Method::POST, "/v1/kv/batch", &[], body.to_string().as_bytes().to_vec().leak());
    let put = json!({"op": "put", "key": "YQ==", "value": "MQ=="}); // a = 1
    let fails = json!({"op": "put", "key": "Yg==", "value": "Mg==", "if_match": 999});
    let refused = batch(json!({"operations": [put, fails]})).await;
    problem(refused, 412, "precondition_failed").await;
    problem(one.get("/v1/kv/a").await, 404, "key_not_found").await;
    let done: WriteView =
        batch(json!({"operations": [put, {"op": "delete", "key": "Yg=="}]})).await.json().await.unwrap();
    let existed: Vec<bool> = done.results.unwrap().iter().map(|result| result.existed).collect();
    assert_eq!(existed, [false, false]);
    assert_eq!(one.get("/v1/kv/a").await.text().await.unwrap(), "1");

    for (body, status, code) in [
        (json!({"operations": []}), 400, "malformed_body"),
        (json!({"operations": [{"op": "put", "key": "YQ", "value": ""}]}), 400, "malformed_body"),
        (json!({"operations": [{"op": "copy", "key": "YQ=="}]}), 400, "malformed_body"),
        (json!({"operations": [{"op": "put", "key": "", "value": ""}]}), 400, "malformed_key"),
        (json!({"operations": [put, put, put, put]}), 413, "batch_too_large"),
        (json!({"operations": [{"op": "put", "key": "YQ==", "value": "A".repeat(1600)}]}), 413, "batch_too_large"),
    ] {
        let problem = problem(batch(body).await, status, code).await;
        assert_eq!(problem.outcome, Some(WriteOutcome::NotApplied), "{code}");
    }
    one.product.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_a_problem_that_names_it() {
    let one = One::start(&[("limits.value_bytes_max", "1KiB"), ("limits.key_bytes_max", "16")]).await;
    let unknown = problem(one.get("/v1/kv/k?consistency=eventual").await, 400, "unknown_consistency").await;
    assert!(unknown.detail.contains("linearizable, lease, verified, snapshot, local"), "{}", unknown.detail);
    problem(one.get("/v1/kv/k?consistancy=local").await, 400, "malformed_parameter").await;
    let late = problem(one.get("/v1/kv/k?timeout=2h").await, 400, "malformed_parameter").await;
    assert!(late.detail.contains("limits.request_timeout_max"), "{}", late.detail);
    let long = problem(one.put("k", &[0; 1025], &[]).await, 413, "value_too_large").await;
    assert!(long.detail.contains("limits.value_bytes_max"), "{}", long.detail);
    assert_eq!(long.outcome, Some(WriteOutcome::NotApplied));
    let key = problem(one.put("seventeen-letters", b"", &[]).await, 413, "key_too_large").await;
    assert!(key.detail.contains("limits.key_bytes_max"), "{}", key.detail);
    problem(one.get("/v1/nothing").await, 404, "route_not_found").await;
    problem(one.get("/").await, 404, "route_not_found").await;
    let method = one.call(Method::POST, "/v1/node", &[], b"").await;
    assert!(header(&method, "allow").contains("GET"));
    problem(method, 405, "method_not_allowed").await;
    problem(one.get("/v1/outcomes/abc").await, 400, "malformed_token").await;
    problem(one.get("/v1/node/log?from=1000000").await, 404, "entry_not_found").await;
    problem(one.get("/v1/node/log?limit=0").await, 400, "malformed_parameter").await;
    one.product.stop().await.unwrap();
}

#[tokio::test]
async fn a_token_of_another_cluster_is_a_conflict() {
    let (one, other) = (One::start(&[]).await, One::start(&[]).await);
    let put = one.put("k", b"v", &[]).await;
    let token = header(&put, "raft-token");
    problem(other.get(&format!("/v1/outcomes/{token}")).await, 409, "token_diverged").await;
    one.product.stop().await.unwrap();
    other.product.stop().await.unwrap();
}

#[tokio::test]
async fn the_cluster_tells_about_itself() {
    let one = One::start(&[]).await;
    one.put("k", b"v", &[("idempotency-key", "once")]).await;
    let cluster: ClusterView = one.get("/v1/cluster").await.json().await.unwrap();
    assert!(cluster.healthy, "{:?}", cluster.reasons);
    assert_eq!((cluster.leader.as_deref(), cluster.failure_tolerance), (Some("n1"), 0));
    assert_eq!(cluster.members.len(), 1);
    assert_eq!(cluster.members[0].pid, Some(std::process::id()));
    let node: NodeView = one.get("/v1/node").await.json().await.unwrap();
    assert_eq!((node.role.as_str(), node.phase.as_str(), node.caught_up), ("leader", "running", true));
    assert!(node.applied_index <= node.commit_index && node.commit_index <= node.last_index);
    let log: LogView = one.get("/v1/node/log?from=1&limit=3").await.json().await.unwrap();
    let kinds: Vec<&str> = log.entries.iter().map(|entry| entry.kind.as_str()).collect();
    // The first leader sets what its file says of read leases.
    assert_eq!((kinds, log.entries[0].committed), (vec!["noop", "configuration", "command"], true));
    let command = log.entries[2].command.clone().unwrap();
    assert_eq!((&command["changes"][0]["key"], &command["idempotency_key"]), (&json!("aw=="), &json!("once")));

    let settings: Value = one.get("/v1/cluster/settings").await.json().await.unwrap();
    assert_eq!(settings["kv.value_bytes_max"], 1_572_864);
    let change = json!({"kv.value_bytes_max": 4, "kv.key_bytes_max": 2}).to_string();
    assert_eq!(one.call(Method::PUT, "/v1/cluster/settings", &[], change.as_bytes()).await.status(), 200);
    let long = problem(one.put("k", b"12345", &[]).await, 413, "value_too_large").await;
    assert!(long.detail.contains("kv.value_bytes_max"), "{}", long.detail);
    problem(one.put("abc", b"", &[]).await, 413, "key_too_large").await;
    let limits: Value = one.get("/v1/limits").await.json().await.unwrap();
    assert_eq!(
        (&limits["cluster"]["kv.value_bytes_max"], &limits["node"]["limits.key_bytes_max"]),
        (&json!(4), &json!(8192))
    );
    for body in [r#"{"kv.nothing":1}"#, r#"{"kv.key_bytes_max":0}"#] {
        let refused = one.call(Method::PUT, "/v1/cluster/settings", &[], body.as_bytes()).await;
        problem(refused, 422, "setting_refused").await;
    }
    one.product.stop().await.unwrap();
}

#[tokio::test]
async fn probes_and_metrics_are_on_their_own_listener() {
    let one = One::start(&[]).await;
    one.put("k", b"v", &[]).await;
    for probe in ["livez", "startupz", "readyz"] {
        assert_eq!(one.ops(&format!("/{probe}")).await, (200, "ok\n".into()), "{probe}");
        let (_, verbose) = one.ops(&format!("/{probe}?verbose")).await;
        assert!(verbose.starts_with("[+]") && verbose.ends_with(&format!("{probe} check passed\n")), "{verbose}");
    }
    let (_, metrics) = one.ops("/metrics").await;
    assert!(metrics.contains("raft_http_requests_total{route=\"/v1/kv/{*key}\",status=\"200\"} 1"), "{metrics}");
    assert!(metrics.contains("raft_http_request_duration_seconds_count{route=\"/v1/kv/{*key}\"} 1"), "{metrics}");
    assert_eq!(one.ops("/v1/kv/k").await.0, 404);
    problem(one.get("/metrics").await, 404, "route_not_found").await;

    one.product.node.drain().await;
    let (status, verbose) = one.ops("/readyz").await;
    assert!(status == 503 && verbose.contains("[-]draining failed"), "{status} {verbose}");
    assert_eq!(one.ops("/livez").await.0, 200);
    let refused = problem(one.put("k", b"v", &[]).await, 503, "stopping").await;
    assert_eq!((refused.outcome, refused.retry_after_ms.is_some()), (Some(WriteOutcome::NotApplied), true));
    one.product.stop().await.unwrap();
}

#[tokio::test]
async fn bytes_in_flight_are_bounded() {
    let one = One::start(&[("limits.bytes_in_flight_max", "2MiB"), ("limits.value_bytes_max", "1MiB")]).await;
    // Two clients announce a body each and send nothing of it: the bound is reached.
    let address = one.product.client_url.trim_start_matches("http://").to_owned();
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let head =
            format!("PUT /v1/kv/slow?timeout=30s HTTP/1.1\r\nhost: {address}\r\ncontent-length: 1048576\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let refused = tokio::time::timeout(PATIENCE, async {
        loop {
            let response = one.put("k", b"v", &[]).await;
            if response.status() != 200 {
                break response;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let refused = refused.await.expect("a bound is reached");
    assert_eq!(header(&refused, "retry-after"), "1");
    let body = problem(refused, 429, "overloaded").await;
    assert!(body.detail.contains("limits.bytes_in_flight_max"), "{}", body.detail);
    drop(slow);
    tokio::time::timeout(PATIENCE, async {
        while one.put("k", b"v", &[]).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the bound is free again");
    one.product.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_cut_off() {
    let one = One::start(&[("limits.header_read_timeout", "1s")]).await;
    let address = one.product.client_url.trim_start_matches("http://").to_owned();
    let whole = format!("GET /v1/node HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let second = format!("{whole}GET /v1/no");
    for beginning in ["", "P", "GET /v1/node HTTP/1.1\r\nhost", &whole, &second] {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "the connection after {beginning:?} stays open");
        assert_eq!(rest.starts_with(b"HTTP/1.1 200"), beginning.starts_with(&whole), "{beginning:?}");
    }
    assert_eq!(one.get("/v1/node").await.status(), 200);
    one.product.stop().await.unwrap();
}
