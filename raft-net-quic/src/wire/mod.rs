//! The bytes that peers exchange; `docs/wire.md` describes every one of them.
//!
//! A frame is a fixed header, a control part (protobuf) and a body of raw bytes. Nothing is allocated for a frame
//! before its header has been checked against the limits, and nothing here panics on what a peer sends.

mod append;
pub(crate) mod control;
pub(crate) mod hello;
pub(crate) mod message;
pub(crate) mod reader;
pub(crate) mod snapshot;

use bytes::{Buf, Bytes, BytesMut};

use crate::config::Limits;

/// First two bytes of every frame: "RQ".
pub(crate) const MAGIC: u16 = 0x5251;
/// Layout of the header, and of the stream preface.
pub(crate) const HEADER_VERSION: u8 = 1;
/// Bytes of a header.
pub(crate) const HEADER_LEN: usize = 32;
/// Bytes of a stream preface.
pub(crate) const PREFACE_LEN: usize = 4;
/// The oldest and the newest protocol version that this build speaks. Version 1 had no snapshots: a log that was
/// compacted could not bring such a node up, so it is refused.
pub(crate) const PROTOCOL: (u32, u32) = (2, 2);
/// What TLS is told that we speak.
pub(crate) const ALPN: &[u8] = b"raft/1";

/// What a stream is for: the third byte of its preface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// The first bidirectional stream of a connection.
    Handshake = 1,
    /// Votes, heartbeats, read indexes and all answers.
    Control = 2,
    /// Appends, in the order of their sending.
    Append = 3,
    /// One request and its answer.
    Request = 4,
    /// One transfer of a snapshot.
    Snapshot = 17,
}

impl StreamKind {
    /// The bytes that open such a stream.
    pub(crate) fn preface(self) -> [u8; PREFACE_LEN] {
        let [high, low] = MAGIC.to_be_bytes();
        [high, low, self as u8, HEADER_VERSION]
    }

    /// Reads a preface.
    pub(crate) fn from_preface(preface: [u8; PREFACE_LEN]) -> Result<Option<Self>, Malformed> {
        let [high, low, kind, version] = preface;
        if u16::from_be_bytes([high, low]) != MAGIC {
            return Err(Malformed::Magic);
        }
        if version != HEADER_VERSION {
            return Err(Malformed::HeaderVersion);
        }
        let known = [Self::Handshake, Self::Control, Self::Append, Self::Request, Self::Snapshot];
        Ok(known.into_iter().find(|known| *known as u8 == kind))
    }
}

/// Numbers of frame types. Those not here are dropped and counted; `docs/wire.md` lists the reserved ones.
pub(crate) mod frame_type {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const WELCOME: u8 = 2;
    pub(crate) const REFUSAL: u8 = 3;
    pub(crate) const PRE_VOTE: u8 = 16;
    pub(crate) const PRE_VOTE_RESPONSE: u8 = 17;
    pub(crate) const VOTE: u8 = 18;
    pub(crate) const VOTE_RESPONSE: u8 = 19;
    pub(crate) const APPEND: u8 = 20;
    pub(crate) const APPEND_ACCEPTED: u8 = 21;
    pub(crate) const APPEND_REJECTED: u8 = 22;
    pub(crate) const HEARTBEAT: u8 = 23;
    pub(crate) const HEARTBEAT_RESPONSE: u8 = 24;
    pub(crate) const READ_INDEX: u8 = 25;
    pub(crate) const READ_INDEX_RESPONSE: u8 = 26;
    pub(crate) const FETCH_SUFFIX: u8 = 27;
    pub(crate) const SUFFIX: u8 = 28;
    pub(crate) const SUFFIX_REFUSED: u8 = 29;
    pub(crate) const REMOVED: u8 = 30;
    pub(crate) const TIMEOUT_NOW: u8 = 36;
    pub(crate) const LEASE_REQUEST: u8 = 40;
    pub(crate) const LEASE_GRANT: u8 = 41;
    pub(crate) const REQUEST: u8 = 64;
    pub(crate) const ANSWER: u8 = 65;
    pub(crate) const NOT_RUN: u8 = 66;
    pub(crate) const SNAPSHOT_OFFER: u8 = 67;
    pub(crate) const SNAPSHOT_WANTED: u8 = 68;
    pub(crate) const SNAPSHOT_REFUSED: u8 = 69;
    pub(crate) const SNAPSHOT_CHUNK: u8 = 70;
    pub(crate) const SNAPSHOT_PROGRESS: u8 = 71;
    pub(crate) const SNAPSHOT_AGAIN: u8 = 72;
    pub(crate) const SNAPSHOT_DONE: u8 = 73;
    pub(crate) const SNAPSHOT_FAILED: u8 = 74;
}

