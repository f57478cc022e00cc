//! Frames for a transport whose connections are streams.

use bytes::{Buf, Bytes, BytesMut};

/// A length and a checksum; the kind follows, and counts as the first byte of what they describe.
const HEADER_BYTES: usize = 8;

/// Why what came on a stream is no frame. Where the next one begins is not known then: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It says that it is longer than the receiver takes, or has no kind.
    #[error("a frame of {length} bytes, and {most} are the most; give all members the same limit")]
    Length {
        /// What it says.
        length: usize,
        /// The bound.
        most: usize,
    },
    /// Its bytes are not those that were sent.
    #[error("the checksum of a frame does not fit")]
    Checksum,
}

/// The bytes of a frame of this kind, a number of the transport's choice.
///
/// # Errors
/// When it would be longer than `frame_bytes_max`: what it carries is to be dropped and counted.
pub fn frame(kind: u8, body: &[u8], frame_bytes_max: usize) -> Result<Vec<u8>, FrameError> {
    let length = body.len() + 1;
    let error = FrameError::Length { length, most: frame_bytes_max };
    let counted = u32::try_from(length).ok().filter(|_| length <= frame_bytes_max).ok_or(error)?;
    let mut frame = Vec::with_capacity(HEADER_BYTES + length);
    frame.extend(counted.to_be_bytes());
    frame.extend([0; 4]);
    frame.push(kind);
    frame.extend_from_slice(body);
    let checksum = super::checksum(&frame[HEADER_BYTES..]);
    frame[4..HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
    Ok(frame)
}

/// Takes what comes on a stream and gives frames. Nothing is kept for a frame before its length has been checked.
///
/// ```
/// use raft_core::codec::{Frames, frame};
///
/// let sent = [frame(3, b"one", 1024)?, frame(4, b"two", 1024)?].concat();
/// let mut frames = Frames::new(1024);
/// frames.buffer().extend_from_slice(&sent[..15]); // as much as came
/// assert_eq!(frames.next()?, Some((3, "one".into())));
/// assert_eq!(frames.next()?, None);
/// frames.buffer().extend_from_slice(&sent[15..]);
/// assert_eq!(frames.next()?, Some((4, "two".into())));
/// # Ok::<(), raft_core::codec::FrameError>(())
/// ```
#[derive(Debug)]
pub struct Frames {
    arrived: BytesMut,
    frame_bytes_max: usize,
}

impl Frames {
    /// Frames of at most so many bytes, kind and body.
    #[must_use]
    pub fn new(frame_bytes_max: usize) -> Self {
        Self { arrived: BytesMut::new(), frame_bytes_max }
    }

    /// Where arriving bytes are put.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.arrived
    }

    /// The next frame, kind and body, if all of it has come.
    ///
    /// # Errors
    /// When it is none.
    #[expect(clippy::should_implement_trait, reason = "nothing is over when nothing has come yet")]
    pub fn next(&mut self) -> Result<Option<(u8, Bytes)>, FrameError> {
        let Some(mut header) = self.arrived.get(..HEADER_BYTES) else { return Ok(None) };
        let (length, checksum) = (header.get_u32() as usize, header.get_u32());
        if length == 0 || length > self.frame_bytes_max {
            return Err(FrameError::Length { length, most: self.frame_bytes_max });
        }
        if self.arrived.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.arrived.advance(HEADER_BYTES);
        let mut frame = self.arrived.split_to(length).freeze();
        if super::checksum(&frame) != checksum {
            return Err(FrameError::Checksum);
        }
        Ok(Some((frame.get_u8(), frame)))
    }
}
