//! The least client that measures a server and not itself: one connection, one request at a time, no allocation per
//! request.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The bytes of one put.
#[must_use]
pub fn put_request(host: &str, key: &str, value: &[u8]) -> Vec<u8> {
    let head = format!("PUT /v1/kv/{key} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", value.len());
    [head.as_bytes(), value].concat()
}

/// The bytes of one get.
#[must_use]
pub fn get_request(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// A kept-alive connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Responses are read into buffers of at most this many bytes.
const RESPONSE_BYTES_MAX: usize = 4 << 20;

impl Connection {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn open(host: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request and gives the status and the body of its answer.
    ///
    /// # Errors
    /// When the connection breaks, or what comes back is not HTTP with a `Content-Length`.
    pub async fn call(&mut self, request: &[u8]) -> io::Result<(u16, &[u8])> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if let Some((status, head, length)) = parse_head(&self.buffer)? {
                while self.buffer.len() < head + length {
                    self.fill().await?;
                }
                return Ok((status, &self.buffer[head..head + length]));
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.buffer.len() > RESPONSE_BYTES_MAX {
            return Err(io::Error::other("a response beyond the bound"));
        }
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// Status, length of the head and length of the body, once the head is complete.
fn parse_head(bytes: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let malformed = || io::Error::other("the answer is not HTTP with a Content-Length");
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| malformed())?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    match (status, length) {
        (Some(status), Some(length)) => Ok(Some((status, end + 4, length))),
        (Some(status @ (204 | 304)), None) => Ok(Some((status, end + 4, 0))),
        _ => Err(malformed()),
    }
}
