//! A client without cleverness: one request, one connection, blocking, with a time limit.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&self.body)))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// How long an answer may take; requests carry shorter deadlines of their own.
const LIMIT: Duration = Duration::from_secs(30);

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReply {
    /// There was no connection: the request surely went nowhere.
    NotSent,
    /// It may have been read.
    NoAnswer,
}

/// Sends one request; none when nobody answers it whole.
pub fn call(host: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Reply> {
    call_within(LIMIT, host, method, path, headers, body).ok()
}

/// Sends one request and waits for its answer for `limit` at most.
pub fn call_within(
    limit: Duration,
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Reply, NoReply> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || method == "PUT" || method == "POST" {
        request += &format!("Content-Length: {}\r\n", body.len());
    }
    request += "\r\n";
    raw_within(limit, host, &[request.as_bytes(), body].concat())
}

/// Sends bytes as they are.
pub fn raw(host: &str, request: &[u8]) -> Option<Reply> {
    raw_within(LIMIT, host, request).ok()
}

fn raw_within(limit: Duration, host: &str, request: &[u8]) -> Result<Reply, NoReply> {
    let address = host.parse().map_err(|_| NoReply::NotSent)?;
    let mut stream = TcpStream::connect_timeout(&address, limit).map_err(|_| NoReply::NotSent)?;
    let limited = stream.set_read_timeout(Some(limit)).and_then(|()| stream.set_write_timeout(Some(limit)));
    limited.map_err(|_| NoReply::NotSent)?;
    // A server that refuses early may close before it has read all.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    parse(&bytes).ok_or(NoReply::NoAnswer)
}

fn parse(bytes: &[u8]) -> Option<Reply> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let body = bytes[end + 4..].to_vec();
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    // An answer that was cut off is no answer.
    if length.is_some_and(|length: usize| body.len() < length) {
        return None;
    }
    Some(Reply { status, headers, body })
}
