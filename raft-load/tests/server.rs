//! Loads against a server that answers as a test says: what is counted, whatever comes back. No time is asserted.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use raft_load::{End, Keys, Load, LoadError, Pace, Summary, Work};

/// How request number n on a connection is answered, in the pieces that it is sent in; none closes the connection.
type Answers = fn(usize) -> Option<Vec<Vec<u8>>>;

/// A server of one test; it ends with the process.
struct Server {
    host: String,
    /// The first line of every request, and the length of its body.
    seen: Arc<Mutex<Vec<(String, usize)>>>,
}

impl Server {
    fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let shared = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, seen) = (stream.unwrap(), shared.clone());
                thread::spawn(move || serve(&stream, answers, &seen));
            }
        });
        Self { host, seen }
    }

    fn load(&self, work: Work) -> Load {
        Load {
            keys: Keys { prefix: "k/".into(), count: 8 },
            clients: 4,
            end: End::Requests(100),
            warm_up: Duration::ZERO,
            ..Load::new(vec![self.host.clone()], work)
        }
    }

    fn seen(&self) -> Vec<(String, usize)> {
        self.seen.lock().unwrap().clone()
    }
}

/// Answers until the client goes, or an answer says to close.
fn serve(stream: &TcpStream, answers: Answers, seen: &Mutex<Vec<(String, usize)>>) {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    for nth in 0.. {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let length = lines.iter().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        seen.lock().unwrap().push((lines[0].clone(), length));
        let Some(pieces) = answers(nth) else { return };
        for piece in pieces {
            if writer.write_all(&piece).and_then(|()| writer.flush()).is_err() {
                return;
            }
            thread::yield_now();
        }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn whole(status: &str, body: &str) -> Option<Vec<Vec<u8>>> {
    Some(vec![answer(status, "", body)])
}

fn counts(summary: &Summary) -> (u64, u64, u64) {
    (summary.operations, summary.missing, summary.errors)
}

#[test]
fn as_many_puts_arrive_as_were_asked_for_and_name_every_key() {
    let server = Server::start(|_| whole("200 OK", "{}"));
    let summary = raft_load::run(&Load { value_bytes: 300_000, ..server.load(Work::Put) }).unwrap();
    assert_eq!((counts(&summary), summary.counted), ((100, 0, 0), 100));
    let seen = server.seen();
    assert_eq!(seen.len(), 100);
    assert!(seen.iter().all(|(_, length)| *length == 300_000));
    let lines: BTreeSet<String> = seen.into_iter().map(|(line, _)| line).collect();
    let expected = (0..8).map(|key| format!("PUT /v1/kv/k/{key:010} HTTP/1.1")).collect();
    assert_eq!(lines, expected);
}

#[test]
fn an_open_loop_sends_all_that_was_due() {
    let server = Server::start(|_| whole("200 OK", "{}"));
    let time = End::After(Duration::from_millis(100));
    let load = Load { pace: Pace::Open { per_second: 1000.0 }, end: time, ..server.load(Work::Put) };
    let summary = raft_load::run(&load).unwrap();
    assert_eq!((counts(&summary), server.seen().len()), ((100, 0, 0), 100));
}

#[test]
fn answers_in_pieces_are_whole_answers() {
    let server = Server::start(|_| {
        let whole = answer("200 OK", "ETag: \"1\"\r\n", &"v".repeat(200_000));
        Some(vec![whole[..9].to_vec(), whole[9..40].to_vec(), whole[40..].to_vec()])
    });
    let get = Work::Get { consistency: "local".into() };
    let summary = raft_load::run(&server.load(get)).unwrap();
    assert_eq!(counts(&summary), (100, 0, 0));
    assert!(server.seen().iter().all(|(line, _)| line.contains("?consistency=local HTTP/1.1")));
}

#[test]
fn a_key_that_is_not_there_is_an_answer_to_a_read_and_an_error_of_a_write() {
    let not_found = |_| whole("404 Not Found", r#"{"code":"key_not_found"}"#);
    let get = Work::Get { consistency: "linearizable".into() };
    assert_eq!(counts(&raft_load::run(&Server::start(not_found).load(get)).unwrap()), (100, 100, 0));
    let summary = raft_load::run(&Server::start(not_found).load(Work::Put)).unwrap();
    assert_eq!((counts(&summary), summary.errors_by_kind["404 key_not_found"]), ((0, 0, 100), 100));
}

#[test]
fn refusals_and_broken_connections_are_counted_and_gone_beyond() {
    // The first one of each connection is refused; the connection stays.
    let refusing = Server::start(|nth| match nth {
        0 => whole("503 Service Unavailable", r#"{"code":"no_leader"}"#),
        _ => whole("200 OK", "{}"),
    });
    let summary = raft_load::run(&refusing.load(Work::Put)).unwrap();
    assert_eq!((counts(&summary), summary.errors_by_kind["503 no_leader"]), ((96, 0, 4), 4));
    // The second one of each connection gets no answer.
    let closing = Server::start(|nth| if nth == 0 { whole("200 OK", "{}") } else { None });
    let summary = raft_load::run(&closing.load(Work::Put)).unwrap();
    assert_eq!((summary.operations + summary.errors, closing.seen().len()), (100, 100));
    assert!(summary.errors >= 48, "{summary:?}");
}

#[test]
fn a_server_that_closes_as_it_says_costs_no_request() {
    let server = Server::start(|_| Some(vec![answer("200 OK", "Connection: close\r\n", "{}")]));
    assert_eq!(counts(&raft_load::run(&server.load(Work::Put)).unwrap()), (100, 0, 0));
}

#[test]
fn who_does_not_answer_has_failed_when_the_time_is_over() {
    let server = Server::start(|_| Some(Vec::new()));
    let load = Load { timeout: Duration::from_millis(50), end: End::Requests(4), ..server.load(Work::Put) };
    let summary = raft_load::run(&load).unwrap();
    assert_eq!((counts(&summary), summary.errors_by_kind["no answer in time"]), ((0, 0, 4), 4));
}

#[test]
fn what_speaks_another_protocol_is_an_error_and_not_a_hang() {
    let server = Server::start(|_| Some(vec![b"SSH-2.0-OpenSSH\r\n".to_vec()]));
    assert_eq!(counts(&raft_load::run(&server.load(Work::Put)).unwrap()), (0, 0, 100));
}

#[test]
fn nobody_there_is_said_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = raft_load::run(&Load::new(vec![host.clone()], Work::Put)).unwrap_err();
    assert!(matches!(&error, LoadError::Unreachable { .. }) && error.to_string().contains(&host), "{error}");
}