/// Codes with which a connection or a stream is closed. Part of the format.
pub(crate) mod close_code {
    /// The node stops.
    pub(crate) const STOPPING: u32 = 0;
    /// Another connection between the two nodes is used.
    pub(crate) const REPLACED: u32 = 1;
    /// The node's own identity or its list of peers has changed.
    pub(crate) const PEERS_CHANGED: u32 = 2;
    /// The handshake was refused; the reason says why.
    pub(crate) const REFUSED: u32 = 3;
    /// Bytes that are no frame of this protocol; the reason says why.
    pub(crate) const MALFORMED: u32 = 4;
    /// The handshake took too long.
    pub(crate) const TIMED_OUT: u32 = 5;
    /// Streams only: this kind of stream is not taken on this connection.
    pub(crate) const NOT_TAKEN: u32 = 6;
    /// Streams only: whoever wrote or read it has given up.
    pub(crate) const GIVEN_UP: u32 = 7;
    /// The snapshot that the connection was made for has ended, well or not.
    pub(crate) const TRANSFER_OVER: u32 = 8;

    /// Whether a connection was closed because its other end does not want it.
    pub(crate) fn is_refusal(code: quinn::VarInt) -> bool {
        [REFUSED, MALFORMED].map(quinn::VarInt::from).contains(&code)
    }
}

/// Why bytes of a peer are no frame of this protocol. All close the connection but those that
/// [`Malformed::is_fatal`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the first bytes are not those of a raft frame")]
    Magic,
    #[error("the header has a version that this build does not know")]
    HeaderVersion,
    #[error("a flag or a reserved field is set that this build does not know")]
    Flags,
    #[error("the header's checksum does not fit")]
    HeaderChecksum,
    #[error("the frame is longer than peer.frame_bytes_max or its control part than peer.control_bytes_max")]
    TooLong,
    #[error("the control part's checksum does not fit")]
    ControlChecksum,
    #[error("the control part is not what its type says")]
    Control,
    #[error("the earlier starts of a disk are not 16 bytes each, or more than 64")]
    EarlierStarts,
    #[error("the stream ended inside a frame")]
    Truncated,
    #[error("an append holds more entries than peer.frame_entries_max")]
    TooManyEntries,
    #[error("the lists of an append differ in length, or its lengths do not add up to the body")]
    EntryLists,
    #[error("the entries of an append are no stretch of a log")]
    EntrySpan,
    #[error("a payload's checksum does not fit")]
    PayloadChecksum,
    #[error("a message that carries nothing came with a body")]
    UnexpectedBody,
    #[error("a term or an index beyond the highest that is accepted")]
    BeyondLimit,
    #[error("a message names another sender than the connection belongs to")]
    Sender,
    #[error("a message is addressed to another node")]
    Recipient,
    #[error("a frame of this type does not belong on this stream")]
    OutOfPlace,
    #[error("the chunks of a snapshot that are asked for are no rising ranges of its chunks, or too many")]
    SnapshotRanges,
    #[error("a chunk of a snapshot that was not asked for")]
    SnapshotChunk,
    #[error("a frame of a snapshot that does not follow the one before it")]
    SnapshotOrder,
}

impl Malformed {
    /// The short name under which it is counted.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Magic => "frame_magic",
            Self::HeaderVersion => "frame_version",
            Self::Flags => "frame_flags",
            Self::HeaderChecksum => "frame_header_checksum",
            Self::TooLong => "frame_too_long",
            Self::ControlChecksum => "frame_control_checksum",
            Self::Control => "frame_control",
            Self::EarlierStarts => "earlier_starts",
            Self::Truncated => "frame_truncated",
            Self::TooManyEntries => "frame_entries",
            Self::EntryLists => "entry_lists",
            Self::EntrySpan => "entry_span",
            Self::PayloadChecksum => "payload_checksum",
            Self::UnexpectedBody => "frame_body",
            Self::BeyondLimit => "beyond_limit",
            Self::Sender => "wrong_sender",
            Self::Recipient => "wrong_recipient",
            Self::OutOfPlace => "frame_out_of_place",
            Self::SnapshotRanges => "snapshot_ranges",
            Self::SnapshotChunk => "snapshot_chunk",
            Self::SnapshotOrder => "snapshot_order",
        }
    }

    /// Whether the connection has to be closed. A damaged payload is the fault of one entry: the frame around it is
    /// sound, so the message is dropped and heartbeats go on. What does not fit in a transfer of a snapshot costs the
    /// transfer.
    pub(crate) fn is_fatal(self) -> bool {
        !matches!(self, Self::PayloadChecksum | Self::SnapshotRanges | Self::SnapshotChunk | Self::SnapshotOrder)
    }
}

/// A frame as it was read: the control part and the body share the read buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) group: u64,
    pub(crate) control: Bytes,
    pub(crate) body: Bytes,
}

/// A header whose checksum and limits were checked.
struct Header {
    kind: u8,
    group: u64,
    control_len: usize,
    body_len: usize,
    control_checksum: u32,
}

impl Header {
    fn frame_len(&self) -> usize {
        HEADER_LEN + self.control_len + self.body_len
    }

