//! One connection: frames over TLS, on which nothing may stand still for longer than it is told.

use std::fmt::Display;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use raft_core::codec::{Frames, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsStream;

/// What is written or read at once: each piece may take as long as nothing may move.
const PIECE_BYTES: usize = 64 << 10;

/// What a connection is for, as its dialer says.
pub(crate) const URGENT: u8 = 0;
pub(crate) const BULK: u8 = 1;
pub(crate) const ASK: u8 = 2;
pub(crate) const SNAPSHOT: u8 = 3;

/// What a frame is.
pub(crate) mod kind {
    /// Protocol version, purpose and identity of the dialer; the identity of the other side; or a short reason, a blank and
    /// a text (of a snapshot only the text).
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const WELCOME: u8 = 2;
    pub(crate) const REFUSED: u8 = 3;
    /// Nothing, but the way is open.
    pub(crate) const BEAT: u8 = 4;
    pub(crate) const MESSAGE: u8 = 5;
    pub(crate) const REQUEST: u8 = 6;
    pub(crate) const ANSWER: u8 = 7;
    /// To the receiver of a snapshot: what it is; a number and the bytes of that chunk.
    pub(crate) const OFFER: u8 = 8;
    pub(crate) const CHUNK: u8 = 9;
    /// Back: ranges of missing chunks; the number of one that was stored, or arrived damaged; the end.
    pub(crate) const WANTED: u8 = 10;
    pub(crate) const TAKEN: u8 = 11;
    pub(crate) const AGAIN: u8 = 12;
    pub(crate) const DONE: u8 = 13;
    pub(crate) const FAILED: u8 = 14;
}

pub(crate) struct Connection {
    pub(crate) stream: TlsStream<TcpStream>,
    /// How long nothing may move, either way.
    pub(crate) silence: Duration,
    /// Since when nothing came. Kept here: who waits for a frame beside other things begins to wait again and again.
    heard: Instant,
    frames: Frames,
    frame_bytes_max: usize,
}

pub(crate) fn fault(why: impl Display) -> io::Error {
    io::Error::other(why.to_string())
}

impl Connection {
    pub(crate) fn new(stream: TlsStream<TcpStream>, silence: Duration, frame_bytes_max: usize) -> Self {
        Self { stream, silence, heard: Instant::now(), frames: Frames::new(frame_bytes_max), frame_bytes_max }
    }

    /// From now on nothing may move for this long.
    pub(crate) fn allow(&mut self, silence: Duration) {
        (self.silence, self.heard) = (silence, Instant::now());
    }

    /// Sends one frame. Not to be dropped half way but with the connection.
    pub(crate) async fn send(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        self.send_marking(kind, body, &AtomicBool::new(false)).await
    }

    /// Sends one frame and sets `sent` just before all of it may have left: until then nobody can have acted on it.
    pub(crate) async fn send_marking(&mut self, kind: u8, body: &[u8], sent: &AtomicBool) -> io::Result<()> {
        let frame = frame(kind, body, self.frame_bytes_max).map_err(fault)?;
        let stuck = |_| fault("nothing is taken in");
        let mut left = frame.len();
        for piece in frame.chunks(PIECE_BYTES) {
            left -= piece.len();
            sent.fetch_or(left == 0, Ordering::Relaxed);
            timeout(self.silence, self.stream.write_all(piece)).await.map_err(stuck)??;
        }
        timeout(self.silence, self.stream.flush()).await.map_err(stuck)?
    }

    /// The next frame, for whoever was busy with something else until now.
    pub(crate) async fn next_from_now(&mut self) -> io::Result<(u8, Bytes)> {
        self.heard = Instant::now();
        self.next().await
    }

    /// The next frame. May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> io::Result<(u8, Bytes)> {
        loop {
            if let Some(frame) = self.frames.next().map_err(fault)? {
                return Ok(frame);
            }
            self.frames.buffer().reserve(PIECE_BYTES);
            let read = timeout_at(self.heard + self.silence, self.stream.read_buf(self.frames.buffer())).await;
            if read.map_err(|_| fault(format!("nothing came for {:?}", self.silence)))?? == 0 {
                return Err(fault("the other side has closed it"));
            }
            self.heard = Instant::now();
        }
    }

    /// Whether nothing comes and it is not closed, as it has to be between two requests.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        if !self.frames.buffer().is_empty() {
            return false;
        }
        tokio::select! { biased; _ = self.stream.read_u8() => false, () = std::future::ready(()) => true }
    }
}
