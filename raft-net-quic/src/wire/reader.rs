//! Frames off a stream that carries long ones: each is put together in a buffer of its own, once and of the right size.

use bytes::{Buf, Bytes, BytesMut};
use quinn::RecvStream;

use super::{Frame, HEADER_LEN, Malformed, frame_len, take_frame};
use crate::config::Limits;
use crate::handshake::LinkError;
use crate::snapshot::Motion;

/// Pieces that are taken from QUIC at once.
const READ_PIECES: usize = 64;

/// Reads frames. Holds one frame and the pieces of one read.
pub(crate) struct FrameReader {
    stream: RecvStream,
    limits: Limits,
    pieces: [Bytes; READ_PIECES],
    /// The pieces that were read and not used up yet.
    unused: std::ops::Range<usize>,
    buffer: BytesMut,
    /// How long `buffer` has to become: first a header, then the frame.
    wanted: usize,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream, limits: Limits) -> Self {
        let pieces = std::array::from_fn(|_| Bytes::new());
        Self { stream, limits, pieces, unused: 0..0, buffer: BytesMut::new(), wanted: HEADER_LEN }
    }

    /// From now on frames are bounded by these.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The next frame; none at the end of the stream. Every byte that comes moves `motion`.
    pub(crate) async fn next(&mut self, motion: &Motion) -> Result<Option<Frame>, LinkError> {
        loop {
            if let Some(frame) = self.assemble()? {
                return Ok(Some(frame));
            }
            let Some(count) = self.stream.read_chunks(&mut self.pieces).await? else {
                return if self.buffer.is_empty() { Ok(None) } else { Err(Malformed::Truncated.into()) };
            };
            self.unused = 0..count;
            motion.add(self.pieces[..count].iter().map(Bytes::len).sum());
        }
    }

    /// Moves what was read into the buffer, up to the end of the frame.
    fn assemble(&mut self) -> Result<Option<Frame>, Malformed> {
        loop {
            while self.buffer.len() < self.wanted && !self.unused.is_empty() {
                let piece = &mut self.pieces[self.unused.start];
                let taken = piece.len().min(self.wanted - self.buffer.len());
                self.buffer.extend_from_slice(&piece[..taken]);
                piece.advance(taken);
                if piece.is_empty() {
                    *piece = Bytes::new();
                    self.unused.start += 1;
                }
            }
            if self.buffer.len() < self.wanted {
                return Ok(None);
            }
            if self.wanted == HEADER_LEN
                && let Some(head) = self.buffer.first_chunk()
            {
                self.wanted = frame_len(head, &self.limits)?;
                self.buffer.reserve(self.wanted - HEADER_LEN);
            }
            if self.buffer.len() == self.wanted {
                let mut whole = std::mem::take(&mut self.buffer);
                self.wanted = HEADER_LEN;
                return take_frame(&mut whole, &self.limits);
            }
        }
    }
}