    fn decode(bytes: &[u8; HEADER_LEN], limits: &Limits) -> Result<Self, Malformed> {
        if u16::from_be_bytes(array(bytes, 0)) != MAGIC {
            return Err(Malformed::Magic);
        }
        if bytes[2] != HEADER_VERSION {
            return Err(Malformed::HeaderVersion);
        }
        if crc32c::crc32c(&bytes[..HEADER_LEN - 4]) != u32::from_be_bytes(array(bytes, 28)) {
            return Err(Malformed::HeaderChecksum);
        }
        // Flags change the meaning of what follows, so an unknown one cannot be skipped.
        if u32::from_be_bytes(array(bytes, 4)) != 0 {
            return Err(Malformed::Flags);
        }
        let control_len = u32::from_be_bytes(array(bytes, 16)) as usize;
        let body_len = u32::from_be_bytes(array(bytes, 20)) as usize;
        // Each is checked alone first, so that the sum cannot wrap where usize is 32 bits.
        if control_len > limits.control_bytes_max
            || body_len > limits.frame_bytes_max
            || HEADER_LEN + control_len + body_len > limits.frame_bytes_max
        {
            return Err(Malformed::TooLong);
        }
        Ok(Self {
            kind: bytes[3],
            group: u64::from_be_bytes(array(bytes, 8)),
            control_len,
            body_len,
            control_checksum: u32::from_be_bytes(array(bytes, 24)),
        })
    }
}

/// `N` bytes from `at`, which the caller knows to be inside.
fn array<const N: usize>(bytes: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// How long the frame is whose header this is.
pub(crate) fn frame_len(head: &[u8; HEADER_LEN], limits: &Limits) -> Result<usize, Malformed> {
    Header::decode(head, limits).map(|header| header.frame_len())
}

/// Takes the next whole frame off the front of `buffer`; `None` when more bytes are needed, which are then reserved.
pub(crate) fn take_frame(buffer: &mut BytesMut, limits: &Limits) -> Result<Option<Frame>, Malformed> {
    let Some(head) = buffer.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let header = Header::decode(head, limits)?;
    let frame_len = header.frame_len();
    if buffer.len() < frame_len {
        buffer.reserve(frame_len - buffer.len());
        return Ok(None);
    }
    if crc32c::crc32c(&buffer[HEADER_LEN..HEADER_LEN + header.control_len]) != header.control_checksum {
        return Err(Malformed::ControlChecksum);
    }
    buffer.advance(HEADER_LEN);
    let control = buffer.split_to(header.control_len).freeze();
    let body = buffer.split_to(header.body_len).freeze();
    Ok(Some(Frame { kind: header.kind, group: header.group, control, body }))
}

/// Appends the header and the control part of a frame; the caller appends `body_len` bytes of body. Returns false, with
/// nothing appended, when the frame would break the limits.
pub(crate) fn put_head(
    buffer: &mut BytesMut,
    kind: u8,
    group: u64,
    control: &impl prost::Message,
    body_len: usize,
    limits: &Limits,
) -> bool {
    let lens = (control.encoded_len(), body_len);
    put_head_with(buffer, kind, group, lens, limits, |buffer| control.encode_raw(buffer))
}

/// As [`put_head`], with a control part of `control_len` bytes that `put_control` appends.
fn put_head_with(
    buffer: &mut BytesMut,
    kind: u8,
    group: u64,
    (control_len, body_len): (usize, usize),
    limits: &Limits,
    put_control: impl FnOnce(&mut BytesMut),
) -> bool {
    if control_len > limits.control_bytes_max || HEADER_LEN + control_len + body_len > limits.frame_bytes_max {
        return false;
    }
    let start = buffer.len();
    buffer.reserve(HEADER_LEN + control_len);
    buffer.extend_from_slice(&[0; HEADER_LEN]);
    put_control(buffer);
    debug_assert_eq!(
        buffer.len() - start,
        HEADER_LEN + control_len,
        "the control part is as long as it was said to be"
    );
    let control_checksum = crc32c::crc32c(&buffer[start + HEADER_LEN..]);
    let head = &mut buffer[start..start + HEADER_LEN];
    head[0..2].copy_from_slice(&MAGIC.to_be_bytes());
    head[2] = HEADER_VERSION;
    head[3] = kind;
    head[8..16].copy_from_slice(&group.to_be_bytes());
    // Both lengths are at most frame_bytes_max, which the config keeps below 2^31.
    head[16..20].copy_from_slice(&(control_len as u32).to_be_bytes());
    head[20..24].copy_from_slice(&(body_len as u32).to_be_bytes());
    head[24..28].copy_from_slice(&control_checksum.to_be_bytes());
    let header_checksum = crc32c::crc32c(&head[..HEADER_LEN - 4]);
    head[28..32].copy_from_slice(&header_checksum.to_be_bytes());
    true
}

#[cfg(test)]
mod tests;
