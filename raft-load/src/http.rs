//! The bytes of HTTP/1.1 that a load needs, and no others.

use std::ops::Range;

use crate::load::Load;
use crate::work::{KEY_DIGITS, Work, write_digits};

/// The head of a request, made once for a connection; from one request to the next only the key's digits change.
#[derive(Clone, Debug)]
pub(crate) struct RequestHead {
    bytes: Vec<u8>,
    digits: Range<usize>,
}

impl RequestHead {
    pub(crate) fn new(load: &Load, host: &str) -> Self {
        let (method, query, length) = match &load.work {
            Work::Put => ("PUT", String::new(), format!("Content-Length: {}\r\n", load.value_bytes)),
            Work::Get { consistency } => ("GET", format!("?consistency={consistency}"), String::new()),
        };
        let mut bytes = format!("{method} /v1/kv/{}", load.keys.prefix).into_bytes();
        let digits = bytes.len()..bytes.len() + KEY_DIGITS;
        bytes.resize(digits.end, b'0');
        let headers: String = load.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        bytes.extend(format!("{query} HTTP/1.1\r\nHost: {host}\r\n{headers}{length}\r\n").bytes());
        Self { bytes, digits }
    }

    /// Names another key.
    pub(crate) fn name(&mut self, key: u64) {
        write_digits(&mut self.bytes[self.digits.clone()], key);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// What the head of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AnswerHead {
    pub(crate) status: u16,
    /// Bytes of the head.
    pub(crate) head_bytes: usize,
    /// Bytes of the body.
    pub(crate) body_bytes: usize,
    /// The server closes the connection after this answer.
    pub(crate) closes: bool,
}

/// Longest head of an answer that is waited for.
pub(crate) const HEAD_BYTES_MAX: usize = 32 << 10;

/// Reads the head of an answer; none while it is not whole.
///
/// # Errors
/// When it is not HTTP/1.1 with a `Content-Length`.
pub(crate) fn parse_head(bytes: &[u8]) -> Result<Option<AnswerHead>, &'static str> {
    const MALFORMED: &str = "the answer is not HTTP/1.1 with a Content-Length";
    let mut rest = bytes;
    let (mut status, mut length, mut closes) = (None, None, false);
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return if bytes.len() > HEAD_BYTES_MAX { Err(MALFORMED) } else { Ok(None) };
        };
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = &rest[end + 1..];
        if status.is_none() {
            // "HTTP/1.1 200 OK"
            let code = line.strip_prefix(b"HTTP/1.").and_then(|line| line.get(2..5)).and_then(number);
            status = Some(code.ok_or(MALFORMED)?);
        } else if line.is_empty() {
            break;
        } else if let Some(value) = header(line, b"content-length") {
            length = Some(number(value).ok_or(MALFORMED)?);
        } else if let Some(value) = header(line, b"connection") {
            closes = value.eq_ignore_ascii_case(b"close");
        }
    }
    let status = u16::try_from(status.unwrap_or(0)).map_err(|_| MALFORMED)?;
    let body_bytes = match (status, length) {
        (_, Some(length)) => length,
        (204 | 304, None) => 0,
        _ => return Err(MALFORMED),
    };
    Ok(Some(AnswerHead { status, head_bytes: bytes.len() - rest.len(), body_bytes, closes }))
}

/// The value of the header in this line, if it has this name.
fn header<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, value) = line.split_at_checked(name.len())?;
    let value = value.strip_prefix(b":").filter(|_| found.eq_ignore_ascii_case(name))?;
    Some(value.trim_ascii())
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The `code` in the body of an error, for its name among the others.
pub(crate) fn problem_code(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once("\"code\":\"")?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Headers;
    use crate::work::Keys;

    #[test]
    fn a_request_changes_in_its_key_alone() {
        let mut headers = Headers::default();
        headers.add("Raft-Token", "t");
        let load = Load {
            keys: Keys { prefix: "p/".into(), count: 10 },
            value_bytes: 3,
            headers,
            ..Load::new(vec!["h:1".into()], Work::Put)
        };
        let mut head = RequestHead::new(&load, "h:1");
        head.name(42);
        let text = "PUT /v1/kv/p/0000000042 HTTP/1.1\r\nHost: h:1\r\nRaft-Token: t\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(std::str::from_utf8(head.bytes()), Ok(text));
        let get = Load { work: Work::Get { consistency: "local".into() }, headers: Headers::default(), ..load };
        let head = RequestHead::new(&get, "h:1");
        let text = "GET /v1/kv/p/0000000000?consistency=local HTTP/1.1\r\nHost: h:1\r\n\r\n";
        assert_eq!(std::str::from_utf8(head.bytes()), Ok(text));
    }

    #[test]
    fn an_answer_is_read_from_any_part_of_it() {
        let head = b"HTTP/1.1 503 Service Unavailable\r\nCONTENT-length: 12 \r\nConnection: close\r\n\r\n";
        let whole = [&head[..], b"{\"code\":\"no\""].concat();
        for end in 0..head.len() {
            assert_eq!(parse_head(&whole[..end]), Ok(None), "{end}");
        }
        let expected = AnswerHead { status: 503, head_bytes: head.len(), body_bytes: 12, closes: true };
        assert_eq!(parse_head(&whole), Ok(Some(expected)));
        assert_eq!(problem_code(b"{\"status\":503,\"code\":\"no_leader\"}"), Some("no_leader"));
        assert_eq!(problem_code(b"gone"), None);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bytes in [&b"SSH-2.0-OpenSSH\r\n"[..], b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 2x0 OK\r\n\r\n", b"\n"] {
            assert!(parse_head(bytes).is_err(), "{bytes:?}");
        }
        assert!(parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n").is_err());
        assert!(parse_head(b"HTTP/1.1 204 No Content\r\n\r\n").is_ok());
        assert!(parse_head(&[b'x'; HEAD_BYTES_MAX + 1]).is_err());
    }
}
