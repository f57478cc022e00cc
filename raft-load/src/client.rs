//! One connection and the request that is under way on it.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::http::{AnswerHead, RequestHead, parse_head, problem_code};

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It has no connection and is to make one again after a pause.
    Down,
    /// Its connection is being made.
    Connecting,
    /// It has a connection and no request.
    Free,
    /// Its request is not sent in full.
    Sending,
    /// It waits for an answer.
    Awaiting,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Nothing yet.
    Partial,
    /// The status, and for an error its code.
    Whole { status: u16, code: Option<String>, closes: bool },
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) state: State,
    pub(crate) stream: Option<TcpStream>,
    pub(crate) address: SocketAddr,
    /// When its request was due.
    pub(crate) due: Instant,
    /// When its request left, or since when it has none.
    pub(crate) since: Instant,
    /// The number of its request.
    pub(crate) number: u64,
    head: RequestHead,
    sent: usize,
    /// What has come of an answer whose head is not whole.
    partial: Vec<u8>,
    /// The head of an answer whose body is not whole, and what is missing of it.
    pending: Option<(AnswerHead, Option<String>, usize)>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, head: RequestHead) -> Self {
        let now = Instant::now();
        Self {
            state: State::Down,
            stream: None,
            address,
            due: now,
            since: now,
            number: 0,
            head,
            sent: 0,
            partial: Vec::new(),
            pending: None,
        }
    }

    /// Connects and waits for it.
    pub(crate) fn connect(&mut self, timeout: Duration) -> io::Result<()> {
        let stream = TcpStream::connect_timeout(&self.address, timeout)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        self.take(stream, State::Free);
        Ok(())
    }

    /// Begins to connect; the connection is there, or has failed, when it can be written to.
    pub(crate) fn begin_connecting(&mut self) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&self.address.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
            _ => {
                self.take(socket.into(), State::Connecting);
                Ok(())
            }
        }
    }

    fn take(&mut self, stream: TcpStream, state: State) {
        (self.stream, self.state, self.sent) = (Some(stream), state, 0);
        self.partial.clear();
        self.pending = None;
        self.since = Instant::now();
    }

    /// Forgets its connection.
    pub(crate) fn disconnect(&mut self) {
        (self.stream, self.state) = (None, State::Down);
    }

    /// Takes up request `number` for this key. [`Client::send`] sends it.
    pub(crate) fn begin(&mut self, number: u64, key: u64, due: Instant, now: Instant) {
        (self.number, self.due, self.since, self.sent, self.state) = (number, due, now, 0, State::Sending);
        self.head.name(key);
    }

    /// Sends what is not sent yet of its request with this body. Then it awaits, or can send no more for now.
    pub(crate) fn send(&mut self, body: &[u8]) -> io::Result<()> {
        let head = self.head.bytes();
        while self.sent < head.len() + body.len() {
            let rest = [
                IoSlice::new(head.get(self.sent..).unwrap_or_default()),
                IoSlice::new(&body[self.sent.saturating_sub(head.len())..]),
            ];
            let Some(stream) = &mut self.stream else { return Err(ErrorKind::NotConnected.into()) };
            match stream.write_vectored(&rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.state = State::Awaiting;
        Ok(())
    }

    /// Reads once, by way of `buffer`.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Answer> {
        let Some(stream) = &mut self.stream else { return Err(ErrorKind::NotConnected.into()) };
        let count = match stream.read(buffer) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "connection closed by the server")),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(Answer::Partial);
            }
            Err(error) => return Err(error),
        };
        self.digest(&buffer[..count])
    }

    fn digest(&mut self, bytes: &[u8]) -> io::Result<Answer> {
        if let Some((head, code, missing)) = self.pending.take() {
            return self.body(head, code, missing, bytes.len());
        }
        // An answer comes in one piece nearly always, and is then read where it lies.
        if self.partial.is_empty() {
            let Some((head, code, came)) = begin_answer(bytes)? else {
                self.partial.extend_from_slice(bytes);
                return Ok(Answer::Partial);
            };
            return self.body(head, code, head.body_bytes, came);
        }
        self.partial.extend_from_slice(bytes);
        let Some((head, code, came)) = begin_answer(&self.partial)? else { return Ok(Answer::Partial) };
        self.partial.clear();
        self.body(head, code, head.body_bytes, came)
    }

    fn body(&mut self, head: AnswerHead, code: Option<String>, missing: usize, came: usize) -> io::Result<Answer> {
        if came > missing {
            return Err(io::Error::other("an answer that nobody asked for"));
        }
        if came < missing {
            self.pending = Some((head, code, missing - came));
            return Ok(Answer::Partial);
        }
        Ok(Answer::Whole { status: head.status, code, closes: head.closes })
    }
}

/// The head of an answer, for an error its code, and how many bytes of its body are there; none while it is not whole.
fn begin_answer(bytes: &[u8]) -> io::Result<Option<(AnswerHead, Option<String>, usize)>> {
    let Some(head) = parse_head(bytes).map_err(io::Error::other)? else { return Ok(None) };
    let body = &bytes[head.head_bytes..];
    let code = if head.status < 400 { None } else { problem_code(body).map(str::to_owned) };
    Ok(Some((head, code, body.len())))
}
