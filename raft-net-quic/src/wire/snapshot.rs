//! The frames of a transfer: an offer and chunks one way, what is wanted and how it goes the other way.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;
use raft_core::ports::SnapshotOffer;
use raft_core::types::{GroupId, NodeId};

use super::message::{PutHead, checked_term, parse};
use super::{Frame, HEADER_LEN, Malformed, frame_type, put_head};
use crate::config::Limits;

/// Ranges that are asked for at once; the rest is asked for when these have come.
pub(crate) const RANGES_MAX: usize = 4096;
/// Bytes of a reason that travels; a longer one is cut.
const TEXT_BYTES_MAX: usize = 1024;
/// Bytes of the control part of a chunk, at most: two small fields, and room for some of later versions.
const CHUNK_CONTROL_BYTES_MAX: usize = 1024;

/// The body is the manifest.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Offer {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) term: u64,
    #[prost(uint32, tag = "4")]
    pub(crate) chunks: u32,
}

/// The body is the ranges, each as first number and the number after the last.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wanted {}

/// Goes before the bytes of a chunk.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ChunkHead {
    #[prost(uint32, tag = "1")]
    pub(crate) number: u32,
    #[prost(fixed32, tag = "2")]
    pub(crate) checksum: u32,
}

/// How far the receiver is.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Progress {
    #[prost(uint64, tag = "1")]
    pub(crate) chunks: u64,
    /// Of all that came on the stream.
    #[prost(uint64, tag = "2")]
    pub(crate) bytes: u64,
    /// It works on what it has, and needs nothing more for now.
    #[prost(bool, tag = "3")]
    pub(crate) working: bool,
}

/// Chunks that arrived damaged.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Again {
    #[prost(uint32, repeated, tag = "1")]
    pub(crate) numbers: Vec<u32>,
}

/// All of it is here, and durable.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Done {}

/// Refused or failed, and why.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Text {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

/// A chunk as it came. Its bytes were not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) number: u32,
    pub(crate) checksum: u32,
    pub(crate) bytes: Bytes,
}

/// What a receiver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// These chunks are not there yet.
    Wanted(Vec<Range<u32>>),
    /// Not wanted at all.
    Refused(String),
    /// How far it is.
    Progress { chunks: u64, bytes: u64, working: bool },
    /// Damaged; once more.
    Again(Vec<u32>),
    /// Whole and durable.
    Done,
    /// It could not go on.
    Failed(String),
}

/// Frames on the way to the receiver, after the offer.
pub(crate) fn chunk_limits(limits: &Limits) -> Limits {
    let longest = HEADER_LEN + CHUNK_CONTROL_BYTES_MAX + limits.snapshot_chunk_bytes_max;
    Limits {
        control_bytes_max: CHUNK_CONTROL_BYTES_MAX.min(limits.control_bytes_max),
        frame_bytes_max: longest.min(limits.frame_bytes_max),
        ..limits.clone()
    }
}

/// Frames on the way to the sender.
pub(crate) fn reply_limits(limits: &Limits) -> Limits {
    let longest = HEADER_LEN + 2 * TEXT_BYTES_MAX + 8 * RANGES_MAX;
    Limits {
        control_bytes_max: (2 * TEXT_BYTES_MAX).min(limits.control_bytes_max),
        frame_bytes_max: longest.min(limits.frame_bytes_max),
        ..limits.clone()
    }
}

fn encode(kind: u8, group: GroupId, control: &impl prost::Message, body_len: usize, limits: &Limits) -> Option<Bytes> {
    let mut head = BytesMut::new();
    put_head(&mut head, kind, group.0, control, body_len, limits).then(|| head.freeze())
}

/// The head of an offer; its body is the manifest. None when it breaks the limits.
pub(crate) fn encode_offer(offer: &SnapshotOffer, limits: &Limits) -> Option<Bytes> {
    let control = Offer { from: offer.from.0, to: offer.to.0, term: offer.term.0, chunks: offer.chunks };
    encode(frame_type::SNAPSHOT_OFFER, offer.group, &control, offer.manifest.len(), limits)
}

/// Reads an offer.
pub(crate) fn decode_offer(frame: Frame) -> Result<SnapshotOffer, Malformed> {
    if frame.kind != frame_type::SNAPSHOT_OFFER {
        return Err(Malformed::OutOfPlace);
    }
    let Offer { from, to, term, chunks } = Offer::decode(frame.control).map_err(|_| Malformed::Control)?;
    Ok(SnapshotOffer {
        group: GroupId(frame.group),
        from: NodeId(from),
        to: NodeId(to),
        term: checked_term(term)?,
        manifest: frame.body,
        chunks,
    })
}

