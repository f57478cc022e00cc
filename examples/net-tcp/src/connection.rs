//! One connection: frames over TLS. A frame is a length, a checksum, a kind and a body; the length counts the last two,
//! and is checked before anything is kept for it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use raft_core::codec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

const HEADER_BYTES: usize = 8;
/// What is written at once: each piece may take as long as nothing may move.
const PIECE_BYTES: usize = 64 << 10;

/// What a connection is for, as its dialer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Votes, heartbeats and all other messages without entries.
    Urgent = 0,
    /// Messages with entries.
    Bulk = 1,
    /// Requests, one after the other.
    Ask = 2,
    /// One transfer of a snapshot.
    Snapshot = 3,
}

impl Purpose {
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::Urgent, Self::Bulk, Self::Ask, Self::Snapshot].get(usize::from(code)).copied()
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Protocol version, purpose and identity of the dialer.
    Hello,
    /// The identity of the other side.
    Welcome,
    /// A short reason, a blank and a text; of a snapshot only a text.
    Refused,
    /// Nothing, but the way is open.
    Beat,
    Message,
    Request,
    Answer,
    /// Of a snapshot, to its receiver: what it is; a number and the bytes of that chunk.
    Offer,
    Chunk,
    /// Back to its sender: ranges of missing chunks; the number of one that was stored, or arrived damaged; the end.
    Wanted,
    Taken,
    Again,
    Done,
    Failed,
}

const KINDS: [Kind; 14] = {
    use Kind::*;
    [Hello, Welcome, Refused, Beat, Message, Request, Answer, Offer, Chunk, Wanted, Taken, Again, Done, Failed]
};

pub(crate) struct Connection {
    pub(crate) stream: TlsStream<TcpStream>,
    /// How long nothing may move, either way.
    pub(crate) silence: Duration,
    arrived: BytesMut,
    frame_bytes_max: usize,
}

pub(crate) fn closed(why: impl Into<String>) -> io::Error {
    io::Error::other(why.into())
}

impl Connection {
    pub(crate) fn new(stream: TlsStream<TcpStream>, silence: Duration, frame_bytes_max: usize) -> Self {
        Self { stream, silence, arrived: BytesMut::new(), frame_bytes_max }
    }

    /// Sends one frame. Not to be dropped half way but with the connection.
    pub(crate) async fn send(&mut self, kind: Kind, body: &[u8]) -> io::Result<()> {
        self.send_marking(kind, body, &AtomicBool::new(false)).await
    }

    /// Sends one frame and sets `sent` just before all of it may have left: until then nobody can have acted on it.
    pub(crate) async fn send_marking(&mut self, kind: Kind, body: &[u8], sent: &AtomicBool) -> io::Result<()> {
        let length = u32::try_from(body.len() + 1).ok().filter(|length| *length as usize <= self.frame_bytes_max);
        let length = length.ok_or_else(|| closed(format!("a frame of {} bytes is too long", body.len())))?;
        let mut frame = Vec::with_capacity(HEADER_BYTES + 1 + body.len());
        frame.extend(length.to_be_bytes());
        frame.extend([0; 4]);
        frame.push(kind as u8);
        frame.extend_from_slice(body);
        let checksum = codec::checksum(&frame[HEADER_BYTES..]);
        frame[4..HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
        let pieces = frame.len().div_ceil(PIECE_BYTES);
        for (number, piece) in (1..).zip(frame.chunks(PIECE_BYTES)) {
            if number == pieces {
                sent.store(true, Ordering::Release);
            }
            timeout(self.silence, self.stream.write_all(piece)).await.map_err(|_| closed("nothing is taken in"))??;
        }
        timeout(self.silence, self.stream.flush()).await.map_err(|_| closed("nothing is taken in"))?
    }

    /// The next frame. May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> io::Result<(Kind, Bytes)> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(frame);
            }
            self.arrived.reserve(PIECE_BYTES);
            let read = timeout(self.silence, self.stream.read_buf(&mut self.arrived)).await;
            if read.map_err(|_| closed(format!("nothing came for {:?}", self.silence)))?? == 0 {
                return Err(closed("the other side has closed it"));
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<(Kind, Bytes)>> {
        let Some(mut header) = self.arrived.get(..HEADER_BYTES) else { return Ok(None) };
        let (length, checksum) = (header.get_u32() as usize, header.get_u32());
        if length == 0 || length > self.frame_bytes_max {
            return Err(closed(format!("a frame of {length} bytes, and {} are the most", self.frame_bytes_max)));
        }
        if self.arrived.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.arrived.advance(HEADER_BYTES);
        let mut frame = self.arrived.split_to(length).freeze();
        if codec::checksum(&frame) != checksum {
            return Err(closed("the checksum of a frame does not fit"));
        }
        let kind = frame.get_u8();
        let known = KINDS.get(usize::from(kind)).copied();
        known.map(|kind| Some((kind, frame))).ok_or_else(|| closed(format!("a frame of kind {kind}")))
    }

    /// Whether it is quiet and not closed, as one that waits for its next request has to be.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        tokio::select! { biased; _ = self.stream.read_u8() => false, () = std::future::ready(()) => true }
    }
}
