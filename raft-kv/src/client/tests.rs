//! The client against servers that answer by script: what it sends, when it tries again, and what it says in the end.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use raft_core::types::Index;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A request as a server heard it.
#[derive(Clone, Debug)]
struct Heard {
    /// Method and target.
    line: String,
    head: String,
    body: Vec<u8>,
}

impl Heard {
    fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// What a server does with a request.
#[derive(Clone, Debug)]
enum Say {
    Answer {
        status: u16,
        headers: String,
        body: String,
    },
    /// Reads it and closes the connection.
    Close,
    /// Reads it and says nothing.
    Hang,
}

/// An answer that reflects this position.
fn at(index: u64, status: u16, body: impl Into<String>) -> Say {
    let headers =
        format!("Raft-Revision: {index}\r\nRaft-Token: t{index}\r\nRaft-Served-By: n\r\nETag: \"{index}\"\r\n");
    Say::Answer { status, headers, body: body.into() }
}

fn written(index: u64) -> Say {
    at(index, 200, format!(r#"{{"revision":{index},"term":1,"replayed":false}}"#))
}

fn problem(status: u16, code: &str, more: &str) -> Say {
    let body = format!(r#"{{"type":"","title":"","status":{status},"detail":"so it is","code":"{code}"{more}}}"#);
    at(99, status, body)
}

/// A server that says what its script says, and the last of it over and over.
struct Server {
    url: String,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Server {
    async fn start(script: impl Into<VecDeque<Say>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(Mutex::new(script.into()));
        let hears = heard.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone(), hears.clone()));
            }
        });
        Self { url, heard }
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().clone()
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<VecDeque<Say>>>, heard: Arc<Mutex<Vec<Heard>>>) {
    while let Some(request) = hear(&mut stream).await {
        heard.lock().push(request);
        let say = {
            let mut script = script.lock();
            let first = script.front().cloned().unwrap();
            if script.len() > 1 { script.pop_front().unwrap() } else { first }
        };
        match say {
            Say::Close => return,
            Say::Hang => std::future::pending().await,
            Say::Answer { status, headers, body } => {
                let length = body.len();
                let answer = format!("HTTP/1.1 {status} so\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    }
}

async fn hear(stream: &mut TcpStream) -> Option<Heard> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let line = head.lines().next()?.trim_end_matches(" HTTP/1.1").to_owned();
            let mut heard = Heard { line, head, body: bytes[end + 4..].to_vec() };
            let length = heard.header("content-length").map_or(0, |length| length.parse().unwrap());
            while heard.body.len() < length {
                if stream.read_buf(&mut heard.body).await.ok()? == 0 {
                    return None;
                }
            }
            return Some(heard);
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// An address that refuses connections.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn keys(heard: &[Heard]) -> Vec<String> {
    heard.iter().map(|heard| heard.header("idempotency-key").unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_write_is_tried_again_under_one_key_and_has_one_answer() {
    let (first, second) = (Server::start([Say::Close]).await, Server::start([written(7)]).await);
    let client = Client::new([nobody().await, first.url.clone(), second.url.clone()]).unwrap();
    let done = client.put("a/b", "value", Write::default()).await.unwrap();
    assert_eq!((done.revision, done.term, done.replayed), (7, 1, false));
    let heard = [first.heard(), second.heard()].concat();
    let keys = keys(&heard);
    assert_eq!(keys.len(), 2, "{heard:?}");
    assert_eq!(keys[0], keys[1]);
    assert_eq!(uuid::Uuid::parse_str(&keys[0]).unwrap().get_version_num(), 7);
    assert!(heard.iter().all(|heard| heard.line.starts_with("PUT /v1/kv/a%2Fb?timeout=") && heard.body == b"value"));
    client.put("a/b", "value", Write::default()).await.unwrap();
    assert_ne!(keys[0], self::keys(&second.heard())[1], "another write has another key");
    assert_eq!(first.heard().len(), 1, "what failed is left alone");
}

#[tokio::test]
async fn a_token_goes_with_every_request_and_is_never_shown() {
    let server = Server::start([problem(401, "unauthenticated", ""), written(7)]).await;
    let builder = Client::builder([&server.url]).access_token("raft_secret\n").certificate("PRIVATE");
    assert!(!format!("{builder:?}").contains("secret") && !format!("{builder:?}").contains("PRIVATE"), "{builder:?}");
    let error = builder.build().unwrap_err();
    assert!(error.kind() == ErrorKind::Usage && !format!("{error} {error:?}").contains("PRIVATE"), "{error:?}");
    let client = Client::builder([&server.url]).access_token("raft_secret\n").build().unwrap();
    let refused = client.get("k", Read::default()).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code(), refused.tries()), (ErrorKind::Refused, Some("unauthenticated"), 1));
    client.put("k", "v", Write::default()).await.unwrap();
    assert!(server.heard().iter().all(|heard| heard.header("authorization") == Some("Bearer raft_secret")));
    assert!(!format!("{client:?} {refused} {refused:?}").contains("secret"), "{client:?}");
    let wrong = Client::builder([&server.url]).access_token("raft_\u{1}secret").build().unwrap_err();
    assert!(wrong.kind() == ErrorKind::Usage && !format!("{wrong:?}").contains("secret"), "{wrong:?}");
}

#[tokio::test]
async fn one_try_in_doubt_leaves_the_whole_in_doubt() {
    let not_ready = || problem(503, "not_ready", r#","outcome":"not_applied","retry_after_ms":1"#);
    for (script, outcome) in [
        (vec![not_ready()], Outcome::NotApplied),
        (vec![Say::Close, not_ready()], Outcome::Unknown),
        (vec![problem(504, "deadline", r#","outcome":"unknown","token":"ask""#), not_ready()], Outcome::Unknown),
        (vec![at(1, 502, "a proxy"), not_ready()], Outcome::Unknown),
        (vec![Say::Close, problem(413, "value_too_large", r#","outcome":"not_applied""#)], Outcome::Unknown),
        // What the state machine decided for this key it has decided once.
        (vec![Say::Close, problem(412, "precondition_failed", r#","outcome":"not_applied""#)], Outcome::NotApplied),
    ] {
        let server = Server::start(script.clone()).await;
        let client = Client::builder([&server.url]).tries_max(3).build().unwrap();
        let error = client.put("k", "v", Write::default().idempotency_key("mine")).await.unwrap_err();
        assert_eq!(error.outcome(), Some(outcome), "{script:?}: {error}");
        assert_eq!(error.idempotency_key(), Some("mine"));
        assert_eq!(error.tries() as usize, server.heard().len());
    }
    // Nothing left this process.
    let client = Client::builder([nobody().await]).tries_max(2).build().unwrap();
    let error = client.put("k", "v", Write::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome(), error.tries()), (ErrorKind::Unavailable, Some(Outcome::NotApplied), 2));
}

#[tokio::test]
async fn what_was_refused_for_good_is_not_tried_again() {
    for (status, code, kind) in [
        (409, "token_diverged", ErrorKind::Conflict),
        (410, "compacted", ErrorKind::Compacted),
        (400, "unknown_consistency", ErrorKind::Refused),
        (404, "mark_not_found", ErrorKind::Refused),
    ] {
        let server = Server::start([problem(status, code, "")]).await;
        let client = Client::new([&server.url]).unwrap();
        let error = client.get("k", Read::local()).await.unwrap_err();
        assert_eq!((error.kind(), error.code(), error.outcome()), (kind, Some(code), None));
        assert_eq!(server.heard().len(), 1, "{code}");
        assert_eq!(client.token(), None, "{code}: a refusal reflects nothing that was read");
    }
}

#[tokio::test]
async fn a_deadline_ends_the_tries_with_the_last_error() {
    let server = Server::start([Say::Hang]).await;
    let bounds = Client::builder([&server.url]).try_timeout(Duration::from_millis(20));
    let client = bounds.deadline(Duration::from_millis(100)).build().unwrap();
    let error = client.get("k", Read::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.detail().contains("no answer within"), "{error}");
    assert!(error.tries() >= 2, "{error}");
    let error = client.put("k", "v", Write::default().within(Duration::from_millis(1))).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Deadline, Some(Outcome::Unknown)));
    let error = client.put("k", "v", Write::default().within(Duration::ZERO)).await.unwrap_err();
    assert_eq!((error.kind(), error.tries()), (ErrorKind::Deadline, 0));
    // The node is told less than what its answer is waited for.
    assert!(server.heard()[0].line.contains("timeout=18ms"), "{:?}", server.heard()[0]);
}

#[tokio::test]
async fn a_node_that_hangs_costs_one_try() {
    let (hangs, serves) = (Server::start([Say::Hang]).await, Server::start([at(3, 200, "v")]).await);
    let bounds = Client::builder([&hangs.url, &serves.url]).try_timeout(Duration::from_millis(20));
    let client = bounds.build().unwrap();
    let got = client.get("k", Read::local()).await.unwrap();
    assert_eq!(got.value, Some(Stored { bytes: "v".into(), revision: 3 }));
    client.get("k", Read::local()).await.unwrap();
    assert_eq!((hangs.heard().len(), serves.heard().len()), (1, 2));
}

#[tokio::test]
async fn writes_follow_the_leader_that_the_nodes_name() {
    let leader = Server::start([written(5)]).await;
    let location = format!("Location: {}/v1/kv/k?timeout=1s\r\n", leader.url);
    let body = r#"{"detail":"","code":"not_leader","outcome":"not_applied","leader":"n2"}"#.to_owned();
    let redirects = Say::Answer { status: 307, headers: location, body };
    let follower = Server::start([redirects, at(5, 200, "v")]).await;
    let client = Client::new([&follower.url]).unwrap();
    client.put("k", "v", Write::default()).await.unwrap();
    client.put("k", "v", Write::default()).await.unwrap();
    client.get("k", Read::local()).await.unwrap();
    assert!(follower.heard()[0].line.contains("forward=never"));
    assert_eq!((follower.heard().len(), leader.heard().len()), (2, 2));
}

#[tokio::test]
async fn a_leader_that_cannot_be_reached_is_written_to_through_the_others() {
    let body = r#"{"detail":"","code":"not_leader","outcome":"not_applied"}"#.to_owned();
    let location = format!("Location: {}/v1/kv/k\r\n", nobody().await);
    let follower = Server::start([Say::Answer { status: 307, headers: location, body }, written(5)]).await;
    let client = Client::new([&follower.url]).unwrap();
    assert_eq!(client.put("k", "v", Write::default()).await.unwrap().revision, 5);
    assert!(!follower.heard()[1].line.contains("forward=never"), "{:?}", follower.heard());
}

#[tokio::test]
async fn the_newest_token_goes_with_every_verified_read() {
    let refused = problem(412, "precondition_failed", r#","outcome":"not_applied""#);
    let script = [at(4, 200, "v"), written(9), at(6, 200, "old"), at(9, 200, "v"), refused, at(99, 404, "")];
    let server = Server::start(script).await;
    let client = Client::new([&server.url]).unwrap();
    let token = |client: &Client| client.token().map(|token| token.to_string());
    client.get("k", Read::verified()).await.unwrap();
    assert_eq!(token(&client).as_deref(), Some("t4"));
    client.clone().put("k", "v", Write::default()).await.unwrap();
    assert_eq!(token(&client).as_deref(), Some("t9"), "clones share it");
    client.get("k", Read::local()).await.unwrap();
    assert_eq!(token(&client).as_deref(), Some("t9"), "an older answer takes nothing back");
    client.get("k", Read::verified()).await.unwrap();
    let refused = client.compare_and_set("k", Some(3), "v", Write::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition);
    assert_eq!(token(&client).as_deref(), Some("t99"), "the refusal says what it has seen");

    let heard = server.heard();
    // With nothing seen there is nothing to verify against.
    assert!(heard[0].line.contains("consistency=linearizable"), "{:?}", heard[0].line);
    assert_eq!((heard[0].header("raft-token"), heard[2].header("raft-token")), (None, None));
    assert!(heard[3].line.contains("consistency=verified"), "{:?}", heard[3].line);
    assert_eq!(heard[3].header("raft-token"), Some("t9"));
    assert_eq!(heard[4].header("if-match"), Some("\"3\""));

    let forgetful = client.with_token(None);
    assert_eq!((token(&forgetful), token(&client).as_deref()), (None, Some("t99")));
    let further = client.with_token(Token::new("given"));
    assert_eq!(token(&further).as_deref(), Some("given"));
}

#[tokio::test]
async fn every_way_to_read_is_asked_for_by_its_name() {
    let server = Server::start([at(3, 200, "v")]).await;
    let client = Client::new([&server.url]).unwrap();
    for (read, query) in [
        (Read::default(), "consistency=linearizable"),
        (Read::lease(), "consistency=lease"),
        (Read::verified(), "consistency=verified"),
        (Read::local(), "consistency=local"),
        (Read::local_within(Duration::from_secs(2)), "consistency=local&max_staleness=2000ms"),
        (Read::snapshot(), "consistency=snapshot"),
        (Read::at_mark(8), "at_mark=8"),
        (Read::at_revision(9), "at_revision=9"),
    ] {
        client.get("k", read.within(Duration::from_secs(1))).await.unwrap();
        let line = server.heard().last().unwrap().line.clone();
        let (timeout, asked) = line.strip_prefix("GET /v1/kv/k?timeout=").unwrap().split_once('&').unwrap();
        assert_eq!(asked, query);
        // Less than what is left, so that the node's own word still arrives.
        let timeout: u64 = timeout.trim_end_matches("ms").parse().unwrap();
        assert!(timeout <= 900, "{timeout}");
    }
}

#[tokio::test]
async fn deletes_and_batches_say_what_was_there() {
    let deleted = at(5, 200, r#"{"revision":5,"term":1,"replayed":true,"deleted":true}"#);
    let results = r#"{"revision":6,"term":1,"replayed":false,"results":[{"existed":false},{"existed":true}]}"#;
    let server = Server::start([deleted, at(6, 200, results), at(7, 200, "what?")]).await;
    let client = Client::new([&server.url]).unwrap();
    let done = client.delete("k", Write::default().only_if(Precondition::Revision(Index(4)))).await.unwrap();
    assert_eq!((done.existed, done.replayed), (vec![true], true));
    let changes = [Change::put("a", "1"), Change::delete("b")];
    assert_eq!(client.batch(&changes, Write::default()).await.unwrap().existed, [false, true]);
    assert!(server.heard()[1].line.starts_with("POST /v1/kv/batch?"));
    assert_eq!(client.batch(&[], Write::default()).await.unwrap_err().kind(), ErrorKind::Usage);
    let error = client.delete("k", Write::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Fault, Some(Outcome::Unknown)));
}