/// The head of a chunk. None when it breaks the limits ([`chunk_limits`]).
pub(crate) fn encode_chunk(group: GroupId, number: u32, bytes: &[u8], limits: &Limits) -> Option<Bytes> {
    let control = ChunkHead { number, checksum: crc32c::crc32c(bytes) };
    encode(frame_type::SNAPSHOT_CHUNK, group, &control, bytes.len(), limits)
}

/// Reads a chunk; none when it is of a type that is not known here.
pub(crate) fn decode_chunk(frame: Frame) -> Result<Option<Chunk>, Malformed> {
    match frame.kind {
        frame_type::SNAPSHOT_CHUNK => {
            let ChunkHead { number, checksum } = ChunkHead::decode(frame.control).map_err(|_| Malformed::Control)?;
            Ok(Some(Chunk { number, checksum, bytes: frame.body }))
        }
        kind if is_known(kind) => Err(Malformed::OutOfPlace),
        _ => Ok(None),
    }
}

fn is_known(kind: u8) -> bool {
    let raft = frame_type::PRE_VOTE..=frame_type::REMOVED;
    let streams = frame_type::REQUEST..=frame_type::SNAPSHOT_FAILED;
    let is_raft = raft.contains(&kind) || kind == frame_type::TIMEOUT_NOW;
    is_raft || streams.contains(&kind) || (frame_type::HELLO..=frame_type::REFUSAL).contains(&kind)
}

impl Reply {
    /// The frame.
    pub(crate) fn encode(&self, group: GroupId, limits: &Limits) -> Bytes {
        let limits = &reply_limits(limits);
        let mut buffer = BytesMut::new();
        let mut put = |kind, control: &dyn PutHead, body_len| control.put(&mut buffer, kind, group.0, body_len, limits);
        let fits = match self {
            Self::Wanted(ranges) => {
                let fits = put(frame_type::SNAPSHOT_WANTED, &Wanted {}, ranges.len() * 8);
                for Range { start, end } in ranges {
                    buffer.put_u32(*start);
                    buffer.put_u32(*end);
                }
                fits
            }
            Self::Refused(text) => put(frame_type::SNAPSHOT_REFUSED, &Text { text: cut(text) }, 0),
            Self::Progress { chunks, bytes, working } => {
                let progress = Progress { chunks: *chunks, bytes: *bytes, working: *working };
                put(frame_type::SNAPSHOT_PROGRESS, &progress, 0)
            }
            Self::Again(numbers) => put(frame_type::SNAPSHOT_AGAIN, &Again { numbers: numbers.clone() }, 0),
            Self::Done => put(frame_type::SNAPSHOT_DONE, &Done {}, 0),
            Self::Failed(text) => put(frame_type::SNAPSHOT_FAILED, &Text { text: cut(text) }, 0),
        };
        assert!(
            fits,
            "a reply has at most {RANGES_MAX} ranges or {TEXT_BYTES_MAX} bytes, which any allowed limit admits"
        );
        buffer.freeze()
    }

    /// Reads a reply to an offer of so many chunks; none when it is of a type that is not known here.
    pub(crate) fn decode(frame: &Frame, chunks: u32) -> Result<Option<Self>, Malformed> {
        let reply = match frame.kind {
            frame_type::SNAPSHOT_WANTED => Self::Wanted(decode_ranges(frame, chunks)?),
            frame_type::SNAPSHOT_REFUSED => Self::Refused(parse::<Text>(frame)?.text),
            frame_type::SNAPSHOT_PROGRESS => {
                let Progress { chunks, bytes, working } = parse(frame)?;
                Self::Progress { chunks, bytes, working }
            }
            frame_type::SNAPSHOT_AGAIN => Self::Again(parse::<Again>(frame)?.numbers),
            frame_type::SNAPSHOT_DONE => {
                parse::<Done>(frame)?;
                Self::Done
            }
            frame_type::SNAPSHOT_FAILED => Self::Failed(parse::<Text>(frame)?.text),
            kind if is_known(kind) => return Err(Malformed::OutOfPlace),
            _ => return Ok(None),
        };
        Ok(Some(reply))
    }
}

/// Ranges that rise, are not empty and lie within the chunks that were offered.
fn decode_ranges(frame: &Frame, chunks: u32) -> Result<Vec<Range<u32>>, Malformed> {
    let mut body = frame.body.clone();
    let count = body.len() / 8;
    if !body.len().is_multiple_of(8) || !(1..=RANGES_MAX).contains(&count) {
        return Err(Malformed::SnapshotRanges);
    }
    let mut ranges = Vec::with_capacity(count);
    let mut free_from = 0;
    for _ in 0..count {
        let range = body.get_u32()..body.get_u32();
        if range.start < free_from || range.is_empty() || range.end > chunks {
            return Err(Malformed::SnapshotRanges);
        }
        free_from = range.end;
        ranges.push(range);
    }
    Ok(ranges)
}

/// The text, or as much of its beginning as may travel.
fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
